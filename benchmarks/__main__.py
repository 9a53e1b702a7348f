"""`python -m benchmarks [streaming|idle|resume|memory|migration|all] [--quick]`.

Starts all it needs on loopback, then stops it.
"""

import argparse
import signal
import sys

import uvloop
from rich.console import Console

from benchmarks import idle, memory, migration, resume, streaming
from benchmarks.processes import RESULTS, Cores, divide_cores, pin, raise_file_limit
from benchmarks.report import Report
from benchmarks.stage import Stage, database, stage

PARTS = ("streaming", "idle", "resume", "memory", "migration")
IDLE_STREAMS, FEW_IDLE_STREAMS = 5000, 500


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="The gateway's figures, next to peers'.")
    parser.add_argument("part", nargs="?", choices=(*PARTS, "all"), default="all")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and streams: a look, not a figure to quote")
    arguments = parser.parse_args()
    parts = PARTS if arguments.part == "all" else (arguments.part,)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that all that was started is stopped
    raise_file_limit()
    cores = divide_cores()
    pin(cores.others)
    console = Console()
    console.print(str(cores), style="dim")
    with database() as url:
        report = uvloop.run(_measure(parts, cores, url, console, quick=arguments.quick))
    report.show(console)
    report.write(RESULTS)
    console.print(f"written to {RESULTS}/bench.md and bench.json", style="dim")
    return 1 if report.faults else 0


async def _measure(parts: tuple[str, ...], cores: Cores, url: str, console: Console, *, quick: bool) -> Report:
    report = Report(cores)
    async with stage(cores, url) as ready:
        for part in parts:
            await _measure_part(part, ready, report, console, quick=quick)
    return report


async def _measure_part(part: str, ready: Stage, report: Report, console: Console, *, quick: bool) -> None:
    def say(progress: str) -> None:
        console.print(f"{part}: {progress}", style="dim")

    if part == "streaming":
        plan = streaming.Plan(streams=(50,), rounds=1) if quick else streaming.Plan()
        report.streaming = await streaming.measure(ready, plan, say)
    elif part == "idle":
        report.idle = await idle.measure(ready, FEW_IDLE_STREAMS if quick else IDLE_STREAMS, say)
    elif part == "memory":
        pin(ready.cores.tested)  # it measures in this process; PostgreSQL stays where it is
        plan = memory.Plan(sizes=(1_000, 10_000), others=100, turns=50) if quick else memory.Plan()
        report.memory = await memory.measure(ready.database_url, plan, say)
    elif part == "migration":
        pin(ready.cores.tested)
        plan = migration.Plan(messages=10_000) if quick else migration.Plan()
        report.migration = await migration.measure(ready.database_url, plan, say)
    else:
        plan = resume.Plan(rate=400, cold=1) if quick else resume.Plan()
        report.resume = await resume.measure(ready, plan, say)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
