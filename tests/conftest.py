"""Real parts for every test: one PostgreSQL for the session, built by the real migrations; rows go between tests."""

import os
import shutil
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from freya_gateway.db import embedded, schema
from freya_gateway.db.engine import Database
from tests.model_server import ModelServer

TRUNCATE = "TRUNCATE users CASCADE"


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """A PostgreSQL server: the one that FREYA_TEST_DATABASE_URL names, else an embedded one of this session's own."""
    given = os.environ.get("FREYA_TEST_DATABASE_URL")
    if given:
        yield given
        return
    # Not below pytest's own folder: as root, a second session closes that to the server's account.
    folder = Path(tempfile.mkdtemp(prefix="freya-tests-"))
    server = embedded.start(folder / "server")
    yield server.url
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)


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
