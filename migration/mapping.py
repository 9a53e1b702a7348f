"""The mapping file: which documents are messages, and which of their fields say what. Data only, checked as a whole."""

import tomllib
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import Literal
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from freya_gateway.memory.extraction import FactKind
from migration.documents import Document, Timestamp, Value

PRESETS = resources.files("migration").joinpath("presets")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECONDS_FROM = 100_000_000_000  # seconds beyond it lie after the year 5000


class MappingError(Exception):
    """The mapping file is none; one line per problem."""


class Collection(BaseModel):
    """Documents of one kind; each list names fields, the first that is there counts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    paths: tuple[str, ...]
    kind: Literal["message", "fact", "topic", "skip"]
    rule: str = ""
    unless: tuple[str, ...] = ()  # a document with one of these fields holds more than the rule knows: a reject
    text: tuple[str, ...] = ()
    role: tuple[str, ...] = ()
    is_user: tuple[str, ...] = ()
    is_bot: tuple[str, ...] = ()
    time: tuple[str, ...] = ()
    owner: tuple[str, ...] = ()
    conversation: tuple[str, ...] = ()
    slot: tuple[str, ...] = ()  # of a fact: what it is about
    value: tuple[str, ...] = ()
    topics: tuple[str, ...] = ()  # of a message: names or ids of what it is about
    title: tuple[str, ...] = ()  # of a topic
    keywords: tuple[str, ...] = ()
    summary: tuple[str, ...] = ()


class Mapping(BaseModel):
    """A whole mapping file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    collections: tuple[Collection, ...]
    roles: dict[Literal["user", "assistant"], tuple[str, ...]] = Field(default_factory=dict)
    facts: dict[FactKind, tuple[str, ...]] = Field(default_factory=dict)  # slots by kind; others are notes
    skip: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Policy:
    """What the documents do not say: `owner` of what names nobody, `zone` of times without one."""

    owner: str | None = None
    infer_roles: bool = False
    zone: str | None = None
    local_as_utc: bool = False  # stored times are local ones of `zone` that were taken for UTC


@dataclass(frozen=True, slots=True)
class MappedMessage:
    """One message; `role` None is to be inferred."""

    owner: str
    role: str | None
    text: str
    said_at: datetime
    conversation: str | None = None
    topics: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MappedFact:
    """Something known of a user; `said_at` None where the document has no time."""

    owner: str
    slot: str
    value: str
    said_at: datetime | None


@dataclass(frozen=True, slots=True)
class MappedTopic:
    """Something that was talked about."""

    owner: str
    title: str
    keywords: tuple[str, ...]
    summary: str
    last_at: datetime | None


@dataclass(frozen=True, slots=True)
class Skipped:
    rule: str


@dataclass(frozen=True, slots=True)
class Rejected:
    code: str


Outcome = MappedMessage | MappedFact | MappedTopic | Skipped | Rejected


@dataclass(frozen=True, slots=True)
class Plan:
    """What the documents of an origin become."""

    origin: str
    mapping: Mapping
    policy: Policy

    def outcome(self, document: Document) -> Outcome | None:
        return map_document(self.mapping, document, self.policy)


def load_mapping(path: Path | None = None) -> Mapping:
    """The mapping file, or the default preset. Raises MappingError."""
    text = path.read_text("utf-8") if path else PRESETS.joinpath("default.toml").read_text("utf-8")
    try:
        return Mapping.model_validate(tomllib.loads(text))
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
        raise MappingError("\n".join(problems)) from error
    except tomllib.TOMLDecodeError as error:
        raise MappingError(str(error)) from error


def map_document(mapping: Mapping, document: Document, policy: Policy) -> Outcome | None:
    """What becomes of the document; None where the mapping knows nothing of its collection."""
    if document.path[0] in mapping.skip:
        return Skipped("skip")
    for collection in mapping.collections:
        for pattern in collection.paths:
            names = _fits(pattern, document.path)
            if names is not None:
                return _mapped(mapping, collection, document, names=names, policy=policy)
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


