"""Reading server-sent events: the payloads never depend on where the network cut the body."""

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from freya_gateway.llm.sse import BOM, OversizedEventError, SSEDecoder

WHOLE = (
    "data: é🙂\r\n\r\n: note\ndata:two\ndata: lines\n\nevent: x\rid: 7\rdata:  spaced\r\rdata\n\n"
    "datas: no\n\nretry: 5\n\ndata: end"
).encode()
PAYLOADS = ["é🙂".encode(), b"two\nlines", b"spaced", b"end"]
# Few letters and many ends: what differs is how lines end and where they are cut.
BODIES = st.lists(
    st.sampled_from([b"data: ", b"data:", b"a", b"b ", b"\r", b"\n", b"\r\n", b"\n\n", b": c", b"id", BOM])
)


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
            payloads.append(b"\n".join(data).strip())
            data = []
        elif field == b"data":
            data.append(value[1:] if value.startswith(b" ") else value)
    return [payload for payload in payloads if payload]


@pytest.mark.parametrize("at", range(len(WHOLE) + 1))
def test_cut_at_every_byte(at: int) -> None:
    assert decode(WHOLE[:at], WHOLE[at:]) == PAYLOADS


def test_byte_by_byte() -> None:
    assert decode(*(WHOLE[i : i + 1] for i in range(len(WHOLE)))) == PAYLOADS


@given(BODIES.map(b"".join), st.lists(st.integers(0, 60)))
@example(b"data: a\r\n\r\ndata: b\r\n\r\n", [8, 9, 10])
@example(BOM + b"data: a\n\n", [1, 2])
@example(b"data: a\r", [])
def test_agrees_with_the_standard_however_it_is_cut(body: bytes, cuts: list[int]) -> None:
    ends = sorted({0, len(body), *(cut for cut in cuts if cut < len(body))})
    parts = [body[start:end] for start, end in pairwise(ends)]
    assert [p.strip() for p in decode(*parts) if p.strip()] == by_the_book(body)


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
