"""How a turn can end, and the `reply` event that says so."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from freya_gateway.errors import ModelError
from freya_gateway.events.types import to_json, utf16_length
from freya_gateway.llm.types import Finish

Status = Literal["complete", "stopped", "interrupted", "length", "filtered", "fallback"]

# Freya's own words where no model gave any: a failed turn still ends with something kind to read.
FALLBACK_WORDS = "I'm here, but my thoughts won't come together right now. Give me a moment and say that again?"
FILTERED_WORDS = "I'd rather not put that into words. Shall we come at it from another side?"
BY_FINISH_REASON: dict[str, Status] = {"stop": "complete", "length": "length", "content_filter": "filtered"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the model's part of a turn ended. `finish` is there only where the model itself ended."""

    status: Status
    finish: Finish | None = None
    error: ModelError | None = None

    @property
    def words_if_silent(self) -> str:
        """What Freya says if no piece of a reply came."""
        if self.status == "filtered":
            return FILTERED_WORDS
        return "" if self.status == "stopped" else FALLBACK_WORDS

    def columns(self, ttft_ms: int | None) -> dict[str, Any]:
        """The turn's columns that tell how it went."""
        usage = self.finish.usage if self.finish else None
        return {
            "model": self.finish.model if self.finish else None,
            "finish_reason": self.finish.reason if self.finish else None,
            "prompt_tokens": usage.prompt_tokens if usage else None,
            "cached_tokens": usage.cached_tokens if usage else None,
            "completion_tokens": usage.completion_tokens if usage else None,
            "ttft_ms": ttft_ms,
            "error_code": self.error.code if self.error else None,
            "error_retryable": self.error.retryable if self.error else None,
        }


STOPPED = Outcome("stopped")


def ended(finish: Finish) -> Outcome:
    return Outcome(BY_FINISH_REASON[finish.reason], finish)


def failed(error: ModelError, *, spoke: bool) -> Outcome:
    """`interrupted` keeps what was said; where nothing was, Freya's fallback words stand in."""
    return Outcome("interrupted" if spoke else "fallback", error=error)


@dataclass(frozen=True, slots=True)
class ReplyData:
    """What a `reply` event says, from a turn's row or on its way into one."""

    turn_id: UUID
    message_id: UUID
    text: str
    created_at: datetime
    status: str
    columns: dict[str, Any]
    facts: tuple[UUID, ...] = ()
    topics: tuple[UUID, ...] = ()

    def payload(self) -> dict[str, Any]:
        """The event's data. `error` is there only where there was one."""
        columns = self.columns
        usage = None
        if columns["prompt_tokens"] is not None:
            usage = {name: columns[name] for name in ("prompt_tokens", "completion_tokens", "cached_tokens")}
        error = {"code": columns["error_code"], "retryable": columns["error_retryable"]}
        return {
            "turn": self.turn_id,
            "message": self.text,
            "message_id": self.message_id,
            "created_at": self.created_at,
            "status": self.status,
            "finish_reason": columns["finish_reason"],
            "length": utf16_length(self.text),
            "usage": usage,
            "ttft_ms": columns["ttft_ms"],
            "memory": {"facts": self.facts, "topics": self.topics},
        } | ({"error": error} if columns["error_code"] else {})

    def to_json(self) -> str:
        return to_json(self.payload())
