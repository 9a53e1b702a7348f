"""What a document becomes: one message, fact or topic, several of them, or none for a reason that has a name."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import chain

from migration.documents import Document, Value
from migration.fields import Fields, first, moment_in, name_of, text_of, texts_of, words_of
from migration.mapping import (
    Collection,
    Kind,
    MappedFact,
    MappedMessage,
    MappedTopic,
    Mapping,
    Outcome,
    Piece,
    Rejected,
    Settings,
    Skipped,
)

LONGEST_OWNER = 255  # characters: as long as the name of a user may be
USER, ASSISTANT = "user", "assistant"


@dataclass(frozen=True, slots=True)
class _Place:
    """What holds for all that lies in a document."""

    settings: Settings
    owner: str
    conversation: str | None = None
    said_at: datetime | None = None  # of what has no time of its own

    @property
    def mapping(self) -> Mapping:
        return self.settings.mapping


def map_document(settings: Settings, document: Document) -> tuple[Piece, ...] | None:
    """Its pieces, at least one; None where the mapping knows nothing of its collection."""
    if document.path[0] in settings.mapping.skip:
        return (Piece("", Skipped("skip"), document.fields),)
    found = _rule(settings, document)
    if found is None:
        return None
    pieces = tuple(_pieces(settings, found[0], document.fields, found[1])) or (Piece("", Skipped("empty")),)
    return tuple(piece if piece.pointer else replace(piece, fields=document.fields) for piece in pieces)


def piece_at(settings: Settings, document: Document, place: int) -> Piece:
    """One of its pieces, that is known to be there."""
    return (map_document(settings, document) or ())[place]


def rule_of(settings: Settings, document: Document) -> str:
    """What the mapping takes the document for; empty where it knows nothing of its collection."""
    if document.path[0] in settings.mapping.skip:
        return "skip"
    found = _rule(settings, document)
    return "" if found is None else found[0].rule or found[0].kind


def _rule(settings: Settings, document: Document) -> tuple[Collection, dict[str, str]] | None:
    for collection in settings.mapping.collections:
        for pattern in collection.paths:
            names = _fits(pattern, document.path)
            if names is not None:
                return collection, names
    return None


def _fits(pattern: str, path: tuple[str, ...]) -> dict[str, str] | None:
    parts = pattern.split("/")
    names: dict[str, str] = {}
    if len(parts) != len(path):
        return None
    for part, segment in zip(parts, path, strict=True):
        if part.startswith("{"):
            names[part[1:-1]] = segment
        elif part not in ("*", segment):
            return None
    return names


def _pieces(settings: Settings, collection: Collection, fields: Fields, names: dict[str, str]) -> Iterator[Piece]:
    inside: dict[str, Kind] = {
        name: kind for name, kind in collection.inside.items() if fields.get(name) not in (None, "", [], {})
    }
    if any(fields.get(name) not in (None, "") for name in collection.unless):
        yield Piece("", Rejected("holds_more"))
        return
    if collection.kind == "skip" and not inside:
        yield Piece("", Skipped(collection.rule))
        return
    owner = _owner(settings, name_of(first(fields, collection.owner)) or names.get("user"))
    if isinstance(owner, Rejected):
        yield Piece("", owner)
        return
    conversation = name_of(first(fields, collection.conversation)) or names.get("conversation")
    place = _Place(settings, owner, conversation, moment_in(fields, collection.time, settings.policy))
    for name, kind in inside.items():
        yield from _inside(place, kind, name, fields[name])
    if collection.kind != "skip" and not (inside and text_of(first(fields, collection.text)) is None):
        yield from _document(replace(place, said_at=None), collection, fields)


def _owner(settings: Settings, said: str | None) -> str | Rejected:
    owner = said or settings.policy.owner
    if owner is None:
        return Rejected("no_owner")
    spelled = owner.strip().lower() if "@" in owner else owner.strip()
    known = settings.mapping.owners.get(owner.strip().lower(), spelled)
    return known if known.isprintable() and 0 < len(known) <= LONGEST_OWNER else Rejected("bad_owner")


def _document(place: _Place, collection: Collection, fields: Fields) -> Iterator[Piece]:
    match collection.kind:
        case "fact":
            yield Piece("", _fact(place, collection, fields))
        case "topic":
            yield Piece("", _topic(place, collection, fields))
        case _:
            yield from _messages(place, collection, fields, pointer="")


def _messages(place: _Place, collection: Collection, fields: Fields, *, pointer: str) -> Iterator[Piece]:
    """A message, or a message and its answer."""
    answer = text_of(first(fields, collection.answer))
    if answer is None:
        yield Piece(pointer, _message(place, collection, fields))
        return
    told = _role(place, collection, fields)
    if told not in (None, USER) or (told is None and _said(collection, fields)):
        yield Piece(pointer, Rejected("holds_more"))
        return
    ways = ((USER, text_of(first(fields, collection.text))), (ASSISTANT, answer))
    for role, text in ways:
        if text is not None:
            outcome = _spoken(place, collection, fields, role=role, text=text)
            yield Piece(_below(pointer, role), outcome, fields)


def _message(place: _Place, collection: Collection, fields: Fields) -> Outcome:
    role = _role(place, collection, fields)
    if role == "skip":
        return Skipped("not_said")
    text = text_of(first(fields, collection.text))
    if text is None:
        return Rejected("no_text")
    if role is None and _said(collection, fields):
        return Rejected("unknown_role")
    if role is None and not place.settings.policy.infer_roles:
        return Rejected("no_role")
    return _spoken(place, collection, fields, role=role, text=text)


def _spoken(place: _Place, collection: Collection, fields: Fields, *, role: str | None, text: str) -> Outcome:
    moment = moment_in(fields, collection.time, place.settings.policy) or place.said_at
    if moment is None:
        return Rejected("no_time")
    topics = texts_of(first(fields, collection.topics))
    return MappedMessage(place.owner, role, text, moment, place.conversation, topics)


def _topic(place: _Place, collection: Collection, fields: Fields) -> MappedTopic | Rejected:
    title = name_of(first(fields, collection.title))
    if title is None:
        return Rejected("no_title")
    summary = text_of(first(fields, collection.summary)) or ""
    keywords = texts_of(first(fields, collection.keywords))
    moment = moment_in(fields, collection.time, place.settings.policy) or place.said_at
    return MappedTopic(place.owner, title, keywords, summary, moment)


def _fact(place: _Place, collection: Collection, fields: Fields, *, slot: str = "") -> MappedFact | Rejected:
    value = words_of(first(fields, collection.value))
    if value is None:
        return Rejected("no_value")
    moment = moment_in(fields, collection.time, place.settings.policy) or place.said_at
    return MappedFact(place.owner, name_of(first(fields, collection.slot)) or slot, value, moment)


def _inside(place: _Place, kind: Kind, name: str, value: Value) -> Iterator[Piece]:
    """What a field holds, each with its place in it."""
    reading = place.mapping.reading(kind)
    if kind == "fact":
        named = name.lower() in chain.from_iterable(place.mapping.facts.values())
        yield from _facts(place, reading, value, pointer=_below("", name), words=(name,) if named else ())
        return
    for key, item in _items(value):
        fields, pointer = _fields(item), _below(_below("", name), key)
        if kind == "topic":
            yield Piece(pointer, _topic(place, reading, fields or {reading.title[0]: item}), item)
        else:
            found = _messages(place, reading, fields or {reading.text[0]: item}, pointer=pointer)
            yield from (replace(piece, fields=item) for piece in found)


def _facts(
    place: _Place, reading: Collection, value: Value, *, pointer: str, words: tuple[str, ...]
) -> Iterator[Piece]:
    """A map's leaves are facts, each about the names that lead to it; a list of plain values is one fact."""
    slot = " ".join(words)
    holds_maps = isinstance(value, list) and any(isinstance(item, dict) for item in value)
    if isinstance(value, dict) and words_of(first(value, reading.value)) is not None:
        yield Piece(pointer, _fact(place, reading, value, slot=slot), value)
    elif isinstance(value, dict) or holds_maps:
        for key, item in _items(value):
            inner = (*words, key) if isinstance(value, dict) else words
            yield from _facts(place, reading, item, pointer=_below(pointer, key), words=inner)
    elif value not in (None, "", []):
        said = words_of(value)
        fact = Rejected("no_value") if said is None else MappedFact(place.owner, slot, said, place.said_at)
        yield Piece(pointer, fact, value)


