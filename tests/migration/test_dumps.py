"""JSON dumps: those that the real tools made of the emulator's documents, and small ones by their documented shapes.

`data/` was recorded from `everything.dumpable`: without its vector where firestore-backup 1.0.0 cannot write one.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from migration.documents import Document, Reference, SourceError, Timestamp, Unresolved, Value, Vector
from migration.sources import open_source
from tests.migration import everything
from tests.migration.emulator import Emulator
from tests.migration.reading import documents, fields

DATA = Path(__file__).parent / "data"
TIME: dict[str, Value] = {"_seconds": 1, "_nanoseconds": 5}
JAVASCRIPT = {"negative zero", "largest", "smallest", "integral double", "nan", "infinity"}
BELOW = {("gone", "1", "gone", "2", "gone", "3", "here", "4")}
META = {"type": "meta", "dump_schema": 1, "project_id": "p", "database": "(default)"}
RECORD = {
    "collection": "a",
    "id": "b",
    "path": "a/b",
    "data": {"t": {"__fs_type__": "timestamp", "value": "1970-01-01T00:00:01.000000005Z"}},
}
END = {**META, "final": True, "complete": True, "documents": 1, "errors": 0}


def dump(folder: Path, *values: object, name: str = "dump.json") -> Path:
    """A line for each value."""
    path = folder / name
    path.write_text("\n".join(json.dumps(value) for value in values) + "\n")
    return path


async def read(path: Path, *, template: str | None = None) -> list[Document]:
    return await documents(open_source(str(path), project="p", path_template=template))


@pytest.mark.parametrize(
    ("name", "lost", "missing"),
    [
        ("node-firestore-import-export.json", JAVASCRIPT | {"bytes", "no bytes", "long bytes", "items"}, set[Any]()),
        ("firestore-export-import.json", JAVASCRIPT, BELOW),
        ("firestore-backup.json", {"vector"}, set[Any]()),
        ("firestore-backup.ndjson", {"vector"}, set[Any]()),
        ("rest.json", set[str](), {*BELOW, ("every", "value", "below", "1")}),
    ],
)
async def test_a_dump_holds_what_the_live_source_reads(
    emulator: Emulator, name: str, lost: set[str], missing: set[Any]
) -> None:
    emulator.seed("dumped", everything.dumpable("dumped"))
    live = await fields(open_source("firestore://dumped", emulator=emulator.host))
    found = await fields(open_source(str(DATA / name), project="dumped"))
    assert live.keys() - found.keys() == missing
    assert found.keys() <= live.keys()
    value = found.pop(("every", "value"))
    expected = live.pop(("every", "value"))
    assert {key for key in expected if value.get(key) != expected[key]} == lost
    assert all(found[path] == live[path] for path in found)


def import_export() -> dict[str, Any]:
    message = {"at": {"__datatype__": "timestamp", "value": TIME}, "__collections__": {}}
    users = {
        "u": {"n": 1, "__collections__": {"messages": {"1": message}}},
        "gone": {"__collections__": {"deep": {"1": {"__collections__": {}}}}},
    }
    return {"__collections__": {"users": users}}


async def test_import_export_keeps_order_and_reports_what_may_be_missing(tmp_path: Path) -> None:
    source = open_source(str(dump(tmp_path, import_export())), project="p", database="other")
    assert (source.kind, source.project, source.database) == ("node-firestore-import-export", "p", "other")
    assert await documents(source) == [
        Document(("users", "u", "messages", "1"), {"at": Timestamp(1, 5)}),
        Document(("users", "u"), {"n": 1}),
        Document(("users", "gone", "deep", "1"), {}),
    ]
    assert [loss.count for loss in source.losses() if loss.code == "empty-or-missing-parent"] == [1]


async def test_a_collection_alone_needs_its_path(tmp_path: Path) -> None:
    path = dump(tmp_path, import_export()["__collections__"]["users"])
    assert [d.path for d in await read(path, template="users")][1] == ("users", "u")


async def test_a_users_own_look_alike_stays_a_map(tmp_path: Path) -> None:
    own: dict[str, Value] = {
        "a": {"seconds": 5},
        "b": {"_seconds": 5},
        "c": {"_seconds": 5, "_nanoseconds": 1, "more": 1},
        "d": {"_seconds": "5", "_nanoseconds": 1},
        "e": {"__datatype__": "timestamp", "value": 5},
        "f": {"__datatype__": "timestamp", "value": {"_seconds": 1}, "more": 1},
        "g": {"_seconds": 5, "_nanoseconds": 1_000_000_000},
        "subCollection": {"mine": 1},
    }
    nodes = await read(dump(tmp_path, {"__collections__": {"c": {"d": {**own, "__collections__": {}}}}}))
    assert nodes == [Document(("c", "d"), own)]
    assert await read(dump(tmp_path, {"c": {"d": own}})) == [Document(("c", "d"), own)]


async def test_export_import_walks_below_documents(tmp_path: Path) -> None:
    below = {"c/d/e": {"f": {"t": TIME, "v": {"_values": [1, 2.5]}, "w": {"_methodName": "serverTimestamp"}}}}
    found = await read(dump(tmp_path, {"c": {"d": {"n": 1, "subCollection": below}}}))
    values: dict[str, Value] = {"t": Timestamp(1, 5), "v": Vector((1.0, 2.5)), "w": Unresolved("serverTimestamp")}
    assert found == [Document(("c", "d", "e", "f"), values), Document(("c", "d"), {"n": 1})]


async def test_backup_lines_are_whole_with_their_end_marker(tmp_path: Path) -> None:
    source = open_source(str(dump(tmp_path, META, RECORD, END)))
    assert (source.kind, source.project, await source.expected()) == ("firestore-backup", "p", 1)
    assert await documents(source) == [Document(("a", "b"), {"t": Timestamp(1, 5)})]


@pytest.mark.parametrize(
    "lines",
    [
        (META, RECORD),
        (META, END),
        (META, RECORD, {**END, "complete": False}),
        (META, RECORD, {**END, "errors": 1}),
        (META, RECORD, END, RECORD),
        (META, {**RECORD, "path": "a"}, END),
        (META, {**RECORD, "data": {"x": {"__fs_type__": "unheard-of"}}}, END),
        (META, {**RECORD, "data": {"x": {"__fs_type__": "timestamp", "value": "yesterday"}}}, END),
    ],
)
async def test_damaged_backup_lines_are_refused(tmp_path: Path, lines: Sequence[object]) -> None:
    with pytest.raises(SourceError) as caught:
        await read(dump(tmp_path, *lines))
    assert str(tmp_path) in caught.value.place


async def test_backfire_types_only_what_it_names(tmp_path: Path) -> None:
    reference = {"_path": {"segments": ["x", "y"], "projectId": "q", "databaseId": "(default)"}}
    line = {
        "path": "a/b",
        "data": {"t": TIME, "own": TIME, "l": [{"deep": TIME}], "r": reference},
        "timestamps": ["t", "l.0.deep"],
        "documents": ["r"],
    }
    found = await read(dump(tmp_path, line, {"path": "a/c", "data": {}}, name="dump.ndjson"))
    at = Timestamp(1, 5)
    values: dict[str, Value] = {"t": at, "own": TIME, "l": [{"deep": at}], "r": Reference("q", "(default)", ("x", "y"))}
    assert found == [Document(("a", "b"), values), Document(("a", "c"), {})]


async def test_an_array_needs_a_template(tmp_path: Path) -> None:
    path = dump(tmp_path, [{"firestore_id": "m", "user": "u", "t": TIME}])
    values: dict[str, Value] = {"user": "u", "t": Timestamp(1, 5)}
    assert await read(path, template="messages") == [Document(("messages", "m"), values)]
    assert (await read(path, template="users/{user}/messages"))[0].path == ("users", "u", "messages", "m")
    for template in (None, "users/{nobody}/messages"):
        with pytest.raises(SourceError, match=r"template|which collection"):
            await read(path, template=template)


async def test_rest_answers_and_lines_are_read(tmp_path: Path) -> None:
    one = {
        "name": "projects/q/databases/d/documents/a/b",
        "fields": {"n": {"integerValue": "9007199254740993"}},
        "updateTime": "2026-01-01T00:00:00.123456789Z",
    }
    expected: list[Document] = [Document(("a", "b"), {"n": 9007199254740993}, None, Timestamp(1767225600, 123456789))]
    answers = ([{"document": one, "readTime": "2026-01-01T00:00:00Z"}, {"readTime": "2026-01-01T00:00:00Z"}],)
    for values in (({"documents": [one]},), answers, (one,)):
        assert await read(dump(tmp_path, *values)) == expected
    source = open_source(str(dump(tmp_path, one, one)))
    assert (source.project, source.database) == ("q", "d")
    with pytest.raises(SourceError, match="more pages"):
        await read(dump(tmp_path, {"documents": [one], "nextPageToken": "x"}))


async def test_lone_surrogates_and_nul_survive(tmp_path: Path) -> None:
    text = "a\ud83d b\0 \udc00 \N{GRINNING FACE}"
    found = await read(dump(tmp_path, {"__collections__": {"c": {"d": {"t": text, "__collections__": {}}}}}))
    assert found[0].fields["t"] == text


async def test_a_truncation_anywhere_is_found(tmp_path: Path) -> None:
    path = dump(tmp_path, import_export())
    whole = path.read_bytes().rstrip()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(SourceError) as caught:
            await read(path)
        assert str(path) in caught.value.place


@pytest.mark.parametrize(
    "text", ["", "null", "5", "<html>", "{}", '{"a": 1}', '{"a": {"b": 5}}', "\x00\xff", "[" * 5_000]
)
async def test_what_is_no_dump_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "dump.json"
    path.write_text(text)
    with pytest.raises(SourceError) as caught:
        await read(path, template="a")
    assert caught.value.place


async def test_deep_nesting_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "dump.json"
    path.write_text('{"__collections__": {"c": {"d": {"x": ' + '{"a":' * 5_000 + "1" + "}" * 5_004)
    with pytest.raises(SourceError, match="deep"):
        await read(path)


async def test_reading_goes_on_after_a_cursor(tmp_path: Path) -> None:
    items = {f"{at}": {"n": at} for at in range(1_200)}
    path = dump(tmp_path, {"items": items})
    pages = [page async for page in open_source(str(path), project="p").pages()]
    assert [len(page.documents) for page in pages] == [500, 500, 200]
    rest = await documents(open_source(str(path), project="p"), after=pages[0].cursor)
    assert [document.fields["n"] for document in rest] == list(range(500, 1_200))


async def test_the_fingerprint_is_the_contents(tmp_path: Path) -> None:
    first = open_source(str(dump(tmp_path, {"c": {"d": {"n": 1}}})), project="p").fingerprint
    assert open_source(str(dump(tmp_path, {"c": {"d": {"n": 1}}})), project="p").fingerprint == first
    assert open_source(str(dump(tmp_path, {"c": {"d": {"n": 2}}})), project="p").fingerprint != first


def test_a_project_must_be_known(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="project"):
        open_source(str(dump(tmp_path, {"c": {"d": {}}})))
    with pytest.raises(SourceError, match="no such file"):
        open_source(str(tmp_path / "nothing"))
    with pytest.raises(SourceError, match="PROJECT"):
        open_source("firestore://")
