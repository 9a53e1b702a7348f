"""Questions to the model whose answer is data: one call, one JSON schema, one checked object or a ModelError.

Nothing is retried here: memory work waits and asks again by itself. A refusal, a cut or a malformed answer is a
failure, never an empty result.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

import aiohttp
import httpx2
import msgspec
from loguru import logger
from openai import APIStatusError, AsyncOpenAI, DefaultAioHttpClient, OpenAIError
from pydantic import BaseModel, SecretStr, ValidationError

from freya_gateway.errors import ModelError
from freya_gateway.llm.chunks import ErrorObject, finish_reason
from freya_gateway.llm.failures import from_error, from_response
from freya_gateway.llm.openai import NO_KEY, OPENAI_URL
from freya_gateway.llm.types import ChatMessage
from freya_gateway.metrics import Metrics

HEADERS: Final = {"accept": "application/json", "content-type": "application/json"}
LIMITS: Final = httpx2.Limits(max_connections=100, max_keepalive_connections=10, keepalive_expiry=60)
# What strict mode does not know, or takes for words to the model that nobody wrote.
DROPPED: Final = frozenset({"title", "default"})
T = TypeVar("T", bound=BaseModel)


class StructuredModel(Protocol):
    """The port to a model that answers with data."""

    async def ask(self, messages: Sequence[ChatMessage], *, schema: type[T], user: str) -> T:
        """The answer to `messages` as an object of `schema`. `user` is a stable opaque id. Raises ModelError."""
        ...


@dataclass(frozen=True, kw_only=True)
class StructuredOptions:
    """Which model is asked, and how long it may take (seconds)."""

    model: str
    api_key: SecretStr | None = None
    base_url: str | None = None
    max_tokens: int = 4000
    timeout: float = 60.0
    connect_timeout: float = 5.0


class _Said(msgspec.Struct, frozen=True):
    content: str | None = None
    refusal: str | None = None


class _Choice(msgspec.Struct, frozen=True):
    message: _Said
    finish_reason: str | None = None


class _Completion(msgspec.Struct, frozen=True):
    choices: list[_Choice] | None = None
    error: ErrorObject | str | None = None


class OpenAIStructured:
    """A StructuredModel over any endpoint that knows `response_format: json_schema`."""

    def __init__(self, options: StructuredOptions, metrics: Metrics) -> None:
        self._options = options
        self._metrics = metrics
        # Longer than the deadline of `_complete`, whose failure has a name of its own.
        timeout = httpx2.Timeout(2 * options.timeout, connect=options.connect_timeout)
        self._client = AsyncOpenAI(
            api_key=options.api_key.get_secret_value() if options.api_key else NO_KEY,
            base_url=options.base_url or OPENAI_URL,
            http_client=DefaultAioHttpClient(limits=LIMITS, timeout=timeout),
            timeout=timeout,
            max_retries=0,
        )

    async def ask(self, messages: Sequence[ChatMessage], *, schema: type[T], user: str) -> T:
        try:
            completion = await self._complete(request_body(self._options, messages, schema=schema, user=user))
            return _checked(completion, schema)
        except ModelError as failure:
            self._metrics.upstream_errors.labels(failure.code).inc()
            logger.bind(code=failure.code, schema=schema.__name__).warning("structured answer failed")
            raise

    async def aclose(self) -> None:
        """Close every connection."""
        await self._client.close()

    async def _complete(self, body: bytes) -> _Completion:
        try:
            async with asyncio.timeout(self._options.timeout):
                response = await self._client.post(
                    "/chat/completions", cast_to=httpx2.Response, content=body, options={"headers": HEADERS}
                )
        except TimeoutError as error:
            raise ModelError("timeout", retryable=True) from error
        except APIStatusError as error:
            # Without the cause: its text is the provider's, and providers quote the prompt.
            raise from_response(error.response, code=error.code, kind=error.type) from None
        except (OpenAIError, httpx2.HTTPError, aiohttp.ClientError, OSError) as error:
            raise ModelError("unreachable", retryable=True) from error
        return _decoded(response.content)


def request_body(
    options: StructuredOptions, messages: Sequence[ChatMessage], *, schema: type[BaseModel], user: str
) -> bytes:
    """The JSON of a chat completion request; OpenAI itself has renamed two fields that everyone else still has."""
    form = {"name": schema.__name__, "strict": True, "schema": strict(schema.model_json_schema())}
    openai = options.base_url in {None, OPENAI_URL}
    return msgspec.json.encode(
        {
            "model": options.model,
            "messages": messages,
            "response_format": {"type": "json_schema", "json_schema": form},
            "temperature": 0,
            "max_completion_tokens" if openai else "max_tokens": options.max_tokens,
            "safety_identifier" if openai else "user": user,
        }
    )


def strict(schema: Any) -> Any:
    """A JSON schema as strict mode wants it: every property required, no others, nothing that it does not know."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    changed = {key: strict(value) for key, value in schema.items() if key not in DROPPED}
    if "properties" in schema:  # a property may be called `title`
        properties = {name: strict(value) for name, value in schema["properties"].items()}
        changed |= {"properties": properties, "required": list(properties), "additionalProperties": False}
    return changed


def _decoded(content: bytes) -> _Completion:
    try:
        return msgspec.json.decode(content, type=_Completion)
    except (ValueError, RecursionError):
        raise ModelError("malformed_answer", retryable=True) from None


def _checked(completion: _Completion, schema: type[T]) -> T:
    """The object in the answer. A cut or a refusal is known by the finish reason, whatever stands in the text."""
    if completion.error:
        raise from_error(completion.error)
    choice = completion.choices[0] if completion.choices else None
    reason = finish_reason(choice.finish_reason) if choice else None
    if choice is None or reason is None:
        raise ModelError("no_finish_reason", retryable=True)
    if reason == "length":
        raise ModelError("cut_short", retryable=True)
    if reason == "content_filter" or choice.message.refusal:
        raise ModelError("refused", retryable=False)
    try:
        return schema.model_validate_json(choice.message.content or "")
    except ValidationError:
        raise ModelError("malformed_answer", retryable=True) from None  # the cause quotes the answer
