"""Messages as stored, exact to the character: the history that a user pages through, and those of one turn."""

import json
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from freya_gateway.db.query import Connection, Query, Row

PAGE = Query("""
SELECT id, seq, turn_id, conversation_id, role, text, exact, n_tokens, said_at
FROM messages WHERE user_id = :user_id AND seq < :before ORDER BY seq DESC LIMIT :limit
""")

OF_TURN = Query("""
SELECT id, seq, turn_id, conversation_id, role, text, exact, n_tokens, said_at
FROM messages WHERE user_id = :user_id AND turn_id = :turn_id ORDER BY seq
""")


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message as stored; `text` is exact, also where PostgreSQL's own text type could not hold it."""

    id: UUID
    seq: int
    turn_id: UUID | None
    conversation_id: UUID
    role: str
    text: str
    n_tokens: int
    said_at: datetime


def storable(text_: str) -> tuple[str, str | None]:
    """(what PostgreSQL's text can hold, the exact text as ASCII JSON where that differs).

    NUL and lone surrogates become U+FFFD in the first; two halves of a pair that met become one character.
    """
    if "\x00" not in text_ and text_.isascii():
        return text_, None
    plain = text_.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").replace("\x00", "\ufffd")
    return plain, None if plain == text_ else json.dumps(text_)


def exact_text(row: Row) -> str:
    return row["text"] if row["exact"] is None else json.loads(row["exact"])


async def page(connection: Connection, user_id: UUID, *, before: int, limit: int) -> list[StoredMessage]:
    """Up to `limit` messages with a seq below `before`, newest first."""
    rows = await PAGE.all(connection, user_id=user_id, before=before, limit=limit)
    return [stored(row) for row in rows]


async def of_turn(connection: Connection, user_id: UUID, turn_id: UUID) -> list[StoredMessage]:
    """The messages of a turn in the order of their seq; the reply, if there is one, is the assistant's."""
    rows = await OF_TURN.all(connection, user_id=user_id, turn_id=turn_id)
    return [stored(row) for row in rows]


def stored(row: Row) -> StoredMessage:
    """The message of a row with the columns that PAGE has."""
    return StoredMessage(
        id=row["id"],
        seq=row["seq"],
        turn_id=row["turn_id"],
        conversation_id=row["conversation_id"],
        role=row["role"],
        text=exact_text(row),
        n_tokens=row["n_tokens"],
        said_at=row["said_at"],
    )
