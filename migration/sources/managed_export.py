"""A managed export's folder, as `gcloud firestore export` and `firebase emulators:export` write it.

A file that ends where a record ends looks whole: only the counts in the overall metadata show that it is not.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from migration.documents import Document, SourceError
from migration.sources import entity, wire
from migration.sources.dump import at, damaged
from migration.sources.files import FileSource, Losses, Origin, digest
from migration.sources.leveldb import records

OVERALL = "*.overall_export_metadata"
LOSSES = (("document-times", "creation and update times were not written"),)


@dataclass(frozen=True, slots=True)
class Part:
    """One group of collections: its output files, and how many documents they hold together."""

    files: tuple[Path, ...]
    count: int


def open_export(folder: Path, *, project: str | None = None, database: str | None = None) -> FileSource:
    """The origin is read from the first document; arguments are for an export that is restored under another name."""
    parts = _parts(folder)
    said = next(((found.project, found.database) for found in _entities(parts)), (project, database))
    name = project or said[0]
    if name is None:
        advice = "Name the project that the export was taken from."
        raise SourceError("an export without documents does not say its project", place=str(folder), advice=advice)
    return FileSource(
        Origin("managed-export", name, database or said[1] or "(default)", _fingerprint(parts)),
        partial(_documents, parts),
        expected=sum(part.count for part in parts),
    )


def _documents(parts: tuple[Part, ...], losses: Losses) -> Iterator[Document]:
    for code, detail in LOSSES:
        losses.note(code, detail, count=0)
    first: entity.Entity | None = None
    for found in _entities(parts):
        first = first or found
        if (found.project, found.database) != (first.project, first.database):
            raise SourceError("the export mixes several databases", place=str(parts[0].files[0].parent))
        yield found.document


def _entities(parts: tuple[Part, ...]) -> Iterator[entity.Entity]:
    for part in parts:
        count = 0
        for path in part.files:
            for data, place in _records(path):
                count += 1
                with at(place):
                    yield entity.decode(data)
        if count != part.count:
            where = ", ".join(str(path) for path in part.files)
            raise damaged(f"the export's metadata counts {part.count} documents, its files hold {count}", where)


def _records(path: Path) -> Iterator[tuple[bytes, str]]:
    try:
        with path.open("rb") as file:
            for data, offset in records(file, str(path)):
                yield data, f"{path}, byte {offset}"
    except FileNotFoundError:
        raise damaged("a file of the export is missing", str(path)) from None


def _parts(folder: Path) -> tuple[Part, ...]:
    found = sorted(folder.glob(OVERALL))
    if len(found) != 1:
        message = "several exports in one folder" if found else "no overall_export_metadata: not an export, or cut off"
        raise SourceError(message, place=str(folder), advice=f"Name the folder that holds one {OVERALL}.")
    said = list(_records(found[0]))
    if not said or not said[0][0].isdigit():
        raise damaged("the overall metadata does not begin with its version", str(found[0]))
    parts = tuple(_part(folder, data, place) for data, place in said[1:])
    if not parts:
        raise damaged("the overall metadata is empty", str(found[0]))
    return parts


def _part(folder: Path, data: bytes, place: str) -> Part:
    """In the overall metadata, after its version: {1: {2: path of the part's metadata, 3: its entities if any}}."""
    with at(place):
        said = dict(wire.parse(wire.message(dict(wire.parse(data)).get(1, b""))))
        if 2 not in said:
            raise SourceError("the metadata names no documents: the export is empty, or damaged")
        metadata = _below(folder, wire.text(said.get(2, 0)))
        return Part(_outputs(metadata), wire.integer(said.get(3, 0)))


def _outputs(metadata: Path) -> tuple[Path, ...]:
    """In a part's metadata: {2: {2: name of an output file}}, again and again."""
    try:
        data = metadata.read_bytes()
    except FileNotFoundError:
        raise damaged("a file of the export is missing", str(metadata)) from None
    with at(f"{metadata}, byte 0"):
        namespaces = [wire.message(value) for number, value in wire.parse(data) if number == 2]
        names = [wire.text(value) for inner in namespaces for number, value in wire.parse(inner) if number == 2]
        if not names:
            raise SourceError("the metadata names no output file")
        return tuple(_below(metadata.parent, name) for name in names)


def _below(folder: Path, name: str) -> Path:
    """An export is somebody else's file: it may not lead out of its folder."""
    path = folder / name
    if not name or not path.resolve().is_relative_to(folder.resolve()):
        raise SourceError("the metadata names a file outside of the export")
    return path


def _fingerprint(parts: tuple[Part, ...]) -> str:
    files = sorted({path for part in parts for path in part.files})
    missing = next((path for path in files if not path.is_file()), None)
    if missing is not None:
        raise damaged("a file of the export is missing", str(missing))
    return hashlib.sha256("".join(digest(path).sha256 for path in files).encode()).hexdigest()
