"""A user's facts while they change: what holds is looked up, every change is noted, and all is written at once.

Pure until `write`: the deciding code works on it in memory, so it can be tested without a database.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID, uuid4

from freya_gateway.db import fact_history as history
from freya_gateway.db import facts as store
from freya_gateway.db.fact_history import Action, Actor, FactEvent
from freya_gateway.db.facts import CURRENT, Fact, Profile
from freya_gateway.db.query import Connection
from freya_gateway.llm.tokens import count_tokens
from freya_gateway.memory.vocabulary import SINGLE_VALUED
from freya_gateway.memory.wording import digests, same_value, statement_hash

MOST_ACTIVE: Final = 500
MOST_PENDING: Final = 100


@dataclass(frozen=True, slots=True)
class Support:
    """The user's words that a change stands on."""

    message_ids: tuple[UUID, ...]
    quote: str
    said_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A fact before it is one."""

    subject: str
    slot: str
    kind: str
    statement: str
    value: str | None = None
    valid_from: datetime | None = None
    valid_to: datetime | None = None
    expires_at: datetime | None = None
    explicit: bool = False
    sensitive: bool = False
    locked: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one fact."""

    action: Action
    before: Fact | None
    after: Fact
    support: Support | None = None


class Ledger:
    """See the module. `facts` holds those of any status that have been read or made; `buried`, what was forgotten."""

    def __init__(
        self,
        facts: Iterable[Fact],
        *,
        key: UUID,
        now: datetime,
        cited: Mapping[UUID, set[UUID]] | None = None,
        buried: frozenset[bytes] = frozenset(),
    ) -> None:
        self.facts = {fact.id: fact for fact in facts}
        self.key = key
        self.now = now
        self.changes: list[Change] = []
        self.forgotten: list[bytes] = []
        self.remembered: list[bytes] = []
        self._cited = {fact_id: set(messages) for fact_id, messages in (cited or {}).items()}
        self._buried = buried

    def current(self, status: str | None = None) -> list[Fact]:
        """Facts that hold or wait; those of `status` alone, if given."""
        return [fact for fact in self.facts.values() if fact.status in ((status,) if status else CURRENT)]

    def in_slot(self, subject: str, slot: str) -> list[Fact]:
        """Active facts of that subject and slot."""
        return [fact for fact in self.current("active") if (fact.subject, fact.slot) == (subject, slot)]

    def has_room(self, fact: Fact) -> bool:
        """Whether no other active fact has its place, or says the same."""
        others = [other for other in self.current("active") if other.id != fact.id]
        place, words = (fact.subject, fact.slot), statement_hash(fact.statement)
        if fact.single_valued and any((other.subject, other.slot) == place for other in others):
            return False
        return all(statement_hash(other.statement) != words for other in others)

    def same(self, draft: Draft) -> Fact | None:
        """A current fact that says the same; one that holds before one that waits."""
        words, value = statement_hash(draft.statement), draft.value and same_value(draft.value)
        facts = sorted(self.current(), key=lambda fact: fact.status != "active")
        for fact in facts:
            if statement_hash(fact.statement) == words:
                return fact
            place = (fact.subject, fact.slot) == (draft.subject, draft.slot)
            if place and value and fact.value and same_value(fact.value) == value:
                return fact
        return None

    def is_buried(self, draft: Draft) -> bool:
        return not self._buried.isdisjoint(digests_of(self.key, draft))

    def add(
        self, draft: Draft, support: Support | None, *, status: str = "active", supersedes: UUID | None = None
    ) -> Fact:
        """Makes the draft a fact."""
        said_at = support.said_at if support else self.now
        fact = Fact(
            id=uuid4(),
            subject=draft.subject,
            slot=draft.slot,
            single_valued=draft.slot in SINGLE_VALUED,
            kind=draft.kind,
            statement=draft.statement,
            value=draft.value,
            n_tokens=count_tokens(draft.statement),
            status=status,
            valid_from=draft.valid_from or said_at,
            valid_to=draft.valid_to,
            explicit=draft.explicit,
            sensitive=draft.sensitive,
            locked=draft.locked,
            expires_at=draft.expires_at,
            supersedes=supersedes,
            said_at=said_at,
            created_at=self.now,
        )
        return self.change("add", None, fact, support)

    def change(self, action: Action, before: Fact | None, after: Fact, support: Support | None = None) -> Fact:
        """Notes that `before` is `after` now."""
        self.facts[after.id] = after
        self.changes.append(Change(action, before, after, support))
        if support:
            self._cited.setdefault(after.id, set()).update(support.message_ids)
        return after

    def confirm(self, fact: Fact, support: Support) -> Fact:
        """Counts that it was said again; the same message counts once."""
        if set(support.message_ids) <= self._cited.get(fact.id, set()):
            return fact
        said_at = max(fact.said_at, support.said_at)
        again = replace(fact, confirmations=fact.confirmations + 1, said_at=said_at)
        return self.change("confirm", fact, again, support)

    def close(self, action: Action, fact: Fact, *, status: str, at: datetime) -> Fact:
        """Ends the fact's interval."""
        ends = max(at, fact.valid_from) if fact.valid_from else at
        return self.change(action, fact, replace(fact, status=status, valid_to=ends))

    def forget(self, fact: Fact) -> Fact:
        """Retracts it for good: it is not learned again."""
        self.forgotten += digests_of(self.key, fact)
        return self.close("retract", fact, status="retracted", at=self.now)

    def lift(self, draft: Draft) -> None:
        """The user wants it remembered after all."""
        self.remembered += digests_of(self.key, draft)

    def tidy(self) -> None:
        """Ends what has expired, and what is too much: the least confirmed first, the oldest of those. Not what the
        user has pinned or locked, nor what waits since an import: no message stands behind it."""
        for fact in self.current():
            if fact.expires_at is not None and fact.expires_at <= self.now:
                self.close("expire", fact, status="expired", at=fact.expires_at)
        for status, most in (("active", MOST_ACTIVE), ("pending", MOST_PENDING)):
            facts = [fact for fact in self.current(status) if status == "active" or self._cited.get(fact.id)]
            spare = [fact for fact in facts if not (fact.pinned or fact.locked)]
            spare.sort(key=lambda fact: (fact.confirmations, fact.said_at))
            for fact in spare[: max(len(facts) - most, 0)]:
                self.close("expire", fact, status="expired", at=self.now)


