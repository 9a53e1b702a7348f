"""The topics of ended conversations, as their user reads, renames and removes them."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from freya_gateway.api.dependencies import CurrentUser, GatewayState
from freya_gateway.api.errors import problem_responses
from freya_gateway.api.facts import Line
from freya_gateway.api.messages import NEWEST, message_answer
from freya_gateway.api.schemas import ExactJson, MessageAnswer
from freya_gateway.db import topics as store
from freya_gateway.db.topics import StoredTopic
from freya_gateway.errors import NotFound
from freya_gateway.memory.announce import announce

LONGEST_TITLE = 120  # characters

router = APIRouter(prefix="/v1/topics", tags=["topics"])


class RenameBody(BaseModel):
    """A title of the user's own."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"title": "Pottery with Ana"}]})

    title: Annotated[Line, Field(max_length=LONGEST_TITLE, description="One line of plain text.")]


class TopicAnswer(BaseModel):
    """What a part of a conversation was about."""

    id: UUID
    title: str
    keywords: list[str]
    summary: str
    state: Annotated[
        Literal["current", "stale"], Field(description="`stale`: a message was deleted; it is soon made again.")
    ]
    continues: Annotated[UUID | None, Field(description="The earlier topic that it goes on with.")]
    first_at: datetime
    last_at: datetime
    n_messages: int


class TopicPage(BaseModel):
    """Topics, those talked about last first. `before` is the next page's, null on the last."""

    topics: list[TopicAnswer]
    before: UUID | None


class WholeTopicAnswer(TopicAnswer):
    """A topic with its messages, in the order in which they were said. `after` is the next page's, null on the last."""

    messages: list[MessageAnswer]
    after: int | None


@router.get("", response_model=TopicPage, summary="List topics", responses=problem_responses(401, 422, 503))
async def list_topics(
    gateway: GatewayState,
    caller: CurrentUser,
    before: Annotated[UUID | None, Query(description="Only topics behind this one.")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> TopicPage:
    """What your ended conversations were about, those talked about last first."""
    async with gateway.database.reading() as connection:
        found = await store.page(connection, caller.user_id, before=before, limit=limit + 1)
    more = len(found) > limit
    return TopicPage(topics=[_answer(topic) for topic in found[:limit]], before=found[limit - 1].id if more else None)


@router.get(
    "/{topic_id}",
    response_model=WholeTopicAnswer,
    summary="Read a topic",
    responses=problem_responses(401, 404, 422, 503),
)
async def get_topic(
    topic_id: UUID,
    gateway: GatewayState,
    caller: CurrentUser,
    *,
    after: Annotated[int, Query(ge=0, le=NEWEST, description="Only messages with a higher `seq`.")] = 0,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> ExactJson:
    """A topic and every word it stands on."""
    async with gateway.database.snapshot() as connection:
        topic = await store.get(connection, caller.user_id, topic_id)
        if topic is None:
            raise _not_found()
        found = await store.messages(connection, caller.user_id, topic_id, after=after, limit=limit + 1)
    shown = found[:limit]
    said = [message_answer(message) for message in shown]
    after_last = shown[-1].seq if len(found) > limit else None
    return ExactJson(WholeTopicAnswer(**_answer(topic).model_dump(), messages=said, after=after_last))


@router.patch(
    "/{topic_id}",
    response_model=TopicAnswer,
    summary="Rename a topic",
    responses=problem_responses(401, 404, 415, 422, 503),
)
async def rename_topic(topic_id: UUID, body: RenameBody, gateway: GatewayState, caller: CurrentUser) -> TopicAnswer:
    """Gives a topic a title of your own, which no grouping changes again."""
    user_id = caller.user_id
    async with gateway.database.transaction() as connection:
        if not await store.rename(connection, user_id, topic_id, title=body.title, now=gateway.now()):
            raise _not_found()
        renamed = await store.get(connection, user_id, topic_id)
        await announce(connection, user_id, facts=(), topics=[topic_id])
    if renamed is None:
        raise _not_found()
    return _answer(renamed)


@router.delete(
    "/{topic_id}", status_code=204, summary="Delete a topic", responses=problem_responses(401, 404, 422, 503)
)
async def delete_topic(topic_id: UUID, gateway: GatewayState, caller: CurrentUser) -> None:
    """Deletes a topic: its title, keywords and summary, and the grouping. What was said stays, and can still be found;
    `DELETE /v1/messages/{message_id}` deletes that."""
    async with gateway.database.transaction() as connection:
        if not await store.delete(connection, caller.user_id, topic_id):
            raise _not_found()
        await announce(connection, caller.user_id, facts=(), topics=[topic_id])


def _answer(topic: StoredTopic) -> TopicAnswer:
    return TopicAnswer.model_validate(topic, from_attributes=True)


def _not_found() -> NotFound:
    return NotFound("topic_not_found", "You have no topic with this id; see GET /v1/topics for those you have.")
