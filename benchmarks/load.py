"""The clients: plain sockets that note when what came, and nothing else, so that they cost little beside the server."""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

from benchmarks.wire import Read

HOST = "127.0.0.1"
BEAT = b"event: beat"
PING = b": ping"
Client = TypeVar("Client", bound=asyncio.Protocol)


@dataclass(frozen=True, slots=True)
class Asked:
    """One turn: who asks, what, and how many seconds after the start of the run."""

    credential: str
    text: str
    delay: float


def send_request(asked: Asked) -> bytes:
    """`POST /v1/stream`."""
    body = json.dumps({"text": asked.text}).encode()
    head = _head("POST /v1/stream", asked.credential)
    return head + b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


def follow_request(path: str, credential: str) -> bytes:
    """`GET` as EventSource does it."""
    return _head(f"GET {path}", credential) + b"accept: text/event-stream\r\ncache-control: no-cache\r\n\r\n"


def _head(request: str, credential: str) -> bytes:
    lines = (f"{request} HTTP/1.1", f"host: {HOST}", f"authorization: Bearer {credential}", "connection: close")
    return "".join(f"{line}\r\n" for line in lines).encode()


class Recorder(asyncio.Protocol):
    """Sends a request and keeps each read of the answer with its time; `whole` is done at the end of the answer."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.began = 0.0
        self.reads: list[Read] = []
        self.whole: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def seconds(self) -> float:
        """From before connecting to the last byte."""
        return self.reads[-1][0] - self.began

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        self.reads.append((time.perf_counter(), data))

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self.whole.set_exception(exc)
        else:
            self.whole.set_result(None)


class Idler(asyncio.Protocol):
    """An EventSource on which nothing comes but beats (or pings): counts them, keeps nothing."""

    __slots__ = ("_request", "beats", "ended", "ready", "transport")

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ended = False
        self.beats = 0
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if not self.ready.done() and b"event: ready" in data:
            self.ready.set_result(None)
        self.beats += BEAT in data or PING in data

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True
        if not self.ready.done():
            self.ready.set_exception(exc or ConnectionError("the stream ended before it was ready"))

    def close(self) -> None:
        if self.transport is not None:
            self.transport.abort()


async def connect(port: int, make: Callable[[], Client]) -> Client:
    _, client = await asyncio.get_running_loop().create_connection(make, HOST, port)
    return client


async def record(port: int, request: bytes, *, delay: float = 0.0, seconds: float) -> Recorder:
    """The whole answer to `request`, which may take `seconds`."""
    await asyncio.sleep(delay)
    async with asyncio.timeout(seconds):
        recorder = Recorder(request)
        recorder.began = time.perf_counter()
        await connect(port, lambda: recorder)
        await recorder.whole
    return recorder


async def record_turns(port: int, turns: Sequence[Asked], *, seconds: float) -> list[Recorder]:
    """All turns at their times, side by side."""
    waits = (record(port, send_request(asked), delay=asked.delay, seconds=seconds) for asked in turns)
    return await asyncio.gather(*waits)
