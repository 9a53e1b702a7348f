"""Schema `freya_migration` in the target: documents as they came, how far reading has come, and what became of each.

A page and its checkpoint commit together, so a killed run continues where it was. An advisory lock keeps others out.
"""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from uuid import NAMESPACE_URL, UUID, uuid5

from freya_gateway.db.query import Connection, Query, Row
from migration.documents import Document, Page, Source
from migration.values import decode, encode

LOCK_KEY = 4_705_313
TABLES = """
CREATE SCHEMA IF NOT EXISTS freya_migration;
CREATE TABLE IF NOT EXISTS freya_migration.runs (
    origin text PRIMARY KEY, fingerprint text NOT NULL, cursor text, complete bool NOT NULL DEFAULT false);
CREATE TABLE IF NOT EXISTS freya_migration.documents (
    origin text NOT NULL, id uuid NOT NULL, path bytea NOT NULL, body bytea NOT NULL, PRIMARY KEY (origin, id));
CREATE TABLE IF NOT EXISTS freya_migration.outcomes (
    origin text NOT NULL, id uuid NOT NULL, collection text NOT NULL, outcome text NOT NULL, code text NOT NULL,
    kind text, owner text, conversation text, role text, said_at timestamptz, PRIMARY KEY (origin, id));
CREATE TABLE IF NOT EXISTS freya_migration.loaded (
    origin text NOT NULL, id uuid NOT NULL, kind text NOT NULL, user_id uuid NOT NULL, checksum bytea NOT NULL,
    PRIMARY KEY (origin, id));
"""

BEGIN = Query("""
INSERT INTO freya_migration.runs AS r (origin, fingerprint) VALUES (:origin, :fingerprint)
ON CONFLICT (origin) DO UPDATE SET fingerprint = excluded.fingerprint,
    cursor = CASE WHEN r.fingerprint = excluded.fingerprint THEN r.cursor END,
    complete = r.complete AND r.fingerprint = excluded.fingerprint
RETURNING cursor, complete
""")
OUTDATED = Query("""
DELETE FROM freya_migration.documents d USING freya_migration.runs r
WHERE d.origin = :origin AND r.origin = d.origin AND r.fingerprint <> :fingerprint
""")
ADD = Query("""
INSERT INTO freya_migration.documents (origin, id, path, body)
SELECT :origin, d.* FROM unnest(cast(:ids AS uuid[]), cast(:paths AS bytea[]), cast(:bodies AS bytea[])) d
ON CONFLICT (origin, id) DO UPDATE SET body = excluded.body
""")
AT = Query("UPDATE freya_migration.runs SET cursor = :cursor WHERE origin = :origin")
DONE = Query("UPDATE freya_migration.runs SET complete = true WHERE origin = :origin")
AFTER = Query("""
SELECT id, path, body FROM freya_migration.documents WHERE origin = :origin AND id > :after ORDER BY id LIMIT 1000
""")
FORGET = Query("DELETE FROM freya_migration.outcomes WHERE origin = :origin")
DECIDE = Query("""
INSERT INTO freya_migration.outcomes SELECT :origin, o.* FROM unnest(
    cast(:ids AS uuid[]), cast(:collections AS text[]), cast(:outcomes AS text[]), cast(:codes AS text[]),
    cast(:kinds AS text[]), cast(:owners AS text[]), cast(:conversations AS text[]), cast(:roles AS text[]),
    cast(:moments AS timestamptz[])) o
""")
UNLOADED = Query("""
SELECT o.id, d.path, d.body FROM freya_migration.outcomes o
JOIN freya_migration.documents d ON d.origin = o.origin AND d.id = o.id
WHERE o.origin = :origin AND o.owner = :owner AND o.kind = :kind AND NOT EXISTS (
    SELECT 1 FROM freya_migration.loaded l WHERE l.origin = o.origin AND l.id = o.id)
ORDER BY o.said_at NULLS FIRST, o.id
""")
NOTE = Query("""
INSERT INTO freya_migration.loaded (origin, user_id, kind, id, checksum)
SELECT :origin, :user_id, :kind, m.* FROM unnest(cast(:ids AS uuid[]), cast(:checksums AS bytea[])) m
""")
SUMS = Query("""
SELECT collection, outcome, code, count(*) AS n FROM freya_migration.outcomes WHERE origin = :origin
GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
""")
COUNT = Query("SELECT count(*) FROM freya_migration.documents WHERE origin = :origin")
LOADED = Query("""
SELECT kind, count(*) AS n FROM freya_migration.loaded WHERE origin = :origin GROUP BY kind ORDER BY kind
""")
INFERRED = Query("""
SELECT count(*) FROM freya_migration.outcomes WHERE origin = :origin AND kind = 'message' AND role IS NULL
""")
IS_PREPARED = Query("SELECT to_regclass('freya_migration.loaded') IS NOT NULL")
RUNS = Query("SELECT origin, complete FROM freya_migration.runs ORDER BY origin")
REJECTS = Query("""
SELECT o.id, o.code, d.path FROM freya_migration.outcomes o
JOIN freya_migration.documents d ON d.origin = o.origin AND d.id = o.id
WHERE o.origin = :origin AND o.outcome = 'rejected' AND o.id > :after ORDER BY o.id LIMIT 1000
""")
HOLDER = Query("""
SELECT a.pid, a.application_name, a.backend_start FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.classid = 0 AND l.objid = :key AND l.granted
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
""")
TRY_LOCK = Query("SELECT pg_try_advisory_lock(:key)")


