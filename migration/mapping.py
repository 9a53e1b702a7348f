"""The mapping file: which documents are messages, and which of their fields say what. Data only, checked as a whole."""

import tomllib
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from freya_gateway.memory.extraction import FactKind
from migration.documents import Value

PRESETS = resources.files("migration").joinpath("presets")
Kind = Literal["message", "fact", "topic"]


class MappingError(Exception):
    """The mapping file, or an option beside it, is none; one line per problem."""


class Collection(BaseModel):
    """Documents of one kind; each list names fields, the first that says something counts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    paths: tuple[str, ...]
    kind: Literal["message", "fact", "topic", "skip"]
    rule: str = ""
    inside: dict[str, Kind] = Field(default_factory=dict)  # fields that hold many: read like documents of that kind
    unless: tuple[str, ...] = ()  # a document with one of these fields holds more than the rule knows: a reject
    text: tuple[str, ...] = ()
    answer: tuple[str, ...] = ()  # of a message: what was answered to it, in the same document
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
    roles: dict[Literal["user", "assistant", "skip"], tuple[str, ...]] = Field(default_factory=dict)
    owners: dict[str, str] = Field(default_factory=dict)  # spellings of a user, in lower case: the user
    facts: dict[FactKind, tuple[str, ...]] = Field(default_factory=dict)  # slots by kind; others are notes
    skip: tuple[str, ...] = ()

    @property
    def inside(self) -> frozenset[str]:
        """Fields that hold many."""
        return frozenset(name for found in self.collections for name in found.inside)

    def reading(self, kind: Kind) -> Collection:
        """How documents of that kind are read: by the first collection of them."""
        return next((found for found in self.collections if found.kind == kind), Collection(paths=(), kind=kind))


class Policy(BaseModel):
    """What the documents do not say: `owner` of what names nobody, `zone` of times without one; and whether a history
    may come after what a user has said in Freya already."""

    model_config = ConfigDict(frozen=True)

    owner: str | None = None
    infer_roles: bool = False
    zone: str | None = None
    local_as_utc: bool = False  # stored times are local ones of `zone` that were taken for UTC
    append: bool = False

    def check(self) -> None:
        """Raises MappingError."""
        try:
            ZoneInfo(self.zone or "UTC")
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise MappingError(f"there is no time zone {self.zone!r}; one is Europe/Berlin") from error


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
class Piece:
    """What becomes of a document, or of something inside it, at `pointer`: a JSON pointer, without its first slash."""

    pointer: str
    outcome: Outcome
    fields: Value = None  # what it was made of


class Settings(BaseModel):
    """What documents become; kept with the run, for what comes later."""

    model_config = ConfigDict(frozen=True)

    mapping: Mapping
    policy: Policy


def load_mapping(path: Path | None = None) -> Mapping:
    """The mapping file, or the default preset. Raises MappingError."""
    try:
        text = path.read_text("utf-8") if path else PRESETS.joinpath("default.toml").read_text("utf-8")
        return Mapping.model_validate(tomllib.loads(text))
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
        raise MappingError("\n".join(problems)) from error
    except (tomllib.TOMLDecodeError, OSError, UnicodeDecodeError) as error:
        raise MappingError(f"{path}: {error}") from error
