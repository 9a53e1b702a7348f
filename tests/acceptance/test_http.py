"""Bad input, strangers and the reference: each route's answers over real HTTP."""

import io
import json
import re
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from tests.gateway import Running, authenticated, bearer, running, settings_for
from tests.model_server import Gated, ModelServer, Reply

JSON = {"content-type": "application/json"}
IDS = re.compile(r"\{\w+_id\}")
OPEN_ROUTES = {"/healthz", "/readyz"}


@pytest.fixture
async def guarded(database_url: str, clean: None, model: ModelServer) -> AsyncIterator[Running]:
    """A gateway that asks who is there."""
    async with running(settings_for(database_url, model.base_url, **authenticated())) as one:
        yield one


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/stream"])
@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b'{"text": ""}', JSON, 422, "empty_text"),
        (b'{"text": " \\n"}', JSON, 422, "empty_text"),
        (b'{"text": "a\\u0000b"}', JSON, 422, "nul_in_text"),
        (b'{"text": "a\\ud83db"}', JSON, 422, None),
        (b'{"text": 7}', JSON, 422, "invalid_request"),
        (b"{}", JSON, 422, "invalid_request"),
        (b'{"text": "hi", "txet": 1}', JSON, 422, "invalid_request"),
        (b'{"text": "hi", "if_busy": "hurry"}', JSON, 422, "invalid_request"),
        (b'{"text": "hi", "client_message_id": "7"}', JSON, 422, "invalid_request"),
        (b'{"text": "hi"', JSON, 400, "bad_json"),
        (b'\xff{"text": "hi"}', JSON, 400, "bad_json"),
        (b"[]", JSON, 422, "invalid_request"),
        (b"null", JSON, 422, "invalid_request"),
        (b"", JSON, None, None),
        (b"text=hi", {"content-type": "application/x-www-form-urlencoded"}, 415, "unsupported_media_type"),
        (b'{"text": "hi"}', {"content-type": "text/plain"}, 415, "unsupported_media_type"),
        (json.dumps({"text": "x y " * 25_000}).encode(), JSON, 413, "message_too_long"),
        (json.dumps({"text": "x" * 2_000_000}).encode(), JSON, 413, "body_too_large"),
        (b"[" * 100_000, JSON, None, None),
    ],
)
async def test_bad_input_has_a_clear_answer_and_writes_nothing(
    freya: Running,
    database_url: str,
    path: str,
    body: bytes,
    headers: dict[str, str],
    status: int | None,
    code: str | None,
) -> None:
    async with freya.http.post(freya.url + path, data=io.BytesIO(body), headers=headers) as response:
        problem = await response.json(content_type="application/problem+json")
        assert response.status == status or (status is None and 400 <= response.status < 500)
    assert code is None or problem["code"] == code
    assert problem["request_id"] == response.headers["x-request-id"]
    assert problem["title"]
    assert problem["detail"]
    connection = await asyncpg.connect(database_url)
    assert await connection.fetchval("SELECT (SELECT count(*) FROM turns) + (SELECT count(*) FROM stream_events)") == 0
    await connection.close()


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "not_found"),
        ("DELETE", "/v1/messages", 405, "method_not_allowed"),
        ("GET", "/v1/turns/nonsense", 422, "invalid_request"),
        ("GET", "/v1/messages?limit=0", 422, "invalid_request"),
        ("GET", "/v1/messages?before=x", 422, "invalid_request"),
        ("GET", "/v1/messages?before=99999999999999999999", 422, "invalid_request"),
        ("GET", "/v1/stream?ticket=nonsense", 401, "bad_ticket"),
        ("GET", "/v1/stream?turn=nonsense", 422, "invalid_request"),
    ],
)
async def test_a_wrong_address_has_a_clear_answer(
    freya: Running, method: str, path: str, status: int, code: str
) -> None:
    async with freya.http.request(method, freya.url + path) as response:
        assert response.status == status
        assert (await response.json(content_type="application/problem+json"))["code"] == code


