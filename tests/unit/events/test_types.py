"""Cursors, JSON that cannot forge a frame, lengths as JavaScript counts them, and merging."""

import json
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freya_gateway.db.events import StoredEvent
from freya_gateway.events.types import Cursor, Token, merge, parse_token, to_json, utf16_length
from tests.sse import parse

TURN = UUID(int=1)
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=50)
NASTY = ["\r\n", "\n\ndata: forged\n\n", "\u2028", "\u2029", "\x85", "\x00", "\ud83d", "🙂", "</script>", "a" * 5000]


@pytest.mark.parametrize("text", ["", "7", "e.1e3", "abc.", ".7", "abc.-1", "abc.07", "abc.7 ", "ABC.7", "abc.7.7",
                                  "abc.٣", "a" * 40 + ".1", "abc." + "9" * 30, "abc.7\n"])  # fmt: skip
def test_cursor_refuses_what_is_not_one(text: str) -> None:
    assert Cursor.parse(text) is None


def test_cursor_survives_the_wire() -> None:
    assert Cursor.parse(str(Cursor("5b1f0c", 42))) == Cursor("5b1f0c", 42)


@given(ANY_TEXT)
def test_no_text_can_forge_a_frame(text: str) -> None:
    data = to_json(Token(TURN, 1, 0, text))
    assert data.splitlines() == [data]
    (event,) = parse(f"id: e.1\nevent: token\ndata: {data}\n\n".encode())
    assert utf16(event.data["text"]) == utf16(text)


@given(ANY_TEXT)
def test_length_is_what_javascript_counts(text: str) -> None:
    assert utf16_length(text) == len(utf16(text)) // 2


@pytest.mark.parametrize("text", NASTY)
def test_a_token_is_read_back_exactly(text: str) -> None:
    assert utf16(parse_token(to_json(Token(TURN, 3, 7, text))).text) == utf16(text)


@given(st.lists(st.tuples(ANY_TEXT, st.booleans()), min_size=1, max_size=20))
def test_merging_loses_and_doubles_nothing(pieces: list[tuple[str, bool]]) -> None:
    events: list[StoredEvent] = []
    off = 0
    for text, interrupted in pieces:
        events.append(_token(len(events) + 1, off, text))
        off += utf16_length(text)
        if interrupted:
            events.append(StoredEvent(len(events) + 1, UUID(int=2), "listening", 0, "{}"))
    merged = merge(events)
    texts = [parse_token(event.data) for event in merged if event.kind == "token"]
    assert utf16("".join(token.text for token in texts)) == utf16("".join(text for text, _ in pieces))
    assert [event.seq for event in merged] == sorted(event.seq for event in merged)
    assert merged[-1].seq == events[-1].seq
    assert [t.off for t in texts] == [sum(utf16_length(e.text) for e in texts[:i]) for i in range(len(texts))]


def test_merging_keeps_attempts_and_turns_apart() -> None:
    events = [_token(1, 0, "a"), _token(2, 1, "b"), _token(3, 0, "a", attempt=2), _token(4, 0, "x", turn=UUID(int=2))]
    assert [(event.seq, json.loads(event.data)["text"]) for event in merge(events)] == [(2, "ab"), (3, "a"), (4, "x")]


def _token(seq: int, off: int, text: str, *, attempt: int = 1, turn: UUID = TURN) -> StoredEvent:
    return StoredEvent(seq, turn, "token", attempt, to_json(Token(turn, attempt, off, text)))


def utf16(text: str) -> bytes:
    return text.encode("utf-16-le", "surrogatepass")
