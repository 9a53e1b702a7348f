"""What surrounds every request: its id, its line in the log, the limit on its body, and who may call from a browser."""

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Annotated, Any

import httpx2
import pytest
from fastapi import Body, FastAPI, Request
from fastapi.responses import StreamingResponse
from pydantic import SecretStr
from starlette.middleware.cors import CORSMiddleware
from starlette.types import Message, Receive, Scope, Send

from freya_gateway.api.errors import install_error_handlers
from freya_gateway.api.middleware import MOST_BODY_BYTES, RequestMiddleware, cors_options
from freya_gateway.settings import Settings

if TYPE_CHECKING:
    from loguru import Record

COCKPIT = "https://cockpit.example"
WORDS = "I never told anyone about the lighthouse"


def settings(**changes: Any) -> Settings:
    return Settings(_env_file=None, **changes)  # pyright: ignore[reportCallIssue]


def production(**changes: Any) -> Settings:
    values: dict[str, Any] = {
        "env": "production",
        "database_url": SecretStr("postgresql://db/freya"),
        "openai_api_key": SecretStr("sk-test"),
        "jwt_secret": SecretStr("0123456789abcdef0123456789abcdef"),
    }
    return settings(**(values | changes))


def application(given: Settings) -> FastAPI:
    """A small application in the order of the real one."""
    app = FastAPI()
    install_error_handlers(app)
    app.add_middleware(RequestMiddleware)
    app.add_middleware(CORSMiddleware, **cors_options(given))

    @app.get("/id")
    async def own_id(request: Request) -> str:
        return request.state.request_id

    @app.post("/length")
    async def length(text: Annotated[str, Body(embed=True)]) -> int:
        return len(text)

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError(WORDS)

    @app.get("/torn")
    async def torn() -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            yield b"half"
            raise RuntimeError(WORDS)

        return StreamingResponse(body())

    @app.get("/healthz")
    async def healthz() -> str:
        return "ok"

    return app


@pytest.fixture
async def client() -> AsyncIterator[httpx2.AsyncClient]:
    async with connected(settings(allowed_origins=(COCKPIT,))) as one:
        yield one


def connected(given: Settings) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(application(given)), base_url="http://localhost:8000")


async def test_a_request_has_an_id_in_the_answer_and_in_the_state(client: httpx2.AsyncClient) -> None:
    first, second = await client.get("/id"), await client.get("/id")
    assert first.headers["x-request-id"] == first.json() != second.json()


@pytest.mark.parametrize("given", ["a", "x" * 128, "4bf92f35-77b3.4da6:a3ce_929d"])
async def test_a_well_formed_id_of_the_caller_is_used(client: httpx2.AsyncClient, given: str) -> None:
    assert (await client.get("/id", headers={"x-request-id": given})).headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", 'a"b', "a\tb", "ä", "{}", "<script>"])
async def test_any_other_is_replaced(client: httpx2.AsyncClient, given: str) -> None:
    answer = await client.get("/id", headers=[(b"x-request-id", given.encode())])
    assert answer.headers["x-request-id"] not in {given, ""}
    assert answer.json() == answer.headers["x-request-id"]


async def test_the_log_has_one_line_per_request_without_its_query(
    client: httpx2.AsyncClient, log: list["Record"]
) -> None:
    answer = await client.get("/nothing/%0A%1B[2J/%C3%A4", params={"ticket": "secret"})
    lines = [record for record in log if record["message"] == "request"]
    assert len(lines) == 1
    extra = lines[0]["extra"]
    assert (extra["method"], extra["path"], extra["status"]) == ("GET", "/nothing/%0A%1B%5B2J/%C3%A4", 404)
    assert extra["request"] == answer.headers["x-request-id"]
    assert extra["ms"] >= 0
    assert "secret" not in str(lines[0])


async def test_probes_are_no_news(client: httpx2.AsyncClient, log: list["Record"]) -> None:
    await client.get("/healthz")
    assert [record["level"].name for record in log if record["message"] == "request"] == ["DEBUG"]


async def test_every_answer_forbids_guessing_its_type(client: httpx2.AsyncClient) -> None:
    for path in ("/id", "/nothing", "/broken"):
        assert (await client.get(path)).headers["x-content-type-options"] == "nosniff"


def of_bytes(count: int) -> bytes:
    """A body of exactly so many bytes that /length takes."""
    return b'{"text": "' + b"x" * (count - 12) + b'"}'


async def piecewise(body: bytes) -> AsyncIterator[bytes]:
    """Without a length in front."""
    for start in range(0, len(body), 65_536):
        yield body[start : start + 65_536]


Sending = Callable[[bytes], Any]


