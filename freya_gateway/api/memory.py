"""The memory as a whole: how far it has come, why Freya said something, and deleting."""

from dataclasses import asdict
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query

from freya_gateway.api.dependencies import CurrentUser, GatewayState
from freya_gateway.api.errors import problem_responses
from freya_gateway.api.memory_schemas import (
    DeletedAnswer,
    EverythingDeletedAnswer,
    MemoryStatusAnswer,
    RetriedAnswer,
    UsedFact,
    UsedMessage,
    UsedTopic,
    WhyAnswer,
    WorkAnswer,
)
from freya_gateway.api.schemas import ExactJson
from freya_gateway.db import account, memory_work, traces
from freya_gateway.db.memory_work import Kind, WorkStatus
from freya_gateway.db.query import Connection
from freya_gateway.db.traces import Trace, TracedMessage
from freya_gateway.errors import NotFound

router = APIRouter(prefix="/v1", tags=["memory"])


@router.delete(
    "/messages/{message_id}",
    response_model=DeletedAnswer,
    summary="Delete a message",
    responses=problem_responses(401, 404, 409, 422, 503),
)
async def delete_message(
    message_id: UUID,
    gateway: GatewayState,
    caller: CurrentUser,
    *,
    with_reply: Annotated[bool, Query(description="Delete the reply to it as well.")] = False,
) -> ExactJson:
    """Deletes a message for good: with it go the facts that stood on it alone and its words in topics, search and log.

    A message whose turn has not ended cannot be deleted yet; stop the turn first.
    """
    deleted = await gateway.deletion.message(caller.user_id, message_id, with_reply=with_reply)
    return ExactJson(DeletedAnswer(**asdict(deleted)))


@router.get(
    "/messages/{message_id}/memory",
    response_model=WhyAnswer,
    summary="Why Freya said that",
    responses=problem_responses(401, 404, 422, 503),
)
async def explain_message(message_id: UUID, gateway: GatewayState, caller: CurrentUser) -> ExactJson:
    """What the prompt behind a reply held, block by block: facts, topics and recalled messages, as they are now."""
    async with gateway.database.snapshot() as connection:
        known, trace = await traces.of_message(connection, caller.user_id, message_id)
        if not known:
            raise NotFound(
                "message_not_found", "You have no message with this id; see GET /v1/messages for those you have."
            )
        if trace is None:
            raise NotFound("trace_not_found", "No prompt was made for this message, or its turn has not ended yet.")
        return ExactJson(await _why(connection, caller.user_id, trace))


@router.delete(
    "/memory",
    response_model=EverythingDeletedAnswer,
    summary="Delete everything",
    responses=problem_responses(401, 409, 422, 503),
)
async def delete_everything(
    gateway: GatewayState,
    caller: CurrentUser,
    confirm: Annotated[Literal["everything"], Query(description="So that it does not happen by accident.")],
) -> ExactJson:
    """Deletes all that was said and all that was learned, for good; your settings stay. Export first if in doubt."""
    _ = confirm
    return ExactJson(EverythingDeletedAnswer(deleted=await gateway.deletion.everything(caller.user_id)))


@router.get(
    "/memory/status",
    response_model=MemoryStatusAnswer,
    summary="See how far memory has come",
    responses=problem_responses(401, 503),
)
async def memory_status(gateway: GatewayState, caller: CurrentUser) -> ExactJson:
    """What is still to be indexed, learned and grouped, what failed, and when it is tried again."""
    async with gateway.database.snapshot() as connection:
        settings = await account.get(connection, caller.user_id)
        works = await memory_work.status(connection, caller.user_id)
    return ExactJson(MemoryStatusAnswer(paused=settings.memory_paused, work=[_work(work) for work in works]))


@router.post(
    "/memory/retry",
    response_model=RetriedAnswer,
    summary="Try failed memory work again",
    responses=problem_responses(401, 503),
)
async def retry_memory(gateway: GatewayState, caller: CurrentUser) -> ExactJson:
    """Has work that was given up, or waits after a failure, tried again now. Asking again changes nothing."""
    async with gateway.database.transaction() as connection:
        works = await memory_work.status(connection, caller.user_id)
        revived: list[Kind] = [w.kind for w in works if await memory_work.revive(connection, caller.user_id, w.kind)]
    return ExactJson(RetriedAnswer(retried=revived))


def _work(work: WorkStatus) -> WorkAnswer:
    return WorkAnswer(
        kind=work.kind,
        done=work.done_seq,
        unread=work.unread,
        attempts=work.attempts,
        dead=work.dead,
        error=work.error_code,
        last_run_at=work.last_run_at,
        next_attempt_at=work.not_before,
    )


async def _why(connection: Connection, user_id: UUID, trace: Trace) -> WhyAnswer:
    blocks, recalled = trace.blocks, trace.blocks.get("recalled", {})
    facts = await traces.facts(connection, user_id, [*_ids(blocks, "facts"), *_ids(blocks, "news")])
    topics = await traces.topics(connection, user_id, [UUID(topic) for topic in recalled.get("topics", ())])
    messages = await traces.messages(connection, user_id, _ids(blocks, "recalled"))
    scores = [*recalled.get("scores", ()), *([None] * len(messages))]
    return WhyAnswer(
        turn=trace.turn_id,
        attempt=trace.attempt,
        tokens=trace.n_tokens,
        blocks={name: block.get("tokens", 0) for name, block in blocks.items()},
        facts=[UsedFact(**asdict(fact)) for fact in facts],
        topics=[UsedTopic(**asdict(topic)) for topic in topics],
        recalled=[_used(message, score) for message, score in zip(messages, scores, strict=False)],
        history=len(_ids(blocks, "history")),
    )


def _used(message: TracedMessage, score: float | None) -> UsedMessage:
    return UsedMessage.model_validate(asdict(message) | {"score": score})


def _ids(blocks: Any, name: str) -> list[UUID]:
    return [UUID(one) for one in blocks.get(name, {}).get("ids", ())]
