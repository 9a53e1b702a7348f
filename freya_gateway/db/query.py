"""SQL with named parameters for asyncpg, which knows only `$1`: the names are turned into numbers once, at import."""

import re
from collections.abc import Callable
from typing import Any, Protocol

NAME = re.compile(r"(?<![:\w]):([a-z_]+)")


class Row(Protocol):
    """A row: values by column name or position."""

    def __getitem__(self, key: str | int, /) -> Any: ...
    def keys(self) -> Any: ...
    def values(self) -> Any: ...


class Connection(Protocol):
    """What query functions need of an asyncpg connection."""

    async def execute(self, query: str, /, *args: Any) -> str: ...
    async def fetch(self, query: str, /, *args: Any) -> list[Row]: ...
    async def fetchrow(self, query: str, /, *args: Any) -> Row | None: ...
    async def fetchval(self, query: str, /, *args: Any) -> Any: ...


class OwnConnection(Connection, Protocol):
    """A connection outside the pool, for one task."""

    async def add_listener(self, channel: str, callback: Callable[[object, int, str, object], None], /) -> None: ...
    def add_termination_listener(self, callback: Callable[[object], None], /) -> None: ...
    def is_closed(self) -> bool: ...
    def terminate(self) -> None: ...


class Query:
    """One statement. `:name` stands for a value; each call must give exactly the values that are named."""

    def __init__(self, sql: str) -> None:
        self.names = tuple(dict.fromkeys(NAME.findall(sql)))
        places = {name: f"${place}" for place, name in enumerate(self.names, 1)}
        self.sql = NAME.sub(lambda match: places[match[1]], sql)

    async def execute(self, connection: Connection, /, **values: Any) -> None:
        await connection.execute(self.sql, *self._ordered(values))

    async def all(self, connection: Connection, /, **values: Any) -> list[Row]:
        return await connection.fetch(self.sql, *self._ordered(values))

    async def first(self, connection: Connection, /, **values: Any) -> Row | None:
        return await connection.fetchrow(self.sql, *self._ordered(values))

    async def one(self, connection: Connection, /, **values: Any) -> Row:
        row = await connection.fetchrow(self.sql, *self._ordered(values))
        if row is None:
            raise LookupError("a statement that always has a row had none")
        return row

    async def value(self, connection: Connection, /, **values: Any) -> Any:
        return await connection.fetchval(self.sql, *self._ordered(values))

    def _ordered(self, values: dict[str, Any]) -> list[Any]:
        if len(values) != len(self.names):
            raise TypeError(f"values {sorted(values)} for parameters {sorted(self.names)}")
        return [values[name] for name in self.names]
