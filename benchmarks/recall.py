"""`python benchmarks/recall.py FILE`: how much of the evidence for questions about long conversations is found.

FILE is in LoCoMo's format: a list of `{sample_id, conversation, qa}`; `conversation` has `speaker_a` (the user),
`speaker_b` (the companion) and per session `session_N` (`speaker, dia_id, text, blip_caption?`) with its
`session_N_date_time` ("1:56 pm on 8 May, 2023"); `qa` is a list of `{question, evidence: ["D1:3"], category}`.
The conversations go through the real import into a PostgreSQL of this run's own, the questions through the real search
and the real assembler. recall@k: share of a question's evidence among the first k messages, averaged over questions.
"""

import argparse
import asyncio
import json
import random
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import fmean, quantiles
from typing import Any
from uuid import UUID, uuid4

from rich.console import Console
from rich.table import Table

from benchmarks.baselines import BASELINES
from benchmarks.stage import database
from freya_gateway.context.assembler import Assembler
from freya_gateway.context.budget import Budget
from freya_gateway.db import users
from freya_gateway.db.engine import Database
from freya_gateway.db.imports import ImportedConversation, ImportedMessage, insert_history
from freya_gateway.llm.tokens import count_tokens
from freya_gateway.memory.indexing import index_batch
from freya_gateway.memory.recall import Question, Recall

CUTS = (5, 10, 25, 50)
TOKENS = (250, 500, 1000, 2000)
PAUSE = timedelta(seconds=40)  # between two messages of a session, which has one date only
CATEGORIES = {1: "multi-hop", 2: "temporal", 3: "open-domain", 4: "single-hop", 5: "adversarial"}
EVIDENCE = re.compile(r"D:?(\d+):(\d+)")
Ranking = Callable[["Asked"], Awaitable[list[UUID]]]


