"""The tables of the pipe. Every row belongs to a user: keys and foreign keys start with `user_id`, so no join can
cross users. What is not obvious from a column's name stands beside it; what a row may look like, in a constraint.
"""
# SQLModel declares __tablename__ as computed; a plain name is what it documents.
# pyright: reportIncompatibleVariableOverride=false

from datetime import datetime
from typing import ClassVar
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Column, Computed, Index, SmallInteger, Text, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import JSONB, TSVECTOR
from sqlmodel import Field, SQLModel

from freya_gateway.db.columns import Json, default, moment, now, of_user, owned_by


class User(SQLModel, table=True):
    """The person who talks with Freya; `subject` is the user as the credential names them."""

    __tablename__: ClassVar[str] = "users"

    id: UUID = Field(primary_key=True)
    subject: str = Field(sa_type=Text, unique=True)
    display_name: str | None = Field(default=None, sa_type=Text)
    time_zone: str = default("'UTC'", sa_type=Text)
    memory_paused: bool = default("false")
    memory_key: UUID = default("gen_random_uuid()")  # keys the hashes of what was forgotten; goes with the user
    source: Json | None = Field(default=None, sa_type=JSONB)
    created_at: datetime = now()


class Stream(SQLModel, table=True):
    """A user's log: where it ends, and who may append. Its row is the user's lock, and the source of every `seq`."""

    __tablename__: ClassVar[str] = "streams"
    __table_args__ = (of_user(), {"postgresql_with": {"fillfactor": 50}})

    user_id: UUID = Field(primary_key=True)
    epoch: str = Field(sa_type=Text)
    head: int = default("0", sa_type=BigInteger)
    floor: int = default("0", sa_type=BigInteger)  # events up to here are evicted
    generation: int = default("0", sa_type=BigInteger)  # fencing token of the turn that may append
    last_message: int = default("0", sa_type=BigInteger)  # highest messages.seq


class Conversation(SQLModel, table=True):
    """Messages without a silence of six hours between them."""

    __tablename__: ClassVar[str] = "conversations"
    __table_args__ = (
        of_user(),
        CheckConstraint("grouped IN ('open', 'makeshift', 'done')", name="grouped"),
        Index(None, "user_id", "last_message_at"),
        Index("ix_conversations_ungrouped", "last_message_at", postgresql_where=text("grouped <> 'done'")),
    )

    user_id: UUID = Field(primary_key=True)
    id: UUID = Field(primary_key=True)
    title: str | None = Field(default=None, sa_type=Text)
    started_at: datetime = moment()
    last_message_at: datetime = moment()
    grouped: str = default("'open'", sa_type=Text)  # into topics: not yet, without a model for now, or done
    source: Json | None = Field(default=None, sa_type=JSONB)


class Turn(SQLModel, table=True):
    """One or more user messages and the one reply they cause."""

    __tablename__: ClassVar[str] = "turns"
    __table_args__ = (
        of_user(),
        owned_by("conversations", "conversation_id", ondelete="NO ACTION"),
        CheckConstraint("state IN ('queued', 'running', 'done')", name="state"),
        CheckConstraint(
            "status IN ('complete', 'stopped', 'interrupted', 'length', 'filtered', 'fallback')", name="status"
        ),
        CheckConstraint("(state = 'done') = (status IS NOT NULL)", name="status_when_done"),
        CheckConstraint("state <> 'running' OR (owner IS NOT NULL AND lease_expires_at IS NOT NULL)", name="lease"),
        Index("uq_turns_one_running", "user_id", unique=True, postgresql_where=text("state = 'running'")),
        Index("ix_turns_open", "user_id", "position", postgresql_where=text("state <> 'done'")),
        Index(
            "uq_turns_client_message_id",
            "user_id",
            "client_message_id",
            unique=True,
            postgresql_where=text("client_message_id IS NOT NULL"),
        ),
    )

    user_id: UUID = Field(primary_key=True)
    id: UUID = Field(primary_key=True)
    conversation_id: UUID
    state: str = Field(sa_type=Text)
    status: str | None = Field(default=None, sa_type=Text)
    urgent: bool = default("false")  # sent with if_busy = interrupt: runs before what is queued
    position: int = Field(sa_type=BigInteger)  # seq of its first user message: the order of the queue
    first_event: int = Field(sa_type=BigInteger)  # stream seq of its `listening`
    owner: str | None = Field(default=None, sa_type=Text)
    lease_expires_at: datetime | None = moment(default=None)
    generation: int = default("0", sa_type=BigInteger)
    attempt: int = default("0", sa_type=SmallInteger)
    lost: int = default("0", sa_type=SmallInteger)  # attempts whose process died
    stop_requested: bool = default("false")
    model: str | None = Field(default=None, sa_type=Text)
    finish_reason: str | None = Field(default=None, sa_type=Text)
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    ttft_ms: int | None = None
    error_code: str | None = Field(default=None, sa_type=Text)
    error_retryable: bool | None = None
    client_message_id: UUID | None = None  # of its message, if that was deleted: a late retry is not answered again
    created_at: datetime = now()
    started_at: datetime | None = moment(default=None)
    finished_at: datetime | None = moment(default=None)


