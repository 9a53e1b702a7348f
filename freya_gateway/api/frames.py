"""The body of an SSE response: a reader's view of the log as frames, with beats and a farewell. Reads the log only."""

import asyncio
import random
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from freya_gateway.api.dependencies import Caller
from freya_gateway.api.state import Gateway
from freya_gateway.db.events import StoredEvent
from freya_gateway.errors import Unavailable
from freya_gateway.events.hub import Bye, Reader
from freya_gateway.events.log import Opening
from freya_gateway.events.types import Cursor, to_json

FIRST_BEAT_SECONDS = 1.0
EARLIEST_ROTATION = 0.61  # of FREYA_ROTATE_SECONDS: 8 of 13 minutes
OVERLOAD_RETRY_MS = (5_000, 15_000)
NEVER_MS = 3_600_000  # what EventSource is told to wait after a final `bye`


@dataclass(frozen=True, slots=True)
class OneTurn:
    """The turn that a stream follows alone. If it had ended before: its reply's data, and the seq of that event
    while the log has it."""

    id: UUID
    first_event: int
    reply: dict[str, Any] | None = None
    reply_seq: int | None = None
    listening: StoredEvent | None = None  # its first event, if it has just been written here


@dataclass(frozen=True, slots=True)
class Target:
    """What a stream shows: a user's whole log, or one turn of it."""

    caller: Caller
    cursor: Cursor | None
    turn: OneTurn | None = None


class StreamBody:
    """The body of one SSE response."""

    def __init__(self, gateway: Gateway, target: Target) -> None:
        self._gateway = gateway
        self._target = target
        self._loop = asyncio.get_running_loop()
        self._slow = False
        self._left = False
        self._reader: Reader | None = None
        settings = gateway.settings
        now = self._loop.time()
        self._next_beat = now + FIRST_BEAT_SECONDS
        self._ends_at = now + settings.rotate_seconds * random.uniform(EARLIEST_ROTATION, 1)
        self._end = "rotate"
        self._limit_to_credential(target.caller)

    def _limit_to_credential(self, caller: Caller) -> None:
        if caller.expires_at is None:
            return
        left = (caller.expires_at - self._gateway.now()).total_seconds()
        if self._loop.time() + left < self._ends_at:
            self._ends_at, self._end = self._loop.time() + left, "auth"

    async def frames(self) -> AsyncGenerator[bytes, None]:
        """`retry` and `ready`, what was missed or is under way, then everything as it comes, until `bye` or a reply."""
        reader = self._reader = self._gateway.hub.join(self._target.caller.user_id)
        reader.task = asyncio.current_task()
        reason = "left"
        try:
            opening = await self._open(reader)
            self._gateway.metrics.resumes.labels(opening.reason or "recovered").inc()
            yield self._beginning(opening)
            if self._target.turn and _is_over(self._target.turn, reader):
                reason = "done"
                if self._target.turn.reply_seq is None or not opening.recovered:
                    yield _frame("reply", to_json(self._target.turn.reply))
                return
            async for chunk in self._follow(reader, opening.epoch):
                began = reader.sending_since = self._loop.time()
                yield chunk
                reader.sending_since = None
                self._slow = self._slow or self._loop.time() - began > self._gateway.settings.slow_seconds
            reason = "left" if self._left else reader.bye.reason if reader.bye else "done"
            if self._target.caller.ticket and reader.bye and reader.bye.final:
                self._gateway.retired.add(self._target.caller.ticket)
        except Unavailable:
            reason = "unavailable"
            yield _retry(random.randint(1000, 3000)) + _bye(Bye("rotate", retry_ms=_random_ms(OVERLOAD_RETRY_MS)))
        finally:
            self._gateway.hub.leave(reader)
            self._gateway.metrics.closed_streams.labels(reason).inc()

    def leave(self) -> None:
        """The peer is gone: `frames` ends at the next chance, which is now."""
        self._left = True
        if self._reader is not None:
            self._reader.ring()

    async def _open(self, reader: Reader) -> Opening:
        turn, cursor, log = self._target.turn, self._target.cursor, self._gateway.log
        if turn is not None and turn.listening is not None and cursor is not None:
            return log.open_at(reader, cursor, turn.listening)
        return await log.open(reader, cursor, turn_start=turn.first_event if turn else None)

    def _beginning(self, opening: Opening) -> bytes:
        ready = {
            "epoch": opening.epoch,
            "head": opening.head,
            "phase": opening.phase,
            "recovered": opening.recovered,
            "reason": opening.reason,
            "replay": opening.replay,
            "beat_ms": round(self._gateway.settings.beat_seconds * 1000),
        }
        snapshot = self._framed(opening.snapshot, opening.epoch)
        return _retry(random.randint(1000, 3000)) + _frame("ready", to_json(ready)) + snapshot

    async def _follow(self, reader: Reader, epoch: str) -> AsyncGenerator[bytes, None]:
        async for batch in self._gateway.log.follow(reader):
            if self._left:
                return
            chunk = self._framed(batch, epoch)
            if self._turn_ended(batch):
                yield chunk
                return
            chunk += self._due(reader)
            if reader.bye is not None:
                yield chunk + _bye(reader.bye)
                return
            if chunk:
                yield chunk

    def _framed(self, events: Sequence[StoredEvent], epoch: str) -> bytes:
        turn = self._target.turn
        wanted = events if turn is None else [e for e in events if e.turn_id == turn.id]
        return "".join([f"id: {epoch}.{e.seq}\nevent: {e.kind}\ndata: {e.data}\n\n" for e in wanted]).encode()

    def _turn_ended(self, batch: Sequence[StoredEvent]) -> bool:
        turn = self._target.turn
        return turn is not None and any(e.kind == "reply" and e.turn_id == turn.id for e in batch)

    def _due(self, reader: Reader) -> bytes:
        """What is due without an event: a beat; an end, which is left at `reader.bye`. Sets when to look again."""
        now = self._loop.time()
        if self._slow:
            reader.dismiss(Bye("slow", retry_ms=_random_ms((500, 2000))))
        if now >= self._ends_at:
            reader.dismiss(Bye(self._end, retry_ms=_random_ms((0, 1000))))
        beat = b""
        if now >= self._next_beat:
            self._next_beat = now + self._gateway.settings.beat_seconds
            beat = _frame("beat", to_json({"head": reader.channel.head}))
        reader.wake_at = min(self._next_beat, self._ends_at)
        return beat


def _is_over(turn: OneTurn, reader: Reader) -> bool:
    """Whether the turn's reply lies behind the reader, or is in the log no more: nothing of it is still to come."""
    return turn.reply is not None and (turn.reply_seq is None or reader.seq >= turn.reply_seq)


def _frame(event: str, data: str) -> bytes:
    return f"event: {event}\ndata: {data}\n\n".encode()


def _retry(milliseconds: int) -> bytes:
    """The first line of the frame that follows: some readers take a frame of its own for an empty message."""
    return f"retry: {milliseconds}\n".encode()


def _bye(bye: Bye) -> bytes:
    farewell = _frame("bye", to_json({"reason": bye.reason, "retry_ms": bye.retry_ms, "final": bye.final}))
    return _retry(NEVER_MS) + farewell if bye.final else farewell


def _random_ms(span: tuple[int, int]) -> int:
    return random.randint(*span)


async def turned_away(reason: str) -> AsyncGenerator[bytes, None]:
    """An overloaded server's answer: EventSource would give up for good at any other status than 200."""
    retry = _random_ms(OVERLOAD_RETRY_MS)
    yield _retry(retry) + _bye(Bye(reason, retry_ms=retry))