class Target(Protocol):
    """Where transactions come from: the database, or a dry run's single one that is undone."""

    def transaction(self) -> AbstractAsyncContextManager[Connection]: ...


class Held(Exception):
    """Another run is under way."""


def origin_of(source: Source) -> str:
    return f"{source.project}/{source.database}"


def id_of(origin: str, path: Sequence[str], pointer: str = "") -> UUID:
    """The target row's id: the same for the same place in the same project, whatever it is read from."""
    return uuid5(NAMESPACE_URL, json.dumps([origin, list(path), pointer]))


async def prepare(connection: Connection) -> None:
    await connection.execute(TABLES)


async def hold(connection: Connection) -> None:
    """Keeps other runs out until the connection ends. Raises Held, saying who it is."""
    if await TRY_LOCK.value(connection, key=LOCK_KEY):
        return
    row = await HOLDER.first(connection, key=LOCK_KEY)
    who = f"pid {row['pid']} ({row['application_name']}), since {row['backend_start']:%F %T}" if row else "just ended"
    raise Held(f"another run is under way: {who}")


async def begin(connection: Connection, source: Source) -> tuple[str | None, bool]:
    """Cursor to read on from, and whether all has been read. Where the source's data changed, all is read anew:
    what was staged before goes, so that it is not taken for what is there now."""
    await OUTDATED.execute(connection, origin=origin_of(source), fingerprint=source.fingerprint)
    row = await BEGIN.one(connection, origin=origin_of(source), fingerprint=source.fingerprint)
    return row["cursor"], row["complete"]


async def add(connection: Connection, origin: str, page: Page) -> None:
    """The page and its checkpoint, in the caller's transaction."""
    await ADD.execute(
        connection,
        origin=origin,
        ids=[id_of(origin, document.path) for document in page.documents],
        paths=[encode(list(document.path)) for document in page.documents],
        bodies=[encode(document.fields) for document in page.documents],
    )
    await AT.execute(connection, origin=origin, cursor=page.cursor)


async def batch(connection: Connection, origin: str, *, after: UUID) -> list[tuple[UUID, Document]]:
    rows = await AFTER.all(connection, origin=origin, after=after)
    return [(row["id"], document_of(row["path"], row["body"])) for row in rows]


def document_of(path: bytes, body: bytes) -> Document:
    segments, fields = decode(path), decode(body)
    assert isinstance(segments, list)
    assert isinstance(fields, dict)
    return Document(tuple(str(segment) for segment in segments), fields)


async def decide(connection: Connection, origin: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Rows: id, collection, outcome, code, kind, owner, conversation, role, said_at."""
    names = ("ids", "collections", "outcomes", "codes", "kinds", "owners", "conversations", "roles", "moments")
    columns: list[list[str | UUID | datetime | None]] = [list(column) for column in zip(*rows, strict=True)]
    await DECIDE.execute(connection, origin=origin, **dict(zip(names, columns, strict=True)))


@dataclass(frozen=True, slots=True)
class Run:
    """What was migrated from a project; `complete`: all of it has been read."""

    origin: str
    complete: bool


@dataclass(frozen=True, slots=True)
class Reject:
    """A document that the mapping could not take, and why."""

    path: tuple[str, ...]
    code: str


async def runs(connection: Connection) -> list[Run]:
    """All that was ever migrated into this database."""
    if not await IS_PREPARED.value(connection):
        return []
    return [Run(*row.values()) for row in await RUNS.all(connection)]


async def loaded(connection: Connection, origin: str) -> dict[str, int]:
    """How many rows of each kind are loaded."""
    return {row["kind"]: row["n"] for row in await LOADED.all(connection, origin=origin)}


async def rejects(connection: Connection, origin: str) -> AsyncIterator[Reject]:
    after = UUID(int=0)
    while rows := await REJECTS.all(connection, origin=origin, after=after):
        for row in rows:
            path = decode(row["path"])
            assert isinstance(path, list)
            yield Reject(tuple(str(segment) for segment in path), row["code"])
        after = rows[-1]["id"]


async def unloaded(connection: Connection, origin: str, owner: str, *, kind: str) -> list[Row]:
    """The user's documents of that kind (`id`, `path`, `body`) that were not loaded yet, the oldest first."""
    return await UNLOADED.all(connection, origin=origin, owner=owner, kind=kind)


async def note(connection: Connection, origin: str, user_id: UUID, *, kind: str, sums: Mapping[UUID, bytes]) -> None:
    """Remembers rows that were loaded. `kind`: user, message, fact, topic, or merged (into a fact that says it)."""
    ids, checksums = list(sums), list(sums.values())
    await NOTE.execute(connection, origin=origin, user_id=user_id, kind=kind, ids=ids, checksums=checksums)
