"""A real client against the scripted model, with timeouts that a test can wait for."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from freya_gateway.errors import ModelError
from freya_gateway.llm.openai import OpenAIChat, OpenAIOptions
from freya_gateway.llm.types import ChatMessage, Finish, Piece
from freya_gateway.metrics import Metrics
from tests.model_server import ModelServer

MESSAGES = (ChatMessage("system", "You are Freya."), ChatMessage("user", "Where is my red umbrella?"))


@dataclass
class Answer:
    """What a stream gave."""

    pieces: list[str]
    finish: Finish | None = None
    error: ModelError | None = None

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def code(self) -> str | None:
        return self.error.code if self.error else None


class Asker:
    """A client and what it counts."""

    def __init__(self, chat: OpenAIChat, metrics: Metrics) -> None:
        self.chat = chat
        self._metrics = metrics

    async def ask(self, *messages: ChatMessage, user: str = "u-1") -> Answer:
        answer = Answer([])
        try:
            async for item in self.chat.stream(messages or MESSAGES, user=user):
                assert answer.finish is None, "nothing follows a Finish"
                if isinstance(item, Piece):
                    assert item.text, "a piece is never empty"
                    answer.pieces.append(item.text)
                else:
                    answer.finish = item
        except ModelError as error:
            answer.error = error
        return answer

    def errors(self, code: str) -> float:
        """How often `code` was counted."""
        return self._metrics.registry.get_sample_value("freya_upstream_errors_total", {"code": code}) or 0.0


@pytest.fixture
async def asker(model: ModelServer) -> AsyncIterator[Callable[..., Asker]]:
    """Clients of the scripted model, with options."""
    chats: list[OpenAIChat] = []

    def make(**options: Any) -> Asker:
        metrics = Metrics()
        quick: dict[str, Any] = {
            "model": "freya",
            "base_url": model.base_url,
            "first_piece_timeout": 2.0,
            "piece_timeout": 2.0,
            "backoff": 0.001,
        }
        chats.append(OpenAIChat(OpenAIOptions(**quick | options), metrics))
        return Asker(chats[-1], metrics)

    yield make
    for chat in chats:
        await chat.aclose()