@dataclass(frozen=True, slots=True)
class Asked:
    """A question about a user's conversations, and the messages that hold its answer."""

    user_id: UUID
    user_name: str
    companion: str
    text: str
    evidence: frozenset[UUID]
    category: int
    now: datetime


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one way of searching found."""

    ranked: list[list[UUID]]
    seconds: list[float]


def main(file: Path, *, seed: int) -> None:
    samples = json.loads(file.read_text("utf-8"))
    with database() as url:
        asyncio.run(_measure(url, samples, seed=seed))


async def _measure(url: str, samples: list[dict[str, Any]], *, seed: int) -> None:
    console, store = Console(width=120), Database(url)
    asked, unusable = await load(store, samples)
    console.print(f"{len(asked)} questions; {unusable} pieces of evidence point to no message", style="dim")
    chances = [random.Random(f"{seed} {place}") for place in range(len(asked))]
    variants = {
        "as asked": asked,
        "a typo in each": [replace(o, text=with_typo(o.text, c)) for o, c in zip(asked, chances, strict=True)],
        "pronouns for names": [replace(one, text=with_pronouns(one)) for one in asked],
    }
    await _report(store, variants, console)
    await store.aclose()


async def load(store: Database, samples: list[dict[str, Any]]) -> tuple[list[Asked], int]:
    """Imports and indexes the conversations; the questions, and how many pieces of evidence point nowhere."""
    asked: list[Asked] = []
    unusable = 0
    for sample in samples:
        conversation = sample["conversation"]
        sessions, ids = _sessions(conversation)
        user_id = await _import(store, conversation["speaker_a"], sessions)
        now = sessions[-1].messages[-1].said_at + timedelta(days=1)
        for question in sample["qa"]:
            named = [f"D{int(s)}:{int(n)}" for text in question["evidence"] for s, n in EVIDENCE.findall(text)]
            evidence = frozenset(ids[name] for name in named if name in ids)
            unusable += len(set(named)) - len(evidence)
            if evidence:
                names = (conversation["speaker_a"], conversation["speaker_b"])
                asked.append(Asked(user_id, *names, question["question"], evidence, question["category"], now))
    return asked, unusable


def _sessions(conversation: dict[str, Any]) -> tuple[list[ImportedConversation], dict[str, UUID]]:
    sessions: list[ImportedConversation] = []
    ids: dict[str, UUID] = {}
    number = 1
    while f"session_{number}" in conversation:
        date = conversation[f"session_{number}_date_time"]
        start = datetime.strptime(date, "%I:%M %p on %d %B, %Y").replace(tzinfo=UTC)
        messages: list[ImportedMessage] = []
        for place, said in enumerate(conversation[f"session_{number}"]):
            ids[said["dia_id"]] = uuid4()
            role = "user" if said["speaker"] == conversation["speaker_a"] else "assistant"
            text = f"{said['text']} {said.get('blip_caption') or ''}".strip()
            at = start + place * PAUSE
            messages.append(ImportedMessage(ids[said["dia_id"]], role, text, count_tokens(text), at, {}))
        if messages:
            sessions.append(ImportedConversation(uuid4(), None, messages, {}))
        number += 1
    return sessions, ids


async def _import(store: Database, user_name: str, sessions: Sequence[ImportedConversation]) -> UUID:
    async with store.transaction() as connection:
        user_id = await users.ensure_user(connection, uuid4().hex)
        await connection.execute("UPDATE users SET display_name = $2 WHERE id = $1", user_id, user_name)
        await insert_history(connection, user_id, sessions)
        done = 0
        while (until := await index_batch(connection, user_id, after=done)) > done:
            done = until
    return user_id


def with_typo(text: str, chance: random.Random) -> str:
    """`text` with one slip in one of its longer words: two letters swapped, one missing, one wrong or one too many."""
    words = [match for match in re.finditer(r"[A-Za-z]{4,}", text) if match[0].lower() not in QUESTION_WORDS]
    if not words:
        return text
    match = chance.choice(words)
    word, place = match[0], chance.randrange(len(match[0]) - 1)
    letter = chance.choice("abcdefghijklmnopqrstuvwxyz")
    slip = chance.choice(
        (
            word[:place] + word[place + 1] + word[place] + word[place + 2 :],
            word[:place] + word[place + 1 :],
            word[:place] + letter + word[place + 1 :],
            word[:place] + letter + word[place:],
        )
    )
    return text[: match.start()] + slip + text[match.end() :]


QUESTION_WORDS = frozenset({
    "what", "when", "where", "which", "whose", "does", "have", "been", "with", "from", "that", "this", "they", "their",
    "would", "could", "about", "after", "before", "during", "into", "like", "many", "much", "some",
})  # fmt: skip


def with_pronouns(asked: Asked) -> str:
    """The question as the user would ask it: "I" and "my", "you" and "your" for the names."""
    text = asked.text
    for name, subject, possessive in ((asked.user_name, "I", "my"), (asked.companion, "you", "your")):
        text = re.sub(rf"\b{re.escape(name)}['’]s\b", possessive, text)
        text = re.sub(rf"\b{re.escape(name)}\b", subject, text)
    return text


async def _report(store: Database, variants: dict[str, list[Asked]], console: Console) -> None:
    asked = variants["as asked"]
    found = {f"Freya, {name}": (questions, await _run(freya(store), questions)) for name, questions in variants.items()}
    for name, sql in BASELINES.items():
        found[name] = (asked, await _run(baseline(store, sql), asked))
    console.print(_recall_table(found))
    console.print(_category_table(asked, found["Freya, as asked"][1]))
    console.print(await _token_table(store, asked))


def freya(store: Database) -> Ranking:
    async def ranked(asked: Asked) -> list[UUID]:
        recall = Recall(store, companion=asked.companion)
        found = await recall.search(Question(asked.user_id, asked.text, asked.now, user_name=asked.user_name))
        if found.failure:
            raise RuntimeError(f"the search failed: {found.failure}")
        return [hit.id for hit in found.hits]

    return ranked


def baseline(store: Database, sql: str) -> Ranking:
    async def ranked(asked: Asked) -> list[UUID]:
        async with store.reading() as connection:
            return [row["id"] for row in await connection.fetch(sql, asked.user_id, asked.text)]

    return ranked


async def _run(ranking: Ranking, questions: Sequence[Asked]) -> Outcome:
    ranked: list[list[UUID]] = []
    seconds: list[float] = []
    for one in questions:
        began = time.perf_counter()
        ranked.append(await ranking(one))
        seconds.append(time.perf_counter() - began)
    return Outcome(ranked, seconds)


def share(one: Asked, found: Sequence[UUID]) -> float:
    return len(one.evidence.intersection(found)) / len(one.evidence)


def _percent(values: Sequence[float]) -> str:
    return f"{100 * fmean(values):.1f} %" if values else "-"


def _recall_table(found: dict[str, tuple[list[Asked], Outcome]]) -> Table:
    columns = ("search", *(f"R@{cut}" for cut in CUTS), "any@10", "all@10", "ms p50", "ms p95")
    table = Table(*columns, title="Evidence found among the first k messages")
    for name, (questions, outcome) in found.items():
        shares = {k: [share(q, r[:k]) for q, r in zip(questions, outcome.ranked, strict=True)] for k in CUTS}
        table.add_row(
            name,
            *(_percent(shares[cut]) for cut in CUTS),
            _percent([part > 0 for part in shares[10]]),
            _percent([part == 1 for part in shares[10]]),
            *(f"{1000 * quantiles(outcome.seconds, n=20)[place]:.1f}" for place in (9, 18)),
        )
    return table


def _category_table(questions: Sequence[Asked], outcome: Outcome) -> Table:
    table = Table("category", "questions", *(f"R@{cut}" for cut in CUTS), title="By category, as asked")
    for category in sorted({one.category for one in questions}):
        pairs = [(q, r) for q, r in zip(questions, outcome.ranked, strict=True) if q.category == category]
        shares = (_percent([share(q, r[:cut]) for q, r in pairs]) for cut in CUTS)
        table.add_row(CATEGORIES.get(category, str(category)), str(len(pairs)), *shares)
    return table


async def _token_table(store: Database, questions: Sequence[Asked]) -> Table:
    """Through the assembler, the recalled block alone: no facts, and none of the recent messages."""
    table = Table("recalled block", *(f"{tokens} tokens" for tokens in TOKENS), title="Evidence in the prompt")
    shares: list[str] = []
    for tokens in TOKENS:
        budget = Budget(
            facts=0, history=0, small_history=1,
            recalled=tokens, recalled_in_passing=tokens, recalled_outright=tokens,
        )  # fmt: skip
        shares.append(_percent([share(one, await _recalled(store, one, budget)) for one in questions]))
    table.add_row("evidence", *shares)
    return table


async def _recalled(store: Database, asked: Asked, budget: Budget) -> tuple[UUID, ...]:
    recall = Recall(store, companion=asked.companion)
    assembler = Assembler(store, "You are Freya.", budget=budget, now=lambda: asked.now, recall=recall)
    return (await assembler.preview(asked.user_id, asked.text)).recalled


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--seed", type=int, default=1, help="of the typos")
    arguments = parser.parse_args()
    main(arguments.file, seed=arguments.seed)
