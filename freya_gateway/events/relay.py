"""What keeps a replica's readers up to date without asking for each: notifications, polling, beats, and eviction.

A notification is a hint that may be lost; the poll, one query for all users with readers here, is the guarantee.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from uuid import UUID

from loguru import logger

from freya_gateway.db import events as store
from freya_gateway.db.engine import FAILURES, Database
from freya_gateway.errors import Unavailable
from freya_gateway.events.hub import Hub

POLL_SECONDS = 2.0
TICK_SECONDS = 0.25
EVICT_SECONDS = 300.0
RECONNECT_SECONDS = 1.0
LISTEN_CHECK_SECONDS = 30.0


class Relay:
    """Rings the hub. `on_stop(turn_id)` is called when another replica asks for the end of a turn."""

    def __init__(
        self, database: Database, hub: Hub, *, sender: str, on_stop: Callable[[UUID], None], retention: float
    ) -> None:
        self._database = database
        self._hub = hub
        self._sender = sender
        self._on_stop = on_stop
        self._retention = retention

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen(), name="relay-listen")
            tasks.create_task(self._tick(), name="relay-tick")
            tasks.create_task(every(POLL_SECONDS, self.poll), name="relay-poll")
            tasks.create_task(every(EVICT_SECONDS, self.evict), name="relay-evict")

    async def poll(self) -> None:
        """Learns how far the log of each user with readers here goes."""
        users = self._hub.users
        if not users:
            return
        async with self._database.reading() as connection:
            found = await store.ends(connection, users)
        for ends in found:
            self._hub.enter(ends)

    async def evict(self) -> None:
        """Deletes events older than the retention, in short transactions."""
        while True:
            async with self._database.reading() as connection:
                gone = await store.evict(connection, older_than=self._retention)
            if gone == 0:
                return
            logger.info("evicted events", count=gone)

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self._hub.wake_due(loop.time())

    async def _listen(self) -> None:
        while True:
            try:
                await self._listen_once()
            except (*FAILURES, Unavailable) as error:
                logger.warning("listening interrupted", error=type(error).__name__)
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _listen_once(self) -> None:
        connection = await self._database.connect()
        try:
            await connection.add_listener(store.LOG_CHANNEL, self._on_log)
            await connection.add_listener(store.STOP_CHANNEL, self._on_stop_asked)
            await connection.add_listener(store.CUT_CHANNEL, self._on_cut)
            await self.poll()  # what was written while nobody listened
            closed = asyncio.Event()
            connection.add_termination_listener(lambda _: closed.set())
            while not closed.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(closed.wait(), LISTEN_CHECK_SECONDS)
                await connection.execute("SELECT 1")  # a peer that vanished without a word is noticed here
        finally:
            connection.terminate()

    def _on_log(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        text = str(payload)
        if text.startswith(self._sender):
            return  # our own: already published
        for user_id, head in store.parse_ring(text)[1]:
            self._hub.rise(user_id, head)

    def _on_cut(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        self._hub.enter(store.parse_cut(str(payload)))

    def _on_stop_asked(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        self._on_stop(UUID(str(payload)))


async def every(seconds: float, work: Callable[[], Awaitable[None]]) -> None:
    """Runs `work` again and again, `seconds` apart, also after PostgreSQL was away."""
    while True:
        await asyncio.sleep(seconds)
        try:
            await work()
        except Unavailable:
            logger.warning("periodic work waits for PostgreSQL")
        except (*FAILURES, LookupError) as error:
            logger.opt(exception=error).error("periodic work failed; it is tried again")
