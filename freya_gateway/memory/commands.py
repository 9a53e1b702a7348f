"""Carries out what a user commands outright, at once and without a model: the turn that answers knows it already.

Once per message: the message is noted as obeyed in the same transaction, and learning does not do it again. What code
cannot decide (which fact "that's not true any more" means) is left to learning.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final
from uuid import UUID
from zoneinfo import ZoneInfo

from loguru import logger

from freya_gateway.db import fact_history as history
from freya_gateway.db import facts as store
from freya_gateway.db.engine import Database
from freya_gateway.db.facts import Fact, Profile
from freya_gateway.db.folding import fold
from freya_gateway.db.query import Connection
from freya_gateway.memory.announce import announce
from freya_gateway.memory.checks import Rejected, sentence
from freya_gateway.memory.ledger import Draft, Ledger, Support, open_ledger, write
from freya_gateway.memory.phrases import Command, commands, has_command, stated
from freya_gateway.memory.vocabulary import SINGLE_VALUED, USER, is_sensitive

SHARE_MEANT: Final = 2 / 3  # of a longer description's words that a fact must have to be the one that is meant
NAMING: Final = frozenset({"call", "name"})
UNTOLD: Final = NAMING | {"user", "fact", "thing"}  # lexemes that tell no fact from another


@dataclass(frozen=True, slots=True)
class Said:
    """The message that commands."""

    user_id: UUID
    message_id: UUID
    now: datetime


class Commands:
    """See the module."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def matches(self, text: str) -> bool:
        """Whether the text commands anything; takes microseconds."""
        return has_command(text)

    async def obey(self, user_id: UUID, message_id: UUID, text: str, *, now: datetime) -> None:
        """Carries out the commands of a stored message, if that has not been done, and announces what changed."""
        asked = list(commands(text))
        async with self._database.transaction() as connection:
            profile = await store.lock(connection, user_id)
            said = Said(user_id, message_id, now)
            ledger = await open_ledger(connection, user_id, profile, now=now, history_too=True)
            done = [c for c in asked if await _obeyed(c, said, ledger=ledger, connection=connection, profile=profile)]
            if not done or not await history.obey(connection, user_id, message_id):
                return
            ledger.tidy()
            changed = await write(connection, user_id, ledger, actor="command")
            if changed:
                await announce(connection, user_id, facts=changed, topics=())
        logger.info("commands obeyed", user=str(user_id), message=str(message_id), facts=len(changed))


def decided_by_code(text: str, *, said_at: datetime, zone: ZoneInfo) -> tuple[str, ...]:
    """The sentences of an obeyed message that need no model any more."""
    return tuple(c.sentence for c in commands(text) if _is_decided(c, said_at=said_at, zone=zone))


def _is_decided(command: Command, *, said_at: datetime, zone: ZoneInfo) -> bool:
    if command.verb == "forget":
        return True
    try:
        sentence(command.rest, said_at=said_at, zone=zone)
    except Rejected:
        return False
    return command.verb != "correct" or stated(command.rest).value is not None


async def _obeyed(command: Command, said: Said, *, ledger: Ledger, connection: Connection, profile: Profile) -> bool:
    """Whether code could decide the command."""
    if command.verb == "forget":
        before = [fact for fact in ledger.facts.values() if fact.said_at <= said.now]
        for fact in await _meant(connection, command.rest, before):
            ledger.forget(fact)
        return True
    if profile.memory_paused:
        return False
    try:
        return _stated(command, said, ledger=ledger, zone=ZoneInfo(profile.time_zone))
    except Rejected as refusal:
        logger.info("command left to learning", message=str(said.message_id), reason=refusal.reason)
        return False


def _stated(command: Command, said: Said, *, ledger: Ledger, zone: ZoneInfo) -> bool:
    """Remembers what is stated; a correction, only where it is clear what it corrects."""
    what = stated(command.rest)
    statement = sentence(command.rest, said_at=said.now, zone=zone)
    draft = Draft(
        subject=what.subject,
        slot=what.slot,
        kind=what.kind,
        statement=statement,
        value=what.value,
        explicit=True,
        sensitive=is_sensitive(statement),
    )
    support = Support((said.message_id,), command.sentence, said.now)
    held = ledger.in_slot(USER, what.slot)
    if command.verb == "correct" and (what.value is None or len(held) != 1):
        return False
    if any(fact.said_at > said.now for fact in held):
        return False  # read late: learning knows what to do with what is older than what holds
    ledger.lift(draft)
    same = ledger.same(draft)
    if same is not None:
        again = ledger.confirm(same, support)
        if again.status != "active":
            _make_room(ledger, again, at=said.now)
        if (again.status, again.explicit) != ("active", True):
            ledger.change("accept", again, replace(again, status="active", explicit=True))
        return True
    rivals = held if command.verb == "correct" or what.slot in SINGLE_VALUED else []
    for rival in rivals:
        ledger.close("supersede", rival, status="superseded", at=said.now)
    ledger.add(draft, support, supersedes=rivals[0].id if rivals else None)
    return True


def _make_room(ledger: Ledger, fact: Fact, *, at: datetime) -> None:
    """Ends what cannot hold beside a fact that waited."""
    held = ledger.in_slot(fact.subject, fact.slot) if fact.single_valued else []
    replaced = ledger.facts.get(fact.supersedes) if fact.supersedes else None
    for rival in {rival.id: rival for rival in (*held, replaced) if rival and rival.status == "active"}.values():
        ledger.close("supersede", rival, status="superseded", at=at)


async def _meant(connection: Connection, description: str, facts: Iterable[Fact]) -> list[Fact]:
    """The facts that have the words of the description: all of them, or most if it is a long one."""
    candidates = list(facts)
    texts = [fold(f"{f.statement} {f.subject} {f.slot.replace('_', ' ')} {f.value or ''}") for f in candidates]
    wanted, *found = await store.lexemes(connection, [fold(description), *texts])
    if "name" in wanted:  # how somebody is called, not all that is known of them
        naming = [(f, words) for f, words in zip(candidates, found, strict=True) if _is_name(f, wanted, words)]
        candidates, found = [f for f, _ in naming], [words for _, words in naming]
    wanted = (wanted - UNTOLD) or wanted
    enough = len(wanted) if len(wanted) < 3 else len(wanted) * SHARE_MEANT
    return [f for f, lexemes in zip(candidates, found, strict=True) if wanted and len(wanted & lexemes) >= enough]


def _is_name(fact: Fact, wanted: frozenset[str], words: frozenset[str]) -> bool:
    """Whether the fact says how somebody is called; without another word, the user."""
    if not wanted - UNTOLD:
        return fact.subject == USER and fact.slot == "name"
    return not NAMING.isdisjoint(words)
