"""Brings an export in: into an empty account as a restored backup, else as facts that the user has to agree to.

What was said is ordered by arrival, so a history cannot be put in front of another: only an account without messages
takes one. A dry run decides everything and writes nothing. See docs/decisions/imports.md
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from loguru import logger

from freya_gateway.clock import Now
from freya_gateway.db import fact_history, facts, indexing, restoring, turns
from freya_gateway.db.backup import BackupFact
from freya_gateway.db.engine import Database
from freya_gateway.db.fact_history import FactEvent
from freya_gateway.db.messages import storable
from freya_gateway.db.query import Connection
from freya_gateway.db.restoring import There
from freya_gateway.errors import Conflict, Unavailable
from freya_gateway.memory import backups
from freya_gateway.memory.announce import announce
from freya_gateway.memory.backups import Checked, Problem
from freya_gateway.memory.indexing import add_history
from freya_gateway.memory.ledger import Draft, Ledger, open_ledger, write
from freya_gateway.memory.wording import statement_hash

REFUSED = "This account has messages, and a history cannot be put among them; delete everything first, or use another."
RETRY_SECONDS = 15


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import brought in, or would. `restored`: as the backup of an account that is empty."""

    dry_run: bool
    restored: bool
    refused: str | None
    conversations: int
    messages: int
    facts: int
    pending: int
    topics: int
    known: int  # conversations and facts that are there already
    forgotten: int  # facts that the user had forgotten: they stay so
    problems: Sequence[Problem]


@dataclass(frozen=True, slots=True)
class _Plan:
    """What of a checked file is new to the account."""

    checked: Checked
    restored: bool
    history: bool  # conversations, and topics with them
    facts: Sequence[BackupFact]
    ledger: Ledger  # holds the pending facts, where it is not restored
    known: int
    forgotten: int


class Imports:
    """Brings exports in, one at a time in this process: a file is read as a whole."""

    def __init__(self, database: Database, now: Now) -> None:
        self._database = database
        self._now = now
        self._busy = False

    def begin(self) -> None:
        """Takes the place of the one import, before its file is received; `end` gives it back. Raises Unavailable."""
        if self._busy:
            raise Unavailable("import_busy", "Another import is under way; try again soon.", retry_after=RETRY_SECONDS)
        self._busy = True

    def end(self) -> None:
        self._busy = False

    async def bring_in(self, user_id: UUID, body: bytes, *, dry_run: bool) -> Imported:
        """Brings the export `body` in. Raises BadRequest, Invalid, Conflict; then nothing is written."""
        checked = await asyncio.to_thread(backups.read, body, now=self._now())
        async with self._database.transaction() as connection:
            plan, refused = await self._decide(connection, user_id, checked)
            if not dry_run:
                if refused:
                    raise Conflict("history_not_empty", REFUSED)
                await self._write(connection, user_id, plan)
        imported = _imported(plan, dry_run=dry_run, refused=refused)
        logger.info("import", user=str(user_id), dry_run=dry_run, messages=imported.messages, facts=imported.facts)
        return imported

    async def _decide(self, connection: Connection, user_id: UUID, checked: Checked) -> tuple[_Plan, str | None]:
        """What is new, and why it is refused, if it is. Nobody else changes the account until the commit."""
        profile = await facts.lock(connection, user_id)
        await turns.lock(connection, user_id)
        there = await restoring.there(
            connection,
            user_id,
            conversations=[conversation.id for conversation in checked.conversations],
            facts=[entry.fact.id for entry in checked.facts],
        )
        ledger = await open_ledger(connection, user_id, profile, now=self._now())
        new = any(conversation.id not in there.conversations for conversation in checked.conversations)
        plan = _plan(checked, there, ledger)
        return plan, REFUSED if new and there.has_messages else None

    async def _write(self, connection: Connection, user_id: UUID, plan: _Plan) -> None:
        checked = plan.checked
        if plan.history:
            await _write_history(connection, user_id, checked)
        if plan.restored:
            await restoring.settle(connection, user_id, checked.account)
            await fact_history.bury(connection, user_id, checked.tombstones)
            await self._restore_facts(connection, user_id, plan.facts)
        await write(connection, user_id, plan.ledger, actor="system")
        links = {entry.fact.id: entry.fact.supersedes if plan.restored else None for entry in plan.facts}
        await restoring.mark_facts(connection, user_id, links, source=checked.source)
        topics = [topic.id for topic in checked.topics] if plan.history else []
        if plan.facts or topics:
            await announce(connection, user_id, facts=[entry.fact.id for entry in plan.facts], topics=topics)

    async def _restore_facts(self, connection: Connection, user_id: UUID, entries: Sequence[BackupFact]) -> None:
        for entry in entries:
            fact = replace(entry.fact, supersedes=None)
            digest = statement_hash(fact.statement)
            await facts.save(connection, user_id, fact, statement_hash=digest, now=self._now())
            for source in entry.sources:
                quote = storable(source.quote)[0]
                await facts.cite(connection, user_id, fact.id, message_ids=[source.message], quote=quote)
            for change in entry.history:
                event = FactEvent(change.action, change.actor, change.before, change.after, change.at)
                await fact_history.record(connection, user_id, event)


def _plan(checked: Checked, there: There, ledger: Ledger) -> _Plan:
    history = bool(checked.conversations) and not there.has_messages
    restored = not there.has_messages and not there.has_facts
    if restored:
        return _Plan(checked, restored, history, checked.facts, ledger, known=0, forgotten=0)
    new: list[BackupFact] = []
    known, forgotten = len(there.conversations), 0
    for entry in checked.facts:
        fact = entry.fact
        draft = Draft(subject=fact.subject, slot=fact.slot, kind=fact.kind, statement=fact.statement, value=fact.value)
        if fact.id in there.facts or ledger.same(draft):
            known += 1
        elif ledger.is_buried(draft):
            forgotten += 1
        elif fact.status in ("active", "pending"):
            waiting = replace(fact, status="pending", pinned=False, locked=False, supersedes=None)
            ledger.change("add", None, waiting)
            new.append(entry)
    return _Plan(checked, restored, history, new, ledger, known, forgotten)


async def _write_history(connection: Connection, user_id: UUID, checked: Checked) -> None:
    """Messages, their index and topics. What was imported is never learned from: it is somebody's word for it."""
    first, last = await add_history(connection, user_id, checked.conversations)
    await indexing.count(connection, user_id, after=first - 1, until=last)
    await restoring.move_on(connection, user_id, since=0, done_seq=last)
    await restoring.add_topics(connection, user_id, checked.topics, source=checked.source)
    of_segment = {
        seq: topic
        for seq in await restoring.segments(connection, user_id)
        if (topic := checked.topic_of(checked.seqs[seq - first]))
    }
    await restoring.assign(connection, user_id, of_segment)
    await restoring.mark_grouped(connection, user_id, checked.grouped)


def _imported(plan: _Plan, *, dry_run: bool, refused: str | None) -> Imported:
    conversations = plan.checked.conversations if plan.history else ()
    pending = len(plan.facts) if not plan.restored else sum(e.fact.status == "pending" for e in plan.facts)
    return Imported(
        dry_run=dry_run,
        restored=plan.restored,
        refused=refused,
        conversations=len(conversations),
        messages=sum(len(conversation.messages) for conversation in conversations),
        facts=len(plan.facts),
        pending=pending,
        topics=len(plan.checked.topics) if plan.history else 0,
        known=plan.known,
        forgotten=plan.forgotten,
        problems=plan.checked.problems,
    )
