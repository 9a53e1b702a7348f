"""A reader who missed all of a long reply: how long until they have it, from a fresh process and from a warm one."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from benchmarks.load import Asked, Recorder, follow_request, record, send_request
from benchmarks.processes import Server
from benchmarks.stage import Stage
from benchmarks.stored import stored_events
from benchmarks.wire import difference, events
from tests.model_server import expected_reply

USER = "resume"
SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Plan:
    """A reply of `tokens` at `rate` per second, read from `cold` fresh processes, `warm` times more from each."""

    tokens: int = 4000
    rate: int = 50
    cold: int = 3
    warm: int = 20


@dataclass(frozen=True, slots=True)
class ResumeFigures:
    """Milliseconds from `connect` to the last byte; `events` as the log holds them, `size` in bytes on the wire."""

    tokens: int
    events: int
    size: int
    cold: float
    warm: float
    lost: int
    extra: int


@dataclass(frozen=True, slots=True)
class _Reading:
    """The request that resumes at the reply's first event."""

    request: bytes
    text: str

    async def answer(self, server: Server) -> Recorder:
        return await record(server.port, self.request, seconds=SECONDS)


async def measure(stage: Stage, plan: Plan, say: Callable[[str], None]) -> ResumeFigures:
    say(f"a reply of {plan.tokens} tokens, {plan.tokens / plan.rate:.0f} s")
    async with stage.gateway() as server:
        turn, reading = await _told(stage, server, plan)
    cold: list[Recorder] = []
    warm: list[Recorder] = []
    for number in range(plan.cold):
        say(f"from fresh process {number + 1} of {plan.cold}")
        async with stage.gateway() as server:
            cold.append(await reading.answer(server))
            warm += [await reading.answer(server) for _ in range(plan.warm)]
    read = [difference(reading.text, "".join(e.text for e in events(r.reads))) for r in (*cold, *warm)]
    return ResumeFigures(
        tokens=plan.tokens,
        events=await stored_events(stage.database_url, turn),
        size=sum(len(data) for _, data in cold[0].reads),
        cold=median(recorder.seconds for recorder in cold) * 1e3,
        warm=median(recorder.seconds for recorder in warm) * 1e3,
        lost=sum(lost for lost, _ in read),
        extra=sum(extra for _, extra in read),
    )


async def _told(stage: Stage, server: Server, plan: Plan) -> tuple[str, _Reading]:
    """A reply as the model speaks it, to be read again."""
    credential = stage.credential(USER)
    text = f"!reply tokens={plan.tokens} rate={plan.rate} seed={int(time.time())}"
    seconds = SECONDS + plan.tokens / plan.rate
    recorder = await record(server.port, send_request(Asked(credential, text, 0)), seconds=seconds)
    first = next(event for event in events(recorder.reads) if event.name == "listening")
    turn = str(json.loads(first.data)["turn"])
    request = follow_request(f"/v1/stream?turn={turn}&after={first.id}", credential)
    return turn, _Reading(request, expected_reply(text))
