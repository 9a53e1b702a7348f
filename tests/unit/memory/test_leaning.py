"""What a question leans on: whose messages, of when, and whether it asks for the memory outright."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freya_gateway.db.search import Period
from freya_gateway.memory.leaning import (
    SAID_SOON_AFTER,
    SAID_THEN,
    YEARS_BACK,
    Names,
    asks,
    asks_memory,
    leans_to,
    periods,
)
from tests.growth import growth

ANA = Names("Ana Sofia", "Freya")
UTC_ZONE = ZoneInfo("UTC")
NOW = datetime(2026, 7, 15, 12, tzinfo=UTC)  # a Wednesday


def then(text: str, *, now: datetime = NOW, zone: str = "UTC") -> list[tuple[str, str]]:
    """The days (first, last and not with it) that a question names, without those just after them."""
    found = [period for period in periods(text, now=now, zone=ZoneInfo(zone)) if period.factor == SAID_THEN]
    return [(f"{period.starts:%Y-%m-%d}", f"{period.ends:%Y-%m-%d}") for period in found]


@pytest.mark.parametrize(
    ("text", "role"),
    [
        ("What did I say about the harbour?", "user"),
        ("Where is my blue bicycle?", "user"),
        ("Which film did we watch?", "user"),
        ("I’m sure the shop was closed", "user"),
        ("What is your favourite season?", "assistant"),
        ("Which book did you recommend?", "assistant"),
        ("What did you tell me about sleep?", None),
        ("Where is the harbour?", None),
        ("Is the mine still open?", "user"),  # a word that is both
        ("What did Ana buy?", "user"),
        ("what did ANA buy?", "user"),
        ("What does Freya think of winter?", "assistant"),
        ("What did Freya tell Ana?", None),
        ("What did Ana's sister cook?", "user"),
        ("What did Sofia buy?", None),  # a person's first name counts
        ("", None),
    ],
)
def test_a_question_is_about_whoever_it_speaks_of(text: str, role: str | None) -> None:
    assert leans_to(text, ANA) == role


@pytest.mark.parametrize("slip", ["Ferya", "Frya", "Freyya", "Fresa"], ids=["swapped", "missing", "too many", "wrong"])
def test_one_slip_in_a_name_is_forgiven(slip: str) -> None:
    assert leans_to(f"What does {slip} think?", ANA, known=["think"]) == "assistant"


@pytest.mark.parametrize("word", ["Fry", "Fraeyas", "Yerfa", "Freighter"])
def test_two_slips_are_another_word(word: str) -> None:
    assert leans_to(f"What does {word} think?", ANA, known=["think"]) is None


def test_a_word_that_was_said_before_is_no_slip() -> None:
    assert leans_to("How was the freda?", Names(None, "Freya")) == "assistant"
    assert leans_to("How was the freda?", Names(None, "Freya"), known=["freda"]) is None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Ana", "Was it cold and dark?"),
        ("Dave", "What have the neighbours bought?"),
        ("Mary", "Was the harbour there more than once?"),
        ("Thea", "Where was the boat?"),
        ("Jo", "Is it so?"),
    ],
)
def test_a_common_word_is_no_slip_of_a_short_name(name: str, text: str) -> None:
    assert leans_to(text, Names(name, "Freya"), known=["neighbour", "harbour", "boat"]) is None


@pytest.mark.parametrize(
    ("name", "text"),
    [("Bo", "What did Bo buy?"), ("Zoë", "What did Zoe buy?"), ("Zoe", "What did Zoë buy?")],
)
def test_short_and_accented_names_are_names(name: str, text: str) -> None:
    assert leans_to(text, Names(name, "Freya"), known=["zoe", "bo", "buy"]) == "user"


def test_without_a_name_only_pronouns_tell() -> None:
    assert leans_to("What did Ana buy?", Names(None, "Freya")) is None
    assert leans_to("What did Ana buy?", Names("", "Freya")) is None


@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("What happened in May 2024?", [("2024-05-01", "2024-06-01")]),
        ("What happened in december of 2023?", [("2023-12-01", "2024-01-01")]),
        ("Where was I on 3 March 2025?", [("2025-03-01", "2025-04-01")]),
        ("Where was I on March 3rd, 2025?", [("2025-03-01", "2025-04-01")]),
        ("What did I do in 2023?", [("2023-01-01", "2024-01-01")]),
        ("Was it 2022 or 2023?", [("2022-01-01", "2023-01-01"), ("2023-01-01", "2024-01-01")]),
        ("What did I do last summer?", [("2025-06-01", "2025-09-01")]),  # this one is not over yet
        ("And last winter?", [("2025-12-01", "2026-03-01")]),
        ("And last May?", [("2026-05-01", "2026-06-01")]),
        ("And in the summer of 2021?", [("2021-06-01", "2021-09-01")]),
        ("What did I say yesterday?", [("2026-07-14", "2026-07-15")]),
        ("What did I say last month?", [("2026-06-01", "2026-07-01")]),
        ("What did I say last week?", [("2026-07-06", "2026-07-13")]),
        ("What did I say this week?", [("2026-07-13", "2026-07-16")]),
        ("What did I say last year?", [("2025-01-01", "2026-01-01")]),
        ("What did I say last night?", [("2026-07-14", "2026-07-16")]),
        ("In the past week?", [("2026-07-08", "2026-07-16")]),
        ("What was it two weeks ago?", [("2026-06-27", "2026-07-05")]),
        ("What was it a couple of days ago?", [("2026-07-12", "2026-07-14")]),
        ("Did I tell 1984 jokes?", [("1984-01-01", "1985-01-01")]),
        ("And 999 years ago?", [("1027-09-13", "1028-09-13")]),
        ("I may come in a while", []),
        ("They march along and spring up", []),
        ("The marching band in the mayor's garden", []),
        ("My room is number 1234", []),
        ("An august assembly may fall apart", []),
        ("", []),
    ],
)
def test_a_question_names_a_time(text: str, days: list[tuple[str, str]]) -> None:
    assert then(text) == days


@pytest.mark.parametrize("text", ["What happened in May?", "In early march?", "Around the 5th of May?", "On May 5th?"])
def test_a_month_without_a_year_is_one_of_any_year(text: str) -> None:
    month = "03" if "march" in text else "05"
    assert [start for start, _ in then(text)] == [f"{2026 - back}-{month}-01" for back in range(YEARS_BACK)]


def test_a_month_that_has_not_come_yet_is_not_this_years() -> None:
    assert then("What happened in September?")[0] == ("2025-09-01", "2025-10-01")


def test_what_was_said_just_after_counts_too_but_less() -> None:
    found = periods("What happened in May 2024?", now=NOW, zone=UTC_ZONE)
    may, june, july = (datetime(2024, month, 1, tzinfo=UTC) for month in (5, 6, 7))
    assert found == (Period(may, june, SAID_THEN), Period(june, july + timedelta(days=1), SAID_SOON_AFTER))


def test_yesterday_is_the_users_own() -> None:
    """At noon of the 15th in Greenwich it is the 16th in Auckland, and still the 15th in Los Angeles."""
    auckland, los_angeles = (
        periods("What did I say yesterday?", now=NOW, zone=ZoneInfo(zone))[0]
        for zone in ("Pacific/Auckland", "America/Los_Angeles")
    )
    assert auckland.starts.astimezone(UTC) == datetime(2026, 7, 14, 12, tzinfo=UTC)
    assert los_angeles.starts.astimezone(UTC) == datetime(2026, 7, 14, 7, tzinfo=UTC)
    assert then("What did I say yesterday?", zone="Pacific/Auckland") == [("2026-07-15", "2026-07-16")]
    assert then("What did I say yesterday?", zone="America/Los_Angeles") == [("2026-07-14", "2026-07-15")]


def test_a_leap_day_has_a_last_year_and_a_last_month() -> None:
    leap_day = datetime(2028, 2, 29, 23, tzinfo=UTC)
    assert then("last year", now=leap_day) == [("2027-01-01", "2028-01-01")]
    assert then("last month", now=leap_day) == [("2028-01-01", "2028-02-01")]
    assert then("a year ago", now=leap_day) == [("2026-08-30", "2027-08-31")]
    assert then("last february", now=leap_day) == [("2027-02-01", "2027-03-01")]
    assert then("yesterday", now=leap_day + timedelta(days=1)) == [("2028-02-29", "2028-03-01")]


def test_a_time_that_is_named_often_counts_once() -> None:
    assert periods("in may " * 300, now=NOW, zone=UTC_ZONE) == periods("in may", now=NOW, zone=UTC_ZONE)


@pytest.mark.parametrize(
    "text",
    [
        "Do you remember the harbour?",
        "do u still remember my sister",
        "DON’T YOU REMEMBER?",
        "Remind me where I parked",
        "What did I tell you about Tom?",
        "What have we talked about?",
        "Have I ever mentioned my brother?",
        "When was the last time we spoke of him?",
        "I told you about the boat, didn't I?",
        "I still recall when it rained",
    ],
)
def test_who_asks_for_the_memory_is_understood(text: str) -> None:
    assert asks_memory(text)
    assert asks(text)


@pytest.mark.parametrize(
    "text",
    [
        "How was your day?",
        "I remember to breathe",
        "Remember that I am vegan",
        "I told you. Is it raining?",
        "He reminds me of a bear",
        "I lost it the last time he called",
        "",
    ],
)
def test_who_asks_for_something_else_is_not_taken_for_it(text: str) -> None:
    assert not asks_memory(text)


@pytest.mark.parametrize(
    ("text", "is_question"),
    [
        ("Where was it", True),
        ("tell me about the boat", True),
        ("The boat?", True),
        ("remind me", True),
        ("I went home.", False),
        ("whoever comes", False),
        ("Island life", False),
        ("", False),
    ],
)
def test_what_asks_anything_is_a_question(text: str, is_question: bool) -> None:
    assert asks(text) is is_question


@given(st.text(alphabet=st.characters(exclude_categories=())))
def test_any_words_can_be_asked(text: str) -> None:
    asks(text)
    leans_to(text, Names(text, "Freya"), known=text.split())
    for period in periods(text, now=NOW, zone=UTC_ZONE):
        assert period.starts < period.ends


@pytest.mark.parametrize("piece", ["i told ", "in may ", "may-", "last ", "1999 ", "999 days ago ", "do you ", "'"])
def test_long_words_take_no_longer_than_they_must(piece: str) -> None:
    def read(text: str) -> None:
        asks(text)
        leans_to(text, ANA)
        periods(text, now=NOW, zone=UTC_ZONE)

    assert growth(read, piece, longer=4, of=24_000) < 8  # 4 is what it must, 16 would be quadratic
