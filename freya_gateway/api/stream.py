"""The SSE endpoint: turns a reader's view of the log into frames, beats and a farewell. It reads the log only.

sse-starlette sends the response; its own pings and its own reaction to a shutdown are switched off, because `beat` and
`bye` say more and the drain decides when a stream ends.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Header, Query, Response
from sse_starlette.sse import AppStatus, EventSourceResponse

from freya_gateway.api.dependencies import Caller, CurrentUser, GatewayState, StreamUser
from freya_gateway.api.errors import problem_responses
from freya_gateway.api.messages import to_send
from freya_gateway.api.schemas import SendBody, TicketAnswer
from freya_gateway.api.state import Gateway
from freya_gateway.db.events import StoredEvent
from freya_gateway.errors import BadRequest, Unavailable
from freya_gateway.events.hub import Bye, Reader
from freya_gateway.events.log import Opening
from freya_gateway.events.types import Cursor, to_json

HEADERS = {"cache-control": "no-store, no-transform", "x-accel-buffering": "no"}
FIRST_BEAT_SECONDS = 1.0
EARLIEST_ROTATION = 0.61  # of FREYA_ROTATE_SECONDS: 8 of 13 minutes
OVERLOAD_RETRY_MS = (5_000, 15_000)
FULL_SECONDS = 10
NEVER_MS = 3_600_000  # what EventSource is told to wait after a final `bye`

router = APIRouter(prefix="/v1", tags=["stream"])


def keep_streams_through_shutdown() -> None:
    """Stops sse-starlette from cutting streams at SIGTERM; the gateway's drain says `bye` instead."""
    AppStatus.disable_automatic_graceful_drain()


class EventStream(EventSourceResponse):
    """An SSE response. Without a timeout of its own: a timer for each chunk costs more than the chunk, and the system
    resets a connection whose peer takes nothing (see `server`)."""

    def __init__(self, body: AsyncGenerator[bytes, None]) -> None:
        super().__init__(body, headers=HEADERS, ping=0, sep="\n")


@dataclass(frozen=True, slots=True)
class OneTurn:
    """The turn that a stream follows alone. If it had ended before: its reply's data, and the seq of that event
    while the log has it."""

    id: UUID
    first_event: int
    reply: dict[str, Any] | None = None
    reply_seq: int | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """What a stream shows: a user's whole log, or one turn of it."""

    caller: Caller
    cursor: Cursor | None
    turn: OneTurn | None = None


