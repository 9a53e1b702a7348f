"""All that is kept of a user, in pages: each asks for what comes after the last one's key, inside one snapshot."""

from collections.abc import AsyncGenerator, Callable
from typing import Any
from uuid import UUID

import msgspec

from freya_gateway.db.backup import (
    BackupAccount,
    BackupChange,
    BackupConversation,
    BackupFact,
    BackupMessage,
    BackupQuote,
    BackupSegment,
    BackupTopic,
)
from freya_gateway.db.facts import COLUMNS, Fact
from freya_gateway.db.query import Connection, Query, Row

PAGE = 250  # rows
NOTHING = UUID(int=0)  # before every id

ACCOUNT = Query("SELECT display_name, time_zone, memory_paused, memory_key FROM users WHERE id = :user_id")

CONVERSATIONS = Query("""
SELECT id, title, started_at, last_message_at, grouped, source FROM conversations
WHERE user_id = :user_id AND id > :after ORDER BY id LIMIT :limit
""")

MESSAGES = Query("""
SELECT id, seq, conversation_id, role, text, said_at, exact, turn_id, reply_to, source FROM messages
WHERE user_id = :user_id AND seq > :after ORDER BY seq LIMIT :limit
""")

FACTS = Query(f"SELECT {COLUMNS} FROM facts WHERE user_id = :user_id AND id > :after ORDER BY id LIMIT :limit")
FACT_SOURCES = Query("""
SELECT id, source FROM facts WHERE user_id = :user_id AND id = ANY(cast(:ids AS uuid[])) AND source IS NOT NULL
""")
QUOTES = Query("""
SELECT s.fact_id, s.message_id, s.quote FROM fact_sources s
JOIN messages m ON m.user_id = s.user_id AND m.id = s.message_id
WHERE s.user_id = :user_id AND s.fact_id = ANY(cast(:ids AS uuid[])) ORDER BY m.seq
""")
CHANGES = Query("""
SELECT fact_id, action, actor, before, after, at FROM fact_events
WHERE user_id = :user_id AND fact_id = ANY(cast(:ids AS uuid[])) ORDER BY at, id
""")

TOMBSTONES = Query("""
SELECT digest FROM fact_tombstones WHERE user_id = :user_id AND digest > :after ORDER BY digest LIMIT :limit
""")

TOPICS = Query("""
SELECT id, title, keywords, summary, state, continues, first_at, last_at, source FROM topics
WHERE user_id = :user_id AND id > :after ORDER BY id LIMIT :limit
""")

SEGMENTS = Query("""
SELECT conversation_id, topic_id, first_seq, last_seq FROM segments
WHERE user_id = :user_id AND first_seq > :after ORDER BY first_seq LIMIT :limit
""")


async def account(connection: Connection, user_id: UUID) -> BackupAccount:
    return BackupAccount(*(await ACCOUNT.one(connection, user_id=user_id)).values())


async def conversations(connection: Connection, user_id: UUID) -> AsyncGenerator[list[BackupConversation], None]:
    async for rows in _pages(CONVERSATIONS, connection, user_id, after=NOTHING, key="id"):
        yield [BackupConversation(*_with_source(row)) for row in rows]


async def messages(connection: Connection, user_id: UUID) -> AsyncGenerator[list[BackupMessage], None]:
    """In the order in which they were said."""
    async for rows in _pages(MESSAGES, connection, user_id, after=0, key="seq"):
        yield [BackupMessage(*_with_source(row)) for row in rows]


async def facts(connection: Connection, user_id: UUID) -> AsyncGenerator[list[BackupFact], None]:
    async for rows in _pages(FACTS, connection, user_id, after=NOTHING, key="id"):
        ids = [row["id"] for row in rows]
        sources = {row["id"]: row["source"] for row in await FACT_SOURCES.all(connection, user_id=user_id, ids=ids)}
        quotes = _by_fact(await QUOTES.all(connection, user_id=user_id, ids=ids), _quote)
        changes = _by_fact(await CHANGES.all(connection, user_id=user_id, ids=ids), _change)
        yield [
            BackupFact(
                Fact(**dict(zip(Fact.__slots__, row.values(), strict=True))),
                tuple(quotes.get(row["id"], ())),
                tuple(changes.get(row["id"], ())),
                _decoded(sources.get(row["id"])),
            )
            for row in rows
        ]


async def tombstones(connection: Connection, user_id: UUID) -> AsyncGenerator[list[str], None]:
    async for rows in _pages(TOMBSTONES, connection, user_id, after=b"", key="digest"):
        yield [row["digest"].hex() for row in rows]


async def topics(connection: Connection, user_id: UUID) -> AsyncGenerator[list[BackupTopic], None]:
    async for rows in _pages(TOPICS, connection, user_id, after=NOTHING, key="id"):
        yield [BackupTopic(*_with_source(row)) for row in rows]


async def segments(connection: Connection, user_id: UUID) -> AsyncGenerator[list[BackupSegment], None]:
    async for rows in _pages(SEGMENTS, connection, user_id, after=0, key="first_seq"):
        yield [BackupSegment(*row.values()) for row in rows]


async def _pages(
    query: Query, connection: Connection, user_id: UUID, *, after: object, key: str
) -> AsyncGenerator[list[Row], None]:
    while rows := await query.all(connection, user_id=user_id, after=after, limit=PAGE):
        yield rows
        if len(rows) < PAGE:
            return
        after = rows[-1][key]


def _with_source(row: Row) -> list[Any]:
    """The row's values, the last of which is a `source`."""
    *values, source = row.values()
    return [*values, _decoded(source)]


def _decoded(source: str | None) -> Any:
    return msgspec.json.decode(source) if source else None


def _by_fact(rows: list[Row], build: Callable[[Row], Any]) -> dict[UUID, list[Any]]:
    found: dict[UUID, list[Any]] = {}
    for row in rows:
        found.setdefault(row["fact_id"], []).append(build(row))
    return found


def _quote(row: Row) -> BackupQuote:
    return BackupQuote(row["message_id"], row["quote"])


def _change(row: Row) -> BackupChange:
    before = msgspec.json.decode(row["before"], type=Fact) if row["before"] else None
    return BackupChange(row["action"], row["actor"], before, msgspec.json.decode(row["after"], type=Fact), row["at"])
