"""The log's writing side: one task appends the pending pieces of all running turns of this process together.

A turn's first piece goes at once, later ones wait at most WINDOW for company; a commit costs the same for one turn and
for fifty. Events reach readers only after their commit. When a commit's outcome is unknown (the connection broke), the
turn takes a new generation, so that the old statement can do nothing more; then the log is asked what it holds, and
only what is missing is written again: pieces know their offset.
"""

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from uuid import UUID

from loguru import logger

from freya_gateway.db import events as store
from freya_gateway.db.engine import FAILURES, REFUSED, Database
from freya_gateway.db.events import NewEvent, StoredEvent, TurnAppend
from freya_gateway.db.query import OwnConnection
from freya_gateway.db.turns import Claim
from freya_gateway.events.hub import Hub
from freya_gateway.events.types import Token, parse_token, to_json, utf16_length
from freya_gateway.metrics import Metrics

WINDOW = 0.04  # seconds
EVENT_DELAY = 0.005  # seconds
POURING = 4096  # characters since the last look: a model that fast is read without a pause
RETRY_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


class Draft:
    """The reply of one attempt on its way into the log. Used by its turn's runner and by the writer only."""

    __slots__ = (
        "_settled",
        "attempt",
        "claim",
        "fenced",
        "first_piece_at",
        "length",
        "on_fenced",
        "pending",
        "since",
        "text",
        "unread",
        "writing",
        "written_at",
    )

    def __init__(self, claim: Claim, on_fenced: Callable[[], None]) -> None:
        self.claim = claim
        self.attempt = claim.attempt
        self.on_fenced = on_fenced
        self.fenced = False
        self.text: list[str] = []  # all pieces of the attempt
        self.length = 0  # of the text, in UTF-16 code units
        self.unread = 0  # characters since the last window
        self.pending: list[NewEvent | str] = []  # not yet written: whole events and pieces
        self.since = 0.0  # event loop time of the oldest piece that is not written; 0 for none
        self.writing: tuple[NewEvent, ...] = ()  # given to PostgreSQL, outcome not known yet
        self.first_piece_at: float | None = None  # event loop time of the first piece's commit
        self.written_at: float | None = None
        self._settled = asyncio.Event()
        self._settled.set()

    def close_batch(self) -> tuple[NewEvent, ...]:
        """The pending events, the pieces between two events as one token; nothing is pending afterwards."""
        events: list[NewEvent] = []
        pieces: list[str] = []
        for item in self.pending:
            if isinstance(item, str):
                pieces.append(item)
            else:
                self._join(pieces, events)
                events.append(item)
        self._join(pieces, events)
        self.pending = []
        return tuple(events)

    def _join(self, pieces: list[str], events: list[NewEvent]) -> None:
        if pieces:
            text = "".join(pieces)
            data = to_json(Token(self.claim.turn_id, self.attempt, self.length, text))
            self.length += utf16_length(text)
            events.append(NewEvent(self.claim.turn_id, "token", self.attempt, data))
            pieces.clear()

    def begin(self) -> TurnAppend:
        self.writing = (*self.writing, *self.close_batch())
        self._settled.clear()
        return TurnAppend(self.claim.user_id, self.claim.generation, self.writing)

    def settle(self) -> None:
        self.writing = ()
        self._settled.set()

    def fence(self) -> None:
        self.fenced = True
        self.pending = []
        self.settle()
        self.on_fenced()

    async def settled(self) -> None:
        """Until nothing of this draft is on its way to PostgreSQL."""
        await self._settled.wait()


