"""Schema `freya_migration` in the target: documents as they came, how far reading has come, and what became of each.

A page and its checkpoint commit together, so a killed run continues where it was. An advisory lock keeps others out.
"""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Protocol
from uuid import NAMESPACE_URL, UUID, uuid5

from freya_gateway.db.query import Connection, Query, Row
from migration.documents import Document, Page, Source
from migration.mapping import Settings
from migration.values import decode, encode

LOCK_KEY = 4_705_313
TRIES, RETRY_SECONDS = 10, 0.2
PIECE, PIECE_BYTES = 1000, 16 << 20  # rows, and bytes of their documents, at a time
# `reading` counts how often a project was read; `compared` is the last one that came to its end before.
TABLES = """
CREATE SCHEMA IF NOT EXISTS freya_migration;
CREATE TABLE IF NOT EXISTS freya_migration.runs (
    origin text PRIMARY KEY, fingerprint text NOT NULL, cursor text, complete bool NOT NULL DEFAULT false,
    reading int NOT NULL DEFAULT 1, compared int NOT NULL DEFAULT 0, gone bigint NOT NULL DEFAULT 0,
    settings text NOT NULL);
CREATE TABLE IF NOT EXISTS freya_migration.documents (
    origin text NOT NULL, id uuid NOT NULL, path bytea NOT NULL, body bytea NOT NULL, digest bytea NOT NULL,
    reading int NOT NULL, since int NOT NULL, changed int NOT NULL, PRIMARY KEY (origin, id));
CREATE TABLE IF NOT EXISTS freya_migration.outcomes (
    origin text NOT NULL, id uuid NOT NULL, document uuid NOT NULL, place int NOT NULL, pointer text NOT NULL,
    collection text NOT NULL, outcome text NOT NULL, code text NOT NULL, kind text, owner text, part text, role text,
    said_at timestamptz, checksum bytea, topics text[] NOT NULL, PRIMARY KEY (origin, id));
CREATE INDEX IF NOT EXISTS ix_outcomes_owner ON freya_migration.outcomes (origin, owner, kind);
CREATE TABLE IF NOT EXISTS freya_migration.loaded (
    origin text NOT NULL, id uuid NOT NULL, kind text NOT NULL, user_id uuid NOT NULL, owner text NOT NULL,
    part text, role text, checksum bytea NOT NULL, digest bytea NOT NULL, PRIMARY KEY (origin, owner, id));
"""

