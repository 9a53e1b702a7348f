"""The SSE endpoint: who may read which stream from where, and the response that carries it."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Header, Query, Response
from sse_starlette.sse import AppStatus, EventSourceResponse
from starlette.types import Receive, Scope, Send

from freya_gateway.api.dependencies import Caller, CurrentUser, GatewayState, StreamUser
from freya_gateway.api.errors import problem_responses
from freya_gateway.api.frames import OneTurn, StreamBody, Target, turned_away
from freya_gateway.api.messages import to_send
from freya_gateway.api.middleware import afterwards
from freya_gateway.api.schemas import SendBody, TicketAnswer
from freya_gateway.api.state import Gateway
from freya_gateway.errors import BadRequest, Conflict, Unavailable
from freya_gateway.events.types import Cursor

HEADERS = {"cache-control": "no-store, no-transform", "x-accel-buffering": "no"}
FULL_SECONDS = 10

router = APIRouter(prefix="/v1", tags=["stream"])


def keep_streams_through_shutdown() -> None:
    """Stops sse-starlette from cutting streams at SIGTERM; the gateway's drain says `bye` instead."""
    AppStatus.disable_automatic_graceful_drain()


class EventStream(EventSourceResponse):
    """An SSE response whose body is frames already. It sends its head, and streams when the app has forgotten the
    request: what routing keeps alive until then, and the base class's tasks and timers, are 20 KB for each stream."""

    def __init__(self, body: AsyncGenerator[bytes, None], *, on_leave: Callable[[], None] = lambda: None) -> None:
        super().__init__(body, headers=HEADERS, ping=0, sep="\n")
        self._body = body
        self._on_leave = on_leave

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        afterwards(scope, self._stream)

    async def _stream(self, receive: Receive, send: Send) -> None:
        watching = asyncio.create_task(self._watch(receive))
        try:
            async with aclosing(self._body) as body:
                async for chunk in body:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            watching.cancel()

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._on_leave()


def _stream(gateway: Gateway, target: Target) -> EventStream:
    if gateway.draining or gateway.hub.full:
        return EventStream(turned_away("deploy" if gateway.draining else "rotate"))
    body = StreamBody(gateway, target)
    return EventStream(body.frames(), on_leave=body.leave)


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
    if view.state == "done" and view.reply is None:
        raise Conflict("reply_deleted", "The turn has ended and its reply was deleted; there is nothing to follow.")
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
                    'retry: 1800\nevent: ready\ndata: {"epoch":"5b1f0c2a9e","head":4,"phase":"idle","recovered":true,'
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
    | problem_responses(400, 401, 404, 409, 422, 503),
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
    if sent.listening is None:  # sent before: the log knows how far it has come
        return _stream(gateway, Target(caller, cursor, await _one_turn(gateway, caller, sent.turn_id)))
    turn = OneTurn(sent.turn_id, sent.first_event, listening=sent.listening)
    return _stream(gateway, Target(caller, sent.cursor, turn))


@router.post(
    "/stream/tickets", response_model=TicketAnswer, summary="Get a ticket", responses=problem_responses(401, 503)
)
async def issue_ticket(gateway: GatewayState, caller: CurrentUser) -> TicketAnswer:
    """A signed ticket for `GET /v1/stream?ticket=`, because EventSource can send no header. It lives for a minute."""
    ticket = gateway.authenticator.issue_ticket(caller.principal)
    return TicketAnswer(ticket=ticket.ticket, expires_in=ticket.expires_in)
