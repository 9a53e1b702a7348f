"""The life of a turn in the database: accepted, claimed, finished; each in the transaction of its caller.

A user's `streams` row is locked first, always: it orders everything that happens to the user, across replicas.
Statements after the lock see what was committed before it, because each takes a new snapshot.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from freya_gateway.db.events import LOG_CHANNEL, NewEvent, ring_stop
from freya_gateway.db.messages import storable
from freya_gateway.db.query import Connection, Query, Row

MOST_QUEUED = 32

LOCK = Query("SELECT epoch, head, generation, last_message FROM streams WHERE user_id = :user_id FOR UPDATE")

SITUATION = Query("""
SELECT
  (SELECT id FROM turns WHERE user_id = :user_id AND state = 'running') AS running,
  (SELECT count(*) FROM turns WHERE user_id = :user_id AND state = 'queued') AS queued,
  (SELECT id FROM conversations
   WHERE user_id = :user_id AND last_message_at > cast(:now AS timestamptz) - interval '6 hours'
   ORDER BY last_message_at DESC LIMIT 1) AS conversation_id
""")

REPEATED = Query("""
SELECT m.turn_id, m.id AS message_id, m.text, t.first_event, t.state
FROM messages m JOIN turns t ON t.user_id = m.user_id AND t.id = m.turn_id
WHERE m.user_id = :user_id AND m.client_message_id = :client_message_id
""")

# One statement, so that an accepted message costs three round trips: lock, look, write.
ACCEPT = Query(f"""
WITH conversation AS (
    INSERT INTO conversations (user_id, id, started_at, last_message_at)
    VALUES (:user_id, :conversation_id, :now, :now)
    ON CONFLICT (user_id, id) DO UPDATE SET last_message_at = excluded.last_message_at
), turn AS (
    INSERT INTO turns (user_id, id, conversation_id, state, urgent, position, first_event, owner, lease_expires_at,
                       generation, attempt, created_at, started_at)
    VALUES (:user_id, :turn_id, :conversation_id, :state, :urgent, :message_seq, :event_seq, :owner,
            now() + make_interval(secs => :lease), :generation, :attempt, :now, :started_at)
), message AS (
    INSERT INTO messages (user_id, id, seq, conversation_id, turn_id, role, text, n_tokens, is_question, said_at,
                          client_message_id)
    VALUES (:user_id, :message_id, :message_seq, :conversation_id, :turn_id, 'user', :text, :n_tokens, :is_question,
            :now, :client_message_id)
), event AS (
    INSERT INTO stream_events (user_id, seq, turn_id, kind, data)
    VALUES (:user_id, :event_seq, :turn_id, 'listening', :listening)
), interrupted AS (
    UPDATE turns SET stop_requested = true WHERE user_id = :user_id AND id = :interrupted
)
UPDATE streams SET head = :event_seq, last_message = :message_seq, generation = :generation WHERE user_id = :user_id
RETURNING pg_notify('{LOG_CHANNEL}', :sender || ' ' || user_id || ':' || head)
""")

NEXT = Query("""
SELECT id, state, attempt, lost, lease_expires_at < now() AS expired FROM turns
WHERE user_id = :user_id AND state <> 'done'
ORDER BY (state = 'running') DESC, urgent DESC, position * (CASE WHEN urgent THEN -1 ELSE 1 END) LIMIT 1
""")

CLAIM = Query("""
WITH claimed AS (
    UPDATE turns SET state = 'running', owner = :owner, lease_expires_at = now() + make_interval(secs => :lease),
           attempt = attempt + 1, lost = :lost, generation = :generation, started_at = coalesce(started_at, :now)
    WHERE user_id = :user_id AND id = :turn_id
    RETURNING id, generation, attempt, lost, first_event, created_at, stop_requested
), fenced AS (
    UPDATE streams SET generation = :generation WHERE user_id = :user_id
)
SELECT * FROM claimed
""")

# A turn ends if its generation is still the one that may append; one that never ran, if it is still queued.
FINISH = Query(f"""
WITH turn AS (
    UPDATE turns SET state = 'done', status = :status, model = :model, finish_reason = :finish_reason,
           prompt_tokens = :prompt_tokens, cached_tokens = :cached_tokens, completion_tokens = :completion_tokens,
           ttft_ms = :ttft_ms, error_code = :error_code, error_retryable = :error_retryable, finished_at = :now,
           owner = NULL, lease_expires_at = NULL
    WHERE user_id = :user_id AND id = :turn_id AND CASE
        WHEN cast(:generation AS bigint) IS NULL THEN state = 'queued'
        ELSE state = 'running' AND generation = :generation AND generation = cast(:held AS bigint) END
    RETURNING conversation_id, position
), message AS (
    INSERT INTO messages (user_id, id, seq, conversation_id, turn_id, reply_to, role, text, exact, n_tokens,
                          is_question, said_at)
    SELECT :user_id, cast(:message_id AS uuid), cast(:message_seq AS bigint), conversation_id, :turn_id, position,
           'assistant', :text, cast(:exact AS text), cast(:n_tokens AS int), cast(:is_question AS bool), :now FROM turn
), conversation AS (
    UPDATE conversations c SET last_message_at = greatest(c.last_message_at, :now) FROM turn
    WHERE c.user_id = :user_id AND c.id = turn.conversation_id
), event AS (
    INSERT INTO stream_events (user_id, seq, turn_id, kind, attempt, data)
    SELECT :user_id, cast(:head AS bigint) + e.place, e.turn_id, e.kind, e.attempt, e.data
    FROM turn, unnest(cast(:turn_ids AS uuid[]), cast(:kinds AS text[]), cast(:attempts AS int[]),
                      cast(:data AS text[])) WITH ORDINALITY AS e (turn_id, kind, attempt, data, place)
), stream AS (
    UPDATE streams s SET last_message = :message_seq, head = :head + cardinality(:turn_ids) FROM turn
    WHERE s.user_id = :user_id
    RETURNING pg_notify('{LOG_CHANNEL}', :sender || ' ' || s.user_id || ':' || s.head)
)
SELECT EXISTS (SELECT 1 FROM stream) AS ended,
       EXISTS (SELECT 1 FROM turns q WHERE q.user_id = :user_id AND q.state = 'queued') AS queued
