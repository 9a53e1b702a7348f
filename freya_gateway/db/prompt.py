"""What a prompt is made of, read in one round trip: the turn's words, the facts that hold now, the recent messages."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from freya_gateway.db.query import Connection, Query, Row

MOST_FACTS = 200
MOST_RECENT = 512

# Recent messages: replies stand after the message they answer, also where others were sent meanwhile; what is still
# queued or running is not history yet. The window ends where the budget does, so its cost does not grow with the
# history, and holds one message more than fits, so that its reader sees that there are more.
READ = Query(f"""
SELECT 'words' AS part, seq AS rank, id, seq AS place, role, text, n_tokens FROM messages
WHERE user_id = :user_id AND turn_id = :turn_id AND role = 'user'
UNION ALL
(SELECT 'fact', row_number() OVER (
     ORDER BY pinned DESC, (kind = 'identity') DESC, confirmations DESC, created_at, id
 ) AS rank, id, 0, '', statement, n_tokens
 FROM facts
 WHERE user_id = :user_id AND status = 'active' AND (expires_at IS NULL OR expires_at > now())
 ORDER BY rank LIMIT {MOST_FACTS})
UNION ALL
SELECT 'recent', row_number() OVER (ORDER BY place, seq), id, place, role, text, n_tokens FROM (
    SELECT m.id, m.seq, m.role, m.text, m.n_tokens, coalesce(m.reply_to, m.seq) AS place,
           sum(m.n_tokens + :overhead) OVER (ORDER BY coalesce(m.reply_to, m.seq) DESC, m.seq DESC) AS total
    FROM (
        SELECT * FROM messages WHERE user_id = :user_id AND text <> '' ORDER BY seq DESC LIMIT {MOST_RECENT}
    ) m
    WHERE m.turn_id IS NULL OR m.turn_id <> ALL (
        ARRAY(SELECT id FROM turns WHERE user_id = :user_id AND state <> 'done')
    )
) w WHERE total - n_tokens - :overhead < cast(:budget AS bigint)
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


@dataclass(frozen=True, slots=True)
class ActiveFact:
    """A fact that holds now."""

    id: UUID
    statement: str
    n_tokens: int


@dataclass(frozen=True, slots=True)
class Material:
    """What a prompt can be made of: `facts` the most important first, messages oldest first."""

    words: Sequence[Said]
    facts: Sequence[ActiveFact]
    recent: Sequence[Said]


async def read(connection: Connection, user_id: UUID, turn_id: UUID, *, budget: int, overhead: int) -> Material:
    """The material for a turn's prompt; the newest messages whose tokens (+ `overhead` each) reach `budget`."""
    rows = await READ.all(connection, user_id=user_id, turn_id=turn_id, budget=budget, overhead=overhead)
    return Material(
        words=[_said(row) for row in rows if row["part"] == "words"],
        facts=[ActiveFact(row["id"], row["text"], row["n_tokens"]) for row in rows if row["part"] == "fact"],
        recent=[_said(row) for row in rows if row["part"] == "recent"],
    )


def _said(row: Row) -> Said:
    return Said(row["id"], row["place"], row["role"], row["text"], row["n_tokens"])
