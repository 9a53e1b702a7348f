"""Reading server-sent events: the payloads never depend on where the network cut the body."""

from itertools import accumulate, pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from freya_gateway.llm.sse import BOM, OversizedEventError, SSEDecoder

WHOLE = (
    "data: é🙂\r\n\r\n: note\ndata:two\r\ndata: lines\n\nevent: x\rid: 7\rdata:  spaced\r\rdata\n\n"
    "datas: no\n\nretry: 5\n\ndata: end"
).encode()
PAYLOADS = ["é🙂".encode(), b"two\nlines", b" spaced", b"end"]
LINES = st.sampled_from(
    [b"data: a", b"data:b", b"data:  c ", b"data", b"", b"", b": note", b"id: 7", BOM, b"datas: no"]
)
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r", b""])
BODIES = st.lists(st.tuples(LINES, ENDS), max_size=12).map(lambda lines: b"".join(line + end for line, end in lines))
SIZES = st.lists(st.integers(1, 9), max_size=40)


def decode(*parts: bytes) -> list[bytes]:
    decoder = SSEDecoder()
    return [payload for part in parts for payload in decoder.feed(part)] + decoder.end()


def by_the_book(body: bytes) -> list[bytes]:
    """The algorithm of the standard, line by line over a whole body; what is left at the end is an event too."""
    lines = body.removeprefix(BOM).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    payloads: list[bytes] = []
    data: list[bytes] = []
    for line in [*lines, b""]:
        field, _, value = line.partition(b":")
        if line == b"":
            payloads.append(b"\n".join(data))
            data = []
        elif field == b"data":
            data.append(value[1:] if value.startswith(b" ") else value)
    return [payload for payload in payloads if payload]


@pytest.mark.parametrize("at", range(len(WHOLE) + 1))
def test_cut_at_every_byte(at: int) -> None:
    assert decode(WHOLE[:at], WHOLE[at:]) == PAYLOADS


def test_byte_by_byte() -> None:
    assert decode(*(WHOLE[i : i + 1] for i in range(len(WHOLE)))) == PAYLOADS


@settings(max_examples=500)
@given(BODIES, SIZES)
@example(b"data: a\r\ndata: b\r\n\r\n", [8])
@example(BOM + b"data: a\n\n", [1, 1])
@example(b"data: a\r", [])
@example(b"data: a\n\n" + BOM + b"data: b\n\n", [9])
def test_agrees_with_the_standard_however_it_is_cut(body: bytes, sizes: list[int]) -> None:
    starts = [*accumulate(sizes, initial=0)]
    parts = [body[start:end] for start, end in pairwise([*starts, len(body) + starts[-1]])]
    assert decode(*filter(None, parts)) == by_the_book(body)


def test_an_event_is_given_out_as_soon_as_it_is_whole() -> None:
    decoder = SSEDecoder()
    assert decoder.feed(b"data: a\r\n\r") == [b"a"]
    assert decoder.feed(b"\ndata: b\n") == []
    assert decoder.feed(b"\n") == [b"b"]


def test_endless_event_is_refused_but_not_what_came_before() -> None:
    decoder = SSEDecoder(limit=100)
    assert decoder.feed(b"data: a\n\ndata: " + b"x" * 200) == [b"a"]
    with pytest.raises(OversizedEventError):
        decoder.feed(b"x")
