"""Learns facts from what was said: the work of kind `facts`.

A window of messages at a time: read, ask the model outside any transaction, then decide and write everything in one
transaction with the cursor's move. Killed anywhere, nothing is learned twice and nothing is skipped.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Final
from uuid import UUID
from zoneinfo import ZoneInfo

from loguru import logger

from freya_gateway.clock import Now
from freya_gateway.db import fact_history as history
from freya_gateway.db import facts as store
from freya_gateway.db import memory_work, unlearned
from freya_gateway.db.engine import Database
from freya_gateway.db.facts import Fact
from freya_gateway.db.folding import fold
from freya_gateway.db.memory_work import WorkClaim
from freya_gateway.db.query import Connection
from freya_gateway.db.unlearned import Unlearned
from freya_gateway.errors import LostClaim
from freya_gateway.llm.structured import StructuredModel
from freya_gateway.memory.announce import announce
from freya_gateway.memory.checks import Window
from freya_gateway.memory.commands import Commands, decided_by_code
from freya_gateway.memory.consolidation import Asked, consolidate
from freya_gateway.memory.extraction import Extraction, SaidMessage, propose
from freya_gateway.memory.ledger import Ledger, open_ledger, write

WINDOW: Final = 20  # messages
MOST_SHOWN: Final = 40  # facts
ALWAYS_SHOWN: Final = ("identity",)  # their slots are asked for in other words than theirs


class FactsWork:
    """The work of kind `facts`."""

    def __init__(self, database: Database, model: StructuredModel, commands: Commands, now: Now) -> None:
        self._database = database
        self._model = model
        self._commands = commands
        self._now = now

    async def run(self, claim: WorkClaim) -> None:
        """Learns from all that lies beyond the claim's cursor. Raises ModelError, LostClaim."""
        done = claim.done_seq
        while (until := await self._learn(claim, after=done)) > done:
            done = until

    async def _learn(self, claim: WorkClaim, *, after: int) -> int:
        """Learns from the next window; the seq of its last message (`after` if there was none)."""
        user_id = claim.user_id
        async with self._database.transaction() as connection:
            profile = await store.lock(connection, user_id)
            messages = await unlearned.beyond(connection, user_id, after=after, limit=WINDOW)
        if not messages:
            return after
        said = [] if profile.memory_paused else await self._said(user_id, messages, zone=ZoneInfo(profile.time_zone))
        shown: list[Fact] = []
        proposed = Extraction()
        if any(message.trusted and message.text.strip() for message in said):
            shown = await self._touched(user_id, said)
            zone = ZoneInfo(profile.time_zone)
            proposed = await propose(self._model, said, shown, zone=zone, user=str(user_id))
        until = messages[-1].seq
        async with self._database.transaction() as connection:
            profile = await store.lock(connection, user_id)
            if not await memory_work.complete(connection, claim, done_seq=until, now=self._now()):
                raise LostClaim("facts")
            if said and not profile.memory_paused:
                window = await self._window(connection, user_id, said, zone=ZoneInfo(profile.time_zone))
                asked = Asked(shown, window, profile.display_name)
                ledger = await open_ledger(connection, user_id, profile, now=self._now())
                rejected = consolidate(proposed.operations, asked, ledger)
                await _write(connection, user_id, ledger, rejected=rejected)
        return until

    async def _said(self, user_id: UUID, messages: Sequence[Unlearned], *, zone: ZoneInfo) -> list[SaidMessage]:
        """The messages as they are learned from, after the commands in them that nobody has carried out yet."""
        commanding = [m for m in messages if m.trusted and self._commands.matches(m.text)]
        for message in commanding:
            await self._commands.obey(user_id, message.id, message.text, now=message.said_at)
        async with self._database.reading() as connection:
            obeyed = await history.obeyed(connection, user_id, [message.id for message in commanding])
        return [
            SaidMessage(
                id=m.id,
                seq=m.seq,
                role=m.role,
                text=m.text,
                said_at=m.said_at,
                trusted=m.trusted,
                obeyed=decided_by_code(m.text, said_at=m.said_at, zone=zone) if m.id in obeyed else (),
            )
            for m in messages
        ]

    async def _touched(self, user_id: UUID, said: Sequence[SaidMessage]) -> list[Fact]:
        """The facts that the messages may touch: those that share most words with them, and who the user is."""
        async with self._database.reading() as connection:
            facts = await store.of_user(connection, user_id)
            texts = [fold(f"{f.subject} {f.slot.replace('_', ' ')} {f.statement}") for f in facts]
            words, *found = await store.lexemes(connection, [fold("\n".join(m.text for m in said)), *texts])
        shared = {fact.id: len(words & lexemes) for fact, lexemes in zip(facts, found, strict=True)}
        touched = [fact for fact in facts if shared[fact.id] or fact.kind in ALWAYS_SHOWN]
        return sorted(touched, key=lambda fact: -shared[fact.id])[:MOST_SHOWN]

    async def _window(
        self, connection: Connection, user_id: UUID, said: Sequence[SaidMessage], *, zone: ZoneInfo
    ) -> Window:
        """What the model has read, without what was deleted meanwhile."""
        there = await unlearned.still_there(connection, user_id, [message.id for message in said])
        return Window({message.seq: message for message in said if message.id in there}, zone)


async def _write(connection: Connection, user_id: UUID, ledger: Ledger, *, rejected: Counter[str]) -> None:
    changed = await write(connection, user_id, ledger, actor="model")
    if changed:
        await announce(connection, user_id, facts=changed, topics=())
    logger.info("facts learned", user=str(user_id), changed=len(changed), rejected=dict(rejected))
