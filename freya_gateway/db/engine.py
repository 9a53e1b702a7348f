"""Connections to PostgreSQL: a pool for short transactions, and single connections for the log's writer and LISTEN.

`async with database.transaction() as connection:` commits at its end or rolls back; query functions never commit.
Run-time SQL goes through asyncpg alone: SQLAlchemy's layers took 0.4 ms of CPU per statement, more than all else in a
turn; SQLModel and Alembic keep the schema.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, cast

import asyncpg
from sqlalchemy import URL, make_url

from freya_gateway.db.query import Connection, OwnConnection
from freya_gateway.errors import Unavailable

CONNECT_TIMEOUT = 5.0
COMMAND_TIMEOUT = 30.0
ACQUIRE_TIMEOUT = 10.0
# No transaction waits for a person or a model, so a lock that is held for seconds is a fault, not a queue.
# Every statement looks up one user by an index; planning it anew would take longer than running it.
SERVER_SETTINGS = {
    "application_name": "freya-gateway",
    "jit": "off",
    "plan_cache_mode": "force_generic_plan",
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "20s",
}
# What asyncpg raises without a word from PostgreSQL. InternalClientError: a statement met the server's farewell.
CUT_OFF = (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.InternalClientError)
# No search may hold up a turn.
SEARCH_SETTINGS = {"statement_timeout": "300ms", "enable_seqscan": "off"}
SEARCH_POOL = 4
# Everything that PostgreSQL or the way to it can raise.
FAILURES = (*CUT_OFF, asyncpg.PostgresError)
# What a retry cannot mend: PostgreSQL (or the driver) will not take these values.
REFUSED = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError)
# SQLSTATE classes that pass by themselves: connection, deadlock, resources, lock not available, intervention.
PASSING = ("08", "40", "53", "55P03", "57")
RETRY_SECONDS = 2


def async_url(url: str) -> URL:
    """The SQLAlchemy URL (asyncpg) of a `postgres://` or `postgresql://` one; libpq's `sslmode` becomes `ssl`."""
    parsed = make_url(url).set(drivername="postgresql+asyncpg")
    sslmode = parsed.query.get("sslmode")
    if sslmode is None:
        return parsed
    return parsed.difference_update_query(["sslmode"]).update_query_dict({"ssl": str(sslmode)})


def unavailable(error: BaseException) -> bool:
    """Whether PostgreSQL could not be reached or was busy, so that the same call may work in a moment."""
    state = getattr(error, "sqlstate", None)
    if isinstance(state, str):
        return state.startswith(PASSING)
    return isinstance(error, CUT_OFF)


class _Connection(asyncpg.Connection):
    """A pooled connection that nothing has to be reset on: no session state is ever set. Saves a round trip."""

    def get_reset_query(self) -> str:
        return ""


class _Pool:
    """Connections with the same settings. Opens none until one is asked for."""

    def __init__(self, url: str, *, size: int, settings: dict[str, str], timeout: float | None) -> None:
        self._url = url
        self._size = size
        self._settings = settings
        self._timeout = timeout
        self._pool: Any = None
        self._opening = asyncio.Lock()

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[Connection, None]:
        """A connection, given back at the end. Raises Unavailable where PostgreSQL cannot be reached."""
        try:
            pool = self._pool or await self._opened()
            async with asyncio.timeout(ACQUIRE_TIMEOUT):  # asyncpg's own `timeout=` makes a task for each call
                connection = await pool.acquire()
            try:
                yield connection
            finally:
                await pool.release(connection)
        except FAILURES as error:
            if not unavailable(error):
                raise
            detail = "The database does not answer at the moment; try again."
            raise Unavailable("database_unavailable", detail, retry_after=RETRY_SECONDS) from error

    def terminate(self) -> None:
        if self._pool is not None:
            self._pool.terminate()

    async def _opened(self) -> Any:
        async with self._opening:
            if self._pool is None:
                pool: Any = asyncpg.create_pool(
                    self._url,
                    min_size=0,
                    max_size=self._size,
                    connection_class=_Connection,
                    **_options(self._settings, self._timeout),
                )
                self._pool = await pool
        return self._pool


class Database:
    """The gateway's way to PostgreSQL. Opens nothing until it is used; `aclose` gives everything back."""

    def __init__(self, url: str, *, pool_size: int = 8, timeout: float | None = COMMAND_TIMEOUT) -> None:
        self._url = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        self._timeout = timeout  # seconds that a statement may take
        self._pool = _Pool(self._url, size=pool_size, settings=SERVER_SETTINGS, timeout=timeout)
        searching = SERVER_SETTINGS | SEARCH_SETTINGS
        self._searches = _Pool(self._url, size=SEARCH_POOL, settings=searching, timeout=timeout)

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Connection, None]:
        """A transaction. Raises Unavailable where PostgreSQL cannot be reached; it may have committed even so."""
        async with self.reading() as connection, cast(Any, connection).transaction():
            yield connection

    @asynccontextmanager
    async def snapshot(self) -> AsyncGenerator[Connection, None]:
        """Several statements that see one and the same moment. Raises Unavailable like `transaction`."""
        moment = {"isolation": "repeatable_read", "readonly": True}
        async with self.reading() as connection, cast(Any, connection).transaction(**moment):
            yield connection

    @asynccontextmanager
    async def reading(self) -> AsyncGenerator[Connection, None]:
        """A connection for single statements, each on its own. Raises Unavailable like `transaction`."""
        async with self._pool.connection() as connection:
            yield connection

    @asynccontextmanager
    async def searching(self, *, planned: bool = False) -> AsyncGenerator[Connection, None]:
        """A connection like that of `reading`, for searches: see SEARCH_SETTINGS. `planned`: each statement is planned
        for its values, which takes 1 ms, and pays where a user has many more rows than others."""
        async with self._searches.connection() as connection:
            if not planned:
                yield connection
                return
            async with cast(Any, connection).transaction():
                await connection.execute("SET LOCAL plan_cache_mode = force_custom_plan")
                yield connection

    async def connect(self) -> OwnConnection:
        """A connection of its own, outside the pool; the caller closes it."""
        return await asyncpg.connect(self._url, **_options(SERVER_SETTINGS, self._timeout))

    async def aclose(self) -> None:
        self._pool.terminate()
        self._searches.terminate()


def _options(settings: dict[str, str], timeout: float | None) -> dict[str, Any]:
    return {"timeout": CONNECT_TIMEOUT, "command_timeout": timeout, "server_settings": settings}
