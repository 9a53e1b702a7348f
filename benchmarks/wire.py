"""What came over a connection, read after the run so that reading does not disturb it: HTTP, chunks, SSE events."""

import json
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import accumulate

# (time, bytes): one read of the socket
Read = tuple[float, bytes]
END_OF_EVENT = re.compile(rb"\r\n\r\n|\n\n")
END_OF_LINE = re.compile("\r\n|\r|\n")


@dataclass(frozen=True, slots=True)
class Event:
    """An SSE event and when its last byte came."""

    at: float
    name: str
    data: str
    id: str

    @property
    def text(self) -> str:
        """The piece of the reply that it carries, in the gateway's, the plain endpoint's or the model's own form."""
        if self.name == "token":
            return json.loads(self.data)["text"]
        if self.name or not self.data.startswith("{"):
            return ""
        choices = json.loads(self.data)["choices"]
        return (choices[0]["delta"].get("content") or "") if choices else ""

    @property
    def turn(self) -> str | None:
        """The turn that it tells of, where it says so."""
        return json.loads(self.data).get("turn") if self.name == "reply" else None


def events(reads: Sequence[Read]) -> list[Event]:
    """The events of an answer. Raises ValueError for any status but 200."""
    raw = b"".join(data for _, data in reads)
    head, _, _ = raw.partition(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n", 1)[0]:
        raise ValueError(f"answer: {raw[:400].decode(errors='replace')}")
    body, ends = _unchunked(raw, len(head) + 4)
    read_ends = list(accumulate(len(data) for _, data in reads))
    body_ends = [end for end, _ in ends]
    found: list[Event] = []
    start = 0
    for boundary in END_OF_EVENT.finditer(body):
        raw_end = ends[bisect_left(body_ends, boundary.end())][1]
        found.append(_event(reads[bisect_left(read_ends, raw_end)][0], body[start : boundary.start()]))
        start = boundary.end()
    return found


def _unchunked(raw: bytes, start: int) -> tuple[bytes, list[tuple[int, int]]]:
    """The body, and for each chunk where it ends in the body and in `raw`."""
    parts: list[bytes] = []
    ends: list[tuple[int, int]] = []
    length = 0
    while (line_end := raw.find(b"\r\n", start)) != -1 and (size := int(raw[start:line_end], 16)):
        start = line_end + 2 + size + 2
        parts.append(raw[line_end + 2 : start - 2])
        length += len(parts[-1])
        ends.append((length, start - 2))
    return b"".join(parts), ends


def _event(at: float, block: bytes) -> Event:
    fields = dict(_field(line) for line in END_OF_LINE.split(block.decode()))
    return Event(at, fields.get("event", ""), fields.get("data", ""), fields.get("id", ""))


def _field(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name, value.removeprefix(" ")


def deliveries(answer: Sequence[Event]) -> Iterator[float]:
    """When a piece of the reply came."""
    return (event.at for event in answer if event.text)


def difference(expected: str, got: str) -> tuple[int, int]:
    """Characters that are lost, and characters that are there but should not be (doubled, or foreign)."""
    if expected == got:
        return 0, 0
    changes = SequenceMatcher(None, expected, got, autojunk=False).get_opcodes()
    lost = sum(to - at for kind, at, to, _, _ in changes if kind != "equal")
    return lost, sum(to - at for kind, _, _, at, to in changes if kind != "equal")