async def open_ledger(
    connection: Connection, user_id: UUID, profile: Profile, *, now: datetime, history_too: bool = False
) -> Ledger:
    """The user's facts, to be changed in this transaction, which has locked them; `history_too`: superseded ones."""
    statuses = (*CURRENT, "superseded") if history_too else CURRENT
    return Ledger(
        await store.of_user(connection, user_id, statuses=statuses),
        key=profile.memory_key,
        now=now,
        cited=await store.cited(connection, user_id),
        buried=await history.buried(connection, user_id),
    )


async def write(connection: Connection, user_id: UUID, ledger: Ledger, *, actor: Actor) -> list[UUID]:
    """Writes what has changed, with its record; the facts concerned."""
    changed = list(dict.fromkeys(change.after.id for change in ledger.changes))
    # What ends first: only one active fact may hold a slot, or say a thing.
    for fact_id in sorted(changed, key=lambda fact_id: ledger.facts[fact_id].status == "active"):
        fact = ledger.facts[fact_id]
        await store.save(connection, user_id, fact, statement_hash=statement_hash(fact.statement), now=ledger.now)
    for place, change in enumerate(ledger.changes):
        # Apart by a microsecond each, so that a history has an order.
        at = ledger.now + timedelta(microseconds=place)
        who: Actor = "system" if change.action == "expire" else actor
        await history.record(connection, user_id, FactEvent(change.action, who, change.before, change.after, at))
        if change.support:
            ids, quote = change.support.message_ids, change.support.quote
            await store.cite(connection, user_id, change.after.id, message_ids=ids, quote=quote)
    if ledger.forgotten:
        await history.bury(connection, user_id, ledger.forgotten)
    if ledger.remembered:
        await history.unearth(connection, user_id, ledger.remembered)
    return changed


def digests_of(key: UUID, fact: Fact | Draft) -> tuple[bytes, ...]:
    """What the fact is known by once it is forgotten."""
    return digests(key, statement=fact.statement, subject=fact.subject, slot=fact.slot, value=fact.value)
