"""Deleting for good: a message with all that stands on it, or everything. What is deleted leaves no words behind.

Memory work that has read what goes writes nothing of it: it looks again, under the same locks. They are taken in one
order: the user's row (facts), the memory's work, the stream, conversations, the index. Sending takes the stream before
the conversation, too; topics take it after, but only while they hold their work's row. See docs/decisions/deleting.md
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from loguru import logger

from freya_gateway.clock import Now
from freya_gateway.db import deletion as store
from freya_gateway.db import events, facts, indexing, memory_work, topics, turns
from freya_gateway.db.deletion import Doomed
from freya_gateway.db.engine import Database
from freya_gateway.db.facts import Fact, Profile
from freya_gateway.db.query import Connection
from freya_gateway.db.users import new_epoch
from freya_gateway.errors import Conflict, NotFound
from freya_gateway.memory.announce import announce
from freya_gateway.memory.ledger import Ledger, open_ledger, write


@dataclass(frozen=True, slots=True)
class Deleted:
    """What went with a message: the messages themselves, facts that stood on them alone, topics to be read anew."""

    messages: Sequence[UUID]
    facts: Sequence[UUID]
    topics: Sequence[UUID]


class Deletion:
    """Deletes in one transaction each."""

    def __init__(self, database: Database, now: Now) -> None:
        self._database = database
        self._now = now

    async def message(self, user_id: UUID, message_id: UUID, *, with_reply: bool) -> Deleted:
        """Deletes a message, and the reply to it if that is asked. Raises NotFound, or Conflict while its turn is
        not done."""
        async with self._database.transaction() as connection:
            profile = await _lock(connection, user_id)
            doomed = await _doomed(connection, user_id, message_id, with_reply=with_reply)
            ledger = await open_ledger(connection, user_id, profile, now=self._now(), history_too=True)
            gone = await facts.solely_from(connection, user_id, [message.id for message in doomed])
            changed = await _forget(connection, user_id, gone, ledger)
            stale = await _erase(connection, user_id, doomed)
            if changed or stale:
                await announce(connection, user_id, facts=changed, topics=stale)
        logger.info("messages deleted", user=str(user_id), messages=len(doomed), facts=len(gone), topics=len(stale))
        return Deleted([message.id for message in doomed], gone, stale)

    async def everything(self, user_id: UUID) -> dict[str, int]:
        """Deletes all that was said and learned; how much of each kind. The account's settings stay. Raises Conflict
        while a turn waits or runs."""
        async with self._database.transaction() as connection:
            await _lock(connection, user_id)
            if await store.open_turn(connection, user_id) is not None:
                raise Conflict("turn_open", "A turn of yours has not ended; stop it first, or wait for its reply.")
            counts = await store.delete_everything(connection, user_id)
            await events.restart(connection, user_id, epoch=new_epoch())
        logger.info("everything deleted", user=str(user_id), **counts)
        return counts


async def _lock(connection: Connection, user_id: UUID) -> Profile:
    """Keeps the facts, the memory's work and the stream as they are, until the commit."""
    profile = await facts.lock(connection, user_id)
    await memory_work.lock(connection, user_id)
    await turns.lock(connection, user_id)
    return profile


async def _doomed(connection: Connection, user_id: UUID, message_id: UUID, *, with_reply: bool) -> list[Doomed]:
    """The messages that are to go. A turn that is done stays so: this needs no lock on the stream."""
    found = await store.find(connection, user_id, message_id)
    if found is None:
        raise NotFound(
            "message_not_found", "You have no message with this id; see GET /v1/messages for those you have."
        )
    if found.state != "done":
        raise Conflict("turn_open", "The message's turn has not ended; stop it first, or wait for its reply.")
    reply = await store.reply_of(connection, user_id, found.turn_id) if with_reply and found.role == "user" else None
    return [found, *([reply] if reply else [])]


async def _forget(connection: Connection, user_id: UUID, gone: Sequence[UUID], ledger: Ledger) -> list[UUID]:
    """Deletes the facts `gone`; what they had taken the place of holds again. All facts concerned."""
    ended = {fact.supersedes for fact in ledger.facts.values() if fact.id in gone}
    for fact_id in gone:
        ledger.facts.pop(fact_id, None)
    await facts.delete(connection, user_id, gone)
    for fact in list(ledger.facts.values()):
        if fact.id in ended and fact.status == "superseded" and ledger.has_room(fact):
            ledger.change("undo", fact, _reopened(fact, gone))
    return [*gone, *await write(connection, user_id, ledger, actor="system")]


def _reopened(fact: Fact, gone: Sequence[UUID]) -> Fact:
    supersedes = None if fact.supersedes in gone else fact.supersedes
    return replace(fact, status="active", valid_to=None, supersedes=supersedes)


async def _erase(connection: Connection, user_id: UUID, doomed: Sequence[Doomed]) -> list[UUID]:
    """Deletes the messages' rows, what the search knows of them, and their words in the log; the topics concerned."""
    stale = [topic for message in doomed for topic in await topics.mark_stale(connection, user_id, message.seq)]
    for message in doomed:
        await indexing.unindex(connection, user_id, message.seq)
        await store.delete(connection, user_id, message)
    for turn_id in {message.turn_id for message in doomed if message.turn_id}:
        await events.cut(connection, user_id, turn_id)
    return list(dict.fromkeys(stale))