class StreamBody:
    """The body of one SSE response."""

    def __init__(self, gateway: Gateway, target: Target) -> None:
        self._gateway = gateway
        self._target = target
        self._loop = asyncio.get_running_loop()
        self._slow = False
        settings = gateway.settings
        now = self._loop.time()
        self._next_beat = now + FIRST_BEAT_SECONDS
        self._ends_at = now + settings.rotate_seconds * random.uniform(EARLIEST_ROTATION, 1)
        self._end = "rotate"
        self._limit_to_credential(target.caller)

    def _limit_to_credential(self, caller: Caller) -> None:
        if caller.expires_at is None:
            return
        left = (caller.expires_at - self._gateway.now()).total_seconds()
        if self._loop.time() + left < self._ends_at:
            self._ends_at, self._end = self._loop.time() + left, "auth"

    async def frames(self) -> AsyncGenerator[bytes, None]:
        """`retry` and `ready`, what was missed or is under way, then everything as it comes, until `bye` or a reply."""
        reader = self._gateway.hub.join(self._target.caller.user_id)
        reader.task = asyncio.current_task()
        reason = "left"
        try:
            opening = await self._open(reader)
            self._gateway.metrics.resumes.labels(opening.reason or "recovered").inc()
            yield self._beginning(opening)
            if self._target.turn and _is_over(self._target.turn, reader):
                reason = "done"
                if self._target.turn.reply_seq is None or not opening.recovered:
                    yield _frame("reply", to_json(self._target.turn.reply))
                return
            async for chunk in self._follow(reader, opening.epoch):
                began = reader.sending_since = self._loop.time()
                yield chunk
                reader.sending_since = None
                self._slow = self._slow or self._loop.time() - began > self._gateway.settings.slow_seconds
            reason = reader.bye.reason if reader.bye else "done"
            if self._target.caller.ticket and reader.bye and reader.bye.final:
                self._gateway.retired.add(self._target.caller.ticket)
        except Unavailable:
            reason = "unavailable"
            yield _retry(random.randint(1000, 3000)) + _bye(Bye("rotate", retry_ms=_random_ms(OVERLOAD_RETRY_MS)))
        finally:
            self._gateway.hub.leave(reader)
            self._gateway.metrics.closed_streams.labels(reason).inc()

    async def _open(self, reader: Reader) -> Opening:
        turn = self._target.turn
        return await self._gateway.log.open(reader, self._target.cursor, turn_start=turn.first_event if turn else None)

    def _beginning(self, opening: Opening) -> bytes:
        ready = {
            "epoch": opening.epoch,
            "head": opening.head,
            "phase": opening.phase,
            "recovered": opening.recovered,
            "reason": opening.reason,
            "replay": opening.replay,
            "beat_ms": round(self._gateway.settings.beat_seconds * 1000),
        }
        snapshot = self._framed(opening.snapshot, opening.epoch)
        return _retry(random.randint(1000, 3000)) + _frame("ready", to_json(ready)) + snapshot

    async def _follow(self, reader: Reader, epoch: str) -> AsyncGenerator[bytes, None]:
        async for batch in self._gateway.log.follow(reader):
            chunk = self._framed(batch, epoch)
            if self._turn_ended(batch):
                yield chunk
                return
            chunk += self._due(reader)
            if reader.bye is not None:
                yield chunk + _bye(reader.bye)
                return
            if chunk:
                yield chunk

    def _framed(self, events: Sequence[StoredEvent], epoch: str) -> bytes:
        turn = self._target.turn
        wanted = events if turn is None else [e for e in events if e.turn_id == turn.id]
        return "".join([f"id: {epoch}.{e.seq}\nevent: {e.kind}\ndata: {e.data}\n\n" for e in wanted]).encode()

    def _turn_ended(self, batch: Sequence[StoredEvent]) -> bool:
        turn = self._target.turn
        return turn is not None and any(e.kind == "reply" and e.turn_id == turn.id for e in batch)

    def _due(self, reader: Reader) -> bytes:
        """What is due without an event: a beat; an end, which is left at `reader.bye`. Sets when to look again."""
        now = self._loop.time()
        if self._slow:
            reader.dismiss(Bye("slow", retry_ms=_random_ms((500, 2000))))
        if now >= self._ends_at:
            reader.dismiss(Bye(self._end, retry_ms=_random_ms((0, 1000))))
        beat = b""
        if now >= self._next_beat:
            self._next_beat = now + self._gateway.settings.beat_seconds
            beat = _frame("beat", to_json({"head": reader.channel.head}))
        reader.wake_at = min(self._next_beat, self._ends_at)
        return beat


def _is_over(turn: OneTurn, reader: Reader) -> bool:
    """Whether the turn's reply lies behind the reader, or is in the log no more: nothing of it is still to come."""
    return turn.reply is not None and (turn.reply_seq is None or reader.seq >= turn.reply_seq)


def _frame(event: str, data: str) -> bytes:
    return f"event: {event}\ndata: {data}\n\n".encode()


def _retry(milliseconds: int) -> bytes:
    return f"retry: {milliseconds}\n\n".encode()


def _bye(bye: Bye) -> bytes:
    farewell = _frame("bye", to_json({"reason": bye.reason, "retry_ms": bye.retry_ms, "final": bye.final}))
    return _retry(NEVER_MS) + farewell if bye.final else farewell


def _random_ms(span: tuple[int, int]) -> int:
    return random.randint(*span)


async def _turned_away(reason: str) -> AsyncGenerator[bytes, None]:
    """An overloaded server's answer: EventSource would give up for good at any other status than 200."""
    retry = _random_ms(OVERLOAD_RETRY_MS)
    yield _retry(retry) + _bye(Bye(reason, retry_ms=retry))


def _stream(gateway: Gateway, target: Target) -> EventStream:
    if gateway.draining or gateway.hub.full:
        return EventStream(_turned_away("deploy" if gateway.draining else "rotate"))
    return EventStream(StreamBody(gateway, target).frames())


def _cursor(after: str | None, last_event_id: str | None) -> Cursor | None:
    """The header wins; an empty one counts as none."""
    given = last_event_id or after
    if not given:
        return None
    cursor = Cursor.parse(given)
    if cursor is None:
        raise BadRequest(
            "bad_cursor", "A cursor reads {epoch}.{seq}; send an event's id unchanged, or none to begin afresh."
        )
    return cursor


