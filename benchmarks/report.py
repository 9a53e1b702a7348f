"""The figures as tables: to the terminal, and as markdown and JSON below `.freya/`."""

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markdown import Markdown

from benchmarks.idle import IdleFigures
from benchmarks.memory import ASSEMBLED, CACHED_PRICE, Latency, MemoryFigures, Prefix
from benchmarks.migration import MigrationFigures
from benchmarks.processes import Cores
from benchmarks.resume import ResumeFigures
from benchmarks.streaming import StreamingFigures, StreamingResult

KILOBYTE, MEGABYTE = 1024, 1024 * 1024
MET, MISSED = "met", "**missed**"
MOST_CPU_RATIO = 0.35  # of the plain endpoint, at 50 streams
MOST_ADDED_MS = 5.0  # to the plain endpoint's first token, at 50 streams
MOST_GAP_MS = 55.0  # the log's window of 40 ms, and 15
MOST_IDLE_BYTES = 25 * KILOBYTE
MOST_SEARCH_MS = {1_000: 15.0, 100_000: 25.0, 1_000_000: 60.0}  # p95, by messages of the user
MOST_ASSEMBLY_MS = 5.0  # p50
LEAST_REPEATED = 0.8  # of a prompt's tokens
MOST_MIGRATION_MEGABYTES = 300.0
LEAST_OF_COPY = 0.25  # of a plain COPY's speed


