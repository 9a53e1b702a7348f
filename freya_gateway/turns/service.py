"""What a user can ask of turns: send, stop, look, wait. Everything accepted here is answered, whatever happens next."""

import asyncio
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID, uuid4

from loguru import logger

from freya_gateway.db import leases
from freya_gateway.db import messages as messages_store
from freya_gateway.db import turns as store
from freya_gateway.db.events import NewEvent, StoredEvent
from freya_gateway.db.query import Row
from freya_gateway.db.turns import MOST_QUEUED, Accepted, NewMessage, Repeat, Reply, Situation
from freya_gateway.errors import Conflict, Invalid, NotFound, TooLarge, TooManyRequests, Unavailable
from freya_gateway.events.hub import Reader
from freya_gateway.events.types import Cursor, to_json
from freya_gateway.events.writer import numbered
from freya_gateway.llm.tokens import count_tokens
from freya_gateway.turns.means import Means
from freya_gateway.turns.replies import STOPPED, ReplyData
from freya_gateway.turns.supervisor import Supervisor

IfBusy = Literal["queue", "interrupt", "reject"]
RETRY_SECONDS = 5
OBEY_SECONDS = 2.0  # that a command of the memory may keep its turn waiting
MOST_TRIES = 20  # each fails only if the user's stream moved on in the millisecond between a look and a write


@dataclass(frozen=True, slots=True)
class Send:
    """A user's words, as they were sent."""

    text: str
    client_message_id: UUID | None = None
    if_busy: IfBusy = "queue"


@dataclass(frozen=True, slots=True)
class Sent:
    """An accepted message. `cursor` stands just before the turn's first event; `first_event` is that event's seq.
    `listening` is the event itself, if this send wrote it (and was not the repetition of another)."""

    turn_id: UUID
    message_id: UUID
    cursor: Cursor
    first_event: int
    state: str
    listening: StoredEvent | None = None


@dataclass(frozen=True, slots=True)
class TurnView:
    """A turn as its user sees it; `reply` is the data of its `reply` event once it has ended."""

    id: UUID
    state: str
    status: str | None
    attempt: int
    first_event: int
    message_ids: tuple[UUID, ...]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    reply: dict[str, Any] | None


class TurnService:
    """Sends and stops. Holds no state of its own but whether it still accepts."""

    def __init__(self, means: Means, supervisor: Supervisor, *, longest: int) -> None:
        self._means = means
        self._supervisor = supervisor
        self._longest = longest  # tokens of a message
        self.accepting = True

    async def send(self, user_id: UUID, send: Send) -> Sent:
        """Accepts a message: durable before this returns, and answered in its turn. Raises FreyaError."""
        if not self.accepting:
            raise Unavailable("draining", "This server is about to stop; send again.", retry_after=RETRY_SECONDS)
        message = self._new_message(user_id, send)
        for _ in range(MOST_TRIES):
            async with self._means.database.reading() as connection:
                seen = await store.situation(connection, user_id, now=message.now)
                known = send.client_message_id and await store.repeated(connection, user_id, send.client_message_id)
                if known:
                    return _repeat(known, send, seen)
                _check_busy(send, seen)
                accepted = await store.accept(connection, message, seen=seen, sender=self._means.owner)
            if accepted is not None:
                return await self._obeyed(message, seen, accepted)
        raise Unavailable("database_unavailable", "The stream is too busy at the moment; try again.", retry_after=1)

    async def stop(self, user_id: UUID, turn_id: UUID) -> TurnView:
        """Asks for the end of a turn, in any phase; asking again changes nothing. Raises NotFound."""
        view = await self.get(user_id, turn_id)
        if view.state == "done":
            return view
        reply = await self._unspoken(user_id, view)
        async with self._means.database.transaction() as connection:
            await store.lock(connection, user_id)
            ended = await store.finish(connection, reply, sender=self._means.owner)
            asked = ended is None and await leases.request_stop(connection, user_id, turn_id)
        if ended is not None:
            self._means.hub.publish(user_id, numbered(reply.events, ended.first))
            self._means.metrics.turns.labels(reply.status).inc()
        if asked:
            self._supervisor.stop(turn_id)
        return await self.get(user_id, turn_id)

    async def get(self, user_id: UUID, turn_id: UUID) -> TurnView:
        """The turn as it is now. Raises NotFound, for another's turn too."""
        async with self._means.database.snapshot() as connection:
            turn = await store.get(connection, user_id, turn_id)
            if turn is None:
                raise NotFound("turn_not_found", "You have no turn with this id; check the id that the send returned.")
            messages = await messages_store.of_turn(connection, user_id, turn_id)
        return _view(turn, messages)

    async def wait(self, user_id: UUID, sent: Sent, *, seconds: float) -> dict[str, Any] | None:
        """The data of the turn's `reply`, or None if it does not come within `seconds`; the turn goes on then."""
        reader = self._means.hub.join(user_id, counted=False)
        try:
            async with asyncio.timeout(seconds):
                if sent.state != "done":
                    await self._ended(reader, sent)
                return (await self.get(user_id, sent.turn_id)).reply
        except (TimeoutError, Unavailable):
            return None
        finally:
            self._means.hub.leave(reader)

    async def _ended(self, reader: Reader, sent: Sent) -> None:
        await self._means.log.open(reader, sent.cursor, turn_start=sent.first_event)
        async for batch in self._means.log.follow(reader):
            if any(e.kind == "reply" and e.turn_id == sent.turn_id for e in batch) or reader.bye:
                return

    def _new_message(self, user_id: UUID, send: Send) -> NewMessage:
        _check_text(send.text)
        n_tokens = count_tokens(send.text)
        if n_tokens > self._longest:
            raise TooLarge(
                "message_too_long",
                f"The text has {n_tokens} tokens; at most {self._longest} are read. Shorten or split it.",
            )
        turn_id, message_id = uuid4(), uuid4()
        return NewMessage(
            user_id=user_id,
            turn_id=turn_id,
            message_id=message_id,
            text=send.text,
            n_tokens=n_tokens,
            client_message_id=send.client_message_id,
            interrupt=send.if_busy == "interrupt",
            listening=to_json({"turn": turn_id, "message": send.text, "message_id": message_id}),
            owner=self._means.owner if self._supervisor.has_room else None,
            lease=self._supervisor.lease,
            now=self._means.now(),
        )

    async def _obeyed(self, message: NewMessage, seen: Situation, accepted: Accepted) -> Sent:
        """Starts the turn, after what the message commands of the memory: the turn's prompt has it already."""
        try:
            if self._means.commands.matches(message.text):
                async with asyncio.timeout(OBEY_SECONDS):
                    await self._means.commands.obey(message.user_id, message.message_id, message.text, now=message.now)
        except Exception as error:  # boundary: the chat never breaks on memory; learning carries the command out later
            logger.opt(exception=error).warning("command failed", message=str(message.message_id))
        finally:  # a caller who has left does not keep the turn from starting
            sent = self._accepted(message, seen, accepted)
        return sent

    def _accepted(self, message: NewMessage, seen: Situation, accepted: Accepted) -> Sent:
        listening = StoredEvent(accepted.first_event, message.turn_id, "listening", 0, message.listening)
        self._means.hub.publish(message.user_id, [listening])
        if accepted.claim is not None:
            self._supervisor.start(accepted.claim)
        elif message.interrupt and seen.running is not None:
            self._supervisor.stop(seen.running)
        cursor = Cursor(accepted.epoch, accepted.first_event - 1)
        state = "running" if accepted.claim else "queued"
        return Sent(message.turn_id, message.message_id, cursor, accepted.first_event, state, listening)

    async def _unspoken(self, user_id: UUID, view: TurnView) -> Reply:
        """The end of a turn that waits; what an attempt before had said is kept."""
        said = self._means.log.said
        text = await said(user_id, view.id, first_event=view.first_event) if view.attempt else ""
        columns = STOPPED.columns(None)
        data = ReplyData(view.id, uuid4(), text, self._means.now(), STOPPED.status, columns)
        return Reply(
            user_id=user_id,
            turn_id=view.id,
            generation=None,
            message_id=data.message_id,
            text=text,
            n_tokens=count_tokens(text),
            status=STOPPED.status,
            outcome=columns,
            events=(NewEvent(view.id, "reply", view.attempt, data.to_json()),),
            now=data.created_at,
        )


