"""The tables. Every row belongs to a user: keys and foreign keys start with `user_id`, so no join can cross users.

The verbatim message is the ground truth; facts, segments and topics are views that point to it.
What is not obvious from a column's name stands beside it; what a row may look like stands in a constraint.
"""

from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Computed,
    DateTime,
    ForeignKeyConstraint,
    Index,
    SmallInteger,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TSVECTOR
from sqlmodel import Field, SQLModel

SQLModel.metadata.naming_convention = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}

Json = dict[str, Any]
Moment = DateTime(timezone=True)


def _now(**options: Any) -> Any:
    return Field(sa_type=Moment, sa_column_kwargs={"server_default": text("now()")}, **options)  # pyright: ignore[reportArgumentType]


def _moment(**options: Any) -> Any:
    return Field(sa_type=Moment, **options)  # pyright: ignore[reportArgumentType]


def _default(value: str, **options: Any) -> Any:
    return Field(sa_column_kwargs={"server_default": text(value)}, **options)


def _owned_by(table: str, column: str, ondelete: str = "CASCADE") -> ForeignKeyConstraint:
    return ForeignKeyConstraint(["user_id", column], [f"{table}.user_id", f"{table}.id"], ondelete=ondelete)


def _of_user() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(["user_id"], ["users.id"], ondelete="CASCADE")


class User(SQLModel, table=True):
    """The person who talks with Freya; `subject` is the user as the credential names them."""

    __tablename__: ClassVar[str] = "users"

    id: UUID = Field(primary_key=True)
    subject: str = Field(sa_type=Text, unique=True)
    display_name: str | None = Field(default=None, sa_type=Text)
    time_zone: str = _default("'UTC'", sa_type=Text)
    memory_paused: bool = _default("false")
    source: Json | None = Field(default=None, sa_type=JSONB)
    created_at: datetime = _now()


class Stream(SQLModel, table=True):
    """A user's log: where it ends, and who may append. Its row is the user's lock, and the source of every `seq`."""

    __tablename__: ClassVar[str] = "streams"
    __table_args__ = (_of_user(), {"postgresql_with": {"fillfactor": 50}})

    user_id: UUID = Field(primary_key=True)
    epoch: str = Field(sa_type=Text)
    head: int = _default("0", sa_type=BigInteger)
    floor: int = _default("0", sa_type=BigInteger)  # events up to here are evicted
    generation: int = _default("0", sa_type=BigInteger)  # fencing token of the turn that may append
    last_message: int = _default("0", sa_type=BigInteger)  # highest messages.seq


class Conversation(SQLModel, table=True):
    """Messages without a silence of six hours between them."""

    __tablename__: ClassVar[str] = "conversations"
    __table_args__ = (_of_user(), Index(None, "user_id", "last_message_at"))

    user_id: UUID = Field(primary_key=True)
    id: UUID = Field(primary_key=True)
    title: str | None = Field(default=None, sa_type=Text)
    started_at: datetime = _moment()
    last_message_at: datetime = _moment()
    source: Json | None = Field(default=None, sa_type=JSONB)


class Turn(SQLModel, table=True):
    """One or more user messages and the one reply they cause."""

    __tablename__: ClassVar[str] = "turns"
    __table_args__ = (
        _of_user(),
        _owned_by("conversations", "conversation_id", ondelete="NO ACTION"),
        CheckConstraint("state IN ('queued', 'running', 'done')", name="state"),
        CheckConstraint(
            "status IN ('complete', 'stopped', 'interrupted', 'length', 'filtered', 'fallback')", name="status"
        ),
        CheckConstraint("(state = 'done') = (status IS NOT NULL)", name="status_when_done"),
        CheckConstraint("state <> 'running' OR (owner IS NOT NULL AND lease_expires_at IS NOT NULL)", name="lease"),
        Index("uq_turns_one_running", "user_id", unique=True, postgresql_where=text("state = 'running'")),
        Index("ix_turns_open", "user_id", "position", postgresql_where=text("state <> 'done'")),
    )

    user_id: UUID = Field(primary_key=True)
    id: UUID = Field(primary_key=True)
    conversation_id: UUID
    state: str = Field(sa_type=Text)
    status: str | None = Field(default=None, sa_type=Text)
    urgent: bool = _default("false")  # sent with if_busy = interrupt: runs before what is queued
    position: int = Field(sa_type=BigInteger)  # seq of its first user message: the order of the queue
    first_event: int = Field(sa_type=BigInteger)  # stream seq of its `listening`
    owner: str | None = Field(default=None, sa_type=Text)
    lease_expires_at: datetime | None = _moment(default=None)
    generation: int = _default("0", sa_type=BigInteger)
    attempt: int = _default("0", sa_type=SmallInteger)
    lost: int = _default("0", sa_type=SmallInteger)  # attempts whose process died
    stop_requested: bool = _default("false")
    model: str | None = Field(default=None, sa_type=Text)
    finish_reason: str | None = Field(default=None, sa_type=Text)
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    ttft_ms: int | None = None
    error_code: str | None = Field(default=None, sa_type=Text)
    error_retryable: bool | None = None
    created_at: datetime = _now()
    started_at: datetime | None = _moment(default=None)
    finished_at: datetime | None = _moment(default=None)


