"""How much of the evidence for questions about two long conversations is found, beside what others do with PostgreSQL.

The conversations (tests/data/conversations.json, in LoCoMo's format) are the project's own; nothing is tuned to them.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest

from benchmarks.baselines import ALL_WORDS, ANY_WORD, BM25
from benchmarks.recall import Asked, Ranking, baseline, freya, load, share, with_pronouns, with_typo
from freya_gateway.db.engine import Database

CONVERSATIONS = Path(__file__).resolve().parents[1] / "data" / "conversations.json"


@pytest.fixture
async def asked(database: Database) -> list[Asked]:
    questions, unusable = await load(database, json.loads(CONVERSATIONS.read_text("utf-8")))
    assert unusable == 0
    assert len(questions) > 50
    return questions


async def recall_at_10(ranking: Ranking, questions: Sequence[Asked]) -> float:
    return fmean([share(one, (await ranking(one))[:10]) for one in questions])


def missed(recall: float) -> float:
    """What is not found; never quite nothing, so that it can be divided by."""
    return max(1 - recall, 0.001)


async def test_far_less_is_missed_than_by_the_usual_searches(database: Database, asked: list[Asked]) -> None:
    found = missed(await recall_at_10(freya(database), asked))
    for sql in (ANY_WORD, BM25, ALL_WORDS):
        assert missed(await recall_at_10(baseline(database, sql), asked)) / found > 2


async def test_slips_of_the_finger_cost_little(database: Database, asked: list[Asked]) -> None:
    chance = random.Random(1)
    mistyped = [replace(one, text=with_typo(one.text, chance)) for one in asked]
    assert [one.text for one in mistyped] != [one.text for one in asked]
    right, wrong = [await recall_at_10(freya(database), questions) for questions in (asked, mistyped)]
    plain = await recall_at_10(baseline(database, BM25), mistyped)
    assert wrong / right > 0.75
    assert missed(plain) / missed(wrong) > 2


async def test_pronouns_are_as_good_as_names(database: Database, asked: list[Asked]) -> None:
    named, pronouns = [await recall_at_10(freya(database), q) for q in (asked, [*map(_with_pronouns, asked)])]
    assert pronouns / named > 0.95


def _with_pronouns(one: Asked) -> Asked:
    return replace(one, text=with_pronouns(one))
