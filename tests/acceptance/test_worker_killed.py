"""A worker that is killed with its work half done: the chat goes on, and what there was to learn is learned once."""

import asyncio
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg

from freya_gateway.db import imports, users
from freya_gateway.db.engine import Database
from freya_gateway.db.imports import ImportedConversation, ImportedMessage
from tests.gateway import authenticated, bearer, running, settings_for
from tests.model_server import Gated, ModelServer, data
from tests.remembering import operation

TOLD = "My sister is called Ana."
DONE = "SELECT count(*) FROM memory_work WHERE owner IS NULL AND done_seq = 1 AND kind <> 'topics'"
WORKER = [sys.executable, "-c", "from freya_gateway.cli import main; main()", "worker"]


def learned() -> Any:
    """What the model makes of it."""
    return data({"operations": [operation(statement="Has a sister called Ana.", quote=TOLD)]})


@asynccontextmanager
async def worker(database_url: str, model: ModelServer) -> AsyncGenerator[None, None]:
    """`freya worker`, killed at the block's end."""
    environment = {"DATABASE_URL": database_url, "OPENAI_API_KEY": "test", "OPENAI_BASE_URL": model.base_url}
    process = await asyncio.create_subprocess_exec(*WORKER, env=os.environ | environment | {"FREYA_LOG_LEVEL": "ERROR"})
    try:
        yield
    finally:
        process.kill()
        await process.wait()


async def told(database: Database) -> None:
    """Bo has said it, long enough ago for the worker to look at it."""
    at = datetime.now(UTC) - timedelta(days=1)
    async with database.transaction() as connection:
        user = await users.ensure_user(connection, "bo")
        message = ImportedMessage(uuid4(), "user", TOLD, 9, at, {})
        await imports.insert_history(connection, user, [ImportedConversation(uuid4(), None, [message], {})])


async def leases_run_out(database_url: str) -> int:
    """As if a minute had passed; how many there were."""
    connection = await asyncpg.connect(database_url)
    try:
        tag = await connection.execute("UPDATE memory_work SET lease_expires_at = now() WHERE owner IS NOT NULL")
        return int(tag.split()[1])
    finally:
        await connection.close()


async def settled(database_url: str) -> list[str]:
    """The facts, once both kinds of work are done with the one message."""
    connection = await asyncpg.connect(database_url)
    try:
        async with asyncio.timeout(30):
            while await connection.fetchval(DONE) < 2:
                await asyncio.sleep(0.05)
        return [row[0] for row in await connection.fetch("SELECT statement FROM facts")]
    finally:
        await connection.close()


async def test_a_killed_worker_loses_nothing_and_learns_nothing_twice(
    database_url: str, clean: None, database: Database, model: ModelServer
) -> None:
    await told(database)
    model.script_for("Extraction", Gated(), learned())
    async with running(settings_for(database_url, model.base_url, **authenticated())) as freya:
        async with worker(database_url, model):
            async with asyncio.timeout(30):  # it has to start first
                while not model.structured:
                    await asyncio.sleep(0.05)
        assert await leases_run_out(database_url) == 1
        async with freya.stream(send={"text": "hi"}, headers=bearer("cleo")) as stream:
            assert (await stream.rest())[-1].data["status"] == "complete"
    for _ in range(2):  # the second has nothing left to do
        async with worker(database_url, model):
            assert await settled(database_url) == ["Has a sister called Ana."]
