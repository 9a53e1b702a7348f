"""Which tool wrote a JSON dump, by its content, and its documents."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from migration.documents import Document, Loss, SourceError
from migration.sources import dump_lines, dump_trees
from migration.sources.dump import Documents, Dump
from migration.sources.dump_lines import Reader
from migration.sources.files import FileSource, Losses, Origin, digest
from migration.sources.json_events import LONGEST_LINE, Json
from migration.sources.json_values import DOCUMENT_NAME, Decoding

LOOKED_AT = 100_000  # events
TAIL = 1 << 16


@dataclass(frozen=True, slots=True)
class Format:
    """A tool's way of writing; `losses` are what it cannot write."""

    kind: str
    read: Reader
    losses: tuple[Loss, ...] = ()


IMPORT_EXPORT = Format("node-firestore-import-export", dump_trees.import_export, dump_trees.IMPORT_EXPORT_LOSSES)
EXPORT_IMPORT = Format("firestore-export-import", dump_trees.export_import, dump_trees.EXPORT_IMPORT_LOSSES)
BACKUP_TREE = Format("firestore-backup", dump_trees.backup_tree, dump_trees.BACKUP_LOSSES)
BACKUP_LINES = Format("firestore-backup", dump_lines.backup_lines, dump_trees.BACKUP_LOSSES)
BACKFIRE = Format("firestore-backfire", dump_lines.backfire, dump_lines.BACKFIRE_LOSSES)
SUPABASE = Format("firebase-to-supabase", dump_lines.supabase, dump_lines.SUPABASE_LOSSES)
REST_ANSWER = Format("firestore-rest", dump_lines.rest_answer, dump_lines.REST_LOSSES)
REST_LINES = Format("firestore-rest", dump_lines.rest_lines, dump_lines.REST_LOSSES)


@dataclass(frozen=True, slots=True)
class Look:
    """A file's first object (or its array's): its keys with the kinds of their values, and the keys further in."""

    array: bool
    keys: dict[str, str]
    inner: frozenset[str]
    lines: bool

    def has(self, **kinds: str) -> bool:
        return all(self.keys.get(key) == kind for key, kind in kinds.items())


def open_dump(path: Path, *, project: str | None, database: str | None, path_template: str | None) -> FileSource:
    seen = digest(path)
    look = _look(Dump(path, Decoding("", ""), exact=seen.lone_surrogates))
    found = _format(look)
    if found is None:
        raise SourceError("not a dump of a known kind", place=str(path), advice="docs/migration.md names the kinds.")
    meta = _meta(path, found)
    said = project or _text(meta.get("project_id"))
    if said is None:
        advice = "Name the project that the dump was taken from."
        raise SourceError("the dump does not say its project", place=str(path), advice=advice)
    where = database or _text(meta.get("database")) or "(default)"
    dump = Dump(path, Decoding(said, where), path_template, seen.lone_surrogates)
    count = meta.get("documents")
    return FileSource(
        Origin(found.kind, said, where, seen.sha256),
        partial(_read, dump, found),
        expected=count if type(count) is int else None,
    )


def _read(dump: Dump, found: Format, losses: Losses) -> Iterator[Document]:
    for loss in found.losses:
        losses.note(loss.code, loss.detail, count=loss.count)
    yield from found.read(dump.noting(losses))


def _format(look: Look) -> Format | None:
    record = Format("", _nothing)
    choices = (
        (look.has(name="string") and bool({"fields", "createTime"} & set(look.keys)), _rest(look)),
        (look.has(document="start_map") or look.has(readTime="string"), _rest(look)),
        (look.array, SUPABASE),
        ("__collections__" in look.keys, IMPORT_EXPORT),
        (look.has(__meta__="start_map"), BACKUP_TREE),
        (look.has(type="string", dump_schema="number"), BACKUP_LINES),
        (look.has(collection="string", path="string", data="start_map"), BACKUP_LINES),
        (look.has(path="string", data="start_map"), BACKFIRE),
        (look.has(documents="start_array"), REST_ANSWER),
        (set(look.keys.values()) != {"start_map"}, record),
        ("__collections__" in look.inner, IMPORT_EXPORT),
        (True, EXPORT_IMPORT),
    )
    found = next(choice for holds, choice in choices if holds)
    return None if found is record else found


def _nothing(_: Dump) -> Documents:
    return iter(())


def _rest(look: Look) -> Format:
    return REST_LINES if look.lines and not look.array else REST_ANSWER


def _look(dump: Dump) -> Look:
    keys: dict[str, str] = {}
    inner: set[str] = set()
    with dump.events() as events:
        array = events.peek()[0] == "start_array"
        depth, outermost, key = 0, 1 + array, ""
        for _ in range(LOOKED_AT):
            kind, value = events.take()
            if depth == outermost and kind == "map_key":
                key = value
            elif depth == outermost and not kind.startswith("end"):
                keys[key] = kind
            elif kind == "map_key":
                inner.add(value)
            depth += kind.startswith("start") - kind.startswith("end")
            if depth < outermost and kind.startswith("end"):
                break
    return Look(array, keys, frozenset(inner), _first_line_is_whole(dump.path))


def _first_line_is_whole(path: Path) -> bool:
    with path.open("rb") as file:
        line = file.readline(min(LONGEST_LINE, 4 << 20))
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _meta(path: Path, found: Format) -> dict[str, Json]:
    """What a dump says about itself before it is read: the origin, and how many documents it has."""
    if found is BACKUP_TREE:
        dump = Dump(path, Decoding("", ""))
        with dump.events() as events:
            return next((events.object() for key in events.members() if key == "__meta__"), {})
    if found is BACKUP_LINES:
        return _last_line(path)
    if found.kind == "firestore-rest":
        return _named(path)
    return {}


def _last_line(path: Path) -> dict[str, Json]:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL))
        line = file.read().rstrip().rpartition(b"\n")[2]
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) and value.get("type") == "meta" else {}


def _named(path: Path) -> dict[str, Json]:
    """The first document's full name says the origin."""
    with path.open("rb") as file:
        head = file.read(TAIL).decode(errors="replace")
    match = DOCUMENT_NAME.search(head)
    return {"project_id": match[1], "database": match[2]} if match else {}


def _text(value: Json) -> str | None:
    return value if isinstance(value, str) and value else None
