"""What stands in a stream: cursors, events, their JSON, and how pieces of a reply are counted and merged.

JSON here never holds a raw line end of any kind, so no text can forge an SSE frame, whatever splits the lines.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec

from freya_gateway.db.events import StoredEvent

Phase = str  # idle | listening | thinking | replying
CURSOR = re.compile(r"([0-9a-z]{1,32})\.(0|[1-9][0-9]{0,17})")
# Line ends for readers that split like Python's str.splitlines; JSON escapes the ASCII ones already.
LINE_ENDS = {"\u2028": "\\u2028", "\u2029": "\\u2029", "\x85": "\\u0085"}
EXOTIC_LINE_END = re.compile("[\u2028\u2029\x85]")

_encoder = msgspec.json.Encoder()


class Token(msgspec.Struct):
    """The data of a `token` event. `off`: UTF-16 code units of the reply before this piece."""

    turn: UUID
    attempt: int
    off: int
    text: str


_token_decoder = msgspec.json.Decoder(Token)


@dataclass(frozen=True, slots=True)
class Cursor:
    """The place in a stream that a reader has reached: everything up to `seq` of the log named `epoch`."""

    epoch: str
    seq: int

    @classmethod
    def parse(cls, text: str) -> "Cursor | None":
        """Strictly `{epoch}.{seq}`; None for anything else."""
        match = CURSOR.fullmatch(text)
        return cls(match[1], int(match[2])) if match else None

    def __str__(self) -> str:
        return f"{self.epoch}.{self.seq}"


def to_json(value: Any) -> str:
    """One line of JSON, without a raw line end; lone surrogates stay, escaped."""
    try:
        text = _encoder.encode(value).decode()
    except UnicodeEncodeError:
        return json.dumps(msgspec.to_builtins(value), separators=(",", ":"))
    if not text.isascii():
        return EXOTIC_LINE_END.sub(lambda match: LINE_ENDS[match[0]], text)
    return text


def utf16_length(text: str) -> int:
    """JavaScript's `.length`."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le", "surrogatepass")) // 2


def parse_token(data: str) -> Token:
    """The token of a stored event's data."""
    try:
        return _token_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return msgspec.convert(json.loads(data), Token)  # a lone surrogate: the standard decoder keeps it


def merge(events: Iterable[StoredEvent]) -> list[StoredEvent]:
    """The same events with neighbouring pieces of one reply as one, whose seq is the last one's. O(bytes)."""
    merged: list[StoredEvent] = []
    run: list[StoredEvent] = []
    for event in events:
        if run and not _continues(run[-1], event):
            merged.append(_joined(run))
            run = []
        if event.kind == "token":
            run.append(event)
        else:
            merged.append(event)
    return [*merged, _joined(run)] if run else merged


def _continues(last: StoredEvent, event: StoredEvent) -> bool:
    return event.kind == "token" and event.turn_id == last.turn_id and event.attempt == last.attempt


def _joined(run: list[StoredEvent]) -> StoredEvent:
    if len(run) == 1:
        return run[0]
    tokens = [parse_token(event.data) for event in run]
    whole = Token(tokens[0].turn, tokens[0].attempt, tokens[0].off, "".join(token.text for token in tokens))
    last = run[-1]
    return StoredEvent(last.seq, last.turn_id, last.kind, last.attempt, to_json(whole))
