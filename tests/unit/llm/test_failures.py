"""What can go wrong with a model, and what the client makes of it: again, the fallback model, or an error."""

import asyncio
import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx2
import pytest

from freya_gateway.llm.chunks import ErrorObject
from freya_gateway.llm.failures import from_error, retry_after
from freya_gateway.llm.sse import MAX_EVENT_BYTES
from tests.model_server import (
    Behaviour,
    Cut,
    Empty,
    ErrorEvent,
    Garbage,
    Gated,
    Hang,
    ModelServer,
    NoFinish,
    Raw,
    Reply,
    Status,
)
from tests.unit.llm.conftest import Asker

Make = Callable[..., Asker]
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
HUGE = [b"data: " + b"x" * (MAX_EVENT_BYTES // 16)] * 18

BEFORE_THE_FIRST_PIECE: list[tuple[Behaviour, str]] = [
    (Status(429), "rate_limited"),
    (Status(408), "upstream_error"),
    (Status(409), "upstream_error"),
    (Status(500), "upstream_error"),
    (Status(503), "upstream_error"),
    (Cut(headers=False), "unreachable"),
    (Cut(), "broken_stream"),
    (Garbage(), "broken_stream"),
    (Raw(HUGE), "broken_stream"),
    (Raw([b"data: " + b"[" * 100_000 + b"\n\n"]), "broken_stream"),
    (Raw([b"<html>no stream at all</html>"]), "no_finish_reason"),
    (NoFinish(()), "no_finish_reason"),
    (NoFinish((), done=True), "no_finish_reason"),
    (Empty(), "empty_reply"),
    (Empty("length"), "empty_reply"),
    (Empty("error"), "upstream_error"),
    (ErrorEvent(), "upstream_error"),
    (ErrorEvent(error="overloaded"), "upstream_error"),
    (ErrorEvent(error={"code": 429, "message": "slow down"}), "rate_limited"),
]
AFTER_IT: list[tuple[Behaviour, str]] = [
    (Cut(after=2), "broken_stream"),
    (Garbage(after=2), "broken_stream"),
    (NoFinish(("0 ", "1 ")), "no_finish_reason"),
    (NoFinish(("0 ", "1 "), done=True), "no_finish_reason"),
    (Hang(before="piece", after=2), "timeout"),
    (ErrorEvent(after=2), "upstream_error"),
    (ErrorEvent(after=2, error={"type": "rate_limit_error"}), "rate_limited"),
]
REFUSED: list[Status] = [
    Status(400),
    Status(401, code="invalid_api_key"),
    Status(403),
    Status(404, code="model_not_found"),
    Status(422),
    Status(429, code="insufficient_quota", type="insufficient_quota"),
]


@pytest.mark.parametrize(("trouble", "code"), BEFORE_THE_FIRST_PIECE)
async def test_trouble_before_the_first_piece_is_tried_again(
    model: ModelServer, asker: Make, trouble: Behaviour, code: str
) -> None:
    model.script(trouble, Reply(["Yes"]))
    client = asker()
    answer = await client.ask()
    assert (answer.text, answer.error) == ("Yes", None)
    assert client.errors(code) == 1


@pytest.mark.parametrize(("trouble", "code"), BEFORE_THE_FIRST_PIECE)
async def test_trouble_that_stays_is_an_error(model: ModelServer, asker: Make, trouble: Behaviour, code: str) -> None:
    model.script(trouble, trouble)
    client = asker(attempts=2)
    answer = await client.ask()
    assert (answer.code, answer.pieces, len(model.requests)) == (code, [], 2)
    assert answer.error is not None
    assert answer.error.retryable
    assert client.errors(code) == 2


@pytest.mark.parametrize(("trouble", "code"), AFTER_IT)
async def test_trouble_after_the_first_piece_ends_the_reply(
    model: ModelServer, asker: Make, trouble: Behaviour, code: str
) -> None:
    model.script(trouble)
    client = asker(fallback_model="spare", piece_timeout=0.1)
    answer = await client.ask()
    assert (answer.text, answer.code, answer.finish, len(model.requests)) == ("0 1 ", code, None, 1)
    assert client.errors(code) == 1


@pytest.mark.parametrize("refusal", REFUSED)
async def test_a_refusal_goes_to_the_fallback_model_at_once(model: ModelServer, asker: Make, refusal: Status) -> None:
    model.script(refusal, Reply(["Yes"]))
    client = asker(fallback_model="spare")
    answer = await client.ask()
    assert [request.body["model"] for request in model.requests] == ["freya", "spare"]
    assert answer.finish is not None
    assert (answer.text, answer.finish.model) == ("Yes", "spare")
    assert client.errors("rejected") == 1


async def test_a_refusal_without_fallback_is_final(model: ModelServer, asker: Make) -> None:
    model.script(Status(401))
    answer = await asker().ask()
    assert answer.error is not None
    assert (answer.code, answer.error.retryable, len(model.requests)) == ("rejected", False, 1)


async def test_when_both_models_fail_the_error_is_the_first_ones(model: ModelServer, asker: Make) -> None:
    model.script(Status(429), Status(404))
    answer = await asker(fallback_model="spare", attempts=1).ask()
    assert answer.error is not None
    assert (answer.code, answer.error.retryable, len(model.requests)) == ("rate_limited", True, 2)


@pytest.mark.parametrize(
    "hang", [Hang(before="headers"), Hang(before="first_piece"), Raw([b": wait\n\n"] * 9, gap=0.05)]
)
async def test_silence_before_the_first_piece_goes_to_the_fallback_model(
    model: ModelServer, asker: Make, hang: Behaviour
) -> None:
    model.script(hang, Reply(["Yes"]))
    client = asker(fallback_model="spare", first_piece_timeout=0.2)
    answer = await client.ask()
    assert (answer.text, [request.body["model"] for request in model.requests]) == ("Yes", ["freya", "spare"])
    assert client.errors("timeout") == 1
    await model.wait_disconnect()


async def test_silence_of_both_models_takes_no_longer_than_both_timeouts(model: ModelServer, asker: Make) -> None:
    model.script(Hang(), Hang())
    async with asyncio.timeout(0.6):
        answer = await asker(fallback_model="spare", first_piece_timeout=0.15).ask()
    assert answer.code == "timeout"
    await model.wait_disconnect(2)


async def test_a_slow_consumer_is_no_slow_model(model: ModelServer, asker: Make) -> None:
    model.script(Reply(["a", "b", "c"], gap=0.02))
    pieces: list[object] = []
    async for item in asker(piece_timeout=0.1).chat.stream((), user="u"):
        await asyncio.sleep(0.15)
        pieces.append(item)
    assert len(pieces) >= 2


async def test_refused_connection(asker: Make) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        client = asker(base_url=f"http://127.0.0.1:{closed.getsockname()[1]}/v1")
        answer = await client.ask()
    assert answer.code == "unreachable"
    assert client.errors("unreachable") == 3


@pytest.mark.parametrize("headers", [{"retry-after": "0.2"}, {"retry-after-ms": "200"}])
async def test_the_provider_says_when_to_come_again(model: ModelServer, asker: Make, headers: dict[str, str]) -> None:
    model.script(Status(429, headers=headers), Reply(["Yes"]))
    loop = asyncio.get_running_loop()
    start = loop.time()
    assert (await asker(backoff=0.0).ask()).text == "Yes"
    assert 0.2 <= loop.time() - start < 0.6


async def test_a_wait_beyond_the_deadline_goes_to_the_fallback_model_at_once(model: ModelServer, asker: Make) -> None:
    model.script(Status(429, headers={"retry-after": "60"}), Reply(["Yes"]))
    async with asyncio.timeout(1):
        answer = await asker(fallback_model="spare").ask()
    assert answer.finish is not None
    assert answer.finish.model == "spare"


async def test_the_provider_says_not_to_come_again(model: ModelServer, asker: Make) -> None:
    model.script(Status(500, headers={"x-should-retry": "false"}))
    assert (await asker().ask()).code == "upstream_error"
    assert len(model.requests) == 1


async def test_text_that_came_with_the_trouble_is_not_lost(model: ModelServer, asker: Make) -> None:
    piece = b'data: {"choices":[{"delta":{"content":"Yes"}}]}\n\n'
    model.script(Raw([piece + b'data: {"error":{"code":"server_error"}}\n\n']))
    answer = await asker().ask()
    assert (answer.text, answer.code) == ("Yes", "upstream_error")


async def test_connection_lost_in_the_last_event_is_noticed(model: ModelServer, asker: Make) -> None:
    gate = Gated()
    model.script(gate)
    asking = asyncio.create_task(asker().ask())
    await gate.send("Yes")
    await asyncio.sleep(0.02)
    await gate.cut()
    answer = await asking
    assert (answer.text, answer.code) == ("Yes", "broken_stream")


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "-1"}, 0.0),
        ({"retry-after": "nan"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after-ms": "?", "retry-after": "1"}, 1.0),
        ({"retry-after": format_datetime(NOW + timedelta(seconds=7), usegmt=True)}, 7.0),
        ({"retry-after": format_datetime(NOW - timedelta(seconds=7), usegmt=True)}, 0.0),
    ],
)
def test_retry_after_in_all_its_forms(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(httpx2.Headers(headers), now=NOW) == seconds


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ({"code": "insufficient_quota"}, "rejected"),
        ({"type": "invalid_request_error"}, "rejected"),
        ({"code": 503}, "upstream_error"),
        ({"code": "400"}, "rejected"),
        ({"code": "rate_limit_exceeded", "type": "tokens"}, "rate_limited"),
        ({"code": None, "type": ["odd"]}, "upstream_error"),
    ],
)
def test_error_objects_of_providers(error: dict[str, Any], code: str) -> None:
    assert from_error(ErrorObject(**error)).code == code
