"""Memory work: which users have some, who does it, and how far it has come. The messages themselves are the queue.

`memory_work` holds a cursor per user and kind with a lease. What lies beyond the cursor is still to do, so nothing can
be forgotten to be enqueued; the result of a work is written in one transaction with the cursor's move, so nothing is
done twice. See docs/decisions/a-cursor-not-a-queue.md
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

from freya_gateway.db.query import Connection, Query

Kind = Literal["index", "facts", "topics"]

LEASE_SECONDS = 60.0
MOST_ATTEMPTS = 8
FIRST_PAUSE, LONGEST_PAUSE = timedelta(minutes=1), timedelta(hours=6)
PAUSE_GROWTH = 3  # one failure after the other, work is given up after half a day: longer than most outages

CLAIM = Query("""
INSERT INTO memory_work AS w (user_id, kind, owner, lease_expires_at, last_run_at)
VALUES (:user_id, :kind, :owner, now() + make_interval(secs => :lease), cast(:now AS timestamptz))
ON CONFLICT (user_id, kind) DO UPDATE
SET owner = excluded.owner, lease_expires_at = excluded.lease_expires_at, last_run_at = excluded.last_run_at
WHERE (w.owner IS NULL OR w.lease_expires_at < now()) AND NOT w.dead
  AND (w.not_before IS NULL OR w.not_before <= excluded.last_run_at)
RETURNING done_seq, attempts
""")

COMPLETE = Query("""
UPDATE memory_work SET done_seq = :done_seq, attempts = 0, not_before = NULL, error_code = NULL, last_run_at = :now
WHERE user_id = :user_id AND kind = :kind AND owner = :owner AND done_seq <= :done_seq
RETURNING true
""")

RENEW = Query("""
UPDATE memory_work SET lease_expires_at = now() + make_interval(secs => :lease)
WHERE user_id = :user_id AND kind = :kind AND owner = :owner
RETURNING true
""")

FAIL = Query("""
UPDATE memory_work SET owner = NULL, lease_expires_at = NULL, attempts = attempts + 1, error_code = :code,
       dead = attempts + 1 >= :most, last_run_at = :now,
       not_before = cast(:now AS timestamptz) + cast(:jitter AS float8) * least(
           cast(:longest AS interval), cast(:first AS interval) * power(cast(:growth AS int), attempts))
WHERE user_id = :user_id AND kind = :kind AND owner = :owner
RETURNING dead
""")

RELEASE = Query("""
UPDATE memory_work SET owner = NULL, lease_expires_at = NULL
WHERE user_id = :user_id AND kind = :kind AND owner = :owner
RETURNING done_seq
""")

REVIVE = Query("""
UPDATE memory_work SET dead = false, attempts = 0, not_before = NULL
WHERE user_id = :user_id AND kind = :kind AND (dead OR not_before IS NOT NULL)
RETURNING true
""")

SKIP = Query("""
INSERT INTO memory_work AS w (user_id, kind, done_seq)
SELECT user_id, cast(:kind AS text), last_message FROM streams WHERE user_id = :user_id
ON CONFLICT (user_id, kind) DO UPDATE SET done_seq = greatest(w.done_seq, excluded.done_seq)
""")

# A user's three rows, also those that are not there yet. Topics are made of whole conversations, not along the cursor.
STATUS = Query("""
SELECT k.kind, coalesce(w.done_seq, 0) AS done_seq,
       (SELECT count(*) FROM messages m WHERE m.user_id = :user_id AND k.kind <> 'topics'
        AND m.seq > coalesce(w.done_seq, 0))
     + (SELECT count(*) FROM conversations c JOIN messages m ON m.user_id = c.user_id AND m.conversation_id = c.id
        WHERE c.user_id = :user_id AND k.kind = 'topics' AND c.grouped <> 'done') AS unread,
       coalesce(w.attempts, 0) AS attempts, coalesce(w.dead, false) AS dead, w.error_code, w.last_run_at, w.not_before
