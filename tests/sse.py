"""A strict SSE reader for tests: parses what is on the wire, and refuses what the protocol does not say."""

import json
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

NUMBERED = {"listening", "thinking", "token", "reply", "memory"}
UNNUMBERED = {"ready", "beat", "bye"}


@dataclass(frozen=True, slots=True)
class Event:
    """One event as a browser would get it."""

    name: str
    data: Any
    id: str | None = None

    @property
    def seq(self) -> int:
        assert self.id is not None, f"{self.name} has no id"
        return int(self.id.partition(".")[2])


class Parser:
    """Bytes in, events out. A half event at the end of the bytes is dropped, as every SSE reader does."""

    def __init__(self) -> None:
        self._buffer = b""
        self.retry: int | None = None

    def feed(self, data: bytes) -> list[Event]:
        *frames, self._buffer = (self._buffer + data).split(b"\n\n")
        return [self._event(frame.decode()) for frame in frames]

    def _event(self, frame: str) -> Event:
        fields = dict(line.split(": ", 1) for line in frame.split("\n"))
        assert set(fields) <= {"retry", "id", "event", "data"}, f"unknown field in {frame!r}"
        assert len(fields) == len(frame.split("\n")), f"a field twice in {frame!r}"
        self.retry = int(fields["retry"]) if "retry" in fields else self.retry
        name = fields["event"]
        assert name in NUMBERED | UNNUMBERED, f"unknown event {name!r}"
        assert "id" not in fields or name in NUMBERED, f"{name} must have no id"
        return Event(name, json.loads(fields["data"]), fields.get("id"))


def parse(data: bytes) -> list[Event]:
    return Parser().feed(data)


@dataclass
class Transcript:
    """What one reader holds after any number of connections: the text of each turn, put together by `off`."""

    texts: dict[str, str] = field(default_factory=dict[str, str])
    attempts: dict[str, int] = field(default_factory=dict[str, int])
    replies: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    doubled: int = 0
    missing: int = 0
    last_id: str | None = None
    events: list[Event] = field(default_factory=list[Event])

    def take(self, events: Iterable[Event]) -> None:
        for event in events:
            self.events.append(event)
            self.last_id = event.id or self.last_id
            if event.name == "token":
                self._token(event.data)
            elif event.name == "reply":
                turn = event.data["turn"]
                self.doubled += turn in self.replies
                self.replies[turn] = event.data

    def _token(self, data: Mapping[str, Any]) -> None:
        turn, attempt, off = data["turn"], data["attempt"], data["off"]
        if attempt > self.attempts.get(turn, 0):
            self.attempts[turn], self.texts[turn] = attempt, ""
        held = utf16(self.texts[turn])
        self.doubled += max(held - off, 0)
        self.missing += max(off - held, 0)
        self.texts[turn] += data["text"]


def utf16(text: str) -> int:
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


class Stream:
    """An open SSE connection."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.parser = Parser()
        self._ready: list[Event] = []

    async def next(self) -> Event:
        """The next event; StopAsyncIteration at the proper end of the body."""
        while not self._ready:
            data = await self.response.content.readany()
            if not data:
                raise StopAsyncIteration
            self._ready = self.parser.feed(data)
        return self._ready.pop(0)

    async def until(self, name: str) -> list[Event]:
        """Events up to and with the first one called `name`; beats are left out."""
        seen: list[Event] = []
        while True:
            event = await self.next()
            if event.name != "beat" or name == "beat":
                seen.append(event)
            if event.name == name:
                return seen

    async def rest(self) -> list[Event]:
        """Everything to the end of the body."""
        seen: list[Event] = []
        while True:
            try:
                seen.append(await self.next())
            except StopAsyncIteration:
                return seen


@asynccontextmanager
async def stream(
    session: aiohttp.ClientSession, url: str, *, send: dict[str, Any] | None = None, **options: Any
) -> AsyncGenerator[Stream, None]:
    """Opens `GET url`, or `POST url` with a body to send."""
    method = "GET" if send is None else "POST"
    async with session.request(method, url, json=send, **options) as response:
        assert response.status == 200, (response.status, await response.text())
        yield Stream(response)
