"""The event log in PostgreSQL: appended by a statement for many users at once, read after a cursor.

`seq` is given by the update of the user's `streams` row in the same statement, so it has no gaps; that row also holds
the generation that may append, so an append of a turn that was taken over writes nothing (fencing).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

LOG_CHANNEL = "freya_log"
STOP_CHANNEL = "freya_stop"
# A notification's payload ends at 8,000 bytes; a user and a seq take at most 56.
MOST_USERS_PER_APPEND = 128

APPEND = f"""
WITH slot AS (
    UPDATE streams s SET head = s.head + b.n
    FROM unnest($1::uuid[], $2::bigint[], $3::int[]) AS b (user_id, generation, n)
    WHERE s.user_id = b.user_id AND s.generation = b.generation
    RETURNING s.user_id, s.head, s.head - b.n AS base
), event AS (
    INSERT INTO stream_events (user_id, seq, turn_id, kind, attempt, data)
    SELECT slot.user_id, slot.base + e.place, e.turn_id, e.kind, e.attempt, e.data
    FROM unnest($4::uuid[], $5::int[], $6::uuid[], $7::text[], $8::int[], $9::text[])
         AS e (user_id, place, turn_id, kind, attempt, data)
    JOIN slot ON slot.user_id = e.user_id
)
SELECT array_agg(user_id) AS users, array_agg(base) AS bases,
       pg_notify('{LOG_CHANNEL}', $10::text || string_agg(' ' || user_id || ':' || head, '')) FROM slot
"""

INSERT = text("""
INSERT INTO stream_events (user_id, seq, turn_id, kind, attempt, data)
SELECT :user_id, :head + place, turn_id, kind, attempt, data
FROM unnest(cast(:turn_ids AS uuid[]), cast(:kinds AS text[]), cast(:attempts AS int[]), cast(:data AS text[]))
     WITH ORDINALITY AS e (turn_id, kind, attempt, data, place)
""")
MOVE_HEAD = text("UPDATE streams SET head = :head WHERE user_id = :user_id")
RING = text(f"SELECT pg_notify('{LOG_CHANNEL}', :payload)")
RING_STOP = text(f"SELECT pg_notify('{STOP_CHANNEL}', :payload)")

STATE = text("""
SELECT s.epoch, s.head, s.floor, t.id AS turn_id, t.first_event, t.attempt,
       (SELECT e.kind FROM stream_events e WHERE e.user_id = s.user_id AND e.turn_id = t.id
        ORDER BY e.seq DESC LIMIT 1) AS last_kind,
       EXISTS (SELECT 1 FROM turns q WHERE q.user_id = s.user_id AND q.state = 'queued') AS queued
FROM streams s LEFT JOIN turns t ON t.user_id = s.user_id AND t.state = 'running'
WHERE s.user_id = :user_id
""")
HEADS = text("SELECT user_id, epoch, head FROM streams WHERE user_id = ANY(cast(:user_ids AS uuid[]))")

REPLY_SEQ = text("""
SELECT max(seq) FROM stream_events
WHERE user_id = :user_id AND seq >= :first_event AND turn_id = :turn_id AND kind = 'reply'
""")

AFTER = text("""
SELECT seq, turn_id, kind, attempt, data FROM (
    SELECT *, sum(length(data) + 64) OVER (ORDER BY seq) AS size FROM (
        SELECT seq, turn_id, kind, attempt, data FROM stream_events
        WHERE user_id = :user_id AND seq > :after AND seq <= :until
        ORDER BY seq LIMIT :most
    ) page
) sized WHERE size - length(data) - 64 < :bytes ORDER BY seq
""")

EVICT = text("""
WITH old AS (
    SELECT e.user_id, e.seq FROM stream_events e
    WHERE e.created_at < now() - make_interval(secs => :seconds)
      AND NOT EXISTS (SELECT 1 FROM turns t WHERE t.user_id = e.user_id AND t.state <> 'done'
                      AND e.seq >= t.first_event)
    ORDER BY e.created_at LIMIT :most
), gone AS (
    DELETE FROM stream_events e USING old WHERE e.user_id = old.user_id AND e.seq = old.seq
    RETURNING e.user_id, e.seq
), floor AS (
    UPDATE streams s SET floor = greatest(s.floor, g.seq)
    FROM (SELECT user_id, max(seq) AS seq FROM gone GROUP BY user_id) g WHERE s.user_id = g.user_id
)
SELECT count(*) FROM gone
""")

COMMITTED = """
SELECT e.kind, e.data, s.generation FROM streams s LEFT JOIN LATERAL (
    SELECT kind, data, seq FROM stream_events
    WHERE user_id = s.user_id AND turn_id = $2 AND attempt = $3 ORDER BY seq DESC LIMIT 1
) e ON true WHERE s.user_id = $1
"""


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event before it has its seq; `data` is one line of JSON."""

    turn_id: UUID
    kind: str
    attempt: int
    data: str


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event of a user's log."""

    seq: int
    turn_id: UUID | None
    kind: str
    attempt: int
    data: str


