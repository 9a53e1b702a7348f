"""A user's own settings."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from freya_gateway.db.query import Connection, Query

ONE = Query("SELECT display_name, time_zone, memory_paused, created_at FROM users WHERE id = :user_id")

CHANGE = Query("""
UPDATE users SET display_name = :display_name, time_zone = :time_zone, memory_paused = :memory_paused
WHERE id = :user_id
""")


@dataclass(frozen=True, slots=True)
class Account:
    """What a user has set. While memory is paused, what is said is answered, and nothing is learned from it."""

    display_name: str | None
    time_zone: str
    memory_paused: bool
    created_at: datetime


async def get(connection: Connection, user_id: UUID) -> Account:
    return Account(*(await ONE.one(connection, user_id=user_id)).values())


async def change(connection: Connection, user_id: UUID, account: Account) -> None:
    await CHANGE.execute(
        connection,
        user_id=user_id,
        display_name=account.display_name,
        time_zone=account.time_zone,
        memory_paused=account.memory_paused,
    )
