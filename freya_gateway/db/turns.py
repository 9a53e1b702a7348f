"""The life of a turn in the database: accepted, claimed, finished; each in the transaction of its caller.

A user's `streams` row is locked first, always: it orders everything that happens to the user, across replicas.
Statements after the lock see what was committed before it, because each takes a new snapshot.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncSession

from freya_gateway.db.events import NewEvent, append_locked, ring, ring_stop
from freya_gateway.db.messages import storable

MOST_QUEUED = 32

LOCK = text("SELECT epoch, head, generation, last_message FROM streams WHERE user_id = :user_id FOR UPDATE")

SITUATION = text("""
SELECT
  (SELECT id FROM turns WHERE user_id = :user_id AND state = 'running') AS running,
  (SELECT count(*) FROM turns WHERE user_id = :user_id AND state = 'queued') AS queued,
  (SELECT id FROM conversations WHERE user_id = :user_id AND last_message_at > cast(:now AS timestamptz) - interval '6 hours'
   ORDER BY last_message_at DESC LIMIT 1) AS conversation_id
""")

REPEATED = text("""
SELECT m.id AS message_id, m.turn_id, m.text, m.exact, t.first_event, t.state
FROM messages m JOIN turns t ON t.user_id = m.user_id AND t.id = m.turn_id
WHERE m.user_id = :user_id AND m.client_message_id = :client_message_id
""")

# One statement, so that an accepted message costs three round trips: lock, look, write.
ACCEPT = text("""
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
""")

NEXT = text("""
SELECT id, state, attempt, lost, lease_expires_at < now() AS expired FROM turns
WHERE user_id = :user_id AND state <> 'done'
ORDER BY (state = 'running') DESC, urgent DESC, position * (CASE WHEN urgent THEN -1 ELSE 1 END) LIMIT 1
""")

CLAIM = text("""
WITH claimed AS (
    UPDATE turns SET state = 'running', owner = :owner, lease_expires_at = now() + make_interval(secs => :lease),
           attempt = attempt + 1, lost = :lost, generation = :generation, started_at = coalesce(started_at, :now)
    WHERE user_id = :user_id AND id = :turn_id RETURNING *
), fenced AS (
    UPDATE streams SET generation = :generation WHERE user_id = :user_id
)
SELECT * FROM claimed
""")

FINISH = text("""
WITH turn AS (
    UPDATE turns SET state = 'done', status = :status, model = :model, finish_reason = :finish_reason,
           prompt_tokens = :prompt_tokens, cached_tokens = :cached_tokens, completion_tokens = :completion_tokens,
           ttft_ms = :ttft_ms, error_code = :error_code, error_retryable = :error_retryable, finished_at = :now,
           owner = NULL, lease_expires_at = NULL
    WHERE user_id = :user_id AND id = :turn_id RETURNING conversation_id, position
), message AS (
    INSERT INTO messages (user_id, id, seq, conversation_id, turn_id, reply_to, role, text, exact, n_tokens,
                          is_question, said_at)
    SELECT :user_id, :message_id, :message_seq, conversation_id, :turn_id, position, 'assistant', :text, :exact,
           :n_tokens, :is_question, :now FROM turn
), conversation AS (
    UPDATE conversations c SET last_message_at = greatest(c.last_message_at, :now) FROM turn
    WHERE c.user_id = :user_id AND c.id = turn.conversation_id
)
UPDATE streams SET last_message = :message_seq WHERE user_id = :user_id
""")

ONE = text("SELECT * FROM turns WHERE user_id = :user_id AND id = :turn_id")


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


async def lock(session: AsyncSession, user_id: UUID, *, now: datetime) -> Situation:
    """Locks the user's stream until the transaction's end, and says how things stand."""
    stream = (await session.execute(LOCK, {"user_id": user_id})).one()
    rest = (await session.execute(SITUATION, {"user_id": user_id, "now": now})).one()
    return Situation(*stream, *rest)


async def repeated(session: AsyncSession, user_id: UUID, client_message_id: UUID) -> Repeat | None:
    """The message that carried this `client_message_id` before, if any."""
    values = {"user_id": user_id, "client_message_id": client_message_id}
    row = (await session.execute(REPEATED, values)).one_or_none()
    return row and Repeat(row.turn_id, row.message_id, row.text, row.first_event, row.state)


async def accept(session: AsyncSession, message: NewMessage, *, situation: Situation, sender: str) -> Claim | None:
    """Writes message, turn and `listening`; the claim, if the turn may run at once. `situation` must be locked."""
    runs = situation.running is None and situation.queued == 0 and message.owner is not None
    generation = situation.generation + runs
    values = {
        "user_id": message.user_id,
        "turn_id": message.turn_id,
        "message_id": message.message_id,
        "conversation_id": situation.conversation_id or uuid4(),
        "state": "running" if runs else "queued",
        "urgent": message.interrupt,
        "message_seq": situation.last_message + 1,
        "event_seq": situation.head + 1,
        "owner": message.owner if runs else None,
        "lease": message.lease,
        "generation": generation,
        "attempt": int(runs),
        "started_at": message.now if runs else None,
        "text": message.text,
        "n_tokens": message.n_tokens,
        "is_question": "?" in message.text,
        "client_message_id": message.client_message_id,
        "listening": message.listening,
        "interrupted": situation.running if message.interrupt else None,
        "now": message.now,
    }
    await session.execute(ACCEPT, values)
    await ring(session, message.user_id, head=situation.head + 1, sender=sender)
    if message.interrupt and situation.running is not None:
        await ring_stop(session, situation.running)
    return Claim(message.user_id, message.turn_id, generation, 1, 0, message.now) if runs else None


async def claim_next(session: AsyncSession, user_id: UUID, *, owner: str, lease: float, now: datetime) -> Claim | None:
    """Takes what the user waits for: a running turn whose lease ran out, else the first of the queue."""
    generation: int = (await session.execute(LOCK, {"user_id": user_id})).one().generation
    found = (await session.execute(NEXT, {"user_id": user_id})).one_or_none()
    if found is None or (found.state == "running" and not found.expired):
        return None
    values = {
        "user_id": user_id,
        "turn_id": found.id,
        "owner": owner,
        "lease": lease,
        "lost": found.lost + (found.state == "running"),
        "generation": generation + 1,
        "now": now,
    }
    row = (await session.execute(CLAIM, values)).one()
    return Claim(user_id, row.id, row.generation, row.attempt, row.lost, row.created_at, row.stop_requested)


async def finish(session: AsyncSession, reply: Reply, *, sender: str) -> int | None:
    """Ends the turn: reply, status and last events together. The seq of the first event, or None if the turn
    is no longer the caller's to end (another holds it, or it has ended)."""
    stream = (await session.execute(LOCK, {"user_id": reply.user_id})).one()
    turn = await get(session, reply.user_id, reply.turn_id)
    if turn is None or not _may_end(turn, stream, reply):
        return None
    plain, exact = storable(reply.text)
    values = reply.outcome | {
        "user_id": reply.user_id,
        "turn_id": reply.turn_id,
        "status": reply.status,
        "message_id": reply.message_id,
        "message_seq": stream.last_message + 1,
        "text": plain,
        "exact": exact,
        "n_tokens": reply.n_tokens,
        "is_question": "?" in plain,
        "now": reply.now,
    }
    await session.execute(FINISH, values)
    await append_locked(session, reply.user_id, head=stream.head, events=reply.events, sender=sender)
    return stream.head + 1


def _may_end(turn: Row[Any], stream: Row[Any], reply: Reply) -> bool:
    if reply.generation is None:
        return turn.state == "queued"
    return turn.state == "running" and turn.generation == stream.generation == reply.generation


async def get(session: AsyncSession, user_id: UUID, turn_id: UUID) -> Row[Any] | None:
    """The turn's row, or None if the user has no such turn."""
    return (await session.execute(ONE, {"user_id": user_id, "turn_id": turn_id})).one_or_none()
