"""How each dump format writes what JSON has no type for.

A recogniser matches a whole map, key for key and type for type: what a user wrote himself, e.g. `{"seconds": 5}`, stays
the map that it is.
"""

import base64
import binascii
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from migration.documents import GeoPoint, Reference, SourceError, Timestamp, Unresolved, Value, Vector
from migration.sources.files import Losses
from migration.sources.json_events import DEEPEST, Json

NANOS = range(1_000_000_000)
RFC3339 = re.compile(r"(\d{1,4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|z|[+-]\d\d:\d\d)")
DOCUMENT_NAME = re.compile(r"projects/([^/]+)/databases/([^/]+)/documents/(.+)", re.DOTALL)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Object = dict[str, Json]


@dataclass(frozen=True, slots=True)
class Decoding:
    """What a value's decoder needs to know: the database that references without one point into."""

    project: str
    database: str
    losses: Losses = field(default_factory=Losses)


class Kept:
    """No recogniser took the map."""


KEPT = Kept()
Recogniser = Callable[[Object, Decoding], Value | Kept]


def decode(value: Json, recognise: Recogniser, decoding: Decoding, *, depth: int = 0) -> Value:
    """A value without its envelopes."""
    if depth > DEEPEST:
        raise SourceError(f"values nest more than {DEEPEST} deep")
    if isinstance(value, list):
        return [decode(inner, recognise, decoding, depth=depth + 1) for inner in value]
    if not isinstance(value, dict):
        return value
    found = recognise(value, decoding)
    if not isinstance(found, Kept):
        return found
    return {key: decode(inner, recognise, decoding, depth=depth + 1) for key, inner in value.items()}


def fields(data: Object, recognise: Recogniser, decoding: Decoding) -> dict[str, Value]:
    """A document's fields: the outermost map is never an envelope."""
    return {key: decode(value, recognise, decoding) for key, value in data.items()}


def timestamp(seconds: Json, nanos: Json) -> Timestamp | Kept:
    if type(seconds) is int and type(nanos) is int and nanos in NANOS:
        return Timestamp(seconds, nanos)
    return KEPT


def rfc3339(text: Json) -> Timestamp | Kept:
    """With all nine digits, which `datetime` does not hold; Python clients write the year 1 with one digit."""
    match = RFC3339.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        return KEPT
    day, time, fraction, zone = match.groups()
    try:
        moment = datetime.fromisoformat(f"{day:0>10}T{time}{zone.upper().replace('Z', '+00:00')}")
    except ValueError:
        return KEPT
    span = moment - EPOCH
    return Timestamp(span.days * 86_400 + span.seconds, int((fraction or "0").ljust(9, "0")))


def number(value: Json) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def geopoint(latitude: Json, longitude: Json) -> GeoPoint | Kept:
    pair = number(latitude), number(longitude)
    return KEPT if pair[0] is None or pair[1] is None else GeoPoint(pair[0], pair[1])


def vector(values: Json) -> Vector | Kept:
    numbers = [number(value) for value in values] if isinstance(values, list) else [None]
    found = tuple(value for value in numbers if value is not None)
    return Vector(found) if len(found) == len(numbers) else KEPT


def path(text: Json) -> tuple[str, ...] | None:
    """The segments of a document's path."""
    segments = tuple(text.split("/")) if isinstance(text, str) else ()
    return segments if segments and len(segments) % 2 == 0 and all(segments) else None


def reference(text: Json, decoding: Decoding) -> Reference | Kept:
    """By a full name or by a path in the same database."""
    match = DOCUMENT_NAME.fullmatch(text) if isinstance(text, str) else None
    project, database, rest = match.groups() if match else (decoding.project, decoding.database, text)
    segments = path(rest)
    return KEPT if segments is None else Reference(project, database, segments)


def base64_bytes(text: Json) -> bytes | Kept:
    try:
        return base64.b64decode(text, validate=True) if isinstance(text, str) else KEPT
    except binascii.Error:
        return KEPT


def special_double(text: Json) -> float | Kept:
    return float(text) if text in ("NaN", "Infinity", "-Infinity") else KEPT


