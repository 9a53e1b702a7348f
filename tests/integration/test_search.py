"""The search on a real PostgreSQL: what is found, in which order, and that no words can break it."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from freya_gateway.db import users
from freya_gateway.db.engine import Database
from freya_gateway.db.imports import ImportedConversation, ImportedMessage, insert_history
from freya_gateway.db.search import MANY, MOST_CANDIDATES, MOST_JOINED, Term, Terms, candidate_queries, search
from freya_gateway.llm.tokens import count_tokens
from freya_gateway.memory.recall import FLOOR, Question, Recall, Recollection
from tests.histories import SMALL_TALK, said

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
FRAGMENTS = ["& | ! <->", "lighthouse & !harbour", "'a' <-> 'b':*", "(((", ")", "lighthouse:*", "!!", "<2>", "a:ABCD",
             "\\", "\\'", "''", "'; DROP TABLE messages; --", "' OR '1'='1", "%s %(name)s $1 :user_id {0}", '"', "`",
             "C:\\temp\\new", "a\\b\\c", "x' | 'y", "http://a.example/b?c=d&e=f#g", "ana@mail.example", "-1e400",
             "<b>bold</b> &lt; &amp;", "a-b-c-d-e-f", "2026-03-02T10:00:00Z", "/etc/passwd", "../../.."]  # fmt: skip
HOSTILE = [
    *FRAGMENTS,
    "",
    " \t\r\n ",
    "the and of to be",
    "😀😀👩‍👩‍👧‍👦🏳️‍🌈",
    "灯塔在哪里？我忘记了",
    "أين المنارة؟",
    "\u202e\u200b\ufeff\u0301",
    "\x00",
    "light\x00house",
    "\ud83d",
    "lone \udc00 surrogate",
    " ".join(f"word{number}" for number in range(10_000)),
    "lighthouse " * 10_000,
    "x" * 100_000,
    "é" * 100_000,
    "'" * 5000,
    "in may " * 300,
    "(" * 3000 + "a" + ")" * 3000,
]


async def someone(database: Database, *, name: str | None = None) -> UUID:
    async with database.transaction() as connection:
        user = await users.ensure_user(connection, uuid4().hex)
        await connection.execute("UPDATE users SET display_name = $2 WHERE id = $1", user, name)
    return user


async def recall(database: Database, user: UUID, text: str, **options: Any) -> Recollection:
    found = await Recall(database).search(Question(user, text, NOW, **options))
    assert found.failure is None
    return found


async def ids(database: Database, user: UUID, text: str, **options: Any) -> list[UUID]:
    return [hit.id for hit in (await recall(database, user, text, **options)).hits]


async def test_an_answer_is_found_by_the_words_of_its_question(database: Database) -> None:
    user = await someone(database)
    talk = ["Which lighthouse was it?", "The one near Skagen, red and white.", "Lovely.", "It was."]
    told = await said(database, user, *SMALL_TALK, talk)
    assert (await ids(database, user, "Tell me about the lighthouse"))[:2] == told[-4:-2]


@pytest.mark.parametrize("slip", ["lighthuose", "lighthous", "ligthouse", "lightthouse", "lighthoues"])
async def test_a_slip_of_the_finger_is_forgiven(database: Database, slip: str) -> None:
    user = await someone(database)
    told = await said(database, user, ["We saw a lighthouse.", "How tall?"], *SMALL_TALK)
    assert (await ids(database, user, f"Where was the {slip}?"))[0] == told[0]


@pytest.mark.parametrize(
    ("words", "question"),
    [
        ("My children went to the Café.", "kids"),
        ("My children went to the Café.", "Did they go?"),
        ("My children went to the Café.", "CAFE"),
        ("She taught maths in Łódź.", "Who teaches in Lodz?"),
        ("He’s bought Ana’s bicycles.", "Whose bicycle did he buy, Ana's?"),
        ("Мы видели маяк у моря.", "маяк"),
    ],
)
async def test_other_forms_of_a_word_are_that_word(database: Database, words: str, question: str) -> None:
    user = await someone(database)
    told = await said(database, user, [words, "Oh."], *SMALL_TALK)
    assert (await ids(database, user, question))[0] == told[0]


async def test_a_search_that_is_planned_for_its_user_finds_the_same(database: Database) -> None:
    user = await someone(database)
    await said(database, user, ["We saw a lighthouse.", "How tall?", "The lighthouse? Ten metres."], *SMALL_TALK)
    found = await recall(database, user, "Tell me about the lighthouse")
    assert (found.asked.many, len(found.hits) >= 3) == (False, True)
    assert replace(found.asked, n_messages=MANY + 1).many
    async with database.searching(planned=True) as connection:
        assert await connection.fetchval("SHOW plan_cache_mode") == "force_custom_plan"
        again = await search(connection, user, found.asked, leaning=found.leaning, limit=len(found.hits))
    async with database.searching() as connection:
        assert await connection.fetchval("SHOW plan_cache_mode") == "force_generic_plan"
    assert again == found.hits


async def test_who_is_asked_about_decides_between_equals(database: Database) -> None:
    user = await someone(database, name="Ana")
    mine, yours = (await said(database, user, ["Juniper tea calms.", "Juniper soap calms."], *SMALL_TALK))[:2]
    assert (await ids(database, user, "Which juniper do I like?"))[0] == mine
    assert (await ids(database, user, "Which juniper do you like?"))[0] == yours
    assert (await ids(database, user, "Which juniper does Ana like?", user_name="Ana"))[0] == mine
    assert (await ids(database, user, "Which juniper does Freya like?", user_name="Ana"))[0] == yours


async def test_the_month_that_is_asked_about_decides_between_equals(database: Database) -> None:
    user = await someone(database)
    talk = ["The juniper is in flower.", "Already?"]
    told = await said(database, user, talk, talk, talk, *SMALL_TALK, days=61)  # in March, May and July
    assert (await ids(database, user, "Was the juniper in flower in March?"))[0] == told[0]
    assert (await ids(database, user, "Was the juniper in flower in May 2026?"))[0] == told[2]
    assert (await ids(database, user, "Was the juniper in flower?"))[0] == told[4]


async def test_of_equals_the_newer_comes_first(database: Database) -> None:
    user = await someone(database)
    talk = ["The juniper is in flower.", "Already?"]
    told = await said(database, user, talk, talk, talk, *SMALL_TALK)
    found = [one for one in await ids(database, user, "juniper") if one in (told[0], told[2], told[4])]
    assert found == [told[4], told[2], told[0]]


async def test_neighbours_are_of_the_same_conversation(database: Database) -> None:
    user = await someone(database)
    talks = [["Good morning.", "Good evening."], ["The lighthouse?"], ["Sleep well.", "You too."]]
    told = await said(database, user, *SMALL_TALK, *talks, *SMALL_TALK)
    assert await ids(database, user, "lighthouse") == [told[22]]


async def test_anothers_messages_are_never_found(database: Database) -> None:
    ana, ben, nobody = [await someone(database) for _ in range(3)]
    talks = [["We saw a lighthouse.", "How tall?"], *SMALL_TALK]
    of_ana, of_ben = await said(database, ana, *talks), await said(database, ben, *talks)
    await said(database, ben, ["The password is heliotrope.", "I forget it at once."])
    assert await ids(database, ana, "lighthouse") == of_ana[:2]
    assert await ids(database, ben, "lighthouse") == of_ben[:2]
    assert await ids(database, ana, "heliotrope password") == []
    assert await ids(database, nobody, "lighthouse") == []


async def test_only_what_was_said_before_is_searched(database: Database) -> None:
    user = await someone(database)
    told = await said(database, user, ["The lighthouse, one.", "The lighthouse, two."], *SMALL_TALK)
    assert set(await ids(database, user, "lighthouse")) == set(told[:2])
    assert await ids(database, user, "lighthouse", before=2) == told[:1]
    assert await ids(database, user, "lighthouse", before=1) == []


async def test_what_is_much_worse_than_the_best_is_noise(database: Database) -> None:
    user = await someone(database)
    talks = [["The red lighthouse of Skagen stands near the dunes.", "Oh."], ["A red hat.", "Oh."]]
    told = await said(database, user, *talks, *SMALL_TALK)
    assert told[2] in await ids(database, user, "red")
    hits = (await recall(database, user, "The red lighthouse of Skagen, near the dunes?")).hits
    assert hits[0].id == told[0]
    assert told[2] not in [hit.id for hit in hits]
    assert min(hit.score for hit in hits) >= FLOOR * hits[0].score


async def test_words_that_stand_everywhere_find_nothing(database: Database) -> None:
    user = await someone(database)
    await said(database, user, *([f"The weather, day {day}.", "Weather again!"] for day in range(20)))
    found = await recall(database, user, "How is the weather?")
    assert (list(found.hits), [term.lexeme for term in found.asked.terms]) == ([], ["weather"])


async def test_an_empty_reply_is_never_found(database: Database) -> None:
    user = await someone(database)
    told = await said(database, user, ["Where is the lighthouse?", "", "Are you there?", "Yes."], *SMALL_TALK)
    found = await ids(database, user, "lighthouse")
    assert found[0] == told[0]
    assert told[1] not in found


async def test_what_is_not_indexed_yet_is_found(database: Database) -> None:
    user = await someone(database)
    await said(database, user, ["We saw a lighthouse.", "How tall?"], *SMALL_TALK)
    text = "The lighthouse lighthouse lighthouse again."
    new = ImportedMessage(uuid4(), "user", text, count_tokens(text), NOW, {})
    async with database.transaction() as connection:
        await insert_history(connection, user, [ImportedConversation(uuid4(), None, [new], {})])
    assert (await ids(database, user, "lighthouse"))[0] == new.id


async def test_in_a_long_history_a_word_of_many_messages_finds_the_newest(database: Database) -> None:
    user = await someone(database)
    many = MOST_CANDIDATES + 20
    talks = [["We sailed today.", "Good.", *["Nothing else."] * 4] for _ in range(many)]
    told = await said(database, user, *talks, days=0.1)
    found = await ids(database, user, "sailed")
    assert found
    assert set(found) <= set(told[-6 * MOST_CANDIDATES :])
    assert found[0] == told[-6]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text[:24]))
async def test_hostile_words_get_an_answer(hostile: tuple[Database, UUID, list[UUID]], text: str) -> None:
    database, user, told = hostile
    found = await recall(database, user, text)
    assert {hit.id for hit in found.hits} <= set(told)


@pytest.fixture
async def hostile(database: Database) -> tuple[Database, UUID, list[UUID]]:
    """A history of hostile words, and what one would ask about."""
    user = await someone(database)
    talks: Sequence[Sequence[str]] = [["We saw a lighthouse.", "How tall?"], *SMALL_TALK, [t for t in HOSTILE if t]]
    return database, user, await said(database, user, *talks)


def asked(*counts: int, total: int = 100_000) -> Terms:
    return Terms([Term(f"t{count}", count, 1.0) for count in counts], total)


def test_rare_words_bring_candidates_until_the_room_is_used() -> None:
    third = MOST_CANDIDATES // 3
    assert candidate_queries(asked(1, 5)) == ("'t1' | 't5'", "")
    assert candidate_queries(asked(third, third + 1, third + 100))[0] == f"'t{third}' | 't{third + 1}'"
    assert candidate_queries(asked(MOST_CANDIDATES))[0] == f"'t{MOST_CANDIDATES}'"


def test_words_of_many_messages_bring_candidates_in_pairs() -> None:
    assert candidate_queries(asked(1000, 1500)) == ("", "('t1000' & 't1500')")
    assert candidate_queries(asked(50_000, 60_000)) == ("", "")
    assert candidate_queries(asked(50_000)) == ("", "")


def test_only_so_many_pairs_are_tried() -> None:
    _, pairs = candidate_queries(asked(*range(MOST_CANDIDATES + 1, MOST_CANDIDATES + 11), total=10**9))
    assert pairs.count("&") == MOST_JOINED * (MOST_JOINED - 1) // 2


@pytest.mark.parametrize(
    ("lexeme", "quoted"), [("it's", "'it''s'"), ("a\\b", "'a\\\\b'"), ("'|'", "'''|'''"), ("!", "'!'")]
)
def test_a_lexeme_is_no_operator(lexeme: str, quoted: str) -> None:
    assert candidate_queries(Terms([Term(lexeme, 1, 1.0)], 10)) == (quoted, "")