class Message(SQLModel, table=True):
    """One utterance, verbatim. `exact` is set only where PostgreSQL's text cannot hold it (NUL, lone surrogates)."""

    __tablename__: ClassVar[str] = "messages"
    __table_args__ = (
        _of_user(),
        _owned_by("conversations", "conversation_id"),
        _owned_by("turns", "turn_id", ondelete="NO ACTION"),
        CheckConstraint("role IN ('user', 'assistant')", name="role"),
        UniqueConstraint("user_id", "seq"),
        Index(
            "uq_messages_client_message_id",
            "user_id",
            "client_message_id",
            unique=True,
            postgresql_where=text("client_message_id IS NOT NULL"),
        ),
        Index(
            "uq_messages_one_reply", "user_id", "turn_id", unique=True, postgresql_where=text("role = 'assistant'")
        ),
        Index("ix_messages_user_id_tsv", "user_id", "tsv", postgresql_using="gin"),
        Index(None, "user_id", "conversation_id", "seq"),
    )

    user_id: UUID = Field(primary_key=True)
    id: UUID = Field(primary_key=True)
    seq: int = Field(sa_type=BigInteger)
    conversation_id: UUID
    turn_id: UUID | None = None
    reply_to: int | None = Field(default=None, sa_type=BigInteger)  # seq of the user message that it answers
    role: str = Field(sa_type=Text)
    text: str = Field(sa_type=Text)
    exact: str | None = Field(default=None, sa_type=Text)  # the text as a JSON string, ASCII
    search_text: str | None = Field(default=None, sa_type=Text)  # folded; filled by the memory
    tsv: str | None = Field(
        default=None,
        sa_column=Column(TSVECTOR, Computed("to_tsvector('english', coalesce(search_text, ''))", persisted=True)),
    )
    n_terms: int = _default("0")
    n_tokens: int = Field()
    is_question: bool = _default("false")
    said_at: datetime = _moment()
    client_message_id: UUID | None = None
    source: Json | None = Field(default=None, sa_type=JSONB)  # provenance of an imported message


class Topic(SQLModel, table=True):
    """What some segments were about: for reading and naming; finding is done on the messages."""

    __tablename__: ClassVar[str] = "topics"
    __table_args__ = (
        _of_user(),
        _owned_by("topics", "continues", ondelete="NO ACTION"),
        CheckConstraint("state IN ('current', 'stale')", name="state"),
        Index(None, "user_id", "last_at"),
    )

    user_id: UUID = Field(primary_key=True)
    id: UUID = Field(primary_key=True)
    title: str = Field(sa_type=Text)
    keywords: list[str] = Field(sa_column=Column(ARRAY(Text), nullable=False, server_default=text("'{}'")))
    summary: str = _default("''", sa_type=Text)
    state: str = _default("'current'", sa_type=Text)  # stale: a message of it was deleted since
    continues: UUID | None = None
    first_at: datetime = _moment()
    last_at: datetime = _moment()
    source: Json | None = Field(default=None, sa_type=JSONB)
    created_at: datetime = _now()
    updated_at: datetime = _now()


class Segment(SQLModel, table=True):
    """Up to ten messages in a row without a gap of 30 minutes, cut without a model."""

    __tablename__: ClassVar[str] = "segments"
    __table_args__ = (
        _of_user(),
        _owned_by("conversations", "conversation_id"),
        _owned_by("topics", "topic_id", ondelete="NO ACTION"),
        CheckConstraint("first_seq <= last_seq", name="range"),
        UniqueConstraint("user_id", "first_seq"),
        Index(None, "user_id", "topic_id"),
    )

    user_id: UUID = Field(primary_key=True)
    id: UUID = Field(primary_key=True)
    conversation_id: UUID
    topic_id: UUID | None = None
    first_seq: int = Field(sa_type=BigInteger)
    last_seq: int = Field(sa_type=BigInteger)
    first_at: datetime = _moment()
    last_at: datetime = _moment()
    n_terms: int = _default("0")


