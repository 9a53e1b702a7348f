"""What each model call saw: ids and token counts per block, kept to answer "why did Freya say that?"."""

import json
from typing import Any
from uuid import UUID

from freya_gateway.db.query import Connection, Query

WRITE = Query("""
INSERT INTO prompt_traces (user_id, turn_id, attempt, n_tokens, blocks)
VALUES (:user_id, :turn_id, :attempt, :n_tokens, cast(:blocks AS jsonb))
ON CONFLICT (user_id, turn_id, attempt) DO NOTHING
""")


async def write(connection: Connection, key: tuple[UUID, UUID, int], *, n_tokens: int, blocks: dict[str, Any]) -> None:
    """The trace of the prompt of (user, turn, attempt)."""
    user_id, turn_id, attempt = key
    await WRITE.execute(
        connection,
        user_id=user_id,
        turn_id=turn_id,
        attempt=attempt,
        n_tokens=n_tokens,
        blocks=json.dumps(blocks, default=str),
    )
