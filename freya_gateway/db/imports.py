"""Whole conversations on their way in, from an export or another store: many rows in few statements."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from freya_gateway.db.folding import fold
from freya_gateway.db.messages import storable
from freya_gateway.db.query import Connection, Query

BATCH = 1000  # messages in one statement

LAST = Query("SELECT last_message FROM streams WHERE user_id = :user_id FOR UPDATE")
MOVE_ON = Query("UPDATE streams SET last_message = :last WHERE user_id = :user_id")

# A long conversation comes in pieces, and what it held may have been deleted.
CONVERSATIONS = Query("""
INSERT INTO conversations AS old (user_id, id, title, started_at, last_message_at, source)
SELECT :user_id, c.* FROM unnest(
    cast(:ids AS uuid[]), cast(:titles AS text[]), cast(:started AS timestamptz[]), cast(:ended AS timestamptz[]),
    cast(:sources AS jsonb[])) c
ON CONFLICT (user_id, id) DO UPDATE SET title = coalesce(old.title, excluded.title),
    started_at = least(old.started_at, excluded.started_at),
    last_message_at = greatest(old.last_message_at, excluded.last_message_at)
""")

MESSAGES = Query("""
INSERT INTO messages (user_id, id, seq, conversation_id, role, text, exact, search_text, n_tokens, is_question,
                      said_at, source, segment)
SELECT :user_id, m.* FROM unnest(
    cast(:ids AS uuid[]), cast(:seqs AS bigint[]), cast(:conversations AS uuid[]), cast(:roles AS text[]),
    cast(:texts AS text[]), cast(:exacts AS text[]), cast(:folded AS text[]), cast(:tokens AS int[]),
    cast(:questions AS bool[]), cast(:moments AS timestamptz[]), cast(:sources AS jsonb[]),
    cast(:segments AS bigint[])) m
""")


@dataclass(frozen=True, slots=True)
class ImportedMessage:
    """One utterance; `source` tells where it comes from, for ever."""

    id: UUID
    role: str
    text: str
    n_tokens: int
    said_at: datetime
    source: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ImportedConversation:
    """Messages in the order in which they were said."""

    id: UUID
    title: str | None
    messages: Sequence[ImportedMessage]
    source: dict[str, Any]


async def insert_history(
    connection: Connection, user_id: UUID, conversations: Sequence[ImportedConversation]
) -> tuple[int, int]:
    """Appends the conversations (oldest first, none empty) to the user's messages, inside the caller's transaction.
    One that is there already goes on.

    The first and the last seq they got. Raises asyncpg's UniqueViolationError where a message is there already.
    """
    after = await open_history(connection, user_id, conversations)
    last = await add_messages(connection, user_id, conversations, after=after)
    return after + 1, last


async def open_history(connection: Connection, user_id: UUID, conversations: Sequence[ImportedConversation]) -> int:
    """Makes room for the conversations; the user's last seq so far, which is held until the transaction's end."""
    last: int = await LAST.value(connection, user_id=user_id)
    await CONVERSATIONS.execute(
        connection,
        user_id=user_id,
        ids=[c.id for c in conversations],
        titles=[c.title for c in conversations],
        started=[c.messages[0].said_at for c in conversations],
        ended=[max(m.said_at for m in c.messages) for c in conversations],
        sources=[json.dumps(c.source) for c in conversations],
    )
    return last


async def add_messages(
    connection: Connection,
    user_id: UUID,
    conversations: Sequence[ImportedConversation],
    *,
    after: int,
    segments: Mapping[int, int] | None = None,
) -> int:
    """Appends the messages of conversations that there is room for; the last seq. `segments`: first seqs by seq."""
    pairs = [(c.id, message) for c in conversations for message in c.messages]
    for start in range(0, len(pairs), BATCH):
        await _insert(connection, user_id, pairs[start : start + BATCH], seq=after + 1 + start, segments=segments or {})
    await MOVE_ON.execute(connection, user_id=user_id, last=after + len(pairs))
    return after + len(pairs)


async def _insert(
    connection: Connection,
    user_id: UUID,
    pairs: Sequence[tuple[UUID, ImportedMessage]],
    *,
    seq: int,
    segments: Mapping[int, int],
) -> None:
    messages = [message for _, message in pairs]
    stored = [storable(message.text) for message in messages]
    await MESSAGES.execute(
        connection,
        user_id=user_id,
        ids=[m.id for m in messages],
        seqs=list(range(seq, seq + len(pairs))),
        conversations=[conversation for conversation, _ in pairs],
        roles=[m.role for m in messages],
        texts=[plain for plain, _ in stored],
        exacts=[exact for _, exact in stored],
        folded=[fold(plain) for plain, _ in stored],
        tokens=[m.n_tokens for m in messages],
        questions=["?" in plain for plain, _ in stored],
        moments=[m.said_at for m in messages],
        sources=[json.dumps(m.source) for m in messages],
        segments=[segments.get(number) for number in range(seq, seq + len(pairs))],
    )
