"""The life of a turn in the database: accepted, claimed, finished.

A user's `streams` row orders everything that happens to the user, across replicas. To accept and to end a turn are one
statement each, that begins by moving that row on from where its caller saw it, and does nothing if it has moved.
"""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from freya_gateway.db.events import LOG_CHANNEL, STOP_CHANNEL, NewEvent
from freya_gateway.db.folding import fold
from freya_gateway.db.messages import storable
from freya_gateway.db.query import Connection, Query, Row

MOST_QUEUED = 32

LOCK = Query("SELECT 1 FROM streams WHERE user_id = :user_id FOR UPDATE")

SITUATION = Query("""
SELECT s.epoch, s.head, s.generation, s.last_message,
  (SELECT id FROM turns WHERE user_id = :user_id AND state = 'running') AS running,
  (SELECT count(*) FROM turns WHERE user_id = :user_id AND state = 'queued') AS queued,
  (SELECT id FROM conversations
   WHERE user_id = :user_id AND last_message_at > cast(:now AS timestamptz) - interval '6 hours'
   ORDER BY last_message_at DESC LIMIT 1) AS conversation_id
FROM streams s WHERE s.user_id = :user_id
""")

REPEATED = Query("""
SELECT m.turn_id, m.id AS message_id, m.text, t.first_event, t.state
FROM messages m JOIN turns t ON t.user_id = m.user_id AND t.id = m.turn_id
WHERE m.user_id = :user_id AND m.client_message_id = :client_message_id
UNION ALL
SELECT id, NULL, NULL, first_event, state FROM turns
WHERE user_id = :user_id AND client_message_id = :client_message_id
""")

ACCEPT = Query(f"""
WITH stream AS (
    UPDATE streams SET head = head + 1, last_message = last_message + 1, generation = :generation
    WHERE user_id = :user_id AND head = :head AND last_message = :last_message AND generation = :seen_generation
    RETURNING head, last_message, pg_notify('{LOG_CHANNEL}', :sender || ' ' || user_id || ':' || head)
), conversation AS (
    INSERT INTO conversations (user_id, id, started_at, last_message_at)
    SELECT :user_id, cast(:conversation_id AS uuid), :now, :now FROM stream
    ON CONFLICT (user_id, id) DO UPDATE SET last_message_at = excluded.last_message_at
), turn AS (
    INSERT INTO turns (user_id, id, conversation_id, state, urgent, position, first_event, owner, lease_expires_at,
                       generation, attempt, created_at, started_at)
    SELECT :user_id, cast(:turn_id AS uuid), :conversation_id, :state, cast(:urgent AS bool), last_message, head,
           cast(:owner AS text), now() + make_interval(secs => :lease), :generation, cast(:attempt AS int), :now,
           cast(:started_at AS timestamptz) FROM stream
), message AS (
    INSERT INTO messages (user_id, id, seq, conversation_id, turn_id, role, text, search_text, n_tokens,
                          is_question, said_at, client_message_id)
    SELECT :user_id, cast(:message_id AS uuid), last_message, :conversation_id, :turn_id, 'user', :text,
           cast(:search_text AS text), cast(:n_tokens AS int), cast(:is_question AS bool), cast(:now AS timestamptz),
           cast(:client_message_id AS uuid) FROM stream
), event AS (
    INSERT INTO stream_events (user_id, seq, turn_id, kind, data)
    SELECT :user_id, head, :turn_id, 'listening', :listening FROM stream
), interrupted AS (
    UPDATE turns SET stop_requested = true FROM stream WHERE user_id = :user_id AND id = cast(:interrupted AS uuid)
    RETURNING pg_notify('{STOP_CHANNEL}', id::text)
)
SELECT (SELECT count(*) FROM stream) = 1 AS accepted, (SELECT count(*) FROM interrupted) AS interrupted
""")

