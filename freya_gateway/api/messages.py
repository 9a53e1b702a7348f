"""Sending a message, and reading what was said."""

from typing import Annotated, Any

from fastapi import APIRouter, Query

from freya_gateway.api.dependencies import CurrentUser, GatewayState
from freya_gateway.api.errors import problem_responses
from freya_gateway.api.schemas import ExactJson, MessageAnswer, MessagePage, SendBody, SentAnswer
from freya_gateway.db import messages as store
from freya_gateway.db.messages import StoredMessage
from freya_gateway.turns.service import Send, Sent

LONGEST_WAIT = 120.0  # seconds
NEWEST = 2**62  # above every seq

router = APIRouter(prefix="/v1", tags=["messages"])


@router.post(
    "/messages",
    status_code=202,
    response_model=SentAnswer,
    summary="Send a message",
    responses={200: {"model": SentAnswer, "description": "The reply came while the answer was held."}}
    | problem_responses(400, 401, 409, 413, 415, 422, 429, 503),
)
async def send_message(
    body: SendBody,
    gateway: GatewayState,
    caller: CurrentUser,
    wait: Annotated[float, Query(ge=0, le=LONGEST_WAIT, description="Seconds to hold the answer for the reply.")] = 0,
) -> ExactJson:
    """Accepts a message: stored, and answered in its turn, whatever happens to this connection.

    The events of the turn appear on `GET /v1/stream`; `cursor` stands just before the first of them.
    """
    gateway.limiter.check(caller.user_id)
    sent = await gateway.turns.send(caller.user_id, to_send(body))
    reply = await gateway.turns.wait(caller.user_id, sent, seconds=wait) if wait else None
    return _sent(sent, reply)


@router.get(
    "/messages", response_model=MessagePage, summary="Read the history", responses=problem_responses(401, 422, 503)
)
async def list_messages(
    gateway: GatewayState,
    caller: CurrentUser,
    before: Annotated[int, Query(ge=0, le=NEWEST, description="Only messages with a lower `seq`.")] = NEWEST,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> ExactJson:
    """Every word said, newest first; follow `before` to the beginning."""
    async with gateway.database.reading() as connection:
        found = await store.page(connection, caller.user_id, before=before, limit=limit)
    more = len(found) == limit and found[-1].seq > 1
    return ExactJson(MessagePage(messages=[message_answer(m) for m in found], before=found[-1].seq if more else None))


def to_send(body: SendBody) -> Send:
    return Send(body.text, body.client_message_id, body.if_busy)


def _sent(sent: Sent, reply: dict[str, Any] | None) -> ExactJson:
    fields = {"turn": sent.turn_id, "message": sent.message_id, "cursor": str(sent.cursor), "state": sent.state}
    if reply is None:
        return ExactJson(SentAnswer.model_validate(fields), status=202, without={"reply"})
    return ExactJson(SentAnswer.model_validate(fields | {"state": "done", "reply": reply}))


def message_answer(message: StoredMessage) -> MessageAnswer:
    return MessageAnswer(
        id=message.id,
        seq=message.seq,
        turn=message.turn_id,
        conversation=message.conversation_id,
        role="user" if message.role == "user" else "assistant",
        text=message.text,
        said_at=message.said_at,
    )
