"""The bodies of requests and answers, as the API reference shows them. Tables never leave the process."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse

from freya_gateway.events.types import to_json

EXAMPLE_TURN = "6f0d8c1e-3a52-4a0e-9d55-0d2f3c1b7a10"
EXAMPLE_MESSAGE = "0f6b7a52-9c1f-4f57-8a53-6a4f1b9c2d11"


class ExactJson(JSONResponse):
    """An answer whose texts are exact, also where they hold half of a surrogate pair, which pydantic cannot write."""

    def __init__(self, answer: BaseModel, *, status: int = 200, without: set[str] | None = None) -> None:
        super().__init__(answer.model_dump(exclude=without), status)

    def render(self, content: object) -> bytes:
        return to_json(content).encode()


class SendBody(BaseModel):
    """A message to Freya."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"text": "Hello Freya"}, {"text": "Wait, no", "if_busy": "interrupt"}]},
    )

    text: Annotated[str, Field(description="What the user says: whole Unicode characters, no NUL.")]
    client_message_id: Annotated[
        UUID | None, Field(description="Makes a retry safe: the same id with the same text is the same turn.")
    ] = None
    if_busy: Annotated[
        Literal["queue", "interrupt", "reject"],
        Field(description="While a turn runs: wait for its end, end it now, or be refused with 409."),
    ] = "queue"


class ReplyAnswer(BaseModel):
    """The data of a `reply` event."""

    turn: UUID
    message: Annotated[str, Field(description="Freya's whole words.")]
    message_id: UUID
    created_at: datetime
    status: Literal["complete", "stopped", "interrupted", "length", "filtered", "fallback"]
    finish_reason: str | None
    length: Annotated[int, Field(description="UTF-16 code units of `message`.")]
    usage: dict[str, int] | None
    ttft_ms: int | None
    memory: dict[str, list[UUID]]
    error: dict[str, Any] | None = None


class SentAnswer(BaseModel):
    """An accepted message. `reply` is there only where the answer was waited for."""

    turn: UUID
    message: UUID
    cursor: Annotated[str, Field(description="Just before the turn's first event: `?after=` it shows the whole turn.")]
    state: Literal["queued", "running", "done"]
    reply: ReplyAnswer | None = None


class MessageAnswer(BaseModel):
    """One utterance."""

    id: UUID
    seq: int
    turn: UUID | None
    conversation: UUID
    role: Literal["user", "assistant"]
    text: str
    said_at: datetime


class MessagePage(BaseModel):
    """Messages, newest first. `before` is the next page's, null on the last."""

    messages: list[MessageAnswer]
    before: int | None


class TurnAnswer(BaseModel):
    """A turn as it is now."""

    turn: UUID
    state: Literal["queued", "running", "done"]
    status: str | None
    attempt: int
    messages: list[UUID]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    reply: ReplyAnswer | None


class TicketAnswer(BaseModel):
    """A ticket for `GET /v1/stream?ticket=`."""

    ticket: str
    expires_in: Annotated[int, Field(description="Seconds.")]
