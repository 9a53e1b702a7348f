"""Dumps of one document after the other: NDJSON of firestore-backup and firestore-backfire, firebase-to-supabase's
arrays, and answers of Firestore's REST API.
"""

import re
from collections.abc import Callable, Iterator

from migration.documents import Document, Loss, SourceError, Timestamp, Value
from migration.sources.dump import Documents, Dump, at, damaged
from migration.sources.dump_trees import JAVASCRIPT_LOSSES, check_meta
from migration.sources.json_events import Json, lines
from migration.sources.json_values import (
    DOCUMENT_NAME,
    Decoding,
    Kept,
    Object,
    fields,
    fs_type,
    javascript,
    path,
    rfc3339,
    untyped,
)
from migration.sources.rest_values import rest_map

BACKFIRE_LOSSES = (
    *JAVASCRIPT_LOSSES,
    Loss("missing-parents", "documents below a missing document were not written", 0),
    Loss("document-times", "creation and update times were not written", 0),
)
SUPABASE_LOSSES = (
    *JAVASCRIPT_LOSSES,
    Loss("subcollections", "collections below documents were not written", 0),
    Loss("document-times", "creation and update times were not written", 0),
)
REST_LOSSES = (Loss("timestamps", "times may have been rounded to microseconds", 0),)
ID_FIELDS = ("firestore_id", "firestoreid", "original_id")
PLACEHOLDER = re.compile(r"\{([^{}]+)\}")


def _path(text: Json) -> tuple[str, ...]:
    found = path(text)
    if found is None:
        raise SourceError("a document without a valid path")
    return found


def _object(value: Json) -> Object:
    if not isinstance(value, dict):
        raise SourceError("an object was expected")
    return value


def backup_lines(dump: Dump) -> Documents:
    """A line of meta, the documents, and a last line that says how many they were."""
    count, final = 0, False
    for line, place in lines(dump.path):
        with at(place):
            if final:
                raise SourceError("something follows the end marker")
            if line.get("type") == "meta" and "dump_schema" in line:
                final = line.get("final") is True
                if final:
                    check_meta(line, SourceError)
                    _check_count(line, count)
                continue
            yield Document(_path(line.get("path")), fields(_object(line.get("data")), fs_type, dump.decoding))
            count += 1
    if not final:
        raise damaged("the end marker is missing: the file is cut off", f"{dump.path}, after {count} documents")


def _check_count(line: Object, count: int) -> None:
    said = line.get("documents")
    if said != count:
        raise SourceError(f"the end marker counts {said} documents, the file holds {count}")


def backfire(dump: Dump) -> Documents:
    """`{"path", "data", "timestamps": [field paths], "geopoints": ..., "documents": ..., "queries": ...}` a line."""
    for line, place in lines(dump.path):
        with at(place):
            named = frozenset(
                name for kind in ("timestamps", "geopoints", "documents") for name in _names(line.get(kind, []))
            )
            data = _object(line.get("data"))
            yield Document(
                _path(line.get("path")),
                {key: _backfire_value(value, key, named, dump.decoding) for key, value in data.items()},
            )


def _names(value: Json) -> Iterator[str]:
    yield from (name for name in value if isinstance(name, str)) if isinstance(value, list) else ()


def _backfire_value(value: Json, place: str, named: frozenset[str], decoding: Decoding) -> Value:
    """Only what the line names is more than a map."""
    if isinstance(value, list):
        return [_backfire_value(item, f"{place}.{at}", named, decoding) for at, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    found = javascript(value, decoding) if place in named else untyped(value, decoding)
    if not isinstance(found, Kept):
        return found
    return {key: _backfire_value(item, f"{place}.{key}", named, decoding) for key, item in value.items()}


def supabase(dump: Dump) -> Documents:
    """An array of objects without paths. The template, e.g. `users/{userId}/messages`, says where they belong."""
    if not dump.template:
        raise SourceError(
            "the dump does not say which collection it holds",
            place=str(dump.path),
            advice="Name it with a path template, e.g. `messages` or `users/{userId}/messages`.",
        )
    template = dump.template.split("/")
    with dump.events() as events:
        for _ in events.items():
            yield _from_template(events.object(), template, dump.decoding)
        events.end()


def _from_template(item: Object, template: list[str], decoding: Decoding) -> Document:
    given = {key: value for key, value in item.items() if isinstance(value, str | int)}
    id_field = next((key for key in ID_FIELDS if key in given), "id")
    whole = template if len(template) % 2 == 0 else [*template, f"{{{id_field}}}"]
    try:
        segments = tuple(PLACEHOLDER.sub(lambda match: str(given[match[1]]), segment) for segment in whole)
    except KeyError:
        raise SourceError("a document lacks a field that the path template names") from None
    _path("/".join(segments))
    own = {key: value for key, value in item.items() if key != id_field or id_field == "id"}
    return Document(segments, fields(own, javascript, decoding))


def rest_answer(dump: Dump) -> Documents:
    """`{"documents": [...]}` as listDocuments answers, `[{"document": ...}]` as runQuery does, or one document."""
    with dump.events() as events:
        kind = events.peek()[0]
        for _ in events.items() if kind == "start_array" else ():
            yield from _rest_item(events.object(), dump.decoding)
        for key in events.members() if kind == "start_map" else ():
            if key == "documents":
                for _ in events.items():
                    yield from _rest_item(events.object(), dump.decoding)
            elif key == "nextPageToken" and events.value():
                raise events.error("there are more pages than this one: join all of them")
        events.end()


def rest_lines(dump: Dump) -> Documents:
    """A document on each line."""
    for line, place in lines(dump.path):
        with at(place):
            yield from _rest_item(line, dump.decoding)


def _rest_item(item: Object, decoding: Decoding) -> Documents:
    document = item.get("document", item if "name" in item else None)
    if document is None and "readTime" in item:
        return  # runQuery says how far it is
    found = _object(document)
    name = found.get("name")
    match = DOCUMENT_NAME.fullmatch(name) if isinstance(name, str) else None
    if match is None:
        raise SourceError("a document without a full name")
    values = rest_map(found.get("fields", {}), decoding)
    if not isinstance(values, dict):
        raise SourceError("a document's fields must be a map")
    yield Document(_path(match[3]), values, *_times(found))


def _times(document: Object) -> tuple[Timestamp | None, Timestamp | None]:
    found = [rfc3339(document.get(key)) for key in ("createTime", "updateTime")]
    created, updated = (None if isinstance(time, Kept) else time for time in found)
    return created, updated


Reader = Callable[[Dump], Documents]