RUN = Query("SELECT fingerprint, cursor, complete FROM freya_migration.runs WHERE origin = :origin FOR UPDATE")
BEGIN = Query("""
INSERT INTO freya_migration.runs AS r (origin, fingerprint, settings) VALUES (:origin, :fingerprint, :settings)
ON CONFLICT (origin) DO UPDATE SET fingerprint = excluded.fingerprint, cursor = NULL, complete = false,
    settings = excluded.settings, reading = r.reading + 1,
    compared = CASE WHEN r.complete THEN r.reading ELSE r.compared END
""")
SETTLE = Query("UPDATE freya_migration.runs SET settings = :settings WHERE origin = :origin")
ADD = Query("""
INSERT INTO freya_migration.documents AS d (origin, id, path, body, digest, reading, since, changed)
SELECT r.origin, n.*, r.reading, r.reading, r.reading FROM freya_migration.runs r, unnest(
    cast(:ids AS uuid[]), cast(:paths AS bytea[]), cast(:bodies AS bytea[]), cast(:digests AS bytea[])) n
WHERE r.origin = :origin
ON CONFLICT (origin, id) DO UPDATE SET body = excluded.body, digest = excluded.digest, reading = excluded.reading,
    changed = CASE WHEN d.digest = excluded.digest THEN d.changed ELSE excluded.reading END
""")
AT = Query("UPDATE freya_migration.runs SET cursor = :cursor WHERE origin = :origin")
READ = Query("""
SELECT count(*) FROM freya_migration.documents d JOIN freya_migration.runs r ON r.origin = d.origin
WHERE d.origin = :origin AND d.reading = r.reading
""")
DONE = Query("""
WITH gone AS (
    DELETE FROM freya_migration.documents d USING freya_migration.runs r
    WHERE d.origin = :origin AND r.origin = d.origin AND d.reading < r.reading
    RETURNING d.since <= r.compared AS was_there
)
UPDATE freya_migration.runs SET complete = true, gone = (SELECT count(*) FROM gone WHERE was_there)
WHERE origin = :origin
""")
CHANGES = Query("""
SELECT count(*) FILTER (WHERE d.since > r.compared) AS added,
       count(*) FILTER (WHERE d.since <= r.compared AND d.changed > r.compared) AS changed, max(r.gone) AS gone
FROM freya_migration.runs r JOIN freya_migration.documents d ON d.origin = r.origin WHERE r.origin = :origin
""")
AFTER = Query("""
SELECT id, path, body FROM (
    SELECT id, path, body, sum(length(body)) OVER (ORDER BY id) AS total FROM (
        SELECT id, path, body FROM freya_migration.documents WHERE origin = :origin AND id > :after
        ORDER BY id LIMIT :piece) few
) first WHERE total - length(body) < :size ORDER BY id
""")
PARENTS = Query("""
SELECT body FROM freya_migration.documents WHERE origin = :origin AND id = ANY(cast(:ids AS uuid[]))
""")
SOURCES = Query("""
SELECT id, digest FROM freya_migration.documents WHERE origin = :origin AND id = ANY(cast(:ids AS uuid[]))
""")
PATHS = Query("SELECT id, path FROM freya_migration.documents WHERE origin = :origin")
FORGET = Query("DELETE FROM freya_migration.outcomes WHERE origin = :origin")
DECIDE = Query("""
INSERT INTO freya_migration.outcomes SELECT :origin, o.id, o.document, o.place, o.pointer, o.collection, o.outcome,
    o.code, o.kind, o.owner, o.part, o.role, o.said_at, o.checksum,
    ARRAY(SELECT jsonb_array_elements_text(cast(o.topics AS jsonb)))
FROM unnest(
    cast(:id AS uuid[]), cast(:document AS uuid[]), cast(:place AS int[]), cast(:pointer AS text[]),
    cast(:collection AS text[]), cast(:outcome AS text[]), cast(:code AS text[]), cast(:kind AS text[]),
    cast(:owner AS text[]), cast(:part AS text[]), cast(:role AS text[]), cast(:said_at AS timestamptz[]),
    cast(:checksum AS bytea[]), cast(:topics AS text[]))
    o (id, document, place, pointer, collection, outcome, code, kind, owner, part, role, said_at, checksum, topics)
""")
NOTE = Query("""
INSERT INTO freya_migration.loaded (origin, user_id, owner, kind, id, part, role, checksum, digest)
SELECT :origin, :user_id, :owner, :kind, m.* FROM unnest(
    cast(:ids AS uuid[]), cast(:parts AS text[]), cast(:roles AS text[]), cast(:checksums AS bytea[]),
    cast(:digests AS bytea[])) m
ON CONFLICT (origin, owner, id) DO UPDATE SET kind = excluded.kind, part = excluded.part, role = excluded.role,
    checksum = excluded.checksum, digest = excluded.digest
""")
UNNOTE = Query("""
DELETE FROM freya_migration.loaded WHERE origin = :origin AND owner = :owner AND id = ANY(cast(:ids AS uuid[]))
""")
# A document counts once, by the worst of its pieces.
SUMS = Query("""
SELECT collection, outcome, code, count(*) AS n FROM (
    SELECT DISTINCT ON (document) collection, outcome, code FROM freya_migration.outcomes WHERE origin = :origin
    ORDER BY document, CASE outcome WHEN 'rejected' THEN 0 WHEN 'mapped' THEN 1 ELSE 2 END, place
) d GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
""")
COUNT = Query("SELECT count(*) FROM freya_migration.documents WHERE origin = :origin")
LOADED = Query("""
SELECT kind, count(*) AS n FROM freya_migration.loaded WHERE origin = :origin GROUP BY kind ORDER BY kind
""")
IS_PREPARED = Query("SELECT to_regclass('freya_migration.loaded') IS NOT NULL")
RUNS = Query("SELECT origin, complete, settings FROM freya_migration.runs ORDER BY origin")
LISTED = """
SELECT o.id, o.pointer, o.code, d.path, l.role, o.said_at FROM freya_migration.outcomes o
JOIN freya_migration.documents d ON d.origin = o.origin AND d.id = o.document
LEFT JOIN freya_migration.loaded l ON l.origin = o.origin AND l.owner = o.owner AND l.id = o.id
WHERE o.origin = :origin AND o.id > :after AND {} ORDER BY o.id LIMIT :piece
"""
REJECTS = Query(LISTED.format("o.outcome = 'rejected'"))
INFERRED = Query(LISTED.format("o.kind = 'message' AND o.role IS NULL"))
COUNT_INFERRED = Query("""
SELECT count(*) FROM freya_migration.outcomes WHERE origin = :origin AND kind = 'message' AND role IS NULL
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
    await connection.execute("SET LOCAL client_min_messages = warning")
    await connection.execute(TABLES)


async def analyze(connection: Connection, table: str) -> None:
    """Tells PostgreSQL how large the table has become, so that it plans for it."""
    await connection.execute(f"ANALYZE {table}")


async def hold(connection: Connection) -> None:
    """Keeps other runs out until the connection ends. Raises Held, saying who it is."""
    for _ in range(TRIES):  # PostgreSQL takes a moment to see that a run has ended, or was killed
        if await TRY_LOCK.value(connection, key=LOCK_KEY):
            return
        await asyncio.sleep(RETRY_SECONDS)
    row = await HOLDER.first(connection, key=LOCK_KEY)
    who = f"pid {row['pid']} ({row['application_name']}), since {row['backend_start']:%F %T}" if row else "just ended"
    raise Held(f"another run is under way: {who}")


async def begin(connection: Connection, source: Source, settings: Settings) -> tuple[str | None, bool]:
    """Cursor to read on from, and whether all has been read. What has changed is read anew from its beginning; a row
    that this reading does not meet is gone from the source."""
    origin = origin_of(source)
    row = await RUN.first(connection, origin=origin)
    if row is not None and source.goes_on(row["fingerprint"], complete=row["complete"]):
        await settle(connection, origin, settings)
        return row["cursor"], row["complete"]
    await BEGIN.execute(connection, origin=origin, fingerprint=source.fingerprint, settings=settings.model_dump_json())
    return None, False


async def settle(connection: Connection, origin: str, settings: Settings) -> None:
    """Keeps what documents become from now on."""
    await SETTLE.execute(connection, origin=origin, settings=settings.model_dump_json())


async def add(connection: Connection, origin: str, page: Page) -> None:
    """The page and its checkpoint, in the caller's transaction."""
    bodies = [encode(document.fields) for document in page.documents]
    await ADD.execute(
        connection,
        origin=origin,
        ids=[id_of(origin, document.path) for document in page.documents],
        paths=[encode(list(document.path)) for document in page.documents],
        bodies=bodies,
        digests=[hashlib.sha256(body).digest() for body in bodies],
    )
    await AT.execute(connection, origin=origin, cursor=page.cursor)


async def batch(connection: Connection, origin: str, *, after: UUID) -> list[tuple[UUID, Document]]:
    rows = await AFTER.all(connection, origin=origin, after=after, piece=PIECE, size=PIECE_BYTES)
    return [(row["id"], document_of(row["path"], row["body"])) for row in rows]


def document_of(path: bytes, body: bytes) -> Document:
    fields = decode(body)
    assert isinstance(fields, dict)
    return Document(path_of(path), fields)


def path_of(path: bytes) -> tuple[str, ...]:
    segments = decode(path)
    assert isinstance(segments, list)
    return tuple(str(segment) for segment in segments)


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of a document, or of a piece of it. `part`: the conversation of a message, the slot of a fact;
    `checksum`: of what it says; `topics`: names, as a JSON list."""

    id: UUID
    document: UUID
    place: int
    pointer: str
    collection: str
    outcome: str
    code: str = ""
    kind: str | None = None
    owner: str | None = None
    part: str | None = None
    role: str | None = None
    said_at: datetime | None = None
    checksum: bytes | None = None
    topics: str = "[]"


async def decide(connection: Connection, origin: str, decisions: Sequence[Decision]) -> None:
    columns: dict[str, list[Any]] = {
        field.name: [getattr(decision, field.name) for decision in decisions] for field in fields(Decision)
    }
    await DECIDE.execute(connection, origin=origin, **columns)


@dataclass(frozen=True, slots=True)
class Run:
    """What was migrated from a project; `complete`: all of it has been read."""

    origin: str
    complete: bool
    settings: Settings


async def runs(connection: Connection) -> list[Run]:
    """All that was ever migrated into this database."""
    if not await IS_PREPARED.value(connection):
        return []
    rows = await RUNS.all(connection)
    return [Run(row["origin"], row["complete"], Settings.model_validate_json(row["settings"])) for row in rows]


async def loaded(connection: Connection, origin: str) -> dict[str, int]:
    """How many rows of each kind are loaded."""
    return {row["kind"]: row["n"] for row in await LOADED.all(connection, origin=origin)}


async def listed(connection: Connection, origin: str, query: Query) -> AsyncIterator[dict[str, str]]:
    """REJECTS or INFERRED, each with the place of what it is about."""
    async for row in each(connection, query, origin):
        found = {"origin": origin, "path": "/".join(path_of(row["path"])), "pointer": row["pointer"]}
        said_at = {"said_at": row["said_at"].isoformat(), "role": row["role"] or ""} if row["said_at"] else {}
        yield found | ({"code": row["code"]} if query is REJECTS else said_at)


async def each(connection: Connection, query: Query, origin: str) -> AsyncIterator[Row]:
    """The rows of a query that goes on after an `id`."""
    after = UUID(int=0)
    while rows := await query.all(connection, origin=origin, after=after, piece=PIECE):
        for row in rows:
            yield row
        after = rows[-1]["id"]


@dataclass(frozen=True, slots=True)
class Note:
    """A row that was loaded: as it was decided, and the digest of its document."""

    id: UUID
    checksum: bytes
    digest: bytes
    part: str | None = None
    role: str | None = None


@dataclass(frozen=True, slots=True)
class Owner:
    """A user of an origin, by the name in the documents."""

    origin: str
    name: str
    user_id: UUID


async def note(connection: Connection, owner: Owner, notes: Sequence[Note], *, kind: str) -> None:
    """Remembers rows that were loaded. `kind`: user, message, fact, topic, or merged (into a fact that says it)."""
    await NOTE.execute(
        connection,
        origin=owner.origin,
        user_id=owner.user_id,
        owner=owner.name,
        kind=kind,
        ids=[note.id for note in notes],
        parts=[note.part for note in notes],
        roles=[note.role for note in notes],
        checksums=[note.checksum for note in notes],
        digests=[note.digest for note in notes],
    )


async def unnote(connection: Connection, owner: Owner, ids: Sequence[UUID]) -> None:
    """Forgets rows that are no longer loaded."""
    await UNNOTE.execute(connection, origin=owner.origin, owner=owner.name, ids=list(ids))
