"""The model over HTTP: the `openai` client on an aiohttp transport, its stream decoded here.

The typed `chat.completions.create` takes 5-6 ms of CPU to send a prompt and 225 us for each token it reads (pydantic);
`post` with an encoded body and a raw response does the same in 1.5 ms and 55 us. See docs/decisions/model-client.md
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import httpx2
import msgspec
from loguru import logger
from openai import APIStatusError, AsyncOpenAI, DefaultAioHttpClient, OpenAIError
from pydantic import SecretStr

from freya_gateway.errors import ModelError
from freya_gateway.llm.deadline import Deadline
from freya_gateway.llm.failures import AttemptError, from_response
from freya_gateway.llm.reply import Reply
from freya_gateway.llm.types import ChatMessage, Finish, Piece
from freya_gateway.metrics import Metrics

OPENAI_URL: Final = "https://api.openai.com/v1"
NO_KEY: Final = "none"  # a local server asks for none, the client insists on one
HEADERS: Final = {"accept": "text/event-stream", "accept-encoding": "identity", "content-type": "application/json"}
# Connections bound nothing here: the supervisor bounds turns. The SDK's default of 1000 would queue one more unseen.
LIMITS: Final = httpx2.Limits(max_connections=10_000, max_keepalive_connections=10_000, keepalive_expiry=60)
LONGEST_BACKOFF: Final = 8.0


@dataclass(frozen=True, kw_only=True)
class OpenAIOptions:
    """Which model, how it is asked, and how long it is waited for (seconds)."""

    model: str
    fallback_model: str | None = None
    api_key: SecretStr | None = None
    base_url: str | None = None
    temperature: float | None = 0.8
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    max_tokens: int = 1500
    first_piece_timeout: float = 30.0  # for each model, retries included
    piece_timeout: float = 20.0
    connect_timeout: float = 5.0
    attempts: int = 3  # at most, for each model
    backoff: float = 0.25  # upper bound of the first pause; it doubles


class OpenAIChat:
    """A ChatModel over any OpenAI-compatible endpoint.

    Retries are this class's own, the SDK's are off: the SDK sleeps up to two minutes when told to, knows no total
    deadline, and takes its part as done when headers arrive, while an answer can still break before its first piece.
    """

    def __init__(
        self, options: OpenAIOptions, metrics: Metrics, *, uniform: Callable[[float, float], float] = random.uniform
    ) -> None:
        self._options = options
        self._metrics = metrics
        self._uniform = uniform
        # No read timeout: a timer for each segment of each stream, and a keep-alive comment would reset it.
        timeout = httpx2.Timeout(connect=options.connect_timeout, read=None, write=None, pool=options.connect_timeout)
        self._client = AsyncOpenAI(
            api_key=options.api_key.get_secret_value() if options.api_key else NO_KEY,
            base_url=options.base_url or OPENAI_URL,
            http_client=DefaultAioHttpClient(limits=LIMITS, timeout=timeout),
            timeout=timeout,
            max_retries=0,
        )

    async def stream(self, messages: Sequence[ChatMessage], *, user: str) -> AsyncGenerator[Piece | Finish, None]:
        """The reply to `messages`: pieces, then one Finish. Closing the generator hangs up. Raises ModelError.

        A reply that a filter stopped before its first word is a Finish without a piece.
        """
        reply, text = await self._begin(messages, user)
        try:
            while text:
                yield Piece(text)
                text = await reply.read()
            yield reply.finish()
        except AttemptError as failure:
            self._note(failure, "reply broke off")
            raise
        finally:
            await reply.aclose()

    async def aclose(self) -> None:
        """Close every connection; no stream may be open."""
        await self._client.close()

    async def _begin(self, messages: Sequence[ChatMessage], user: str) -> tuple[Reply, str]:
        """An open reply and its first text: the model's, else the fallback model's. Raises the model's own failure."""
        options = self._options
        try:
            return await self._ask(options.model, request_body(options, options.model, messages, user=user))
        except AttemptError as failure:
            if options.fallback_model is None:
                raise
            first = failure
        try:
            body = request_body(options, options.fallback_model, messages, user=user)
            return await self._ask(options.fallback_model, body)
        except AttemptError as failure:
            raise ModelError(first.code, retryable=first.retryable or failure.retryable) from first

    async def _ask(self, model: str, body: bytes) -> tuple[Reply, str]:
        """An open reply of `model` and its first text, retried within `first_piece_timeout`."""
        deadline = Deadline(self._options.first_piece_timeout)
        attempt = 0
        while True:
            attempt += 1
            try:
                return await self._attempt(model, body, deadline)
            except AttemptError as failure:
                self._note(failure, "model attempt failed", model=model, attempt=attempt)
                pause = self._pause(failure, attempt)
                if pause is None or pause >= deadline.remaining:
                    deadline.close()
                    raise
            await asyncio.sleep(pause)

    async def _attempt(self, model: str, body: bytes, deadline: Deadline) -> tuple[Reply, str]:
        response = await self._post(body, deadline)
        reply = Reply(response, model=model, deadline=deadline, piece_timeout=self._options.piece_timeout)
        try:
            return reply, await reply.read()
        except BaseException:
            await reply.aclose()
            raise

    async def _post(self, body: bytes, deadline: Deadline) -> httpx2.Response:
        """The response, its body still to come."""
        streamed: bool = True  # as a literal, the type would be the SDK's stream, which `cast_to` replaces
        try:
            with deadline:
                response = await self._client.post(
                    "/chat/completions",
                    cast_to=httpx2.Response,
                    content=body,
                    options={"headers": HEADERS},
                    stream=streamed,
                )
        except TimeoutError as error:
            raise AttemptError("timeout", again=False) from error
        except APIStatusError as error:
            # Without the cause: its text is the provider's, and providers quote the prompt.
            raise from_response(error.response, code=error.code, kind=error.type) from None
        except (OpenAIError, httpx2.HTTPError, aiohttp.ClientError, OSError) as error:
            raise AttemptError("unreachable") from error
        return response

    def _pause(self, failure: AttemptError, attempt: int) -> float | None:
        """Seconds until the next attempt, None for no other: as the provider asks, else exponential, full jitter."""
        if not failure.again or attempt >= self._options.attempts:
            return None
        if failure.retry_after is not None:
            return failure.retry_after
        return self._uniform(0.0, min(self._options.backoff * 2 ** (attempt - 1), LONGEST_BACKOFF))

    def _note(self, failure: AttemptError, action: str, **ids: object) -> None:
        self._metrics.upstream_errors.labels(failure.code).inc()
        cause = type(failure.__cause__).__name__ if failure.__cause__ else None
        logger.bind(code=failure.code, status=failure.status, cause=cause, **ids).warning(action)