async def _one_turn(gateway: Gateway, caller: Caller, turn_id: UUID) -> OneTurn:
    view = await gateway.turns.get(caller.user_id, turn_id)
    seq = await gateway.log.reply_seq(caller.user_id, turn_id, first_event=view.first_event) if view.reply else None
    return OneTurn(view.id, view.first_event, view.reply, seq)


async def _delivered(gateway: Gateway, caller: Caller, turn: OneTurn, cursor: Cursor) -> bool:
    """Whether a reader at `cursor` has seen the turn's reply."""
    if turn.reply_seq is None or cursor.seq < turn.reply_seq:
        return False
    return cursor.epoch == await gateway.log.epoch(caller.user_id)


SSE_ANSWER = {
    200: {
        "description": (
            "Server-Sent Events, until `bye` or, for one turn, its `reply`. Events: `ready`, `listening`, `thinking`, "
            "`token`, `reply`, `memory`, `beat`, `bye`; the `data` of each is one line of JSON, and the `id` of a "
            "numbered one is the cursor to resume from. Ignore events and fields that you do not know."
        ),
        "content": {
            "text/event-stream": {
                "schema": {"type": "string"},
                "example": (
                    'retry: 1800\n\nevent: ready\ndata: {"epoch":"5b1f0c2a9e","head":4,"phase":"idle","recovered":true,'
                    '"reason":null,"replay":0,"beat_ms":15000}\n\nid: 5b1f0c2a9e.5\nevent: listening\n'
                    'data: {"turn":"6f0d8c1e-3a52-4a0e-9d55-0d2f3c1b7a10","message":"Hello Freya",'
                    '"message_id":"0f6b7a52-9c1f-4f57-8a53-6a4f1b9c2d11"}\n\n'
                ),
            }
        },
    }
}
After = Annotated[str | None, Query(description="A cursor `{epoch}.{seq}` to resume after.")]
LastEventId = Annotated[str | None, Header(description="Like `after`, and wins over it; EventSource sends it.")]


@router.get(
    "/stream",
    response_class=Response,
    summary="Follow your stream",
    responses=SSE_ANSWER
    | {204: {"description": "After a `bye` with `final`, or the followed turn's reply: do not come back."}}
    | problem_responses(400, 401, 404, 422, 503),
)
async def follow_stream(
    gateway: GatewayState,
    caller: StreamUser,
    *,
    after: After = None,
    last_event_id: LastEventId = None,
    turn: Annotated[UUID | None, Query(description="Follow this turn only, and end after its reply.")] = None,
) -> Response:
    """Everything that happens to you, from the cursor on, across turns and devices; any number of tabs."""
    cursor = _cursor(after, last_event_id)
    if caller.ticket in gateway.retired:
        return Response(status_code=204)
    if turn is None:
        return _stream(gateway, Target(caller, cursor))
    one = await _one_turn(gateway, caller, turn)
    if cursor is not None and await _delivered(gateway, caller, one, cursor):
        return Response(status_code=204)
    return _stream(gateway, Target(caller, cursor, one))


@router.post(
    "/stream",
    response_class=Response,
    summary="Send a message and follow its turn",
    responses=SSE_ANSWER | problem_responses(400, 401, 409, 413, 415, 422, 429, 503),
)
async def send_and_follow(
    body: SendBody,
    gateway: GatewayState,
    caller: CurrentUser,
    *,
    after: After = None,
    last_event_id: LastEventId = None,
) -> EventStream:
    """For `curl -N` and `fetch`: the same events, ending after the `reply`. The turn runs on if you leave."""
    cursor = _cursor(after, last_event_id)
    if gateway.hub.full:
        raise Unavailable("too_many_streams", "This server has no room for another stream.", retry_after=FULL_SECONDS)
    gateway.limiter.check(caller.user_id)
    sent = await gateway.turns.send(caller.user_id, to_send(body))
    if sent.repeated:
        return _stream(gateway, Target(caller, cursor, await _one_turn(gateway, caller, sent.turn_id)))
    return _stream(gateway, Target(caller, cursor, OneTurn(sent.turn_id, sent.first_event)))


@router.post(
    "/stream/tickets", response_model=TicketAnswer, summary="Get a ticket", responses=problem_responses(401, 503)
)
async def issue_ticket(gateway: GatewayState, caller: CurrentUser) -> TicketAnswer:
    """A signed ticket for `GET /v1/stream?ticket=`, because EventSource can send no header. It lives for a minute."""
    ticket = gateway.authenticator.issue_ticket(caller.principal)
    return TicketAnswer(ticket=ticket.ticket, expires_in=ticket.expires_in)
