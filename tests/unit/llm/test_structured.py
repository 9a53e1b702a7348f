"""Answers that are data: a checked object, or a failure with its name; never a guess."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from loguru import logger
from pydantic import BaseModel, ConfigDict, SecretStr

from freya_gateway.errors import ModelError
from freya_gateway.llm.openai import OPENAI_URL
from freya_gateway.llm.structured import OpenAIStructured, StructuredOptions, request_body, strict
from freya_gateway.llm.types import ChatMessage
from freya_gateway.metrics import Metrics
from tests.model_server import Behaviour, Cut, Hang, ModelServer, Reply, Status, data

MESSAGES = (ChatMessage("system", "Sort."), ChatMessage("user", "my umbrella is red"))


class Item(BaseModel):
    model_config = ConfigDict(extra="forbid")

    title: str
    number: int | None


class Sorted(BaseModel):
    """What was found."""

    model_config = ConfigDict(extra="forbid")

    items: list[Item] = []


@pytest.fixture
async def ask(model: ModelServer) -> AsyncIterator[Callable[..., Any]]:
    options = StructuredOptions(model="sorter", base_url=model.base_url, api_key=SecretStr("k"), timeout=0.5)
    asker = OpenAIStructured(options, Metrics())

    async def once(*behaviours: Behaviour) -> Sorted:
        model.script_for("Sorted", *behaviours)
        return await asker.ask(MESSAGES, schema=Sorted, user="u-1")

    yield once
    await asker.aclose()


async def test_answer_is_an_object_of_the_schema(ask: Callable[..., Any], model: ModelServer) -> None:
    found = await ask(data({"items": [{"title": "umbrella", "number": None}]}))
    assert found == Sorted(items=[Item(title="umbrella", number=None)])
    body = model.structured[0].body
    assert (body["model"], body["temperature"], body["user"]) == ("sorter", 0, "u-1")
    assert body["response_format"]["json_schema"]["strict"] is True
    assert "stream" not in body or body["stream"] is False
    assert [message["content"] for message in body["messages"]] == [message.content for message in MESSAGES]


async def test_unscripted_server_answers_with_nothing(ask: Callable[..., Any]) -> None:
    assert await ask() == Sorted()


@pytest.mark.parametrize(
    ("behaviour", "code"),
    [
        (Status(429), "rate_limited"),
        (Status(500), "upstream_error"),
        (Status(401, code="invalid_api_key"), "rejected"),
        (Cut(headers=False), "unreachable"),
        (Hang(), "timeout"),
        (Reply(("no JSON at all",)), "malformed_answer"),
        (Reply(('{"items": [{"title": "cut in the mid',)), "malformed_answer"),
        (Reply(('{"items": []}',), finish="length"), "cut_short"),
        (Reply(('{"items": []}',), finish="content_filter"), "refused"),
        (Reply(('{"items": []}',), finish="null"), "no_finish_reason"),
        (Reply(("",)), "malformed_answer"),
        (data({"items": "none"}), "malformed_answer"),
        (data({"items": [{"title": "a"}]}), "malformed_answer"),
        (data({"items": [], "more": 1}), "malformed_answer"),
        (data([]), "malformed_answer"),
        (Reply(("[" * 100_000,)), "malformed_answer"),
    ],
)
async def test_whatever_is_no_whole_answer_is_a_failure(
    ask: Callable[..., Any], behaviour: Behaviour, code: str
) -> None:
    lines: list[str] = []
    sink = logger.add(lambda line: lines.append(str(line)), level="DEBUG")
    try:
        with pytest.raises(ModelError) as failure:
            await ask(behaviour)
    finally:
        logger.remove(sink)
    assert failure.value.code == code
    assert any("structured answer failed" in line for line in lines)
    assert "umbrella" not in "".join(lines)


def test_strict_schema_requires_everything_and_allows_nothing_else() -> None:
    schema = strict(Sorted.model_json_schema())
    item = schema["$defs"]["Item"]
    assert schema["required"] == ["items"]
    assert item["required"] == ["title", "number"]
    assert schema["additionalProperties"] is item["additionalProperties"] is False
    assert "default" not in schema["properties"]["items"]
    assert item["properties"]["title"] == {"type": "string"}


def test_openai_itself_is_asked_in_its_own_words() -> None:
    options = StructuredOptions(model="m", base_url=OPENAI_URL)
    body = request_body(options, MESSAGES, schema=Sorted, user="u-1")
    assert b'"max_completion_tokens"' in body
    assert b'"safety_identifier":"u-1"' in body
