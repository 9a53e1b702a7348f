"""What a question leans on beside its words: whose messages it is about, and of which time."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from freya_gateway.db.folding import fold
from freya_gateway.db.search import Period

SAID_THEN, SAID_SOON_AFTER = 1.5, 1.25  # factors for messages of the time itself, and of the time just after
YEARS_BACK = 20  # for a month without a year

ABOUT_USER = re.compile(r"\b(?:i|me|my|mine|myself|we|us|our|ours|im|ive|id)\b")
ABOUT_COMPANION = re.compile(r"\b(?:you|your|yours|yourself)\b")
ASKS_MEMORY = re.compile(
    r"\b(?:do|did|can|could|don't|didn't) (?:you|u) (?:still |even )?(?:remember|recall|forget)\b"
    r"|\b(?:remember|recall) (?:when|how|what|that time|the time|where|who|which)\b|\bremind me\b"
    r"|\bwhat (?:did|have|had) (?:i|we|you) (?:ever )?(?:say|said|tell|told|talk|talked|mention|mentioned|discuss)"
    r"|\b(?:have|had|did) i (?:ever |already )?(?:tell|told|mention|mentioned|say|said)\b"
    r"|\b(?:the )?last time (?:i|we)\b|\bi (?:told|mentioned|said)\b[^.?!]{0,300}\?"
)
ASKS = re.compile(
    r"(?:who|whose|what|when|where|which|why|how|is|are|was|were|do|does|did|can|could|should|would|will|have|has|had"
    r"|tell me|name)\b"
)

MONTHS = ("january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
          "december")  # fmt: skip
SEASONS = {"spring": 3, "summer": 6, "autumn": 9, "fall": 9, "winter": 12}  # first month, northern
AMBIGUOUS = {"march", "may", "august", "spring", "fall"}  # words of their own: only after one that makes them a time
NAMED_TIME = re.compile(
    rf"\b(?P<before>in|of|during|since|last|this|next|until|by|before|after|early|late|mid|every|\d{{1,2}}(?:st|nd|rd|th)?)?"
    rf"[\s-]*(?:the )?\b(?P<name>{'|'.join((*MONTHS, *SEASONS, 'jan', 'feb', 'aug', 'sept', 'oct', 'nov', 'dec'))})\b"
    r"(?:\s+(?:of\s+)?(?P<year>(?:19|20)\d\d)\b|\s+(?P<day>\d{1,2})(?:st|nd|rd|th)?\b(?:,?\s+(?P<year2>(?:19|20)\d\d))?)?"
)
YEAR = re.compile(r"\b(?:19|20)\d\d\b")
AGO = re.compile(
    r"\b(?P<n>\d{1,3}|an?|one|two|three|four|five|six|a couple of|a few) (?P<unit>day|week|month|year)s? ago\b"
)
LAST = re.compile(r"\b(?P<which>last|this|past) (?P<unit>night|week|weekend|month|year)\b")
COUNTS = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "a couple of": 2, "a few": 3}
# What PostgreSQL's English configuration drops, three letters and more: no slip of the finger on a name.
COMMON = frozenset({
    "the", "and", "any", "are", "was", "were", "been", "being", "have", "has", "had", "having", "does", "did",
    "doing", "but", "because", "until", "while", "with", "about", "against", "between", "into", "through", "during",
    "before", "after", "above", "below", "from", "down", "out", "off", "over", "under", "again", "further", "then",
    "once", "here", "there", "when", "where", "why", "how", "all", "both", "each", "few", "more", "most", "other",
    "some", "such", "nor", "not", "only", "own", "same", "than", "too", "very", "can", "will", "just", "don",
    "should", "now", "what", "which", "who", "whom", "this", "that", "these", "those", "him", "his", "himself", "she",
    "her", "hers", "herself", "its", "itself", "they", "them", "their", "theirs", "themselves", "our", "ours",
    "ourselves", "you", "your", "yours", "yourself", "yourselves",
})  # fmt: skip
DAYS = {"night": 1, "day": 1, "week": 7, "weekend": 7, "month": 30, "year": 365}


@dataclass(frozen=True, slots=True)
class Names:
    """What the user and Freya are called."""

    user: str | None
    companion: str


def asks(text: str) -> bool:
    """Whether the words ask anything: worth more of the prompt than what is said in passing."""
    return "?" in text or ASKS.match(_plain(text)) is not None or asks_memory(text)


def asks_memory(text: str) -> bool:
    """Whether the user asks outright what is remembered: worth more of the prompt."""
    return ASKS_MEMORY.search(_plain(text)) is not None


def leans_to(text: str, names: Names, *, known: Sequence[str] = ()) -> str | None:
    """The role whose messages a question is about; None where it is about both or neither.

    `known` are the lexemes of the question that need no guess: no slip of the finger on a name.
    """
    plain = _plain(text)
    words = re.findall(r"[^\W\d_]{2,}", fold(plain))
    strange = [w for w in words if len(w) > 2 and w not in COMMON and not w.startswith(tuple(known))]
    user = ABOUT_USER.search(plain) is not None or _named(words, strange, names.user)
    freya = ABOUT_COMPANION.search(plain) is not None or _named(words, strange, names.companion)
    if user == freya:
        return None
    return "user" if user else "assistant"


def periods(text: str, *, now: datetime, zone: ZoneInfo) -> tuple[Period, ...]:
    """The times that a question names, against the user's calendar."""
    plain, local = _plain(text), now.astimezone(zone)
    spans = dict.fromkeys((*_named_times(plain, local), *_relative_times(plain, local)))
    return tuple(period for starts, ends in spans for period in _weighed(starts, ends))


