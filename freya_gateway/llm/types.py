"""What the gateway asks of a model and what it gets back, whoever the provider is.

A call is `model.stream(request)`: an async iterator of text pieces that ends with exactly one Finish,
or raises ModelError. Closing the iterator closes the provider's connection.
"""

from collections.abc import AsyncGenerator, Sequence
from typing import Literal, Protocol

import msgspec

FinishReason = Literal["stop", "length", "content_filter"]


class ChatMessage(msgspec.Struct, frozen=True):
    """One message of a prompt, as the provider's chat format has it."""

    role: Literal["system", "user", "assistant"]
    content: str


class Usage(msgspec.Struct, frozen=True):
    """Tokens as billed by the provider; `cached_tokens` is the part of `prompt_tokens` billed at the cached price."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


class Piece(msgspec.Struct, frozen=True):
    """A piece of the reply, never empty."""

    text: str


class Finish(msgspec.Struct, frozen=True):
    """The end of a reply: why it ended, what it cost, and which model gave it."""

    reason: FinishReason
    usage: Usage
    model: str


class ChatModel(Protocol):
    """The port to a model."""

    def stream(self, messages: Sequence[ChatMessage], *, user: str) -> AsyncGenerator[Piece | Finish, None]:
        """The reply to `messages`, piece by piece, then one Finish.

        `user` is a stable opaque id for the provider's abuse detection.
        Raises ModelError before the first piece (no model answered, retries and fallback included)
        or after it (the reply broke off; what was yielded stands).
        """
        ...

    async def aclose(self) -> None: ...
