"""The terminal's conversation, against a gateway that plays back what a test wrote for it."""

import io
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2
import pytest
from rich.console import Console

from freya_gateway.chat import Conversation, Refused

TURN = "6f0d8c1e-3a52-4a0e-9d55-0d2f3c1b7a10"
READY = ("ready", None, {"epoch": "e", "head": 0})
LISTENING = ("listening", "e.1", {"turn": TURN, "message": "Hello"})
THINKING = ("thinking", "e.2", {"turn": TURN, "attempt": 1})
Event = tuple[str, str | None, dict[str, Any]]


@dataclass
class Answer:
    """One answer of the played gateway: events, or a refusal."""

    events: list[Event] = field(default_factory=list[Event])
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict[str, str])
    problem: dict[str, Any] | None = None
    afterwards: Callable[[], None] = lambda: None

    def body(self) -> bytes:
        if self.problem is not None:
            return json.dumps(self.problem).encode()
        return ("retry: 1000\n\n" + "".join(map(_frame, self.events))).encode()


class Played:
    """A gateway that gives its answers in order, and remembers what it was asked."""

    def __init__(self, *answers: Answer) -> None:
        self.asked: list[tuple[str, str, Any]] = []
        self._answers = list(answers)
        played = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self._answer()

            def do_GET(self) -> None:
                self._answer()

            def log_message(self, format: str, *args: object) -> None:
                return

            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                played.asked.append((self.command, self.path, json.loads(body or b"null")))
                answer = played._answers.pop(0)
                self.send_response(answer.status)
                for name, value in ({"content-type": "text/event-stream"} | answer.headers).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer.body())
                answer.afterwards()

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.01,)).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _frame(event: Event) -> str:
    name, cursor, data = event
    numbered = f"id: {cursor}\n" if cursor else ""
    return f"{numbered}event: {name}\ndata: {json.dumps(data)}\n\n"


def token(seq: int, off: int, text: str, *, attempt: int = 1) -> Event:
    return "token", f"e.{seq}", {"turn": TURN, "attempt": attempt, "off": off, "text": text}


def reply(seq: int, message: str, *, status: str = "complete") -> Event:
    return "reply", f"e.{seq}", {"turn": TURN, "message": message, "status": status}


@pytest.fixture
def say() -> Iterator[Callable[..., tuple[str, Played]]]:
    """Says "Hello" to a gateway with these answers: what the screen shows, and the gateway."""
    opened: list[Played] = []

    def run(*answers: Answer) -> tuple[str, Played]:
        played = Played(*answers)
        opened.append(played)
        screen = io.StringIO()
        with httpx2.Client(base_url=played.url, timeout=5) as client:
            Conversation(client, Console(file=screen, width=80)).say("Hello")
        return screen.getvalue(), played

    yield run
    for played in opened:
        played.close()


Say = Callable[..., tuple[str, Played]]


def test_a_reply_is_written_as_it_comes(say: Say) -> None:
    pieces = [token(3, 0, "Hi"), token(4, 2, " 🌙"), token(5, 5, " you")]
    screen, played = say(Answer([READY, LISTENING, THINKING, *pieces, reply(6, "Hi 🌙 you")]))
    assert screen == "Hi 🌙 you\n"
    assert played.asked[0][:2] == ("POST", "/v1/stream")
    assert played.asked[0][2]["text"] == "Hello"


def test_a_dropped_connection_is_resumed_after_the_last_event(say: Say) -> None:
    first = Answer([READY, LISTENING, THINKING, token(3, 0, "Hi")])
    second = Answer([READY, token(4, 2, " you"), reply(5, "Hi you")])
    screen, played = say(first, second)
    assert screen == "Hi you\n"
    assert played.asked[1][:2] == ("GET", f"/v1/stream?turn={TURN}&after=e.3")


def test_a_send_that_was_not_answered_is_sent_again_under_the_same_id(say: Say) -> None:
    _, played = say(Answer([READY]), Answer([READY, LISTENING, THINKING, reply(3, "Hi")]))
    first, second = played.asked
    assert first == second
    assert first[2]["client_message_id"]


