"""The bell. Readers sleep in their user's channel and are rung when the log grew; the log itself is read elsewhere.

A channel keeps this process's own recent events (the tail), so that a live reader costs no query. A tail that has a
gap, or does not reach back far enough, is simply not used: the reader then reads PostgreSQL.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from freya_gateway.db.events import LogEnds, StoredEvent
from freya_gateway.metrics import Metrics

TAIL_EVENTS = 512
STALLED = 3  # times the patience: then a peer that takes nothing is cut, though nothing else speaks against it


@dataclass(frozen=True, slots=True)
class Bye:
    """Why a stream closes; `final` tells the reader not to come back."""

    reason: str  # rotate | deploy | slow | superseded | auth | gone
    retry_ms: int
    final: bool = False


class Reader:
    """One open stream: where it is, when it wants to be woken, and whether it shall close."""

    __slots__ = ("_waiter", "bye", "channel", "counted", "rung", "sending_since", "seq", "task", "wake_at")

    def __init__(self, channel: "Channel", *, counted: bool = True) -> None:
        self.channel = channel
        self.counted = counted  # as a stream of the user's; false for the gateway's own readers
        self.seq = 0
        self.wake_at = 0.0  # event loop time of the next thing that is due without an event
        self.bye: Bye | None = None
        self.sending_since: float | None = None  # event loop time; None while nothing waits in the socket
        self.task: asyncio.Task[Any] | None = None  # what sends; cut if the socket stays full
        self.rung = False
        self._waiter: asyncio.Future[None] | None = None

    def ring(self) -> None:
        self.rung = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self) -> None:
        """Until the next ring; a ring since `rung` was cleared counts, so none is lost."""
        if self.rung:
            return
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def cut(self) -> None:
        """Ends the stream without a word: its peer takes none."""
        self.sending_since = None
        if self.task is not None:
            self.task.cancel()

    def dismiss(self, bye: Bye) -> None:
        """Has the stream say `bye` and close; the first reason counts."""
        self.bye = self.bye or bye
        self.ring()


class Channel:
    """A user's log as this process knows it: how far it goes, its tail, and who reads it here."""

    __slots__ = ("epoch", "head", "readers", "tail", "user_id")

    def __init__(self, user_id: UUID) -> None:
        self.user_id = user_id
        self.epoch: str | None = None
        self.head = 0
        self.tail: list[StoredEvent] = []
        self.readers: list[Reader] = []

    def enter(self, epoch: str, *, by: Reader | None = None) -> None:
        """Learns which log the user has now. Another one than before: all readers but `by` must open again."""
        if self.epoch not in (None, epoch):
            self.tail.clear()
            self.head = 0
            for reader in self.readers:
                if reader is not by:
                    reader.dismiss(Bye("rotate", retry_ms=0))
        self.epoch = epoch

    def extend(self, events: Sequence[StoredEvent]) -> None:
        """Takes committed events into the tail, in any order; those that leave a gap start it anew."""
        tail = self.tail
        if tail and events[-1].seq > tail[-1].seq and events[0].seq != tail[-1].seq + 1:
            tail.clear()
        if not tail or events[0].seq == tail[-1].seq + 1:
            tail.extend(events)
        if len(tail) > 2 * TAIL_EVENTS:
            del tail[:-TAIL_EVENTS]
        self.rise(events[-1].seq)

    def cut(self, floor: int) -> None:
        """Learns that the events up to `floor` are gone, and lets go of its own."""
        while self.tail and self.tail[0].seq <= floor:
            del self.tail[0]

    def rise(self, head: int) -> None:
        """Learns that the log goes to `head`, and wakes the readers if that is news."""
        if head > self.head:
            self.head = head
            for reader in self.readers:
                reader.ring()

    def after(self, seq: int) -> list[StoredEvent] | None:
        """The tail's events after `seq`, or None if it does not reach from there to the head."""
        tail = self.tail
        if not tail or tail[0].seq > seq + 1 or tail[-1].seq < self.head:
            return None
        return tail[seq + 1 - tail[0].seq :]


class Hub:
    """All channels of this process that someone reads."""

    def __init__(self, metrics: Metrics, *, streams_per_user: int, max_streams: int, patience: float = 20.0) -> None:
        self._channels: dict[UUID, Channel] = {}
        self._metrics = metrics
        self._streams_per_user = streams_per_user
        self._max_streams = max_streams
        self._patience = patience  # seconds that a peer may take nothing when it is to go
        self._open = 0
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def open(self) -> int:
        """Open streams."""
        return self._open

    @property
    def full(self) -> bool:
        """Whether this process has as many streams as it takes."""
        return self._open >= self._max_streams

    @property
    def users(self) -> list[UUID]:
        return list(self._channels)

    @property
    def readers(self) -> list[Reader]:
        return [reader for channel in self._channels.values() for reader in channel.readers]

    def join(self, user_id: UUID, *, counted: bool = True) -> Reader:
        """A new reader in the user's channel; one stream too many, and the oldest gives way."""
        channel = self._channels.setdefault(user_id, Channel(user_id))
        reader = Reader(channel, counted=counted)
        if counted:
            self._make_way(channel)
            self._count(1)
        channel.readers.append(reader)
        return reader

    def leave(self, reader: Reader) -> None:
        channel = reader.channel
        channel.readers.remove(reader)
        if reader.counted:
            self._count(-1)
        if not channel.readers:
            self._channels.pop(channel.user_id, None)

    def _make_way(self, channel: Channel) -> None:
        staying = [reader for reader in channel.readers if reader.counted and reader.bye is None]
        if len(staying) >= self._streams_per_user:
            staying[0].dismiss(Bye("superseded", retry_ms=0, final=True))

    async def emptied(self) -> None:
        """Until no stream is open."""
        await self._empty.wait()

    def _count(self, change: int) -> None:
        self._open += change
        self._empty.clear() if self._open else self._empty.set()
        self._metrics.open_streams.set(self._open)

    def publish(self, user_id: UUID, events: Sequence[StoredEvent]) -> None:
        """Hands committed events to the user's readers here."""
        channel = self._channels.get(user_id)
        if channel is not None:
            channel.extend(events)

    def rise(self, user_id: UUID, head: int) -> None:
        """Passes on that a user's log goes to `head`."""
        channel = self._channels.get(user_id)
        if channel is not None:
            channel.rise(head)

    def enter(self, ends: LogEnds) -> None:
        """Passes on where a user's log begins and ends; under another epoch, the readers must start anew."""
        channel = self._channels.get(ends.user_id)
        if channel is not None:
            channel.enter(ends.epoch)
            channel.cut(ends.floor)
            channel.rise(ends.head)

    def wake_due(self, now: float) -> None:
        """Wakes the readers for whom something is due at event loop time `now`, and cuts those whose peer takes
        nothing any more. One loop for all: no timer each."""
        for reader in self.readers:
            if reader.sending_since is None:
                if reader.wake_at <= now:
                    reader.ring()
            elif now - reader.sending_since > self._patience * (1 if reader.bye else STALLED):
                reader.cut()

    def dismiss_all(self, bye: Callable[[], Bye]) -> None:
        """Has every stream close, each with a `bye` of its own, so that they do not all come back at once."""
        for reader in self.readers:
            reader.dismiss(bye())
