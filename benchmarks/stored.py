"""A look at PostgreSQL from outside the gateway: what it stored, and which connections it holds."""

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg

MESSAGES = "SELECT turn_id, text, exact FROM messages WHERE role = 'assistant' AND turn_id = ANY($1)"
PIECES = "SELECT turn_id, data FROM stream_events WHERE kind = 'token' AND turn_id = ANY($1) ORDER BY user_id, seq"
EVENTS = "SELECT count(*) FROM stream_events WHERE turn_id = $1"
CONNECTIONS = """
SELECT count(*) AS held, count(*) FILTER (WHERE state <> 'idle') AS busy
FROM pg_stat_activity WHERE application_name = 'freya-gateway'
"""


async def stored_texts(url: str, turns: Sequence[str]) -> dict[str, set[str]]:
    """turn -> the texts that PostgreSQL holds of its reply: the message's, and that of the log's pieces together."""
    ids = [UUID(turn) for turn in turns]
    async with _connection(url) as connection:
        messages = await connection.fetch(MESSAGES, ids)
        pieces = await connection.fetch(PIECES, ids)
    joined = dict.fromkeys(turns, "")
    for row in pieces:
        joined[str(row["turn_id"])] += json.loads(row["data"])["text"]
    texts = {turn: {text} for turn, text in joined.items()}
    for row in messages:
        texts[str(row["turn_id"])].add(row["text"] if row["exact"] is None else json.loads(row["exact"]))
    return texts


async def stored_events(url: str, turn: str) -> int:
    """How many events of the turn the log holds."""
    async with _connection(url) as connection:
        return await connection.fetchval(EVENTS, UUID(turn))


async def connections(url: str) -> tuple[int, int]:
    """(connections of the gateway, those of them that do something or hold a transaction open)."""
    async with _connection(url) as connection:
        row = await connection.fetchrow(CONNECTIONS)
    return row["held"], row["busy"]


@asynccontextmanager
async def _connection(url: str) -> AsyncGenerator[Any, None]:
    connection: Any = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()
