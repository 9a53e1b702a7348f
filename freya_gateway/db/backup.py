"""The records of an export, one class per kind: what is written into the file, and what an import believes of it.

Limits are for the import: a file can come from anywhere. `text` is as PostgreSQL holds it; `exact` is there only where
that differs from what was said (see docs/decisions/exact-text.md), so that every JSON reader can read the file.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from msgspec import Meta

from freya_gateway.db.fact_history import Action, Actor
from freya_gateway.db.facts import Fact

FORMAT = "freya-export"
VERSION = 1

Moment = Annotated[datetime, Meta(tz=True)]
Text = Annotated[str, Meta(max_length=400_000)]
Line = Annotated[str, Meta(max_length=500)]
Number = Annotated[int, Meta(ge=0, lt=2**53)]


@dataclass(frozen=True, slots=True)
class BackupAccount:
    """Settings; `memory_key` is what the tombstones are made with."""

    display_name: Line | None
    time_zone: Line
    memory_paused: bool
    memory_key: UUID


@dataclass(frozen=True, slots=True)
class BackupConversation:
    id: UUID
    title: Line | None
    started_at: Moment
    last_message_at: Moment
    grouped: Literal["open", "makeshift", "done"]
    source: Any = None


@dataclass(frozen=True, slots=True)
class BackupMessage:
    """`reply_to` is the seq of the message that it answers."""

    id: UUID
    seq: Number
    conversation: UUID
    role: Literal["user", "assistant"]
    text: Text
    said_at: Moment
    exact: Text | None = None
    turn: UUID | None = None
    reply_to: Number | None = None
    source: Any = None


@dataclass(frozen=True, slots=True)
class BackupQuote:
    """The user's words that a fact stands on."""

    message: UUID
    quote: Annotated[str, Meta(max_length=2000)]


@dataclass(frozen=True, slots=True)
class BackupChange:
    """One change of a fact."""

    action: Action
    actor: Actor
    before: Fact | None
    after: Fact
    at: Moment


@dataclass(frozen=True, slots=True)
class BackupFact:
    """A fact with what it stands on and what happened to it, the first first."""

    fact: Fact
    sources: tuple[BackupQuote, ...]
    history: tuple[BackupChange, ...]
    source: Any = None


@dataclass(frozen=True, slots=True)
class BackupTopic:
    id: UUID
    title: Line
    keywords: tuple[Line, ...]
    summary: Annotated[str, Meta(max_length=4000)]
    state: Literal["current", "stale"]
    continues: UUID | None
    first_at: Moment
    last_at: Moment
    source: Any = None


@dataclass(frozen=True, slots=True)
class BackupSegment:
    """Messages in a row, by their seqs, and the topic that they belong to."""

    conversation: UUID
    topic: UUID | None
    first_seq: Number
    last_seq: Number


@dataclass(frozen=True, slots=True)
class Backup:
    """A whole export. `tombstones` are hexadecimal."""

    format: Literal["freya-export"]
    version: Literal[1]
    exported_at: Moment
    account: BackupAccount
    conversations: tuple[BackupConversation, ...]
    messages: tuple[BackupMessage, ...]
    facts: tuple[BackupFact, ...]
    tombstones: tuple[Annotated[str, Meta(pattern="^(?:[0-9a-f]{2}){8,32}$")], ...]
    topics: tuple[BackupTopic, ...]
    segments: tuple[BackupSegment, ...]
