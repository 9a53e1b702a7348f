"""The event log in PostgreSQL: appended by a statement for many users at once, read after a cursor.

`seq` is given by the update of the user's `streams` row in the same statement, so it has no gaps; that row also holds
the generation that may append, so an append of a turn that was taken over writes nothing (fencing).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from freya_gateway.db.query import Connection, Query

LOG_CHANNEL = "freya_log"
STOP_CHANNEL = "freya_stop"
CUT_CHANNEL = "freya_cut"
# A notification's payload ends at 8,000 bytes; a user and a seq take at most 56.
MOST_USERS_PER_APPEND = 128
MOST_EVENTS_PER_PAGE = 1000
EVENT_OVERHEAD = 64  # bytes that an event costs beside its data, as a page counts them

APPEND = Query(f"""
WITH slot AS (
    UPDATE streams s SET head = s.head + b.n
    FROM unnest(cast(:users AS uuid[]), cast(:generations AS bigint[]), cast(:counts AS int[]))
         AS b (user_id, generation, n)
    WHERE s.user_id = b.user_id AND s.generation = b.generation
    RETURNING s.user_id, s.generation, s.head, s.head - b.n AS base
), event AS (
    INSERT INTO stream_events (user_id, seq, turn_id, kind, attempt, data)
    SELECT slot.user_id, slot.base + e.place, e.turn_id, e.kind, e.attempt, e.data
    FROM unnest(cast(:event_users AS uuid[]), cast(:event_generations AS bigint[]), cast(:places AS int[]),
                cast(:turn_ids AS uuid[]), cast(:kinds AS text[]), cast(:attempts AS int[]), cast(:data AS text[]))
         AS e (user_id, generation, place, turn_id, kind, attempt, data)
    JOIN slot ON slot.user_id = e.user_id AND slot.generation = e.generation
)
SELECT array_agg(user_id) AS users, array_agg(generation) AS generations, array_agg(base) AS bases,
       pg_notify('{LOG_CHANNEL}', :sender || string_agg(' ' || user_id || ':' || head, '')) FROM slot
""")

# Belongs to no turn, so needs no generation. No process has this sender: all of them ring their readers.
APPEND_MEMORY = Query(f"""
WITH stream AS (
    UPDATE streams SET head = head + 1 WHERE user_id = :user_id
    RETURNING head, pg_notify('{LOG_CHANNEL}', 'memory ' || user_id || ':' || head)
)
INSERT INTO stream_events (user_id, seq, kind, data) SELECT :user_id, head, 'memory', :data FROM stream
""")

RING_STOP = Query(f"SELECT pg_notify('{STOP_CHANNEL}', :turn_id)")

STATE = Query("""
SELECT s.epoch, s.head, s.floor, t.id AS turn_id, t.first_event, t.attempt,
       (SELECT e.kind FROM stream_events e WHERE e.user_id = s.user_id AND e.turn_id = t.id
        ORDER BY e.seq DESC LIMIT 1) AS last_kind,
       EXISTS (SELECT 1 FROM turns q WHERE q.user_id = s.user_id AND q.state = 'queued') AS queued
