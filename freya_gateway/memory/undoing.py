"""Takes a fact's last change back. One fact in place of another is one change: both go back together."""

from datetime import timedelta
from typing import Final
from uuid import UUID

from freya_gateway.db import fact_history as history
from freya_gateway.db import facts as store
from freya_gateway.db.fact_history import FactEvent
from freya_gateway.db.facts import Fact
from freya_gateway.db.query import Connection
from freya_gateway.errors import Conflict
from freya_gateway.memory.ledger import Ledger, digests_of
from freya_gateway.memory.wording import statement_hash

MOST_EVENTS: Final = 200  # of one fact that are looked at
ONE_MOMENT: Final = timedelta(milliseconds=1)


async def undo(connection: Connection, user_id: UUID, fact: Fact, *, ledger: Ledger) -> Fact:
    """The fact as it was before its last change; undone once more, the change is made again. Raises Conflict."""
    last = await _last_change(connection, user_id, fact)
    for other in await _partners(connection, user_id, fact):
        change = await _last_change(connection, user_id, other)
        if abs(change.at - last.at) < ONE_MOMENT:
            _restore(other, change, ledger)
    restored = _restore(fact, last, ledger)
    _check_room(ledger)
    return restored


async def _last_change(connection: Connection, user_id: UUID, fact: Fact) -> FactEvent:
    """What happened to the fact last, but for its being said again."""
    events = await history.of_fact(connection, user_id, fact.id, limit=MOST_EVENTS)
    last = next((event for event in events if event.action != "confirm"), None)
    if last is None:
        raise Conflict("nothing_to_undo", "Nothing has happened to this fact that could be undone.")
    return last


async def _partners(connection: Connection, user_id: UUID, fact: Fact) -> list[Fact]:
    """The facts whose place it took, and that took its place."""
    before = await store.get(connection, user_id, fact.supersedes) if fact.supersedes else None
    after = await store.successor(connection, user_id, fact.id)
    return [other for other in (before, after) if other is not None]


def _restore(fact: Fact, change: FactEvent, ledger: Ledger) -> Fact:
    """The fact as it was before the change; one that was not there is retracted."""
    if change.before is None:
        return ledger.close("undo", fact, status="retracted", at=ledger.now)
    ledger.remembered += digests_of(ledger.key, change.before)
    return ledger.change("undo", fact, change.before)


def _check_room(ledger: Ledger) -> None:
    """What was restored must have its place among the facts that hold now."""
    active = ledger.current("active")
    slots = [(fact.subject, fact.slot) for fact in active if fact.single_valued]
    words = [statement_hash(fact.statement) for fact in active]
    if len(set(slots)) < len(slots) or len(set(words)) < len(words):
        raise Conflict("undo_conflict", "Another fact has taken the place of what would come back; delete that first.")
