"""The context engine: puts into a model call what Freya should have in mind, within the budget.

Blocks in order: persona, facts, recent history, news, recalled messages, the user's words. The first three change as
rarely as possible, because providers bill a repeated prefix at a fraction: a fact that is newer than the window waits
among the news, behind the history, until the window moves on. Short reads; no connection outlives them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

from freya_gateway.clock import Now
from freya_gateway.context.blocks import (
    Block,
    affordable_facts,
    facts_block,
    history_block,
    persona_block,
    recalled_block,
    words_block,
)
from freya_gateway.context.budget import MESSAGE_OVERHEAD, Budget, window
from freya_gateway.context.prompts import NEWS_TITLE
from freya_gateway.context.recalled import affordable, passages
from freya_gateway.db import prompt as store
from freya_gateway.db.engine import Database
from freya_gateway.db.prompt import ActiveFact, Material, Said
from freya_gateway.errors import ConfigurationError
from freya_gateway.llm.tokens import count_tokens
from freya_gateway.llm.types import ChatMessage
from freya_gateway.memory.leaning import asks
from freya_gateway.memory.recall import Question, Recall, Recollection

MIN_ROOM = 500  # tokens that a persona must leave
REPLY_PRIMING = 3  # tokens that the chat format adds before the reply
UNSENT = 2**62  # the place of words that are only previewed: after all messages


@dataclass(frozen=True, slots=True)
class Prompt:
    """A model call's input, what was recalled for it, and its trace (ids and tokens, no words)."""

    messages: tuple[ChatMessage, ...]
    n_tokens: int
    facts: tuple[UUID, ...]
    topics: tuple[UUID, ...]
    recalled: tuple[UUID, ...]
    blocks: dict[str, Any]
    parts: dict[str, tuple[ChatMessage, ...]]  # the messages by block


class Assembler:
    """Builds prompts. Without `recall` they have no fourth block."""

    def __init__(
        self, database: Database, persona: str, *, budget: Budget, now: Now, recall: Recall | None = None
    ) -> None:
        self._database = database
        self._budget = budget
        self._now = now
        self._recall = recall
        self._persona = persona_block(persona)
        if self.longest_message < MIN_ROOM:
            raise ConfigurationError(
                f"FREYA_PERSONA has {self._persona.n_tokens} tokens, FREYA_CONTEXT_TOKENS is {budget.total}: "
                f"shorten the persona or raise the budget, so that {MIN_ROOM} are left for the user's words"
            )

    @property
    def longest_message(self) -> int:
        """Tokens that the user's words may have: what the budget leaves beside the persona."""
        return self._budget.total - self._persona.n_tokens - MESSAGE_OVERHEAD - REPLY_PRIMING

    async def assemble(self, user_id: UUID, turn_id: UUID) -> Prompt:
        """The prompt for a turn whose messages are stored."""
        found = await self._read(user_id, turn_id)
        return await self._assembled(user_id, found, found.words)

    async def preview(self, user_id: UUID, text: str) -> Prompt:
        """The prompt that `text` would get if it were sent now; nothing is stored."""
        found = await self._read(user_id, None)
        return await self._assembled(
            user_id, found, [Said(uuid4(), UNSENT, "user", text, count_tokens(text), self._now())]
        )

    async def _read(self, user_id: UUID, turn_id: UUID | None) -> Material:
        async with self._database.reading() as connection:
            return await store.read(
                connection, user_id, turn_id, budget=self._budget.small_history, overhead=MESSAGE_OVERHEAD
            )

    async def _assembled(self, user_id: UUID, found: Material, said: Sequence[Said]) -> Prompt:
        words = words_block(said)
        spent = self._persona.n_tokens + words.n_tokens + REPLY_PRIMING
        known = affordable_facts(found.facts, max(min(self._budget.facts, self._budget.total - spent), 0))
        known_tokens = sum(block.n_tokens for block in (facts_block(known), facts_block(known[:1], title=NEWS_TITLE)))
        budget, whole = self._budget.history_room(spent=spent + known_tokens)
        recent = window(found.recent, whole=0 if found.older else whole, budget=budget, step=self._budget.step)
        facts, news = _settled(known, recent)
        blocks = {"persona": self._persona, "facts": facts, "history": history_block(recent), "news": news}
        recalled = Block()
        if found.older or len(recent) < len(found.recent):  # else the whole history is there
            question = self._question(user_id, found, said=said, recent=recent)
            room = self._budget.total - REPLY_PRIMING - words.n_tokens - sum(b.n_tokens for b in blocks.values())
            recalled = await self._recalled(question, room, changed=found.changed)
        return _prompt(blocks | {"recalled": recalled, "words": words})

    def _question(self, user_id: UUID, found: Material, *, said: Sequence[Said], recent: Sequence[Said]) -> Question:
        return Question(
            user_id=user_id,
            text="\n".join(message.text for message in said),
            now=self._now(),
            user_name=found.user_name,
            time_zone=found.time_zone,
            before=min(message.place for message in (*recent, *said)),
        )

    async def _recalled(self, question: Question, room: int, *, changed: bool) -> Block:
        if self._recall is None:
            return Block()
        found = await self._recall.search(question)
        if found.failure:
            return Block(trace={"tokens": 0, "failure": found.failure})
        room = min(room, self._most_recalled(question, found))
        chosen = affordable(found.hits, room=room)
        changes = await self._changes(question.user_id, [hit.id for hit in chosen]) if changed else {}
        block = passages(chosen, changes, zone=ZoneInfo(question.time_zone), room=room)
        return recalled_block(block) if block else Block()

    def _most_recalled(self, question: Question, found: Recollection) -> int:
        if found.asked_outright:
            return self._budget.recalled_outright
        return self._budget.recalled if asks(question.text) else self._budget.recalled_in_passing

    async def _changes(self, user_id: UUID, messages: Sequence[UUID]) -> dict[UUID, str]:
        async with self._database.reading() as connection:
            return await store.changes(connection, user_id, messages)


def _settled(known: Sequence[ActiveFact], recent: Sequence[Said]) -> tuple[Block, Block]:
    """The facts from before the window, and those learned since."""
    begin = recent[0].at if recent else None
    old = [fact for fact in known if begin is None or fact.since < begin]
    new = [fact for fact in known if begin is not None and fact.since >= begin]
    return facts_block(old), facts_block(new, title=NEWS_TITLE)


def _prompt(blocks: dict[str, Block]) -> Prompt:
    known = [*blocks["facts"].trace.get("ids", ()), *blocks["news"].trace.get("ids", ())]
    recalled = blocks["recalled"].trace
    return Prompt(
        messages=tuple(message for block in blocks.values() for message in block.messages),
        n_tokens=sum(block.n_tokens for block in blocks.values()) + REPLY_PRIMING,
        facts=tuple(known),
        topics=tuple(recalled.get("topics", ())),
        recalled=tuple(recalled.get("ids", ())),
        blocks={name: block.trace for name, block in blocks.items()},
        parts={name: block.messages for name, block in blocks.items()},
    )
