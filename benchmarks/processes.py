"""The processes of a benchmark: started on the cores they belong to, measured from outside, and stopped whatever comes.

Linux counts best: CPU to the nanosecond, peak and proportional memory. Elsewhere psutil gives what there is.
"""

import asyncio
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

START_SECONDS = 60.0
STOP_SECONDS = 15.0
LINUX = sys.platform == "linux"
REPOSITORY = Path(__file__).parent.parent
RESULTS = REPOSITORY / ".freya"


@dataclass(frozen=True, slots=True)
class Cores:
    """Who runs where: the server under test alone on one core, all else on the others."""

    tested: frozenset[int]
    others: frozenset[int]

    @property
    def shared(self) -> bool:
        """Whether load and server take each other's time, so that latencies say little."""
        return bool(self.tested & self.others)

    def __str__(self) -> str:
        if not LINUX:
            return "not pinned: this system has no sched_setaffinity"
        if self.shared:
            return "one core for server, load, model and PostgreSQL: read the ratios, not the latencies"
        return f"servers on core {min(self.tested)}; load, model and PostgreSQL on {sorted(self.others)}"


def divide_cores() -> Cores:
    """One of the cores that this process may use for the server under test, the others for the rest."""
    if not LINUX:
        return Cores(frozenset(), frozenset())
    usable = sorted(os.sched_getaffinity(0))
    return Cores(frozenset(usable[:1]), frozenset(usable[1:] or usable))


def pin(cores: Collection[int]) -> None:
    """Keeps this process, and what it starts from now on, on `cores`; none of them means anywhere."""
    if LINUX and cores:
        os.sched_setaffinity(0, cores)


@contextmanager
def pinned(cores: Collection[int]) -> Generator[None, None, None]:
    """Processes started inside run on `cores`, with all threads that they ever have."""
    before = os.sched_getaffinity(0) if LINUX else ()
    pin(cores)
    try:
        yield
    finally:
        pin(before)


def raise_file_limit() -> int:
    """Takes as many open files as this system allows; returns how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


class Server:
    """A process that serves on loopback. Built by `start_server`."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self._process = process
        self._ps = psutil.Process(process.pid)
        self.port = port

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def cpu_seconds(self) -> float:
        """User and system time of all its threads so far."""
        if LINUX:  # the process's CPU clock, as clock_getcpuclockid(3) names it
            return time.clock_gettime((~self.pid << 3) | 2)
        times = self._ps.cpu_times()
        return times.user + times.system

    @property
    def memory(self) -> int:
        """Resident bytes; pages shared with other processes count by their share."""
        if not LINUX:
            return self._ps.memory_info().rss
        return _kilobytes(Path(f"/proc/{self.pid}/smaps_rollup"), "Pss") * 1024

    @property
    def peak_memory(self) -> int:
        """Most resident bytes since `forget_peak`."""
        if not LINUX:
            return self._ps.memory_info().rss
        return _kilobytes(Path(f"/proc/{self.pid}/status"), "VmHWM") * 1024

    def forget_peak(self) -> None:
        with suppress(OSError):
            Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    async def stop(self) -> None:
        """As a platform does it: SIGTERM, and SIGKILL for who does not listen."""
        if self._process.returncode is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


async def start_server(*arguments: str, cores: Collection[int], environment: Mapping[str, str]) -> Server:
    """`python -m ARGUMENTS` on `cores`, once its first line says where: it ends with a port, or an OpenAI base URL."""
    RESULTS.mkdir(exist_ok=True)
    with pinned(cores), (RESULTS / "bench.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", *arguments,
            cwd=REPOSITORY, env=os.environ | environment, stdout=asyncio.subprocess.PIPE, stderr=log,
        )  # fmt: skip
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_SECONDS):
            line = (await process.stdout.readline()).decode()
    except BaseException:
        process.kill()
        raise
    match = re.search(r"(\d+)(?:/v1)?\s*$", line)
    if match is None:
        await process.wait()
        raise RuntimeError(f"{' '.join(arguments)} did not start; see {RESULTS}/bench.log")
    return Server(process, int(match[1]))


def _kilobytes(path: Path, name: str) -> int:
    line = next(line for line in path.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1])
