"""What a prompt held, looked up again as it is now: traces keep ids, and what they point to may have changed since."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from freya_gateway.db.query import Connection, Query

EXCERPT = 200  # characters

# The attempt that gave the reply, or the last so far.
OF_MESSAGE = Query("""
SELECT m.turn_id, p.attempt, p.n_tokens, p.blocks, p.created_at FROM messages m
LEFT JOIN prompt_traces p ON p.user_id = m.user_id AND p.turn_id = m.turn_id
WHERE m.user_id = :user_id AND m.id = :message_id ORDER BY p.attempt DESC NULLS LAST LIMIT 1
""")

FACTS = Query("""
SELECT a.id, f.statement, coalesce(f.status, 'deleted') AS status
FROM unnest(cast(:ids AS uuid[])) WITH ORDINALITY AS a (id, place)
LEFT JOIN facts f ON f.user_id = :user_id AND f.id = a.id ORDER BY a.place
""")

TOPICS = Query("""
SELECT a.id, t.title, coalesce(t.state, 'deleted') AS state
FROM unnest(cast(:ids AS uuid[])) WITH ORDINALITY AS a (id, place)
LEFT JOIN topics t ON t.user_id = :user_id AND t.id = a.id ORDER BY a.place
""")

MESSAGES = Query(f"""
SELECT a.id, m.seq, m.role, m.said_at, left(m.text, {EXCERPT}) AS excerpt
FROM unnest(cast(:ids AS uuid[])) WITH ORDINALITY AS a (id, place)
LEFT JOIN messages m ON m.user_id = :user_id AND m.id = a.id ORDER BY a.place
""")


@dataclass(frozen=True, slots=True)
class Trace:
    """What a model call was given: ids, tokens and scores per block."""

    turn_id: UUID
    attempt: int
    n_tokens: int
    blocks: Mapping[str, Any]
    created_at: datetime


@dataclass(frozen=True, slots=True)
class TracedFact:
    """A fact as it is now; `statement` is None where it is deleted."""

    id: UUID
    statement: str | None
    status: str


@dataclass(frozen=True, slots=True)
class TracedTopic:
    """A topic as it is now; `title` is None where it is deleted."""

    id: UUID
    title: str | None
    state: str


@dataclass(frozen=True, slots=True)
class TracedMessage:
    """A recalled message; all but its id is None where it is deleted."""

    id: UUID
    seq: int | None
    role: str | None
    said_at: datetime | None
    excerpt: str | None


async def of_message(connection: Connection, user_id: UUID, message_id: UUID) -> tuple[bool, Trace | None]:
    """(whether the user has the message, the trace of its turn's prompt)."""
    row = await OF_MESSAGE.first(connection, user_id=user_id, message_id=message_id)
    if row is None or row["blocks"] is None:
        return row is not None, None
    return True, Trace(row["turn_id"], row["attempt"], row["n_tokens"], json.loads(row["blocks"]), row["created_at"])


async def facts(connection: Connection, user_id: UUID, ids: Sequence[UUID]) -> list[TracedFact]:
    return [TracedFact(*row.values()) for row in await FACTS.all(connection, user_id=user_id, ids=ids)]


async def topics(connection: Connection, user_id: UUID, ids: Sequence[UUID]) -> list[TracedTopic]:
    return [TracedTopic(*row.values()) for row in await TOPICS.all(connection, user_id=user_id, ids=ids)]


async def messages(connection: Connection, user_id: UUID, ids: Sequence[UUID]) -> list[TracedMessage]:
    return [TracedMessage(*row.values()) for row in await MESSAGES.all(connection, user_id=user_id, ids=ids)]
