"""The reading side of the memory: which older messages a user's words call for. Never fails the turn: where the search
is too slow or PostgreSQL refuses it, there is nothing, and the reason.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID
from zoneinfo import ZoneInfo

from loguru import logger

from freya_gateway.db import search as store
from freya_gateway.db.engine import FAILURES, Database
from freya_gateway.db.folding import fold
from freya_gateway.db.search import Hit, Leaning, Terms, TopicMatch
from freya_gateway.errors import Unavailable
from freya_gateway.memory.leaning import Names, asks_memory, leans_to, periods

LONGEST_QUESTION = 2000  # characters of the user's words that are searched for
MOST_HITS = 80
BEST, OF_FACTS, OF_LABELS = 3, 0.5, 0.3  # of a topic: messages, and shares of what else answers
FLOOR = 0.25  # of the best score: below is noise


@dataclass(frozen=True, slots=True)
class Question:
    """A user's words, and what matters of whom and when they come from."""

    user_id: UUID
    text: str
    now: datetime
    user_name: str | None = None
    time_zone: str = "UTC"
    before: int = 2**62  # first seq that is not searched: from there on, all is in the prompt anyway


@dataclass(frozen=True, slots=True)
class Recollection:
    """What was found, the best first; `failure` says why nothing could be looked up."""

    hits: Sequence[Hit] = ()
    asked_outright: bool = False
    asked: Terms = field(default_factory=Terms)
    leaning: Leaning = field(default_factory=Leaning)
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class FoundTopic:
    """A topic that some hits belong to, and how well it answers."""

    topic: TopicMatch
    score: float


class Recall:
    """Searches a user's messages. `companion` is the name that the user may call Freya by."""

    def __init__(self, database: Database, *, companion: str = "Freya") -> None:
        self._database = database
        self._companion = companion

    async def search(self, question: Question) -> Recollection:
        """The messages that the words call for; below the FLOOR, or without a word that tells messages apart: none."""
        try:
            asked = await self._terms(question)
            leaning = self._leaning(question, asked)
            hits: Sequence[Hit] = ()
            if asked.rare:
                async with self._database.searching(planned=asked.many) as connection:
                    hits = await store.search(connection, question.user_id, asked, leaning=leaning, limit=MOST_HITS)
        except (Unavailable, *FAILURES) as error:
            logger.warning("recall failed", cause=type(error).__name__)
            return Recollection(failure="unavailable")
        return _recollection(question, asked, leaning, hits)

    async def topics(self, user_id: UUID, found: Recollection) -> list[FoundTopic]:
        """The topics of the hits, the best first: the sum of a topic's three best messages, half of what its facts
        answer, and a little for its title, keywords and summary. Raises Unavailable."""
        scores: dict[UUID, list[float]] = {}
        for hit in found.hits:
            if hit.topic_id is not None:
                scores.setdefault(hit.topic_id, []).append(hit.score)
        if not scores:
            return []
        async with self._database.searching(planned=True) as connection:
            matches = await store.match_topics(connection, user_id, found.asked, list(scores))
        topics = [
            FoundTopic(match, sum(scores[match.id][:BEST]) + OF_FACTS * match.facts + OF_LABELS * match.labels)
            for match in matches
        ]
        return sorted(topics, key=lambda topic: -topic.score)

    async def _terms(self, question: Question) -> Terms:
        async with self._database.searching() as connection:
            asked = await store.terms(connection, question.user_id, fold(question.text[:LONGEST_QUESTION]))
        if not asked.unknown:
            return asked
        async with self._database.searching(planned=True) as connection:
            return await store.with_similar(connection, question.user_id, asked)

    def _leaning(self, question: Question, asked: Terms) -> Leaning:
        names = Names(question.user_name, self._companion)
        return Leaning(
            role=leans_to(question.text, names, known=asked.exact),
            periods=periods(question.text, now=question.now, zone=ZoneInfo(question.time_zone)),
            before=question.before,
        )


def _recollection(question: Question, asked: Terms, leaning: Leaning, hits: Sequence[Hit]) -> Recollection:
    floor = FLOOR * hits[0].score if hits else 0
    worth = [hit for hit in hits if hit.score >= floor]
    return Recollection(worth, asks_memory(question.text), asked, leaning)
