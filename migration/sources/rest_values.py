"""The REST API's `{"stringValue": ...}`: every value has a type, so an unknown one is damage, not a guess."""

import re

from migration.documents import SourceError, Value, Vector
from migration.sources.json_events import DEEPEST, Json
from migration.sources.json_values import (
    KEPT,
    Decoding,
    Kept,
    Object,
    base64_bytes,
    geopoint,
    number,
    reference,
    rfc3339,
    special_double,
)


def rest(value: Json, decoding: Decoding, *, depth: int = 0) -> Value:
    """One value, with what is inside."""
    if depth > DEEPEST:
        raise SourceError(f"values nest more than {DEEPEST} deep")
    if not isinstance(value, dict) or len(value) != 1:
        raise SourceError("a REST value must be an object with one type")
    (kind, inner), *_ = value.items()
    found = _rest_compound(kind, inner if isinstance(inner, dict) else {}, decoding, depth=depth)
    found = _rest_scalar(kind, inner, decoding) if isinstance(found, Kept) else found
    if isinstance(found, Kept):
        raise SourceError("a REST value is of an unknown or damaged kind")
    return found


def _rest_compound(kind: str, inner: Object, decoding: Decoding, *, depth: int) -> Value | Kept:
    if kind == "mapValue":
        return rest_map(inner.get("fields", {}), decoding, depth=depth)
    if kind == "arrayValue":
        values = inner.get("values", [])
        return [rest(item, decoding, depth=depth + 1) for item in values] if isinstance(values, list) else KEPT
    if kind == "geoPointValue":
        return geopoint(inner.get("latitude", 0.0), inner.get("longitude", 0.0))
    return KEPT


def rest_map(inner: Json, decoding: Decoding, *, depth: int = 0) -> Value:
    """A map; one that says `__vector__` is a vector."""
    if not isinstance(inner, dict):
        raise SourceError("a REST map must be an object")
    found = {key: rest(item, decoding, depth=depth + 1) for key, item in inner.items()}
    numbers = found.get("value")
    if set(found) == {"__type__", "value"} and found["__type__"] == "__vector__" and isinstance(numbers, list):
        return Vector(tuple(float(item) for item in numbers if isinstance(item, int | float)))
    return found


def _rest_scalar(kind: str, inner: Json, decoding: Decoding) -> Value | Kept:
    if kind == "doubleValue":
        plain = number(inner)
        return special_double(inner) if plain is None else plain
    if kind == "integerValue" and isinstance(inner, str | int) and re.fullmatch(r"-?\d{1,19}", str(inner)):
        return int(inner)
    if (kind, type(inner)) in (("booleanValue", bool), ("stringValue", str)):
        return inner if isinstance(inner, bool | str) else KEPT
    if kind == "nullValue":
        return None
    return _rest_text(kind, inner, decoding)


def _rest_text(kind: str, inner: Json, decoding: Decoding) -> Value | Kept:
    """What the API writes as text for want of a type."""
    if kind == "timestampValue":
        return rfc3339(inner)
    if kind == "bytesValue":
        return base64_bytes(inner)
    return reference(inner, decoding) if kind == "referenceValue" else KEPT
