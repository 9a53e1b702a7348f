"""What the search stands on beside the messages themselves: segments, and the statistics of a user's words.

They follow the messages by a cursor (`memory_work`, kind `index`), exactly once: whoever changes them holds its row.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from freya_gateway.db.query import Connection, Query

BATCH = 50_000  # messages that one statement counts: seconds

LOCK = Query("""
INSERT INTO memory_work (user_id, kind) VALUES (:user_id, 'index')
ON CONFLICT (user_id, kind) DO UPDATE SET kind = excluded.kind
""")

BEYOND = Query("""
SELECT seq, conversation_id, said_at FROM messages WHERE user_id = :user_id AND seq > :after ORDER BY seq LIMIT :limit
""")

LAST_SEGMENT = Query("""
SELECT s.first_seq, s.conversation_id, s.last_at,
       (SELECT count(*) FROM messages m
        WHERE m.user_id = s.user_id AND m.seq BETWEEN s.first_seq AND s.last_seq) AS size
FROM segments s WHERE s.user_id = :user_id ORDER BY s.first_seq DESC LIMIT 1
""")

SEGMENTS = Query("""
INSERT INTO segments (user_id, id, conversation_id, first_seq, last_seq, first_at, last_at)
SELECT :user_id, gen_random_uuid(), s.* FROM unnest(
    cast(:conversations AS uuid[]), cast(:firsts AS bigint[]), cast(:lasts AS bigint[]),
    cast(:first_moments AS timestamptz[]), cast(:last_moments AS timestamptz[])) s
ON CONFLICT (user_id, first_seq) DO UPDATE SET last_seq = excluded.last_seq, last_at = excluded.last_at
""")

MARK = Query("""
UPDATE messages m SET segment = s.segment
FROM unnest(cast(:seqs AS bigint[]), cast(:marks AS bigint[])) s (seq, segment)
WHERE m.user_id = :user_id AND m.seq = s.seq
""")

COUNT_TERMS = Query("""
INSERT INTO term_stats AS t (user_id, lexeme, n_messages)
SELECT :user_id, w.lexeme, count(*) FROM messages m, unnest(m.tsv) w
WHERE m.user_id = :user_id AND m.seq > :after AND m.seq <= :until
GROUP BY w.lexeme ORDER BY w.lexeme
ON CONFLICT (user_id, lexeme) DO UPDATE SET n_messages = t.n_messages + excluded.n_messages
""")

COUNT_MESSAGES = Query("""
INSERT INTO collection_stats AS c (user_id, n_messages, n_terms)
SELECT :user_id, count(*), coalesce(sum(length(tsv)), 0) FROM messages
WHERE user_id = :user_id AND seq > :after AND seq <= :until
ON CONFLICT (user_id) DO UPDATE SET n_messages = c.n_messages + excluded.n_messages,
                                    n_terms = c.n_terms + excluded.n_terms
""")

UNCOUNT = Query("""
WITH gone AS (
    SELECT segment, tsv FROM messages WHERE user_id = :user_id AND seq = :seq AND segment IS NOT NULL
), collection AS (
    UPDATE collection_stats c SET n_messages = c.n_messages - 1, n_terms = c.n_terms - length(gone.tsv)
    FROM gone WHERE c.user_id = :user_id
)
UPDATE term_stats t SET n_messages = t.n_messages - 1
FROM gone, unnest(gone.tsv) w WHERE t.user_id = :user_id AND t.lexeme = w.lexeme
""")

# Which goes with the last of its messages.
LEAVE_SEGMENT = Query("""
DELETE FROM segments s USING messages gone
WHERE gone.user_id = :user_id AND gone.seq = :seq AND s.user_id = :user_id AND s.first_seq = gone.segment
  AND NOT EXISTS (SELECT 1 FROM messages m WHERE m.user_id = :user_id AND m.seq BETWEEN s.first_seq AND s.last_seq
                  AND m.seq <> :seq)
""")

FORGET_TERMS = Query("DELETE FROM term_stats WHERE user_id = :user_id AND n_messages <= 0")


@dataclass(frozen=True, slots=True)
class Unindexed:
    """A message beyond the cursor."""

    seq: int
    conversation_id: UUID
    said_at: datetime


@dataclass(frozen=True, slots=True)
class OpenSegment:
    """The newest segment: `size` messages so far."""

    first_seq: int
    conversation_id: UUID
    last_at: datetime
    size: int


@dataclass(slots=True)
class NewSegment:
    """A segment as it is after some messages, new or longer than before."""

    conversation_id: UUID
    first_seq: int
    last_seq: int
    first_at: datetime
    last_at: datetime
    new: list[int] = field(default_factory=list[int])  # seqs of its messages that were not indexed yet


async def lock(connection: Connection, user_id: UUID) -> None:
    """Keeps everyone else from changing the user's statistics, until the transaction's end."""
    await LOCK.execute(connection, user_id=user_id)


async def beyond(connection: Connection, user_id: UUID, *, after: int, limit: int) -> list[Unindexed]:
    """The first `limit` messages after the cursor, in order."""
    rows = await BEYOND.all(connection, user_id=user_id, after=after, limit=limit)
    return [Unindexed(*row.values()) for row in rows]


async def last_segment(connection: Connection, user_id: UUID) -> OpenSegment | None:
    """The segment that the next message may continue."""
    row = await LAST_SEGMENT.first(connection, user_id=user_id)
    return OpenSegment(*row.values()) if row else None


async def index(
    connection: Connection, user_id: UUID, segments: Sequence[NewSegment], *, after: int, until: int
) -> None:
    """Counts the messages with `after` < seq <= `until` and puts them into `segments`. Call under `lock`."""
    marks = await put(connection, user_id, segments)
    await MARK.execute(connection, user_id=user_id, seqs=list(marks), marks=list(marks.values()))
    await count(connection, user_id, after=after, until=until)


async def put(connection: Connection, user_id: UUID, segments: Sequence[NewSegment]) -> dict[int, int]:
    """Writes the segments alone; the first seqs of the segments by the seqs of their new messages."""
    await SEGMENTS.execute(
        connection,
        user_id=user_id,
        conversations=[s.conversation_id for s in segments],
        firsts=[s.first_seq for s in segments],
        lasts=[s.last_seq for s in segments],
        first_moments=[s.first_at for s in segments],
        last_moments=[s.last_at for s in segments],
    )
    return {seq: segment.first_seq for segment in segments for seq in segment.new}


async def count(connection: Connection, user_id: UUID, *, after: int, until: int) -> None:
    """Adds the words of the messages with `after` < seq <= `until` to the statistics. Call under `lock`."""
    for start in range(after, until, BATCH):
        piece = {"user_id": user_id, "after": start, "until": min(start + BATCH, until)}
        await COUNT_TERMS.execute(connection, **piece)
        await COUNT_MESSAGES.execute(connection, **piece)


async def unindex(connection: Connection, user_id: UUID, seq: int) -> None:
    """Takes a message out of the statistics and its segment, before its row goes in the same transaction."""
    await uncount(connection, user_id, seq)
    await LEAVE_SEGMENT.execute(connection, user_id=user_id, seq=seq)


async def uncount(connection: Connection, user_id: UUID, seq: int) -> None:
    """Takes a message's words out of the statistics, before they change in the same transaction."""
    await lock(connection, user_id)
    await UNCOUNT.execute(connection, user_id=user_id, seq=seq)
    await FORGET_TERMS.execute(connection, user_id=user_id)
