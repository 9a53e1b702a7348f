"""Topics as their user sees them: listed, read with their messages, renamed, removed, and stale after a deletion."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from freya_gateway.db.messages import StoredMessage, stored
from freya_gateway.db.query import Connection, Query

COLUMNS = """
t.id, t.title, t.keywords, t.summary, t.state, t.continues, t.first_at, t.last_at,
(SELECT count(*) FROM segments s JOIN messages m ON m.user_id = s.user_id AND m.seq BETWEEN s.first_seq AND s.last_seq
 WHERE s.user_id = t.user_id AND s.topic_id = t.id) AS n_messages
"""

PAGE = Query(f"""
SELECT {COLUMNS} FROM topics t WHERE t.user_id = :user_id AND (cast(:before AS uuid) IS NULL
   OR (t.last_at, t.id) < (SELECT last_at, id FROM topics WHERE user_id = :user_id AND id = :before))
ORDER BY t.last_at DESC, t.id DESC LIMIT :limit
""")

ONE = Query(f"SELECT {COLUMNS} FROM topics t WHERE t.user_id = :user_id AND t.id = :topic_id")

MESSAGES = Query("""
SELECT m.id, m.seq, m.turn_id, m.conversation_id, m.role, m.text, m.exact, m.n_tokens, m.said_at
FROM segments s JOIN messages m ON m.user_id = s.user_id AND m.seq BETWEEN s.first_seq AND s.last_seq
WHERE s.user_id = :user_id AND s.topic_id = :topic_id AND m.seq > :after ORDER BY m.seq LIMIT :limit
""")

RENAME = Query("""
UPDATE topics SET title = :title, updated_at = :now, source = coalesce(source, '{}') || '{"title": "user"}'
WHERE user_id = :user_id AND id = :topic_id RETURNING true
""")

# What continued it continues what it had continued.
RELINK = Query("""
UPDATE topics t SET continues = gone.continues FROM topics gone
WHERE t.user_id = :user_id AND gone.user_id = :user_id AND gone.id = :topic_id AND t.continues = gone.id
""")
UNGROUP = Query("UPDATE segments SET topic_id = NULL WHERE user_id = :user_id AND topic_id = :topic_id")
DELETE = Query("DELETE FROM topics WHERE user_id = :user_id AND id = :topic_id RETURNING true")

# Also where it was open already: whoever groups the conversation meanwhile waits here, and then sees what is gone.
REOPEN = Query("""
UPDATE conversations c SET grouped = 'open' FROM messages m
WHERE m.user_id = :user_id AND m.seq = :seq AND c.user_id = :user_id AND c.id = m.conversation_id
RETURNING c.id
""")
# A summary of one topic may tell of a message of the next, so all of the conversation's are emptied. A title of the
# user's own stays, except on the topic that held the message.
BLANK = Query("""
UPDATE topics t SET state = 'stale', keywords = '{}', summary = '', updated_at = now(),
    title = CASE WHEN t.source ->> 'title' = 'user' AND NOT touched.held THEN t.title
            ELSE 'Conversation of ' || to_char(t.first_at AT TIME ZONE 'UTC', 'YYYY-MM-DD') END,
    source = CASE WHEN touched.held THEN nullif(t.source - 'title', '{}') ELSE t.source END
FROM (SELECT topic_id, bool_or(cast(:seq AS bigint) BETWEEN first_seq AND last_seq) AS held FROM segments
      WHERE user_id = :user_id AND conversation_id = :conversation_id AND topic_id IS NOT NULL
      GROUP BY topic_id) touched
WHERE t.user_id = :user_id AND t.id = touched.topic_id
RETURNING t.id
""")
EMPTIED = Query("""
SELECT s.topic_id FROM segments s WHERE s.user_id = :user_id AND s.topic_id = ANY(cast(:topic_ids AS uuid[]))
GROUP BY s.topic_id HAVING NOT bool_or(EXISTS (
    SELECT 1 FROM messages m
    WHERE m.user_id = :user_id AND m.seq BETWEEN s.first_seq AND s.last_seq AND m.seq <> :seq))
""")


@dataclass(frozen=True, slots=True)
class StoredTopic:
    """A topic; `stale` until it is made again after a deletion."""

    id: UUID
    title: str
    keywords: Sequence[str]
    summary: str
    state: str
    continues: UUID | None
    first_at: datetime
    last_at: datetime
    n_messages: int


async def page(connection: Connection, user_id: UUID, *, before: UUID | None, limit: int) -> list[StoredTopic]:
    """Up to `limit` topics behind the topic `before`, those talked about last first."""
    rows = await PAGE.all(connection, user_id=user_id, before=before, limit=limit)
    return [StoredTopic(*row.values()) for row in rows]


async def get(connection: Connection, user_id: UUID, topic_id: UUID) -> StoredTopic | None:
    row = await ONE.first(connection, user_id=user_id, topic_id=topic_id)
    return StoredTopic(*row.values()) if row else None


async def messages(
    connection: Connection, user_id: UUID, topic_id: UUID, *, after: int, limit: int
) -> list[StoredMessage]:
    """Up to `limit` of the topic's messages with a seq above `after`, in order."""
    rows = await MESSAGES.all(connection, user_id=user_id, topic_id=topic_id, after=after, limit=limit)
    return [stored(row) for row in rows]


async def rename(connection: Connection, user_id: UUID, topic_id: UUID, *, title: str, now: datetime) -> bool:
    """Gives the topic a title that no grouping changes again; False if the user has no such topic."""
    return await RENAME.value(connection, user_id=user_id, topic_id=topic_id, title=title, now=now) is not None


async def delete(connection: Connection, user_id: UUID, topic_id: UUID) -> bool:
    """Deletes the topic; its messages stay, in no topic. False if the user has no such topic."""
    ids = {"user_id": user_id, "topic_id": topic_id}
    await RELINK.execute(connection, **ids)
    await UNGROUP.execute(connection, **ids)
    return await DELETE.value(connection, **ids) is not None


async def mark_stale(connection: Connection, user_id: UUID, seq: int) -> list[UUID]:
    """Empties what the topics of a message's conversation say, before the message goes in the same transaction (and
    before it leaves the index): they may hold its words. Returns the topics that changed or went.

    The conversation is grouped again later. A topic without any other message goes at once.
    """
    conversation_id = await REOPEN.value(connection, user_id=user_id, seq=seq)
    if conversation_id is None:
        return []
    changed = await BLANK.all(connection, user_id=user_id, conversation_id=conversation_id, seq=seq)
    topic_ids = [row["id"] for row in changed]
    for row in await EMPTIED.all(connection, user_id=user_id, topic_ids=topic_ids, seq=seq):
        await delete(connection, user_id, row["topic_id"])
    return topic_ids
