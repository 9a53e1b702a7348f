"""Every refusal as `application/problem+json` (RFC 9457): what is wrong and what to do, never the caller's words."""

import json
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from loguru import logger
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from freya_gateway.errors import BadRequest, FreyaError, Invalid, UnsupportedMedia

MEDIA_TYPE = "application/problem+json"
FIELD_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
MOST_ERRORS = 20
# HTTP's own refusals: code and detail.
PLAIN = {
    400: ("bad_json", "The body cannot be read as JSON in UTF-8."),
    404: ("not_found", "There is nothing at this address; see /docs for what there is."),
    405: ("method_not_allowed", "This address does not take this method; the Allow header names those it takes."),
    413: ("body_too_large", "The body is longer than 1 MiB (64 MiB for an import); send less."),
}
# RFC 9110's names, which Python uses from 3.13 on.
TITLES = {413: "Content Too Large", 422: "Unprocessable Content"}
EXAMPLES = {
    400: ("bad_cursor", "A cursor reads {epoch}.{seq}; send an event's id unchanged, or none to begin afresh."),
    401: ("missing_credential", "Send `authorization: Bearer` with a JWT or an API key."),
    403: ("forbidden_origin", "This origin may not call; name it in FREYA_ALLOWED_ORIGINS."),
    404: ("turn_not_found", "You have no turn with this id; check the id that the send returned."),
    409: ("busy", "A turn is running; wait for its reply, or send with if_busy queue or interrupt."),
    413: ("body_too_large", "The body is longer than 1 MiB (64 MiB for an import); send less."),
    415: ("unsupported_media_type", "Send JSON, with content-type: application/json."),
    422: ("invalid_request", "The request is not acceptable; `errors` says where."),
    429: ("rate_limited", "That was more than 60 messages in a minute; wait 12 s."),
    503: ("database_unavailable", "The database does not answer at the moment; try again."),
}


class FieldProblem(BaseModel):
    """One thing wrong with a request."""

    field: Annotated[str, Field(description="Where: `body.text`, `query.limit`.")]
    problem: str


class Problem(BaseModel):
    """Why a request was refused (RFC 9457), and what to do. Programs look at `code`."""

    type: str = "about:blank"
    title: Annotated[str, Field(description="The status in words.")]
    status: int
    code: Annotated[str, Field(description="The same for the same kind of refusal, for programs.")]
    detail: Annotated[str, Field(description="What to do about it, for people.")]
    request_id: Annotated[str | None, Field(description="The same as the x-request-id header.")] = None
    errors: list[FieldProblem] | None = None


def install_error_handlers(app: FastAPI) -> None:
    """Makes every refusal of `app` a problem answer, and names its schema in the API reference."""
    app.exception_handlers |= {
        FreyaError: _refused,
        RequestValidationError: _invalid,
        HTTPException: _plain,
    }
    reference = app.openapi

    def openapi() -> dict[str, Any]:
        schema = reference()
        schema.setdefault("components", {}).setdefault("schemas", {}).update(_schemas())
        return schema

    app.openapi = openapi


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses=` of a route that may refuse with these statuses."""
    return {status: _documented(status) for status in statuses}


def _documented(status: int) -> dict[str, Any]:
    code, detail = EXAMPLES[status]
    example = Problem(title=_title(status), status=status, code=code, detail=detail, request_id="9f86d081884c7d65")
    if status == HTTPStatus.UNPROCESSABLE_ENTITY:
        example.errors = [FieldProblem(field="body.text", problem="Field required")]
    content = {
        "schema": {"$ref": "#/components/schemas/Problem"},
        "example": example.model_dump(exclude_none=True),
    }
    return {"description": _title(status), "content": {MEDIA_TYPE: content}}


def _schemas() -> dict[str, Any]:
    schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}", mode="serialization")
    return {**schema.pop("$defs"), "Problem": schema}


async def _refused(request: Request, error: FreyaError) -> Response:
    headers: dict[str, str] = {}
    if error.retry_after is not None:
        headers["retry-after"] = str(error.retry_after)
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
    return _answer(request, error, headers)


async def _invalid(request: Request, error: RequestValidationError) -> Response:
    return await _refused(request, _reading(error))


def _reading(error: RequestValidationError) -> FreyaError:
    """What a body or a parameter that could not be taken comes to."""
    found = error.errors()
    for one in found:
        if one["type"] == "json_invalid":
            return BadRequest("bad_json", f"The body is not JSON; reading stopped at character {one['loc'][-1]}.")
    if isinstance(error.body, bytes):  # FastAPI leaves a body alone that does not say that it is JSON
        return UnsupportedMedia("unsupported_media_type", "Send JSON, with content-type: application/json.")
    fields = [{"field": _place(one["loc"]), "problem": _problem(one)} for one in found[:MOST_ERRORS]]
    return Invalid("invalid_request", "The request is not acceptable; `errors` says where.", fields=fields)


def _place(loc: Sequence[str | int]) -> str:
    """`body.text`. A name that the caller made up is repeated only if it looks like a name."""
    return ".".join(str(part) if FIELD_NAME.fullmatch(str(part)) else "?" for part in loc)


def _problem(one: Mapping[str, Any]) -> str:
    """Pydantic's sentence, cut where it begins to quote."""
    message = str(one["msg"])
    return message.partition(",")[0] if {"error", "tag"} & set(one.get("ctx", ())) else message


async def _plain(request: Request, error: HTTPException) -> Response:
    code, detail = PLAIN.get(error.status_code, (f"http_{error.status_code}", _title(error.status_code)))
    plain = FreyaError(code, detail)
    plain.status = HTTPStatus(error.status_code)
    return _answer(request, plain, error.headers)


def unforeseen(request: Request, error: Exception) -> Response:
    """The answer to what has no handler; its way through the code goes to the log."""
    logger.opt(exception=error).error("unforeseen error")
    detail = "Something went wrong here, not in your request; give the request_id to whoever runs this gateway."
    return _answer(request, FreyaError("internal_error", detail))


def _answer(request: Request, error: FreyaError, headers: Mapping[str, str] | None = None) -> Response:
    problem: dict[str, Any] = {
        "type": "about:blank",
        "title": _title(error.status),
        "status": int(error.status),
        "code": error.code,
        "detail": error.detail,
        "request_id": request.scope.get("state", {}).get("request_id"),
    }
    if error.fields:
        problem["errors"] = error.fields
    # Only ASCII: whatever got into a detail, it can be encoded.
    return Response(json.dumps(problem), error.status, headers, MEDIA_TYPE)


def _title(status: int) -> str:
    return TITLES.get(status) or HTTPStatus(status).phrase
