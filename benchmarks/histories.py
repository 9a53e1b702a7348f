"""Made-up histories of any length, the same every time: words as frequent as in language, and topics that change."""

import itertools
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

from freya_gateway.db.imports import ImportedConversation, ImportedMessage
from freya_gateway.llm.tokens import count_tokens

VOCABULARY = 30_000
WORDS = (4, 22)  # of a message
OF_TOPIC = 0.4  # share of a message's words that the conversation is about
MESSAGES = 40  # of a conversation
START = datetime(2022, 1, 3, 18, tzinfo=UTC)
SYLLABLES = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]


class Language:
    """Words by rank, drawn with the frequencies of Zipf's law."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._words = [word for word in self._invented() if len(word) > 3][:VOCABULARY]
        self._cumulative = list(itertools.accumulate(1 / (rank + 20) for rank in range(len(self._words))))

    def words(self, count: int) -> list[str]:
        return self._random.choices(self._words, cum_weights=self._cumulative, k=count)

    def message(self, topic: list[str], words: tuple[int, int] = WORDS) -> str:
        count = self._random.randint(*words)
        about = round(count * OF_TOPIC)
        said = self._random.sample(topic, min(about, len(topic))) + self.words(count - about)
        self._random.shuffle(said)
        return " ".join(said) + ("?" if self._random.random() < 0.25 else ".")

    def question(self, text: str) -> str:
        """Some of a message's words, as one who remembers it would use them."""
        words = text.rstrip(".?").split()
        return " ".join(self._random.sample(words, min(len(words), self._random.randint(3, 6)))) + "?"

    def _invented(self) -> list[str]:
        pairs = ["".join(p) for n in (2, 3) for p in itertools.product(SYLLABLES, repeat=n)]
        self._random.shuffle(pairs)
        return sorted(pairs[: VOCABULARY * 2], key=len)


def conversations(language: Language, n_messages: int) -> Iterator[ImportedConversation]:
    """Conversations of MESSAGES messages, one a day, until there are `n_messages`."""
    for day in range(-(-n_messages // MESSAGES)):
        count = min(MESSAGES, n_messages - day * MESSAGES)
        topic, start = language.words(25), START + timedelta(hours=12 * day)
        texts = [language.message(topic) for _ in range(count)]
        messages = [
            ImportedMessage(
                id=UUID(int=(day << 32) + place + 1),
                role="user" if place % 2 == 0 else "assistant",
                text=text,
                n_tokens=count_tokens(text),
                said_at=start + timedelta(minutes=place),
                source={},
            )
            for place, text in enumerate(texts)
        ]
        yield ImportedConversation(UUID(int=day + 1), None, messages, {})
