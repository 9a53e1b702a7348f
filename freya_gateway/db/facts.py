"""User Facts, read: those that hold now, in the stable order in which the prompt lists them."""

from dataclasses import dataclass
from uuid import UUID

from freya_gateway.db.query import Connection, Query

ACTIVE = Query("""
SELECT id, statement, n_tokens FROM facts
WHERE user_id = :user_id AND status = 'active' AND (expires_at IS NULL OR expires_at > now())
ORDER BY pinned DESC, (kind = 'identity') DESC, confirmations DESC, created_at, id LIMIT :most
""")


@dataclass(frozen=True, slots=True)
class ActiveFact:
    id: UUID
    statement: str
    n_tokens: int


async def active(connection: Connection, user_id: UUID, *, most: int = 200) -> list[ActiveFact]:
    """Facts that hold now, the most important first, at most `most`."""
    return [ActiveFact(*row.values()) for row in await ACTIVE.all(connection, user_id=user_id, most=most)]
