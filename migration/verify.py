"""Proof that what was staged is what can be read back: every message, fact and topic, and the sum of all outcomes."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import UUID

from freya_gateway.db.messages import exact_text
from freya_gateway.db.query import Connection, Query, Row
from migration import facts
from migration.load import checksum

PIECE = 1000
LOADED = Query("""
SELECT l.id, l.user_id, l.checksum, m.role, m.text, m.exact, m.said_at FROM freya_migration.loaded l
LEFT JOIN messages m ON m.user_id = l.user_id AND m.id = l.id
WHERE l.origin = :origin AND l.kind = 'message' AND l.id > :after ORDER BY l.id LIMIT :piece
""")
# What the app has done to a fact since is in its history: then it may say something else.
FACTS = Query("""
SELECT l.id, l.user_id, l.checksum, f.statement, EXISTS (
    SELECT 1 FROM fact_events e WHERE e.user_id = l.user_id AND e.fact_id = l.id AND e.actor <> 'system'
) AS changed
FROM freya_migration.loaded l LEFT JOIN facts f ON f.user_id = l.user_id AND f.id = l.id
WHERE l.origin = :origin AND l.kind = 'fact' AND l.id > :after ORDER BY l.id LIMIT :piece
""")
# What the app says of a topic changes when it is grouped anew or named by the user.
TOPICS = Query("""
SELECT l.id, l.user_id FROM freya_migration.loaded l WHERE l.origin = :origin AND l.kind = 'topic' AND NOT EXISTS (
    SELECT 1 FROM topics t WHERE t.user_id = l.user_id AND t.id = l.id) ORDER BY l.id
""")
UNDECIDED = Query("""
SELECT count(*) FROM freya_migration.documents d WHERE d.origin = :origin AND NOT EXISTS (
    SELECT 1 FROM freya_migration.outcomes o WHERE o.origin = d.origin AND o.id = d.id)
""")
UNLOADED = Query("""
SELECT o.id, o.kind FROM freya_migration.outcomes o WHERE o.origin = :origin AND o.outcome = 'mapped' AND NOT EXISTS (
    SELECT 1 FROM freya_migration.loaded l WHERE l.origin = o.origin AND l.id = o.id) LIMIT 20
""")


@dataclass(frozen=True, slots=True)
class Fault:
    """What does not agree; `row` names it."""

    code: str
    row: str


async def verify(connection: Connection, origin: str) -> list[Fault]:
    """Everything that does not agree; empty where all does."""
    faults = [
        Fault("not_loaded", f"{row['kind']} {row['id']}") for row in await UNLOADED.all(connection, origin=origin)
    ]
    undecided = await UNDECIDED.value(connection, origin=origin)
    if undecided:
        faults.append(Fault("not_accounted_for", f"{undecided} documents"))
    async for row in _each(connection, LOADED, origin):
        name = f"messages {row['id']} of user {row['user_id']}"
        if row["role"] is None:
            faults.append(Fault("missing", name))
        elif checksum(row["role"], exact_text(row), row["said_at"]) != row["checksum"]:
            faults.append(Fault("altered", name))
    async for row in _each(connection, FACTS, origin):
        name = f"facts {row['id']} of user {row['user_id']}"
        if row["statement"] is None:
            faults.append(Fault("missing", name))
        elif not row["changed"] and facts.checksum(row["statement"]) != row["checksum"]:
            faults.append(Fault("altered", name))
    lost = await TOPICS.all(connection, origin=origin)
    return [*faults, *(Fault("missing", f"topics {row['id']} of user {row['user_id']}") for row in lost)]


async def _each(connection: Connection, query: Query, origin: str) -> AsyncIterator[Row]:
    after = UUID(int=0)
    while rows := await query.all(connection, origin=origin, after=after, piece=PIECE):
        for row in rows:
            yield row
        after = rows[-1]["id"]
