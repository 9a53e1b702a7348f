"""The fourth block: older messages that the user's words call for, by score, printed in the order of their dates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from freya_gateway.context.budget import cost
from freya_gateway.context.prompts import RECALLED_TITLE, fenced
from freya_gateway.db.search import Hit
from freya_gateway.llm.tokens import count_tokens

LONGEST_EXCERPT = 1200  # characters of one message
LINE_TOKENS = 4  # of a line around its words
HEADER_TOKENS = 12  # of a date and a title
BLOCK_TOKENS = 45  # title and fence
SPEAKERS = {"user": "they", "assistant": "you"}


@dataclass(frozen=True, slots=True)
class Passages:
    """The block's text, its tokens, and what it stands on."""

    text: str
    n_tokens: int
    topics: tuple[UUID, ...]
    messages: tuple[UUID, ...]
    trace: dict[str, Any] = field(default_factory=dict[str, Any])


def affordable(hits: Sequence[Hit], *, room: int) -> list[Hit]:
    """The best hits that fit into `room` tokens, about: `passages` counts exactly."""
    chosen: list[Hit] = []
    groups: set[object] = set()
    room -= BLOCK_TOKENS
    for hit in hits:
        tokens = min(hit.n_tokens, LONGEST_EXCERPT // 4) + LINE_TOKENS
        tokens += 0 if _group(hit) in groups else HEADER_TOKENS
        if tokens > room:
            continue
        room -= tokens
        groups.add(_group(hit))
        chosen.append(hit)
    return chosen


def passages(hits: Sequence[Hit], changes: Mapping[UUID, str], *, zone: ZoneInfo, room: int) -> Passages | None:
    """The block for `hits` (the best first), without the least of them where they do not fit; None without any."""
    chosen = list(hits)
    while chosen:
        text = fenced(RECALLED_TITLE, _lines(chosen, changes, zone))
        tokens = count_tokens(text)
        if cost(tokens) <= room:
            topics = tuple(dict.fromkeys(hit.topic_id for hit in chosen if hit.topic_id))
            trace = {"scores": [round(hit.score, 3) for hit in chosen]}
            return Passages(text, tokens, topics, tuple(hit.id for hit in chosen), trace)
        chosen.pop()
    return None


def _group(hit: Hit) -> object:
    return hit.topic_id or hit.conversation_id


def _lines(hits: Sequence[Hit], changes: Mapping[UUID, str], zone: ZoneInfo) -> list[str]:
    lines: list[str] = []
    header = ""
    for hit in sorted(hits, key=lambda hit: (hit.said_at, hit.seq)):
        date = f"{hit.said_at.astimezone(zone):%-d %B %Y}"
        wanted = f"{date}, {hit.topic}:" if hit.topic else f"{date}:"
        if wanted != header:
            header = wanted
            lines.append(header)
        change = changes.get(hit.id)
        since = f" (since changed: {change})" if change else ""
        lines.append(f"{SPEAKERS[hit.role]}: {_excerpt(hit.text)}{since}")
    return lines


def _excerpt(text: str) -> str:
    return text if len(text) <= LONGEST_EXCERPT else f"{text[:LONGEST_EXCERPT]}…"
