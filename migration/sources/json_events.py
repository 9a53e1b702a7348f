"""JSON of any size, read as a pull parser: what is wanted whole is built, what is large is walked.

Damage is a SourceError with the file and about how far it was read, never with the text itself.
"""

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO

import ijson

from migration.documents import SourceError

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
Event = tuple[str, Any]

DEEPEST = 64  # Firestore allows 20 levels of a document
LONGEST_LINE = 64 << 20  # a document has at most 1 MiB, its JSON a few times that
INT64 = range(-(2**63), 2**63)
DAMAGED_ADVICE = "Make the dump again, or fetch the file again; nothing of it was loaded."


class Events:
    """One JSON text. Whoever takes a member's key or an array's item must consume its value before the next."""

    def __init__(self, file: BinaryIO, path: Path, *, exact: bool = False) -> None:
        parse = ijson.get_backend("python").basic_parse if exact else ijson.basic_parse
        self._events: Iterator[Event] = parse(file)
        self._file, self._path = file, path
        self._ahead: Event | None = None

    def take(self) -> Event:
        event, self._ahead = self.peek(), None
        return event

    def peek(self) -> Event:
        if self._ahead is None:
            self._ahead = self._next()
        return self._ahead

    def _next(self) -> Event:
        try:
            return next(self._events)
        except StopIteration:
            raise self.error("the JSON ends too early") from None
        except (ijson.JSONError, UnicodeDecodeError, ValueError):
            raise self.error("this is not valid JSON, or it is cut off") from None

    def error(self, message: str) -> SourceError:
        return SourceError(message, place=f"{self._path}, before byte {self._file.tell()}", advice=DAMAGED_ADVICE)

    def members(self, *, begun: bool = False) -> Iterator[str]:
        """The keys of the object that begins here; or whose beginning was taken."""
        if not begun and self.take()[0] != "start_map":
            raise self.error("an object was expected")
        while (event := self.take())[0] == "map_key":
            yield event[1]

    def items(self) -> Iterator[None]:
        """Each item of the array that begins here."""
        if self.take()[0] != "start_array":
            raise self.error("an array was expected")
        while self.peek()[0] != "end_array":
            yield
        self.take()

    def value(self, depth: int = 0) -> Json:
        """The value that begins here, whole."""
        if depth > DEEPEST:
            raise self.error(f"values nest more than {DEEPEST} deep")
        kind, scalar = self.peek()
        if kind == "start_map":
            return {key: self.value(depth + 1) for key in self.members()}
        if kind == "start_array":
            return [self.value(depth + 1) for _ in self.items()]
        self.take()
        return _number(scalar) if kind == "number" else scalar

    def object(self) -> dict[str, Json]:
        value = self.value()
        if not isinstance(value, dict):
            raise self.error("an object was expected")
        return value

    def end(self) -> None:
        """Nothing may follow."""
        try:
            after = next(self._events, None)
        except (ijson.JSONError, UnicodeDecodeError, ValueError):
            after = ("garbage", None)
        if after is not None:
            raise self.error("something follows the JSON's end")


def _number(value: float | Decimal) -> int | float:
    """Firestore's integers have 64 bits: a longer one was a double, which JavaScript writes without a fraction."""
    return value if isinstance(value, int) and value in INT64 else float(value)


def lines(path: Path) -> Iterator[tuple[dict[str, Json], str]]:
    """Each object of an NDJSON file, with its place."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(LONGEST_LINE):
            number += 1
            if line.strip():
                place = f"{path}, line {number}"
                yield _line(line, place), place


def _line(line: bytes, place: str) -> dict[str, Json]:
    try:
        value = json.loads(line, parse_int=lambda digits: _number(int(digits)))
    except (ValueError, RecursionError):
        raise SourceError("this line is not a JSON object", place=place, advice=DAMAGED_ADVICE) from None
    if not isinstance(value, dict):
        raise SourceError("this line is not a JSON object", place=place, advice=DAMAGED_ADVICE)
    return value
