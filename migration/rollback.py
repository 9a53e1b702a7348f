"""Takes out of the target what a migration brought, user by user; what the app made or edited stays."""

from collections import Counter
from uuid import UUID

from freya_gateway.db import facts, indexing, memory_work, topics, turns
from freya_gateway.db.engine import Database
from freya_gateway.db.query import Connection, Query
from migration import staging

BATCH = 1000  # messages in one statement
EMPTY = (  # of a user who has no message left
    Query("DELETE FROM segments WHERE user_id = :user_id"),
    Query("DELETE FROM term_stats WHERE user_id = :user_id"),
    Query("DELETE FROM collection_stats WHERE user_id = :user_id"),
)
USERS = Query("SELECT DISTINCT user_id FROM freya_migration.loaded WHERE origin = :origin ORDER BY user_id")
# What anyone but the migration has done to a fact is in its history.
FACTS = Query("""
SELECT l.id, EXISTS (
    SELECT 1 FROM fact_events e WHERE e.user_id = l.user_id AND e.fact_id = l.id AND e.actor <> 'system'
) AS edited
FROM freya_migration.loaded l JOIN facts f ON f.user_id = l.user_id AND f.id = l.id
WHERE l.origin = :origin AND l.user_id = :user_id AND l.kind = 'fact'
""")
TOPICS = Query("""
SELECT t.id, coalesce(t.source ->> 'title' = 'user', false) AS edited
FROM freya_migration.loaded l JOIN topics t ON t.user_id = l.user_id AND t.id = l.id
WHERE l.origin = :origin AND l.user_id = :user_id AND l.kind = 'topic'
""")
MESSAGES = Query("""
SELECT m.id, m.seq FROM freya_migration.loaded l JOIN messages m ON m.user_id = l.user_id AND m.id = l.id
WHERE l.origin = :origin AND l.user_id = :user_id AND l.kind = 'message' ORDER BY m.seq
""")
OTHERS = Query("""
SELECT EXISTS (SELECT 1 FROM messages m WHERE m.user_id = :user_id AND NOT EXISTS (
    SELECT 1 FROM freya_migration.loaded l WHERE l.origin = :origin AND l.id = m.id))
""")
DELETE = Query("DELETE FROM messages WHERE user_id = :user_id AND id = ANY(cast(:ids AS uuid[]))")
CONVERSATIONS = Query("""
WITH gone AS (
    DELETE FROM conversations c WHERE c.user_id = :user_id AND c.source ? 'imported'
        AND NOT EXISTS (SELECT 1 FROM messages m WHERE m.user_id = c.user_id AND m.conversation_id = c.id)
        AND NOT EXISTS (SELECT 1 FROM turns t WHERE t.user_id = c.user_id AND t.conversation_id = c.id)
    RETURNING 1
) SELECT count(*) FROM gone
""")
# Only who came with the migration, and has nothing of their own.
USER = Query("""
WITH gone AS (
    DELETE FROM users u WHERE u.id = :user_id
        AND EXISTS (SELECT 1 FROM freya_migration.loaded l
                    WHERE l.origin = :origin AND l.user_id = u.id AND l.kind = 'user')
        AND NOT EXISTS (SELECT 1 FROM messages m WHERE m.user_id = u.id)
        AND NOT EXISTS (SELECT 1 FROM turns t WHERE t.user_id = u.id)
        AND NOT EXISTS (SELECT 1 FROM facts f WHERE f.user_id = u.id)
        AND NOT EXISTS (SELECT 1 FROM topics t WHERE t.user_id = u.id)
    RETURNING 1
) SELECT count(*) FROM gone
""")
UNLOAD = Query("DELETE FROM freya_migration.loaded WHERE origin = :origin AND user_id = :user_id")
FORGET = (
    Query("DELETE FROM freya_migration.outcomes WHERE origin = :origin"),
    Query("DELETE FROM freya_migration.documents WHERE origin = :origin"),
    Query("DELETE FROM freya_migration.runs WHERE origin = :origin"),
)


async def roll_back(database: Database, origin: str) -> Counter[str]:
    """How many rows of each kind went, and how many stayed because they were edited. Stopped half-way, the same call
    goes on. Raises Held."""
    guard = await database.connect()
    counts: Counter[str] = Counter()
    try:
        await staging.hold(guard)
        for row in await USERS.all(guard, origin=origin):
            async with database.transaction() as connection:
                counts += await _of_user(connection, origin, row["user_id"])
        async with database.transaction() as connection:
            for query in FORGET:
                await query.execute(connection, origin=origin)
    finally:
        guard.terminate()
    return counts


async def _of_user(connection: Connection, origin: str, user_id: UUID) -> Counter[str]:
    ids = {"origin": origin, "user_id": user_id}
    await connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
    await facts.lock(connection, user_id)
    await memory_work.lock(connection, user_id)
    await turns.lock(connection, user_id)
    counts: Counter[str] = Counter()
    found = await FACTS.all(connection, **ids)
    gone = [row["id"] for row in found if not row["edited"]]
    await facts.delete(connection, user_id, gone)
    counts += Counter(facts=len(gone), edited=len(found) - len(gone))
    for row in await TOPICS.all(connection, **ids):
        counts["edited" if row["edited"] else "topics"] += 1
        if not row["edited"]:
            await topics.delete(connection, user_id, row["id"])
    counts["messages"] += await _messages(connection, origin, user_id)
    counts["conversations"] += await CONVERSATIONS.value(connection, user_id=user_id)
    counts["users"] += await USER.value(connection, **ids)
    await UNLOAD.execute(connection, **ids)
    return counts


async def _messages(connection: Connection, origin: str, user_id: UUID) -> int:
    """Deletes the messages, and what the search knows of them."""
    rows = await MESSAGES.all(connection, origin=origin, user_id=user_id)
    alone = not await OTHERS.value(connection, origin=origin, user_id=user_id)
    if alone:
        await indexing.lock(connection, user_id)
        for query in EMPTY:
            await query.execute(connection, user_id=user_id)
    size = BATCH if alone else 1  # a segment goes with the last of its messages
    for start in range(0, len(rows), size):
        piece = rows[start : start + size]
        if not alone:
            await indexing.unindex(connection, user_id, piece[0]["seq"])
        await DELETE.execute(connection, user_id=user_id, ids=[row["id"] for row in piece])
    return len(rows)