FROM unnest(ARRAY['index', 'facts', 'topics']) WITH ORDINALITY AS k (kind, place)
LEFT JOIN memory_work w ON w.user_id = :user_id AND w.kind = k.kind ORDER BY k.place
""")


LOCK = Query("SELECT FROM memory_work WHERE user_id = :user_id ORDER BY kind FOR UPDATE")


@dataclass(frozen=True, slots=True)
class WorkStatus:
    """How one kind of work stands with a user."""

    kind: Kind
    done_seq: int
    unread: int  # messages that it has not taken in yet
    attempts: int  # failed, since it last came further
    dead: bool
    error_code: str | None
    last_run_at: datetime | None
    not_before: datetime | None


@dataclass(frozen=True, slots=True)
class WorkClaim:
    """The right to do a user's work of one kind, from `done_seq` on. `owner` is this claim's alone, so that whoever
    took the work over since shuts it out."""

    user_id: UUID
    kind: Kind
    done_seq: int
    attempts: int  # failed before this one
    owner: str


async def claim(connection: Connection, user_id: UUID, kind: Kind, *, owner: str, now: datetime) -> WorkClaim | None:
    """Takes the user's work for LEASE_SECONDS; None while another has it, it waits after a failure, or is dead.

    `owner` must never have been used before.
    """
    row = await CLAIM.first(connection, user_id=user_id, kind=kind, owner=owner, lease=LEASE_SECONDS, now=now)
    return WorkClaim(user_id, kind, row["done_seq"], row["attempts"], owner) if row else None


async def complete(connection: Connection, claim: WorkClaim, *, done_seq: int, now: datetime) -> bool:
    """Moves the cursor on, in the transaction that writes the work's result; the claim stays, for more of it.

    False if the work is another's now (or the cursor is further already): raise LostClaim, so that nothing is written.
    """
    values = {"user_id": claim.user_id, "kind": claim.kind, "owner": claim.owner}
    return await COMPLETE.value(connection, **values, done_seq=done_seq, now=now) is not None


async def lock(connection: Connection, user_id: UUID) -> None:
    """Keeps the user's memory work from writing anything, until the transaction's end."""
    await LOCK.execute(connection, user_id=user_id)


async def renew(connection: Connection, claim: WorkClaim) -> bool:
    """Keeps the claim for LEASE_SECONDS more; False if it is another's now."""
    values = {"user_id": claim.user_id, "kind": claim.kind, "owner": claim.owner}
    return await RENEW.value(connection, **values, lease=LEASE_SECONDS) is not None


async def fail(connection: Connection, claim: WorkClaim, *, code: str, now: datetime, jitter: float = 1.0) -> bool:
    """Gives the claim up after a failure: another attempt comes later, each pause longer, times `jitter` (0 to 1).

    Whether the work is given up with it; it stays visible, and `revive` brings it back.
    """
    dead = await FAIL.value(
        connection,
        user_id=claim.user_id,
        kind=claim.kind,
        owner=claim.owner,
        code=code,
        now=now,
        jitter=jitter,
        most=MOST_ATTEMPTS,
        first=FIRST_PAUSE,
        longest=LONGEST_PAUSE,
        growth=PAUSE_GROWTH,
    )
    return dead is True


async def release(connection: Connection, claim: WorkClaim) -> bool:
    """Gives the claim up; whether the cursor had moved under it."""
    done_seq = await RELEASE.value(connection, user_id=claim.user_id, kind=claim.kind, owner=claim.owner)
    return done_seq is not None and done_seq > claim.done_seq


async def revive(connection: Connection, user_id: UUID, kind: Kind) -> bool:
    """Has dead or waiting work tried again at once; False if there was none."""
    return await REVIVE.value(connection, user_id=user_id, kind=kind) is not None


async def skip(connection: Connection, user_id: UUID, kind: Kind) -> None:
    """Passes over all that was said until now; work that is under way with some of it writes nothing."""
    await SKIP.execute(connection, user_id=user_id, kind=kind)


async def status(connection: Connection, user_id: UUID) -> list[WorkStatus]:
    """How each kind of work stands with the user."""
    return [WorkStatus(*row.values()) for row in await STATUS.all(connection, user_id=user_id)]
