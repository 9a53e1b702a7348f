"""How far a run is: bars on a terminal, plain lines elsewhere, or one JSON object a line."""

import json
import sys
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

EVERY = 1.0  # seconds between two lines


@dataclass(frozen=True, slots=True)
class Step:
    """`done` of `of` documents (or messages, while loading); `of` None where nobody knows."""

    name: str
    done: int = 0
    of: int | None = None
    rejects: int = 0


class Tell(Protocol):
    """Hears of the progress."""

    def __call__(self, step: Step, /) -> None: ...


def silent(step: Step) -> None:
    """Tells nobody."""


class Progress:
    """On the error output. A context manager."""

    def __init__(self, *, as_json: bool = False) -> None:
        console = Console(stderr=True, highlight=False)
        self._as_json, self._console = as_json, console
        self._told = self._began = time.monotonic()
        self._name, self._from, self._done = "", 0, 0
        rate = TextColumn("{task.fields[rate]}/s {task.fields[rejects]}")
        columns = (TextColumn("{task.description:>10}"), BarColumn(), MofNCompleteColumn(), TaskProgressColumn())
        self._bars = Bars(*columns, rate, TimeRemainingColumn(), console=console) if console.is_terminal else None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        if self._bars and not self._as_json:
            self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bars and not self._as_json:
            self._bars.stop()

    def __call__(self, step: Step) -> None:
        now = time.monotonic()
        is_new = step.name != self._name
        if is_new:
            self._task = None
        if is_new or step.done < self._done:  # another step, or another user's messages
            self._name, self._began, self._from = step.name, now, step.done
        self._done = step.done
        rate = (step.done - self._from) / max(now - self._began, 0.001)
        if self._bars and not self._as_json:
            self._draw(self._bars, step, rate)
        elif is_new or now - self._told >= EVERY:
            self._told = now
            self._line(step, rate)

    def _draw(self, bars: Bars, step: Step, rate: float) -> None:
        rejects = f"{step.rejects} rejects" if step.rejects else ""
        if self._task is None:
            self._task = bars.add_task(step.name, total=step.of, rate="0", rejects="")
        bars.update(self._task, completed=step.done, total=step.of, rate=f"{rate:,.0f}", rejects=rejects)

    def _line(self, step: Step, rate: float) -> None:
        if self._as_json:
            entry = {"at": datetime.now(UTC).isoformat(), **asdict(step), "per_second": round(rate)}
            sys.stderr.write(json.dumps(entry) + "\n")
            return
        of = f" of {step.of:,} ({step.done * 100 // max(step.of, 1)} %)" if step.of else ""
        left = f", {(step.of - step.done) / rate:.0f} s left" if step.of and rate else ""
        speed = f", {rate:,.0f}/s" if rate else ""
        rejects = f", {step.rejects} rejects" if step.rejects else ""
        self._console.print(f"{step.name}: {step.done:,}{of}{speed}{left}{rejects}", style="dim", soft_wrap=True)
