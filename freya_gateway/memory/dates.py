"""Dates in statements: "yesterday" is true for a day, so it becomes a date against the day on which it was said."""

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
MONTHS = "january|february|march|april|may|june|july|august|september|october|november|december"
LAST_YEAR = 2999  # what lies beyond it is no date but a way to say "without end"
UNITS = r"days?|weeks?|months?|years?"
COUNTS = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8,
          "nine": 9, "ten": 10, "a couple of": 2}  # fmt: skip
COUNT = rf"\d{{1,3}}|{'|'.join(sorted(COUNTS, key=len, reverse=True))}"
# What still hangs on the moment of speaking after all that can be resolved has been.
RELATIVE = re.compile(
    r"\b(?:yesterday|today|tonight|tomorrow|last night|this (?:morning|afternoon|evening|week|weekend|month|year)|"
    r"(?:last|next|this|coming|past) (?:\w+ )?(?:day|week|weekend|month|year|spring|summer|autumn|fall|winter|night|"
    rf"{'|'.join(WEEKDAYS)})|(?:{COUNT}|few|several|some) (?:{UNITS}|hours?|minutes?) (?:ago|from now)|"
    rf"in (?:{COUNT}|a few) (?:{UNITS}|hours?|minutes?)|the other day|right now|just now|at the moment|"
    r"the day (?:before yesterday|after tomorrow))\b",
    re.IGNORECASE,
)


def resolve(statement: str, *, said_at: datetime, zone: ZoneInfo) -> str:
    """`statement` with the relative dates that code can tell as dates; see `is_relative` for what is left."""
    today = said_at.astimezone(zone).date()
    for pattern, absolute in RULES:
        statement = pattern.sub(lambda match, of=absolute: of(match, today), statement)
    return statement


def is_relative(statement: str) -> bool:
    """Whether it says a time that only its moment makes clear."""
    return RELATIVE.search(statement) is not None


def parse_date(text: str | None, *, zone: ZoneInfo) -> datetime | None:
    """The moment of an ISO date (`2026`, `2026-11`, `2026-11-23`, or with a time); None for anything else."""
    match = re.fullmatch(r"(\d{4})(?:-(\d\d)(?:-(\d\d)(?:[T ].*)?)?)?", (text or "").strip())
    if match is None:
        return None
    try:
        day = date(int(match[1]), int(match[2] or 1), int(match[3] or 1))
        if day.year > LAST_YEAR:
            return None
        return datetime.combine(day, time(), zone).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _day(day: date) -> str:
    return f"{day.day} {day:%B %Y}"


def _moved(today: date, count: int, unit: str) -> str:
    """The time `count` units from today, no more exact than the unit."""
    try:
        if unit.startswith("day"):
            return f"on {_day(today + timedelta(days=count))}"
        if unit.startswith("week"):
            return f"around {_day(today + timedelta(weeks=count))}"
        months = today.year * 12 + today.month - 1 + count * (12 if unit.startswith("year") else 1)
        return f"in {months // 12}" if unit.startswith("year") else f"in {date(months // 12, months % 12 + 1, 1):%B %Y}"
    except (OverflowError, ValueError):
        return f"{abs(count)} {unit} ago"


def _number(word: str) -> int:
    return COUNTS.get(word.lower()) or int(word)


def _calendar(match: re.Match[str], today: date) -> str:
    step = {"last": -1, "past": -1, "this": 0, "next": 1, "coming": 1}[match["which"].lower()]
    unit = match["unit"].lower()
    if unit in ("week", "weekend"):
        monday = today - timedelta(days=today.weekday()) + timedelta(weeks=step)
        return f"in the week of {_day(monday)}" if unit == "week" else f"on the weekend of {_day(_saturday(monday))}"
    return _moved(today, step, unit)


def _saturday(monday: date) -> date:
    return monday + timedelta(days=5)


def _weekday(match: re.Match[str], today: date) -> str:
    wanted = WEEKDAYS.index(match["day"].lower())
    if match["which"].lower() in ("last", "past"):
        return f"on {_day(today - timedelta(days=(today.weekday() - wanted - 1) % 7 + 1))}"
    return f"on {_day(today + timedelta(days=(wanted - today.weekday() - 1) % 7 + 1))}"


Rule = tuple[re.Pattern[str], Callable[[re.Match[str], date], str]]


def _rule(pattern: str, absolute: Callable[[re.Match[str], date], str]) -> Rule:
    return re.compile(rf"\b(?:on |in |at )?(?:{pattern})\b", re.IGNORECASE), absolute


RULES: tuple[Rule, ...] = (
    _rule("(?:the )?day before yesterday", lambda _, today: f"on {_day(today - timedelta(days=2))}"),
    _rule("(?:the )?day after tomorrow", lambda _, today: f"on {_day(today + timedelta(days=2))}"),
    _rule("yesterday(?: (?:morning|afternoon|evening|night))?|last night",
          lambda _, today: f"on {_day(today - timedelta(days=1))}"),
    _rule("tomorrow(?: (?:morning|afternoon|evening|night))?",
          lambda _, today: f"on {_day(today + timedelta(days=1))}"),
    _rule("today|tonight|this (?:morning|afternoon|evening)", lambda _, today: f"on {_day(today)}"),
    _rule(rf"(?P<n>{COUNT}) (?P<unit>{UNITS}) ago",
          lambda match, today: _moved(today, -_number(match["n"]), match["unit"].lower())),
    _rule(rf"(?P<n>{COUNT}) (?P<unit>{UNITS}) from now",
          lambda match, today: _moved(today, _number(match["n"]), match["unit"].lower())),
    (re.compile(rf"\bin (?P<n>{COUNT}) (?P<unit>{UNITS})\b", re.IGNORECASE),
     lambda match, today: _moved(today, _number(match["n"]), match["unit"].lower())),
    _rule("(?:the )?(?P<which>last|past|this|next|coming) (?P<unit>week|weekend|month|year)", _calendar),
    (re.compile(rf"\bon (?P<day>{'|'.join(WEEKDAYS)})\b(?!,? (?:the )?\d)", re.IGNORECASE),
     lambda match, today: f"on {match['day'].capitalize()} (said on {_day(today)})"),
    _rule(rf"(?:the )?(?P<which>last|past|this|next|coming) (?P<day>{'|'.join(WEEKDAYS)})", _weekday),
)  # fmt: skip
