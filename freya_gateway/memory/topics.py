"""Gives ended conversations their topics. The model proposes, code checks; where the model fails, one topic made
without it stands in until another attempt succeeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from typing import Final
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

from loguru import logger

from freya_gateway.clock import Now
from freya_gateway.db import account, memory_work
from freya_gateway.db import grouping as store
from freya_gateway.db.engine import Database
from freya_gateway.db.grouping import KnownTopic, NewTopic, OldTopic, Ungrouped
from freya_gateway.db.memory_work import WorkClaim
from freya_gateway.db.query import Connection
from freya_gateway.db.topics import delete as delete_topic
from freya_gateway.errors import LostClaim, ModelError
from freya_gateway.llm.structured import StructuredModel
from freya_gateway.llm.types import ChatMessage
from freya_gateway.memory.announce import announce
from freya_gateway.memory.grouping import (
    Group,
    ProposedTopics,
    groups,
    makeshift,
    parts,
    question,
    segments,
    words_of,
)

BATCH = 10  # conversations of one run
TRIES = 3  # failed runs after which a conversation that the model cannot group keeps its makeshift topic
OFFERED = 8  # earlier topics that a new one may continue
# The provider is away: the other conversations of the run do without it at once.
OUTAGES = frozenset({"rate_limited", "upstream_error", "unreachable", "timeout", "rejected"})
PROMPT: Final = resources.files("freya_gateway.memory").joinpath("topics.md").read_text("utf-8")


@dataclass(frozen=True, slots=True)
class Grouped:
    """A conversation of `n_messages`, and the topics that it is to have."""

    conversation_id: UUID
    n_messages: int
    topics: Sequence[NewTopic]
    state: str  # done | makeshift


class TopicsWork:
    """The work of kind `topics`."""

    def __init__(self, database: Database, model: StructuredModel, now: Now) -> None:
        self._database = database
        self._model = model
        self._now = now

    async def run(self, claim: WorkClaim) -> None:
        """Groups the user's ended conversations, BATCH of them. Raises the last ModelError after doing without."""
        async with self._database.reading() as connection:
            due = await store.ungrouped(connection, claim.user_id, now=self._now(), limit=BATCH)
        failure: ModelError | None = None
        for conversation in due:
            if failure is not None and failure.code in OUTAGES:
                await self._do_without(claim, conversation)
                continue
            try:
                await self._group(claim, conversation.conversation_id)
            except ModelError as error:
                logger.bind(code=error.code).warning("conversation not grouped")
                await self._do_without(claim, conversation)
                if conversation.makeshift and error.code not in OUTAGES and claim.attempts >= TRIES:
                    await self._settle(claim, conversation)
                else:
                    failure = error
        if failure is not None:
            raise failure

    async def _group(self, claim: WorkClaim, conversation_id: UUID) -> None:
        user_id = claim.user_id
        async with self._database.reading() as connection:
            messages = await store.spoken(connection, user_id, conversation_id)
            offered = await store.similar(connection, user_id, conversation_id, limit=OFFERED)
            zone = ZoneInfo((await account.get(connection, user_id)).time_zone)
        found: list[NewTopic] = []
        for part in parts(segments(messages)):
            # A later part may go on with what the one before it was about.
            known = [*offered, *(KnownTopic(topic.id, topic.title, topic.keywords) for topic in found[-OFFERED:])]
            proposal = await self._ask(user_id, question(part, known, zone))
            found += [_topic(group, known) for group in groups(proposal, part, known)]
        async with self._database.transaction() as connection:
            if not await memory_work.complete(connection, claim, done_seq=claim.done_seq, now=self._now()):
                raise LostClaim(claim.kind)
            await _replace(connection, user_id, Grouped(conversation_id, len(messages), found, "done"))

    async def _ask(self, user_id: UUID, words: str) -> ProposedTopics:
        messages = [ChatMessage("system", PROMPT), ChatMessage("user", words)]
        return await self._model.ask(messages, schema=ProposedTopics, user=user_id.hex)

    async def _do_without(self, claim: WorkClaim, conversation: Ungrouped) -> None:
        """One topic that no model has seen, if the conversation does not have it yet; the claim is kept, not moved."""
        if conversation.makeshift:
            return
        user_id, conversation_id = claim.user_id, conversation.conversation_id
        async with self._database.reading() as connection:
            messages = await store.spoken(connection, user_id, conversation_id)
            whole = segments(messages)
            counts = await store.count_words(connection, user_id, list(words_of(whole)))
        topics = [_topic(makeshift(whole, counts), ())] if whole else []
        async with self._database.transaction() as connection:
            if not await memory_work.renew(connection, claim):
                raise LostClaim(claim.kind)
            await _replace(connection, user_id, Grouped(conversation_id, len(messages), topics, "makeshift"))

    async def _settle(self, claim: WorkClaim, conversation: Ungrouped) -> None:
        """Leaves it at the makeshift topic, so that a conversation that no model can group keeps none from theirs."""
        async with self._database.transaction() as connection:
            if not await memory_work.renew(connection, claim):
                raise LostClaim(claim.kind)
            await store.settle(connection, claim.user_id, conversation.conversation_id)


async def _replace(connection: Connection, user_id: UUID, grouped: Grouped) -> None:
    """Gives the conversation these topics instead of those that it has; nothing, if it has changed since it was read:
    it is due again then."""
    conversation_id = grouped.conversation_id
    if not await store.lock_if_still(connection, user_id, conversation_id, n_messages=grouped.n_messages):
        return
    old = await store.old(connection, user_id, conversation_id)
    topics = taking_over(grouped.topics, old)
    for topic in topics:
        await store.write(connection, user_id, topic)
    ids = [topic.id for topic in topics]
    gone = [topic.id for topic in old if topic.id not in ids]
    for topic_id in gone:
        await delete_topic(connection, user_id, topic_id)
    await store.mark(connection, user_id, conversation_id, grouped=grouped.state)
    if ids or gone:
        await announce(connection, user_id, facts=(), topics=[*ids, *gone])


def taking_over(topics: Sequence[NewTopic], old: Sequence[OldTopic]) -> list[NewTopic]:
    """The topics, each under the id of the old one that it shares most segments with: links to it hold."""
    heirs: dict[UUID, UUID] = {}
    for topic in topics:
        free = [one for one in old if one.id not in heirs.values()]
        best = max(free, key=lambda one: len({*one.segments} & {*topic.segments}), default=None)
        if best is not None and {*best.segments} & {*topic.segments}:
            heirs[topic.id] = best.id
    return [
        replace(
            topic,
            id=heirs.get(topic.id, topic.id),
            continues=topic.continues and heirs.get(topic.continues, topic.continues),
        )
        for topic in topics
    ]


def _topic(group: Group, known: Sequence[KnownTopic]) -> NewTopic:
    continues = known[group.continues].id if group.continues is not None else None
    return NewTopic(uuid4(), group.title, group.keywords, group.summary, group.segments, continues)
