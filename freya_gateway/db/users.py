"""Who is known: the user of a credential's subject, made with their stream at the first sight of them."""

import secrets
from uuid import UUID, uuid4

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

EPOCH_BYTES = 5  # ten hexadecimal digits: another user's or another log's cursor does not match by chance

ENSURE = text("""
WITH known AS (
    INSERT INTO users (id, subject) VALUES (:id, :subject)
    ON CONFLICT (subject) DO UPDATE SET subject = excluded.subject
    RETURNING id
), stream AS (
    INSERT INTO streams (user_id, epoch) SELECT id, :epoch FROM known ON CONFLICT (user_id) DO NOTHING
)
SELECT id FROM known
""")


async def ensure_user(session: AsyncSession, subject: str) -> UUID:
    """The id of the user named `subject`, who exists from now on. Safe to call by many at once."""
    found = await session.scalar(text("SELECT id FROM users WHERE subject = :subject"), {"subject": subject})
    if found is not None:
        return found
    row = await session.execute(ENSURE, {"id": uuid4(), "subject": subject, "epoch": new_epoch()})
    return row.scalar_one()


def new_epoch() -> str:
    """A name for a new log: 10 lower-case hexadecimal digits."""
    return secrets.token_hex(EPOCH_BYTES)