async def test_a_stranger_finds_nothing_on_any_route(guarded: Running, model: ModelServer) -> None:
    gate = Gated()
    model.script(gate)
    sent = await guarded.send("secret words", user="ana")
    await gate.send("a secret answer")
    reference = await guarded.get("/openapi.json")
    theirs = {"turn_id": sent["turn"], "message_id": sent["message"], **await _remembered(guarded)}
    for method, path in _routes(reference):
        mine = path.format_map(theirs)
        none = path.format_map({name: uuid4() for name in theirs})
        for query in ("", f"?turn={sent['turn']}", f"?after={sent['cursor']}"):
            if path == "/v1/stream" and not query.startswith("?turn"):
                continue
            seen = await _seen(guarded, method, mine + query, bearer("bob"))
            assert "secret" not in seen[1], path
            if mine != none:
                assert seen == await _seen(guarded, method, none + query, bearer("bob"))
    async with guarded.stream(f"/v1/stream?after={sent['cursor']}", headers=bearer("bob")) as stream:
        ready = await stream.next()
    assert (ready.data["recovered"], ready.data["reason"]) == (False, "epoch")
    await gate.finish()
    async with guarded.stream(f"/v1/stream?turn={sent['turn']}", headers=bearer("ana")) as stream:
        assert (await stream.rest())[-1].data["status"] == "complete"


async def _remembered(guarded: Running) -> dict[str, str]:
    """A fact and a topic of Ana's."""
    fact = {"statement": "Ana's secret sister is called Eva"}
    async with guarded.http.post(f"{guarded.url}/v1/facts", json=fact, headers=bearer("ana")) as response:
        assert response.status == 201, await response.text()
        fact_id = (await response.json())["id"]
    async with guarded.gateway.database.transaction() as connection:
        topic_id = await connection.fetchval(
            "INSERT INTO topics (user_id, id, title, first_at, last_at) SELECT id, gen_random_uuid(), 'A secret',"
            " now(), now() FROM users WHERE subject = 'ana' RETURNING id"
        )
    assert len((await guarded.get("/v1/topics", headers=bearer("ana")))["topics"]) == 1
    return {"fact_id": fact_id, "topic_id": str(topic_id)}


def _routes(reference: dict[str, Any]) -> list[tuple[str, str]]:
    return [(method.upper(), path) for path, methods in reference["paths"].items() for method in methods]


