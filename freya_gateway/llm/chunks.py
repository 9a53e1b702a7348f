"""A chunk of a streamed chat completion: the few fields that the gateway uses, and what they mean.

Msgspec structs, not the SDK's pydantic models: decoding runs for every token (0.5 us instead of 170).
"""

import json
from typing import Final

import msgspec

from freya_gateway.llm.types import FinishReason, Usage

MAX_COUNT: Final = 2**31 - 1  # the columns are integers
MAX_MODEL_LENGTH: Final = 200

FILTERED = frozenset({"content_filter", "safety", "recitation", "prohibited_content"})
CUT_SHORT = frozenset({"length", "max_tokens", "model_length"})
NOT_YET = frozenset({"", "null"})
FAILED = "error"


class Delta(msgspec.Struct, frozen=True, gc=False):
    content: str | None = None
    refusal: str | None = None

    @property
    def text(self) -> str:
        """The model's words. A refusal is its words to the user as well."""
        return self.content or self.refusal or ""


class Choice(msgspec.Struct, frozen=True, gc=False):
    delta: Delta | None = None
    finish_reason: str | None = None


class PromptDetails(msgspec.Struct, frozen=True, gc=False):
    cached_tokens: int | float | None = None


class ChunkUsage(msgspec.Struct, frozen=True, gc=False):
    prompt_tokens: int | float | None = None
    completion_tokens: int | float | None = None
    prompt_tokens_details: PromptDetails | None = None

    def counted(self) -> Usage:
        """Usage within what a column holds, whatever the provider counts."""
        details = self.prompt_tokens_details or PromptDetails()
        return Usage(_count(self.prompt_tokens), _count(self.completion_tokens), _count(details.cached_tokens))


class ErrorObject(msgspec.Struct, frozen=True, gc=False):
    """A provider's error in mid-stream; its `message` is left where it is."""

    code: object = None
    type: object = None


class Chunk(msgspec.Struct, frozen=True, gc=False):
    choices: list[Choice] | None = None
    usage: ChunkUsage | None = None
    model: str | None = None
    error: ErrorObject | str | None = None


_decode = msgspec.json.Decoder(Chunk).decode


def decode_chunk(payload: bytes) -> Chunk:
    """The chunk in `payload`. Raises ValueError when it is none."""
    try:
        return _decode(payload)
    except (ValueError, RecursionError):
        return _decode_loosely(payload)


def _decode_loosely(payload: bytes) -> Chunk:
    """Half a surrogate pair and broken UTF-8 are no reason to lose a reply; msgspec refuses both."""
    try:
        return msgspec.convert(json.loads(payload.decode("utf-8", "replace")), Chunk)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def finish_reason(word: str | None) -> FinishReason | None:
    """The protocol's reason for a provider's word; None while there is none.

    No tools are offered, so `tool_calls` ends a reply as `stop` does, and so does a word of a provider's own (`eos`).
    """
    if word is None or (word := word.lower()) in NOT_YET:
        return None
    if word in FILTERED:
        return "content_filter"
    return "length" if word in CUT_SHORT else "stop"


def model_name(name: str | None, asked: str) -> str:
    """The model that answered, if the provider gives a name that can be stored; else the one that was asked."""
    return name if name and len(name) <= MAX_MODEL_LENGTH and name.isprintable() else asked


def _count(value: float | None) -> int:
    return int(min(max(value or 0, 0), MAX_COUNT))
