"""Thousands of open EventSources on which nothing happens: what each costs, and whether each hears its beat."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from benchmarks.load import Idler, connect, follow_request
from benchmarks.processes import Server, raise_file_limit
from benchmarks.stage import Stage
from benchmarks.stored import connections

SPARE_FILES = 200
OPENING_AT_ONCE = 50
OPEN_SECONDS = 60.0
SETTLE_SECONDS = 4.0  # the first beat comes after one second, memory of the opening is given back meanwhile
BEAT_SECONDS = 15.0  # the gateway's default, and the plain endpoint's ping


@dataclass(frozen=True, slots=True)
class IdleFigures:
    """What `streams` idle streams, each another user's, cost one server."""

    streams: int
    open_seconds: float
    bytes_per_stream: float
    cpu_percent: float  # of one core, while idle
    without_beat: int  # streams that missed a beat in the time of one, or ended
    connections_before: int
    connections_held: int
    connections_busy: int


async def measure(stage: Stage, streams: int, say: Callable[[str], None]) -> dict[str, IdleFigures]:
    """The gateway, then the plain endpoint, each in a fresh process."""
    streams = min(streams, raise_file_limit() - SPARE_FILES)
    return {
        "gateway": await _measured(stage, stage.gateway(), streams, say),
        "plain": await _measured(stage, stage.peer("plain"), streams, say),
    }


async def _measured(
    stage: Stage, starting: AbstractAsyncContextManager[Server], streams: int, say: Callable[[str], None]
) -> IdleFigures:
    async with starting as server:
        await _close(await _open(stage, server, 100), server)
        held_before, _ = await connections(stage.database_url)
        memory = server.memory
        say(f"opening {streams} streams")
        began = time.perf_counter()
        idlers = await _open(stage, server, streams)
        opened = time.perf_counter() - began
        await asyncio.sleep(SETTLE_SECONDS)
        memory = server.memory - memory
        held, busy = await connections(stage.database_url)
        say(f"listening for the beat of {streams} streams")
        cpu, silent = await _idle(server, idlers)
        await _close(idlers, server)
    return IdleFigures(streams, opened, memory / streams, cpu, silent, held_before, held, busy)


async def _open(stage: Stage, server: Server, count: int) -> list[Idler]:
    slots = asyncio.Semaphore(OPENING_AT_ONCE)

    async def one(number: int) -> Idler:
        request = follow_request("/v1/stream", stage.credential(f"idle-{number}"))
        async with slots:
            idler = await connect(server.port, lambda: Idler(request))
            await idler.ready
        return idler

    async with asyncio.timeout(OPEN_SECONDS):
        return await asyncio.gather(*(one(number) for number in range(count)))


async def _idle(server: Server, idlers: Sequence[Idler]) -> tuple[float, int]:
    """(CPU in percent of a core, streams that heard nothing) over one beat's time and a little."""
    heard = [idler.beats for idler in idlers]
    cpu, began = server.cpu_seconds, time.perf_counter()
    await asyncio.sleep(BEAT_SECONDS + 1)
    cpu = (server.cpu_seconds - cpu) / (time.perf_counter() - began)
    silent = sum(idler.ended or idler.beats == before for idler, before in zip(idlers, heard, strict=True))
    return cpu * 100, silent


async def _close(idlers: Sequence[Idler], server: Server) -> None:
    """Hangs up, and waits until the server has nothing more to do about it."""
    for idler in idlers:
        idler.close()
    cpu = -1.0
    while server.cpu_seconds - cpu > 0.02:
        cpu = server.cpu_seconds
        await asyncio.sleep(0.3)
