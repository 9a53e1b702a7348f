"""Takes imported messages out of a user's history, with what the search knows of them."""

from collections.abc import Sequence
from uuid import UUID

from freya_gateway.db import indexing
from freya_gateway.db.query import Connection, Query
from migration.staging import Owner

BATCH = 1000  # messages in one statement
# Of a user who has no message left; numbers are given again, as nobody has seen them.
EMPTY = (
    Query("DELETE FROM segments WHERE user_id = :user_id"),
    Query("DELETE FROM term_stats WHERE user_id = :user_id"),
    Query("DELETE FROM collection_stats WHERE user_id = :user_id"),
    Query("UPDATE streams SET last_message = 0 WHERE user_id = :user_id"),
    Query("UPDATE memory_work SET done_seq = 0 WHERE user_id = :user_id"),
)
# A message that the app has made, or a turn, which may come to have one.
OTHERS = Query("""
SELECT EXISTS (SELECT 1 FROM messages m WHERE m.user_id = :user_id AND NOT EXISTS (
           SELECT 1 FROM freya_migration.loaded l WHERE l.origin = :origin AND l.user_id = m.user_id AND l.id = m.id))
    OR EXISTS (SELECT 1 FROM turns t WHERE t.user_id = :user_id)
""")
OURS = Query("""
SELECT m.id, m.seq FROM freya_migration.loaded l JOIN messages m ON m.user_id = l.user_id AND m.id = l.id
WHERE l.origin = :origin AND l.user_id = :user_id AND l.kind = 'message' ORDER BY m.seq
""")
SOME = Query("""
SELECT id, seq FROM messages WHERE user_id = :user_id AND id = ANY(cast(:ids AS uuid[])) ORDER BY seq
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


async def is_alone(connection: Connection, owner: Owner) -> bool:
    """Whether the user has said nothing in Freya."""
    return not await OTHERS.value(connection, origin=owner.origin, user_id=owner.user_id)


async def take_out_all(connection: Connection, owner: Owner) -> list[UUID]:
    """All imported messages; their ids."""
    rows = await OURS.all(connection, origin=owner.origin, user_id=owner.user_id)
    if not await is_alone(connection, owner):
        await take_out(connection, owner.user_id, [row["id"] for row in rows])
        return [row["id"] for row in rows]
    await indexing.lock(connection, owner.user_id)
    for query in EMPTY:
        await query.execute(connection, user_id=owner.user_id)
    for start in range(0, len(rows), BATCH):
        ids = [row["id"] for row in rows[start : start + BATCH]]
        await DELETE.execute(connection, user_id=owner.user_id, ids=ids)
    return [row["id"] for row in rows]


async def take_out(connection: Connection, user_id: UUID, ids: Sequence[UUID]) -> None:
    """Some messages of a user who has others; a segment goes with the last of its messages."""
    for row in await SOME.all(connection, user_id=user_id, ids=list(ids)):
        await indexing.unindex(connection, user_id, row["seq"])
        await DELETE.execute(connection, user_id=user_id, ids=[row["id"]])


async def drop_empty(connection: Connection, user_id: UUID) -> int:
    """Imported conversations without a message go; how many there were."""
    return await CONVERSATIONS.value(connection, user_id=user_id)
