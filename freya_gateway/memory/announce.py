"""The `memory` event: tells the user's open pages, on any replica, what was learned."""

from collections.abc import Sequence
from uuid import UUID

from freya_gateway.db import events as store
from freya_gateway.db.query import Connection
from freya_gateway.events.types import to_json


async def announce(connection: Connection, user_id: UUID, *, facts: Sequence[UUID], topics: Sequence[UUID]) -> None:
    """Appends a `memory` event in the caller's transaction, also while a turn of the user's runs.

    Holds the user's stream until the commit: let it be the transaction's last statement.
    """
    await store.append_memory(connection, user_id, data=to_json({"facts": facts, "topics": topics}))
