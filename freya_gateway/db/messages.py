"""Messages, read: the history that a user pages through, and the recent window that a prompt holds."""

import json
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from freya_gateway.db.query import Connection, Query, Row

PAGE = Query("""
SELECT id, seq, turn_id, conversation_id, role, text, exact, n_tokens, said_at
FROM messages WHERE user_id = :user_id AND seq < :before ORDER BY seq DESC LIMIT :limit
""")

# Replies stand after the message they answer, also where others were sent meanwhile. What is still queued or
# running is not history yet. The window ends where the budget does, so the cost does not grow with the history.
RECENT = Query("""
SELECT id, place, role, text, n_tokens FROM (
    SELECT m.id, m.seq, m.role, m.text, m.n_tokens, coalesce(m.reply_to, m.seq) AS place,
           sum(m.n_tokens + :overhead) OVER (ORDER BY coalesce(m.reply_to, m.seq) DESC, m.seq DESC) AS total
    FROM (
        SELECT * FROM messages WHERE user_id = :user_id AND text <> '' ORDER BY seq DESC LIMIT :most
    ) m
    WHERE m.turn_id IS NULL OR m.turn_id <> ALL (
        ARRAY(SELECT id FROM turns WHERE user_id = :user_id AND state <> 'done')
    )
) w WHERE total - n_tokens - :overhead < :budget ORDER BY place, seq
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


@dataclass(frozen=True, slots=True)
class RecentMessage:
    """A message of the recent window. `place` orders the window: a reply has the place of what it answers."""

    id: UUID
    place: int
    role: str
    text: str
    n_tokens: int


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
    return [_stored(row) for row in rows]


async def of_turn(connection: Connection, user_id: UUID, turn_id: UUID) -> list[StoredMessage]:
    """The messages of a turn in the order of their seq; the reply, if there is one, is the assistant's."""
    rows = await OF_TURN.all(connection, user_id=user_id, turn_id=turn_id)
    return [_stored(row) for row in rows]


async def recent(
    connection: Connection, user_id: UUID, *, budget: int, overhead: int, most: int = 512
) -> list[RecentMessage]:
    """The newest messages whose tokens (+ `overhead` each) fit in `budget`, oldest first, at most `most`."""
    rows = await RECENT.all(connection, user_id=user_id, budget=budget, overhead=overhead, most=most)
    return [RecentMessage(*row.values()) for row in rows]


def _stored(row: Row) -> StoredMessage:
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
