"""What a user does with the facts themself: look, add, correct, pin, lock, agree, refuse, undo, and forget for good.

The user's word is above the model's: what they wrote or edited is locked, and what they delete leaves no word behind.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from uuid import UUID

from freya_gateway.clock import Now
from freya_gateway.db import fact_history as history
from freya_gateway.db import facts as store
from freya_gateway.db.engine import Database
from freya_gateway.db.fact_history import FactEvent
from freya_gateway.db.facts import CURRENT, Fact, Source
from freya_gateway.db.query import Connection
from freya_gateway.errors import Conflict, Invalid, NotFound
from freya_gateway.llm.tokens import count_tokens
from freya_gateway.memory.announce import announce
from freya_gateway.memory.ledger import MOST_ACTIVE, Draft, Ledger, digests_of, open_ledger, write
from freya_gateway.memory.masking import holds_secret
from freya_gateway.memory.undoing import MOST_EVENTS, undo
from freya_gateway.memory.vocabulary import SINGLE_VALUED, canonical_slot, canonical_subject, is_sensitive
from freya_gateway.memory.wording import statement_hash


@dataclass(frozen=True, slots=True)
class NewFact:
    """A fact as the user writes it."""

    statement: str
    subject: str = "user"
    slot: str = "note"
    kind: str = "note"
    value: str | None = None
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class Edit:
    """What the user changes of a fact; None leaves it as it is."""

    statement: str | None = None
    slot: str | None = None
    kind: str | None = None
    value: str | None = None
    pinned: bool | None = None
    locked: bool | None = None

    @property
    def rewrites(self) -> bool:
        return (self.statement, self.slot, self.kind, self.value) != (None, None, None, None)


class FactService:
    """Each call is one transaction, announced on the user's stream."""

    def __init__(self, database: Database, now: Now) -> None:
        self._database = database
        self._now = now

    async def page(self, user_id: UUID, *, status: str | None, before: UUID | None, limit: int) -> list[Fact]:
        """The user's facts, newest first, from behind `before` on."""
        async with self._database.reading() as connection:
            return await store.page(connection, user_id, status=status, before=before, limit=limit)

    async def get(self, user_id: UUID, fact_id: UUID) -> tuple[Fact, list[Source]]:
        """A fact and what it stands on. Raises NotFound."""
        async with self._database.reading() as connection:
            return await _found(connection, user_id, fact_id), await store.sources(connection, user_id, fact_id)

    async def history(self, user_id: UUID, fact_id: UUID) -> list[FactEvent]:
        """What happened to a fact, the last first. Raises NotFound."""
        async with self._database.reading() as connection:
            await _found(connection, user_id, fact_id)
            return await history.of_fact(connection, user_id, fact_id, limit=MOST_EVENTS)

    async def add(self, user_id: UUID, new: NewFact) -> Fact:
        """Stores what the user writes, in place of what held its slot. Raises Conflict, Invalid."""
        _check_secret(new.statement, new.value)
        draft = Draft(
            subject=canonical_subject(new.subject),
            slot=canonical_slot(new.slot),
            kind=new.kind,
            statement=new.statement,
            value=new.value,
            explicit=True,
            sensitive=is_sensitive(new.statement, new.value),
            locked=True,
        )
        async with self._changing(user_id) as (_, ledger):
            _check_new(draft.statement, ledger)
            rival = _replaced(draft.subject, draft.slot, ledger)
            ledger.lift(draft)
            fact = ledger.add(draft, None, supersedes=rival.id if rival else None)
            if new.pinned:
                fact = ledger.change("pin", fact, replace(fact, pinned=True))
            ledger.tidy()
            if len(ledger.current("active")) > MOST_ACTIVE:
                raise Conflict("too_many_facts", f"You have {MOST_ACTIVE} facts of your own; delete or unlock some.")
        return fact

    async def edit(self, user_id: UUID, fact_id: UUID, edit: Edit) -> Fact:
        """Changes a current fact; one that was rewritten is locked from then on. Raises NotFound, Conflict, Invalid."""
        _check_secret(edit.statement, edit.value)
        async with self._changing(user_id) as (connection, ledger):
            fact = _current(await _found(connection, user_id, fact_id))
            if edit.rewrites:
                fact = ledger.change("edit", fact, _rewritten(fact, edit, ledger))
            if edit.pinned is not None and edit.pinned != fact.pinned:
                fact = ledger.change("pin" if edit.pinned else "unpin", fact, replace(fact, pinned=edit.pinned))
            if edit.locked is not None and edit.locked != fact.locked:
                fact = ledger.change("lock" if edit.locked else "unlock", fact, replace(fact, locked=edit.locked))
        return fact

    async def accept(self, user_id: UUID, fact_id: UUID) -> Fact:
        """The user agrees to a pending fact; what it contradicts ends. Raises NotFound, Conflict."""
        async with self._changing(user_id) as (connection, ledger):
            fact = _pending(await _found(connection, user_id, fact_id))
            rival = _replaced(fact.subject, fact.slot, ledger)
            contested = ledger.facts.get(fact.supersedes) if fact.supersedes else None
            if rival is None and contested is not None and contested.status == "active":
                ledger.close("supersede", contested, status="superseded", at=ledger.now)
            _check_new(fact.statement, ledger, but=fact.id)
            return ledger.change("accept", fact, replace(fact, status="active", explicit=True))

    async def reject(self, user_id: UUID, fact_id: UUID) -> Fact:
        """The user refuses a pending fact; it is not learned again. Raises NotFound, Conflict."""
        async with self._changing(user_id) as (connection, ledger):
            fact = _pending(await _found(connection, user_id, fact_id))
            ledger.forgotten += digests_of(ledger.key, fact)
            return ledger.close("reject", fact, status="retracted", at=ledger.now)

    async def forget(self, user_id: UUID, fact_id: UUID) -> None:
        """Deletes a fact with its sources and history; it is not learned again. Raises NotFound."""
        async with self._changing(user_id) as (connection, ledger):
            fact = await _found(connection, user_id, fact_id)
            await history.bury(connection, user_id, digests_of(ledger.key, fact))
            await store.delete(connection, user_id, [fact_id])
            await announce(connection, user_id, facts=[fact_id], topics=())

    async def undo(self, user_id: UUID, fact_id: UUID) -> Fact:
        """Takes back the fact's last change, and what changed with it; once more, and it is done again.

        Raises NotFound, Conflict.
        """
        async with self._changing(user_id) as (connection, ledger):
            fact = await _found(connection, user_id, fact_id)
            return await undo(connection, user_id, fact, ledger=ledger)

    @asynccontextmanager
    async def _changing(self, user_id: UUID) -> AsyncGenerator[tuple[Connection, Ledger], None]:
        """The user's facts, locked; what was changed is written and announced at the end."""
        async with self._database.transaction() as connection:
            profile = await store.lock(connection, user_id)
            ledger = await open_ledger(connection, user_id, profile, now=self._now(), history_too=True)
            yield connection, ledger
            changed = await write(connection, user_id, ledger, actor="user")
            if changed:
                await announce(connection, user_id, facts=changed, topics=())


