"""What an import writes beside messages and facts: topics, where they belong, cursors, and where things come from."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from freya_gateway.db.backup import BackupAccount, BackupTopic
from freya_gateway.db.query import Connection, Query

THERE = Query("""
SELECT EXISTS (SELECT 1 FROM messages WHERE user_id = :user_id) AS has_messages,
       EXISTS (SELECT 1 FROM facts WHERE user_id = :user_id) AS has_facts,
       ARRAY(SELECT id FROM conversations WHERE user_id = :user_id AND id = ANY(cast(:conversations AS uuid[]))) AS c,
       ARRAY(SELECT id FROM facts WHERE user_id = :user_id AND id = ANY(cast(:facts AS uuid[]))) AS f
""")

# A fact can only name one that is there: all are written first, then what each took the place of.
MARK_FACTS = Query("""
UPDATE facts f SET supersedes = s.supersedes, source = cast(:source AS jsonb)
FROM unnest(cast(:ids AS uuid[]), cast(:supersedes AS uuid[])) AS s (id, supersedes)
WHERE f.user_id = :user_id AND f.id = s.id
""")

TOPIC = Query("""
INSERT INTO topics (user_id, id, title, keywords, summary, state, first_at, last_at, source)
VALUES (:user_id, :id, :title, cast(:keywords AS text[]), :summary, :state, :first_at, :last_at,
        cast(:source AS jsonb))
""")
CONTINUE = Query("""
UPDATE topics t SET continues = s.continues FROM unnest(cast(:ids AS uuid[]), cast(:continues AS uuid[]))
     AS s (id, continues)
WHERE t.user_id = :user_id AND t.id = s.id
""")

SEGMENTS = Query("SELECT first_seq FROM segments WHERE user_id = :user_id ORDER BY first_seq")
ASSIGN = Query("""
UPDATE segments g SET topic_id = s.topic_id
FROM unnest(cast(:firsts AS bigint[]), cast(:topics AS uuid[])) AS s (first_seq, topic_id)
WHERE g.user_id = :user_id AND g.first_seq = s.first_seq
""")

GROUPED = Query("""
UPDATE conversations c SET grouped = s.grouped
FROM unnest(cast(:ids AS uuid[]), cast(:grouped AS text[])) AS s (id, grouped)
WHERE c.user_id = :user_id AND c.id = s.id
""")

MOVE_ON = Query("""
INSERT INTO memory_work AS w (user_id, kind, done_seq)
SELECT :user_id, k.kind, :done_seq FROM unnest(ARRAY['index', 'facts']) AS k (kind)
WHERE cast(:since AS bigint) = 0 OR EXISTS (SELECT 1 FROM memory_work m WHERE m.user_id = :user_id AND m.kind = k.kind)
ON CONFLICT (user_id, kind) DO UPDATE SET done_seq = greatest(w.done_seq, excluded.done_seq)
WHERE w.done_seq >= :since
""")

SETTLE = Query("""
UPDATE users SET memory_key = :memory_key, display_name = coalesce(display_name, cast(:display_name AS text)),
       time_zone = CASE WHEN time_zone = 'UTC' THEN cast(:time_zone AS text) ELSE time_zone END
WHERE id = :user_id
""")


@dataclass(frozen=True, slots=True)
class There:
    """What a user has already, of what an import brings."""

    has_messages: bool
    has_facts: bool
    conversations: frozenset[UUID]
    facts: frozenset[UUID]


async def there(
    connection: Connection, user_id: UUID, *, conversations: Sequence[UUID], facts: Sequence[UUID]
) -> There:
    row = await THERE.one(connection, user_id=user_id, conversations=conversations, facts=facts)
    return There(row["has_messages"], row["has_facts"], frozenset(row["c"]), frozenset(row["f"]))


async def mark_facts(
    connection: Connection, user_id: UUID, supersedes: Mapping[UUID, UUID | None], *, source: Mapping[str, Any]
) -> None:
    """Notes of each fact which one it took the place of, and where they all come from."""
    ids, olds = list(supersedes), list(supersedes.values())
    await MARK_FACTS.execute(connection, user_id=user_id, ids=ids, supersedes=olds, source=json.dumps(source))


async def add_topics(
    connection: Connection, user_id: UUID, topics: Sequence[BackupTopic], *, source: Mapping[str, Any]
) -> None:
    for topic in topics:
        await TOPIC.execute(
            connection,
            user_id=user_id,
            id=topic.id,
            title=topic.title,
            keywords=topic.keywords,
            summary=topic.summary,
            state=topic.state,
            first_at=topic.first_at,
            last_at=topic.last_at,
            source=json.dumps({**source, **_named(topic)}),
        )
    ids, continued = [topic.id for topic in topics], [topic.continues for topic in topics]
    await CONTINUE.execute(connection, user_id=user_id, ids=ids, continues=continued)


async def segments(connection: Connection, user_id: UUID) -> list[int]:
    """The first seqs of the user's segments."""
    return [row["first_seq"] for row in await SEGMENTS.all(connection, user_id=user_id)]


async def assign(connection: Connection, user_id: UUID, topics: Mapping[int, UUID | None]) -> None:
    """Puts segments, by their first seqs, into topics, or into none."""
    await ASSIGN.execute(connection, user_id=user_id, firsts=list(topics), topics=list(topics.values()))


async def mark_grouped(connection: Connection, user_id: UUID, grouped: Mapping[UUID, str]) -> None:
    """Notes how far the grouping of conversations is."""
    await GROUPED.execute(connection, user_id=user_id, ids=list(grouped), grouped=list(grouped.values()))


async def move_on(connection: Connection, user_id: UUID, *, since: int, done_seq: int) -> None:
    """Has the index, and the learning of facts, take what was imported for done, if they had come to seq `since`."""
    await MOVE_ON.execute(connection, user_id=user_id, since=since, done_seq=done_seq)


async def settle(connection: Connection, user_id: UUID, account: BackupAccount) -> None:
    """Takes over the key of the tombstones, and the settings that the user has not made."""
    await SETTLE.execute(
        connection,
        user_id=user_id,
        memory_key=account.memory_key,
        display_name=account.display_name,
        time_zone=account.time_zone,
    )


def _named(topic: BackupTopic) -> dict[str, str]:
    """The mark of a title that the user gave."""
    return {"title": "user"} if isinstance(topic.source, dict) and topic.source.get("title") == "user" else {}
