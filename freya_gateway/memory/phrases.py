"""What a user commands outright: "Remember that ...", "Forget ...", "No, actually ...". Found by code, in microseconds.

Only at the start of a sentence that the user says themself: not in questions, quotations, code or pasted texts. The
words are in commands.toml.
"""

import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final, Literal

from freya_gateway.memory.vocabulary import RELATION, USER, canonical_slot
from freya_gateway.memory.wording import TYPOGRAPHY

LONGEST_SCANNED: Final = 2000  # characters; a longer message is a pasted text
MOST_COMMANDS: Final = 8  # of one message

_DATA: Final[dict[str, Any]] = tomllib.loads(
    resources.files("freya_gateway.memory").joinpath("commands.toml").read_text("utf-8")
)
# Cheap and never wrong about a message that has none: looked for before anything is taken apart.
HINTS: Final[Sequence[str]] = _DATA["hints"]
QUOTED: Final = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|\"[^\"]{0,1000}\"|^>.*$", re.DOTALL | re.MULTILINE)
SENTENCE: Final = re.compile(r"[^.!?\n]+(?:[.!?](?!\s|$)[^.!?\n]*)*[.!?]*")
ENDING: Final = re.compile(r"(?i)(?:[\s,;.!]|\b(?:please|thanks|thank you|ok|okay|freya)\b)+$")
NOW: Final = re.compile(r"(?i)\s+(?:now|these days|nowadays|instead|at the moment)$")
GAP: Final = r"[\s,:;-]+"


def _any_of(patterns: Sequence[str]) -> str:
    return "|".join(sorted(patterns, key=len, reverse=True))


_BEFORE: Final = rf"(?:(?:{_any_of(_DATA['before'])}){GAP})*"
_ASKING: Final = rf"(?:(?P<asking>{_any_of(_DATA['asking'])}){GAP}(?:please{GAP})?)?"
_START: Final = rf"(?i)\s*{_BEFORE}{_ASKING}{_BEFORE}"
_LIKE_A_STATEMENT: Final = (
    rf"(?:that{GAP}|this{GAP}|:\s*|,\s*)?(?P<rest>{_DATA['opening']}\b(?=.{{0,60}}(?:\b|(?=')){_DATA['verb']}\b).+)"
)
REMEMBER: Final = re.compile(rf"{_START}(?:{_any_of(_DATA['remember'])})(?:{GAP}){_LIKE_A_STATEMENT}", re.DOTALL)
FORGET: Final = re.compile(
    rf"{_START}(?:{_any_of(_DATA['forget'])})(?:\s+that)?\s+(?P<rest>(?!to\b|when\b|how\b).+)", re.DOTALL
)
CORRECT: Final = re.compile(
    rf"(?i)\s*(?:no{GAP}|nope{GAP}|wait{GAP})?(?:{_any_of(_DATA['correct'])})\b[\s,:;.-]*(?P<rest>.*)"
)
IDLE: Final = re.compile(rf"(?i)(?:{_any_of(_DATA['idle'])})\b[\s.!,;]*(?:$|,|;|\b(?:let's|for now|ok|and)\b)")

Verb = Literal["remember", "forget", "correct"]


@dataclass(frozen=True, slots=True)
class Stated:
    """What a statement says, as far as code can tell: `value` is None where it is only noted."""

    slot: str
    kind: str
    value: str | None
    subject: str = USER


@dataclass(frozen=True, slots=True)
class Command:
    """One command: `sentence` as it was said, `rest` what it is about."""

    verb: Verb
    sentence: str
    rest: str


def has_command(text: str) -> bool:
    """Whether the text commands anything."""
    return next(commands(text), None) is not None


def commands(text: str) -> Iterator[Command]:
    """The commands in the text, in order."""
    if len(text) > LONGEST_SCANNED or not _hints(text.lower()):
        return
    own = QUOTED.sub(lambda match: " " * len(match[0]), text.translate(TYPOGRAPHY))
    found = (_command(sentence[0]) for sentence in SENTENCE.finditer(own))
    for _, command in zip(range(MOST_COMMANDS), filter(None, found), strict=False):
        yield command


def stated(statement: str) -> Stated:
    """What the statement says; a note, where no pattern fits."""
    for pattern, slot, kind in STATEMENTS:
        if match := pattern.fullmatch(NOW.sub("", statement)):
            named = match.groupdict().get("slot")
            return Stated(canonical_slot(named or slot), kind, match["value"].strip())
    return Stated("note", "note", None)


def _hints(lower: str) -> bool:
    return any(hint in lower for hint in HINTS)


def _command(sentence: str) -> Command | None:
    asks = sentence.rstrip().endswith("?")
    verbs: tuple[tuple[Verb, re.Pattern[str]], ...] = (("remember", REMEMBER), ("forget", FORGET), ("correct", CORRECT))
    for verb, pattern in verbs:
        match = pattern.match(sentence)
        if match is None or (asks and not match.groupdict().get("asking")):
            continue
        rest = ENDING.sub("", match["rest"].strip().rstrip("?"))
        if verb == "forget" and (not rest or IDLE.match(rest)):
            return None
        return Command(verb, sentence.strip(), rest)
    return None


def _statement(entry: dict[str, str]) -> tuple[re.Pattern[str], str, str]:
    parts = {
        "name": r"(?P<value>[^\W\d][\w'.-]*(?: [^\W\d][\w'.-]*){0,3})",
        "value": r"(?P<value>[^,;.!?\n]{1,60})",
        "relation": RELATION,
    }
    pattern = re.sub(r"\{(name|value|relation)\}", lambda match: parts[match[1]], entry["pattern"])
    return re.compile(f"(?i){pattern}"), entry.get("slot", ""), entry["kind"]


STATEMENTS: Final = tuple(_statement(entry) for entry in _DATA["statement"])