@dataclass(frozen=True, slots=True)
class LogState:
    """A user's log at one moment: events up to `floor` are gone, `head` is the last one written."""

    epoch: str
    head: int
    floor: int
    turn_id: UUID | None  # the running turn, with the seq of its `listening` and its attempt
    first_event: int | None
    attempt: int | None
    last_kind: str | None  # of the running turn's last event
    queued: bool


@dataclass(frozen=True, slots=True)
class TurnAppend:
    """The pending events of one turn, to be written if the turn still holds its generation."""

    user_id: UUID
    generation: int
    events: tuple[NewEvent, ...]


async def append(
    connection: asyncpg.Connection, appends: Sequence[TurnAppend], *, sender: str
) -> dict[UUID, int]:
    """Writes the events of up to MOST_USERS_PER_APPEND users in one commit.

    Returns user -> the seq before its first event; a user that is missing there was fenced off.
    """
    rows = [(a.user_id, place, e) for a in appends for place, e in enumerate(a.events, 1)]
    record = await connection.fetchrow(
        APPEND,
        [a.user_id for a in appends],
        [a.generation for a in appends],
        [len(a.events) for a in appends],
        [row[0] for row in rows],
        [row[1] for row in rows],
        [row[2].turn_id for row in rows],
        [row[2].kind for row in rows],
        [row[2].attempt for row in rows],
        [row[2].data for row in rows],
        sender,
    )
    return dict(zip(record["users"] or (), record["bases"] or (), strict=True))


async def append_locked(
    session: AsyncSession, user_id: UUID, *, head: int, events: Sequence[NewEvent], sender: str
) -> None:
    """Writes events after `head` in the caller's transaction, which holds the lock of the user's stream."""
    values = {
        "user_id": user_id,
        "head": head,
        "turn_ids": [e.turn_id for e in events],
        "kinds": [e.kind for e in events],
        "attempts": [e.attempt for e in events],
        "data": [e.data for e in events],
    }
    await session.execute(INSERT, values)
    await session.execute(MOVE_HEAD, {"user_id": user_id, "head": head + len(events)})
    await ring(session, user_id, head=head + len(events), sender=sender)


async def ring(session: AsyncSession, user_id: UUID, *, head: int, sender: str) -> None:
    """Tells the other replicas, at commit, that the user's log has grown to `head`."""
    await session.execute(RING, {"payload": f"{sender} {user_id}:{head}"})


async def ring_stop(session: AsyncSession, turn_id: UUID) -> None:
    """Tells the other replicas, at commit, that the turn shall end."""
    await session.execute(RING_STOP, {"payload": str(turn_id)})


async def committed(
    connection: asyncpg.Connection, user_id: UUID, *, turn_id: UUID, attempt: int
) -> tuple[str | None, str | None, int]:
    """(kind, data) of the last event that this attempt has in the log, and the generation that may append now."""
    record = await connection.fetchrow(COMMITTED, user_id, turn_id, attempt)
    return record["kind"], record["data"], record["generation"]


async def state(session: AsyncSession, user_id: UUID) -> LogState:
    """The log's ends and the running turn."""
    return LogState(*(await session.execute(STATE, {"user_id": user_id})).one())


async def reply_seq(session: AsyncSession, user_id: UUID, turn_id: UUID, *, first_event: int) -> int | None:
    """The seq of a turn's `reply`, while the log still has it."""
    values = {"user_id": user_id, "turn_id": turn_id, "first_event": first_event}
    return await session.scalar(REPLY_SEQ, values)


async def heads(session: AsyncSession, user_ids: Sequence[UUID]) -> list[tuple[UUID, str, int]]:
    """(user, epoch, head) of each of `user_ids`."""
    rows = await session.execute(HEADS, {"user_ids": list(user_ids)})
    return [(row.user_id, row.epoch, row.head) for row in rows]


async def after(session: AsyncSession, user_id: UUID, *, after: int, until: int, size: int) -> list[StoredEvent]:
    """Events with after < seq <= until, oldest first: about `size` bytes of them, at least one if there is one."""
    values = {"user_id": user_id, "after": after, "until": until, "most": 4000, "bytes": size}
    return [StoredEvent(*row) for row in await session.execute(AFTER, values)]


async def evict(session: AsyncSession, *, older_than: float, most: int = 5000) -> int:
    """Deletes up to `most` events older than `older_than` seconds, except those of open turns; how many went."""
    return (await session.execute(EVICT, {"seconds": older_than, "most": most})).scalar_one()


def parse_ring(payload: str) -> tuple[str, list[tuple[UUID, int]]]:
    """(sender, [(user, head)]) of a notification on LOG_CHANNEL."""
    sender, *entries = payload.split(" ")
    pairs: list[Any] = [entry.split(":") for entry in entries]
    return sender, [(UUID(user), int(head)) for user, head in pairs]
