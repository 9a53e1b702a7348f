"""Facts as rows: read whole, written whole, each change with its record. Deciding what changes is `memory`'s part.

Whoever changes a user's facts begins with `lock`, so that decisions are made on what is there and not on what was.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from freya_gateway.db.query import Connection, Query, Row

CURRENT = ("active", "pending")
COLUMNS = """id, subject, slot, single_valued, kind, statement, value, n_tokens, status, valid_from, valid_to,
    confirmations, contradictions, explicit, pinned, locked, sensitive, expires_at, supersedes, said_at, created_at"""

# Lets messages of the user be inserted meanwhile: their foreign keys take a weaker lock.
LOCK = Query("""
SELECT memory_key, time_zone, memory_paused, display_name FROM users WHERE id = :user_id FOR NO KEY UPDATE
""")

OF_USER = Query(f"""
SELECT {COLUMNS} FROM facts WHERE user_id = :user_id AND status = ANY(cast(:statuses AS text[]))
ORDER BY created_at, id
""")

ONE = Query(f"SELECT {COLUMNS} FROM facts WHERE user_id = :user_id AND id = :fact_id")

SUCCESSOR = Query(f"""
SELECT {COLUMNS} FROM facts WHERE user_id = :user_id AND supersedes = :fact_id ORDER BY created_at DESC, id LIMIT 1
""")

# Newest first; the id decides between facts of one moment.
PAGE = Query(f"""
SELECT {COLUMNS} FROM facts
WHERE user_id = :user_id AND (cast(:status AS text) IS NULL OR status = :status)
  AND (cast(:before AS uuid) IS NULL OR (created_at, id) < (
      SELECT created_at, id FROM facts WHERE user_id = :user_id AND id = :before))
ORDER BY created_at DESC, id DESC LIMIT :limit
""")

SAVE = Query("""
INSERT INTO facts (user_id, id, subject, slot, single_valued, kind, statement, statement_hash, value, n_tokens, status,
    valid_from, valid_to, confirmations, contradictions, explicit, pinned, locked, sensitive, expires_at, supersedes,
    said_at, created_at, updated_at)
VALUES (:user_id, :id, :subject, :slot, :single_valued, :kind, :statement, :statement_hash, :value, :n_tokens, :status,
    :valid_from, :valid_to, :confirmations, :contradictions, :explicit, :pinned, :locked, :sensitive, :expires_at,
    :supersedes, :said_at, :created_at, :now)
ON CONFLICT (user_id, id) DO UPDATE SET
    subject = excluded.subject, slot = excluded.slot, single_valued = excluded.single_valued, kind = excluded.kind,
    statement = excluded.statement, statement_hash = excluded.statement_hash, value = excluded.value,
    n_tokens = excluded.n_tokens, status = excluded.status, valid_from = excluded.valid_from,
    valid_to = excluded.valid_to, confirmations = excluded.confirmations, contradictions = excluded.contradictions,
    explicit = excluded.explicit, pinned = excluded.pinned, locked = excluded.locked, sensitive = excluded.sensitive,
    expires_at = excluded.expires_at, supersedes = excluded.supersedes, said_at = excluded.said_at, updated_at = :now
""")

CITE = Query("""
INSERT INTO fact_sources (user_id, fact_id, message_id, quote)
SELECT :user_id, cast(:fact_id AS uuid), id, cast(:quote AS text) FROM messages
WHERE user_id = :user_id AND id = ANY(cast(:message_ids AS uuid[]))
ON CONFLICT (user_id, fact_id, message_id) DO NOTHING
""")

CITED = Query("SELECT fact_id, message_id FROM fact_sources WHERE user_id = :user_id")

SOURCES = Query("""
SELECT s.message_id, m.seq, s.quote, m.said_at FROM fact_sources s
JOIN messages m ON m.user_id = s.user_id AND m.id = s.message_id
WHERE s.user_id = :user_id AND s.fact_id = :fact_id ORDER BY m.seq
""")

# Sources and events go by cascade: nothing that holds the words is left.
DELETE = Query("""
WITH loose AS (
    UPDATE facts SET supersedes = NULL
    WHERE user_id = :user_id AND supersedes = ANY(cast(:fact_ids AS uuid[])) AND id <> ALL(cast(:fact_ids AS uuid[]))
), events AS (
    UPDATE fact_events SET before = before - 'supersedes', after = after - 'supersedes'
    WHERE user_id = :user_id AND fact_id IN (SELECT id FROM facts
        WHERE user_id = :user_id AND supersedes = ANY(cast(:fact_ids AS uuid[])))
      AND fact_id <> ALL(cast(:fact_ids AS uuid[]))
)
DELETE FROM facts WHERE user_id = :user_id AND id = ANY(cast(:fact_ids AS uuid[]))
""")

# What was learned from these messages alone; what the user wrote, or an import brought, was only confirmed by them.
SOLELY_FROM = Query("""
SELECT s.fact_id FROM fact_sources s WHERE s.user_id = :user_id AND NOT EXISTS (
    SELECT 1 FROM fact_events e
    WHERE e.user_id = s.user_id AND e.fact_id = s.fact_id AND e.action = 'add' AND e.actor IN ('user', 'system'))
