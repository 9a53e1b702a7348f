"""Facts on their way in, through the ledger of the native ones: of two that cannot both hold, the newer holds."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from freya_gateway.db import facts as store
from freya_gateway.db import restoring
from freya_gateway.db.facts import Fact
from freya_gateway.db.messages import storable
from freya_gateway.db.query import Connection
from freya_gateway.llm.tokens import count_tokens
from freya_gateway.memory.ledger import Draft, Ledger, open_ledger, write
from freya_gateway.memory.vocabulary import SINGLE_VALUED, USER, canonical_slot, is_sensitive
from migration.documents import Document
from migration.mapping import MappedFact, Plan
from migration.provenance import provenance
from migration.staging import document_of, note, unloaded
from migration.values import digest

LONGEST_STATEMENT, LONGEST_VALUE = 500, 120  # characters; all of it stays in `source`


async def load_facts(connection: Connection, user_id: UUID, owner: str, plan: Plan) -> int:
    """The user's facts that were not loaded yet; how many there were. One that is known already is noted as merged."""
    rows = await unloaded(connection, plan.origin, owner, kind="fact")
    if not rows:
        return 0
    now = datetime.now(UTC)
    ledger = await open_ledger(connection, user_id, await store.lock(connection, user_id), now=now)
    made: dict[UUID, tuple[Fact, dict[str, Any]]] = {}
    merged: list[UUID] = []
    for row in rows:
        document = document_of(row["path"], row["body"])
        fact = _add(ledger, _fact(row["id"], document, plan, now=now))
        if fact is None:
            merged.append(row["id"])
        else:
            made[fact.id] = fact, provenance(plan.origin, document)
    await write(connection, user_id, ledger, actor="system")
    for fact, source in made.values():
        await restoring.mark_facts(connection, user_id, {fact.id: ledger.facts[fact.id].supersedes}, source=source)
    sums = {fact.id: checksum(fact.statement) for fact, _ in made.values()}
    await note(connection, plan.origin, user_id, kind="fact", sums=sums)
    await note(connection, plan.origin, user_id, kind="merged", sums=dict.fromkeys(merged, b""))
    return len(rows)


def checksum(statement: str) -> bytes:
    """Of what a fact says."""
    return digest(statement)


def _fact(identity: UUID, document: Document, plan: Plan, *, now: datetime) -> Fact:
    mapped = plan.outcome(document)
    assert isinstance(mapped, MappedFact)
    slot, words = canonical_slot(mapped.slot) or "note", " ".join(storable(mapped.value)[0].split())
    label = " ".join(storable(mapped.slot)[0].replace("_", " ").split()).capitalize()
    statement = (f"{label}: {words}" if label else words)[:LONGEST_STATEMENT]
    sensitive = is_sensitive(statement, slot)
    names = {slot, label.lower()}
    kind = next((kind for kind, slots in plan.mapping.facts.items() if names & {*slots}), "note")
    said_at = mapped.said_at or now
    return Fact(
        id=identity,
        subject=USER,
        slot=slot,
        single_valued=slot in SINGLE_VALUED,
        kind=kind,
        statement=statement,
        value=words if len(words) <= LONGEST_VALUE else None,
        n_tokens=count_tokens(statement),
        status="pending" if sensitive else "active",
        valid_from=said_at,
        sensitive=sensitive,
        said_at=said_at,
        created_at=now,
    )


def _add(ledger: Ledger, fact: Fact) -> Fact | None:
    """The fact in its place; None if a current one says the same."""
    draft = Draft(subject=fact.subject, slot=fact.slot, kind=fact.kind, statement=fact.statement, value=fact.value)
    if ledger.same(draft) is not None:
        return None
    rivals: Sequence[Fact] = ledger.in_slot(fact.subject, fact.slot) if fact.single_valued else ()
    for rival in rivals if fact.status == "active" else ():
        if rival.said_at > fact.said_at or rival.locked:
            return ledger.change("add", None, replace(fact, status="superseded", valid_to=rival.said_at))
        ledger.close("supersede", rival, status="superseded", at=fact.said_at)
        fact = replace(fact, supersedes=rival.id)
    return ledger.change("add", None, fact)
