"""How text becomes what is searched, whatever people type."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freya_gateway.db.folding import LONGEST, fold


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("The Café", "the cafe"),
        ("Ångström, Œuvre, Łódź, Smørrebrød", "angstrom, oeuvre, lodz, smorrebrod"),
        ("Straße", "strasse"),
        ("naïve coöperation", "naive cooperation"),
        ("e\u0301te\u0301", "ete"),  # accents as characters of their own
        ("İstanbul ISTANBUL ıstanbul", "istanbul istanbul istanbul"),
        ("ﬁne", "fine"),
        ("Привет", "привет"),
        ("日本語", "日本語"),
    ],
)
def test_accents_and_case_are_gone(text: str, folded: str) -> None:
    assert fold(text) == folded


@pytest.mark.parametrize(
    ("forms", "base"),
    [
        (("went", "gone", "goes"), "go"),
        (("children", "kids"), "child"),
        (("taught",), "teach"),
        (("Bought", "BOUGHT"), "buy"),
        (("better", "best"), "good"),
    ],
)
def test_irregular_forms_become_their_base(forms: tuple[str, ...], base: str) -> None:
    assert {fold(form).lower() for form in forms} == {base}


def test_only_whole_words_have_a_base() -> None:
    assert fold("wentworth overwent") == "wentworth overwent"
    assert fold("(went), went.") == "(go), go."


@pytest.mark.parametrize("apostrophe", ["'", "’", "‘"])
def test_all_apostrophes_are_one(apostrophe: str) -> None:
    assert fold(f"Ana{apostrophe}s") == "ana's"


def test_what_postgresql_cannot_store_is_gone() -> None:
    assert fold("a\x00b") == "a b"
    assert fold("é\x00b") == "e b"
    assert fold("lone \ud83d half") == "lone ? half"


def test_only_so_much_of_a_long_text_is_searched() -> None:
    assert len(fold("x" * (LONGEST + 5))) == LONGEST
    assert len(fold("ﷺ" * LONGEST)) == LONGEST  # each is 18 letters long, taken apart


@given(st.text(alphabet=st.characters(exclude_categories=())))
def test_any_text_becomes_one_that_can_be_stored(text: str) -> None:
    folded = fold(text)
    assert "\x00" not in folded
    folded.encode()


@given(st.text())
def test_upper_case_changes_nothing_in_plain_letters(text: str) -> None:
    plain = "".join(character for character in text if character.isascii())
    assert fold(plain.upper()) == fold(plain)
