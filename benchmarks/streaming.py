"""Concurrent replies at a model's pace, through the gateway and its peers in turns: CPU, delays, completeness."""

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from benchmarks.load import Asked, record_turns
from benchmarks.processes import Server
from benchmarks.stage import Stage
from benchmarks.stored import stored_texts
from benchmarks.wire import Event, deliveries, difference, events
from tests.model_server import expected_reply

SERVERS = ("gateway", "plain", "pump")
SPREAD_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    """`streams` side by side, each `tokens` long at `rate` per second; `rounds` for each server."""

    streams: tuple[int, ...] = (50, 200)
    tokens: int = 200
    rate: int = 50
    rounds: int = 3

    @property
    def seconds(self) -> float:
        """What a turn takes if nothing holds it up."""
        return self.tokens / self.rate

    def turns(self, stage: Stage, count: int) -> list[Asked]:
        return [
            Asked(
                stage.credential(f"bench-{number}"),
                f"!reply tokens={self.tokens} rate={self.rate} seed={number}",
                SPREAD_SECONDS * number / count,
            )
            for number in range(count)
        ]


@dataclass(frozen=True, slots=True)
class StreamingFigures:
    """What one server did with one load. Times in milliseconds, CPU in microseconds, memory in bytes."""

    cpu_per_token: float
    first_token_p50: float
    first_token_p99: float
    gap_p50: float
    gap_p99: float
    turn_p99: float
    deliveries_per_reply: float
    peak_memory: float
    lost: float
    extra: float
    stored_wrong: float


@dataclass(frozen=True, slots=True)
class StreamingResult:
    """Median figures by number of streams and server."""

    plan: Plan
    figures: dict[int, dict[str, StreamingFigures]]


async def measure(stage: Stage, plan: Plan, say: Callable[[str], None]) -> StreamingResult:
    """All rounds: gateway, plain, pump, gateway, plain, pump, ..."""
    found: dict[int, dict[str, StreamingFigures]] = {}
    async with AsyncExitStack() as running:
        servers = {"gateway": await running.enter_async_context(stage.gateway())}
        servers |= {kind: await running.enter_async_context(stage.peer(kind)) for kind in SERVERS[1:]}
        for count in plan.streams:
            rounds: dict[str, list[StreamingFigures]] = {name: [] for name in servers}
            for server in servers.values():
                await _warm_up(stage, server, count)
            for number in range(plan.rounds):
                for name, server in servers.items():
                    say(f"{count} streams, round {number + 1} of {plan.rounds}: {name}")
                    rounds[name].append(await _round(stage, server, plan.turns(stage, count)))
            found[count] = {name: _middle(figures) for name, figures in rounds.items()}
    return StreamingResult(plan, found)


async def _warm_up(stage: Stage, server: Server, count: int) -> None:
    short = Plan(tokens=10, rate=100)
    await record_turns(server.port, short.turns(stage, count), seconds=60)


async def _round(stage: Stage, server: Server, turns: Sequence[Asked]) -> StreamingFigures:
    server.forget_peak()
    cpu = server.cpu_seconds
    recorders = await record_turns(server.port, turns, seconds=120)
    cpu = server.cpu_seconds - cpu
    answers = [events(recorder.reads) for recorder in recorders]
    expected = [expected_reply(asked.text) for asked in turns]
    tokens = sum(int(asked.text.split("tokens=")[1].split()[0]) for asked in turns)
    times = [list(deliveries(answer)) for answer in answers]
    gaps = [later - earlier for came in times for earlier, later in pairwise(came)]
    first = [came[0] - recorder.began for came, recorder in zip(times, recorders, strict=True) if came]
    differences = [difference(*pair) for pair in zip(expected, map(_text, answers), strict=True)]
    return StreamingFigures(
        cpu_per_token=cpu / tokens * 1e6,
        first_token_p50=percentile(first, 50) * 1e3,
        first_token_p99=percentile(first, 99) * 1e3,
        gap_p50=percentile(gaps, 50) * 1e3,
        gap_p99=percentile(gaps, 99) * 1e3,
        turn_p99=percentile([recorder.seconds for recorder in recorders], 99) * 1e3,
        deliveries_per_reply=sum(map(len, times)) / len(times),
        peak_memory=server.peak_memory,
        lost=sum(lost for lost, _ in differences),
        extra=sum(extra for _, extra in differences),
        stored_wrong=await _stored_wrong(stage, answers, expected),
    )


def _text(answer: Sequence[Event]) -> str:
    return "".join(event.text for event in answer)


async def _stored_wrong(stage: Stage, answers: Sequence[Sequence[Event]], expected: Sequence[str]) -> int:
    """Replies that PostgreSQL holds otherwise, as a message or as pieces in the log; 0 for who stores none."""
    turns = [answer[-1].turn for answer in answers]
    if not any(turns):
        return 0
    stored = await stored_texts(stage.database_url, [turn for turn in turns if turn])
    return sum(stored.get(turn or "") != {text} for turn, text in zip(turns, expected, strict=True))


def _middle(rounds: Sequence[StreamingFigures]) -> StreamingFigures:
    """The median of each figure, but the sum of what should not be at all."""
    names = StreamingFigures.__slots__
    faults = ("lost", "extra", "stored_wrong")
    return StreamingFigures(**{n: (sum if n in faults else median)([getattr(r, n) for r in rounds]) for n in names})


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which `percent` of `values` are."""
    if not values:
        return float("nan")
    return sorted(values)[min(int(len(values) * percent / 100), len(values) - 1)]
