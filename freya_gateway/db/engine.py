"""Connections to PostgreSQL: a pool for short transactions, and single connections for the log's writer and LISTEN.

`async with database.transaction() as session:` commits at its end or rolls back; query functions never commit.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import asyncpg
from sqlalchemy import URL, make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from freya_gateway.errors import Unavailable

CONNECT_TIMEOUT = 5.0
COMMAND_TIMEOUT = 30.0
# No transaction waits for a person or a model, so a lock that is held for seconds is a fault, not a queue.
SERVER_SETTINGS = {
    "application_name": "freya-gateway",
    "jit": "off",
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "20s",
}
UNREACHABLE = (OSError, TimeoutError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError)
# SQLSTATE classes that pass by themselves: connection, resources, operator intervention, deadlock, lock not available.
PASSING = ("08", "53", "57", "40", "55P03")
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
    if isinstance(error, DBAPIError):
        state = getattr(error.orig, "sqlstate", None) or ""
        return error.connection_invalidated or isinstance(error, InterfaceError) or state.startswith(PASSING)
    return isinstance(error, (*UNREACHABLE, PoolTimeoutError))


class Database:
    """The gateway's way to PostgreSQL. Opens nothing until it is used; `aclose` gives everything back."""

    def __init__(self, url: str, *, pool_size: int = 8) -> None:
        self._url = async_url(url)
        self._engine = create_async_engine(
            self._url,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=10,
            pool_pre_ping=True,
            hide_parameters=True,
            connect_args={
                "timeout": CONNECT_TIMEOUT,
                "command_timeout": COMMAND_TIMEOUT,
                "server_settings": SERVER_SETTINGS,
            },
        )
        self._sessions = async_sessionmaker(self._engine, expire_on_commit=False)

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[AsyncSession, None]:
        """A transaction. Raises Unavailable where PostgreSQL cannot be reached; it may have committed even so."""
        try:
            async with self._sessions() as session, session.begin():
                yield session
        except (SQLAlchemyError, OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            if not unavailable(error):
                raise
            detail = "The database does not answer at the moment; try again."
            raise Unavailable("database_unavailable", detail, retry_after=RETRY_SECONDS) from error

    async def connect(self) -> asyncpg.Connection:
        """A connection of its own, outside the pool; the caller closes it."""
        url = self._url.set(drivername="postgresql").render_as_string(hide_password=False)
        return await asyncpg.connect(
            url, timeout=CONNECT_TIMEOUT, command_timeout=COMMAND_TIMEOUT, server_settings=SERVER_SETTINGS
        )

    async def aclose(self) -> None:
        await self._engine.dispose()
