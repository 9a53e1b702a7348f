"""Where a run writes: the database, with other runs kept out; or one transaction that is undone at its end."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, cast

from freya_gateway.db.engine import Database
from freya_gateway.db.query import Connection
from migration.staging import Target, hold


class _Undone:
    """All transactions inside one that is rolled back."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Connection, None]:
        async with cast(Any, self._connection).transaction():
            yield self._connection


@asynccontextmanager
async def held(database: Database, *, undo: bool = False) -> AsyncGenerator[Target, None]:
    """The target, for one run alone; `undo`: nothing of it stays. Raises Held."""
    guard = await database.connect()
    try:
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
    finally:
        guard.terminate()