@dataclass(slots=True)
class Report:
    """What was measured; a part that did not run is absent."""

    cores: Cores
    streaming: StreamingResult | None = None
    idle: dict[str, IdleFigures] | None = None
    resume: ResumeFigures | None = None
    memory: MemoryFigures | None = None
    migration: MigrationFigures | None = None
    at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def faults(self) -> int:
        """Characters lost or too many, replies stored otherwise, beats missed: what no machine may excuse."""
        found = 0.0
        if self.streaming:
            runs = [figures for by_server in self.streaming.figures.values() for figures in by_server.values()]
            found += sum(run.lost + run.extra + run.stored_wrong for run in runs)
        if self.idle:
            found += self.idle["gateway"].without_beat
        if self.resume:
            found += self.resume.lost + self.resume.extra
        return int(found)

    def markdown(self) -> str:
        parts = [f"# Figures of {self.at:%Y-%m-%d %H:%M} UTC", f"Python {platform.python_version()}; {self.cores}."]
        if self.streaming:
            parts += _streaming(self.streaming)
        if self.idle:
            parts += _idle(self.idle)
        if self.resume:
            parts += _resume(self.resume)
        if self.memory:
            parts += _memory(self.memory)
        if self.migration:
            parts += _migration(self.migration)
        return "\n\n".join(parts) + "\n"

    def show(self, console: Console) -> None:
        console.print(Markdown(self.markdown()))

    def write(self, folder: Path) -> None:
        """`bench.md` and `bench.json` in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "bench.md").write_text(self.markdown())
        (folder / "bench.json").write_text(json.dumps(self._plain(), indent=2) + "\n")

    def _plain(self) -> dict[str, Any]:
        found: dict[str, Any] = {"at": self.at.isoformat(), "cores": str(self.cores)}
        if self.streaming:
            found["streaming"] = asdict(self.streaming)
        if self.idle:
            found["idle"] = {name: asdict(figures) for name, figures in self.idle.items()}
        if self.resume:
            found["resume"] = asdict(self.resume)
        if self.memory:
            found["memory"] = asdict(self.memory)
        if self.migration:
            found["migration"] = asdict(self.migration)
        return found


def _streaming(result: StreamingResult) -> list[str]:
    plan = result.plan
    parts = [
        f"## {plan.tokens} tokens at {plan.rate} per second\n\nMedians of {plan.rounds} rounds. CPU is user and system "
        "time of the server's process per token that the model sent; in brackets, its ratio to the plain endpoint's."
    ]
    for count, figures in result.figures.items():
        parts.append(_table([f"{count} streams", *figures], _streaming_rows(figures)))
        if count == 50:
            parts.append(_streaming_targets(figures))
    return parts


def _streaming_rows(figures: dict[str, StreamingFigures]) -> list[list[str]]:
    plain, runs = figures["plain"], list(figures.values())
    return [
        ["CPU per token", *(f"{f.cpu_per_token:.0f} us ({f.cpu_per_token / plain.cpu_per_token:.2f}x)" for f in runs)],
        ["first token p50", *(f"{f.first_token_p50:.1f} ms" for f in runs)],
        ["first token p99", *(f"{f.first_token_p99:.1f} ms" for f in runs)],
        ["p50 added to the pump's", *(f"{f.first_token_p50 - figures['pump'].first_token_p50:+.1f} ms" for f in runs)],
        ["p50 added to plain's", *(f"{f.first_token_p50 - plain.first_token_p50:+.1f} ms" for f in runs)],
        ["gap p50", *(f"{f.gap_p50:.1f} ms" for f in runs)],
        ["gap p99", *(f"{f.gap_p99:.1f} ms" for f in runs)],
        ["whole turn p99", *(f"{f.turn_p99:.0f} ms" for f in runs)],
        ["deliveries per reply", *(f"{f.deliveries_per_reply:.0f}" for f in runs)],
        ["lost / doubled characters", *(f"{f.lost:.0f} / {f.extra:.0f}" for f in runs)],
        ["replies stored otherwise", f"{figures['gateway'].stored_wrong:.0f}", "-", "-"],
        ["peak memory", *(f"{f.peak_memory / MEGABYTE:.0f} MB" for f in runs)],
    ]


def _streaming_targets(figures: dict[str, StreamingFigures]) -> str:
    gateway, plain = figures["gateway"], figures["plain"]
    ratio = gateway.cpu_per_token / plain.cpu_per_token
    added = gateway.first_token_p50 - plain.first_token_p50
    return _table(
        ["asked for, at 50 streams", "most", "found", ""],
        [
            _target("CPU per token, of the plain endpoint's", MOST_CPU_RATIO, ratio, "{:.2f}x"),
            _target("added to plain's first token, p50", MOST_ADDED_MS, added, "{:.1f} ms"),
            _target("gap p99", MOST_GAP_MS, gateway.gap_p99, "{:.1f} ms"),
        ],
    )


def _idle(figures: dict[str, IdleFigures]) -> list[str]:
    runs = list(figures.values())
    gateway = figures["gateway"]
    rows = [
        ["memory per stream", *(f"{f.bytes_per_stream / KILOBYTE:.1f} KB" for f in runs)],
        ["CPU while idle", *(f"{f.cpu_percent:.1f} % of a core" for f in runs)],
        ["opened in", *(f"{f.open_seconds:.1f} s" for f in runs)],
        ["streams without a beat (ping)", *(f"{f.without_beat}" for f in runs)],
        ["database connections before", f"{gateway.connections_before}", "-"],
        ["database connections with all open", f"{gateway.connections_held}, {gateway.connections_busy} busy", "-"],
    ]
    target = _target("memory per stream", MOST_IDLE_BYTES / KILOBYTE, gateway.bytes_per_stream / KILOBYTE, "{:.1f} KB")
    return [
        "## Idle EventSource connections\n\nEach is another user's.",
        _table([f"{gateway.streams} streams", *figures], rows),
        _table(["asked for", "most", "found", ""], [target]),
    ]


def _resume(figures: ResumeFigures) -> list[str]:
    rows = [
        ["from a fresh process", f"{figures.cold:.0f} ms"],
        ["from a warm one", f"{figures.warm:.1f} ms"],
        ["lost / doubled characters", f"{figures.lost} / {figures.extra}"],
    ]
    title = f"{figures.tokens} tokens, {figures.events} events in the log, {figures.size / KILOBYTE:.0f} KB sent"
    return ["## A reply resumed at its first event\n\nFrom connecting to the last byte.", _table([title, "time"], rows)]


def _memory(figures: MemoryFigures) -> list[str]:
    searches = {f"{size:,} messages": latency for size, latency in figures.search.items()}
    searches[f"one of {figures.others:,} users"] = figures.small
    prompts = {"with recall": figures.with_recall, "without": figures.without}
    assembly = f"prompt at {ASSEMBLED:,} messages"
    return [
        "## Memory\n\nSearch and assembly as a turn calls them, in this process, against PostgreSQL beside it.",
        _table(["search", "p50", "p95"], _latencies(searches)),
        _table([assembly, "p50", "p95"], _latencies(prompts)),
        f"A conversation of some hundred turns; prompt tokens that repeat the previous prompt's prefix are billed at "
        f"{CACHED_PRICE:.0%}.",
        _table(["prompts", "Freya's", "a sliding window's"], _prefixes(figures.prefix, figures.sliding)),
        _table(["asked for", "wanted", "found", ""], _memory_targets(figures)),
    ]


def _latencies(found: dict[str, Latency]) -> list[list[str]]:
    return [[name, f"{latency.p50:.1f} ms", f"{latency.p95:.1f} ms"] for name, latency in found.items()]


def _prefixes(ours: Prefix, sliding: Prefix) -> list[list[str]]:
    return [
        ["tokens", *(f"{p.tokens:.0f}" for p in (ours, sliding))],
        ["repeated", *(f"{p.repeated:.1%}" for p in (ours, sliding))],
        ["billed, in full-price tokens", *(f"{p.bill:.0f}" for p in (ours, sliding))],
    ]


def _memory_targets(figures: MemoryFigures) -> list[list[str]]:
    repeated = figures.prefix.repeated
    return [
        *(
            _target(f"search in {size:,} messages, p95", most, figures.search[size].p95, "{:.1f} ms")
            for size, most in MOST_SEARCH_MS.items()
            if size in figures.search
        ),
        _target("assembly with recall, p50", MOST_ASSEMBLY_MS, figures.with_recall.p50, "{:.1f} ms"),
        [
            "repeated prefix",
            f"{LEAST_REPEATED:.0%}",
            f"{repeated:.1%}",
            "met" if repeated >= LEAST_REPEATED else MISSED,
        ],
    ]


def _migration(figures: MigrationFigures) -> list[str]:
    times = figures.steps | {"whole command": figures.run, "plain COPY of the rows": figures.copy}
    steps = [[name, f"{seconds:.1f} s"] for name, seconds in times.items()]
    memory, speed = figures.peak_memory / MEGABYTE, figures.messages / figures.run
    met = MET if figures.of_copy >= LEAST_OF_COPY else MISSED
    return [
        f"## Migration of {figures.messages:,} messages from a dump\n\n{speed:,.0f} documents a second in all.",
        _table(["step", "time"], steps),
        _table(
            ["asked for", "wanted", "found", ""],
            [
                _target("peak memory", MOST_MIGRATION_MEGABYTES, memory, "{:.0f} MB"),
                ["loading, of a plain COPY's speed", f"{LEAST_OF_COPY:.0%}", f"{figures.of_copy:.0%}", met],
            ],
        ),
    ]


def _target(name: str, most: float, found: float, form: str) -> list[str]:
    return [name, form.format(most), form.format(found), MET if found <= most else MISSED]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