""")

ONE = Query("""
SELECT t.*, p.blocks FROM turns t
LEFT JOIN prompt_traces p ON p.user_id = t.user_id AND p.turn_id = t.id AND p.attempt = t.attempt
WHERE t.user_id = :user_id AND t.id = :turn_id
""")


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A user's words on their way in. `owner` is None where this process has no room to run the turn at once."""

    user_id: UUID
    turn_id: UUID
    message_id: UUID
    text: str
    n_tokens: int
    client_message_id: UUID | None
    interrupt: bool
    listening: str  # the event's data, as JSON
    owner: str | None
    lease: float  # seconds
    now: datetime


@dataclass(frozen=True, slots=True)
class Situation:
    """What the user's stream looks like under its lock."""

    epoch: str
    head: int
    generation: int
    last_message: int
    running: UUID | None
    queued: int
    conversation_id: UUID | None


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to run a turn: whoever holds its generation may append."""

    user_id: UUID
    turn_id: UUID
    generation: int
    attempt: int
    lost: int
    first_event: int
    accepted_at: datetime
    stop_requested: bool = False


@dataclass(frozen=True, slots=True)
class Repeat:
    """A message that was accepted before under the same client_message_id."""

    turn_id: UUID
    message_id: UUID
    text: str
    first_event: int
    state: str


@dataclass(frozen=True, slots=True)
class Finished:
    """A turn's end in the log: the seq of its first closing event, and whether the user has more waiting."""

    first: int
    queued: bool


@dataclass(frozen=True, slots=True)
class Reply:
    """How a turn ends. `generation` is None for a turn that never ran; `events` are its last, in order."""

    user_id: UUID
    turn_id: UUID
    generation: int | None
    message_id: UUID
    text: str
    n_tokens: int
    status: str
    outcome: dict[str, Any]  # model, finish_reason, token counts, ttft_ms, error_code, error_retryable
    events: tuple[NewEvent, ...]
    now: datetime


