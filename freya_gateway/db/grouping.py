"""From ended conversations to topics: what is to be grouped, and a conversation's topics replaced as a whole."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from freya_gateway.db.due_work import ENDED
from freya_gateway.db.query import Connection, Query

UNGROUPED = Query(f"""
SELECT c.id, c.grouped = 'makeshift' AS makeshift FROM conversations c JOIN users u ON u.id = c.user_id
WHERE c.user_id = :user_id AND NOT u.memory_paused AND {ENDED}
ORDER BY makeshift, c.last_message_at LIMIT :limit
""")

SPOKEN = Query("""
SELECT seq, segment, role, text, said_at FROM messages
WHERE user_id = :user_id AND conversation_id = :conversation_id ORDER BY seq
""")

# By how many words of the conversation stand in their title and keywords. Only earlier ones: links make no circle.
SIMILAR = Query("""
WITH said AS (
    SELECT DISTINCT w.lexeme FROM messages m, unnest(m.tsv) w
    WHERE m.user_id = :user_id AND m.conversation_id = :conversation_id
), known AS (
    SELECT t.id, t.title, t.keywords, t.last_at, k.lexeme FROM topics t
    CROSS JOIN LATERAL unnest(to_tsvector('english', t.title || ' ' || array_to_string(t.keywords, ' '))) k
    WHERE t.user_id = :user_id AND t.state = 'current' AND t.last_at < (
        SELECT started_at FROM conversations WHERE user_id = :user_id AND id = :conversation_id)
)
SELECT id, title, keywords FROM known JOIN said USING (lexeme)
GROUP BY id, title, keywords, last_at ORDER BY count(*) DESC, last_at DESC LIMIT :limit
""")

WORDS = Query("""
SELECT w.word, l.lexeme, coalesce(t.n_messages, 1) AS df, coalesce(c.n_messages, 1) AS n
FROM unnest(cast(:words AS text[])) w (word)
CROSS JOIN LATERAL (SELECT (tsvector_to_array(to_tsvector('english', w.word)))[1] AS lexeme) l
LEFT JOIN term_stats t ON t.user_id = :user_id AND t.lexeme = l.lexeme
LEFT JOIN collection_stats c ON c.user_id = :user_id
WHERE l.lexeme IS NOT NULL
""")

# Whoever deletes a message changes its conversation's row first, so what is counted here stays so until the commit.
LOCK = Query("""
SELECT 1 FROM conversations c JOIN users u ON u.id = c.user_id
WHERE c.user_id = :user_id AND c.id = :conversation_id AND NOT u.memory_paused FOR NO KEY UPDATE OF c
""")
COUNT = Query("SELECT count(*) FROM messages WHERE user_id = :user_id AND conversation_id = :conversation_id")

OLD = Query("""
SELECT topic_id, array_agg(first_seq) AS segments FROM segments
WHERE user_id = :user_id AND conversation_id = :conversation_id AND topic_id IS NOT NULL GROUP BY topic_id
""")

WRITE = Query("""
INSERT INTO topics AS t (user_id, id, title, keywords, summary, continues, first_at, last_at)
SELECT :user_id, cast(:id AS uuid), cast(:title AS text), cast(:keywords AS text[]), cast(:summary AS text),
       (SELECT id FROM topics WHERE user_id = :user_id AND id = cast(:continues AS uuid)),
       min(s.first_at), max(s.last_at)
FROM segments s WHERE s.user_id = :user_id AND s.first_seq = ANY(cast(:segments AS bigint[]))
HAVING count(*) > 0
ON CONFLICT (user_id, id) DO UPDATE
SET title = CASE WHEN t.source ->> 'title' = 'user' THEN t.title ELSE excluded.title END,
    keywords = excluded.keywords, summary = excluded.summary, continues = excluded.continues, state = 'current',
    first_at = excluded.first_at, last_at = excluded.last_at, updated_at = now()
