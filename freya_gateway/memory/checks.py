"""What a proposed fact must pass before anything is changed. Each check is a function that raises Rejected."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

from freya_gateway.memory import dates
from freya_gateway.memory.extraction import Operation, SaidMessage
from freya_gateway.memory.ledger import Support
from freya_gateway.memory.masking import holds_secret
from freya_gateway.memory.vocabulary import RELATION, USER, is_imperative, is_mood, is_relation, is_talk
from freya_gateway.memory.wording import find_quote, plain

LONGEST_STATEMENT: Final = 300  # characters of what a model proposes
LONGEST_VALUE: Final = 120
LONGEST_QUOTE: Final = 500
ANSWER_WORDS: Final = 5  # a message as short as this answers a question, and leaves its subject out

LINK: Final = re.compile(r"(?i)https?:|www\.|\b[\w-]+\.(?:com|org|net|io|dev|app|ai|co|me|info|xyz)\b|\S@\S+\.\w")
MARKUP: Final = re.compile(
    r"[<>{}\[\]`|\\]|\*\*|__|^#|^[-*] |[\x00-\x1f\x7f-\x9f\u2028\u2029\u200b-\u200f\u202a-\u202e]"
)
SECOND_PERSON: Final = re.compile(r"(?i)\b(?:you|your|yours|yourself|u r)\b")
ABOUT_ANOTHER: Final = re.compile(
    r"(?:and |but |so |because |that |well,? )*(?:he|she|they|"
    rf"(?:my|our|his|her|their|a|the) (?:\w+ ){{0,2}}?(?:{RELATION})(?! and (?:i|me)\b))(?:'s|'re|'ve|'d)?\b"
)
FIRST_PERSON: Final = re.compile(r"\b(?:i|im|ive|me|my|mine|myself|we|us|our|ours)\b")
SELF: Final = re.compile(r"\b(?:i|im|ive|me|we|us)\b")
NAMED_FIRST: Final = re.compile(
    r"[A-Z][\w'-]+ (?:is|was|has|had|works?|worked|lives?|lived|moved|got|goes|went|loves?|likes?|hates?|started|quit|"
    r"lost|left|studies|studied|plays?|comes?|came)\b"
)
CLAUSE_END: Final = re.compile(r"[.!?;\n]+|, (?:and|but|so) |\b(?:and|but) (?=(?:i|he|she|they|my)\b)")
CAPITALISED: Final = re.compile(r"(?<![.!?] )(?<!^)\b[A-ZÀ-Þ]\w+")
NUMBER: Final = re.compile(r"\d+")
DATE: Final = re.compile(
    rf"\b(?:\d{{1,2}}(?:st|nd|rd|th)? (?:of )?(?:{dates.MONTHS})|(?:{dates.MONTHS}) \d{{1,2}}(?:st|nd|rd|th)?\b"
    r"|\d{4}(?:-\d\d){0,2}\b)",
    re.IGNORECASE,
)
CALENDAR: Final = frozenset([*dates.MONTHS.split("|"), *dates.WEEKDAYS, "user"])


class Rejected(Exception):
    """A proposal that is not followed; `reason` is a word for the log."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Window:
    """The messages that were shown, by seq, and the user's calendar."""

    messages: Mapping[int, SaidMessage]
    zone: ZoneInfo


def supported(operation: Operation, window: Window) -> Support:
    """What the operation stands on: those of its messages that hold the quote."""
    if not operation.seq:
        raise Rejected("no_source")
    cited = [window.messages.get(seq) for seq in dict.fromkeys(operation.seq)]
    sources = [message for message in cited if message is not None and message.role == "user" and message.trusted]
    if len(sources) < len(cited):
        raise Rejected("foreign_source")
    if len(operation.quote) > LONGEST_QUOTE or holds_secret(operation.quote):
        raise Rejected("quote")
    holding = [message for message in sources if find_quote(operation.quote, message.text)]
    if not holding:
        raise Rejected("invented_quote")
    if any(find_quote(operation.quote, sentence) for message in holding for sentence in message.obeyed):
        raise Rejected("command")
    return Support(tuple(m.id for m in holding), operation.quote.strip(), max(m.said_at for m in holding))


def sentence(statement: str, *, said_at: datetime, zone: ZoneInfo) -> str:
    """The statement as it may be stored: one plain line in the third person, its dates absolute."""
    text = " ".join(statement.split())
    if not text or len(text) > LONGEST_STATEMENT or not any(character.isalpha() for character in text):
        raise Rejected("length")
    if LINK.search(text) or MARKUP.search(text):
        raise Rejected("markup")
    if SECOND_PERSON.search(text) or is_imperative(text):
        raise Rejected("address")
    if is_talk(text):
        raise Rejected("talk")
    if holds_secret(text):
        raise Rejected("secret")
    text = dates.resolve(text, said_at=said_at, zone=zone)
    if dates.is_relative(text):
        raise Rejected("relative_date")
    return text[0].upper() + text[1:]


def check_mood(statement: str, slot: str) -> None:
    if is_mood(statement, slot):
        raise Rejected("mood")


def check_names(statement: str, value: str | None, *, known: Collection[str]) -> None:
    """No name and no number that nobody said: `known` are the texts they may come from. Dates are worked out."""
    said = plain(" ".join(known))
    names = (plain(word).removesuffix("'s") for word in CAPITALISED.findall(statement))
    told = [*(name for name in names if name not in CALENDAR), *NUMBER.findall(DATE.sub("", statement))]
    if any(word not in said for word in told):
        raise Rejected("invented_name")
    if value and not any(part in said for part in re.findall(r"\w{2,}|\d", plain(value))):
        raise Rejected("invented_value")


def check_subject(operation: Operation, subject: str, window: Window) -> None:
    """What another person does is not the user's: the clause that holds the quote must not be about someone else."""
    if subject != USER:
        return
    for seq in operation.seq:
        text = window.messages[seq].text
        found = find_quote(operation.quote, text)
        if found is None or len(text.split()) <= ANSWER_WORDS:
            continue
        quote, clause = plain(operation.quote), _clause(plain(text), found[0])
        named = NAMED_FIRST.match(_as_written(text, clause)) and not FIRST_PERSON.search(clause)
        another = (ABOUT_ANOTHER.match(clause) or ABOUT_ANOTHER.match(quote)) and not SELF.search(quote)
        if named or (another and not is_relation(operation.slot, operation.kind)):
            raise Rejected("wrong_subject")


def _clause(text: str, place: int) -> str:
    """The clause of `text` in which `place` stands."""
    start, end = 0, len(text)
    for match in CLAUSE_END.finditer(text):
        if match.end() <= place:
            start = match.end()
        elif match.start() > place:
            end = match.start()
            break
    return text[start:end].strip()


def _as_written(text: str, clause: str) -> str:
    """The clause with its capitals, as far as it can be found."""
    place = " ".join(text.split()).casefold().find(clause)
    return " ".join(text.split())[place : place + len(clause)] if place >= 0 else clause
