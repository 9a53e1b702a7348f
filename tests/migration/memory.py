"""Runs into a real PostgreSQL from a source in memory, and what is there afterwards."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from freya_gateway.db.engine import Database
from migration.documents import Document, Loss, Page, Source, Timestamp, Value
from migration.mapping import Policy, Settings, load_mapping
from migration.pipeline import Job, Report, run
from migration.rollback import roll_back
from migration.staging import origin_of
from migration.target import held

BEGAN = 1_700_000_000


@dataclass
class Memory:
    """A source of documents in memory, three a page; `breaks_after` pages it fails."""

    documents: Sequence[Document]
    breaks_after: int | None = None
    kind: str = "memory"
    project: str = "p"
    database: str = "(default)"
    fingerprint: str = "1"

    def goes_on(self, fingerprint: str, *, complete: bool) -> bool:
        return fingerprint == self.fingerprint

    async def expected(self) -> int | None:
        return len(self.documents)

    async def pages(self, after: str | None = None) -> AsyncIterator[Page]:
        for start in range(int(after or 0), len(self.documents), 3):
            if self.breaks_after is not None and start >= self.breaks_after * 3:
                raise ConnectionError("cut")
            yield Page(self.documents[start : start + 3], str(start + 3))

    def losses(self) -> Sequence[Loss]:
        return ()

    async def aclose(self) -> None:
        return


def predecessor(count: int = 8) -> list[Document]:
    """Flat messages with either speaker's text in `user`; a silence of a day after the first half."""
    return [
        Document(("messages", f"m{n}"), {"user": f"line \x00 {n}", "timestamp": Timestamp(_second(n, count), 1000)})
        for n in range(count)
    ]


def _second(n: int, count: int) -> int:
    return BEGAN + n * 60 + (86_400 if n >= count // 2 else 0)


async def migrate(database: Database, source: Source, **options: Any) -> Report:
    dry_run = options.pop("dry_run", False)
    mapping = options.pop("mapping", None) or load_mapping()
    policy = Policy(owner="owner", infer_roles=True).model_copy(update=options)
    settings = Settings(mapping=mapping, policy=policy)
    return await run(database, Job(origin_of(source), source, settings), dry_run=dry_run)


async def rolled_back(database: Database, origin: str = "p/(default)") -> dict[str, int]:
    async with held(database) as target:
        return await roll_back(target, origin)


async def rows(database: Database, sql: str = "SELECT * FROM messages ORDER BY seq") -> list[dict[str, Any]]:
    async with database.reading() as connection:
        return [dict(zip(row.keys(), row.values(), strict=True)) for row in await connection.fetch(sql)]


async def command(url: str, *words: str, errors: bool = False) -> tuple[int, str]:
    """Exit code and output of `python -m migration`; with its error output, if that is asked for."""
    surroundings = os.environ | {"DATABASE_URL": url, "COLUMNS": "200"}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "migration",
        *words,
        env=surroundings,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT if errors else None,
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


def fact(name: str, day: int, **fields: Value) -> Document:
    return Document(("userFacts", name), {"timestamp": Timestamp(BEGAN + day * 86_400), **fields})


KNOWN = [
    fact("a", 1, type="location", value="Oslo", userId="owner"),
    fact("b", 3, type="location", value="Skagen", confidence=70),
    fact("c", 2, type="pets", value=["Momo", "Kiki"]),
    fact("d", 4, type="pets", value="Momo, Kiki"),
    fact("e", 5, type="health", value="Has diabetes"),
    fact("f", 6, value="Plays the \x00 cello"),
    fact("g", 7, type="job"),
    fact("h", 8, type="job", value={"nested": "no"}),
]


TABLES = (
    "users", "streams", "conversations", "messages", "segments", "topics", "facts", "fact_events", "fact_sources",
    "term_stats", "collection_stats", "memory_work",
)  # fmt: skip


async def everything(database: Database) -> dict[str, list[dict[str, Any]]]:
    found = {table: await rows(database, f"SELECT * FROM {table} ORDER BY {table}::text") for table in TABLES}
    for stream in found["streams"]:
        stream["last_message"] = None  # a number is not given twice
    for user in found["memory_work"]:
        user["done_seq"] = None
    return found
