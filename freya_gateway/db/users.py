"""Who is known: the user of a credential's subject, made with their stream at the first sight of them."""

import secrets
from uuid import UUID, uuid4

from freya_gateway.db.query import Connection, Query

EPOCH_BYTES = 5  # ten hexadecimal digits: another user's or another log's cursor does not match by chance

FIND = Query("SELECT id FROM users WHERE subject = :subject")

ENSURE = Query("""
WITH known AS (
    INSERT INTO users (id, subject) VALUES (:id, :subject)
    ON CONFLICT (subject) DO UPDATE SET subject = excluded.subject
    RETURNING id
), stream AS (
    INSERT INTO streams (user_id, epoch) SELECT id, :epoch FROM known ON CONFLICT (user_id) DO NOTHING
)
SELECT id FROM known
""")


async def ensure_user(connection: Connection, subject: str) -> UUID:
    """The id of the user named `subject`, who exists from now on. Safe to call by many at once."""
    found = await FIND.value(connection, subject=subject)
    return found or await ENSURE.value(connection, id=uuid4(), subject=subject, epoch=new_epoch())


def new_epoch() -> str:
    """A name for a new log: 10 lower-case hexadecimal digits."""
    return secrets.token_hex(EPOCH_BYTES)
