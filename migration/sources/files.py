"""What every source of files shares: a digest, pages of bounded size, and a cursor that counts documents.

A file is parsed in a thread, one page at a time, so neither the event loop waits for a gigabyte nor memory holds it.
"""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import ParamSpec, TypeVar

from migration.documents import Document, Loss, Page, SourceError, Value

PAGE_DOCUMENTS = 500
PAGE_BYTES = 8 << 20  # a document may have 1 MiB
CHUNK = 1 << 20
# An escaped surrogate that may have no other half. ijson's C parser would replace it without a word.
LONE_SURROGATE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..)\\u[dD][c-fC-F]", re.DOTALL
)
LONGEST_ESCAPES = 12
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Digest:
    """What one pass over a file tells."""

    sha256: str
    lone_surrogates: bool


def digest(path: Path) -> Digest:
    sha, lone, tail = hashlib.sha256(), False, b""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            sha.update(chunk)
            seen = tail + chunk
            lone = lone or LONE_SURROGATE.search(seen) is not None
            tail = seen[-LONGEST_ESCAPES:]
    return Digest(sha.hexdigest(), lone)


@dataclass(slots=True)
class Losses:
    """Counts what was lost, per code; a format's own limits count nothing."""

    found: dict[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])

    def note(self, code: str, detail: str, *, count: int = 1) -> None:
        self.found[code, detail] = self.found.get((code, detail), 0) + count

    def all(self) -> Sequence[Loss]:
        return [Loss(code, detail, count) for (code, detail), count in self.found.items()]


@dataclass(frozen=True, slots=True)
class Origin:
    """Which database the files were taken from, and what they are."""

    kind: str
    project: str
    database: str
    fingerprint: str


class FileSource:
    """Documents of files that are there in full. `read` starts over at each call, noting what it finds lost."""

    def __init__(
        self, origin: Origin, read: Callable[[Losses], Iterator[Document]], *, expected: int | None = None
    ) -> None:
        self.kind, self.project, self.database = origin.kind, origin.project, origin.database
        self.fingerprint = origin.fingerprint
        self._read, self._expected, self._losses = read, expected, Losses()

    def goes_on(self, fingerprint: str, *, complete: bool) -> bool:  # noqa: ARG002
        return fingerprint == self.fingerprint

    async def expected(self) -> int | None:
        return self._expected

    async def pages(self, after: str | None = None) -> AsyncIterator[Page]:
        self._losses = Losses()
        position = _position(after)
        with closing(_reading(self._read, self._losses)) as documents:
            await _in_thread(_skip, documents, position)
            while batch := await _in_thread(_batch, documents):
                position += len(batch)
                yield Page(batch, str(position))

    def losses(self) -> Sequence[Loss]:
        return self._losses.all()

    async def aclose(self) -> None:
        """Nothing stays open between pages."""


async def _in_thread(work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Waits for the thread's end also where the caller is cancelled: what it works on is closed then."""
    thread = asyncio.ensure_future(asyncio.to_thread(work, *arguments, **named))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        await asyncio.wait({thread})
        raise


def _reading(read: Callable[[Losses], Iterator[Document]], losses: Losses) -> Generator[Document]:
    yield from read(losses)


def _position(after: str | None) -> int:
    if after is not None and not (after.isascii() and after.isdigit()):
        raise SourceError("the checkpoint is not one of this source", advice="Start over with another run.")
    return int(after or 0)


def _skip(documents: Iterator[Document], count: int) -> None:
    for _ in islice(documents, count):
        pass


def _batch(documents: Iterator[Document]) -> list[Document]:
    batch: list[Document] = []
    size = 0
    for document in islice(documents, PAGE_DOCUMENTS):
        batch.append(document)
        size += weight(document.fields)
        if size >= PAGE_BYTES:
            break
    return batch


def weight(value: Value) -> int:
    """About how many bytes it takes."""
    if isinstance(value, dict):
        return sum(len(key) + weight(inner) for key, inner in value.items())
    if isinstance(value, list):
        return sum(weight(inner) for inner in value)
    return len(value) if isinstance(value, str | bytes) else 16
