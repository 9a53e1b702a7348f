"""Where a run writes: the database, with other runs kept out; or one transaction that is undone at its end."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, cast

from freya_gateway.db.engine import Database
from freya_gateway.db.query import Connection
from freya_gateway.db.revision import read_revision
from freya_gateway.db.schema import head_revision
from migration.staging import Target, analyze, hold

FILLED = ("messages", "conversations", "segments", "term_stats", "facts", "fact_events", "topics")


class _Undone:
    """All transactions inside one that is rolled back."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Connection, None]:
        async with cast(Any, self._connection).transaction():
            yield self._connection


class NotMigrated(Exception):
    """The database does not have the tables that are to be filled."""


@asynccontextmanager
async def held(database: Database, *, undo: bool = False) -> AsyncGenerator[Target, None]:
    """The target, for one run alone; `undo`: nothing of it stays. Raises Held, NotMigrated."""
    guard = await database.connect()
    try:
        found, wanted = await read_revision(guard), head_revision()
        if found != wanted:
            raise NotMigrated(f"the database is at {found or 'no revision'}, not at {wanted}: `freya db upgrade` first")
        await hold(guard)
        if not undo:
            yield database
            return
        await guard.execute("SET idle_in_transaction_session_timeout = 0")
        transaction = cast(Any, guard).transaction()
        await transaction.start()
        try:
            yield _Undone(guard)
        finally:
            await transaction.rollback()
            for table in FILLED:  # what PostgreSQL counted meanwhile is not undone with the rows
                await analyze(guard, table)
    finally:
        guard.terminate()
