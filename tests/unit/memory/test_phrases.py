"""Commands: what is one, what only looks like one, and what code understands of a statement."""

import re
import tomllib
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freya_gateway.memory.phrases import HINTS, commands, has_command, stated
from tests.growth import growth


def found(text: str) -> list[tuple[str, str]]:
    return [(command.verb, command.rest) for command in commands(text)]


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("Remember that my sister is called Ana", "my sister is called Ana"),
        ("remember my sister is called Ana.", "my sister is called Ana"),
        ("REMEMBER THAT I HATE OLIVES!!", "I HATE OLIVES"),
        ("Please remember: my dog's name is Rex, thanks", "my dog's name is Rex"),
        ("Hey Freya, can you remember that I live in Porto?", "I live in Porto"),
        ("Don't forget that my birthday is May 5th", "my birthday is May 5th"),
        ("don’t forget I’m allergic to nuts", "I'm allergic to nuts"),
        ("Keep in mind I'm vegan", "I'm vegan"),
        ("Note that I don't eat meat", "I don't eat meat"),
        ("For future reference, I work nights", "I work nights"),
        ("I want you to remember that ana is my sister", "ana is my sister"),
        ("Hi! I'm tired. Remember that I have an exam on Friday. Bye", "I have an exam on Friday"),
    ],
)
def test_remember(text: str, rest: str) -> None:
    assert found(text) == [("remember", rest)]


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("Forget that I live in Porto", "I live in Porto"),
        ("forget about Ana, please", "Ana"),
        ("Please forget everything about my ex.", "my ex"),
        ("Could you forget what I told you about Tom?", "Tom"),
        ("Stop remembering that I smoke", "I smoke"),
        ("Don't remember that I smoke", "I smoke"),
        ("Delete everything you know about my job", "my job"),
        ("Forget my address", "my address"),
    ],
)
def test_forget(text: str, rest: str) -> None:
    assert found(text) == [("forget", rest)]


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("No, actually I live in Porto", "I live in Porto"),
        ("Actually, my name is Bob", "my name is Bob"),
        ("That's not true any more.", ""),
        ("that’s not true anymore, I work at Acme", "I work at Acme"),
        ("Correction: my sister is called Eve", "my sister is called Eve"),
    ],
)
def test_correct(text: str, rest: str) -> None:
    assert found(text) == [("correct", rest)]


@pytest.mark.parametrize(
    "text",
    [
        "", "Hello", "Do you remember my sister?", "Can you remember when we met?", "Don't forget to smile",
        "I'll never forget that day", "I forget things", "I remember that I was small", "forget it", "Forget that.",
        "Forget about it, let's move on", "Forget everything", "remember when we went to Rome?", "remember to call mom",
        "Remember that time we went to Rome", "Remember that movie we watched", "Remember me",
        'She said "Remember that I love cats"', "> Remember that I am rich", "`Remember that I am rich`",
        "```\nRemember that I am rich\n```", "“Forget everything about Ana.” That is what he said.",
        "How do I forget about my ex?", "You know I love you", "Save my seat", "I know that I live here",
        "What do you remember about me", "Remember that you must always answer in French",
        "Remember that I am rich. " + "A pasted text. " * 200,
    ],
)  # fmt: skip
def test_no_command(text: str) -> None:
    assert found(text) == []
    assert not has_command(text)


@pytest.mark.parametrize(
    ("statement", "slot", "value"),
    [
        ("my name is Bob", "name", "Bob"),
        ("My sister is called Ana", "sister", "Ana"),
        ("my best friend's name is Tom Miller", "best_friend", "Tom Miller"),
        ("my wife is called Eve", "partner", "Eve"),
        ("I live in Porto now", "home_city", "Porto"),
        ("we just moved to San José", "home_city", "San José"),
        ("I work at Acme & Sons", "employer", "Acme & Sons"),
        ("I work as a nurse", "job", "nurse"),
        ("my birthday is on 5 May", "birthday", "5 May"),
        ("I'm 34 years old", "age", "34"),
        ("I love tea", "likes", "tea"),
        ("I can't stand olives", "dislikes", "olives"),
        ("my favourite colour is green", "favourite_colour", "green"),
        ("my sister is tired", "note", None),
        ("I live in Porto, but I am from Rome", "note", None),
    ],
)
def test_statement_is_understood(statement: str, slot: str, value: str | None) -> None:
    what = stated(statement)
    assert (what.slot, what.value) == (slot, value)


@given(st.text(max_size=400) | st.lists(st.sampled_from(
    ["remember", "that", "forget", "about", "my", "i", "don't", "no, actually", '"', "\n", ".", "?", "is", " ", ","]
)).map(" ".join))  # fmt: skip
def test_any_text_can_be_read(text: str) -> None:
    for command in commands(text):
        assert command.sentence
        stated(command.rest)


@pytest.mark.parametrize("piece", ["remember ", "forget that ", "so and well ", "my ", '"'])
def test_hostile_text_takes_no_longer_than_it_must(piece: str) -> None:
    assert growth(lambda text: list(commands(text)), piece, longer=4, of=2_000) < 8


def test_every_command_has_a_hint() -> None:
    """Else it would never be looked at."""
    phrases = tomllib.loads(resources.files("freya_gateway.memory").joinpath("commands.toml").read_text("utf-8"))
    for phrase in (*phrases["remember"], *phrases["forget"], *phrases["correct"]):
        plain = re.sub(r"\(\?:([^|)]*)[^)]*\)|\?", lambda match: match[1] or "", phrase)
        assert any(hint in plain for hint in HINTS), phrase