def javascript(value: Object, decoding: Decoding) -> Value | Kept:
    """Objects of the Node client, as JSON.stringify writes them."""
    keys = set(value)
    if keys == {"_seconds", "_nanoseconds"}:
        return timestamp(value["_seconds"], value["_nanoseconds"])
    if keys == {"_latitude", "_longitude"}:
        return geopoint(value["_latitude"], value["_longitude"])
    if keys == {"type", "data"} and value["type"] == "Buffer":
        return _octets(value["data"])
    if "_path" in keys and keys <= {"_firestore", "_path", "_converter"}:
        return _node_reference(value, decoding)
    return untyped(value, decoding)


def untyped(value: Object, decoding: Decoding) -> Value | Kept:
    """Vectors, sentinels that were never resolved; and bytes that were written as a map, which is only suspected."""
    if set(value) == {"_methodName"} and isinstance(value["_methodName"], str):
        return Unresolved(value["_methodName"].removeprefix("FieldValue."))
    if value == {".sv": "timestamp"}:
        return Unresolved("serverTimestamp")
    if set(value) == {"_values"}:
        return vector(value["_values"])
    if set(value) == {"__type__", "value"} and value["__type__"] == "__vector__":  # a client older than vectors
        return vector(value["value"])
    if value and not isinstance(_octets([value.get(str(at)) for at in range(len(value))]), Kept):
        decoding.losses.note("bytes-as-map", "maps of numbered bytes, kept as maps; they may have been binary values")
    return KEPT


def _octets(values: Json) -> bytes | Kept:
    if not isinstance(values, list):
        return KEPT
    numbers = [value for value in values if type(value) is int and value in range(256)]
    return bytes(numbers) if len(numbers) == len(values) else KEPT


def _node_reference(value: Object, decoding: Decoding) -> Reference | Kept:
    """`{"_firestore": {"projectId"}, "_path": {"segments", and in some versions "projectId", "databaseId"}}`."""
    found, client = value["_path"], value.get("_firestore")
    if not isinstance(found, dict) or not {"segments"} <= set(found) <= {"segments", "projectId", "databaseId"}:
        return KEPT
    segments = found["segments"] if isinstance(found["segments"], list) else []
    where = path("/".join(str(part) for part in segments))
    project = found.get("projectId") or (client.get("projectId") if isinstance(client, dict) else None)
    database = found.get("databaseId") or decoding.database
    return KEPT if where is None else Reference(str(project or decoding.project), str(database), where)


def datatype(value: Object, decoding: Decoding) -> Value | Kept:
    """node-firestore-import-export: `__datatype__` and `value`."""
    if set(value) != {"__datatype__", "value"}:
        return untyped(value, decoding)
    kind, inner = value["__datatype__"], value["value"]
    parts = inner if isinstance(inner, dict) else {}
    if kind == "timestamp" and set(parts) == {"_seconds", "_nanoseconds"}:
        return timestamp(parts["_seconds"], parts["_nanoseconds"])
    if kind == "timestamp":
        return rfc3339(inner)
    if kind == "geopoint" and set(parts) == {"_latitude", "_longitude"}:
        return geopoint(parts["_latitude"], parts["_longitude"])
    return reference(inner, decoding) if kind == "documentReference" else KEPT


def fs_type(value: Object, decoding: Decoding) -> Value | Kept:
    """firestore-backup: `__fs_type__`; it wraps a user's own map of that look, so an unknown one is damage."""
    kind = value.get("__fs_type__")
    if not isinstance(kind, str):
        return KEPT
    inner = value.get("value")
    if kind == "map" and isinstance(inner, dict):
        return fields(inner, fs_type, decoding)
    found = {
        "timestamp": lambda: rfc3339(inner),
        "geopoint": lambda: geopoint(value.get("latitude"), value.get("longitude")),
        "reference": lambda: reference(value.get("path"), decoding),
        "bytes": lambda: base64_bytes(inner),
        "double": lambda: special_double(inner),
        "vector": lambda: vector(inner),
    }.get(kind, lambda: KEPT)()
    if isinstance(found, Kept):
        raise SourceError("a typed value is of an unknown or damaged kind")
    return found
