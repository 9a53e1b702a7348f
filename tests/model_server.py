"""A scripted model: an OpenAI-compatible HTTP server for tests, benchmarks and chaos. Real HTTP, real sockets.

In a test, one behaviour per request, in order; without a script it answers as the user's words say:

    async with ModelServer() as model:
        model.script(Status(500), Reply(["Hel", "lo"]))
        ...                                   # a client of model.base_url
        assert model.requests[1].body["model"] == "freya"
        await model.wait_disconnect()         # a client hung up before its answer was whole

Requests for data (`response_format`) have scripts of their own, by the schema's name, so that memory work takes nothing
from a chat's script; unscripted ones get the emptiest answer that fits:

    model.script_for("Extraction", data({"operations": []}), Status(429))

As a process: `python -m tests.model_server --port 9000 --rate 50 --tokens 200`. It prints its base URL first.
There the words of the last user message say what comes back, so that both sides know it: `expected_reply(words)`.
Anywhere in the words, `!reply` and any of these say how:

    tokens=N  pieces of the reply        rate=N   pieces per second, 0 = at once      delay=S   seconds before the first
    seed=N    another text               finish=WORD  the finish reason               cut=N     hang up after N pieces
    status=N  an error status instead
"""

import argparse
import asyncio
import json
import random
import re
import socket
import struct
import zlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any, Literal, Protocol, Self, TypeVar

DIRECTIVE = re.compile(r"!reply((?:\s+\w+=[\w.]+)*)")
WAIT_SECONDS = 5.0
RESET_DELAY = 0.02  # a reset may overtake what the client has not read yet
Item = TypeVar("Item")
# What a stream must carry whole: line ends, what JSON escapes, what UTF-8 and UTF-16 write in several units.
PLAIN = "the of and to in is you that it he was for on are as with his they at be this have from or one had by"
AWKWARD = (
    "\n",
    "\r\n",
    "\u2028",
    '"',
    "\\",
    "é",
    "ß",
    "東京",
    "🙂",
    "👩‍🚀",
    "data: x\n\n",
    "\t",
    "</p>",
    "&amp;",
    "{}",
    ": c",
)
VOCABULARY = (*PLAIN.split(), *AWKWARD)


@dataclass(frozen=True)
class Words:
    """What a user's words ask of the model; see the module."""

    tokens: int = 12
    rate: float = 0.0
    delay: float = 0.0
    seed: int | None = None
    finish: str = "stop"
    cut: int | None = None
    status: int | None = None

    @classmethod
    def read(cls, text: str, *, default: "Words | None" = None) -> "Words":
        """Those in `text`, and `default` for what it does not say."""
        found = DIRECTIVE.search(text)
        said = dict(pair.split("=") for pair in found[1].split()) if found else {}
        asked: dict[str, Any] = {name: kind(said[name]) for name, kind in _KINDS.items() if name in said}
        return replace(default or cls(), **asked)

    @property
    def gap(self) -> float:
        return 1 / self.rate if self.rate else 0.0

    def pieces(self, text: str) -> list[str]:
        """The pieces of the reply to `text`."""
        chooser = random.Random(zlib.crc32(text.encode("utf-8", "replace")) if self.seed is None else self.seed)
        return [f" {word}" if word[0].isalpha() else word for word in chooser.choices(VOCABULARY, k=self.tokens)]


_KINDS: dict[str, Callable[[str], object]] = {
    "tokens": int, "rate": float, "delay": float, "seed": int, "finish": str, "cut": int, "status": int
}  # fmt: skip


def expected_reply(text: str, *, tokens: int = Words.tokens) -> str:
    """The reply of an unscripted server started with `--tokens` to a last user message `text`."""
    return "".join(Words.read(text, default=Words(tokens=tokens)).pieces(text))