@pytest.mark.parametrize("sending", [bytes, piecewise], ids=["announced", "streamed"])
async def test_a_body_is_limited(client: httpx2.AsyncClient, sending: Sending) -> None:
    json = {"content-type": "application/json", "origin": COCKPIT}
    longest = await client.post("/length", content=sending(of_bytes(MOST_BODY_BYTES)), headers=json)
    assert (longest.status_code, longest.json()) == (200, MOST_BODY_BYTES - 12)
    longer = await client.post("/length", content=sending(of_bytes(MOST_BODY_BYTES + 1)), headers=json)
    assert (longer.status_code, longer.json()["code"]) == (413, "body_too_large")
    assert longer.headers["access-control-allow-origin"] == COCKPIT
    assert longer.json()["request_id"] == longer.headers["x-request-id"]


@pytest.mark.parametrize("length", ["-1", "x", "9" * 30, "٣", ""])
async def test_a_length_that_is_none_is_left_to_the_server(client: httpx2.AsyncClient, length: str) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", length.encode())]
    answer = await client.post("/length", content=of_bytes(20), headers=headers)
    assert answer.status_code == 200


async def test_what_nobody_foresaw_is_answered_and_a_browser_may_read_it(
    client: httpx2.AsyncClient, log: list["Record"]
) -> None:
    answer = await client.get("/broken", headers={"origin": COCKPIT})
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert WORDS not in answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["access-control-allow-origin"] == COCKPIT
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    failures = [record for record in log if record["exception"]]
    assert len(failures) == 1
    assert failures[0]["extra"]["request"] == answer.headers["x-request-id"]
    assert [record["extra"]["status"] for record in log if record["message"] == "request"] == [500]


async def test_an_answer_that_broke_off_is_not_made_to_look_whole(client: httpx2.AsyncClient) -> None:
    with pytest.raises(RuntimeError):
        await client.get("/torn")


async def test_lifespan_and_other_scopes_pass_through() -> None:
    seen: list[tuple[str, Receive, Send]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((scope["type"], receive, send))

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        raise AssertionError

    await RequestMiddleware(app)({"type": "lifespan"}, receive, send)
    assert seen == [("lifespan", receive, send)]


async def test_a_late_body_after_the_answer_began_reads_as_the_caller_s_leaving() -> None:
    answer: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        answer.append(await receive())

    async def receive() -> Message:
        return {"type": "http.request", "body": b"x" * (MOST_BODY_BYTES + 1), "more_body": True}

    async def send(message: Message) -> None:
        answer.append(message)

    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    await RequestMiddleware(app)(scope, receive, send)
    assert answer[0]["type"] == "http.response.start"
    assert answer[1] == {"type": "http.disconnect"}


async def preflight(client: httpx2.AsyncClient, origin: str, headers: str = "content-type") -> httpx2.Response:
    asked = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": headers,
    }
    return await client.options("/length", headers=asked)


async def test_a_named_origin_may_send_what_the_wire_needs(client: httpx2.AsyncClient) -> None:
    answer = await preflight(client, COCKPIT, "authorization, content-type, last-event-id, x-request-id")
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == COCKPIT
    assert answer.headers["access-control-allow-credentials"] == "true"
    assert int(answer.headers["access-control-max-age"]) >= 600
    plain = await client.get("/id", headers={"origin": COCKPIT})
    assert "x-request-id" in plain.headers["access-control-expose-headers"]
    assert "retry-after" in plain.headers["access-control-expose-headers"]
    assert "Origin" in plain.headers["vary"]


@pytest.mark.parametrize(
    "origin",
    ["http://cockpit.example", "https://cockpit.example.evil", "https://localhost", "http://localhost:3000", "null"],
)
async def test_where_origins_are_named_no_other_may_call(client: httpx2.AsyncClient, origin: str) -> None:
    assert (await preflight(client, origin)).status_code == 400
    plain = await client.get("/id", headers={"origin": origin})
    assert "access-control-allow-origin" not in plain.headers


LOCAL = [
    "http://localhost",
    "http://localhost:3000",
    "https://localhost:8443",
    "http://127.0.0.1:5173",
    "http://[::1]:80",
]
FOREIGN = ["http://localhost.evil.example", "http://evil.example:3000", "http://127.0.0.1.evil.example", "null"]


async def test_development_without_origins_allows_this_machine_s_pages() -> None:
    async with connected(settings()) as client:
        for origin in LOCAL:
            assert (await preflight(client, origin)).headers["access-control-allow-origin"] == origin
        for origin in FOREIGN:
            assert (await preflight(client, origin)).status_code == 400


async def test_production_without_origins_allows_no_page() -> None:
    async with connected(production()) as client:
        for origin in LOCAL + FOREIGN:
            assert (await preflight(client, origin)).status_code == 400
