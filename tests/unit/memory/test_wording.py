"""How words are compared, dates resolved and secrets masked."""

from datetime import UTC, datetime
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freya_gateway.memory.dates import is_relative, parse_date, resolve
from freya_gateway.memory.masking import holds_secret, mask
from freya_gateway.memory.vocabulary import canonical_slot, is_mood, is_outright, is_sensitive
from freya_gateway.memory.wording import digests, find_quote, plain, same_value, statement_hash

SAID_AT = datetime(2026, 11, 23, 23, 30, tzinfo=UTC)  # a Monday
UTC_ZONE = ZoneInfo("UTC")


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("my card is 4111 1111 1111 1111, ok?", "my card is [secret], ok?"),
        ("call 4111 1111 1111 1112", "call 4111 1111 1111 1112"),
        ("my password is hunter22", "my password is [secret]"),
        ("Passwort or password: hunter22", "Passwort or password: [secret]"),
        ("the pin for my card is 4711.", "the pin for my card is [secret]"),
        ("key sk-proj-abcdefghijklmnop1234", "key [secret]"),
        ("ghp_abcdefghijklmnopqrstuv", "[secret]"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIx.abc-def", "[secret]"),
        ("-----BEGIN RSA PRIVATE KEY-----\nabc", "[secret]"),
        ("pay DE89 3704 0044 0532 0130 00 today", "pay [secret] today"),
        ("postgres://me:hunter22@host/db", "postgres://[secret]@host/db"),
        ("my password is not hard", "my password is not hard"),
        ("I pinned it at 10:30 on 2026-11-23", "I pinned it at 10:30 on 2026-11-23"),
        ("call me at +351 912 345 678", "call me at +351 912 345 678"),
    ],
)
def test_secrets_are_masked_and_nothing_else(text: str, masked: str) -> None:
    assert mask(text) == masked
    assert holds_secret(text) == (text != masked)


@pytest.mark.parametrize(
    ("said", "absolute"),
    [
        ("left yesterday", "left on 22 November 2026"),
        ("left last night", "left on 22 November 2026"),
        ("leaves tomorrow morning", "leaves on 24 November 2026"),
        ("left the day before yesterday", "left on 21 November 2026"),
        ("leaves today", "leaves on 23 November 2026"),
        ("leaves next Friday", "leaves on 27 November 2026"),
        ("left last Monday", "left on 16 November 2026"),
        ("left three weeks ago", "left around 2 November 2026"),
        ("left 11 months ago", "left in December 2025"),
        ("leaves in 2 days", "leaves on 25 November 2026"),
        ("left last year", "left in 2025"),
        ("leaves next month", "leaves in December 2026"),
        ("is off this weekend", "is off on the weekend of 28 November 2026"),
        ("leaves on Friday", "leaves on Friday (said on 23 November 2026)"),
        ("swims every Friday", "swims every Friday"),
        ("left on Friday, 5 June 2020", "left on Friday, 5 June 2020"),
    ],
)
def test_dates_become_absolute(said: str, absolute: str) -> None:
    assert resolve(said, said_at=SAID_AT, zone=UTC_ZONE) == absolute
    assert not is_relative(absolute)


def test_today_is_the_users() -> None:
    auckland = ZoneInfo("Pacific/Auckland")
    assert resolve("today", said_at=SAID_AT, zone=auckland) == "on 24 November 2026"


@pytest.mark.parametrize("said", ["the other day", "last summer", "a few days ago", "right now", "in a few weeks"])
def test_what_cannot_be_dated_is_known(said: str) -> None:
    assert is_relative(resolve(said, said_at=SAID_AT, zone=UTC_ZONE))


@given(st.text(max_size=60), st.integers(0, 999))
def test_no_date_breaks_resolving(text: str, count: int) -> None:
    for unit in ("days", "weeks", "months", "years"):
        resolve(f"{text} {count} {unit} ago {text}", said_at=SAID_AT, zone=UTC_ZONE)
        resolve(f"in {count} {unit}", said_at=datetime(9999, 12, 1, tzinfo=UTC), zone=UTC_ZONE)


def test_dates_are_read_strictly() -> None:
    assert parse_date("2026-11-23", zone=UTC_ZONE) == datetime(2026, 11, 23, tzinfo=UTC)
    assert parse_date("2026-11", zone=ZoneInfo("Europe/Berlin")) == datetime(2026, 10, 31, 23, tzinfo=UTC)
    assert parse_date("2026", zone=UTC_ZONE) == datetime(2026, 1, 1, tzinfo=UTC)
    for text in (None, "", "soon", "2026-13-01", "26-1-1", "0000-01-01", "2026-02-30"):
        assert parse_date(text, zone=UTC_ZONE) is None


@pytest.mark.parametrize(
    ("quote", "text", "stands"),
    [
        ("I live in Rome", "Yes, I  live\nin ROME.", True),
        ("“don't”", "I don’t", True),
        ("live", "I lived there", False),
        ("", "anything", False),
        ("...", "anything...", False),
        (".*", "anything", False),
    ],
)
def test_quote_stands_where_it_was_said(quote: str, text: str, stands: bool) -> None:
    assert (find_quote(quote, text) is not None) == stands


@given(st.text(max_size=80))
def test_a_text_quotes_itself(text: str) -> None:
    if any(character.isalnum() for character in plain(text)) and plain(text).strip("\"'. ") == plain(text):
        assert find_quote(text, text) == (0, len(plain(text)))


def test_same_statements_and_values_are_known() -> None:
    assert statement_hash("The user's dog isn’t big.") == statement_hash("the user's dog is not BIG")
    assert statement_hash("The user likes tea") != statement_hash("The user likes tea and coffee")
    assert same_value("the Café Rosé") == same_value("cafe rose")
    key, other = uuid4(), uuid4()
    named = digests(key, statement="A", subject="user", slot="sister", value="Ana")
    assert set(named) & set(digests(key, statement="B", subject="User", slot="sister", value="ana!"))
    assert not set(named) & set(digests(other, statement="A", subject="user", slot="sister", value="Ana"))
    assert len(digests(key, statement="A", subject="user", slot="note", value=None)) == 1


def test_words_decide_as_data_says() -> None:
    assert [canonical_slot(slot) for slot in ("Job Title", "occupation", "home city", "Wife", "")] == [
        "job", "job", "home_city", "partner", "note",
    ]  # fmt: skip
    assert is_sensitive("The user is diabetic")
    assert is_sensitive(None, "political_party")
    assert not is_sensitive("The user likes grapes", "home_city", None)
    assert is_mood("The user is very tired", "note")
    assert not is_mood("The user is not tired of Rome", "note")
    assert is_outright("I really love tea")
    assert not is_outright("I'd love that in French, please")
