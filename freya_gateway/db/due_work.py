"""Which users have memory work to do now, and how memory work stands with one user.

Every question starts from the users whose log goes beyond their cursor (`streams.last_message`), and looks at messages
of those alone, a bounded number each: with nothing to do, it costs one pass over two narrow tables.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from freya_gateway.db.memory_work import Kind
from freya_gateway.db.query import Connection, Query

ENOUGH_MESSAGES = 6  # of the user's
ENOUGH_TOKENS = 1000
IDLE = timedelta(minutes=10)
SILENCE = timedelta(hours=6)  # ends a conversation
ENOUGH_OF_ALL = 12  # unread messages; no more are looked at

# `since`: the moment from which it waits. An imported message is as old as it says, so the last run counts too.
# Not another's, not given up, not waiting after a failure.
FREE = """(w.user_id IS NULL OR ((w.owner IS NULL OR w.lease_expires_at < now()) AND NOT w.dead
       AND (w.not_before IS NULL OR w.not_before <= cast(:now AS timestamptz))))"""

# `since`: the moment from which it waits. An imported message is as old as it says, so the last run counts too.
INDEX = f"""
SELECT s.user_id, greatest(m.said_at, w.last_run_at, u.created_at) AS since
FROM streams s JOIN users u ON u.id = s.user_id
LEFT JOIN memory_work w ON w.user_id = s.user_id AND w.kind = 'index'
CROSS JOIN LATERAL (
    SELECT said_at FROM messages WHERE user_id = s.user_id AND seq > coalesce(w.done_seq, 0) ORDER BY seq LIMIT 1) m
WHERE s.last_message > coalesce(w.done_seq, 0) AND {FREE}
"""

# Only what is over: the messages before the first turn that has not ended. Also while memory is paused: nothing is
# learned from them then, but the cursor passes them.
FACTS = f"""
SELECT s.user_id, greatest(m.first_at, w.last_run_at, u.created_at) AS since
FROM streams s JOIN users u ON u.id = s.user_id
LEFT JOIN memory_work w ON w.user_id = s.user_id AND w.kind = 'facts'
CROSS JOIN LATERAL (
    SELECT count(*) AS n, count(*) FILTER (WHERE role = 'user') AS n_own, sum(n_tokens) AS n_tokens,
           min(said_at) AS first_at, (array_agg(conversation_id ORDER BY seq))[1] AS conversation_id
    FROM (SELECT role, n_tokens, said_at, conversation_id, seq FROM messages
          WHERE user_id = s.user_id AND seq > coalesce(w.done_seq, 0) AND seq < coalesce(
              (SELECT min(t.position) FROM turns t WHERE t.user_id = s.user_id AND t.state <> 'done'), seq + 1)
          ORDER BY seq LIMIT {ENOUGH_OF_ALL}) unread) m
JOIN conversations c ON c.user_id = s.user_id AND c.id = m.conversation_id
WHERE s.last_message > coalesce(w.done_seq, 0) AND {FREE}
  AND (m.n >= {ENOUGH_OF_ALL} OR m.n_own >= {ENOUGH_MESSAGES} OR m.n_tokens >= {ENOUGH_TOKENS}
       OR c.last_message_at < cast(:now AS timestamptz) - interval '{IDLE.total_seconds()} seconds'
       OR EXISTS (SELECT 1 FROM conversations newer WHERE newer.user_id = s.user_id
                  AND newer.last_message_at > c.last_message_at))
"""

# A conversation has ended after a silence, or when another began; and its segments must have been cut, up to its last
# message. The LIMIT keeps the planner from reading all messages that have none: statistics say that there are none.
ENDED = f"""c.grouped <> 'done'
  AND (c.last_message_at < cast(:now AS timestamptz) - interval '{SILENCE.total_seconds()} seconds'
       OR EXISTS (SELECT 1 FROM conversations newer WHERE newer.user_id = c.user_id
                  AND newer.last_message_at > c.last_message_at))
  AND NOT EXISTS (SELECT 1 FROM turns t
                  WHERE t.user_id = c.user_id AND t.state <> 'done' AND t.conversation_id = c.id)
  AND NOT EXISTS (SELECT 1 FROM (
          SELECT m.segment FROM messages m WHERE m.user_id = c.user_id AND m.conversation_id = c.id
          ORDER BY m.seq DESC LIMIT 1) last WHERE last.segment IS NULL)"""

TOPICS = f"""
SELECT c.user_id, min(greatest(c.last_message_at + interval '{SILENCE.total_seconds()} seconds', w.last_run_at,
                               u.created_at)) AS since
FROM conversations c JOIN users u ON u.id = c.user_id AND NOT u.memory_paused
LEFT JOIN memory_work w ON w.user_id = c.user_id AND w.kind = 'topics'
WHERE {ENDED} AND {FREE}
GROUP BY c.user_id
"""

LONGEST_WAITING = "ORDER BY since LIMIT :limit"
DUE: dict[Kind, Query] = {
    "index": Query(INDEX + LONGEST_WAITING),
    "facts": Query(FACTS + LONGEST_WAITING),
    "topics": Query(TOPICS + LONGEST_WAITING),
}
AMONG = "AND s.user_id = ANY(cast(:user_ids AS uuid[]))"
DUE_AMONG: dict[Kind, Query] = {"index": Query(INDEX + AMONG), "facts": Query(FACTS + AMONG)}

DEAD = Query("SELECT kind, count(*) AS n FROM memory_work WHERE dead GROUP BY kind")


@dataclass(frozen=True, slots=True)
class Due:
    """A user with work to do, and since when it waits."""

    user_id: UUID
    since: datetime


async def due(connection: Connection, kind: Kind, *, now: datetime, limit: int) -> list[Due]:
    """Users with work of this kind that nobody does, the longest waiting first."""
    rows = await DUE[kind].all(connection, now=now, limit=limit)
    return [Due(*row.values()) for row in rows]


async def due_among(connection: Connection, kind: Kind, user_ids: Sequence[UUID], *, now: datetime) -> list[UUID]:
    """Those of `user_ids` with work of this kind (`index` or `facts`) that nobody does."""
    return [row["user_id"] for row in await DUE_AMONG[kind].all(connection, now=now, user_ids=user_ids)]


async def dead(connection: Connection) -> dict[Kind, int]:
    """How many users' work has been given up, by kind."""
    return {row["kind"]: row["n"] for row in await DEAD.all(connection)}
