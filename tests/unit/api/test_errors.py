"""Every refusal: what programs and people are told, and that nobody's words are told back."""

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal
from uuid import UUID

import httpx2
import pytest
from fastapi import FastAPI, Query
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, ValidationError

from freya_gateway.api.errors import Problem, install_error_handlers, problem_responses
from freya_gateway.errors import (
    BadRequest,
    Conflict,
    Forbidden,
    FreyaError,
    Invalid,
    NotFound,
    TooLarge,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
    UnsupportedMedia,
)

JSON = {"content-type": "application/json"}
WORDS = "lighthouse"


class Send(BaseModel):
    model_config = ConfigDict(extra="forbid")

    text: str
    id: UUID | None = None
    count: int = 0
    if_busy: Literal["queue", "reject"] = "queue"


class Raised:
    """What /raise raises next."""

    error: FreyaError = FreyaError("none", "none")


@pytest.fixture
def raised() -> Raised:
    return Raised()


@pytest.fixture
async def client(raised: Raised) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(transport=transport(raised), base_url="http://localhost") as one:
        yield one


def transport(raised: Raised | None = None) -> httpx2.ASGITransport:
    app = FastAPI()
    install_error_handlers(app)

    @app.post("/send", responses=problem_responses(400, 413, 415, 422, 429))
    async def send(body: Send) -> int:
        return len(body.text)

    @app.get("/page")
    async def page(limit: Annotated[int, Query(ge=1)] = 1) -> int:
        return limit

    @app.get("/raise")
    async def fail() -> None:
        assert raised is not None
        raise raised.error

    return httpx2.ASGITransport(app)


def problem(answer: httpx2.Response) -> dict[str, Any]:
    """The body of a refusal, which has what every refusal has."""
    assert answer.headers["content-type"] == "application/problem+json"
    found = answer.json()
    assert found["status"] == answer.status_code
    Problem.model_validate(found)
    return found


@pytest.mark.parametrize(
    ("kind", "status", "title"),
    [
        (BadRequest, 400, "Bad Request"),
        (Unauthenticated, 401, "Unauthorized"),
        (Forbidden, 403, "Forbidden"),
        (NotFound, 404, "Not Found"),
        (Conflict, 409, "Conflict"),
        (TooLarge, 413, "Content Too Large"),
        (UnsupportedMedia, 415, "Unsupported Media Type"),
        (Invalid, 422, "Unprocessable Content"),
        (TooManyRequests, 429, "Too Many Requests"),
        (Unavailable, 503, "Service Unavailable"),
        (FreyaError, 500, "Internal Server Error"),
    ],
)
async def test_each_kind_of_refusal_has_its_status_and_title(
    client: httpx2.AsyncClient, raised: Raised, kind: type[FreyaError], status: int, title: str
) -> None:
    raised.error = kind("some_code", "Do this.")
    answer = await client.get("/raise")
    assert answer.status_code == status
    assert problem(answer) | {"request_id": None} == {
        "type": "about:blank",
        "title": title,
        "status": status,
        "code": "some_code",
        "detail": "Do this.",
        "request_id": None,
    }


async def test_a_refusal_says_when_to_come_back_and_how_to_sign_in(client: httpx2.AsyncClient, raised: Raised) -> None:
    raised.error = TooManyRequests("rate_limited", "Wait.", retry_after=7)
    assert (await client.get("/raise")).headers["retry-after"] == "7"
    raised.error = Unauthenticated("missing_credential", "Sign in.")
    answer = await client.get("/raise")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert "retry-after" not in answer.headers


async def test_a_detail_with_half_a_character_can_be_sent(client: httpx2.AsyncClient, raised: Raised) -> None:
    raised.error = Invalid("x", "half \ud83d", fields=[{"field": "text", "problem": "\udc00"}])
    found = json.loads((await client.get("/raise")).content)
    assert found["detail"] == "half \ud83d"
    assert found["errors"] == [{"field": "text", "problem": "\udc00"}]


@pytest.mark.parametrize(
    ("body", "field", "part"),
    [
        ({}, "body.text", "required"),
        ({"text": 7}, "body.text", "string"),
        ({"text": "hi", "id": WORDS}, "body.id", "UUID"),
        ({"text": "hi", "count": WORDS}, "body.count", "integer"),
        ({"text": "hi", "if_busy": WORDS}, "body.if_busy", "'queue' or 'reject'"),
        ({"text": "hi", "txet": WORDS}, "body.txet", "not permitted"),
        ({"text": "hi", f"{WORDS} <b>": 1}, "body.?", "not permitted"),
        ([WORDS], "body", "dictionary"),
        (WORDS, "body", "dictionary"),
    ],
)
async def test_an_unacceptable_field_is_named_and_its_value_is_not(
    client: httpx2.AsyncClient, body: Any, field: str, part: str
) -> None:
    answer = await client.post("/send", content=json.dumps(body), headers=JSON)
    found = problem(answer)
    assert (answer.status_code, found["code"]) == (422, "invalid_request")
    assert [one["field"] for one in found["errors"]] == [field]
    assert part in found["errors"][0]["problem"]
    assert WORDS not in answer.text


