"""A conversation in the terminal with a running gateway: the smallest complete reader of the stream protocol.

A dropped connection is resumed after the last cursor; before the first one, the same `client_message_id` is sent
again, which can cause no second reply. Ctrl-C stops the turn, not the program.
"""

import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from uuid import uuid4

import httpx2
from rich.console import Console
from rich.status import Status

PATIENCE_SECONDS = 60.0  # without any event, before a turn is given up
RETRY_SECONDS = 1.0
# Read: beats come every 15 s, so three missing ones are a dead connection.
TIMEOUT = httpx2.Timeout(10, read=45)
# A model's words may hold terminal commands: of the control characters only tab and newline pass.
CONTROLS = dict.fromkeys({*range(32), *range(127, 160)} - {9, 10})
REMARKS = {
    "stopped": "stopped",
    "interrupted": "the model broke off",
    "length": "the reply reached its longest length",
    "filtered": "the model's provider held the rest back",
    "fallback": "no model answered",
}


class Refused(Exception):
    """The gateway's answer to a request that it will not carry out."""


class _Lost(Exception):
    """The connection ended, or missed something, before the reply; worth another one after `seconds`."""

    def __init__(self, seconds: float = RETRY_SECONDS) -> None:
        super().__init__()
        self.seconds = seconds


@dataclass
class _Turn:
    """What has been seen of one turn."""

    text: str
    client_message_id: str = field(default_factory=lambda: str(uuid4()))
    id: str | None = None
    cursor: str | None = None
    attempt: int = 1
    said: str = ""
    done: bool = False
    heard_at: float = field(default_factory=time.monotonic)


class Conversation:
    """Says things to Freya and writes what she answers, as it comes."""

    def __init__(self, client: httpx2.Client, console: Console) -> None:
        self._client = client
        self._console = console

    def say(self, text: str) -> None:
        """One turn, to its reply. Raises Refused with the gateway's reason, or when it stays unreachable."""
        turn = _Turn(text)
        with self._console.status("Freya is listening …", spinner="dots") as status:
            while not turn.done:
                try:
                    self._follow_or_wait(turn, status)
                except KeyboardInterrupt:
                    self._stop(turn)

    def _follow_or_wait(self, turn: _Turn, status: Status) -> None:
        try:
            self._follow(turn, status)
        except (_Lost, httpx2.TransportError) as error:
            _wait_or_give_up(turn, error)

    def _follow(self, turn: _Turn, status: Status) -> None:
        with self._open(turn) as response:
            for event in httpx2.EventSource(response):
                turn.heard_at = time.monotonic()
                if event.data:  # a lone `retry:` comes as an event without any
                    self._take(turn, event, status)
                turn.cursor = event.id or turn.cursor
                if turn.done:
                    return
        raise _Lost

    @contextmanager
    def _open(self, turn: _Turn) -> Generator[httpx2.Response, None, None]:
        if turn.id is None:
            body = {"text": turn.text, "client_message_id": turn.client_message_id}
            request = self._client.build_request("POST", "/v1/stream", json=body)
        else:
            seen = {"after": turn.cursor} if turn.cursor else {}
            request = self._client.build_request("GET", "/v1/stream", params={"turn": turn.id} | seen)
        response = self._client.send(request, stream=True)
        try:
            _raise_for_problem(response)
            yield response
        finally:
            response.close()

    def _take(self, turn: _Turn, event: httpx2.ServerSentEvent, status: Status) -> None:
        data: Any = event.json()
        match event.event:
            case "listening":
                turn.id = data["turn"]
            case "thinking":
                self._think(turn, data, status)
            case "token":
                self._piece(turn, data, status)
            case "reply":
                self._reply(turn, data, status)
            case "bye":
                raise _Lost(data.get("retry_ms", 1000) / 1000)
            case _:
                pass

    def _think(self, turn: _Turn, data: Any, status: Status) -> None:
        if data["attempt"] > turn.attempt:
            turn.attempt, turn.said = data["attempt"], ""
            self._remark("starting over")
        status.update("Freya is thinking …")

    def _piece(self, turn: _Turn, data: Any, status: Status) -> None:
        ahead = data["off"] - _length(turn.said)
        if ahead > 0:
            turn.cursor = None  # something is missing: ask for the present state instead
            raise _Lost(0)
        self._write(turn, _skip(data["text"], -ahead), status)

    def _reply(self, turn: _Turn, data: Any, status: Status) -> None:
        whole: str = data["message"]
        if not whole.startswith(turn.said):
            self._remark("in full")
            turn.said = ""
        self._write(turn, whole[len(turn.said) :], status)
        self._console.out("")
        if remark := REMARKS.get(data["status"]):
            self._remark(remark)
        turn.done = True

    def _write(self, turn: _Turn, text: str, status: Status) -> None:
        status.stop()
        turn.said += text
        self._console.out(text.translate(CONTROLS), end="", highlight=False)

    def _remark(self, text: str) -> None:
        self._console.print(f"\n({text})", style="dim", highlight=False)

    def _stop(self, turn: _Turn) -> None:
        if turn.id is None:
            raise KeyboardInterrupt
        with suppress(httpx2.HTTPError):
            self._client.post(f"/v1/turns/{turn.id}/stop")


def _wait_or_give_up(turn: _Turn, error: Exception) -> None:
    if isinstance(error, httpx2.ConnectError) and turn.id is None:
        raise Refused("No gateway answers there; start one with `freya serve`, or say where with --url.") from error
    if time.monotonic() - turn.heard_at > PATIENCE_SECONDS:
        raise Refused("The gateway has been silent for a minute; its reply will be in the history.") from error
    time.sleep(error.seconds if isinstance(error, _Lost) else RETRY_SECONDS)


def _raise_for_problem(response: httpx2.Response) -> None:
    if response.status_code == HTTPStatus.OK:
        return
    if response.status_code == HTTPStatus.SERVICE_UNAVAILABLE:
        raise _Lost(float(response.headers.get("retry-after", RETRY_SECONDS)))
    response.read()
    try:
        problem: Any = response.json()
        raise Refused(str(problem["detail"]))
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(f"That is not a gateway: it answers with status {response.status_code}.") from error


def _length(text: str) -> int:
    """UTF-16 code units, the unit of `off`."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def _skip(text: str, units: int) -> str:
    return text.encode("utf-16-le", "surrogatepass")[2 * units :].decode("utf-16-le", "surrogatepass")