# A running turn ends for whoever holds the user's generation, which is used up by it, so that the same statement can
# do nothing a second time. A queued one (`generation` is null) ends for whoever has locked the stream.
FINISH = Query(f"""
WITH stream AS (
    UPDATE streams s SET last_message = last_message + 1, head = head + cardinality(cast(:turn_ids AS uuid[])),
           generation = s.generation + CASE WHEN cast(:generation AS bigint) IS NULL THEN 0 ELSE 1 END
    WHERE s.user_id = :user_id AND s.generation = coalesce(:generation, s.generation) AND EXISTS (
        SELECT 1 FROM turns t WHERE t.user_id = :user_id AND t.id = :turn_id
        AND t.state = CASE WHEN :generation IS NULL THEN 'queued' ELSE 'running' END
        AND t.generation = coalesce(:generation, t.generation))
    RETURNING s.last_message, s.head - cardinality(cast(:turn_ids AS uuid[])) AS base,
              pg_notify('{LOG_CHANNEL}', :sender || ' ' || s.user_id || ':' || s.head)
), turn AS (
    UPDATE turns t SET state = 'done', status = :status, model = :model, finish_reason = :finish_reason,
           prompt_tokens = :prompt_tokens, cached_tokens = :cached_tokens, completion_tokens = :completion_tokens,
           ttft_ms = :ttft_ms, error_code = :error_code, error_retryable = :error_retryable, finished_at = :now,
           owner = NULL, lease_expires_at = NULL
    FROM stream WHERE t.user_id = :user_id AND t.id = :turn_id
    RETURNING t.conversation_id, t.position, t.attempt, stream.last_message, stream.base
), message AS (
    INSERT INTO messages (user_id, id, seq, conversation_id, turn_id, reply_to, role, text, exact, search_text,
                          n_tokens, is_question, said_at)
    SELECT :user_id, cast(:message_id AS uuid), last_message, conversation_id, :turn_id, position,
           'assistant', :text, cast(:exact AS text), cast(:search_text AS text), cast(:n_tokens AS int),
           cast(:is_question AS bool), :now FROM turn
), conversation AS (
    UPDATE conversations c SET last_message_at = greatest(c.last_message_at, :now) FROM turn
    WHERE c.user_id = :user_id AND c.id = turn.conversation_id
), event AS (
    INSERT INTO stream_events (user_id, seq, turn_id, kind, attempt, data)
    SELECT :user_id, turn.base + e.place, e.turn_id, e.kind, e.attempt, e.data
    FROM turn, unnest(cast(:turn_ids AS uuid[]), cast(:kinds AS text[]), cast(:attempts AS int[]),
                      cast(:data AS text[])) WITH ORDINALITY AS e (turn_id, kind, attempt, data, place)
), trace AS (
    INSERT INTO prompt_traces (user_id, turn_id, attempt, n_tokens, blocks)
    SELECT :user_id, :turn_id, attempt, cast(:prompt_size AS int), cast(:blocks AS jsonb) FROM turn
    WHERE cast(:blocks AS jsonb) IS NOT NULL
)
SELECT (SELECT base + 1 FROM turn) AS first,
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
    """What a user's stream looked like at one moment."""

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
class Accepted:
    """A message that is written; the claim to its turn, if it may run at once."""

    epoch: str
    first_event: int
    claim: Claim | None


@dataclass(frozen=True, slots=True)
class Repeat:
    """A message that was accepted before under the same client_message_id; None where it was deleted since."""

    turn_id: UUID
    message_id: UUID | None
    text: str | None
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
    prompt_size: int = 0  # tokens
    blocks: dict[str, Any] | None = None  # the prompt's trace: ids and tokens, no words


async def lock(connection: Connection, user_id: UUID) -> None:
    """Keeps everyone else from moving the user's stream on, until the transaction's end."""
    await LOCK.execute(connection, user_id=user_id)


async def situation(connection: Connection, user_id: UUID, *, now: datetime) -> Situation:
    """How things stand with the user; `accept` notices if they have changed since."""
    return Situation(*(await SITUATION.one(connection, user_id=user_id, now=now)).values())


async def repeated(connection: Connection, user_id: UUID, client_message_id: UUID) -> Repeat | None:
    """The message that carried this `client_message_id` before, if any."""
    row = await REPEATED.first(connection, user_id=user_id, client_message_id=client_message_id)
    return Repeat(*row.values()) if row else None


async def accept(connection: Connection, message: NewMessage, *, seen: Situation, sender: str) -> Accepted | None:
    """Writes message, turn and `listening`, if the user's stream still stands as it was `seen`; else None."""
    runs = seen.running is None and seen.queued == 0 and message.owner is not None
    generation = seen.generation + runs
    row = await ACCEPT.one(
        connection,
        user_id=message.user_id,
        turn_id=message.turn_id,
        message_id=message.message_id,
        conversation_id=seen.conversation_id or uuid4(),
        state="running" if runs else "queued",
        urgent=message.interrupt,
        head=seen.head,
        last_message=seen.last_message,
        seen_generation=seen.generation,
        owner=message.owner if runs else None,
        lease=message.lease,
        generation=generation,
        attempt=int(runs),
        started_at=message.now if runs else None,
        text=message.text,
        search_text=fold(message.text),
        n_tokens=message.n_tokens,
        is_question="?" in message.text,
        client_message_id=message.client_message_id,
        listening=message.listening,
        interrupted=seen.running if message.interrupt else None,
        now=message.now,
        sender=sender,
    )
    if not row["accepted"]:
        return None
    first_event = seen.head + 1
    claim = Claim(message.user_id, message.turn_id, generation, 1, 0, first_event, message.now) if runs else None
    return Accepted(seen.epoch, first_event, claim)


async def finish(connection: Connection, reply: Reply, *, sender: str) -> Finished | None:
    """Ends the turn: reply, status, trace and last events together. None if the turn is no longer the caller's to end
    (another holds it, or it has ended). To end a queued one, `lock` the stream first."""
    plain, exact = storable(reply.text)
    row = await FINISH.one(
        connection,
        **reply.outcome,
        user_id=reply.user_id,
        turn_id=reply.turn_id,
        generation=reply.generation,
        status=reply.status,
        message_id=reply.message_id,
        text=plain,
        exact=exact,
        search_text=fold(plain),
        n_tokens=reply.n_tokens,
        is_question="?" in plain,
        now=reply.now,
        turn_ids=[event.turn_id for event in reply.events],
        kinds=[event.kind for event in reply.events],
        attempts=[event.attempt for event in reply.events],
        data=[event.data for event in reply.events],
        prompt_size=reply.prompt_size,
        blocks=json.dumps(reply.blocks, default=str) if reply.blocks else None,
        sender=sender,
    )
    return Finished(row["first"], row["queued"]) if row["first"] is not None else None


async def get(connection: Connection, user_id: UUID, turn_id: UUID) -> Row | None:
    """The turn's row, with the blocks of its last attempt's prompt; None if the user has no such turn."""
    return await ONE.first(connection, user_id=user_id, turn_id=turn_id)