class Message(SQLModel, table=True):
    """One utterance, verbatim. `exact` is set only where PostgreSQL's text cannot hold it (NUL, lone surrogates)."""

    __tablename__: ClassVar[str] = "messages"
    __table_args__ = (
        of_user(),
        owned_by("conversations", "conversation_id"),
        owned_by("turns", "turn_id", ondelete="NO ACTION"),
        CheckConstraint("role IN ('user', 'assistant')", name="role"),
        UniqueConstraint("user_id", "seq"),
        Index(
            "uq_messages_client_message_id",
            "user_id",
            "client_message_id",
            unique=True,
            postgresql_where=text("client_message_id IS NOT NULL"),
        ),
        Index("ix_messages_user_id_turn_id", "user_id", "turn_id", postgresql_where=text("turn_id IS NOT NULL")),
        Index("uq_messages_one_reply", "user_id", "turn_id", unique=True, postgresql_where=text("role = 'assistant'")),
        Index(
            "ix_messages_user_id_tsv",
            "user_id",
            "tsv",
            postgresql_using="gin",
            postgresql_with={"fastupdate": "off"},  # a search would read all that is pending
        ),
        Index(None, "user_id", "conversation_id", "seq"),
        {"postgresql_with": {"fillfactor": 85}},  # room for `segment`, which comes after the row
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
    search_text: str | None = Field(default=None, sa_type=Text)  # folded, see db/folding.py
    tsv: str | None = Field(
        default=None,
        sa_column=Column(TSVECTOR, Computed("to_tsvector('english', coalesce(search_text, ''))", persisted=True)),
    )
    segment: int | None = Field(default=None, sa_type=BigInteger)  # its first seq; null until indexed
    n_tokens: int = Field()
    is_question: bool = default("false")
    said_at: datetime = moment()
    client_message_id: UUID | None = None
    source: Json | None = Field(default=None, sa_type=JSONB)  # provenance of an imported message


class StreamEvent(SQLModel, table=True):
    """One numbered line of a user's stream. `data` is JSON text, not jsonb: it may hold NUL and lone surrogates."""

    __tablename__: ClassVar[str] = "stream_events"
    __table_args__ = (
        of_user(),
        Index("ix_stream_events_created_at", "created_at", postgresql_using="brin"),
    )

    user_id: UUID = Field(primary_key=True)
    seq: int = Field(sa_type=BigInteger, primary_key=True)
    turn_id: UUID | None = None
    kind: str = Field(sa_type=Text)
    attempt: int = default("0", sa_type=SmallInteger)
    data: str = Field(sa_type=Text)
    created_at: datetime = now()


class PromptTrace(SQLModel, table=True):
    """What a model call saw: ids, tokens and scores per block, never the text."""

    __tablename__: ClassVar[str] = "prompt_traces"
    __table_args__ = (owned_by("turns", "turn_id"),)

    user_id: UUID = Field(primary_key=True)
    turn_id: UUID = Field(primary_key=True)
    attempt: int = Field(sa_type=SmallInteger, primary_key=True)
    n_tokens: int
    blocks: Json = Field(sa_column=Column(JSONB, nullable=False))
    created_at: datetime = now()