FROM streams s LEFT JOIN turns t ON t.user_id = s.user_id AND t.state = 'running'
WHERE s.user_id = :user_id
""")
ENDS = Query("SELECT user_id, epoch, head, floor FROM streams WHERE user_id = ANY(cast(:user_ids AS uuid[]))")

REPLY_SEQ = Query("""
SELECT max(seq) FROM stream_events
WHERE user_id = :user_id AND seq >= :first_event AND turn_id = :turn_id AND kind = 'reply'
""")

AFTER = Query(f"""
SELECT seq, turn_id, kind, attempt, data FROM (
    SELECT *, sum(pg_column_size(data) + {EVENT_OVERHEAD}) OVER (ORDER BY seq) AS size FROM (
        SELECT seq, turn_id, kind, attempt, data FROM stream_events
        WHERE user_id = :user_id AND seq > :after AND seq <= :until
        ORDER BY seq LIMIT {MOST_EVENTS_PER_PAGE}
    ) page
) sized WHERE size - pg_column_size(data) - {EVENT_OVERHEAD} < cast(:bytes AS bigint) ORDER BY seq
""")

# Never waits for a stream that is being written: two statements that lock many streams could wait for each other.
EVICT = Query("""
WITH expired AS (
    SELECT e.user_id, e.seq FROM stream_events e
    WHERE e.created_at < now() - make_interval(secs => :seconds)
      AND NOT EXISTS (SELECT 1 FROM turns t WHERE t.user_id = e.user_id AND t.state <> 'done'
                      AND e.seq >= t.first_event)
    ORDER BY e.created_at LIMIT :most
), free AS (
    SELECT user_id FROM streams WHERE user_id IN (SELECT user_id FROM expired) FOR UPDATE SKIP LOCKED
), old AS (
    SELECT user_id, seq FROM expired JOIN free USING (user_id)
), gone AS (
    DELETE FROM stream_events e USING old WHERE e.user_id = old.user_id AND e.seq = old.seq
    RETURNING e.user_id, e.seq
), floor AS (
    UPDATE streams s SET floor = greatest(s.floor, g.seq)
    FROM (SELECT user_id, max(seq) AS seq FROM gone GROUP BY user_id) g WHERE s.user_id = g.user_id
)
SELECT count(*) FROM gone
""")

# What waits or runs keeps its events: who opens a stream is shown them.
CUT = Query(f"""
WITH cut AS (
    SELECT max(seq) AS seq FROM stream_events WHERE user_id = :user_id AND turn_id = :turn_id
), gone AS (
    DELETE FROM stream_events e USING cut
    WHERE e.user_id = :user_id AND e.seq <= cut.seq AND (e.turn_id IS NULL OR e.turn_id <> ALL (
        ARRAY(SELECT id FROM turns WHERE user_id = :user_id AND state <> 'done')))
)
UPDATE streams s SET floor = greatest(s.floor, cut.seq) FROM cut
WHERE s.user_id = :user_id AND cut.seq IS NOT NULL
RETURNING pg_notify('{CUT_CHANNEL}', s.user_id || ' ' || s.epoch || ' ' || s.head || ' ' || s.floor)
""")

# `head` goes on counting, so that nothing that is on its way can be taken for a part of the new log.
RESTART = Query(f"""
WITH gone AS (
    DELETE FROM stream_events WHERE user_id = :user_id
)
UPDATE streams SET epoch = :epoch, floor = head, generation = generation + 1, last_message = 0
WHERE user_id = :user_id
RETURNING pg_notify('{CUT_CHANNEL}', user_id || ' ' || epoch || ' ' || head || ' ' || floor)
""")

# Waits for a statement that still holds the row, and shuts out one that is still to come.
REFENCE = Query("""
WITH fence AS (
    UPDATE streams SET generation = generation + 1 WHERE user_id = :user_id AND generation = :generation
    RETURNING generation
), turn AS (
    UPDATE turns SET generation = fence.generation FROM fence WHERE user_id = :user_id AND id = :turn_id
)
SELECT generation FROM fence
""")

LAST_OF_ATTEMPT = Query("""
SELECT kind, data FROM stream_events
WHERE user_id = :user_id AND turn_id = :turn_id AND attempt = :attempt ORDER BY seq DESC LIMIT 1
""")


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
class LogEnds:
    """Which log a user has, and what it holds: the events after `floor`, up to `head`."""

    user_id: UUID
    epoch: str
    head: int
    floor: int


@dataclass(frozen=True, slots=True)
class TurnAppend:
    """The pending events of one turn, to be written if the turn still holds its generation."""

    user_id: UUID
    generation: int
    events: tuple[NewEvent, ...]


async def append(connection: Connection, appends: Sequence[TurnAppend], *, sender: str) -> dict[tuple[UUID, int], int]:
    """Writes the events of up to MOST_USERS_PER_APPEND users in one commit.

    Returns (user, generation) -> the seq before its first event; who is missing there was fenced off.
    """
    events = [event for a in appends for event in a.events]
    row = await APPEND.one(
        connection,
        users=[a.user_id for a in appends],
        generations=[a.generation for a in appends],
        counts=[len(a.events) for a in appends],
        event_users=[a.user_id for a in appends for _ in a.events],
        event_generations=[a.generation for a in appends for _ in a.events],
        places=[place for a in appends for place in range(1, len(a.events) + 1)],
        turn_ids=[event.turn_id for event in events],
        kinds=[event.kind for event in events],
        attempts=[event.attempt for event in events],
        data=[event.data for event in events],
        sender=sender,
    )
    holders = zip(row["users"] or (), row["generations"] or (), strict=True)
    return dict(zip(holders, row["bases"] or (), strict=True))


async def append_memory(connection: Connection, user_id: UUID, *, data: str) -> None:
    """Writes a `memory` event and rings, at commit, the readers of every process."""
    await APPEND_MEMORY.execute(connection, user_id=user_id, data=data)


async def ring_stop(connection: Connection, turn_id: UUID) -> None:
    """Tells the other replicas, at commit, that the turn shall end."""
    await RING_STOP.execute(connection, turn_id=str(turn_id))


async def refence(connection: Connection, user_id: UUID, *, turn_id: UUID, generation: int) -> int | None:
    """A new generation for the turn that holds `generation`; None if it holds it no more.

    Afterwards no statement of the old generation can write any more, wherever it hangs.
    """
    return await REFENCE.value(connection, user_id=user_id, turn_id=turn_id, generation=generation)


async def last_of_attempt(
    connection: Connection, user_id: UUID, *, turn_id: UUID, attempt: int
) -> tuple[str, str] | None:
    """(kind, data) of the last event that an attempt has in the log."""
    row = await LAST_OF_ATTEMPT.first(connection, user_id=user_id, turn_id=turn_id, attempt=attempt)
    return (row["kind"], row["data"]) if row else None


async def state(connection: Connection, user_id: UUID) -> LogState:
    """The log's ends and the running turn."""
    return LogState(*(await STATE.one(connection, user_id=user_id)).values())


