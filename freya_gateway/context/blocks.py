"""The prompt's blocks: their messages, their tokens as billed, and their trace (ids and tokens, no words)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from freya_gateway.context.budget import cost
from freya_gateway.context.prompts import FACTS_TITLE, fenced
from freya_gateway.context.recalled import Passages
from freya_gateway.db.prompt import ActiveFact, Said
from freya_gateway.llm.tokens import count_tokens
from freya_gateway.llm.types import ChatMessage

LINE_TOKENS = 3  # of a fact's line around its words


@dataclass(frozen=True, slots=True)
class Block:
    """Some messages of the prompt and their tokens as billed."""

    messages: tuple[ChatMessage, ...] = ()
    n_tokens: int = 0
    trace: dict[str, Any] = field(default_factory=lambda: {"tokens": 0})


def persona_block(persona: str) -> Block:
    tokens = cost(count_tokens(persona))
    return Block((ChatMessage("system", persona),), tokens, {"tokens": tokens})


def words_block(said: Sequence[Said]) -> Block:
    messages = tuple(ChatMessage("user", m.text) for m in said)
    tokens = sum(cost(m.n_tokens) for m in said)
    return Block(messages, tokens, {"tokens": tokens, "ids": [m.id for m in said]})


def affordable_facts(facts: Sequence[ActiveFact], room: int) -> list[ActiveFact]:
    """The most important facts that fit into `room` tokens, each at its place."""
    chosen = list(facts)
    while chosen and sum(fact.n_tokens + LINE_TOKENS for fact in chosen) > room:
        chosen.pop()
    while chosen and cost(count_tokens(_fenced(FACTS_TITLE, chosen))) > room:
        chosen.pop()
    return sorted(chosen, key=lambda fact: fact.place)


def facts_block(facts: Sequence[ActiveFact], *, title: str = FACTS_TITLE) -> Block:
    """The same facts give the same block, byte for byte."""
    if not facts:
        return Block()
    text = _fenced(title, facts)
    tokens = cost(count_tokens(text))
    return Block((ChatMessage("user", text),), tokens, {"tokens": tokens, "ids": [fact.id for fact in facts]})


def _fenced(title: str, facts: Sequence[ActiveFact]) -> str:
    return fenced(title, [fact.statement for fact in facts])


def history_block(recent: Sequence[Said]) -> Block:
    messages = tuple(ChatMessage("user" if m.role == "user" else "assistant", m.text) for m in recent)
    tokens = sum(cost(m.n_tokens) for m in recent)
    return Block(messages, tokens, {"tokens": tokens, "ids": [m.id for m in recent]})


def recalled_block(passages: Passages) -> Block:
    tokens = cost(passages.n_tokens)
    stands_on = {"tokens": tokens, "ids": passages.messages, "topics": passages.topics}
    return Block((ChatMessage("user", passages.text),), tokens, stands_on | passages.trace)
