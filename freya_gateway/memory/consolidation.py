"""Decides about proposals: which fact is new, said again, changed, ended, or has to wait for the user. No model here.

Nothing is overwritten: a changed fact's interval closes and another opens. What the user has edited or locked stays.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from freya_gateway.db.facts import Fact
from freya_gateway.memory import dates
from freya_gateway.memory.checks import (
    LONGEST_VALUE,
    Rejected,
    Window,
    check_mood,
    check_names,
    check_subject,
    sentence,
    supported,
)
from freya_gateway.memory.extraction import Operation
from freya_gateway.memory.ledger import Draft, Ledger, Support
from freya_gateway.memory.vocabulary import SINGLE_VALUED, canonical_slot, canonical_subject, is_outright, is_sensitive
from freya_gateway.memory.wording import same_value

PLAN_LIFE: Final = timedelta(days=30)  # of a plan without a date
SIGHTINGS: Final = 2  # of a preference that was not stated outright, before it holds
AFTER_PLAN: Final = timedelta(days=2)  # of a plan after its date, so that Freya can ask how it went


@dataclass(frozen=True, slots=True)
class Asked:
    """What the proposals answer: the facts that were shown, by number, and the messages."""

    shown: Sequence[Fact]
    window: Window
    display_name: str | None = None


def consolidate(operations: Sequence[Operation], asked: Asked, ledger: Ledger) -> Counter[str]:
    """Follows the operations that pass; how many did not, by reason."""
    rejected: Counter[str] = Counter()
    for operation in operations:
        try:
            _follow(operation, asked, ledger)
        except Rejected as refusal:
            rejected[refusal.reason] += 1
    ledger.tidy()
    return rejected


def _follow(operation: Operation, asked: Asked, ledger: Ledger) -> None:
    if operation.op == "none":
        return
    support = supported(operation, asked.window)
    target = _target(operation, asked, ledger)
    if operation.op == "retract":
        _retract(target, support, ledger)
    elif operation.op == "confirm" and target is not None:
        _confirm(target, support, ledger)
    else:
        draft = _draft(operation, asked, support)
        _place(draft, target if operation.op == "supersede" else None, support, ledger)


def _target(operation: Operation, asked: Asked, ledger: Ledger) -> Fact | None:
    """The fact that is meant, as it is now; None unless it is of the subject and slot that the operation names."""
    if operation.target is None or not 0 <= operation.target < len(asked.shown):
        return None
    fact = ledger.facts.get(asked.shown[operation.target].id)
    place = (canonical_subject(operation.subject, display_name=asked.display_name), canonical_slot(operation.slot))
    return fact if fact is not None and fact.status != "superseded" and (fact.subject, fact.slot) == place else None


def _draft(operation: Operation, asked: Asked, support: Support) -> Draft:
    """The checked fact that an operation proposes."""
    zone = asked.window.zone
    subject = canonical_subject(operation.subject, display_name=asked.display_name)
    slot = canonical_slot(operation.slot) or "note"
    statement = sentence(operation.statement, said_at=support.said_at, zone=zone)
    check_mood(statement, slot)
    check_subject(operation, subject, asked.window)
    value = " ".join((operation.value or "").split())[:LONGEST_VALUE] or None
    known = [message.text for message in asked.window.messages.values() if message.role == "user"]
    known += [fact.statement for fact in asked.shown] + [asked.display_name or ""]
    check_names(statement, value, known=known)
    valid_from = dates.parse_date(operation.valid_from, zone=zone)
    return Draft(
        subject=subject,
        slot=slot,
        kind=operation.kind,
        statement=statement,
        value=value,
        valid_from=valid_from if valid_from and valid_from <= support.said_at else None,
        expires_at=_expiry(operation, valid_from, support.said_at),
        explicit=operation.explicit,
        sensitive=operation.sensitive or is_sensitive(statement, slot, value, operation.quote),
    )


def _expiry(operation: Operation, planned: datetime | None, said_at: datetime) -> datetime | None:
    if operation.kind != "plan":
        return None
    return planned.astimezone(UTC) + AFTER_PLAN if planned and planned > said_at else said_at + PLAN_LIFE


def _place(draft: Draft, target: Fact | None, support: Support, ledger: Ledger) -> None:
    """Finds the draft's place among the facts."""
    same = ledger.same(draft)  # first: what the user has brought back may be said in the words that were forgotten
    if same is not None:
        _confirm(same, support, ledger)
        return
    if ledger.is_buried(draft):
        raise Rejected("forgotten")
    if draft.expires_at is not None and draft.expires_at <= ledger.now:
        raise Rejected("expired")
    rival = target if target is not None and target.status == "active" else _rival(draft, ledger)
    if rival is not None:
        _contest(draft, rival, support, ledger)
    else:
        ledger.add(draft, support, status="pending" if _has_to_wait(draft, support) else "active")


def _rival(draft: Draft, ledger: Ledger) -> Fact | None:
    """The fact that cannot hold beside the draft."""
    held = ledger.in_slot(draft.subject, draft.slot)
    return held[0] if held and draft.slot in SINGLE_VALUED else None


def _contest(draft: Draft, rival: Fact, support: Support, ledger: Ledger) -> None:
    """The newer word holds, unless the older one is the user's own edit, or the newer one needs the user's consent."""
    if support.said_at < rival.said_at:
        _store_as_past(draft, rival, support, ledger)
    elif rival.locked or _has_to_wait(draft, support):
        ledger.change("contradict", rival, replace(rival, contradictions=rival.contradictions + 1))
        ledger.add(draft, support, status="pending", supersedes=rival.id)
    else:
        ledger.close("supersede", rival, status="superseded", at=draft.valid_from or support.said_at)
        ledger.add(draft, support, supersedes=rival.id)


def _store_as_past(draft: Draft, rival: Fact, support: Support, ledger: Ledger) -> None:
    """What was said before the fact that holds now is history already."""
    if rival.value and draft.value and same_value(rival.value) == same_value(draft.value):
        raise Rejected("older")
    ends = max(rival.valid_from or rival.said_at, draft.valid_from or support.said_at)
    ledger.add(replace(draft, valid_to=ends), support, status="superseded")


def _has_to_wait(draft: Draft, support: Support) -> bool:
    """For the user's consent, or for a second sighting."""
    if draft.sensitive:
        return True
    return draft.kind == "preference" and not is_outright(support.quote)


def _confirm(fact: Fact, support: Support, ledger: Ledger) -> None:
    """Said again. A preference that waited for it holds from now on; what waits for the user goes on waiting."""
    again = ledger.confirm(fact, support)
    if again is fact or again.confirmations < SIGHTINGS or fact.status != "pending" or fact.sensitive:
        return
    rival = ledger.facts.get(fact.supersedes) if fact.supersedes else None
    if rival is not None and rival.status == "active":
        if rival.locked:
            return
        ledger.close("supersede", rival, status="superseded", at=support.said_at)
    if ledger.has_room(again):
        ledger.change("accept", again, replace(again, status="active"))


def _retract(target: Fact | None, support: Support, ledger: Ledger) -> None:
    if target is None:
        raise Rejected("no_target")
    if support.said_at < target.said_at:
        raise Rejected("older")
    if target.locked:
        ledger.change("contradict", target, replace(target, contradictions=target.contradictions + 1))
    else:
        ledger.close("retract", target, status="retracted", at=support.said_at)
