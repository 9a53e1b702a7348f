"""Dumps that are one JSON tree: node-firestore-import-export, firestore-export-import, firestore-backup's JSON.

A collection below a document may be most of the file, so trees are walked; only a document's own fields are held.
"""

from collections.abc import Callable, Iterator

from migration.documents import Document, Loss, SourceError
from migration.sources.dump import Documents, Dump
from migration.sources.json_events import Events, Json
from migration.sources.json_values import datatype, fields, fs_type, javascript

Path = tuple[str, ...]

JAVASCRIPT_LOSSES = (
    Loss("integral-doubles", "a double without a fraction is read as an integer", 0),
    Loss("large-integers", "integers beyond 2^53 were rounded by the tool", 0),
    Loss("special-doubles", "NaN and infinities were written as null, -0.0 as 0", 0),
)
IMPORT_EXPORT_LOSSES = (
    *JAVASCRIPT_LOSSES,
    Loss("bytes", "binary values were written as maps of numbered bytes", 0),
    Loss("reference-database", "references do not say their project and database", 0),
    Loss("document-times", "creation and update times were not written", 0),
)
EXPORT_IMPORT_LOSSES = (
    *JAVASCRIPT_LOSSES,
    Loss("missing-parents", "documents below a missing document were not written", 0),
    Loss("document-times", "creation and update times were not written", 0),
)
BACKUP_LOSSES = (
    Loss("reference-database", "references do not say their project and database", 0),
    Loss("missing-parents", "documents below a missing document were written only if their group was named", 0),
    Loss("document-times", "creation and update times were not written", 0),
)


def import_export(dump: Dump) -> Documents:
    """`{"__collections__": {name: {id: {..., "__collections__": {...}}}}}`; or one collection's documents."""
    prefix = tuple((dump.template or "").split("/")) if dump.template else ()
    with dump.events() as events:
        if len(prefix) % 2:
            yield from _nested_documents(events, dump, prefix)
        else:
            yield from _nested_document(events, dump, prefix)
        events.end()


def _nested_documents(events: Events, dump: Dump, path: Path) -> Documents:
    for name in events.members():
        yield from _nested_document(events, dump, (*path, name))


def _nested_document(events: Events, dump: Dump, path: Path) -> Documents:
    data: dict[str, Json] = {}
    below = False
    for key in events.members():
        if key != "__collections__":
            data[key] = events.value()
            continue
        for collection in events.members():
            below = True
            yield from _nested_documents(events, dump, (*path, collection))
    if not path:
        return
    if data or not below:
        yield Document(path, fields(data, datatype, dump.decoding))
    else:
        detail = "a document without fields but with collections is written like one that does not exist: not read"
        dump.decoding.losses.note("empty-or-missing-parent", detail)


def export_import(dump: Dump) -> Documents:
    """`{collection: {id: {..., "subCollection": {"collection/id/below": {...}}}}}`."""
    with dump.events() as events:
        yield from _export_import_collections(events, dump)
        events.end()


def _export_import_collections(events: Events, dump: Dump, *, begun: bool = False) -> Documents:
    for name in events.members(begun=begun):
        path = tuple(name.split("/"))
        if len(path) % 2 == 0 or not all(path):
            raise events.error("a collection's path was expected")
        for document in events.members():
            yield from _export_import_document(events, dump, (*path, document))


def _export_import_document(events: Events, dump: Dump, path: Path) -> Documents:
    data: dict[str, Json] = {}
    for key in events.members():
        if key == "subCollection" and events.peek()[0] == "start_map":
            events.take()
            kind, first = events.peek()
            if kind == "map_key" and str(first).startswith("/".join(path) + "/"):
                yield from _export_import_collections(events, dump, begun=True)
            else:  # the user's own field
                data[key] = {inner: events.value() for inner in events.members(begun=True)}
        else:
            data[key] = events.value()
    yield Document(path, fields(data, javascript, dump.decoding))


def backup_tree(dump: Dump) -> Documents:
    """`{"__meta__": {...}, "collections": {name: {"documents": [{"id", "path", "data", "subcollections"}]}}}`."""
    with dump.events() as events:
        for key in events.members():
            if key == "__meta__":
                check_meta(events.object(), events.error)
            elif key == "collections":
                yield from _backup_collections(events, dump)
            else:
                raise events.error("not what firestore-backup writes")
        events.end()


def check_meta(meta: dict[str, Json], error: Callable[[str], SourceError]) -> None:
    if meta.get("dump_schema") != 1:
        raise error("a firestore-backup dump of an unknown schema")
    if meta.get("complete") is not True or meta.get("errors"):
        raise error("the dump says of itself that it is not complete")


def _backup_collections(events: Events, dump: Dump) -> Documents:
    for _ in events.members():
        for key in events.members():
            if key == "documents":
                for _ in events.items():
                    yield from _backup_document(events, dump)
            else:
                events.value()


def _backup_document(events: Events, dump: Dump) -> Iterator[Document]:
    path: Path | None = None
    for key in events.members():
        if key == "path":
            path = tuple(str(events.value()).split("/"))
        elif key == "data":
            if path is None:
                raise events.error("a document without a path")
            yield Document(path, fields(events.object(), fs_type, dump.decoding))
        elif key == "subcollections":
            yield from _backup_collections(events, dump)
        else:
            events.value()
