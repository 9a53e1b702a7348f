"""The memory's figures: search against the length of the history, assembly of a prompt, and how much of each prompt
repeats the one before, which providers bill at a fraction.
"""

import itertools
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import median, quantiles
from uuid import UUID, uuid4

from benchmarks.histories import MESSAGES, START, Language, conversations
from freya_gateway.context.assembler import Assembler
from freya_gateway.context.budget import Budget, cost
from freya_gateway.context.prompts import load_persona
from freya_gateway.db import users
from freya_gateway.db.engine import Database
from freya_gateway.db.imports import ImportedConversation, ImportedMessage, insert_history
from freya_gateway.llm.tokens import count_tokens
from freya_gateway.llm.types import ChatMessage
from freya_gateway.memory.indexing import index_batch
from freya_gateway.memory.recall import Question, Recall

CACHED_PRICE = 0.25  # of a prompt token that repeats the previous prompt's prefix
ASSEMBLED = 10_000  # messages of the history that prompts are assembled from
FACTS = 30
SENTENCE, REPLY = (3, 9), (10, 26)  # made-up words, each of about 2.5 tokens: 15 and 45 tokens
TURNS_PER_FACT = 10  # turns of the conversation after which one more fact is known
BATCH = 100  # conversations in one transaction


@dataclass(frozen=True, slots=True)
class Plan:
    """Histories of these lengths, each one user's; `others` more users of MESSAGES messages each."""

    sizes: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)
    others: int = 10_000
    questions: int = 300
    turns: int = 200


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds."""

    p50: float
    p95: float


@dataclass(frozen=True, slots=True)
class Prefix:
    """Over the turns of a conversation: mean tokens of a prompt, the share of them that repeats the previous prompt's
    prefix, and the bill at CACHED_PRICE, in full-price tokens a turn."""

    tokens: float
    repeated: float
    bill: float


@dataclass(frozen=True, slots=True)
class MemoryFigures:
    """`search` by messages of the user, `small` for one of many users; `with_recall` and `without` assemble a prompt
    at ASSEMBLED messages; `prefix` is Freya's, `sliding` that of a window that moves with each message."""

    search: dict[int, Latency]
    small: Latency
    others: int
    with_recall: Latency
    without: Latency
    prefix: Prefix
    sliding: Prefix


async def measure(url: str, plan: Plan, say: Callable[[str], None]) -> MemoryFigures:
    database = Database(url)
    search: dict[int, Latency] = {}
    asked: dict[int, tuple[UUID, list[str]]] = {}
    say(f"{plan.others} users of {MESSAGES} messages")
    small = await _many(database, plan)
    for size in plan.sizes:
        say(f"a history of {size} messages")
        asked[size] = await _history(database, size, questions=plan.questions)
    async with database.reading() as connection:
        await connection.execute("VACUUM (ANALYZE) messages")
        await connection.execute("VACUUM (ANALYZE) term_stats")
    for size, (user_id, questions) in asked.items():
        say(f"searching {size} messages")
        search[size] = await _searches(database, user_id, questions)
    say("assembling prompts, and a conversation")
    user_id, questions = asked.get(ASSEMBLED) or next(iter(asked.values()))
    figures = MemoryFigures(
        search=search,
        small=await _searches(database, *small),
        others=plan.others,
        with_recall=await _assemblies(database, user_id, questions, recall=Recall(database)),
        without=await _assemblies(database, user_id, questions, recall=None),
        prefix=(prefixes := await _conversation(database, plan.turns))[0],
        sliding=prefixes[1],
    )
    await database.aclose()
    return figures


async def _many(database: Database, plan: Plan) -> tuple[UUID, list[str]]:
    """Many users with one conversation each; one of them, and questions about it."""
    language = Language(7)
    questions: list[str] = []
    user_id = uuid4()
    for _ in range(plan.others):
        user_id, questions = await _told(database, language, MESSAGES, questions=1)
    return user_id, [language.question(questions[0]) for _ in range(plan.questions)]


async def _history(database: Database, size: int, *, questions: int) -> tuple[UUID, list[str]]:
    return await _told(database, Language(size), size, questions=questions)


async def _told(database: Database, language: Language, size: int, *, questions: int) -> tuple[UUID, list[str]]:
    """A user with a history, and questions about random messages of it."""
    chance = random.Random(size)
    asked: list[str] = []
    async with database.transaction() as connection:
        user_id = await users.ensure_user(connection, uuid4().hex)
    parts = iter(conversations(language, size))
    wanted = size / questions
    told = 0
    while part := list(itertools.islice(parts, BATCH)):
        async with database.transaction() as connection:
            await insert_history(connection, user_id, part)
        told += sum(len(conversation.messages) for conversation in part)
        while len(asked) < min(told / wanted, questions):
            asked.append(language.question(chance.choice(chance.choice(part).messages).text))
    await _index(database, user_id)
    return user_id, asked


