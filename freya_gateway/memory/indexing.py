"""Cuts the messages into segments and counts their words, for the search. No model, a few milliseconds per turn."""

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from freya_gateway.clock import Now
from freya_gateway.db import imports, memory_work
from freya_gateway.db import indexing as store
from freya_gateway.db.engine import Database
from freya_gateway.db.imports import ImportedConversation
from freya_gateway.db.indexing import NewSegment, OpenSegment, Unindexed
from freya_gateway.db.memory_work import WorkClaim
from freya_gateway.db.query import Connection
from freya_gateway.errors import LostClaim

BATCH = 2000  # messages in one transaction
LONGEST_SEGMENT = 10  # messages
SILENCE = timedelta(minutes=30)


class IndexWork:
    """The work of kind `index`."""

    def __init__(self, database: Database, now: Now) -> None:
        self._database = database
        self._now = now

    async def run(self, claim: WorkClaim) -> None:
        """Indexes all that lies beyond the claim's cursor, BATCH messages at a time."""
        done = claim.done_seq
        while True:
            async with self._database.transaction() as connection:
                if not await memory_work.renew(connection, claim):  # else another's segments are in the way
                    raise LostClaim("index")
                until = await index_batch(connection, claim.user_id, after=done)
                if not await memory_work.complete(connection, claim, done_seq=until, now=self._now()):
                    raise LostClaim("index")
            if until - done < BATCH:  # so there were fewer messages, and no more are left
                return
            done = until


async def index_batch(connection: Connection, user_id: UUID, *, after: int) -> int:
    """Indexes the next messages after the cursor; the seq of the last one (`after` if there was none)."""
    await store.lock(connection, user_id)
    messages = await store.beyond(connection, user_id, after=after, limit=BATCH)
    if not messages:
        return after
    segments = cut(messages, await store.last_segment(connection, user_id))
    until = messages[-1].seq
    await store.index(connection, user_id, segments, after=after, until=until)
    return until


async def add_history(
    connection: Connection, user_id: UUID, conversations: Sequence[ImportedConversation]
) -> tuple[int, int]:
    """Like `insert_history`, with the messages in their segments at once; all before them must be indexed. Their words
    are not counted yet: see `indexing.count`. The first and the last seq."""
    after = await imports.open_history(connection, user_id, conversations)
    await store.lock(connection, user_id)
    said = ((conversation.id, message.said_at) for conversation in conversations for message in conversation.messages)
    new = [Unindexed(seq, *place) for seq, place in enumerate(said, after + 1)]
    marks = await store.put(connection, user_id, cut(new, await store.last_segment(connection, user_id)))
    return after + 1, await imports.add_messages(connection, user_id, conversations, after=after, segments=marks)


def cut(messages: Sequence[Unindexed], last: OpenSegment | None) -> list[NewSegment]:
    """The segments of `messages`, the first of which may continue the `last` one."""
    segments: list[NewSegment] = []
    size = 0
    if last is not None:
        size = last.size
        segments.append(NewSegment(last.conversation_id, last.first_seq, last.first_seq, last.last_at, last.last_at))
    for message in messages:
        if segments and size < LONGEST_SEGMENT and _continues(segments[-1], message):
            segments[-1].last_seq, segments[-1].last_at = message.seq, message.said_at
            size += 1
        else:
            at = message.said_at
            segments.append(NewSegment(message.conversation_id, message.seq, message.seq, at, at))
            size = 1
        segments[-1].new.append(message.seq)
    return [segment for segment in segments if segment.new]


def _continues(segment: NewSegment, message: Unindexed) -> bool:
    return segment.conversation_id == message.conversation_id and message.said_at - segment.last_at <= SILENCE
