"""One answer of the provider while it is read: bytes in, text out, and at its end why it ended."""

from collections.abc import AsyncGenerator
from typing import Final, cast

import aiohttp
import httpx2

from freya_gateway.llm.chunks import FAILED, ChunkUsage, decode_chunk, finish_reason, model_name
from freya_gateway.llm.deadline import Deadline
from freya_gateway.llm.failures import AttemptError, from_error
from freya_gateway.llm.sse import OversizedEventError, SSEDecoder
from freya_gateway.llm.types import Finish, FinishReason

DONE: Final = b"[DONE]"
USAGE_WAIT: Final = 1.0  # seconds; usage comes in a chunk of its own after the finish reason
DRAIN_WAIT: Final = 0.1  # seconds for the end of the body after [DONE]; a body read to its end keeps the connection
BROKEN = (httpx2.HTTPError, aiohttp.ClientError, OSError)


class Reply:
    """An open answer. `read` until it gives '', then `finish`; always `aclose`, which hangs up if there is more."""

    def __init__(self, response: httpx2.Response, *, model: str, deadline: Deadline, piece_timeout: float) -> None:
        self._response = response
        self._body = _body(response)
        self._events = SSEDecoder()
        self._deadline = deadline
        self._piece_timeout = piece_timeout
        self._model = model
        self._named: str | None = None
        self._usage: ChunkUsage | None = None
        self._reason: FinishReason | None = None
        self._failure: AttemptError | None = None
        self._spoke = False
        self._done = False
        self._ended = False

    async def read(self) -> str:
        """The next text, as much as one read of the socket brought; '' at the end of the reply.

        Raises AttemptError when the reply breaks off, after all text that came before.
        """
        if self._spoke and self._reason is None:
            self._deadline.move(self._piece_timeout)
        while not self._ended:
            try:
                with self._deadline:
                    data = await anext(self._body, b"")
            except TimeoutError as error:
                self._end(AttemptError("timeout", again=False), error)
            except BROKEN as error:
                self._end(AttemptError("broken_stream"), error)
            else:
                if text := self._take(data):
                    return text
        if self._failure:
            raise self._failure
        return ""

    def finish(self) -> Finish:
        """How the reply ended, once `read` has given ''."""
        if self._reason is None:
            raise RuntimeError("the reply is not finished")
        usage = self._usage or ChunkUsage()
        return Finish(self._reason, usage.counted(), model_name(self._named, self._model))

    async def aclose(self) -> None:
        """Give the connection back, or close it when there is more to come: the provider stops generating."""
        self._deadline.close()
        try:
            await self._body.aclose()
        finally:
            await self._response.aclose()

    def _take(self, data: bytes) -> str:
        """The text in `data`, up to where it breaks; b'' is the end of the body."""
        text = ""
        try:
            for payload in self._events.feed(data) if data else self._events.end():
                text += self._absorb(payload)
        except AttemptError as failure:
            self._end(failure)
        except (ValueError, OversizedEventError) as error:
            self._end(AttemptError("broken_stream"), error)
        if not data:
            self._end(AttemptError("no_finish_reason"))
        return text

    def _absorb(self, payload: bytes) -> str:
        """The text of one payload. Text in the chunk that carries the finish reason, or after it, is text too."""
        if self._done or payload == DONE:
            self._close_events()
            return ""
        chunk = decode_chunk(payload)
        if chunk.error:
            raise from_error(chunk.error)
        self._usage = chunk.usage or self._usage
        self._named = chunk.model or self._named
        if not chunk.choices:
            return ""
        choice = chunk.choices[0]
        if choice.finish_reason:
            self._note_reason(choice.finish_reason)
        text = choice.delta.text if choice.delta else ""
        self._spoke = self._spoke or bool(text)
        return text

    def _note_reason(self, word: str) -> None:
        if word == FAILED:
            raise AttemptError("upstream_error")
        if self._reason is None and (reason := finish_reason(word)):
            self._reason = reason
            self._deadline.move(USAGE_WAIT)

    def _close_events(self) -> None:
        if self._reason is None:
            raise AttemptError("no_finish_reason")
        if not self._done:
            self._done = True
            self._deadline.move(DRAIN_WAIT)

    def _end(self, failure: AttemptError, cause: Exception | None = None) -> None:
        """Nothing more comes. `failure` counts unless the finish reason is known: what is lost then is no text."""
        if self._ended:
            return
        self._ended = True
        if self._reason is None:
            self._failure = failure
            self._failure.__cause__ = cause
        elif not self._spoke and self._reason != "content_filter":
            self._failure = AttemptError("empty_reply")


def _body(response: httpx2.Response) -> AsyncGenerator[bytes, None]:
    """The bytes as they come. `stream` spares the layers that undo a content encoding, which was not asked for."""
    encoded = response.headers.get("content-encoding", "identity") != "identity"
    if encoded or not isinstance(response.stream, httpx2.AsyncByteStream):
        return response.aiter_bytes()
    return cast(AsyncGenerator[bytes, None], aiter(response.stream))
