"""What a prompt is made of, read in one round trip: the turn's words, the facts that hold now, the recent messages."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from freya_gateway.db.query import Connection, Query, Row

MOST_FACTS = 200
MOST_RECENT = 256
LOOKED_AT = MOST_RECENT + 64  # numbers of messages from the newest on, of which some may be deleted
ANCHORS = MOST_RECENT  # messages between two places that tokens are counted from

# Messages are read by ranges of seq, so that few are looked at even where the planner takes a user for an average one,
# and sorts all they have ever said: a turn's words stand from its position on, the recent messages before the last one.
# Recent messages: replies stand after the message they answer, also where others were sent meanwhile; what is still
# queued or running is not history yet. The window ends where the budget does, so its cost does not grow with the
# history, and holds one message more than fits, so that its reader sees that there are more.
# Facts: the rank says which go first where room is short; the place, where each stands, changes only with the facts.
READ = Query(f"""
SELECT 'user' AS part, (
           SELECT count(*) FROM (SELECT FROM facts WHERE user_id = :user_id AND status = 'superseded' LIMIT 1) f
       ) AS rank, id, (
           SELECT count(*) FROM (
               SELECT FROM messages WHERE user_id = :user_id AND seq <= (
                   SELECT last_message - {MOST_RECENT} FROM streams WHERE user_id = :user_id
               ) LIMIT 1
           ) m
       ) AS place, time_zone AS role, display_name AS text, 0 AS n_tokens, created_at AS at, 0 AS offset_
FROM users WHERE id = :user_id
UNION ALL
SELECT 'words', seq, id, seq, role, text, n_tokens, said_at, 0 FROM messages
WHERE user_id = :user_id AND turn_id = cast(:turn_id AS uuid) AND role = 'user'
    AND seq >= (SELECT position FROM turns WHERE user_id = :user_id AND id = cast(:turn_id AS uuid))
UNION ALL
(SELECT 'fact', row_number() OVER (
     ORDER BY pinned DESC, (kind = 'identity') DESC, confirmations DESC, created_at DESC, id
 ) AS rank, id, row_number() OVER (ORDER BY pinned DESC, (kind = 'identity') DESC, created_at, id), '', statement,
     n_tokens, created_at, 0
 FROM facts
 WHERE user_id = :user_id AND status = 'active' AND (expires_at IS NULL OR expires_at > now())
 ORDER BY rank LIMIT {MOST_FACTS})
UNION ALL
SELECT 'recent', row_number() OVER (ORDER BY place, seq), id, place, role, text, n_tokens, said_at, anchored - suffix
FROM (
    SELECT m.*, sum(CASE WHEN waits THEN 0 ELSE cost END) OVER newest_first AS total,
           sum(cost) OVER newest_first AS suffix, sum(CASE WHEN seq > anchor THEN cost ELSE 0 END) OVER () AS anchored
    FROM (
        SELECT id, seq, role, text, n_tokens, said_at, coalesce(reply_to, seq) AS place, n_tokens + :overhead AS cost,
               turn_id IS NOT NULL AND turn_id = ANY (
                   ARRAY(SELECT id FROM turns WHERE user_id = :user_id AND state <> 'done')
               ) AS waits,
               (SELECT last_message / {ANCHORS} * {ANCHORS} FROM streams WHERE user_id = :user_id) AS anchor
        FROM messages WHERE user_id = :user_id AND text <> ''
            AND seq BETWEEN (SELECT last_message - {LOOKED_AT} FROM streams WHERE user_id = :user_id)
                AND (SELECT last_message FROM streams WHERE user_id = :user_id)
        ORDER BY seq DESC LIMIT {MOST_RECENT}
    ) m WINDOW newest_first AS (ORDER BY place DESC, seq DESC)
) w WHERE NOT waits AND total - cost <= cast(:budget AS bigint)
ORDER BY part, rank
""")


@dataclass(frozen=True, slots=True)
class Said:
    """A message, as a prompt holds it. `place` orders the history: a reply has the place of what it answers."""

    id: UUID
    place: int
    role: str
    text: str
    n_tokens: int
    at: datetime
    offset: int = 0  # tokens before it, counted from a place that changes rarely


# A message that a superseded fact stands on, with what holds instead.
CHANGES = Query("""
SELECT s.message_id, string_agg(DISTINCT n.statement, '; ') AS text FROM fact_sources s
JOIN facts o ON o.user_id = s.user_id AND o.id = s.fact_id AND o.status = 'superseded'
JOIN facts n ON n.user_id = o.user_id AND n.subject = o.subject AND n.slot = o.slot AND n.status = 'active'
    AND n.created_at >= o.created_at AND (n.single_valued OR n.supersedes = o.id)
WHERE s.user_id = :user_id AND s.message_id = ANY(cast(:messages AS uuid[]))
GROUP BY s.message_id
""")


@dataclass(frozen=True, slots=True)
class ActiveFact:
    """A fact that holds now; `place` is where it stands among all of them."""

    id: UUID
    statement: str
    n_tokens: int
    place: int
    since: datetime  # when it was learned


@dataclass(frozen=True, slots=True)
class Material:
    """What a prompt can be made of: `facts` the most important first, messages oldest first. `older`: there may
    be messages that were not even looked at; `changed`: some fact holds no more."""

    user_name: str | None
    time_zone: str
    words: Sequence[Said]
    facts: Sequence[ActiveFact]
    recent: Sequence[Said]
    older: bool
    changed: bool


async def read(connection: Connection, user_id: UUID, turn_id: UUID | None, *, budget: int, overhead: int) -> Material:
    """The material for a turn's prompt (or for words that are not sent), with the newest messages whose tokens
    (+ `overhead` each) reach `budget`."""
    rows = await READ.all(connection, user_id=user_id, turn_id=turn_id, budget=budget, overhead=overhead)
    user = next(row for row in rows if row["part"] == "user")
    return Material(
        user_name=user["text"],
        time_zone=user["role"],
        words=[_said(row) for row in rows if row["part"] == "words"],
        facts=[
            ActiveFact(row["id"], row["text"], row["n_tokens"], row["place"], row["at"])
            for row in rows
            if row["part"] == "fact"
        ],
        recent=[_said(row) for row in rows if row["part"] == "recent"],
        older=user["place"] > 0,
        changed=user["rank"] > 0,
    )


async def changes(connection: Connection, user_id: UUID, messages: Sequence[UUID]) -> dict[UUID, str]:
    """What holds now instead of what some of `messages` say."""
    rows = await CHANGES.all(connection, user_id=user_id, messages=messages)
    return {row["message_id"]: row["text"] for row in rows}


def _said(row: Row) -> Said:
    return Said(row["id"], row["place"], row["role"], row["text"], row["n_tokens"], row["at"], row["offset_"])
