"""The words of facts.toml as questions: which slot is meant, what is sensitive, what is only a mood."""

import re
import tomllib
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Any, Final

from freya_gateway.memory.wording import plain

USER: Final = "user"
USER_NAMES: Final = frozenset({"user", "the user", "i", "me", "myself", "self", "speaker", "the speaker", "person"})
SLOT_CHARACTERS: Final = re.compile(r"[^a-z0-9]+")
LONGEST_SLOT: Final = 40

_DATA: Final[dict[str, Any]] = tomllib.loads(
    resources.files("freya_gateway.memory").joinpath("facts.toml").read_text("utf-8")
)
SINGLE_VALUED: Final[frozenset[str]] = frozenset(_DATA["single_valued"])
RELATIONS: Final[Sequence[str]] = _DATA["relations"]
_CANONICAL: Final[dict[str, str]] = {alias: slot for slot, aliases in _DATA["aliases"].items() for alias in aliases}


def _any_of(words: Iterable[str]) -> str:
    longest_first = sorted(words, key=len, reverse=True)
    return "|".join(re.escape(word).replace(r"\*", r"\w*") for word in longest_first)


_SENSITIVE: Final = re.compile(rf"\b(?:{_any_of(w for words in _DATA['sensitive'].values() for w in words)})\b")
_MOOD: Final = re.compile(
    r"\b(?:is|was|are|am|feels?|felt|feeling|seems?|been|being)\b"
    rf"(?: (?!not\b)\w+){{0,2}} (?:{_any_of(_DATA['moods'])})\b(?! (?:with|about|of|at) (?:his|her|their|the)\b)"
)
_IMPERATIVE: Final = re.compile(rf"(?:{_any_of(_DATA['imperatives'])})\b")
_TALK: Final = re.compile(rf"(?:the )?(?:user|person|speaker) (?:{_any_of(_DATA['about_talk'])})\b")
_MACHINE: Final = re.compile(rf"\b(?:{_any_of(_DATA['about_machine'])})\b")
_OUTRIGHT: Final = re.compile(rf"\b(?:{_any_of(_DATA['outright'])})\b")
_ONE_OFF: Final = re.compile(rf"\b(?:{_any_of(_DATA['one_off'])})\b")
RELATION: Final = _any_of(RELATIONS)


def canonical_subject(subject: str, *, display_name: str | None = None) -> str:
    """`user` for the user, however they are called; else the name in plain form."""
    name = plain(subject)
    own = plain(display_name or "")
    return USER if name in USER_NAMES or (own and name == own) else name.removeprefix("the user's ")


def canonical_slot(slot: str) -> str:
    """A slot's own name: `Job title` and `occupation` are `job`."""
    name = SLOT_CHARACTERS.sub("_", plain(slot)).strip("_")[:LONGEST_SLOT]
    return _CANONICAL.get(name, name)


def is_sensitive(*texts: str | None) -> bool:
    """Whether it is about health, faith, sexuality or politics."""
    return any(_SENSITIVE.search(plain(text).replace("_", " ")) for text in texts if text)


def is_mood(statement: str, slot: str) -> bool:
    return slot in _DATA["mood_slots"] or _MOOD.search(plain(statement)) is not None


def is_imperative(statement: str) -> bool:
    return _IMPERATIVE.match(plain(statement)) is not None


def is_talk(statement: str) -> bool:
    """Whether it tells of the conversation or of who answers in it, instead of the person."""
    text = plain(statement)
    return _TALK.match(text) is not None or _MACHINE.search(text) is not None


def is_relation(slot: str, kind: str) -> bool:
    """Whether it tells whom the user has, so that a sentence about that person is one about the user."""
    return (
        kind == "relation" or re.fullmatch(f"(?:{RELATION}|pet|family)(?:s|_name)?", slot.replace("_", " ")) is not None
    )


def is_outright(quote: str) -> bool:
    """Whether these words state a lasting preference, and do not only ask for something once."""
    text = plain(quote)
    return _OUTRIGHT.search(text) is not None and _ONE_OFF.search(text) is None