def _mapped(
    mapping: Mapping, collection: Collection, document: Document, *, names: dict[str, str], policy: Policy
) -> Outcome:
    fields = document.fields
    if any(fields.get(name) not in (None, "") for name in collection.unless):
        return Rejected("holds_more")
    if collection.kind == "skip":
        return Skipped(collection.rule)
    owner = _name(_first(fields, collection.owner)) or names.get("user") or policy.owner
    if owner is None:
        return Rejected("no_owner")
    if collection.kind == "fact":
        return _fact(collection, fields, owner=_spelled(owner), policy=policy)
    outcome = _message(mapping, collection, fields, owner=_spelled(owner), policy=policy)
    if collection.kind == "topic":
        return _topic(collection, fields, owner=_spelled(owner), policy=policy)
    conversation = _name(_first(fields, collection.conversation)) or names.get("conversation")
    return replace(outcome, conversation=conversation) if isinstance(outcome, MappedMessage) else outcome


def _message(
    mapping: Mapping, collection: Collection, fields: dict[str, Value], *, owner: str, policy: Policy
) -> MappedMessage | Rejected:
    text = _first(fields, collection.text)
    if not isinstance(text, str) or not text:
        return Rejected("no_text")
    role = _role(mapping, collection, fields)
    if role is None and (_said(collection, fields) or not policy.infer_roles):
        return Rejected("unknown_role" if _said(collection, fields) else "no_role")
    moment = moment_of(_first(fields, collection.time), policy)
    if moment is None:
        return Rejected("no_time")
    return MappedMessage(owner, role, text, moment, topics=_texts(_first(fields, collection.topics)))


def _topic(collection: Collection, fields: dict[str, Value], *, owner: str, policy: Policy) -> MappedTopic | Rejected:
    title = _name(_first(fields, collection.title))
    if title is None:
        return Rejected("no_title")
    summary = _name(_first(fields, collection.summary)) or ""
    keywords = _texts(_first(fields, collection.keywords))
    return MappedTopic(owner, title, keywords, summary, moment_of(_first(fields, collection.time), policy))


def _texts(value: Value) -> tuple[str, ...]:
    items = value if isinstance(value, list) else [value]
    return tuple(item for item in items if isinstance(item, str) and item.strip())


def _fact(collection: Collection, fields: dict[str, Value], *, owner: str, policy: Policy) -> MappedFact | Rejected:
    value = _listed(_first(fields, collection.value))
    if value is None:
        return Rejected("no_value")
    slot = _name(_first(fields, collection.slot)) or ""
    return MappedFact(owner, slot, value, moment_of(_first(fields, collection.time), policy))


def _listed(value: Value) -> str | None:
    """A value as words: texts, numbers, and lists of them."""
    match value:
        case bool():
            return None
        case str() | int() | float():
            return str(value).strip() or None
        case list():
            words = [_listed(item) for item in value]
            return ", ".join(word for word in words if word) or None if None not in words else None
        case _:
            return None


def _first(fields: dict[str, Value], names: tuple[str, ...]) -> Value:
    return next((fields[name] for name in names if fields.get(name) not in (None, "")), None)


def _name(value: Value) -> str | None:
    return value.strip() or None if isinstance(value, str) else None


def _spelled(owner: str) -> str:
    return owner.strip().lower() if "@" in owner else owner.strip()


def _said(collection: Collection, fields: dict[str, Value]) -> bool:
    """Whether the document says anything of its speaker."""
    return _first(fields, (*collection.role, *collection.is_user, *collection.is_bot)) is not None


def _role(mapping: Mapping, collection: Collection, fields: dict[str, Value]) -> str | None:
    is_user, is_bot = _first(fields, collection.is_user), _first(fields, collection.is_bot)
    if isinstance(is_user, bool):
        return "user" if is_user else "assistant"
    if isinstance(is_bot, bool):
        return "assistant" if is_bot else "user"
    said = _first(fields, collection.role)
    word = said.strip().lower() if isinstance(said, str) else None
    return next((role for role, words in mapping.roles.items() if word in words), None)


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
        case bool() | None:
            return None
        case int() | float():
            seconds = value / 1000 if value >= MILLISECONDS_FROM else value
            return EPOCH + timedelta(seconds=seconds) if seconds > 0 else None
        case str() if value.strip().isdigit():
            return _moment(int(value))
        case str():
            return datetime.fromisoformat(value.strip())
        case _:
            return None