class LogWriter:
    """Appends drafts. `run` is its task; `add` and `event` never wait."""

    def __init__(self, database: Database, hub: Hub, metrics: Metrics, *, sender: str) -> None:
        self._database = database
        self._hub = hub
        self._metrics = metrics
        self._sender = sender
        self._urgent: dict[Draft, None] = {}  # to be written now
        self._dirty: dict[Draft, None] = {}  # to be written at the window's end
        self._wake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._window = asyncio.Event()  # set at the window's end, then replaced
        self._window_over = False
        self._connection: OwnConnection | None = None

    def event(self, draft: Draft, kind: str, data: str) -> None:
        """Appends an event, with the first piece if that is as quick."""
        draft.pending.append(NewEvent(draft.claim.turn_id, kind, draft.attempt, data))
        asyncio.get_running_loop().call_later(EVENT_DELAY, self._hurry, draft)

    def add(self, draft: Draft, text: str) -> None:
        """Appends a piece of the reply: the first at once, others within the window."""
        if draft.fenced:
            return
        draft.since = draft.since or asyncio.get_running_loop().time()
        draft.pending.append(text)
        if not draft.text:
            self._hurry(draft)
        else:
            self._dirty[draft] = None
            self._open_window()
        draft.text.append(text)
        draft.unread += len(text)

    def _hurry(self, draft: Draft) -> None:
        if draft.pending:
            self._urgent[draft] = None
            self._wake.set()

    async def window(self, draft: Draft) -> None:
        """Until the window's end, where everyone's pieces are written: who reads a model in this rhythm finds what
        came meanwhile in one piece, and pays for one wake-up. Returns at once for a model that pours."""
        if draft.unread < POURING:
            self._open_window()
            await self._window.wait()
        draft.unread = 0

    async def take(self, draft: Draft) -> tuple[NewEvent, ...]:
        """What is not written yet, for the transaction that ends the turn; the writer forgets the draft."""
        self._urgent.pop(draft, None)
        self._dirty.pop(draft, None)
        await draft.settled()
        return draft.close_batch()

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                if self._window_over:
                    await self._close_window()
                due, self._urgent = list(self._urgent), {}
                for start in range(0, len(due), store.MOST_USERS_PER_APPEND):
                    await self._append(due[start : start + store.MOST_USERS_PER_APPEND])
        finally:
            if self._connection is not None:
                self._connection.terminate()

    def _open_window(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(WINDOW, self._end_window)

    def _end_window(self) -> None:
        self._timer = None
        self._window_over = True
        self._wake.set()

    async def _close_window(self) -> None:
        """Lets those who waited read once, and takes what they add to this append."""
        self._window_over = False
        self._window.set()
        self._window = asyncio.Event()
        await asyncio.sleep(0)
        self._urgent.update(self._dirty)
        self._dirty = {}

    async def _append(self, drafts: Sequence[Draft]) -> None:
        """Writes the drafts' pending events, as often as it takes; returns when each is written or fenced off."""
        waiting = [draft for draft in drafts if (draft.pending or draft.writing) and not draft.fenced]
        appends = [draft.begin() for draft in waiting]
        failures = 0
        while waiting:
            try:
                connection = await self._connected()
                if failures:
                    waiting = [draft for draft in waiting if await self._missing(connection, draft)]
                    appends = [draft.begin() for draft in waiting]
                bases = await store.append(connection, appends, sender=self._sender) if appends else {}
                return self._publish(waiting, bases)
            except REFUSED as error:
                return await self._isolate(waiting, error)
            except FAILURES as error:
                failures = await self._failed(error, failures)

    async def _isolate(self, drafts: list[Draft], error: Exception) -> None:
        """One draft's data was refused: the others are written without it, and its attempt ends."""
        if len(drafts) > 1:
            for draft in drafts:
                await self._append([draft])
            return
        logger.error("the log refused a turn's events", error=type(error).__name__, turn=str(drafts[0].claim.turn_id))
        drafts[0].fence()

    def _publish(self, drafts: list[Draft], bases: Mapping[tuple[UUID, int], int]) -> None:
        now = asyncio.get_running_loop().time()
        self._metrics.log_lag.observe(max((now - draft.since for draft in drafts if draft.since), default=0.0))
        for draft in drafts:
            base = bases.get((draft.claim.user_id, draft.claim.generation))
            if base is None:
                draft.fence()
                continue
            self._measure(draft, now)
            self._hub.publish(draft.claim.user_id, numbered(draft.writing, base + 1))
            draft.settle()

    def _measure(self, draft: Draft, now: float) -> None:
        if not draft.since:
            return  # no piece among the events
        draft.since = 0.0
        if draft.first_piece_at is None:
            draft.first_piece_at = now
        elif draft.written_at is not None:
            self._metrics.piece_gap.observe(now - draft.written_at)
        draft.written_at = now

    async def _missing(self, connection: OwnConnection, draft: Draft) -> bool:
        """Drops from the draft what the log already holds; whether anything is left to write."""
        user_id, turn_id = draft.claim.user_id, draft.claim.turn_id
        generation = await store.refence(connection, user_id, turn_id=turn_id, generation=draft.claim.generation)
        if generation is None:
            draft.fence()
            return False
        draft.claim = replace(draft.claim, generation=generation)
        last = await store.last_of_attempt(connection, user_id, turn_id=turn_id, attempt=draft.attempt)
        draft.writing = tuple(event for event in draft.writing if last is None or not _covered(event, *last))
        if not draft.writing and not draft.pending:
            draft.settle()
            return False
        return True

    async def _connected(self) -> OwnConnection:
        if self._connection is None or self._connection.is_closed():
            self._connection = await self._database.connect()
        return self._connection

    async def _failed(self, error: Exception, failures: int) -> int:
        self._metrics.log_failures.inc()
        logger.warning("log append failed", error=type(error).__name__, failures=failures + 1)
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None
        await asyncio.sleep(RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)] * random.uniform(0.5, 1))
        return failures + 1


def numbered(events: Iterable[NewEvent], first: int) -> list[StoredEvent]:
    """The events with their seq, from `first` on."""
    return [StoredEvent(seq, e.turn_id, e.kind, e.attempt, e.data) for seq, e in enumerate(events, first)]


def _covered(event: NewEvent, kind: str, data: str) -> bool:
    """Whether an attempt whose last event in the log is (kind, data) holds `event` already."""
    if event.kind != "token":
        return True  # `thinking` comes first in its attempt
    return kind == "token" and parse_token(event.data).off <= parse_token(data).off