def _plain(text: str) -> str:
    return " ".join(text.lower().replace("’", "'").split())


def _named(words: Sequence[str], strange: Sequence[str], name: str | None) -> bool:
    """Whether one of the words is the name's first word; of the strange ones, also nearly."""
    first = next(iter(fold(name or "").split()), None)
    return first is not None and (
        first in words or (len(first) > 2 and any(_one_slip(word, first) for word in strange))
    )


def _one_slip(a: str, b: str) -> bool:
    """One letter too many, too few, wrong, or two swapped."""
    if len(a) > len(b):
        a, b = b, a
    if len(b) - len(a) > 1:
        return False
    if len(a) < len(b):
        return any(b[:place] + b[place + 1 :] == a for place in range(len(b)))
    differing = [place for place in range(len(a)) if a[place] != b[place]]
    if len(differing) == 2:
        first, second = differing
        return second == first + 1 and a[first] == b[second] and a[second] == b[first]
    return len(differing) == 1


def _weighed(starts: datetime, ends: datetime) -> Iterator[Period]:
    yield Period(starts, ends, SAID_THEN)
    yield Period(ends, ends + min(ends - starts, timedelta(days=31)), SAID_SOON_AFTER)


def _named_times(plain: str, local: datetime) -> Iterator[tuple[datetime, datetime]]:
    with_month: set[str] = set()
    for match in NAMED_TIME.finditer(plain):
        name, year = match["name"], match["year"] or match["year2"]
        if name in AMBIGUOUS and not (match["before"] or year or match["day"]):
            continue
        if year:
            with_month.add(year)
        years = [int(year)] if year else range(local.year, local.year - YEARS_BACK, -1)
        spans = [_named_span(name, y, local) for y in years]
        if match["before"] == "last":
            yield from [span for span in spans if span[1] <= local][:1]
        else:
            yield from [span for span in spans if span[0] <= local]
    for year in sorted(set(YEAR.findall(plain)) - with_month):
        yield _first(int(year), 1, local), _first(int(year) + 1, 1, local)


def _named_span(name: str, year: int, local: datetime) -> tuple[datetime, datetime]:
    if name in SEASONS:
        return _first(year, SEASONS[name], local), _first(year, SEASONS[name] + 3, local)
    month = next(place for place, whole in enumerate(MONTHS, 1) if whole.startswith(name[:3]))
    return _first(year, month, local), _first(year, month + 1, local)


def _relative_times(plain: str, local: datetime) -> Iterator[tuple[datetime, datetime]]:
    today = local.replace(hour=0, minute=0, second=0, microsecond=0)
    if "yesterday" in plain:
        yield today - timedelta(days=1), today
    for match in AGO.finditer(plain):
        count = COUNTS.get(match["n"]) or int(match["n"])
        slack = timedelta(days=DAYS[match["unit"]] / 2)
        moment = today - timedelta(days=count * DAYS[match["unit"]])
        yield moment - slack, moment + slack + timedelta(days=1)
    for match in LAST.finditer(plain):
        yield _last(match["which"], match["unit"], today)


def _last(which: str, unit: str, today: datetime) -> tuple[datetime, datetime]:
    """A calendar month or year, a week from Monday; "past" and nights and weekends reach to now."""
    tomorrow = today + timedelta(days=1)
    if which == "past" or unit in ("night", "weekend"):
        return today - timedelta(days=DAYS[unit]), tomorrow
    if unit == "week":
        this = today - timedelta(days=today.weekday())
    else:
        this = today.replace(day=1) if unit == "month" else today.replace(day=1, month=1)
    if which == "this":
        return this, tomorrow
    before = this - timedelta(days=1)
    return {"week": this - timedelta(days=7), "month": before.replace(day=1)}.get(
        unit, before.replace(day=1, month=1)
    ), this


def _first(year: int, month: int, local: datetime) -> datetime:
    """The first moment of a month, which may be beyond December."""
    return datetime(year + (month - 1) // 12, (month - 1) % 12 + 1, 1, tzinfo=local.tzinfo)
