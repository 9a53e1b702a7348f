"""Claims, leases and stops: which process runs which turn, who waits for one, and whose turn shall end.

The database's clock decides; a process renews all its leases with one statement and learns in it who was stopped.
"""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from freya_gateway.db.events import ring_stop
from freya_gateway.db.query import Connection, Query
from freya_gateway.db.turns import Claim

LOCK = Query("SELECT generation FROM streams WHERE user_id = :user_id FOR UPDATE")

NEXT = Query("""
SELECT id, state, attempt, lost, lease_expires_at < now() AS expired FROM turns
WHERE user_id = :user_id AND state <> 'done'
ORDER BY (state = 'running') DESC, urgent DESC, position * (CASE WHEN urgent THEN -1 ELSE 1 END) LIMIT 1
""")

CLAIM = Query("""
WITH claimed AS (
    UPDATE turns SET state = 'running', owner = :owner, lease_expires_at = now() + make_interval(secs => :lease),
           attempt = attempt + 1, lost = :lost, generation = :generation, started_at = coalesce(started_at, :now)
    WHERE user_id = :user_id AND id = :turn_id
    RETURNING id, generation, attempt, lost, first_event, created_at, stop_requested
), fenced AS (
    UPDATE streams SET generation = :generation WHERE user_id = :user_id
)
SELECT * FROM claimed
""")

RENEW = Query("""
UPDATE turns t SET lease_expires_at = now() + make_interval(secs => :lease)
FROM unnest(cast(:user_ids AS uuid[]), cast(:turn_ids AS uuid[]), cast(:generations AS bigint[]))
     AS mine (user_id, turn_id, generation)
WHERE t.user_id = mine.user_id AND t.id = mine.turn_id AND t.generation = mine.generation AND t.state = 'running'
RETURNING t.id, t.stop_requested
""")

# A turn that is given back was not lost: it waits again, ahead of everything sent after it.
RELEASE = Query("""
UPDATE turns t SET state = 'queued', owner = NULL, lease_expires_at = NULL
FROM unnest(cast(:user_ids AS uuid[]), cast(:turn_ids AS uuid[]), cast(:generations AS bigint[]))
     AS mine (user_id, turn_id, generation)
WHERE t.user_id = mine.user_id AND t.id = mine.turn_id AND t.generation = mine.generation AND t.state = 'running'
""")

WAITING = Query("""
SELECT w.user_id FROM turns w WHERE w.state <> 'done'
GROUP BY w.user_id
HAVING bool_or(w.state = 'running' AND w.lease_expires_at < now()) OR NOT bool_or(w.state = 'running')
ORDER BY min(w.created_at) LIMIT :most
""")

REQUEST_STOP = Query("""
UPDATE turns SET stop_requested = true WHERE user_id = :user_id AND id = :turn_id AND state = 'running'
RETURNING id
""")

Holding = tuple[UUID, UUID, int]  # a user, their turn, its generation


async def claim_next(connection: Connection, user_id: UUID, *, owner: str, lease: float, now: datetime) -> Claim | None:
    """Takes what the user waits for: a running turn whose lease ran out, else the first of the queue."""
    generation = await LOCK.value(connection, user_id=user_id) + 1
    found = await NEXT.first(connection, user_id=user_id)
    if found is None or (found["state"] == "running" and not found["expired"]):
        return None
    row = await CLAIM.one(
        connection,
        user_id=user_id,
        turn_id=found["id"],
        owner=owner,
        lease=lease,
        lost=found["lost"] + (found["state"] == "running"),
        generation=generation,
        now=now,
    )
    return Claim(user_id, *row.values())


async def renew(connection: Connection, holdings: Sequence[Holding], *, lease: float) -> dict[UUID, bool]:
    """turn -> whether it shall stop, for those that are still ours; they are ours for `lease` more seconds."""
    rows = await RENEW.all(connection, lease=lease, **_columns(holdings))
    return {row["id"]: row["stop_requested"] for row in rows}


async def release(connection: Connection, holdings: Sequence[Holding]) -> None:
    """Gives turns back, for any process to take at once."""
    await RELEASE.execute(connection, **_columns(holdings))


async def waiting(connection: Connection, *, most: int) -> list[UUID]:
    """Users with a turn that nobody runs: queued behind nothing, or its lease ran out. The longest waiting first."""
    return [row["user_id"] for row in await WAITING.all(connection, most=most)]


async def request_stop(connection: Connection, user_id: UUID, turn_id: UUID) -> bool:
    """Asks for the end of the user's running turn, whoever runs it; False if it does not run or is not theirs."""
    asked = await REQUEST_STOP.value(connection, user_id=user_id, turn_id=turn_id) is not None
    if asked:
        await ring_stop(connection, turn_id)
    return asked


def _columns(holdings: Sequence[Holding]) -> dict[str, list[UUID] | list[int]]:
    return {
        "user_ids": [h[0] for h in holdings],
        "turn_ids": [h[1] for h in holdings],
        "generations": [h[2] for h in holdings],
    }
