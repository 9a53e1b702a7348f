"""Taking out what a user wants gone: a message with what the search knows of it, or everything."""

from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from freya_gateway.db.query import Connection, Query

BATCH = 20_000  # rows in one statement, so that none comes near the time a statement has

ONE = Query("""
SELECT m.id, m.seq, m.role, m.turn_id, m.conversation_id, coalesce(t.state, 'done') AS state
FROM messages m LEFT JOIN turns t ON t.user_id = m.user_id AND t.id = m.turn_id
WHERE m.user_id = :user_id AND m.id = :message_id
""")

REPLY = Query("""
SELECT m.id, m.seq, m.role, m.turn_id, m.conversation_id, 'done' AS state FROM messages m
WHERE m.user_id = :user_id AND m.turn_id = cast(:turn_id AS uuid) AND m.role = 'assistant'
""")

DELETE = Query("""
WITH message AS (
    DELETE FROM messages WHERE user_id = :user_id AND id = :message_id RETURNING turn_id, client_message_id
)
UPDATE turns t SET client_message_id = message.client_message_id FROM message
WHERE t.user_id = :user_id AND t.id = message.turn_id AND message.client_message_id IS NOT NULL
""")

# Turns stay, and with them the conversation that they belong to.
EMPTY_CONVERSATION = Query("""
WITH empty AS (
    SELECT c.id, EXISTS (SELECT 1 FROM turns t WHERE t.user_id = :user_id AND t.conversation_id = c.id) AS has_turns
    FROM conversations c WHERE c.user_id = :user_id AND c.id = :conversation_id
    AND NOT EXISTS (SELECT 1 FROM messages m WHERE m.user_id = :user_id AND m.conversation_id = c.id)
), gone AS (
    DELETE FROM conversations c USING empty WHERE c.user_id = :user_id AND c.id = empty.id AND NOT empty.has_turns
)
UPDATE conversations c SET title = NULL FROM empty WHERE c.user_id = :user_id AND c.id = empty.id AND empty.has_turns
""")

OPEN_TURN = Query("SELECT id FROM turns WHERE user_id = :user_id AND state <> 'done' LIMIT 1")

RENEW_KEY = Query("UPDATE users SET memory_key = gen_random_uuid() WHERE id = :user_id")

# First what whoever indexes holds; what points to others goes before them. Some is counted, under a name for users.
KINDS = (
    "memory_work", "prompt_traces", "fact_sources", "fact_events", "facts", "fact_tombstones", "obeyed_commands",
    "segments", "topics", "term_stats", "collection_stats", "messages", "turns", "conversations",
)  # fmt: skip
COUNTED = {
    "messages": "messages",
    "conversations": "conversations",
    "turns": "turns",
    "facts": "facts",
    "fact_events": "fact_changes",
    "fact_tombstones": "tombstones",
    "topics": "topics",
    "segments": "segments",
    "prompt_traces": "traces",
}
# Facts and topics point to each other: all in one statement.
WHOLE = frozenset({"facts", "topics"})


def _delete_some(table: str) -> Query:
    some = (
        ""
        if table in WHOLE
        else f"AND ctid = ANY(ARRAY(SELECT ctid FROM {table} WHERE user_id = :user_id LIMIT {BATCH}))"
    )
    return Query(
        f"WITH gone AS (DELETE FROM {table} WHERE user_id = :user_id {some} RETURNING 1) SELECT count(*) FROM gone"
    )


DELETE_SOME = {table: _delete_some(table) for table in KINDS}


@dataclass(frozen=True, slots=True)
class Doomed:
    """A message that is to go; `state` is its turn's."""

    id: UUID
    seq: int
    role: Literal["user", "assistant"]
    turn_id: UUID | None
    conversation_id: UUID
    state: str


async def find(connection: Connection, user_id: UUID, message_id: UUID) -> Doomed | None:
    row = await ONE.first(connection, user_id=user_id, message_id=message_id)
    return Doomed(*row.values()) if row else None


async def reply_of(connection: Connection, user_id: UUID, turn_id: UUID | None) -> Doomed | None:
    """The reply of a turn that has ended, if it is still there."""
    row = await REPLY.first(connection, user_id=user_id, turn_id=turn_id)
    return Doomed(*row.values()) if row else None


async def delete(connection: Connection, user_id: UUID, message: Doomed) -> None:
    """Removes the row (facts, topics and statistics first: they need it); its client_message_id stays spent."""
    await DELETE.execute(connection, user_id=user_id, message_id=message.id)
    await EMPTY_CONVERSATION.execute(connection, user_id=user_id, conversation_id=message.conversation_id)


async def open_turn(connection: Connection, user_id: UUID) -> UUID | None:
    """A turn that waits or runs; under the stream's lock, none can begin."""
    return await OPEN_TURN.value(connection, user_id=user_id)


async def delete_everything(connection: Connection, user_id: UUID) -> dict[str, int]:
    """Removes all that was said and learned, but not the log; how much of each kind went."""
    counts: dict[str, int] = {}
    for table, query in DELETE_SOME.items():
        gone = removed = await query.value(connection, user_id=user_id)
        while removed == BATCH:
            removed = await query.value(connection, user_id=user_id)
            gone += removed
        if table in COUNTED:
            counts[COUNTED[table]] = gone
    await RENEW_KEY.execute(connection, user_id=user_id)
    return counts
