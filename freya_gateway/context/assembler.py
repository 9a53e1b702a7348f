"""The context engine: puts into a model call what Freya should have in mind, within the budget.

Blocks in order: persona, facts, recent history, recalled passages, the user's words. The first three change as rarely
as possible, because providers bill a repeated prefix at a fraction. One short read; no session outlives it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

from freya_gateway.context.budget import MESSAGE_OVERHEAD, Budget, cost, window
from freya_gateway.context.prompts import FACTS_TITLE, fenced
from freya_gateway.db import prompt as store
from freya_gateway.db.engine import Database
from freya_gateway.db.prompt import ActiveFact, Said
from freya_gateway.db.query import Connection
from freya_gateway.errors import ConfigurationError
from freya_gateway.llm.tokens import count_tokens
from freya_gateway.llm.types import ChatMessage

MIN_ROOM = 500  # tokens that a persona must leave
REPLY_PRIMING = 3  # tokens that the chat format adds before the reply


@dataclass(frozen=True, slots=True)
class Recalled:
    """Passages of older conversations for this message: the block's text, its tokens, and what it stands on."""

    text: str
    n_tokens: int
    topics: tuple[UUID, ...]
    messages: tuple[UUID, ...]
    trace: dict[str, Any] = field(default_factory=dict[str, Any])


class Recall(Protocol):
    """What finds older messages for the user's words; None where nothing is worth the tokens."""

    async def recall(
        self, connection: Connection, user_id: UUID, *, words: str, in_prompt: Sequence[Said]
    ) -> Recalled | None: ...


@dataclass(frozen=True, slots=True)
class Prompt:
    """A model call's input, what was recalled for it, and its trace (ids and tokens, no words)."""

    messages: tuple[ChatMessage, ...]
    n_tokens: int
    facts: tuple[UUID, ...]
    topics: tuple[UUID, ...]
    recalled: tuple[UUID, ...]
    blocks: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Block:
    """Some messages of the prompt and their tokens as billed."""

    messages: tuple[ChatMessage, ...] = ()
    n_tokens: int = 0
    trace: dict[str, Any] = field(default_factory=dict[str, Any])


class Assembler:
    """Builds prompts. `recall` may be absent: then the prompt has no fourth block."""

    def __init__(self, database: Database, persona: str, *, budget: Budget, recall: Recall | None = None) -> None:
        self._database = database
        self._budget = budget
        self._recall = recall
        tokens = cost(count_tokens(persona))
        self._persona = _Block((ChatMessage("system", persona),), tokens, {"tokens": tokens})
        if self.longest_message < MIN_ROOM:
            raise ConfigurationError(
                f"FREYA_PERSONA has {tokens} tokens, FREYA_CONTEXT_TOKENS is {budget.total}: "
                f"shorten the persona or raise the budget, so that {MIN_ROOM} are left for the user's words"
            )

    @property
    def longest_message(self) -> int:
        """Tokens that the user's words may have: what the budget leaves beside the persona."""
        return self._budget.total - self._persona.n_tokens - MESSAGE_OVERHEAD - REPLY_PRIMING

    async def assemble(self, user_id: UUID, turn_id: UUID) -> Prompt:
        """The prompt for a turn whose messages are stored."""
        async with self._database.reading() as connection:
            found = await store.read(
                connection, user_id, turn_id, budget=self._budget.small_history, overhead=MESSAGE_OVERHEAD
            )
            words = _words_block(found.words)
            facts = _facts_block(found.facts, self._facts_room(words))
            recent = self._recent(found.recent, spent=self._persona.n_tokens + words.n_tokens + facts.n_tokens)
            recalled = await self._recalled(connection, user_id, words, recent)
        return self._prompt(facts, _history_block(recent), recalled, words)

    def _facts_room(self, words: _Block) -> int:
        room = self._budget.total - self._persona.n_tokens - words.n_tokens - REPLY_PRIMING
        return max(min(self._budget.facts, room), 0)

    def _recent(self, found: Sequence[Said], *, spent: int) -> list[Said]:
        budget, whole = self._budget.history_room(spent=spent + REPLY_PRIMING)
        return window(found, whole=whole, budget=budget)

    async def _recalled(
        self, connection: Connection, user_id: UUID, words: _Block, recent: Sequence[Said]
    ) -> Recalled | None:
        if self._recall is None:
            return None
        text = words.messages[-1].content
        return await self._recall.recall(connection, user_id, words=text, in_prompt=recent)

    def _prompt(self, facts: _Block, history: _Block, recalled: Recalled | None, words: _Block) -> Prompt:
        passages = _recalled_block(recalled)
        blocks = {"persona": self._persona, "facts": facts, "history": history, "recalled": passages, "words": words}
        return Prompt(
            messages=tuple(message for block in blocks.values() for message in block.messages),
            n_tokens=sum(block.n_tokens for block in blocks.values()) + REPLY_PRIMING,
            facts=tuple(facts.trace.get("ids", ())),
            topics=recalled.topics if recalled else (),
            recalled=recalled.messages if recalled else (),
            blocks={name: block.trace for name, block in blocks.items()},
        )


def _words_block(said: Sequence[Said]) -> _Block:
    messages = tuple(ChatMessage("user", m.text) for m in said)
    tokens = sum(cost(m.n_tokens) for m in said)
    return _Block(messages, tokens, {"tokens": tokens, "ids": [m.id for m in said]})


def _facts_block(facts: Sequence[ActiveFact], room: int) -> _Block:
    """The most important facts that fit; dropping whole ones from the end keeps the order stable."""
    chosen = list(facts)
    while chosen:
        text = fenced(FACTS_TITLE, [fact.statement for fact in chosen])
        tokens = cost(count_tokens(text))
        if tokens <= room:
            trace = {"tokens": tokens, "ids": [fact.id for fact in chosen]}
            return _Block((ChatMessage("user", text),), tokens, trace)
        chosen.pop()
    return _Block(trace={"tokens": 0})


def _history_block(recent: Sequence[Said]) -> _Block:
    messages = tuple(ChatMessage("user" if m.role == "user" else "assistant", m.text) for m in recent)
    tokens = sum(cost(m.n_tokens) for m in recent)
    return _Block(messages, tokens, {"tokens": tokens, "ids": [m.id for m in recent]})


def _recalled_block(recalled: Recalled | None) -> _Block:
    if recalled is None:
        return _Block(trace={"tokens": 0})
    tokens = cost(recalled.n_tokens)
    stands_on = {"tokens": tokens, "ids": recalled.messages, "topics": recalled.topics}
    return _Block((ChatMessage("user", recalled.text),), tokens, stands_on | recalled.trace)
