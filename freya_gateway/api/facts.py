"""The facts, as their user reads, writes and forgets them."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from freya_gateway.api.dependencies import CurrentUser, GatewayState
from freya_gateway.api.errors import problem_responses
from freya_gateway.db.fact_history import FactEvent
from freya_gateway.db.facts import Fact, Source
from freya_gateway.memory.facts import Edit, NewFact

LONGEST_STATEMENT = 500  # characters
REFUSALS = (401, 404, 422, 503)
CHANGE_REFUSALS = (401, 404, 409, 422, 503)

Status = Literal["active", "pending", "superseded", "retracted", "expired"]
Kind = Literal["identity", "relation", "preference", "plan", "event", "note"]

router = APIRouter(prefix="/v1/facts", tags=["facts"])


def _one_line(text: str) -> str:
    line = text.strip()
    if not line:
        raise PydanticCustomError("blank", "Holds no visible character")
    if not line.isprintable():
        raise PydanticCustomError("not_one_line", "Holds a line break or another control character")
    return line


Line = Annotated[str, AfterValidator(_one_line)]
Statement = Annotated[
    Line,
    Field(max_length=LONGEST_STATEMENT, description="One line of plain text.", examples=["My sister is called Ana"]),
]
Slot = Annotated[Line, Field(max_length=40, description="What is told: `name`, `home_city`, `employer`, `sister` …")]
Value = Annotated[Line, Field(max_length=120, description="The value alone.", examples=["Ana"])]


class NewFactBody(BaseModel):
    """A fact that the user writes."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"statement": "My sister is called Ana", "slot": "sister", "value": "Ana"}]},
    )

    statement: Statement
    subject: Annotated[Line, Field(max_length=80, description="`user`, or the person it is about.")] = "user"
    slot: Slot = "note"
    kind: Kind = "note"
    value: Value | None = None
    pinned: bool = False


class EditBody(BaseModel):
    """What changes of a fact; what is left out stays."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"statement": "My sister is called Anna"}, {"pinned": True}]}
    )

    statement: Statement | None = None
    slot: Slot | None = None
    kind: Kind | None = None
    value: Value | None = None
    pinned: Annotated[bool | None, Field(description="First in every prompt, and never crowded out.")] = None
    locked: Annotated[bool | None, Field(description="No model changes it.")] = None


class FactAnswer(BaseModel):
    """A fact. `status` says whether it holds; `valid_from` and `valid_to`, when it did."""

    id: UUID
    status: Status
    subject: str
    slot: str
    kind: str
    statement: str
    value: str | None
    pinned: bool
    locked: bool
    sensitive: bool
    explicit: Annotated[bool, Field(description="Said outright, or written by the user.")]
    confirmations: Annotated[int, Field(description="How often it was said.")]
    contradictions: Annotated[int, Field(description="How often something else was said while it was locked.")]
    valid_from: datetime | None
    valid_to: datetime | None
    expires_at: datetime | None
    supersedes: Annotated[UUID | None, Field(description="The fact whose place it took, or wants to take.")]
    said_at: datetime
    created_at: datetime


class SourceAnswer(BaseModel):
    """Words of the user that a fact stands on."""

    message: UUID
    seq: int
    quote: str
    said_at: datetime


class WholeFactAnswer(FactAnswer):
    """A fact with its sources."""

    sources: list[SourceAnswer]


class FactPage(BaseModel):
    """Facts, newest first. `before` is the next page's, null on the last."""

    facts: list[FactAnswer]
    before: UUID | None


class ChangeAnswer(BaseModel):
    """One change of a fact; `before` is null where the fact was made by it."""

    action: str
    actor: Literal["user", "model", "command", "system"]
    at: datetime
    before: FactAnswer | None
    after: FactAnswer


class HistoryAnswer(BaseModel):
    """What happened to a fact, the last first."""

    changes: list[ChangeAnswer]


