"""Histories as if they had been said: imported, and indexed for the search."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from freya_gateway.db.engine import Database
from freya_gateway.db.imports import ImportedConversation, ImportedMessage, insert_history
from freya_gateway.llm.tokens import count_tokens
from freya_gateway.memory.indexing import index_batch

START = datetime(2026, 3, 2, 18, tzinfo=UTC)


async def said(
    database: Database, user_id: UUID, *conversations: Sequence[str], start: datetime = START, days: float = 30
) -> list[UUID]:
    """The ids of the messages; in each conversation the user begins, and Freya answers. `days` lie between two."""
    imported = [
        _conversation(texts, start + timedelta(days=days) * place) for place, texts in enumerate(conversations) if texts
    ]
    async with database.transaction() as connection:
        first, _ = await insert_history(connection, user_id, imported)
        done = first - 1
        while (until := await index_batch(connection, user_id, after=done)) > done:
            done = until
        await connection.execute(
            """INSERT INTO memory_work (user_id, kind, done_seq) VALUES ($1, 'index', $2)
               ON CONFLICT (user_id, kind) DO UPDATE SET done_seq = excluded.done_seq""",
            user_id,
            done,
        )
    return [message.id for conversation in imported for message in conversation.messages]


def _conversation(texts: Sequence[str], start: datetime) -> ImportedConversation:
    messages = [
        ImportedMessage(
            id=uuid4(),
            role="user" if place % 2 == 0 else "assistant",
            text=text,
            n_tokens=count_tokens(text),
            said_at=start + timedelta(minutes=place),
            source={},
        )
        for place, text in enumerate(texts)
    ]
    return ImportedConversation(uuid4(), None, messages, {})


SMALL_TALK = [
    ("How was your day?", "Quiet, and yours?", "Busy, I fixed the printer again.", "It has a will of its own."),
    ("I could not sleep.", "Was it the heat?", "Rather the neighbours, they moved furniture.", "At night? How rude."),
    ("Look, it is snowing!", "Let me see it with you.", "The whole street is white.", "Take a photo for later."),
    ("Work was long today.", "Come, sit down.", "My boss wants the figures by Friday.", "Then breathe first."),
    ("I burned the rice.", "Again? Poor pot.", "It needs a good scrub.", "Soak it overnight."),
]  # fmt: skip