async def _index(database: Database, user_id: UUID, *, after: int = 0) -> int:
    while True:
        async with database.transaction() as connection:
            until = await index_batch(connection, user_id, after=after)
        if until == after:
            return after
        after = until


async def _searches(database: Database, user_id: UUID, questions: Sequence[str]) -> Latency:
    recall = Recall(database)

    async def search(text: str) -> None:
        found = await recall.search(Question(user_id, text, datetime.now(UTC)))
        if found.failure:
            raise RuntimeError(f"the search failed: {found.failure}")

    return await _timed(search, questions)


async def _assemblies(database: Database, user_id: UUID, questions: Sequence[str], *, recall: Recall | None) -> Latency:
    assembler = Assembler(database, load_persona(None), budget=Budget(), now=lambda: datetime.now(UTC), recall=recall)

    async def assemble(text: str) -> None:
        await assembler.preview(user_id, text)

    return await _timed(assemble, questions)


async def _timed(work: Callable[[str], object], questions: Sequence[str]) -> Latency:
    """Each question once to warm up, and once on the clock."""
    times: list[float] = []
    for text in (*questions, *questions):
        began = time.perf_counter()
        await work(text)  # type: ignore[misc]
        times.append(1000 * (time.perf_counter() - began))
    times = times[len(questions) :]
    return Latency(median(times), quantiles(times, n=20)[18])


async def _conversation(database: Database, turns: int) -> tuple[Prefix, Prefix]:
    """A conversation of `turns` turns after a longer past: Freya's prompts, and those of a sliding window."""
    language, now = Language(99), datetime.now(UTC)
    user_id, _ = await _told(database, language, 2_000, questions=1)
    assembler = Assembler(database, load_persona(None), budget=Budget(), now=lambda: now, recall=Recall(database))
    persona = ChatMessage("system", load_persona(None))
    said: list[ChatMessage] = []
    ours: list[list[ChatMessage]] = []
    sliding: list[list[ChatMessage]] = []
    indexed, topic = 0, language.words(25)
    for _ in range(FACTS):
        await _learn(database, user_id, " ".join(language.words(5)), START)
    for turn in range(turns):
        if turn % 20 == 0:
            topic = language.words(25)
        if turn % TURNS_PER_FACT == 0:
            await _learn(database, user_id, " ".join(language.words(5)), now + timedelta(minutes=turn))
        words, reply = language.message(topic, SENTENCE), language.message(topic, REPLY)
        ours.append(list((await assembler.preview(user_id, words)).messages))
        sliding.append([persona, *_newest(said, Budget().history), ChatMessage("user", words)])
        said += [ChatMessage("user", words), ChatMessage("assistant", reply)]
        await _say(database, user_id, [words, reply], now + timedelta(minutes=turn))
        indexed = await _index(database, user_id, after=indexed or 2_000)
    return _prefix(ours), _prefix(sliding)


async def _say(database: Database, user_id: UUID, texts: Sequence[str], at: datetime) -> None:
    messages = [
        ImportedMessage(uuid4(), role, text, count_tokens(text), at, {})
        for role, text in zip(("user", "assistant"), texts, strict=True)
    ]
    async with database.transaction() as connection:
        await insert_history(connection, user_id, [ImportedConversation(uuid4(), None, messages, {})])


async def _learn(database: Database, user_id: UUID, statement: str, at: datetime) -> None:
    async with database.transaction() as connection:
        await connection.execute(
            """INSERT INTO facts (user_id, id, subject, slot, kind, statement, statement_hash, n_tokens, status,
                                  created_at)
               VALUES ($1, $2, 'user', 'note', 'note', $3, sha256(convert_to($3::text, 'UTF8')), $4, 'active', $5)""",
            user_id, uuid4(), statement, count_tokens(statement), at,
        )  # fmt: skip


def _newest(said: Sequence[ChatMessage], budget: int) -> list[ChatMessage]:
    kept: list[ChatMessage] = []
    for message in reversed(said):
        budget -= cost(count_tokens(message.content))
        if budget < 0:
            break
        kept.insert(0, message)
    return kept


def _common(one: str, other: str) -> str:
    length = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[:length]


def _prefix(prompts: Sequence[Sequence[ChatMessage]]) -> Prefix:
    """From the second prompt on."""
    texts = ["".join(f"<{message.role}>{message.content}" for message in prompt) for prompt in prompts]
    totals = [count_tokens(text) for text in texts[1:]]
    repeated = [count_tokens(_common(a, b)) for a, b in itertools.pairwise(texts)]
    bill = sum(totals) - (1 - CACHED_PRICE) * sum(repeated)
    return Prefix(sum(totals) / len(totals), sum(repeated) / sum(totals), bill / len(totals))