def _check_text(text: str) -> None:
    if not text.strip():
        raise Invalid("empty_text", "The text is empty; send at least one visible character.")
    if "\x00" in text:
        raise Invalid("nul_in_text", "The text holds a NUL character (U+0000), which cannot be stored; remove it.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Invalid(
            "lone_surrogate", "The text holds half of a surrogate pair; send whole Unicode characters."
        ) from None


def _repeat(known: Repeat, send: Send, situation: Situation) -> Sent:
    if known.message_id is None:
        raise Conflict(
            "message_deleted", "The message with this client_message_id was deleted; use a new id to say it again."
        )
    if known.text != send.text:
        raise Conflict(
            "client_message_id_reused",
            "This client_message_id was sent before with another text; use a new id for a new message.",
        )
    cursor = Cursor(situation.epoch, known.first_event - 1)
    return Sent(known.turn_id, known.message_id, cursor, known.first_event, known.state)


def _check_busy(send: Send, situation: Situation) -> None:
    if send.if_busy == "reject" and (situation.running or situation.queued):
        raise Conflict("busy", "A turn is running; wait for its reply, or send with if_busy queue or interrupt.")
    if situation.queued >= MOST_QUEUED:
        raise TooManyRequests(
            "queue_full", f"{MOST_QUEUED} messages wait already; send again after a reply.", retry_after=RETRY_SECONDS
        )


def _view(turn: Row, messages: list[messages_store.StoredMessage]) -> TurnView:
    reply = next((m for m in messages if m.role == "assistant"), None)
    columns = dict(turn)
    data = reply and ReplyData(
        turn["id"], reply.id, reply.text, reply.said_at, turn["status"], columns, *_memory(turn["blocks"])
    )
    return TurnView(
        id=turn["id"],
        state=turn["state"],
        status=turn["status"],
        attempt=turn["attempt"],
        first_event=turn["first_event"],
        message_ids=tuple(m.id for m in messages if m.role == "user"),
        created_at=turn["created_at"],
        started_at=turn["started_at"],
        finished_at=turn["finished_at"],
        reply=data.payload() if data else None,
    )


def _memory(blocks: str | None) -> tuple[tuple[UUID, ...], tuple[UUID, ...]]:
    """(facts, topics) of a prompt's trace."""
    trace: dict[str, Any] = json.loads(blocks) if blocks else {}
    facts = trace.get("facts", {}).get("ids", ())
    topics = trace.get("recalled", {}).get("topics", ())
    return tuple(map(UUID, facts)), tuple(map(UUID, topics))