GROUP BY s.fact_id HAVING bool_and(s.message_id = ANY(cast(:message_ids AS uuid[])))
""")

LEXEMES = Query("""
SELECT tsvector_to_array(to_tsvector('english', t)) AS lexemes
FROM unnest(cast(:texts AS text[])) WITH ORDINALITY AS f (t, place) ORDER BY place
""")


@dataclass(frozen=True, slots=True)
class Profile:
    """What deciding about a user's facts needs to know of the user."""

    memory_key: UUID
    time_zone: str
    memory_paused: bool
    display_name: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """A statement about the user, as stored. `said_at` is when it was last said."""

    id: UUID
    subject: str
    slot: str
    single_valued: bool = False
    kind: str
    statement: str
    value: str | None = None
    n_tokens: int
    status: str = "active"
    valid_from: datetime | None = None
    valid_to: datetime | None = None
    confirmations: int = 1
    contradictions: int = 0
    explicit: bool = False
    pinned: bool = False
    locked: bool = False
    sensitive: bool = False
    expires_at: datetime | None = None
    supersedes: UUID | None = None
    said_at: datetime
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Source:
    """The user's words that a fact stands on."""

    message_id: UUID
    seq: int
    quote: str
    said_at: datetime


async def lock(connection: Connection, user_id: UUID) -> Profile:
    """Keeps everyone else from changing the user's facts, until the transaction's end."""
    return Profile(*(await LOCK.one(connection, user_id=user_id)).values())


async def of_user(connection: Connection, user_id: UUID, *, statuses: Sequence[str] = CURRENT) -> list[Fact]:
    """The user's facts with one of `statuses`, oldest first."""
    return [_fact(row) for row in await OF_USER.all(connection, user_id=user_id, statuses=statuses)]


async def get(connection: Connection, user_id: UUID, fact_id: UUID) -> Fact | None:
    row = await ONE.first(connection, user_id=user_id, fact_id=fact_id)
    return _fact(row) if row else None


async def successor(connection: Connection, user_id: UUID, fact_id: UUID) -> Fact | None:
    """The newest fact that took this one's place."""
    row = await SUCCESSOR.first(connection, user_id=user_id, fact_id=fact_id)
    return _fact(row) if row else None


async def page(
    connection: Connection, user_id: UUID, *, status: str | None, before: UUID | None, limit: int
) -> list[Fact]:
    """Facts of that status (any, if None), newest first, from behind the fact `before` on."""
    rows = await PAGE.all(connection, user_id=user_id, status=status, before=before, limit=limit)
    return [_fact(row) for row in rows]


async def save(connection: Connection, user_id: UUID, fact: Fact, *, statement_hash: bytes, now: datetime) -> None:
    """Writes the fact as it shall be, whether it was there or not."""
    values: dict[str, Any] = {name: getattr(fact, name) for name in Fact.__slots__}
    await SAVE.execute(connection, user_id=user_id, statement_hash=statement_hash, now=now, **values)


async def cite(
    connection: Connection, user_id: UUID, fact_id: UUID, *, message_ids: Sequence[UUID], quote: str
) -> None:
    """Notes what the fact stands on; a message that is gone by now is left out."""
    await CITE.execute(connection, user_id=user_id, fact_id=fact_id, message_ids=message_ids, quote=quote)


async def cited(connection: Connection, user_id: UUID) -> dict[UUID, set[UUID]]:
    """Fact -> the messages that it stands on."""
    found: dict[UUID, set[UUID]] = {}
    for row in await CITED.all(connection, user_id=user_id):
        found.setdefault(row["fact_id"], set()).add(row["message_id"])
    return found


async def sources(connection: Connection, user_id: UUID, fact_id: UUID) -> list[Source]:
    """What the fact stands on, oldest first."""
    rows = await SOURCES.all(connection, user_id=user_id, fact_id=fact_id)
    return [Source(*row.values()) for row in rows]


async def delete(connection: Connection, user_id: UUID, fact_ids: Sequence[UUID]) -> None:
    """Removes the facts with their sources and history."""
    await DELETE.execute(connection, user_id=user_id, fact_ids=fact_ids)


async def solely_from(connection: Connection, user_id: UUID, message_ids: Sequence[UUID]) -> list[UUID]:
    """The facts that were learned from nothing but these messages."""
    rows = await SOLELY_FROM.all(connection, user_id=user_id, message_ids=message_ids)
    return [row["fact_id"] for row in rows]


async def lexemes(connection: Connection, texts: Sequence[str]) -> list[frozenset[str]]:
    """The lexemes of each text (folded before), as the search has them."""
    return [frozenset(row["lexemes"]) for row in await LEXEMES.all(connection, texts=texts)]


def _fact(row: Row) -> Fact:
    return Fact(**dict(zip(Fact.__slots__, row.values(), strict=True)))
