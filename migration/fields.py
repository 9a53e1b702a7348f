"""What the values of fields say: texts, names, words, moments. None where a value says nothing of the kind."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from migration.documents import Reference, Timestamp, Value
from migration.mapping import Policy

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECONDS_FROM = 100_000_000_000  # seconds beyond it lie after the year 5000
SECONDS, NANOSECONDS = ("_seconds", "seconds"), ("_nanoseconds", "nanoseconds", "nanos")
Fields = dict[str, Value]


def first(fields: Fields, names: Sequence[str]) -> Value:
    """The value of the first of these fields that has one."""
    return next((fields[name] for name in names if fields.get(name) not in (None, "")), None)


def name_of(value: Value) -> str | None:
    """A name or an id; that of the document that is referred to."""
    match value:
        case str():
            return value.strip() or None
        case Reference():
            return value.path[-1] if value.path else None
        case int() if not isinstance(value, bool):
            return str(value)
        case _:
            return None


def text_of(value: Value) -> str | None:
    """What was said: a text, a number, or the texts in a list of parts, one a line."""
    match value:
        case bool():
            return None
        case int() | float():
            return str(value) if isinstance(value, int) or math.isfinite(value) else None
        case str():
            return value or None
        case list():
            texts = [text for part in value if (text := text_of(part)) is not None]
            return "\n".join(texts) or None
        case dict():
            return text_of(first(value, ("text", "content", "parts")))
        case _:
            return None


def texts_of(value: Value) -> tuple[str, ...]:
    """All texts of a list, or the one."""
    items = value if isinstance(value, list) else [value]
    names = (item if isinstance(item, str) else name_of(item) if isinstance(item, Reference) else "" for item in items)
    return tuple(name for name in names if name and name.strip())


def words_of(value: Value) -> str | None:
    """A value as words: texts, numbers, yes and no, and lists of them."""
    match value:
        case bool():
            return "yes" if value else "no"
        case float() if not math.isfinite(value):
            return None
        case str() | int() | float():
            return str(value).strip() or None
        case list():
            words = [words_of(item) for item in value]
            return ", ".join(word for word in words if word) or None if None not in words else None
        case _:
            return None


def moment_in(fields: Fields, names: Sequence[str], policy: Policy) -> datetime | None:
    """The first of these fields that says a moment."""
    moments = (moment_of(fields[name], policy) for name in names if name in fields)
    return next((moment for moment in moments if moment is not None), None)


def moment_of(value: Value, policy: Policy) -> datetime | None:
    """The moment in UTC, microseconds kept; None for what says none (0 included)."""
    zone = ZoneInfo(policy.zone) if policy.zone else UTC
    try:
        found = _moment(value)
        if found is None:
            return None
        if found.tzinfo is None or (policy.local_as_utc and not isinstance(value, str)):
            found = found.replace(tzinfo=zone)
        return found.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _moment(value: Value) -> datetime | None:
    match value:
        case Timestamp():
            return EPOCH + timedelta(seconds=value.seconds, microseconds=value.nanos // 1000)
        case int() | float() if value > 0 and not isinstance(value, bool):
            return EPOCH + timedelta(seconds=value / 1000 if value >= MILLISECONDS_FROM else value)
        case str() if value.strip().isdecimal():
            return _moment(int(value))
        case str():
            return datetime.fromisoformat(value.strip())
        case dict():
            return _moment(_stamp(value))
        case _:
            return None


def _stamp(fields: Fields) -> Timestamp | None:
    """A timestamp that some tool wrote as a map; the whole map must be one."""
    seconds, nanos = first(fields, SECONDS), first(fields, NANOSECONDS) or 0
    whole = {*fields} <= {*SECONDS, *NANOSECONDS} and type(seconds) is int and type(nanos) is int
    return Timestamp(seconds, nanos) if whole and isinstance(seconds, int) and isinstance(nanos, int) else None
