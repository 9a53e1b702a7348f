"""Facts of an export that comes back: which of them can be believed, and how far."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from datetime import datetime
from typing import Final
from uuid import UUID

from freya_gateway.db.backup import BackupChange, BackupFact, BackupMessage
from freya_gateway.db.facts import Fact
from freya_gateway.llm.tokens import count_tokens
from freya_gateway.memory.vocabulary import SINGLE_VALUED
from freya_gateway.memory.wording import find_quote, statement_hash

STATUSES: Final = frozenset({"active", "pending", "superseded", "retracted", "expired"})
LONGEST_STATEMENT: Final = 500  # characters
LONGEST_NAME: Final = 80  # of a subject, a slot, a kind
CONTROL: Final = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")

LeaveOut = Callable[[str, str], None]  # (place in the file, why)


def believable(
    entries: Sequence[BackupFact], said: Mapping[UUID, BackupMessage], *, leave_out: LeaveOut
) -> list[BackupFact]:
    """The facts to bring in; `said` are the file's messages by id, in which the quotes must stand."""
    kept: dict[UUID, BackupFact] = {}
    room = _Room()
    for place, entry in enumerate(entries):
        known = "stands there before" if entry.fact.id in kept else None
        reason = known or _wrong(entry.fact) or _unproven(entry, said) or room.refusal(entry.fact)
        if reason is not None:
            leave_out(f"facts[{place}]", reason)
        else:
            history = _history(entry, f"facts[{place}]", leave_out)
            kept[entry.fact.id] = replace(entry, fact=_unsighted(entry.fact), history=history)
    return [_linked(entry, kept) for entry in kept.values()]


class _Room:
    """What the active facts so far leave free: one for a single-valued slot, one that says a thing."""

    def __init__(self) -> None:
        self._slots: set[tuple[str, str]] = set()
        self._words: set[bytes] = set()

    def refusal(self, fact: Fact) -> str | None:
        if fact.status != "active":
            return None
        slot, words = (fact.subject, fact.slot), statement_hash(fact.statement)
        if words in self._words or (fact.slot in SINGLE_VALUED and slot in self._slots):
            return "another active fact says this, or has its slot"
        self._words.add(words)
        self._slots.add(slot)
        return None


def _wrong(fact: Fact) -> str | None:
    """Why a fact cannot be one."""
    if not fact.statement.strip() or len(fact.statement) > LONGEST_STATEMENT or CONTROL.search(fact.statement):
        return f"its statement is not one line of at most {LONGEST_STATEMENT} characters"
    if any(
        not name or len(name) > LONGEST_NAME or CONTROL.search(name) for name in (fact.subject, fact.slot, fact.kind)
    ):
        return "its subject, slot or kind is not a short name"
    if fact.value is not None and (len(fact.value) > LONGEST_STATEMENT or CONTROL.search(fact.value)):
        return "its value is not one line"
    return "its status is none" if fact.status not in STATUSES else _wrong_times(fact)


def _wrong_times(fact: Fact) -> str | None:
    moments = [value for one in fields(fact) if isinstance(value := getattr(fact, one.name), datetime)]
    if any(moment.tzinfo is None for moment in moments):
        return "one of its times has no zone"
    if fact.valid_from and fact.valid_to and fact.valid_from > fact.valid_to:
        return "it ends before it begins"
    return None


def _unproven(entry: BackupFact, said: Mapping[UUID, BackupMessage]) -> str | None:
    """Why what a fact is said to stand on does not carry it."""
    for source in entry.sources:
        message = said.get(source.message)
        if message is None or message.role != "user" or find_quote(source.quote, message.text) is None:
            return "a quote does not stand in the user's message that it is said to be from"
    return None


def _unsighted(fact: Fact) -> Fact:
    """The fact without what only the gateway itself can have seen."""
    return replace(
        fact,
        explicit=False,
        confirmations=1,
        contradictions=0,
        single_valued=fact.slot in SINGLE_VALUED,
        n_tokens=count_tokens(fact.statement),
    )


def _history(entry: BackupFact, place: str, leave_out: LeaveOut) -> tuple[BackupChange, ...]:
    kept: list[BackupChange] = []
    for number, change in enumerate(entry.history):
        states = [state for state in (change.before, change.after) if state is not None]
        if any(state.id != entry.fact.id or _wrong(state) for state in states):
            leave_out(f"{place}.history[{number}]", "is not a change of this fact")
        else:
            kept.append(change)
    return tuple(kept)


def _linked(entry: BackupFact, kept: Mapping[UUID, BackupFact]) -> BackupFact:
    """The fact and its history without pointers to facts that do not come along."""

    def link(fact: Fact) -> Fact:
        return fact if fact.supersedes in kept else replace(fact, supersedes=None)

    changes = [replace(c, before=c.before and link(c.before), after=link(c.after)) for c in entry.history]
    return replace(entry, fact=link(entry.fact), history=tuple(changes))
