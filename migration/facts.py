"""Facts on their way in, through the ledger of the native ones: of two that cannot both hold, the newer holds.

What a slot holds depends on all that is said of it: where anything in a slot differs from what is loaded, all of the
slot is put in anew, but for what the app has edited or deleted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from freya_gateway.db import facts as store
from freya_gateway.db import restoring
from freya_gateway.db.facts import Fact
from freya_gateway.db.messages import storable
from freya_gateway.db.query import Connection, Query, Row
from freya_gateway.llm.tokens import count_tokens
from freya_gateway.memory.ledger import Draft, Ledger, open_ledger, write
from freya_gateway.memory.vocabulary import SINGLE_VALUED, USER, canonical_slot, is_sensitive
from migration.mapper import piece_at
from migration.mapping import MappedFact, Mapping, Settings
from migration.provenance import provenance
from migration.staging import Note, Owner, document_of, note, unnote
from migration.tally import Tally
from migration.values import digest

LONGEST_STATEMENT, LONGEST_VALUE = 500, 120  # characters; all of it stays in `source`
# What anyone but the migration has done to a fact is in its history.
EDITED = """EXISTS (
    SELECT 1 FROM fact_events e WHERE e.user_id = l.user_id AND e.fact_id = l.id AND e.actor <> 'system')"""
LOADED = Query(f"""
SELECT l.id, l.kind, l.part, f.id IS NOT NULL AS is_there, {EDITED} AS edited, o.id IS NULL AS gone,
       o.id IS NOT NULL AND (l.checksum, l.digest, l.part) IS DISTINCT FROM (o.checksum, d.digest, o.part) AS changed
FROM freya_migration.loaded l
LEFT JOIN facts f ON f.user_id = l.user_id AND f.id = l.id
LEFT JOIN freya_migration.outcomes o
    ON o.origin = l.origin AND o.id = l.id AND o.owner = l.owner AND o.kind = 'fact'
LEFT JOIN freya_migration.documents d ON d.origin = o.origin AND d.id = o.document
WHERE l.origin = :origin AND l.owner = :owner AND l.kind IN ('fact', 'merged')
""")
WANTED = Query("""
SELECT o.id, o.part, o.place, o.checksum, d.digest, d.path, d.body FROM freya_migration.outcomes o
JOIN freya_migration.documents d ON d.origin = o.origin AND d.id = o.document
WHERE o.origin = :origin AND o.owner = :owner AND o.kind = 'fact' AND NOT EXISTS (
    SELECT 1 FROM freya_migration.loaded l WHERE l.origin = o.origin AND l.owner = o.owner AND l.id = o.id)
ORDER BY o.said_at NULLS FIRST, o.document, o.place
""")
SLOTS = Query("""
SELECT DISTINCT o.part FROM freya_migration.outcomes o
WHERE o.origin = :origin AND o.owner = :owner AND o.kind = 'fact' AND NOT EXISTS (
    SELECT 1 FROM freya_migration.loaded l WHERE l.origin = o.origin AND l.owner = o.owner AND l.id = o.id)
""")


@dataclass(slots=True)
class Facts:
    """Brings the facts of one user to what is wanted, in the caller's transaction, which has locked the user."""

    connection: Connection
    owner: Owner
    settings: Settings
    tally: Tally

    async def load(self) -> None:
        place = {"origin": self.owner.origin, "owner": self.owner.name}
        loaded = await LOADED.all(self.connection, **place)
        new = {row["part"] for row in await SLOTS.all(self.connection, **place)}
        again = await self._take_out(loaded, new)
        rows = await WANTED.all(self.connection, **place)
        if rows:
            await self._add(rows)
        self.tally.added["fact"] += len(rows) - again

    async def _take_out(self, loaded: Sequence[Row], new: set[str]) -> int:
        """Makes room in the slots where anything differs; how many facts are to come in again."""
        differing = [row for row in loaded if row["gone"] or row["changed"]]
        held = {row["id"] for row in loaded if row["edited"] or (row["kind"] == "fact" and not row["is_there"])}
        for row in differing:
            if row["id"] in held:
                self.tally.keep("fact", row["id"])
            else:
                self.tally.removed["fact"] += row["gone"]
                self.tally.changed["fact"] += row["changed"]
        slots = new | {row["part"] for row in differing}
        out = [row["id"] for row in loaded if row["part"] in slots and row["id"] not in held]
        await store.delete(self.connection, self.owner.user_id, out)
        await unnote(self.connection, self.owner, out)
        return len(out) - sum(row["gone"] for row in differing if row["id"] not in held)

    async def _add(self, rows: Sequence[Row]) -> None:
        user_id, now = self.owner.user_id, datetime.now(UTC)
        profile = await store.lock(self.connection, user_id)
        ledger = await open_ledger(self.connection, user_id, profile, now=now)
        made: dict[UUID, dict[str, Any]] = {}
        for row in rows:
            document = document_of(row["path"], row["body"])
            piece = piece_at(self.settings, document, row["place"])
            assert isinstance(piece.outcome, MappedFact)
            if _add(ledger, _fact(row["id"], piece.outcome, self.settings.mapping, now=now)):
                made[row["id"]] = provenance(self.owner.origin, document.path, piece)
        await write(self.connection, user_id, ledger, actor="system")
        for identity, source in made.items():
            supersedes = {identity: ledger.facts[identity].supersedes}
            await restoring.mark_facts(self.connection, user_id, supersedes, source=source)
        for kind in ("fact", "merged"):
            notes = [_noted(row) for row in rows if (row["id"] in made) == (kind == "fact")]
            await note(self.connection, self.owner, notes, kind=kind)


def _noted(row: Row) -> Note:
    return Note(row["id"], row["checksum"], row["digest"], part=row["part"])


def checksum(statement: str, said_at: datetime | None) -> bytes:
    """Of what a fact says, and since when, if that was told."""
    return digest([statement, said_at and said_at.isoformat()])


def slot_of(mapped: MappedFact) -> str:
    return canonical_slot(mapped.slot) or "note"


def statement_of(mapped: MappedFact) -> str:
    """What the fact says, e.g. `Location: Oslo`."""
    label, words = _label(mapped), " ".join(storable(mapped.value)[0].split())
    return (f"{label}: {words}" if label else words)[:LONGEST_STATEMENT]


def _label(mapped: MappedFact) -> str:
    return " ".join(storable(mapped.slot)[0].replace("_", " ").split()).capitalize()


def _fact(identity: UUID, mapped: MappedFact, mapping: Mapping, *, now: datetime) -> Fact:
    slot, words, statement = slot_of(mapped), " ".join(storable(mapped.value)[0].split()), statement_of(mapped)
    sensitive = is_sensitive(statement, slot)
    names = {slot, _label(mapped).lower()}
    kind = next((kind for kind, slots in mapping.facts.items() if names & {*slots}), "note")
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
