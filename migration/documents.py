"""What every source yields and the rest of the pipeline works on: documents with Firestore's own types of values."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Timestamp:
    """A moment as Firestore holds it; `nanos` 0 to 999,999,999."""

    seconds: int
    nanos: int = 0


@dataclass(frozen=True, slots=True)
class GeoPoint:
    """Degrees."""

    latitude: float
    longitude: float


@dataclass(frozen=True, slots=True)
class Reference:
    """Another document, by its project, database and path segments."""

    project: str
    database: str
    path: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Vector:
    """An embedding."""

    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Unresolved:
    """What a dump says of a value that it could not hold, e.g. a server timestamp that was never set."""

    kind: str


Value = (
    None
    | bool
    | int
    | float
    | str
    | bytes
    | Timestamp
    | GeoPoint
    | Reference
    | Vector
    | Unresolved
    | list["Value"]
    | dict[str, "Value"]
)


@dataclass(frozen=True, slots=True)
class Document:
    """`path`: alternating collection and document ids, unescaped, from the database's root."""

    path: tuple[str, ...]
    fields: dict[str, Value]
    created: Timestamp | None = None
    updated: Timestamp | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Some documents, and the cursor that continues after them; the two are committed together."""

    documents: Sequence[Document]
    cursor: str


@dataclass(frozen=True, slots=True)
class Loss:
    """What a source's format cannot hold, or did not hold: for the report."""

    code: str
    detail: str
    count: int = 1


class Source(Protocol):
    """Where documents come from. Reading it again from a cursor gives what follows, in the same order.

    `kind`: firestore, managed-export, or the dump format's name. `project` and `database` name the origin: ids of
    target rows are made of them, so a dump of the same project maps to the same rows (the caller gives them where a
    dump does not say them). `fingerprint` changes when the data does: a file's digest, the read time of a live read.
    """

    kind: str
    project: str
    database: str
    fingerprint: str

    def goes_on(self, fingerprint: str, *, complete: bool) -> bool:
        """Whether a reading that was begun under that fingerprint, and came to its end or not, is still good."""
        ...

    async def expected(self) -> int | None:
        """Documents in all by the source's own count; None where it has none."""
        ...

    def pages(self, after: str | None = None) -> AsyncIterator[Page]:
        """All documents after the cursor. Raises SourceError where the source is damaged or cannot be reached."""
        ...

    def losses(self) -> Sequence[Loss]:
        """What was found lost so far; complete when the last page has been read."""
        ...

    async def aclose(self) -> None: ...


class SourceError(Exception):
    """The source cannot be read: `place` says where, `advice` what to do; never the documents' contents."""

    def __init__(self, message: str, *, place: str = "", advice: str = "", retryable: bool = False) -> None:
        super().__init__(message)
        self.place = place
        self.advice = advice
        self.retryable = retryable