def request_body(options: OpenAIOptions, model: str, messages: Sequence[ChatMessage], *, user: str) -> bytes:
    """The JSON of a chat completion request. Lone surrogates, which no JSON in UTF-8 can hold, become U+FFFD."""
    fields: dict[str, Any] = {
        "model": model,
        "messages": messages,
        "stream": True,
        "stream_options": {"include_usage": True},
        **_dialect(options, user),
    }
    if options.temperature is not None:
        fields["temperature"] = options.temperature
    if options.frequency_penalty:
        fields["frequency_penalty"] = options.frequency_penalty
    if options.presence_penalty:
        fields["presence_penalty"] = options.presence_penalty
    try:
        return msgspec.json.encode(fields)
    except UnicodeEncodeError:
        fields["messages"] = [ChatMessage(message.role, _encodable(message.content)) for message in messages]
        return msgspec.json.encode(fields)


def _dialect(options: OpenAIOptions, user: str) -> dict[str, object]:
    """The names that OpenAI has renamed and that everyone else still has."""
    if options.base_url in {None, OPENAI_URL}:
        return {"max_completion_tokens": options.max_tokens, "safety_identifier": user, "prompt_cache_key": user}
    return {"max_tokens": options.max_tokens, "user": user}


def _encodable(text: str) -> str:
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
