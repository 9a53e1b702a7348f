"""Takes out of the target what a migration brought, user by user; what the app made or edited stays."""

from collections import Counter

from freya_gateway.db import facts, memory_work, topics, turns
from freya_gateway.db.query import Connection, Query
from migration import staging
from migration.facts import EDITED as FACT_EDITED
from migration.removal import drop_empty, take_out_all
from migration.staging import Owner, Target
from migration.topics import EDITED as TOPIC_EDITED

OWNERS = Query("""
SELECT DISTINCT owner, user_id FROM freya_migration.loaded WHERE origin = :origin ORDER BY user_id
""")
FACTS = Query(f"""
SELECT l.id, {FACT_EDITED} AS edited FROM freya_migration.loaded l JOIN facts f ON f.user_id = l.user_id AND f.id = l.id
WHERE l.origin = :origin AND l.user_id = :user_id AND l.kind = 'fact'
""")
TOPICS = Query(f"""
SELECT t.id, {TOPIC_EDITED} AS edited
FROM freya_migration.loaded l JOIN topics t ON t.user_id = l.user_id AND t.id = l.id
WHERE l.origin = :origin AND l.user_id = :user_id AND l.kind = 'topic'
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


async def roll_back(target: Target, origin: str) -> Counter[str]:
    """How many rows of each kind went, and how many stayed because they were edited. Stopped half-way, the same call
    goes on; there may be nothing to do."""
    counts: Counter[str] = Counter()
    async with target.transaction() as connection:
        await staging.prepare(connection)
        owners = await OWNERS.all(connection, origin=origin)
    for row in owners:
        async with target.transaction() as connection:
            counts += await _of_user(connection, Owner(origin, row["owner"], row["user_id"]))
    async with target.transaction() as connection:
        for query in FORGET:
            await query.execute(connection, origin=origin)
    return counts


async def _of_user(connection: Connection, owner: Owner) -> Counter[str]:
    ids = {"origin": owner.origin, "user_id": owner.user_id}
    await connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
    await facts.lock(connection, owner.user_id)
    await memory_work.lock(connection, owner.user_id)
    await turns.lock(connection, owner.user_id)
    counts: Counter[str] = Counter()
    found = await FACTS.all(connection, **ids)
    gone = [row["id"] for row in found if not row["edited"]]
    await facts.delete(connection, owner.user_id, gone)
    counts += Counter(facts=len(gone), edited=len(found) - len(gone))
    for row in await TOPICS.all(connection, **ids):
        counts["edited" if row["edited"] else "topics"] += 1
        if not row["edited"]:
            await topics.delete(connection, owner.user_id, row["id"])
    counts["messages"] += len(await take_out_all(connection, owner))
    counts["conversations"] += await drop_empty(connection, owner.user_id)
    counts["users"] += await USER.value(connection, **ids)
    await UNLOAD.execute(connection, **ids)
    return +counts