async def test_a_name_with_half_a_character_is_refused_and_not_repeated(client: httpx2.AsyncClient) -> None:
    answer = await client.post("/send", content=json.dumps({"text": "hi", f"{WORDS}\ud83d": 1}), headers=JSON)
    assert (answer.status_code, problem(answer)["code"]) == (422, "invalid_request")
    assert WORDS not in answer.text


async def test_a_parameter_is_named_too(client: httpx2.AsyncClient) -> None:
    answer = await client.get("/page", params={"limit": "0"})
    found = problem(answer)
    assert (answer.status_code, found["errors"][0]["field"]) == (422, "query.limit")


async def test_many_faults_make_no_long_answer(client: httpx2.AsyncClient) -> None:
    body = {"text": "hi"} | {f"field_{number}": 1 for number in range(10_000)}
    answer = await client.post("/send", json=body)
    assert answer.status_code == 422
    assert len(answer.content) < 4000


@pytest.mark.parametrize(
    "body",
    [
        b'{"text": "hi"',
        b"{'text': 'lighthouse'}",
        b'{"text": "lighthouse\n"}',
        b"lighthouse",
        b'\xff{"text": "hi"}',
        b"[" * 100_000,
        b'{"count": ' + b"9" * 5000 + b"}",
    ],
)
async def test_what_is_not_json_is_400(client: httpx2.AsyncClient, body: bytes) -> None:
    answer = await client.post("/send", content=body, headers=JSON)
    assert (answer.status_code, problem(answer)["code"]) == (400, "bad_json")
    assert WORDS not in answer.text


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "nonsense", "", None])
async def test_what_does_not_say_that_it_is_json_is_415(client: httpx2.AsyncClient, kind: str | None) -> None:
    headers = {} if kind is None else {"content-type": kind}
    answer = await client.post("/send", content=b'{"text": "hi"}', headers=headers)
    assert (answer.status_code, problem(answer)["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON; charset=utf-8", "application/problem+json"])
async def test_what_says_so_is_read(client: httpx2.AsyncClient, kind: str) -> None:
    answer = await client.post("/send", content=b'{"text": "hi"}', headers={"content-type": kind})
    assert answer.status_code == 200


async def test_a_missing_body_is_a_missing_field(client: httpx2.AsyncClient) -> None:
    answer = await client.post("/send")
    assert (answer.status_code, problem(answer)["errors"][0]["field"]) == (422, "body")


async def test_a_wrong_address_and_a_wrong_method(client: httpx2.AsyncClient) -> None:
    assert problem(await client.get(f"/{WORDS}"))["code"] == "not_found"
    answer = await client.delete("/send")
    assert (answer.status_code, problem(answer)["code"]) == (405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"


@given(
    st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.just("text"), inner, max_size=3),
        ).map(lambda value: json.dumps(value).encode()),
    )
)
async def test_no_body_can_break_the_answer(body: bytes) -> None:
    async with httpx2.AsyncClient(transport=transport(), base_url="http://localhost") as client:
        answer = await client.post("/send", content=body, headers=JSON)
        assert answer.status_code == 200 or 400 <= answer.status_code < 500
        if answer.status_code != 200:
            problem(answer)


async def test_the_reference_names_the_problem_and_shows_one_per_status(client: httpx2.AsyncClient) -> None:
    reference = (await client.get("/openapi.json")).json()
    assert {"Problem", "FieldProblem"} <= set(reference["components"]["schemas"])
    answers = reference["paths"]["/send"]["post"]["responses"]
    assert set(answers) == {"200", "400", "413", "415", "422", "429"}
    for status in set(answers) - {"200"}:
        content = answers[status]["content"]["application/problem+json"]
        assert content["schema"] == {"$ref": "#/components/schemas/Problem"}
        assert Problem.model_validate(content["example"]).status == int(status)


def test_a_status_without_an_example_is_noticed_at_import() -> None:
    with pytest.raises(KeyError):
        problem_responses(418)
    with pytest.raises(ValidationError):
        Problem.model_validate({"status": 418})