async def _found(connection: Connection, user_id: UUID, fact_id: UUID) -> Fact:
    fact = await store.get(connection, user_id, fact_id)
    if fact is None:
        raise NotFound("fact_not_found", "You have no fact with this id; see GET /v1/facts for those you have.")
    return fact


def _current(fact: Fact) -> Fact:
    if fact.status not in CURRENT:
        raise Conflict("fact_not_current", "The fact does not hold any more; undo its end, or add another.")
    return fact


def _pending(fact: Fact) -> Fact:
    if fact.status != "pending":
        raise Conflict("fact_not_pending", "The fact does not wait for you; look at its status.")
    return fact


def _check_secret(*texts: str | None) -> None:
    if any(text and holds_secret(text) for text in texts):
        raise Invalid("secret_in_fact", "That looks like a password, key or card number; facts go into every prompt.")


def _check_new(statement: str, ledger: Ledger, *, but: UUID | None = None) -> None:
    words = statement_hash(statement)
    if any(statement_hash(fact.statement) == words for fact in ledger.current("active") if fact.id != but):
        raise Conflict("fact_exists", "An active fact says that already; edit it instead.")


def _replaced(subject: str, slot: str, ledger: Ledger) -> Fact | None:
    """The fact that gives its single-valued slot to another."""
    held = ledger.in_slot(subject, slot)
    if not held or slot not in SINGLE_VALUED:
        return None
    return ledger.close("supersede", held[0], status="superseded", at=ledger.now)


def _rewritten(fact: Fact, edit: Edit, ledger: Ledger) -> Fact:
    statement = edit.statement or fact.statement
    slot = canonical_slot(edit.slot) if edit.slot else fact.slot
    _check_new(statement, ledger, but=fact.id)
    if slot in SINGLE_VALUED and any(other.id != fact.id for other in ledger.in_slot(fact.subject, slot)):
        raise Conflict("slot_taken", "Another active fact holds this slot; edit or delete that one.")
    # A new statement without a new value leaves no old value behind: it may be what was wrong.
    value = edit.value if edit.value is not None or edit.statement is not None else fact.value
    return replace(
        fact,
        statement=statement,
        slot=slot,
        single_valued=slot in SINGLE_VALUED,
        kind=edit.kind or fact.kind,
        value=value,
        n_tokens=count_tokens(statement),
        sensitive=fact.sensitive or is_sensitive(statement, value),
        explicit=True,
        locked=True,
    )