async def lock(connection: Connection, user_id: UUID, *, now: datetime) -> Situation:
    """Locks the user's stream until the transaction's end, and says how things stand."""
    stream = await LOCK.one(connection, user_id=user_id)
    rest = await SITUATION.one(connection, user_id=user_id, now=now)
    return Situation(*stream.values(), *rest.values())


async def repeated(connection: Connection, user_id: UUID, client_message_id: UUID) -> Repeat | None:
    """The message that carried this `client_message_id` before, if any."""
    row = await REPEATED.first(connection, user_id=user_id, client_message_id=client_message_id)
    return Repeat(*row.values()) if row else None


async def accept(connection: Connection, message: NewMessage, *, situation: Situation, sender: str) -> Claim | None:
    """Writes message, turn and `listening`; the claim, if the turn may run at once. `situation` must be locked."""
    runs = situation.running is None and situation.queued == 0 and message.owner is not None
    generation = situation.generation + runs
    await ACCEPT.execute(
        connection,
        user_id=message.user_id,
        turn_id=message.turn_id,
        message_id=message.message_id,
        conversation_id=situation.conversation_id or uuid4(),
        state="running" if runs else "queued",
        urgent=message.interrupt,
        message_seq=situation.last_message + 1,
        event_seq=situation.head + 1,
        owner=message.owner if runs else None,
        lease=message.lease,
        generation=generation,
        attempt=int(runs),
        started_at=message.now if runs else None,
        text=message.text,
        n_tokens=message.n_tokens,
        is_question="?" in message.text,
        client_message_id=message.client_message_id,
        listening=message.listening,
        interrupted=situation.running if message.interrupt else None,
        now=message.now,
        sender=sender,
    )
    if message.interrupt and situation.running is not None:
        await ring_stop(connection, situation.running)
    first_event = situation.head + 1
    return Claim(message.user_id, message.turn_id, generation, 1, 0, first_event, message.now) if runs else None


async def claim_next(connection: Connection, user_id: UUID, *, owner: str, lease: float, now: datetime) -> Claim | None:
    """Takes what the user waits for: a running turn whose lease ran out, else the first of the queue."""
    generation = (await LOCK.one(connection, user_id=user_id))["generation"] + 1
    found = await NEXT.first(connection, user_id=user_id)
    if found is None or (found["state"] == "running" and not found["expired"]):
        return None
    row = await CLAIM.one(
        connection,
        user_id=user_id,
        turn_id=found["id"],
        owner=owner,
        lease=lease,
        lost=found["lost"] + (found["state"] == "running"),
        generation=generation,
        now=now,
    )
    return Claim(user_id, *row.values())


async def finish(connection: Connection, reply: Reply, *, sender: str) -> Finished | None:
    """Ends the turn: reply, status and last events together. None if the turn is no longer the caller's to end
    (another holds it, or it has ended)."""
    stream = await LOCK.one(connection, user_id=reply.user_id)
    plain, exact = storable(reply.text)
    row = await FINISH.one(
        connection,
        **reply.outcome,
        user_id=reply.user_id,
        turn_id=reply.turn_id,
        generation=reply.generation,
        held=stream["generation"],
        status=reply.status,
        message_id=reply.message_id,
        message_seq=stream["last_message"] + 1,
        text=plain,
        exact=exact,
        n_tokens=reply.n_tokens,
        is_question="?" in plain,
        now=reply.now,
        head=stream["head"],
        turn_ids=[event.turn_id for event in reply.events],
        kinds=[event.kind for event in reply.events],
        attempts=[event.attempt for event in reply.events],
        data=[event.data for event in reply.events],
        sender=sender,
    )
    return Finished(stream["head"] + 1, row["queued"]) if row["ended"] else None


async def get(connection: Connection, user_id: UUID, turn_id: UUID) -> Row | None:
    """The turn's row, with the blocks of its last attempt's prompt; None if the user has no such turn."""
    return await ONE.first(connection, user_id=user_id, turn_id=turn_id)
