"""The log's reading side: open a stream at a cursor, and follow it. Nothing is pushed: who reads, asks.

`follow` = clear the bell, read after the cursor, yield, wait for the bell. Clearing before reading means that no
wake-up is lost; polling and LISTEN/NOTIFY (see `relay`) ring for what other replicas wrote.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from uuid import UUID

from freya_gateway.db import events as store
from freya_gateway.db.engine import Database
from freya_gateway.db.events import LogState, StoredEvent
from freya_gateway.events.hub import Bye, Hub, Reader
from freya_gateway.events.types import Cursor, Phase, merge, parse_token

PAGE_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Opening:
    """How a stream begins: what its `ready` says, and from where `follow` goes on."""

    epoch: str
    head: int
    phase: Phase
    recovered: bool
    reason: str | None  # fresh | evicted | ahead | epoch, where not recovered
    replay: int  # events between the cursor and the head
    snapshot: tuple[StoredEvent, ...]  # the present state, where not recovered


class EventLog:
    """Reads users' logs: from this process's memory where it can, else from PostgreSQL."""

    def __init__(self, database: Database, hub: Hub) -> None:
        self._database = database
        self._hub = hub

    async def open(self, reader: Reader, cursor: Cursor | None, *, turn_start: int | None = None) -> Opening:
        """Places `reader` (who has joined the hub, so misses nothing from now on) and says how it begins.

        `turn_start`: the seq of a turn's first event, for a reader of that turn alone: without a usable cursor it
        begins there, so that it sees the whole turn.
        """
        user_id = reader.channel.user_id
        async with self._database.reading() as connection:
            state = await store.state(connection, user_id)
        reader.channel.enter(state.epoch, by=reader)
        reader.channel.rise(state.head)
        reason = _refusal(state, cursor)
        if cursor is not None and reason is None:
            reader.seq = cursor.seq
            return _opening(state, reader)
        if turn_start is not None and turn_start > state.floor:
            reader.seq = turn_start - 1
            return _opening(state, reader, reason=reason)
        reader.seq = state.head
        snapshot = await self._present(user_id, state)
        return _opening(state, reader, reason=reason, snapshot=snapshot)

    def open_at(self, reader: Reader, cursor: Cursor, first: StoredEvent) -> Opening:
        """Places `reader` before `first`, an event that this process has just written after `cursor`: no query."""
        reader.channel.enter(cursor.epoch, by=reader)
        reader.seq = cursor.seq
        self._hub.publish(reader.channel.user_id, [first])
        return Opening(cursor.epoch, first.seq, "listening", recovered=False, reason="fresh", replay=1, snapshot=())

    async def epoch(self, user_id: UUID) -> str:
        """The name of the user's log as it is now."""
        async with self._database.reading() as connection:
            return (await store.state(connection, user_id)).epoch

    async def reply_seq(self, user_id: UUID, turn_id: UUID, *, first_event: int) -> int | None:
        """The seq of a turn's `reply`, while the log has it."""
        async with self._database.reading() as connection:
            return await store.reply_seq(connection, user_id, turn_id, first_event=first_event)

    async def said(self, user_id: UUID, turn_id: UUID, *, first_event: int) -> str:
        """What the turn's last attempt that spoke has said, as far as the log has it."""
        attempts: dict[int, list[str]] = {}
        async with self._database.reading() as connection:
            head = (await store.state(connection, user_id)).head
        async for page in self._pages(user_id, first_event - 1, head):
            for event in page:
                if event.turn_id == turn_id and event.kind == "token":
                    attempts.setdefault(event.attempt, []).append(parse_token(event.data).text)
        return "".join(attempts[max(attempts)]) if attempts else ""

    async def _present(self, user_id: UUID, state: LogState) -> tuple[StoredEvent, ...]:
        """The running turn so far: its `listening`, its last `thinking`, and all text of that attempt as one piece."""
        if state.turn_id is None or state.first_event is None:
            return ()
        seen: dict[str, StoredEvent] = {}
        pieces: list[StoredEvent] = []
        async for page in self._pages(user_id, state.first_event - 1, state.head):
            for event in page:
                if event.turn_id != state.turn_id:
                    continue
                if event.kind == "token" and event.attempt == state.attempt:
                    pieces.append(event)
                elif event.kind in ("listening", "thinking"):
                    seen[event.kind] = event
        return (*seen.values(), *merge(pieces))

    async def follow(self, reader: Reader) -> AsyncGenerator[list[StoredEvent], None]:
        """Batches of events after the reader's place, in order, for ever; an empty one at each ring without any."""
        while True:
            reader.rung = False
            if reader.seq < reader.channel.head:
                batch = await self._next(reader)
                if batch:
                    reader.seq = batch[-1].seq
                else:  # evicted or erased under the reader: it must open again, to be told so
                    reader.dismiss(Bye("rotate", retry_ms=0))
                yield batch
            else:
                yield []
                await reader.wait()

    async def _next(self, reader: Reader) -> list[StoredEvent]:
        channel = reader.channel
        events = channel.after(reader.seq)
        if events is None:
            async with self._database.reading() as connection:
                events = await store.after(
                    connection, channel.user_id, after=reader.seq, until=channel.head, size=PAGE_BYTES
                )
        if events and events[0].seq != reader.seq + 1:
            return []  # evicted since the stream was opened
        return events if len(events) < 2 else merge(events)

    async def _pages(self, user_id: UUID, seq: int, head: int) -> AsyncGenerator[list[StoredEvent], None]:
        while seq < head:
            async with self._database.reading() as connection:
                page = await store.after(connection, user_id, after=seq, until=head, size=PAGE_BYTES)
            if not page:
                return
            yield page
            seq = page[-1].seq


def _opening(
    state: LogState, reader: Reader, *, reason: str | None = None, snapshot: tuple[StoredEvent, ...] = ()
) -> Opening:
    replay = state.head - reader.seq
    return Opening(state.epoch, state.head, _phase(state), reason is None, reason, replay, snapshot)


def _phase(state: LogState) -> Phase:
    if state.turn_id is None:
        return "listening" if state.queued else "idle"
    return {"token": "replying", "thinking": "thinking"}.get(state.last_kind or "", "listening")


def _refusal(state: LogState, cursor: Cursor | None) -> str | None:
    """Why the log cannot be resumed at `cursor`; None if it can."""
    if cursor is None:
        return "fresh"
    if cursor.epoch != state.epoch:
        return "epoch"
    if cursor.seq > state.head:
        return "ahead"
    return "evicted" if cursor.seq < state.floor else None