async def _seen(guarded: Running, method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
    body = {"text": "hello"} if method == "POST" and path.startswith(("/v1/messages", "/v1/stream?")) else None
    body = {"title": "Mine now"} if method == "PATCH" and path.startswith("/v1/topics") else body
    body = {"pinned": True} if method == "PATCH" and path.startswith("/v1/facts") else body
    async with guarded.http.request(method, guarded.url + path, headers=headers, json=body) as response:
        text = await response.text()
    return response.status, re.sub(r'"request_id": ?"[^"]*"|"ticket": ?"[^"]*"', "", text)


async def test_nobody_gets_in_without_a_credential(guarded: Running) -> None:
    for method, path in _routes(await guarded.get("/openapi.json")):
        if path in OPEN_ROUTES:
            continue
        for headers in ({}, {"authorization": "Bearer nonsense"}, {"authorization": "Basic YTpi"}):
            status, text = await _seen(guarded, method, IDS.sub(str(uuid4()), path), headers)
            assert status == 401, (method, path, text)


async def test_a_ticket_opens_the_stream_and_nothing_else(guarded: Running, model: ModelServer) -> None:
    model.script(Reply(["for ana"]))
    async with guarded.http.post(f"{guarded.url}/v1/stream/tickets", headers=bearer("ana")) as response:
        answer = await response.json()
    assert 0 < answer["expires_in"] <= 60
    async with guarded.stream(f"/v1/stream?ticket={answer['ticket']}") as stream:
        await stream.next()
        await guarded.send(user="ana")
        assert (await stream.until("reply"))[-1].data["message"] == "for ana"
    status, _ = await _seen(guarded, "GET", "/v1/messages", {"authorization": f"Bearer {answer['ticket']}"})
    assert status == 401


async def test_too_many_sends_are_told_when_to_come_back(database_url: str, clean: None, model: ModelServer) -> None:
    async with running(settings_for(database_url, model.base_url, rate_limit=2)) as freya:
        await freya.send("1")
        await freya.send("2")
        async with freya.http.post(f"{freya.url}/v1/messages", json={"text": "3"}) as response:
            assert response.status == 429
            assert 1 <= int(response.headers["retry-after"]) <= 60


async def test_history_pages_to_its_beginning(freya: Running, model: ModelServer) -> None:
    model.script(*(Reply([f"answer {n}"]) for n in range(5)))
    for number in range(5):
        async with freya.http.post(f"{freya.url}/v1/messages?wait=5", json={"text": f"question {number}"}) as response:
            assert response.status == 200
    seen: list[str] = []
    before = None
    while True:
        page = await freya.get("/v1/messages", params={"limit": 3} | ({"before": before} if before else {}))
        seen += [message["text"] for message in page["messages"]]
        if (before := page["before"]) is None:
            break
    assert seen == [text for n in reversed(range(5)) for text in (f"answer {n}", f"question {n}")]


async def test_a_page_from_an_allowed_origin_may_call_and_no_other(
    database_url: str, clean: None, model: ModelServer
) -> None:
    settings = settings_for(
        database_url, model.base_url, allowed_origins=("https://cockpit.example",), **authenticated()
    )
    async with running(settings) as freya:
        for origin, allowed in (("https://cockpit.example", True), ("https://evil.example", False)):
            preflight = {
                "origin": origin,
                "access-control-request-method": "POST",
                "access-control-request-headers": "authorization,content-type,last-event-id",
            }
            async with freya.http.options(f"{freya.url}/v1/stream", headers=preflight) as response:
                assert (response.headers.get("access-control-allow-origin") == origin) is allowed
            async with freya.http.get(
                f"{freya.url}/v1/messages", headers=bearer("ana") | {"origin": origin}
            ) as response:
                assert (response.headers.get("access-control-allow-origin") == origin) is allowed


async def test_an_open_gateway_does_not_answer_foreign_pages_or_names(freya: Running) -> None:
    for headers in ({"origin": "https://evil.example"}, {"host": "evil.example"}):
        async with freya.http.post(f"{freya.url}/v1/messages", json={"text": "hi"}, headers=headers) as response:
            assert response.status == 403


async def test_the_reference_is_complete(freya: Running) -> None:
    reference = await freya.get("/openapi.json")
    for path, methods in reference["paths"].items():
        for method, operation in methods.items():
            name = f"{method.upper()} {path}"
            assert operation.get("summary"), name
            assert operation.get("description"), name
            assert operation.get("tags"), name
            answers = operation["responses"]
            assert any(code.startswith("2") for code in answers), name
            if path.startswith("/v1"):
                assert {"401", "503"} <= set(answers), name
                assert "application/problem+json" in answers["401"]["content"], name
            for answer in answers.values():
                for content in answer.get("content", {}).values():
                    assert content.get("schema") or content.get("example"), name
    stream = reference["paths"]["/v1/stream"]["get"]["responses"]["200"]
    assert "text/event-stream" in stream["content"]
    for event in ("ready", "listening", "thinking", "token", "reply", "memory", "beat", "bye"):
        assert f"`{event}`" in stream["description"]


async def test_metrics_count_what_happened(freya: Running, model: ModelServer) -> None:
    model.script(Reply(["a", "b"], gap=0.06))
    async with freya.stream(send={"text": "hi"}) as stream:
        await stream.rest()
    async with freya.http.get(f"{freya.url}/metrics") as response:
        text = await response.text()
    assert 'freya_turns_total{status="complete"} 1.0' in text
    assert 'freya_resumes_total{outcome="fresh"} 1.0' in text
    assert "freya_first_token_seconds_count 1.0" in text
    assert re.search(r"freya_log_lag_seconds_count [1-9]", text)
