"""The tables of the memory: views of the messages, each with pointers to what it stands on."""
# SQLModel declares __tablename__ as computed; a plain name is what it documents.
# pyright: reportIncompatibleVariableOverride=false

from datetime import datetime
from typing import ClassVar
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Column, Index, SmallInteger, Text, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlmodel import Field, SQLModel

from freya_gateway.db.columns import Json, default, moment, now, of_user, owned_by


class Topic(SQLModel, table=True):
    """What some segments were about: for reading and naming; finding is done on the messages."""

    __tablename__: ClassVar[str] = "topics"
    __table_args__ = (
        of_user(),
        owned_by("topics", "continues", ondelete="NO ACTION"),
        CheckConstraint("state IN ('current', 'stale')", name="state"),
        Index(None, "user_id", "last_at"),
    )

    user_id: UUID = Field(primary_key=True)
    id: UUID = Field(primary_key=True)
    title: str = Field(sa_type=Text)
    keywords: list[str] = Field(sa_column=Column(ARRAY(Text), nullable=False, server_default=text("'{}'")))
    summary: str = default("''", sa_type=Text)
    state: str = default("'current'", sa_type=Text)  # stale: a message of it was deleted since
    continues: UUID | None = None
    first_at: datetime = moment()
    last_at: datetime = moment()
    source: Json | None = Field(default=None, sa_type=JSONB)
    created_at: datetime = now()
    updated_at: datetime = now()


class MemoryWork(SQLModel, table=True):
    """How far a kind of memory work has come with a user's messages: what lies beyond `done_seq` is still to do."""

    __tablename__: ClassVar[str] = "memory_work"
    __table_args__ = (
        of_user(),
        CheckConstraint("kind IN ('index', 'facts', 'topics')", name="kind"),
        CheckConstraint("(owner IS NULL) = (lease_expires_at IS NULL)", name="lease"),
    )

    user_id: UUID = Field(primary_key=True)
    kind: str = Field(sa_type=Text, primary_key=True)
    done_seq: int = default("0", sa_type=BigInteger)
    owner: str | None = Field(default=None, sa_type=Text)
    lease_expires_at: datetime | None = moment(default=None)
    attempts: int = default("0", sa_type=SmallInteger)  # failed, since it last came further
    not_before: datetime | None = moment(default=None)  # the next attempt, after a failure
    dead: bool = default("false")  # given up; someone has to look
    error_code: str | None = Field(default=None, sa_type=Text)
    last_run_at: datetime | None = moment(default=None)


class CollectionStats(SQLModel, table=True):
    """What BM25 needs to know of a user's indexed messages as a whole."""

    __tablename__: ClassVar[str] = "collection_stats"
    __table_args__ = (of_user(),)

    user_id: UUID = Field(primary_key=True)
    n_messages: int = default("0", sa_type=BigInteger)
    n_terms: int = default("0", sa_type=BigInteger)  # sum of the messages' numbers of lexemes


class TermStats(SQLModel, table=True):
    """In how many of a user's indexed messages a lexeme stands."""

    __tablename__: ClassVar[str] = "term_stats"
    __table_args__ = (
        of_user(),
        Index(
            "ix_term_stats_lexeme",
            "user_id",
            "lexeme",
            postgresql_using="gin",
            postgresql_ops={"lexeme": "gin_trgm_ops"},
        ),
        {"postgresql_with": {"fillfactor": 70}},  # counts change in place
    )

    user_id: UUID = Field(primary_key=True)
    lexeme: str = Field(sa_type=Text, primary_key=True)
    n_messages: int = default("0", sa_type=BigInteger)


class Segment(SQLModel, table=True):
    """Up to ten messages in a row without a gap of 30 minutes, cut without a model."""

    __tablename__: ClassVar[str] = "segments"
    __table_args__ = (
        of_user(),
        owned_by("conversations", "conversation_id"),
        owned_by("topics", "topic_id", ondelete="NO ACTION"),
        CheckConstraint("first_seq <= last_seq", name="range"),
        UniqueConstraint("user_id", "first_seq"),
        # Partial, so that the planner never takes it for a segment's own key.
        Index("ix_segments_topic_id", "user_id", "topic_id", postgresql_where=text("topic_id IS NOT NULL")),
    )

    user_id: UUID = Field(primary_key=True)
    id: UUID = Field(primary_key=True)
    conversation_id: UUID
    topic_id: UUID | None = None
    first_seq: int = Field(sa_type=BigInteger)
    last_seq: int = Field(sa_type=BigInteger)
    first_at: datetime = moment()
    last_at: datetime = moment()


class Fact(SQLModel, table=True):
    """A short statement about the user. Never overwritten: a change closes its interval and opens another."""

    __tablename__: ClassVar[str] = "facts"
    __table_args__ = (
        of_user(),
        owned_by("facts", "supersedes", ondelete="NO ACTION"),
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
    single_valued: bool = default("false")
    kind: str = Field(sa_type=Text)
    statement: str = Field(sa_type=Text)
    statement_hash: bytes  # of the normalised statement
    value: str | None = Field(default=None, sa_type=Text)
    n_tokens: int = default("0")
    status: str = Field(sa_type=Text)
    valid_from: datetime | None = moment(default=None)
    valid_to: datetime | None = moment(default=None)
    confirmations: int = default("1")
    contradictions: int = default("0")
    explicit: bool = default("false")
    pinned: bool = default("false")
    locked: bool = default("false")  # edited or locked by the user: no model changes it
    sensitive: bool = default("false")
    expires_at: datetime | None = moment(default=None)
    supersedes: UUID | None = None
    source: Json | None = Field(default=None, sa_type=JSONB)
    said_at: datetime = now()  # when it was last said
    created_at: datetime = now()
    updated_at: datetime = now()


class FactSource(SQLModel, table=True):
    """The user's words that a fact stands on; without a source left, a learned fact goes."""

    __tablename__: ClassVar[str] = "fact_sources"
    __table_args__ = (
        owned_by("facts", "fact_id"),
        owned_by("messages", "message_id"),
        Index(None, "user_id", "message_id"),
    )

    user_id: UUID = Field(primary_key=True)
    fact_id: UUID = Field(primary_key=True)
    message_id: UUID = Field(primary_key=True)
    quote: str = Field(sa_type=Text)


class FactEvent(SQLModel, table=True):
    """Every change of a fact, for its history and for undo."""

    __tablename__: ClassVar[str] = "fact_events"
    __table_args__ = (owned_by("facts", "fact_id"), Index(None, "user_id", "fact_id", "at"))

    user_id: UUID = Field(primary_key=True)
    id: UUID = Field(primary_key=True)
    fact_id: UUID
    action: str = Field(sa_type=Text)
    actor: str = Field(sa_type=Text)
    before: Json | None = Field(default=None, sa_type=JSONB)
    after: Json | None = Field(default=None, sa_type=JSONB)
    at: datetime = now()


class FactTombstone(SQLModel, table=True):
    """A keyed hash of what was forgotten: it is not learned again, and does not say what it was."""

    __tablename__: ClassVar[str] = "fact_tombstones"
    __table_args__ = (of_user(),)

    user_id: UUID = Field(primary_key=True)
    digest: bytes = Field(primary_key=True)
    created_at: datetime = now()


class ObeyedCommand(SQLModel, table=True):
    """A message whose "remember ..." or "forget ..." has been carried out: once, however often it is read."""

    __tablename__: ClassVar[str] = "obeyed_commands"
    __table_args__ = (owned_by("messages", "message_id"),)

    user_id: UUID = Field(primary_key=True)
    message_id: UUID = Field(primary_key=True)
