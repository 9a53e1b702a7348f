"""The messages that facts have not been learned from yet."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from freya_gateway.db.query import Connection, Query

# Only what is over: the messages before the first turn that has not ended. What came in by an import through the API is
# marked so: whoever sent it could claim what they liked about who said it.
BEYOND = Query("""
SELECT id, seq, role, text, said_at, role = 'user' AND source -> 'import' IS NULL AS trusted
FROM messages
WHERE user_id = :user_id AND seq > :after AND seq < coalesce(
    (SELECT min(position) FROM turns WHERE user_id = :user_id AND state <> 'done'), seq + 1)
ORDER BY seq LIMIT :limit
""")

STILL_THERE = Query("""
SELECT id FROM messages WHERE user_id = :user_id AND id = ANY(cast(:message_ids AS uuid[])) FOR KEY SHARE
""")


@dataclass(frozen=True, slots=True)
class Unlearned:
    """A message beyond the cursor; `trusted` if it is certain that the user said it."""

    id: UUID
    seq: int
    role: str
    text: str
    said_at: datetime
    trusted: bool


async def beyond(connection: Connection, user_id: UUID, *, after: int, limit: int) -> list[Unlearned]:
    """The first `limit` messages after the cursor, in order."""
    rows = await BEYOND.all(connection, user_id=user_id, after=after, limit=limit)
    return [Unlearned(*row.values()) for row in rows]


async def still_there(connection: Connection, user_id: UUID, message_ids: Sequence[UUID]) -> frozenset[UUID]:
    """Those of the messages that have not been deleted, and will not be before the transaction's end."""
    rows = await STILL_THERE.all(connection, user_id=user_id, message_ids=message_ids)
    return frozenset(row["id"] for row in rows)
