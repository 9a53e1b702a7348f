"""Real parts for every test: one PostgreSQL for the session, built by the real migrations; rows go between tests."""

import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterator

import asyncpg
import pytest

from freya_gateway.db import embedded, schema
from freya_gateway.db.engine import Database
from tests.model_server import ModelServer

TRUNCATE = "TRUNCATE users CASCADE"


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL server: the one that FREYA_TEST_DATABASE_URL names, else an embedded one of this session's own."""
    given = os.environ.get("FREYA_TEST_DATABASE_URL")
    if given:
        yield given
        return
    server = embedded.start(tmp_path_factory.mktemp("postgres") / "server")
    yield server.url
    server.stop()


@pytest.fixture(scope="session")
def database_url(server_url: str) -> str:
    """A migrated database of this session's own."""
    url = embedded.create_database(server_url, f"freya_test_{os.getpid()}")
    schema.upgrade(url)
    return url


@pytest.fixture
async def clean(database_url: str) -> None:
    """No rows."""
    connection = await asyncpg.connect(database_url)
    await connection.execute(TRUNCATE)
    await connection.close()


@pytest.fixture
async def database(database_url: str, clean: None) -> AsyncGenerator[Database, None]:
    database = Database(database_url)
    yield database
    await database.aclose()


@pytest.fixture
async def model() -> AsyncIterator[ModelServer]:
    """A scripted model behind real HTTP."""
    async with ModelServer() as server:
        yield server