class Fact(SQLModel, table=True):
    """A short statement about the user. Never overwritten: a change closes its interval and opens another."""

    __tablename__: ClassVar[str] = "facts"
    __table_args__ = (
        _of_user(),
        _owned_by("facts", "supersedes", ondelete="NO ACTION"),
        CheckConstraint("status IN ('active', 'pending', 'superseded', 'retracted', 'expired')", name="status"),
        CheckConstraint("valid_to IS NULL OR valid_from IS NULL OR valid_from <= valid_to", name="interval"),
        Index(
            "uq_facts_single_valued",
            "user_id",
            "subject",
            "slot",
            unique=True,
            postgresql_where=text("status = 'active' AND single_valued"),
        ),
        Index(
            "uq_facts_statement",
            "user_id",
            "statement_hash",
            unique=True,
            postgresql_where=text("status = 'active'"),
        ),
        Index(None, "user_id", "status"),
    )

    user_id: UUID = Field(primary_key=True)
    id: UUID = Field(primary_key=True)
    subject: str = Field(sa_type=Text)
    slot: str = Field(sa_type=Text)
    single_valued: bool = _default("false")
    kind: str = Field(sa_type=Text)
    statement: str = Field(sa_type=Text)
    statement_hash: bytes  # of the normalised statement
    value: str | None = Field(default=None, sa_type=Text)
    n_tokens: int = _default("0")
    status: str = Field(sa_type=Text)
    valid_from: datetime | None = _moment(default=None)
    valid_to: datetime | None = _moment(default=None)
    confirmations: int = _default("1")
    contradictions: int = _default("0")
    explicit: bool = _default("false")
    pinned: bool = _default("false")
    locked: bool = _default("false")  # edited or locked by the user: no model changes it
    sensitive: bool = _default("false")
    expires_at: datetime | None = _moment(default=None)
    supersedes: UUID | None = None
    source: Json | None = Field(default=None, sa_type=JSONB)
    created_at: datetime = _now()
    updated_at: datetime = _now()


class FactSource(SQLModel, table=True):
    """The user's words that a fact stands on; without a source left, a learned fact goes."""

    __tablename__: ClassVar[str] = "fact_sources"
    __table_args__ = (
        _owned_by("facts", "fact_id"),
        _owned_by("messages", "message_id"),
        Index(None, "user_id", "message_id"),
    )

    user_id: UUID = Field(primary_key=True)
    fact_id: UUID = Field(primary_key=True)
    message_id: UUID = Field(primary_key=True)
    quote: str = Field(sa_type=Text)


class FactEvent(SQLModel, table=True):
    """Every change of a fact, for its history and for undo."""

    __tablename__: ClassVar[str] = "fact_events"
    __table_args__ = (_owned_by("facts", "fact_id"), Index(None, "user_id", "fact_id", "at"))

    user_id: UUID = Field(primary_key=True)
    id: UUID = Field(primary_key=True)
    fact_id: UUID
    action: str = Field(sa_type=Text)
    actor: str = Field(sa_type=Text)
    before: Json | None = Field(default=None, sa_type=JSONB)
    after: Json | None = Field(default=None, sa_type=JSONB)
    at: datetime = _now()


class FactTombstone(SQLModel, table=True):
    """A keyed hash of what was forgotten: it is not learned again, and does not say what it was."""

    __tablename__: ClassVar[str] = "fact_tombstones"
    __table_args__ = (_of_user(),)

    user_id: UUID = Field(primary_key=True)
    digest: bytes = Field(primary_key=True)
    created_at: datetime = _now()


class StreamEvent(SQLModel, table=True):
    """One numbered line of a user's stream. `data` is JSON text, not jsonb: it may hold NUL and lone surrogates."""

    __tablename__: ClassVar[str] = "stream_events"
    __table_args__ = (
        _of_user(),
        Index("ix_stream_events_created_at", "created_at", postgresql_using="brin"),
    )

    user_id: UUID = Field(primary_key=True)
    seq: int = Field(sa_type=BigInteger, primary_key=True)
    turn_id: UUID | None = None
    kind: str = Field(sa_type=Text)
    attempt: int = _default("0", sa_type=SmallInteger)
    data: str = Field(sa_type=Text)
    created_at: datetime = _now()


class PromptTrace(SQLModel, table=True):
    """What a model call saw: ids, tokens and scores per block, never the text."""

    __tablename__: ClassVar[str] = "prompt_traces"
    __table_args__ = (_owned_by("turns", "turn_id"),)

    user_id: UUID = Field(primary_key=True)
    turn_id: UUID = Field(primary_key=True)
    attempt: int = Field(sa_type=SmallInteger, primary_key=True)
    n_tokens: int
    blocks: Json = Field(sa_column=Column(JSONB, nullable=False))
    created_at: datetime = _now()