@router.get("", response_model=FactPage, summary="List facts", responses=problem_responses(401, 422, 503))
async def list_facts(
    gateway: GatewayState,
    caller: CurrentUser,
    *,
    status: Annotated[Status | None, Query(description="Only these; all without it.")] = None,
    before: Annotated[UUID | None, Query(description="Only facts behind this one.")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> FactPage:
    """What is known of the user, newest first; `pending` facts wait for the user's word."""
    found = await gateway.facts.page(caller.user_id, status=status, before=before, limit=limit + 1)
    more = len(found) > limit
    return FactPage(facts=[_answer(fact) for fact in found[:limit]], before=found[limit - 1].id if more else None)


@router.post(
    "",
    status_code=201,
    response_model=FactAnswer,
    summary="Add a fact",
    responses=problem_responses(401, 409, 422, 503),
)
async def add_fact(body: NewFactBody, gateway: GatewayState, caller: CurrentUser) -> FactAnswer:
    """Stores what the user writes; it is locked, and takes the place of what held its single-valued slot."""
    return _answer(await gateway.facts.add(caller.user_id, NewFact(**body.model_dump())))


@router.get(
    "/{fact_id}", response_model=WholeFactAnswer, summary="Look at a fact", responses=problem_responses(*REFUSALS)
)
async def get_fact(fact_id: UUID, gateway: GatewayState, caller: CurrentUser) -> WholeFactAnswer:
    """A fact, and the words it stands on."""
    fact, sources = await gateway.facts.get(caller.user_id, fact_id)
    return WholeFactAnswer(**_answer(fact).model_dump(), sources=[_source(source) for source in sources])


@router.patch(
    "/{fact_id}",
    response_model=FactAnswer,
    summary="Edit, pin or lock a fact",
    responses=problem_responses(*CHANGE_REFUSALS),
)
async def edit_fact(fact_id: UUID, body: EditBody, gateway: GatewayState, caller: CurrentUser) -> FactAnswer:
    """Changes a fact that holds or waits. One that the user has rewritten is locked, unless they unlock it."""
    return _answer(await gateway.facts.edit(caller.user_id, fact_id, Edit(**body.model_dump())))


@router.delete("/{fact_id}", status_code=204, summary="Forget a fact", responses=problem_responses(*REFUSALS))
async def forget_fact(fact_id: UUID, gateway: GatewayState, caller: CurrentUser) -> Response:
    """Deletes a fact with its history, for good; it is not learned again."""
    await gateway.facts.forget(caller.user_id, fact_id)
    return Response(status_code=204)


@router.get(
    "/{fact_id}/history",
    response_model=HistoryAnswer,
    summary="Read a fact's history",
    responses=problem_responses(*REFUSALS),
)
async def get_history(fact_id: UUID, gateway: GatewayState, caller: CurrentUser) -> HistoryAnswer:
    """Every change of a fact, the last first: who made it, and what it was before and after."""
    return HistoryAnswer(changes=[_change(event) for event in await gateway.facts.history(caller.user_id, fact_id)])


@router.post(
    "/{fact_id}/undo",
    response_model=FactAnswer,
    summary="Undo a fact's last change",
    responses=problem_responses(*CHANGE_REFUSALS),
)
async def undo_fact(fact_id: UUID, gateway: GatewayState, caller: CurrentUser) -> FactAnswer:
    """Takes back the last change, and what changed with it; a second undo does it again."""
    return _answer(await gateway.facts.undo(caller.user_id, fact_id))


@router.post(
    "/{fact_id}/accept",
    response_model=FactAnswer,
    summary="Agree to a pending fact",
    responses=problem_responses(*CHANGE_REFUSALS),
)
async def accept_fact(fact_id: UUID, gateway: GatewayState, caller: CurrentUser) -> FactAnswer:
    """From now on the fact holds, and what it contradicts does not."""
    return _answer(await gateway.facts.accept(caller.user_id, fact_id))


@router.post(
    "/{fact_id}/reject",
    response_model=FactAnswer,
    summary="Refuse a pending fact",
    responses=problem_responses(*CHANGE_REFUSALS),
)
async def reject_fact(fact_id: UUID, gateway: GatewayState, caller: CurrentUser) -> FactAnswer:
    """The fact does not hold, and is not learned again."""
    return _answer(await gateway.facts.reject(caller.user_id, fact_id))


def _answer(fact: Fact) -> FactAnswer:
    return FactAnswer.model_validate(fact, from_attributes=True)


def _source(source: Source) -> SourceAnswer:
    return SourceAnswer(message=source.message_id, seq=source.seq, quote=source.quote, said_at=source.said_at)


def _change(event: FactEvent) -> ChangeAnswer:
    return ChangeAnswer(
        action=event.action,
        actor=event.actor,
        at=event.at,
        before=_answer(event.before) if event.before else None,
        after=_answer(event.after),
    )