def test_text_that_was_seen_already_is_not_written_twice(say: Say) -> None:
    again = [token(4, 1, "i you"), reply(5, "Hi you")]
    screen, _ = say(Answer([READY, LISTENING, THINKING, token(3, 0, "Hi"), *again]))
    assert screen == "Hi you\n"


def test_a_gap_is_closed_by_asking_for_the_present_state(say: Say) -> None:
    gap = Answer([READY, LISTENING, THINKING, token(3, 0, "Hi"), token(5, 9, "you")])
    whole = Answer([READY, LISTENING, THINKING, token(6, 0, "Hi, dear you"), reply(7, "Hi, dear you")])
    screen, played = say(gap, whole)
    assert screen == "Hi, dear you\n"
    assert played.asked[1][1] == f"/v1/stream?turn={TURN}"


def test_a_new_attempt_starts_again(say: Say) -> None:
    again = ("thinking", "e.4", {"turn": TURN, "attempt": 2})
    pieces = [token(5, 0, "Hello", attempt=2), reply(6, "Hello")]
    screen, _ = say(Answer([READY, LISTENING, THINKING, token(3, 0, "Hi"), again, *pieces]))
    assert screen == "Hi\n(starting over)\nHello\n"


def test_a_reply_that_differs_from_its_pieces_is_written_in_full(say: Say) -> None:
    screen, _ = say(
        Answer([READY, LISTENING, THINKING, token(3, 0, "Hi"), reply(4, "I lost my words.", status="fallback")])
    )
    assert screen == "Hi\n(in full)\nI lost my words.\n\n(no model answered)\n"


def test_terminal_commands_in_a_reply_do_nothing(say: Say) -> None:
    screen, _ = say(Answer([READY, LISTENING, THINKING, reply(3, "a\x1b[2J\x07b\x9bc\nd")]))
    assert screen == "a[2Jbc\nd\n"


def test_a_server_that_says_goodbye_is_asked_again(say: Say) -> None:
    bye = ("bye", None, {"reason": "deploy", "retry_ms": 10, "final": False})
    screen, _ = say(Answer([READY, LISTENING, bye]), Answer([READY, THINKING, reply(3, "Hi")]))
    assert screen == "Hi\n"


def test_an_overloaded_gateway_is_asked_again(say: Say) -> None:
    busy = Answer(status=503, headers={"retry-after": "0"}, problem={"detail": "Later."})
    screen, _ = say(busy, Answer([READY, LISTENING, THINKING, reply(3, "Hi")]))
    assert screen == "Hi\n"


def test_a_refusal_gives_the_gateways_reason(say: Say) -> None:
    with pytest.raises(Refused, match="Sign in"):
        say(Answer(status=401, problem={"detail": "Sign in first."}))


def test_something_else_than_a_gateway_is_recognised(say: Say) -> None:
    with pytest.raises(Refused, match="status 404"):
        say(Answer(status=404, problem={"nothing": "known"}))


def test_a_turn_that_was_stopped_says_so(say: Say) -> None:
    stopped = Answer([READY, reply(4, "Hi", status="stopped")])
    screen, played = say(Answer([READY, LISTENING, THINKING, token(3, 0, "Hi")]), stopped)
    assert screen == "Hi\n\n(stopped)\n"
    assert len(played.asked) == 2


def test_an_interruption_stops_the_turn_and_then_shows_what_was_said(say: Say) -> None:
    def interrupt() -> None:
        time.sleep(0.2)  # the reader has taken the events in
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        stop_asked.wait(5)  # the connection is still open when the reader leaves it

    stop_asked = threading.Event()
    running = Answer([READY, LISTENING, THINKING, token(3, 0, "Hi")], afterwards=interrupt)
    rest = Answer([READY, reply(4, "Hi", status="stopped")])
    screen, played = say(running, Answer(problem={"state": "done"}, afterwards=stop_asked.set), rest)
    assert screen == "Hi\n\n(stopped)\n"
    assert [asked[:2] for asked in played.asked[1:]] == [
        ("POST", f"/v1/turns/{TURN}/stop"),
        ("GET", f"/v1/stream?turn={TURN}&after=e.3"),
    ]
