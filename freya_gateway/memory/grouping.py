"""How a conversation is grouped into topics: what the model is shown, what it may answer, what code makes of that."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, tzinfo
from itertools import groupby, pairwise

from pydantic import BaseModel, ConfigDict, Field

from freya_gateway.db.folding import fold
from freya_gateway.db.grouping import KnownTopic, Spoken, WordCount
from freya_gateway.errors import ModelError
from freya_gateway.events.types import to_json
from freya_gateway.llm.tokens import count_tokens
from freya_gateway.memory import labels
from freya_gateway.memory.masking import mask

MOST_TOKENS = 6000  # of messages in one question
LONGEST_MESSAGE = 2000  # characters of a message that are shown
MOST_TOPICS = 5  # of one answer
MOST_WORDS = 2000  # different ones of a conversation that a makeshift title is chosen from
TITLE_WORDS = 3
NAME = re.compile(r"[^\W\d_]{3,30}")

Segment = Sequence[Spoken]


class ProposedTopic(BaseModel):
    """A topic as the model proposes it."""

    model_config = ConfigDict(extra="forbid")

    from_seq: int
    to_seq: int
    title: str
    keywords: list[str]
    summary: str
    continues: int | None = Field(description="Number of the earlier topic that this one goes on with, or null.")


class ProposedTopics(BaseModel):
    """What a part of a conversation was about."""

    model_config = ConfigDict(extra="forbid")

    topics: list[ProposedTopic]


@dataclass(frozen=True, slots=True)
class Group:
    """Some segments of a conversation, and what is written upon them."""

    segments: tuple[int, ...]  # their first seqs
    title: str
    keywords: tuple[str, ...] = ()
    summary: str = ""
    continues: int | None = None  # place among the topics that were offered


def segments(messages: Sequence[Spoken]) -> list[Segment]:
    """The messages by their segments."""
    return [list(group) for _, group in groupby(messages, key=lambda message: message.segment)]


def parts(found: Sequence[Segment]) -> Iterator[list[Segment]]:
    """The segments in parts that one question can hold, at least one segment each."""
    part: list[Segment] = []
    size = 0
    for segment in found:
        tokens = sum(count_tokens(_line(message, UTC)) for message in segment)
        if part and size + tokens > MOST_TOKENS:
            yield part
            part, size = [], 0
        part.append(segment)
        size += tokens
    if part:
        yield part


def question(part: Sequence[Segment], offered: Sequence[KnownTopic], zone: tzinfo = UTC) -> str:
    """The part as the model reads it, its times as the user's clock showed them. Everything stands in JSON strings, so
    that no message can pose as another line."""
    known = [
        to_json({"topic": place, "title": topic.title, "keywords": topic.keywords})
        for place, topic in enumerate(offered)
    ]
    said = [_line(message, zone) for segment in part for message in segment]
    return "\n".join(["Earlier topics:", *(known or ["none"]), "", "Conversation:", *said])


def groups(proposal: ProposedTopics, part: Sequence[Segment], offered: Sequence[KnownTopic]) -> list[Group]:
    """The part's segments by the proposed topics. Raises ModelError where the proposal cannot be followed."""
    proposed = sorted(proposal.topics, key=lambda topic: topic.from_seq)
    _check(proposed, part)
    owners = _owners(proposed, part)
    found: list[Group] = []
    for place, topic in enumerate(proposed):
        firsts = tuple(segment[0].segment for segment, owner in zip(part, owners, strict=True) if owner == place)
        if firsts:
            mine = [segment for segment, owner in zip(part, owners, strict=True) if owner == place]
            found.append(_group(topic, firsts, neutral_title(mine[0]), known=len(offered)))
    return found


def makeshift(found: Sequence[Segment], counts: Sequence[WordCount]) -> Group:
    """One topic for all, titled by the words that tell it from the user's other conversations."""
    said = words_of(found)
    scores: dict[str, tuple[float, str]] = {}
    for count in counts:
        surface, times = said[count.word]
        score, shown = scores.get(count.lexeme, (0.0, surface))
        scores[count.lexeme] = (score + times * math.log(1 + count.n / count.df), shown)
    best = [word for _, word in sorted(scores.values(), key=lambda scored: (-scored[0], scored[1]))]
    title = labels.title(", ".join(best[:TITLE_WORDS]))
    firsts = tuple(segment[0].segment for segment in found)
    return Group(firsts, title[:1].upper() + title[1:] or neutral_title(found[0]), labels.keywords(best))


def words_of(found: Sequence[Segment]) -> dict[str, tuple[str, int]]:
    """Folded word -> (how it is mostly written, how often it stands there), the most frequent ones."""
    written: dict[str, Counter[str]] = {}
    for segment in found:
        for message in segment:
            for word in NAME.findall(message.text):
                written.setdefault(fold(word), Counter())[word] += 1
    frequent = sorted(written.items(), key=lambda item: (-item[1].total(), item[0]))[:MOST_WORDS]
    return {folded: (forms.most_common(1)[0][0], forms.total()) for folded, forms in frequent}


def neutral_title(segment: Segment) -> str:
    """A title that tells nothing but the day."""
    return f"Conversation of {segment[0].said_at.astimezone(UTC):%Y-%m-%d}"


def _line(message: Spoken, zone: tzinfo) -> str:
    text = mask(message.text)
    shown = text if len(text) <= LONGEST_MESSAGE else text[:LONGEST_MESSAGE] + "…"
    moment = f"{message.said_at.astimezone(zone):%A %Y-%m-%d %H:%M}"
    return to_json({"seq": message.seq, "at": moment, "who": message.role, "text": shown})


def _check(proposed: Sequence[ProposedTopic], part: Sequence[Segment]) -> None:
    """One to MOST_TOPICS ranges, in the part, one after the other."""
    first, last = part[0][0].seq, part[-1][-1].seq
    borders = [first - 1, *(seq for topic in proposed for seq in (topic.from_seq, topic.to_seq)), last + 1]
    apart = all(before < after for before, after in zip(borders[::2], borders[1::2], strict=True))
    forward = all(topic.from_seq <= topic.to_seq for topic in proposed)
    if not (1 <= len(proposed) <= MOST_TOPICS and apart and forward):
        raise ModelError("malformed_answer", retryable=True)


def _owners(proposed: Sequence[ProposedTopic], part: Sequence[Segment]) -> list[int]:
    """Each segment's topic: the one that most of its messages are in. A segment between two topics goes with the one
    before it; two in a row that no topic covers are a failure."""
    covered = [_covering(proposed, segment) for segment in part]
    if any(here is None and there is None for here, there in pairwise(covered)):
        raise ModelError("malformed_answer", retryable=True)
    owners: list[int] = []
    for owner in covered:
        owners.append(owner if owner is not None else owners[-1] if owners else 0)
    return owners


def _covering(proposed: Sequence[ProposedTopic], segment: Segment) -> int | None:
    counts = Counter(
        place
        for message in segment
        for place, topic in enumerate(proposed)
        if topic.from_seq <= message.seq <= topic.to_seq
    )
    return counts.most_common(1)[0][0] if counts else None


def _group(topic: ProposedTopic, firsts: tuple[int, ...], fallback: str, *, known: int) -> Group:
    continues = topic.continues if topic.continues is not None and 0 <= topic.continues < known else None
    title = labels.title(topic.title) or fallback
    return Group(firsts, title, labels.keywords(topic.keywords), labels.summary(topic.summary), continues)
