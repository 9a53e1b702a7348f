"""Google's emulator, started once, and a database that nothing was migrated into."""

import asyncpg
import pytest

from freya_gateway.db.engine import Database
from tests.migration.emulator import emulator

__all__ = ["emulator"]


@pytest.fixture
async def bare(database_url: str, database: Database) -> Database:
    connection = await asyncpg.connect(database_url)
    await connection.execute("DROP SCHEMA IF EXISTS freya_migration CASCADE")
    await connection.close()
    return database