def _items(value: Value) -> Iterator[tuple[str, Value]]:
    """Of a list or a map, in order; a single value is a list of one."""
    if isinstance(value, dict):
        yield from sorted(value.items())
    else:
        yield from ((str(place), item) for place, item in enumerate(value if isinstance(value, list) else [value]))


def _fields(item: Value) -> Fields | None:
    """A map, also one that was written as JSON, as LangChain does; its `data` are fields like the others."""
    if isinstance(item, str | bytes):
        try:
            item = json.loads(item)
        except (ValueError, RecursionError):
            return None
    if not isinstance(item, dict):
        return None
    data = item.get("data")
    return {**item, **data} if isinstance(data, dict) else item


def _below(pointer: str, key: str) -> str:
    """As JSON pointers are written (RFC 6901), without the first slash."""
    escaped = key.replace("~", "~0").replace("/", "~1")
    return f"{pointer}/{escaped}" if pointer else escaped


def _said(collection: Collection, fields: Fields) -> bool:
    """Whether the document says anything of its speaker."""
    return first(fields, (*collection.role, *collection.is_user, *collection.is_bot)) is not None


def _role(place: _Place, collection: Collection, fields: Fields) -> str | None:
    is_user, is_bot = first(fields, collection.is_user), first(fields, collection.is_bot)
    if isinstance(is_user, bool):
        return USER if is_user else ASSISTANT
    if isinstance(is_bot, bool):
        return ASSISTANT if is_bot else USER
    said = name_of(first(fields, collection.role))
    if said is None:
        return None
    word = said.strip().lower()
    known = next((role for role, words in place.mapping.roles.items() if word in words), None)
    return known or (USER if _owner(place.settings, said) == place.owner else None)
