"""A user whose messages are in the database, and what the facts work makes of them with a scripted model."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
from pydantic import SecretStr

from freya_gateway.db import facts, imports, memory_work, users
from freya_gateway.db.engine import Database
from freya_gateway.db.facts import Fact
from freya_gateway.db.imports import ImportedConversation, ImportedMessage
from freya_gateway.db.memory_work import WorkClaim
from freya_gateway.llm.structured import OpenAIStructured, StructuredOptions
from freya_gateway.memory.commands import Commands
from freya_gateway.memory.facts import FactService
from freya_gateway.memory.learning import FactsWork
from freya_gateway.metrics import Metrics
from tests.model_server import ModelServer, data

START = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)  # a Monday
STATUSES = ("active", "pending", "superseded", "retracted", "expired")


def operation(op: str = "add", **fields: Any) -> dict[str, Any]:
    """An operation as a model writes it."""
    return {
        "reason": "the user said so", "op": op, "target": None, "subject": "user", "slot": "note", "kind": "note",
        "statement": "", "value": None, "quote": "", "seq": [1], "valid_from": None, "sensitive": False,
        "explicit": True,
    } | fields  # fmt: skip


@dataclass
class Life:
    """See the module. Time passes by a minute with each message."""

    database: Database
    url: str
    model: ModelServer
    user_id: UUID
    work: FactsWork
    commands: Commands
    service: FactService
    now: datetime = START
    ids: list[UUID] = field(default_factory=list[UUID])

    def tick(self) -> datetime:
        """The next second."""
        self.now += timedelta(seconds=1)
        return self.now

    async def says(self, text: str, *, role: str = "user", at: datetime | None = None, imported: bool = False) -> int:
        """One more message; its seq."""
        self.now += timedelta(minutes=1)
        message = ImportedMessage(uuid4(), role, text, 10, at or self.now, {"import": {}} if imported else {})
        self.ids.append(message.id)
        async with self.database.transaction() as connection:
            conversation = ImportedConversation(uuid4(), None, [message], {})
            first, _ = await imports.insert_history(connection, self.user_id, [conversation])
        return first

    async def claim(self) -> WorkClaim:
        async with self.database.transaction() as connection:
            claimed = await memory_work.claim(connection, self.user_id, "facts", owner=uuid4().hex, now=self.now)
        assert claimed is not None
        return claimed

    async def learn(self, *operations: dict[str, Any]) -> list[Fact]:
        """The model proposes this of all that is unread; the facts that hold or wait then."""
        self.model.script_for("Extraction", data({"operations": list(operations)}))
        claimed = await self.claim()
        await self.work.run(claimed)
        async with self.database.transaction() as connection:
            await memory_work.release(connection, claimed)
        return await self.facts()

    async def told(self, text: str, *operations: dict[str, Any]) -> list[Fact]:
        """The user says this, and the model proposes that, about this very message."""
        seq = await self.says(text)
        return await self.learn(*(one | {"seq": [seq], "quote": one["quote"] or text} for one in operations))

    async def obey(self, text: str) -> list[Fact]:
        """The user commands this, and it is carried out; the facts that hold or wait then."""
        await self.says(text)
        await self.commands.obey(self.user_id, self.ids[-1], text, now=self.now)
        return await self.facts()

    async def facts(self, *statuses: str) -> list[Fact]:
        async with self.database.reading() as connection:
            return await facts.of_user(connection, self.user_id, statuses=statuses or facts.CURRENT)

    async def statements(self, *statuses: str) -> list[str]:
        return [fact.statement for fact in await self.facts(*statuses)]

    async def everything(self) -> str:
        """All that the tables of the facts hold of this user, as text."""
        connection = await asyncpg.connect(self.url)
        try:
            tables = ("facts", "fact_sources", "fact_events", "fact_tombstones")
            rows = [await connection.fetch(f"SELECT t::text FROM {table} t") for table in tables]
        finally:
            await connection.close()
        return "\n".join(row[0] for table in rows for row in table)

    async def events(self) -> list[tuple[str, Any]]:
        """(kind, data) of the user's log."""
        connection = await asyncpg.connect(self.url)
        try:
            rows = await connection.fetch(
                "SELECT kind, data FROM stream_events WHERE user_id = $1 ORDER BY seq", self.user_id
            )
        finally:
            await connection.close()
        return [(row["kind"], json.loads(row["data"])) for row in rows]


@asynccontextmanager
async def living(database: Database, url: str, model: ModelServer, subject: str = "ana") -> AsyncGenerator[Life]:
    options = StructuredOptions(model="memory", base_url=model.base_url, api_key=SecretStr("k"), timeout=1.0)
    asker = OpenAIStructured(options, Metrics())
    async with database.transaction() as connection:
        user_id = await users.ensure_user(connection, subject)
    commands = Commands(database)
    life: Life
    work = FactsWork(database, asker, commands, lambda: life.now)
    life = Life(database, url, model, user_id, work, commands, FactService(database, lambda: life.tick()))
    try:
        yield life
    finally:
        await asker.aclose()
