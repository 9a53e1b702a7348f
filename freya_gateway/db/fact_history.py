"""What happened to facts: the record of each change, what was forgotten, and which commands have been carried out."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID, uuid4

import msgspec

from freya_gateway.db.facts import Fact
from freya_gateway.db.query import Connection, Query, Row

Actor = Literal["user", "model", "command", "system"]
Action = Literal[
    "add", "confirm", "supersede", "retract", "expire", "edit", "pin", "unpin", "lock", "unlock", "accept", "reject",
    "contradict", "undo",
]  # fmt: skip

RECORD = Query("""
INSERT INTO fact_events (user_id, id, fact_id, action, actor, before, after, at)
VALUES (:user_id, :id, :fact_id, :action, :actor, cast(:before AS jsonb), cast(:after AS jsonb), :at)
""")

OF_FACT = Query("""
SELECT action, actor, before, after, at FROM fact_events
WHERE user_id = :user_id AND fact_id = :fact_id ORDER BY at DESC, id LIMIT :limit
""")

BURY = Query("""
INSERT INTO fact_tombstones (user_id, digest) SELECT :user_id, unnest(cast(:digests AS bytea[])) ON CONFLICT DO NOTHING
""")
UNEARTH = Query("DELETE FROM fact_tombstones WHERE user_id = :user_id AND digest = ANY(cast(:digests AS bytea[]))")
BURIED = Query("SELECT digest FROM fact_tombstones WHERE user_id = :user_id")

OBEY = Query("""
INSERT INTO obeyed_commands (user_id, message_id)
SELECT :user_id, id FROM messages WHERE user_id = :user_id AND id = cast(:message_id AS uuid)
ON CONFLICT DO NOTHING RETURNING true
""")
OBEYED = Query("""
SELECT message_id FROM obeyed_commands WHERE user_id = :user_id AND message_id = ANY(cast(:message_ids AS uuid[]))
""")


@dataclass(frozen=True, slots=True)
class FactEvent:
    """One change of a fact; `before` is None where it was made by it."""

    action: Action
    actor: Actor
    before: Fact | None
    after: Fact
    at: datetime


async def record(connection: Connection, user_id: UUID, event: FactEvent) -> None:
    await RECORD.execute(
        connection,
        user_id=user_id,
        id=uuid4(),
        fact_id=event.after.id,
        action=event.action,
        actor=event.actor,
        before=_written(event.before) if event.before else None,
        after=_written(event.after),
        at=event.at,
    )


async def of_fact(connection: Connection, user_id: UUID, fact_id: UUID, *, limit: int) -> list[FactEvent]:
    """What happened to the fact, the last first."""
    rows = await OF_FACT.all(connection, user_id=user_id, fact_id=fact_id, limit=limit)
    return [_event(row) for row in rows]


async def bury(connection: Connection, user_id: UUID, digests: Sequence[bytes]) -> None:
    """What has one of these digests is not learned again."""
    await BURY.execute(connection, user_id=user_id, digests=digests)


async def unearth(connection: Connection, user_id: UUID, digests: Sequence[bytes]) -> None:
    """What has one of these digests may be learned again."""
    await UNEARTH.execute(connection, user_id=user_id, digests=digests)


async def buried(connection: Connection, user_id: UUID) -> frozenset[bytes]:
    """The digests of what was forgotten."""
    return frozenset(row["digest"] for row in await BURIED.all(connection, user_id=user_id))


async def obey(connection: Connection, user_id: UUID, message_id: UUID) -> bool:
    """Notes that the message's commands are carried out in this transaction; False if they have been before."""
    return await OBEY.value(connection, user_id=user_id, message_id=message_id) is not None


async def obeyed(connection: Connection, user_id: UUID, message_ids: Sequence[UUID]) -> frozenset[UUID]:
    """Those of the messages whose commands have been carried out."""
    rows = await OBEYED.all(connection, user_id=user_id, message_ids=message_ids)
    return frozenset(row["message_id"] for row in rows)


def _written(fact: Fact) -> str:
    return msgspec.json.encode(fact).decode()


def _event(row: Row) -> FactEvent:
    before = msgspec.json.decode(row["before"], type=Fact) if row["before"] else None
    return FactEvent(row["action"], row["actor"], before, msgspec.json.decode(row["after"], type=Fact), row["at"])