""")
ASSIGN = Query("""
UPDATE segments SET topic_id = :id WHERE user_id = :user_id AND first_seq = ANY(cast(:segments AS bigint[]))
""")
GROUPED = Query("UPDATE conversations SET grouped = :grouped WHERE user_id = :user_id AND id = :conversation_id")

SETTLE = Query("""
UPDATE conversations SET grouped = 'done'
WHERE user_id = :user_id AND id = :conversation_id AND grouped = 'makeshift'
""")

SKIP = Query("UPDATE conversations SET grouped = 'done' WHERE user_id = :user_id AND grouped <> 'done'")


@dataclass(frozen=True, slots=True)
class Ungrouped:
    """An ended conversation without topics, or with a makeshift one."""

    conversation_id: UUID
    makeshift: bool


@dataclass(frozen=True, slots=True)
class Spoken:
    """A message as it is grouped; `segment` is the first seq of its segment."""

    seq: int
    segment: int
    role: str
    text: str
    said_at: datetime


@dataclass(frozen=True, slots=True)
class KnownTopic:
    """A topic that another one may continue."""

    id: UUID
    title: str
    keywords: Sequence[str]


@dataclass(frozen=True, slots=True)
class OldTopic:
    """A topic that the conversation has already."""

    id: UUID
    segments: Sequence[int]


@dataclass(frozen=True, slots=True)
class WordCount:
    """In how many of the user's `n` messages a word's lexeme stands."""

    word: str
    lexeme: str
    df: int
    n: int


@dataclass(frozen=True, slots=True)
class NewTopic:
    """A topic of a conversation: some of its segments, by their first seqs. An id that exists is that topic again."""

    id: UUID
    title: str
    keywords: Sequence[str]
    summary: str
    segments: Sequence[int]
    continues: UUID | None = None


async def ungrouped(connection: Connection, user_id: UUID, *, now: datetime, limit: int) -> list[Ungrouped]:
    """The user's conversations that are due: the oldest first, those with a makeshift topic after the others."""
    rows = await UNGROUPED.all(connection, user_id=user_id, now=now, limit=limit)
    return [Ungrouped(*row.values()) for row in rows]


async def spoken(connection: Connection, user_id: UUID, conversation_id: UUID) -> list[Spoken]:
    """A conversation's messages in order, all of them in segments."""
    rows = await SPOKEN.all(connection, user_id=user_id, conversation_id=conversation_id)
    return [Spoken(*row.values()) for row in rows]


async def similar(connection: Connection, user_id: UUID, conversation_id: UUID, *, limit: int) -> list[KnownTopic]:
    """Earlier topics that share words with this conversation, the most alike first."""
    rows = await SIMILAR.all(connection, user_id=user_id, conversation_id=conversation_id, limit=limit)
    return [KnownTopic(*row.values()) for row in rows]


async def old(connection: Connection, user_id: UUID, conversation_id: UUID) -> list[OldTopic]:
    """The topics that the conversation has."""
    rows = await OLD.all(connection, user_id=user_id, conversation_id=conversation_id)
    return [OldTopic(*row.values()) for row in rows]


async def count_words(connection: Connection, user_id: UUID, words: Sequence[str]) -> list[WordCount]:
    """How common the words are in the user's messages; those that tell nothing ("the") are left out."""
    return [WordCount(*row.values()) for row in await WORDS.all(connection, user_id=user_id, words=words)]


async def lock_if_still(connection: Connection, user_id: UUID, conversation_id: UUID, *, n_messages: int) -> bool:
    """Whether the conversation still is as it was read and may be remembered; it stays so until the commit."""
    ids = {"user_id": user_id, "conversation_id": conversation_id}
    return await LOCK.value(connection, **ids) is not None and await COUNT.value(connection, **ids) == n_messages


async def write(connection: Connection, user_id: UUID, topic: NewTopic) -> None:
    """Writes the topic (a title that the user gave stays) and puts its segments into it."""
    await WRITE.execute(
        connection,
        user_id=user_id,
        id=topic.id,
        title=topic.title,
        keywords=topic.keywords,
        summary=topic.summary,
        continues=topic.continues,
        segments=topic.segments,
    )
    await ASSIGN.execute(connection, user_id=user_id, id=topic.id, segments=topic.segments)


async def mark(connection: Connection, user_id: UUID, conversation_id: UUID, *, grouped: str) -> None:
    """Notes how far the conversation's grouping is: `open`, `makeshift` or `done`."""
    await GROUPED.execute(connection, user_id=user_id, conversation_id=conversation_id, grouped=grouped)


async def settle(connection: Connection, user_id: UUID, conversation_id: UUID) -> None:
    """Leaves the conversation at its makeshift topic, unless it has changed since it got that."""
    await SETTLE.execute(connection, user_id=user_id, conversation_id=conversation_id)


async def skip(connection: Connection, user_id: UUID) -> None:
    """Passes over the conversations that have no topics yet, the present one included."""
    await SKIP.execute(connection, user_id=user_id)
