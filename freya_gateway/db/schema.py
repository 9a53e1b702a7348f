"""The database's state as a whole: whether it can be reached, suits the gateway, and has its tables; and migrating it.

Alembic's `env.py` runs an event loop of its own, so what migrates must be called outside of one.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import parse_qs, unquote, urlsplit, urlunsplit

from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from alembic import command
from freya_gateway.clock import utc_now
from freya_gateway.db.engine import FAILURES, Database
from freya_gateway.db.query import OwnConnection, Query
from freya_gateway.db.revision import read_revision
from freya_gateway.errors import ConfigurationError

OLDEST_SERVER = 15
EXTENSIONS = ("pg_trgm", "btree_gin", "unaccent")
AVAILABLE_EXTENSIONS = Query("SELECT name FROM pg_available_extensions")
DATABASE_TIME = Query("SELECT clock_timestamp()")
SERVER_VERSION = Query("SHOW server_version")
SchemaState = Literal["empty", "behind", "current", "ahead"]


@dataclass(frozen=True)
class DatabaseReport:
    """What a look at a database found. `error` is set, and the rest empty, when it could not be reached."""

    error: str | None = None
    server_version: str = ""
    server_major: int = 0
    missing_extensions: tuple[str, ...] = ()
    revision: str | None = None
    clock_ahead: float = 0.0
    """Seconds that the database's clock is ahead of this machine's."""

    @property
    def suits(self) -> bool:
        return self.error is None and self.server_major >= OLDEST_SERVER and not self.missing_extensions


def database_report(url: str) -> DatabaseReport:
    """Looks at the database of `url` for at most a few seconds; never raises for what it finds."""
    return asyncio.run(_report(url))


def current_revision(url: str) -> str | None:
    """The migration that the database is at; None for a database without the gateway's tables."""
    return asyncio.run(_current_revision(url))


def head_revision() -> str:
    """The migration that this version of the gateway needs."""
    head = _scripts().get_current_head()
    if head is None:
        raise ConfigurationError(f"There are no migrations in {migrations_folder()}.")
    return head


def schema_state(revision: str | None) -> SchemaState:
    """How a database at `revision` stands to this version of the gateway; `ahead` is one that it does not know."""
    if revision is None:
        return "empty"
    if revision == head_revision():
        return "current"
    return "behind" if revision in {script.revision for script in _scripts().walk_revisions()} else "ahead"


def upgrade(url: str, revision: str = "head") -> None:
    """Migrates forward. Those who migrate at the same time wait for each other. Raises ConfigurationError."""
    with _explained(revision):
        command.upgrade(_config(url), revision)


def downgrade(url: str, revision: str) -> None:
    """Migrates back, with the loss of what the undone migrations had added."""
    with _explained(revision):
        command.downgrade(_config(url), revision)


def migrations_folder() -> Path:
    """Alembic's folder: beside the package in a checkout, inside it in an installed wheel."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package.parent / "alembic", package / "alembic"):
        if (folder / "env.py").is_file():
            return folder
    raise ConfigurationError(f"The migrations are missing: there is no folder {package.parent / 'alembic'}.")


def masked_url(url: str) -> str:
    """The URL without its password and options, fit for a screen."""
    parts = urlsplit(url)
    account = f"{parts.username}:***@" if parts.password else f"{parts.username}@" if parts.username else ""
    host = parts.hostname or next(iter(parse_qs(parts.query).get("host", [])), "")
    address = f"[{host}]" if ":" in host else host
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{account}{address}{port}{parts.path}"


def split_password(url: str) -> tuple[str, str | None]:
    """The URL without its password, and the password: a command line can be read by every user of a machine."""
    parts = urlsplit(url)
    if parts.password is None:
        return url, None
    account, _, address = parts.netloc.rpartition("@")
    bare = urlunsplit(parts._replace(netloc=f"{account.partition(':')[0]}@{address}"))
    return bare, unquote(parts.password)


@asynccontextmanager
async def brief_connection(url: str) -> AsyncGenerator[OwnConnection, None]:
    """A connection outside of any pool, for a look or a chore."""
    connection = await Database(url).connect()
    try:
        yield connection
    finally:
        await cast(Any, connection).close()


async def _report(url: str) -> DatabaseReport:
    try:
        async with brief_connection(url) as connection:
            return await _look(connection)
    except (*FAILURES, ValueError) as error:
        return DatabaseReport(error=str(error) or type(error).__name__)


async def _look(connection: OwnConnection) -> DatabaseReport:
    available = {row["name"] for row in await AVAILABLE_EXTENSIONS.all(connection)}
    asked_at = utc_now()
    database_time: datetime = await DATABASE_TIME.value(connection)
    here = asked_at + (utc_now() - asked_at) / 2
    version: str = await SERVER_VERSION.value(connection)
    return DatabaseReport(
        server_version=version.partition(" ")[0],
        server_major=int(re.sub(r"\D.*", "", version)),
        missing_extensions=tuple(name for name in EXTENSIONS if name not in available),
        revision=await read_revision(connection),
        clock_ahead=(database_time - here).total_seconds(),
    )


async def _current_revision(url: str) -> str | None:
    async with brief_connection(url) as connection:
        return await read_revision(connection)


@contextmanager
def _explained(revision: str) -> Generator[None, None, None]:
    try:
        yield
    except CommandError as error:
        raise ConfigurationError(f"Cannot migrate to {revision}: {error}") from error


def _config(url: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["url"] = url
    return config


def _scripts() -> ScriptDirectory:
    return ScriptDirectory(str(migrations_folder()))