@dataclass(frozen=True)
class Request:
    """A request as it came: `body` is its JSON, names of `headers` are lower case, `connection` counts from 1."""

    body: dict[str, Any]
    headers: Mapping[str, str]
    connection: int

    @property
    def words(self) -> str:
        """The last user message."""
        said = [message["content"] for message in self.body.get("messages", []) if message["role"] == "user"]
        return said[-1] if said else ""

    @property
    def form(self) -> dict[str, Any] | None:
        """`name` and `schema` of the data that is asked for, if it is data."""
        return self.body.get("response_format", {}).get("json_schema")


def _encoded(data: object) -> bytes:
    """In UTF-8, and escaped where that cannot hold it."""
    try:
        return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(data, separators=(",", ":")).encode()


class Exchange:
    """One request and the means to answer it, byte by byte if need be."""

    def __init__(self, request: Request, transport: asyncio.Transport) -> None:
        self.request = request
        self.finished = False
        self._transport = transport

    def start(self, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        """Send the head of a chunked answer."""
        fields = {"content-type": "text/event-stream", "transfer-encoding": "chunked", **(headers or {})}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self._transport.write(f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{lines}\r\n".encode())

    def write(self, data: bytes) -> None:
        """Send bytes of the body, in a segment of their own."""
        self._transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    def event(self, data: Mapping[str, object]) -> None:
        self.write(b"data: %b\n\n" % _encoded(data))

    def piece(self, text: str) -> None:
        self.event(chunk({"content": text}, model=self.request.body.get("model", "")))

    def conclude(self, finish: str, usage: Mapping[str, object] | None) -> None:
        """Send what an orderly answer ends with: the finish reason, usage, [DONE], the end of the body."""
        model = self.request.body.get("model", "")
        self.event(chunk({}, model=model, finish=finish))
        if usage is not None:
            self.event({**chunk({}, model=model), "choices": [], "usage": usage})
        self.write(b"data: [DONE]\n\n")
        self.end()

    def end(self) -> None:
        """End the body; the connection stays open for another request."""
        self.finished = True
        self._transport.write(b"0\r\n\r\n")

    def abort(self) -> None:
        """Reset the connection (RST, not an orderly end)."""
        self.finished = True
        linger = struct.pack("ii", 1, 0)
        self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._transport.abort()


def chunk(delta: Mapping[str, object], *, model: str, finish: str | None = None) -> dict[str, object]:
    """A chunk of a streamed chat completion, as OpenAI writes them."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return {
        "id": "chatcmpl-scripted", "object": "chat.completion.chunk", "created": 1750000000, "model": model,
        "system_fingerprint": "fp_0123456789", "choices": [choice], "usage": None,
    }  # fmt: skip


def usage_object(prompt: int = 9, completion: int = 3, *, cached: int = 0) -> dict[str, object]:
    """A `usage` object, as OpenAI writes them."""
    details = {"cached_tokens": cached, "audio_tokens": 0}
    return {
        "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion,
        "prompt_tokens_details": details, "completion_tokens_details": {"reasoning_tokens": 0},
    }  # fmt: skip


class Behaviour(Protocol):
    """How one request is answered. It is cancelled when the client hangs up."""

    async def answer(self, exchange: Exchange) -> None: ...


@dataclass(frozen=True)
class Reply:
    """A whole reply. `delay` seconds before the first piece, `gap` between two."""

    pieces: Sequence[str] = ("Hello", " there")
    delay: float = 0.0
    gap: float = 0.0
    finish: str = "stop"
    usage: Mapping[str, object] | None = field(default_factory=usage_object)

    async def answer(self, exchange: Exchange) -> None:
        if not exchange.request.body.get("stream"):
            await self._whole(exchange)
            return
        exchange.start()
        exchange.event(chunk({"role": "assistant", "content": ""}, model=exchange.request.body["model"]))
        async for piece in paced(self.pieces, delay=self.delay, gap=self.gap):
            exchange.piece(piece)
        exchange.conclude(self.finish, self.usage)

    async def _whole(self, exchange: Exchange) -> None:
        await asyncio.sleep(self.delay)
        message = {"role": "assistant", "content": "".join(self.pieces), "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self.finish}
        body = {**chunk({}, model=exchange.request.body["model"]), "object": "chat.completion", "choices": [choice]}
        _json(exchange, 200, {**body, "usage": self.usage})


def data(value: object) -> Reply:
    """A whole answer that is this value, as JSON."""
    return Reply((json.dumps(value),))


def emptiest(schema: Mapping[str, Any], root: Mapping[str, Any]) -> object:
    """The value with least in it that fits a strict JSON schema."""
    if "$ref" in schema:
        return emptiest(root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    if "anyOf" in schema:
        return None if {"type": "null"} in schema["anyOf"] else emptiest(schema["anyOf"][0], root)
    if "enum" in schema:
        return schema["enum"][0]
    if schema["type"] == "object":
        return {name: emptiest(value, root) for name, value in schema["properties"].items()}
    return {"array": list[object](), "string": "", "integer": 0, "number": 0, "boolean": False}[schema["type"]]


@dataclass(frozen=True)
class Status:
    """An error status with an error object. The message quotes the user, as providers' do: it must not leak."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    code: str | None = None
    type: str | None = None

    async def answer(self, exchange: Exchange) -> None:
        message = f"No answer to {exchange.request.words!r} today"
        error = {"message": message, "type": self.type, "param": None, "code": self.code}
        _json(exchange, self.status, {"error": error}, self.headers)


@dataclass(frozen=True)
class Hang:
    """Silence, until the client hangs up: before the `headers`, the `first_piece`, or the piece `after` the n-th."""

    before: Literal["headers", "first_piece", "piece"] = "headers"
    after: int = 1

    async def answer(self, exchange: Exchange) -> None:
        if self.before != "headers":
            exchange.start()
        if self.before == "piece":
            for number in range(self.after):
                exchange.piece(f"{number} ")
        await asyncio.Event().wait()


@dataclass(frozen=True)
class Cut:
    """The connection is reset after `after` pieces; with `headers=False` before any answer."""

    after: int = 0
    headers: bool = True

    async def answer(self, exchange: Exchange) -> None:
        if self.headers:
            exchange.start()
            for number in range(self.after):
                exchange.piece(f"{number} ")
            await asyncio.sleep(RESET_DELAY)
        exchange.abort()


@dataclass(frozen=True)
class Raw:
    """An answer of exactly these bytes, one segment each; then the end of the body, unless `ends` is false."""

    parts: Iterable[bytes]
    ends: bool = True
    gap: float = 0.0
    headers: Mapping[str, str] = field(default_factory=dict[str, str])

    async def answer(self, exchange: Exchange) -> None:
        exchange.start(headers=self.headers)
        async for part in paced(list(self.parts), gap=self.gap):
            exchange.write(part)
        if not self.ends:
            await asyncio.Event().wait()
        exchange.end()


@dataclass(frozen=True)
class Garbage:
    """`after` pieces, then a chunk that is no JSON, then an orderly end."""

    after: int = 0

    async def answer(self, exchange: Exchange) -> None:
        exchange.start()
        for number in range(self.after):
            exchange.piece(f"{number} ")
        exchange.write(b'data: {"choices": [{"delta": <html>502 Bad Gateway</html>\n\n')
        exchange.conclude("stop", usage_object())


@dataclass(frozen=True)
class ErrorEvent:
    """`after` pieces, then an error object in place of a chunk: status 200 was sent long ago."""

    after: int = 0
    error: object = field(default_factory=lambda: {"message": "secret words", "type": "server_error", "code": None})

    async def answer(self, exchange: Exchange) -> None:
        exchange.start()
        for number in range(self.after):
            exchange.piece(f"{number} ")
        exchange.event({"error": self.error})
        exchange.end()


@dataclass(frozen=True)
class NoFinish:
    """Pieces and an orderly end of the body, but no finish reason; `done` sends [DONE] nevertheless."""

    pieces: Sequence[str] = ("Hello", " the")
    done: bool = False

    async def answer(self, exchange: Exchange) -> None:
        exchange.start()
        for piece in self.pieces:
            exchange.piece(piece)
        if self.done:
            exchange.write(b"data: [DONE]\n\n")
        exchange.end()


@dataclass(frozen=True)
class Empty:
    """A finish reason without a word."""

    finish: str = "stop"

    async def answer(self, exchange: Exchange) -> None:
        await Reply((), finish=self.finish).answer(exchange)


class Gated:
    """A reply whose pieces the test lets out, one by one; each call waits until the request is there.

    They raise ConnectionResetError once the client has hung up.
    """

    def __init__(self) -> None:
        self._exchange: asyncio.Future[Exchange] = asyncio.get_running_loop().create_future()
        self._over = asyncio.Event()

    async def answer(self, exchange: Exchange) -> None:
        exchange.start()
        self._exchange.set_result(exchange)
        try:
            await self._over.wait()
        finally:
            self._over.set()

    async def wait_asked(self) -> Request:
        """The request, once it has come."""
        return (await self._open()).request

    async def send(self, *pieces: str) -> None:
        exchange = await self._open()
        for piece in pieces:
            exchange.piece(piece)

    async def finish(self, reason: str = "stop", *, usage: Mapping[str, object] | None = None) -> None:
        (await self._open()).conclude(reason, usage or usage_object())
        self._over.set()

    async def cut(self) -> None:
        """Reset the connection."""
        (await self._open()).abort()
        self._over.set()

    async def _open(self) -> Exchange:
        exchange = await asyncio.wait_for(asyncio.shield(self._exchange), WAIT_SECONDS)
        if self._over.is_set():
            raise ConnectionResetError("the answer is over")
        return exchange


@dataclass(frozen=True)
class AsAsked:
    """What the user's words ask for; the behaviour of a server without a script."""

    default: Words

    async def answer(self, exchange: Exchange) -> None:
        text = exchange.request.words
        words = Words.read(text, default=self.default)
        pieces = words.pieces(text)
        if words.status is not None:
            await Status(words.status).answer(exchange)
        elif words.cut is not None:
            await self._cut(exchange, words, pieces[: words.cut])
        else:
            usage = usage_object(len(text), len(pieces))
            reply = Reply(pieces, delay=words.delay, gap=words.gap, finish=words.finish, usage=usage)
            await reply.answer(exchange)

    async def _cut(self, exchange: Exchange, words: Words, pieces: Sequence[str]) -> None:
        exchange.start()
        async for piece in paced(pieces, delay=words.delay, gap=words.gap):
            exchange.piece(piece)
        await asyncio.sleep(RESET_DELAY)
        exchange.abort()


class ModelServer:
    """See the module. `requests` holds every request so far but those for data, which `structured` holds;
    `connections` is how many sockets they came over."""

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0, default: Words | None = None) -> None:
        self.requests: list[Request] = []
        self.structured: list[Request] = []
        self.connections = 0
        self.disconnects = 0
        self.base_url = ""
        self._host, self._port = host, port
        self._default = AsAsked(default or Words())
        self._script: deque[Behaviour] = deque()
        self._scripts_for: dict[str, deque[Behaviour]] = {}
        self._news = asyncio.Event()
        self._open: set[_Connection] = set()

    def script(self, *behaviours: Behaviour) -> None:
        """Answer the next requests like this."""
        self._script.extend(behaviours)

    def script_for(self, schema: str, *behaviours: Behaviour) -> None:
        """Answer the next requests for data of this schema like this."""
        self._scripts_for.setdefault(schema, deque()).extend(behaviours)

    @property
    def open_connections(self) -> int:
        return len(self._open)

    async def wait_requests(self, count: int = 1) -> None:
        """Return when `count` requests have come, in all."""
        await self._wait(lambda: len(self.requests) >= count)

    async def wait_structured(self, count: int = 1) -> None:
        """Return when `count` requests for data have come, in all."""
        await self._wait(lambda: len(self.structured) >= count)

    async def wait_disconnect(self, count: int = 1) -> None:
        """Return when `count` clients, in all, have hung up before their answer was whole."""
        await self._wait(lambda: self.disconnects >= count)

    async def wait_closed(self) -> None:
        """Return when no connection is open, idle ones included."""
        await self._wait(lambda: not self._open)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), self._host, self._port, backlog=1024)
        port = self._server.sockets[0].getsockname()[1]
        self.base_url = f"http://{self._host}:{port}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for connection in list(self._open):
            connection.close()
        await self._server.wait_closed()

    def opened(self, connection: "_Connection") -> int:
        self._open.add(connection)
        self.connections += 1
        return self.connections

    def closed(self, connection: "_Connection", *, early: bool) -> None:
        self._open.discard(connection)
        self.disconnects += early
        self._news.set()

    def asked(self, request: Request) -> Behaviour:
        self._news.set()
        if request.form is not None:
            self.structured.append(request)
            script = self._scripts_for.get(request.form["name"])
            return script.popleft() if script else data(emptiest(request.form["schema"], request.form["schema"]))
        self.requests.append(request)
        return self._script.popleft() if self._script else self._default

    async def _wait(self, reached: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            while not reached():
                self._news.clear()
                await self._news.wait()


class _Connection(asyncio.Protocol):
    """One client: reads a request, plays its behaviour, and so on; knows at once when the client hangs up."""

    def __init__(self, server: ModelServer) -> None:
        self._server = server
        self._received = b""
        self._exchange: Exchange | None = None
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._number = self._server.opened(self)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, rest = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        headers = dict(_header(line) for line in head.decode("latin-1").split("\r\n")[1:])
        length = int(headers.get("content-length", 0))
        if len(rest) < length:
            return
        self._received = rest[length:]
        request = Request(json.loads(rest[:length] or b"{}"), headers, self._number)
        self._exchange = Exchange(request, self._transport)
        self._task = asyncio.create_task(self._server.asked(request).answer(self._exchange))
        self._task.add_done_callback(self._report)

    def connection_lost(self, exc: Exception | None) -> None:
        early = self._exchange is not None and not self._exchange.finished
        self.close()
        self._server.closed(self, early=early)

    def close(self) -> None:
        if self._task:
            self._task.cancel()
        self._transport.abort()

    def _report(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()):
            self._transport.abort()
            asyncio.get_running_loop().call_exception_handler({"message": "a behaviour failed", "exception": error})


async def paced(items: Sequence[Item], *, delay: float = 0.0, gap: float = 0.0) -> AsyncIterator[Item]:
    """`items`, the first after `delay` seconds and each `gap` after the one before, without drift."""
    loop = asyncio.get_running_loop()
    due = loop.time() + delay
    for item in items:
        await asyncio.sleep(max(0.0, due - loop.time()))
        due += gap
        yield item


def _json(exchange: Exchange, status: int, body: object, headers: Mapping[str, str] | None = None) -> None:
    exchange.start(status, {"content-type": "application/json", **(headers or {})})
    exchange.write(json.dumps(body).encode())
    exchange.end()


def _header(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.lower(), value.strip()


async def _serve(arguments: argparse.Namespace) -> None:
    default = Words(tokens=arguments.tokens, rate=arguments.rate, delay=arguments.delay)
    async with ModelServer(host=arguments.host, port=arguments.port, default=default) as server:
        print(server.base_url, flush=True)
        await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.model_server", description="A scripted model.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--rate", type=float, default=50.0, help="pieces per second of a reply, 0 = at once")
    parser.add_argument("--tokens", type=int, default=200, help="pieces of a reply")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before the first piece")
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
