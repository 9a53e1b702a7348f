"""The answers of the routes about memory as a whole."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, Field


class DeletedAnswer(BaseModel):
    """What went with a message."""

    messages: list[UUID]
    facts: Annotated[list[UUID], Field(description="Facts that stood on these messages alone.")]
    topics: Annotated[list[UUID], Field(description="Topics whose words are gone until they are made anew.")]


class EverythingDeletedAnswer(BaseModel):
    """How much of each kind went."""

    deleted: Annotated[
        dict[str, int],
        Field(examples=[{"messages": 240, "conversations": 12, "turns": 120, "facts": 31, "topics": 9}]),
    ]


class WorkAnswer(BaseModel):
    """How one kind of memory work stands."""

    kind: Literal["index", "facts", "topics"]
    done: Annotated[int, Field(description="The `seq` up to which messages have been worked through.")]
    unread: Annotated[int, Field(description="Messages that are still to do.")]
    attempts: Annotated[int, Field(description="Failed, since it last came further.")]
    dead: Annotated[bool, Field(description="Given up; `POST /v1/memory/retry` has it tried again.")]
    error: Annotated[str | None, Field(description="How the last attempt failed.")]
    last_run_at: datetime | None
    next_attempt_at: datetime | None


class MemoryStatusAnswer(BaseModel):
    """How far memory has come with what was said."""

    paused: bool
    work: list[WorkAnswer]


class RetriedAnswer(BaseModel):
    """The work that is tried again now."""

    retried: list[Literal["index", "facts", "topics"]]


class UsedFact(BaseModel):
    """A fact that the prompt held, as it is now."""

    id: UUID
    statement: Annotated[str | None, Field(description="As it reads now; null if deleted.")]
    status: Annotated[str, Field(description="Now: active, pending, superseded, retracted, expired or deleted.")]


class UsedTopic(BaseModel):
    """A topic that the prompt drew from, as it is now."""

    id: UUID
    title: str | None
    state: Annotated[str, Field(description="Now: current, stale or deleted.")]


class UsedMessage(BaseModel):
    """An older message that was recalled for the prompt."""

    id: UUID
    seq: Annotated[int | None, Field(description="Null if deleted since, like all that follows.")]
    role: Literal["user", "assistant"] | None
    said_at: datetime | None
    excerpt: str | None
    score: Annotated[float | None, Field(description="How well it answered the words; higher is better.")]


class WhyAnswer(BaseModel):
    """What Freya had in mind for a reply."""

    turn: UUID
    attempt: int
    tokens: int
    blocks: Annotated[dict[str, int], Field(description="Tokens of each block of the prompt, in its order.")]
    facts: list[UsedFact]
    topics: list[UsedTopic]
    recalled: list[UsedMessage]
    history: Annotated[int, Field(description="How many of the last messages it held, verbatim.")]


class ImportProblem(BaseModel):
    """Something in the file that is left out."""

    place: Annotated[str, Field(description="Where, e.g. `facts[3]`.")]
    problem: str


class ImportedAnswer(BaseModel):
    """What an import brought in or, as a dry run, would."""

    dry_run: bool
    restored: Annotated[bool, Field(description="The account is empty: facts hold as they did, and tombstones count.")]
    refused: Annotated[str | None, Field(description="Why it would not be done.")]
    conversations: int
    messages: int
    facts: int
    pending: Annotated[int, Field(description="Of these facts, those that wait for the user's consent.")]
    topics: int
    known: Annotated[int, Field(description="Conversations and facts that are there already, and are skipped.")]
    forgotten: Annotated[int, Field(description="Facts that the user had forgotten, and that stay so.")]
    left_out: Annotated[int, Field(description="Records that cannot be believed or stored.")]
    problems: Annotated[list[ImportProblem], Field(description="The first of them.")]
