"""Looking into recall: what would be found for some words, and the whole prompt that they would get."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from freya_gateway.api.dependencies import CurrentUser, GatewayState
from freya_gateway.api.errors import problem_responses
from freya_gateway.api.schemas import ExactJson
from freya_gateway.db import account
from freya_gateway.errors import Unavailable
from freya_gateway.memory.recall import FoundTopic, Question, Recollection

LONGEST_WORDS = 20_000  # characters
RETRY_SECONDS = 2

router = APIRouter(prefix="/v1", tags=["memory"])
Words = Annotated[str, Query(min_length=1, max_length=LONGEST_WORDS)]


class FoundMessage(BaseModel):
    """A message that would be recalled, unless the prompt holds it anyway or has no room for it."""

    id: UUID
    seq: int
    role: Literal["user", "assistant"]
    text: str
    said_at: datetime
    topic: UUID | None
    score: Annotated[float, Field(description="Higher is better; comparable within one answer only.")]


class FoundTopicAnswer(BaseModel):
    """A topic of some of these messages."""

    id: UUID
    title: str
    state: Literal["current", "stale"]
    first_at: datetime
    last_at: datetime
    score: float


class AskedTerm(BaseModel):
    """A word that was searched for, as the index knows it."""

    lexeme: str
    messages: Annotated[int, Field(description="In how many of your messages it stands.")]
    weight: Annotated[float, Field(description="1 for a word of the query, less for one that resembles it.")]


class AskedPeriod(BaseModel):
    """A time that the query names; messages from it count more."""

    starts: datetime
    ends: datetime
    factor: float


class SearchAnswer(BaseModel):
    """What the memory finds, and why."""

    terms: list[AskedTerm]
    about: Annotated[Literal["user", "assistant"] | None, Field(description="Whose messages count double.")]
    periods: list[AskedPeriod]
    messages: list[FoundMessage]
    topics: list[FoundTopicAnswer]


class PromptMessage(BaseModel):
    """One message of a prompt."""

    role: Literal["system", "user", "assistant"]
    content: str


class PromptBlock(BaseModel):
    """A part of a prompt."""

    name: Literal["persona", "facts", "history", "news", "recalled", "words"]
    tokens: int
    messages: list[PromptMessage]


class ContextAnswer(BaseModel):
    """The prompt that would be sent."""

    tokens: int
    blocks: list[PromptBlock]


@router.get(
    "/memory/search",
    response_model=SearchAnswer,
    summary="Search the memory",
    responses=problem_responses(401, 422, 503),
)
async def search_memory(gateway: GatewayState, caller: CurrentUser, q: Words) -> ExactJson:
    """What would be recalled for some words: older messages and their topics, the best first, with scores and why.

    Words that tell no messages apart find nothing, and so do those that you never used.
    """
    async with gateway.database.reading() as connection:
        settings = await account.get(connection, caller.user_id)
    question = Question(caller.user_id, q, gateway.now(), settings.display_name, settings.time_zone)
    found = await gateway.recall.search(question)
    if found.failure:
        raise Unavailable("search_unavailable", "The search took too long; try again.", retry_after=RETRY_SECONDS)
    return ExactJson(_answer(found, await gateway.recall.topics(caller.user_id, found)))


@router.get(
    "/context",
    response_model=ContextAnswer,
    summary="See the prompt for some words",
    responses=problem_responses(401, 422, 503),
)
async def preview_context(gateway: GatewayState, caller: CurrentUser, text: Words) -> ExactJson:
    """The prompt that `text` would get if it were sent now, block by block with its tokens. Nothing is stored."""
    prompt = await gateway.assembler.preview(caller.user_id, text)
    blocks = [
        PromptBlock.model_validate(
            {
                "name": name,
                "tokens": prompt.blocks[name].get("tokens", 0),
                "messages": [{"role": message.role, "content": message.content} for message in messages],
            }
        )
        for name, messages in prompt.parts.items()
    ]
    return ExactJson(ContextAnswer(tokens=prompt.n_tokens, blocks=blocks))


def _answer(found: Recollection, topics: list[FoundTopic]) -> SearchAnswer:
    return SearchAnswer.model_validate(
        {
            "terms": [
                {"lexeme": term.lexeme, "messages": term.n_messages, "weight": term.weight}
                for term in found.asked.terms
            ],
            "about": found.leaning.role,
            "periods": [
                {"starts": period.starts, "ends": period.ends, "factor": period.factor}
                for period in found.leaning.periods
            ],
            "messages": [
                {
                    "id": hit.id,
                    "seq": hit.seq,
                    "role": hit.role,
                    "text": hit.text,
                    "said_at": hit.said_at,
                    "topic": hit.topic_id,
                    "score": hit.score,
                }
                for hit in found.hits
            ],
            "topics": [
                {
                    "id": found_topic.topic.id,
                    "title": found_topic.topic.title,
                    "state": found_topic.topic.state,
                    "first_at": found_topic.topic.first_at,
                    "last_at": found_topic.topic.last_at,
                    "score": found_topic.score,
                }
                for found_topic in topics
            ],
        }
    )