async def reply_seq(connection: Connection, user_id: UUID, turn_id: UUID, *, first_event: int) -> int | None:
    """The seq of a turn's `reply`, while the log still has it."""
    return await REPLY_SEQ.value(connection, user_id=user_id, turn_id=turn_id, first_event=first_event)


async def ends(connection: Connection, user_ids: Sequence[UUID]) -> list[LogEnds]:
    """The ends of the logs of `user_ids`."""
    return [LogEnds(*row.values()) for row in await ENDS.all(connection, user_ids=user_ids)]


async def cut(connection: Connection, user_id: UUID, turn_id: UUID) -> None:
    """Evicts a turn that has ended and all before it: who has read less must open again, on every replica.

    Holds the user's stream until the commit.
    """
    await CUT.execute(connection, user_id=user_id, turn_id=turn_id)


async def restart(connection: Connection, user_id: UUID, *, epoch: str) -> None:
    """Begins the user's log anew, without an event; readers of the old one must open again."""
    await RESTART.execute(connection, user_id=user_id, epoch=epoch)


async def after(connection: Connection, user_id: UUID, *, after: int, until: int, size: int) -> list[StoredEvent]:
    """Events with after < seq <= until, oldest first: about `size` bytes of them, at least one if there is one."""
    rows = await AFTER.all(connection, user_id=user_id, after=after, until=until, bytes=size)
    return [StoredEvent(*row.values()) for row in rows]


async def evict(connection: Connection, *, older_than: float, most: int = 5000) -> int:
    """Deletes up to `most` events older than `older_than` seconds, except those of open turns; how many went."""
    return await EVICT.value(connection, seconds=older_than, most=most)


def parse_ring(payload: str) -> tuple[str, list[tuple[UUID, int]]]:
    """(sender, [(user, head)]) of a notification on LOG_CHANNEL."""
    sender, *entries = payload.split(" ")
    pairs = [entry.split(":") for entry in entries]
    return sender, [(UUID(user), int(head)) for user, head in pairs]


def parse_cut(payload: str) -> LogEnds:
    """The content of a notification on CUT_CHANNEL."""
    user, epoch, head, floor = payload.split(" ")
    return LogEnds(UUID(user), epoch, int(head), int(floor))
