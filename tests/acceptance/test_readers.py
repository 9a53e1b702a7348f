"""One stream, read by what people read such streams with: each is told the same events."""

import asyncio
import json
import shutil
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from httpx_sse import aconnect_sse
from playwright.async_api import Browser

from tests.browser import client_package, missing, node_path, site
from tests.gateway import Running
from tests.model_server import ModelServer, Reply
from tests.sse import NUMBERED, UNNUMBERED

WAIT_SECONDS = 20.0
LONGEST_MESSAGE = 2000
TEXTS = {
    "emoji": ("👩‍🚀🏳️‍🌈", "🙂 ", "e\u0301", "שלום \u202eright to left\u202c"),
    "line ends": ("a\r\nb\rc\nd", "\r", "\n", "\r\n\r\n"),
    "separators": ("\u2028\u2029\u0085", "\ufeff", "\x0b\x0c\x1c"),
    "frames": ("data: x\n\n", "event: reply\ndata: {}\n\n", "id: forged.9\n\nretry: 0\n\n", ": comment\n\n"),
    "10 KB": ("0123456789abcdé\u2028" * 640,),
    "20 KB in pieces": tuple(f"{number}\r\n" + "🙂x" * 250 for number in range(20)),
}


@dataclass
class Reader:
    """What one program was told: name, id and data of each event. Beats are of a connection, not of the stream."""

    told: list[tuple[str, str | None, str]] = field(default_factory=list[tuple[str, str | None, str]])
    grown: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, name: str, id: str | None, data: str) -> None:
        """An EventSource gives an event without an id that of the one before, so only numbered ones count."""
        if name != "beat":
            self.told.append((name, id if name in NUMBERED else None, data))
            self.grown.set()

    async def until(self, name: str, count: int = 1) -> None:
        """Waits for the n-th event of this name."""
        async with asyncio.timeout(WAIT_SECONDS):
            while sum(one[0] == name for one in self.told) < count:
                self.grown.clear()
                await self.grown.wait()


@asynccontextmanager
async def process(take: Callable[[str], None], *command: str) -> AsyncGenerator[None, None]:
    """Runs a program, and gives each line that it prints to `take`."""
    pipe = asyncio.subprocess.PIPE
    program = await asyncio.create_subprocess_exec(*command, stdout=pipe, limit=2**20)
    assert program.stdout is not None

    async def read(lines: AsyncIterable[bytes]) -> None:
        async for line in lines:
            take(line.decode().removesuffix("\n"))

    reading = asyncio.create_task(read(program.stdout))
    try:
        yield
    finally:
        if program.returncode is None:
            program.kill()
        await program.wait()
        await reading


@asynccontextmanager
async def curl(reader: Reader, url: str, _: Browser) -> AsyncGenerator[None, None]:
    """The bytes as they are on the wire: a line is `field: value` and an empty one ends the frame."""
    path = shutil.which("curl") or missing("curl")
    frame: dict[str, str] = {}

    def line(text: str) -> None:
        if text:
            name, value = text.split(": ", 1)
            assert name not in frame, frame
            frame[name] = value
            return
        if "event" in frame:
            reader.take(frame["event"], frame.get("id"), frame["data"])
        frame.clear()

    async with process(line, path, "--silent", "--show-error", "--no-buffer", url):
        yield


def npm(library: str) -> Callable[[Reader, str, Browser], Any]:
    """A library of npm, in node."""

    @asynccontextmanager
    async def read(reader: Reader, url: str, _: Browser) -> AsyncGenerator[None, None]:
        script = client_package()
        async with process(lambda line: reader.take(*json.loads(line)), node_path(), str(script), library, url):
            yield

    return read


@asynccontextmanager
async def httpx_sse(reader: Reader, url: str, _: Browser) -> AsyncGenerator[None, None]:
    async with httpx.AsyncClient(timeout=None) as http, aconnect_sse(http, "GET", url) as source:

        async def read() -> None:
            async for event in source.aiter_sse():
                reader.take(event.event, event.id, event.data)

        reading = asyncio.create_task(read())
        try:
            yield
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


LISTEN = """([url, names]) => {
  const source = new EventSource(url);
  for (const name of names) {
    source.addEventListener(name, ({ type, lastEventId, data }) => window.take(type, lastEventId, data));
  }
}"""


@asynccontextmanager
async def chromium(reader: Reader, url: str, browser: Browser) -> AsyncGenerator[None, None]:
    """A page of another origin."""
    async with site() as elsewhere:
        elsewhere.page = "<!doctype html><title>Elsewhere</title>"
        page = await browser.new_page()
        await page.expose_function("take", reader.take)
        await page.goto(elsewhere.url)
        await page.evaluate(LISTEN, [url, [*NUMBERED, *UNNUMBERED, "message"]])
        yield
        await page.close()


READERS: dict[str, Callable[[Reader, str, Browser], Any]] = {
    "curl": curl,
    "npm eventsource": npm("eventsource"),
    "npm @microsoft/fetch-event-source": npm("fetch-event-source"),
    "httpx-sse": httpx_sse,
    "Chromium": chromium,
}


@asynccontextmanager
async def reading(url: str, browser: Browser) -> AsyncGenerator[dict[str, Reader], None]:
    """All of them on one address."""
    async with AsyncExitStack() as stack:
        readers = {name: Reader() for name in READERS}
        for name, reader in readers.items():
            await stack.enter_async_context(READERS[name](reader, url, browser))
            await reader.until("ready")
        yield readers


async def all_of(readers: dict[str, Reader], wait: Callable[[Reader], Awaitable[None]]) -> None:
    for name, reader in readers.items():
        try:
            await wait(reader)
        except TimeoutError:
            pytest.fail(f"{name} was told only {[one[0] for one in reader.told]}")


def assert_same(readers: dict[str, Reader]) -> list[tuple[str, str | None, str]]:
    told = readers["curl"].told
    for name, reader in readers.items():
        assert reader.told == told, name
    return told


async def test_all_are_told_the_same_events(freya: Running, model: ModelServer, browser: Browser) -> None:
    async with reading(freya.url + "/v1/stream", browser) as readers:
        for count, pieces in enumerate(TEXTS.values(), 1):
            model.script(Reply(pieces, gap=0.005))
            await freya.send("".join(pieces)[:LONGEST_MESSAGE])
            await all_of(readers, lambda reader, count=count: reader.until("reply", count))
        told = assert_same(readers)
    assert all(told_id for name, told_id, _ in told if name in NUMBERED)
    replies = [json.loads(data) for name, _, data in told if name == "reply"]
    heard = [json.loads(data) for name, _, data in told if name == "listening"]
    words = ["".join(pieces) for pieces in TEXTS.values()]
    assert [reply["message"] for reply in replies] == words
    assert [one["message"] for one in heard] == [text[:LONGEST_MESSAGE] for text in words]
    assert [spoken(told, reply["turn"]) for reply in replies] == words

    after = next(told_id for name, told_id, _ in told if name == "thinking")
    async with reading(f"{freya.url}/v1/stream?after={after}", browser) as readers:
        await all_of(readers, lambda reader: reader.until("reply", len(TEXTS)))
        resumed = assert_same(readers)
    assert [one for one in resumed if one[0] == "reply"] == [one for one in told if one[0] == "reply"]
    assert [spoken(resumed, reply["turn"]) for reply in replies] == words


def spoken(told: list[tuple[str, str | None, str]], turn: str) -> str:
    """The pieces of a reply, put together."""
    pieces = [json.loads(data) for name, _, data in told if name == "token"]
    return "".join(piece["text"] for piece in pieces if piece["turn"] == turn)
