"""The pipe without HTTP in front: service, supervisor, writer and relay on a real database and a scripted model."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID, uuid4

import pytest

from freya_gateway.clock import utc_now
from freya_gateway.context.assembler import Assembler
from freya_gateway.context.budget import Budget
from freya_gateway.db import users
from freya_gateway.db.engine import Database
from freya_gateway.db.events import StoredEvent
from freya_gateway.events.hub import Hub, Reader
from freya_gateway.events.log import EventLog
from freya_gateway.events.relay import Relay
from freya_gateway.events.types import Cursor
from freya_gateway.events.writer import LogWriter
from freya_gateway.llm.openai import OpenAIChat, OpenAIOptions
from freya_gateway.memory.commands import Commands
from freya_gateway.memory.recall import Recall
from freya_gateway.metrics import Metrics
from freya_gateway.turns.means import Means
from freya_gateway.turns.runner import TurnRunner
from freya_gateway.turns.service import Send, Sent, TurnService, TurnView
from freya_gateway.turns.supervisor import Supervisor
from tests.model_server import WAIT_SECONDS, ModelServer

DEADLINE = 15.0
LEASE = 1.0


@dataclass
class Core:
    """One replica's pipe."""

    means: Means
    supervisor: Supervisor
    turns: TurnService
    relay: Relay

    async def user(self) -> UUID:
        async with self.means.database.transaction() as session:
            return await users.ensure_user(session, uuid4().hex)

    async def send(self, user_id: UUID, text: str = "Hello", **options: object) -> Sent:
        return await self.turns.send(user_id, Send(text, **options))  # pyright: ignore[reportArgumentType]

    async def ended(self, user_id: UUID, turn_id: UUID) -> TurnView:
        """The turn once it is done."""
        async with asyncio.timeout(DEADLINE):
            while (view := await self.turns.get(user_id, turn_id)).state != "done":
                await asyncio.sleep(0.02)
        return view

    @asynccontextmanager
    async def reader(self, user_id: UUID, cursor: Cursor | None = None) -> AsyncGenerator["Reading", None]:
        reader = self.means.hub.join(user_id)
        try:
            yield Reading(self, reader, cursor)
        finally:
            self.means.hub.leave(reader)


@dataclass
class Reading:
    """A reader of a user's log."""

    core: Core
    reader: Reader
    cursor: Cursor | None

    async def until(self, kind: str, *, count: int = 1) -> list[StoredEvent]:
        """Events up to and with the batch that holds the `count`-th of `kind`."""
        seen: list[StoredEvent] = []
        async with asyncio.timeout(DEADLINE):
            await self.core.means.log.open(self.reader, self.cursor)
            async for batch in self.core.means.log.follow(self.reader):
                seen += batch
                if sum(event.kind == kind for event in seen) >= count:
                    break
        return seen


@asynccontextmanager
async def core_on(
    database_url: str, model: ModelServer, *, owner: str, hangs: bool = False
) -> AsyncGenerator[Core, None]:
    """A replica's pipe; at its end all its tasks die as they stand, like a process that is killed.

    One that `hangs` renews no lease and waits long for the model, so that only the fence stops its writer.
    """
    database, metrics = Database(database_url), Metrics()
    hub = Hub(metrics, streams_per_user=8, max_streams=100)
    gap = WAIT_SECONDS if hangs else 1
    options = OpenAIOptions(
        model="freya", base_url=model.base_url, first_piece_timeout=2, piece_timeout=gap, attempts=1
    )
    means = Means(
        database=database,
        hub=hub,
        log=EventLog(database, hub),
        writer=LogWriter(database, hub, metrics, sender=owner),
        model=OpenAIChat(options, metrics),
        assembler=Assembler(database, "You are Freya.", budget=Budget(), now=utc_now, recall=Recall(database)),
        commands=Commands(database),
        metrics=metrics,
        now=utc_now,
        owner=owner,
        on_ended=lambda _: None,
    )
    supervisor = Supervisor(means, TurnRunner(means), lease=LEASE, room=100)
    turns = TurnService(means, supervisor, longest=4000)
    relay = Relay(database, hub, sender=owner, on_stop=supervisor.stop, retention=3600)
    works = (means.writer.run, relay.run) if hangs else (means.writer.run, relay.run, supervisor.run)
    tasks = [asyncio.create_task(work()) for work in works]
    try:
        yield Core(means, supervisor, turns, relay)
    finally:
        await supervisor.aclose()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await means.model.aclose()
        await database.aclose()


@pytest.fixture
async def core(database_url: str, clean: None, model: ModelServer) -> AsyncGenerator[Core, None]:
    async with core_on(database_url, model, owner="one") as one:
        yield one
