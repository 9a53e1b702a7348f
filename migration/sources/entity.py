"""App Engine's EntityProto, as managed exports hold documents. An unknown meaning is an error, not a guess."""

from collections.abc import Iterable
from dataclasses import dataclass

from migration.documents import Document, GeoPoint, Reference, SourceError, Timestamp, Value, Vector
from migration.sources import wire

# Fields of EntityProto, Reference, Path and Property.
KEY, PROPERTY, RAW_PROPERTY = 13, 14, 15
APP, NAMESPACE, DATABASE, PATH = 13, 20, 23, 14
ELEMENT, KIND, ID, NAME = 1, 2, 3, 4
MEANING, PROPERTY_NAME, MULTIPLE, VALUE = 1, 3, 4, 5
# Fields of PropertyValue.
INT64, BOOLEAN, STRING, DOUBLE, POINT, REFERENCE = 1, 2, 3, 4, 5, 12
# Meanings.
PLAIN, TIMESTAMP, GEOPOINT, BYTES, TEXT, MAP, EMPTY_LIST, VECTOR = 0, 7, 9, 14, 15, 19, 24, 31
DEEPEST = 64  # Firestore allows 20


@dataclass(frozen=True, slots=True)
class Property:
    name: str
    meaning: int
    multiple: bool
    value: bytes


@dataclass(frozen=True, slots=True)
class Entity:
    """A document with the project and database that its key names."""

    project: str
    database: str
    document: Document


def decode(data: bytes) -> Entity:
    """The record of a managed export."""
    key = next((wire.message(value) for number, value in wire.parse(data) if number == KEY), None)
    if key is None:
        raise SourceError("an entity has no key")
    reference = _reference(key)
    return Entity(reference.project, reference.database, Document(reference.path, _fields(data, depth=0)))


def _reference(data: bytes) -> Reference:
    """A key: its path is a message of groups; inside a value it is groups itself."""
    app, database, elements = "", "(default)", []
    for number, value in wire.parse(data):
        if number == APP:
            app = wire.text(value)
        elif number == DATABASE:
            database = wire.text(value) or database
        elif number == PATH:
            elements = [wire.message(element) for at, element in wire.parse(wire.message(value)) if at == ELEMENT]
    path = tuple(segment for element in elements for segment in _segments(element, first=KIND))
    return Reference(_project(app), database, _checked(path))


def _value_reference(data: bytes) -> Reference:
    app, database, path = "", "(default)", list[str]()
    for number, value in wire.parse(data):
        if number == APP:
            app = wire.text(value)
        elif number == DATABASE:
            database = wire.text(value) or database
        elif number == 14:
            path += _segments(wire.message(value), first=15)
    return Reference(_project(app), database, _checked(tuple(path)))


def _segments(element: bytes, *, first: int) -> tuple[str, str]:
    """A kind and an id or a name, in three fields that follow each other."""
    found = dict(wire.parse(element))
    if first not in found or (first + 1 in found) == (first + 2 in found):
        raise SourceError("an entity has an incomplete key")
    if first + 2 in found:
        return wire.text(found[first]), wire.text(found[first + 2])
    return wire.text(found[first]), f"__id{wire.integer(found[first + 1])}__"


def _checked(path: tuple[str, ...]) -> tuple[str, ...]:
    if not path or not all(path):
        raise SourceError("an entity has an incomplete key")
    return path


def _project(app: str) -> str:
    """Without the region's mark, e.g. `e~`."""
    project = app.rpartition("~")[2]
    if not project:
        raise SourceError("an entity's key names no project")
    return project


def _fields(data: bytes, *, depth: int) -> dict[str, Value]:
    if depth > DEEPEST:
        raise SourceError(f"values nest more than {DEEPEST} deep")
    return _joined((_property(wire.message(value)) for _, value in _properties(data)), depth=depth)


def _properties(data: bytes) -> Iterable[wire.Field]:
    return (field for field in wire.parse(data) if field[0] in (PROPERTY, RAW_PROPERTY))


def _property(data: bytes) -> Property:
    found = dict(wire.parse(data))
    if PROPERTY_NAME not in found:
        raise SourceError("a property has no name")
    return Property(
        wire.text(found[PROPERTY_NAME]),
        wire.integer(found.get(MEANING, 0)),
        bool(found.get(MULTIPLE, 0)),
        wire.message(found.get(VALUE, b"")),
    )


def _joined(properties: Iterable[Property], *, depth: int) -> dict[str, Value]:
    """An array's and a vector's items are properties of the same name."""
    fields: dict[str, Value] = {}
    vectors: dict[str, list[float]] = {}
    for found in properties:
        if found.meaning == EMPTY_LIST:
            fields[found.name] = []
        elif found.meaning == VECTOR:
            vectors.setdefault(found.name, []).append(_component(found))
            fields[found.name] = Vector(())
        elif found.multiple:
            _items(fields, found.name).append(_value(found, depth=depth))
        elif found.name in fields:
            raise SourceError("an entity has a property twice")
        else:
            fields[found.name] = _value(found, depth=depth)
    return fields | {name: Vector(tuple(values)) for name, values in vectors.items()}


def _items(fields: dict[str, Value], name: str) -> list[Value]:
    items = fields.setdefault(name, [])
    if not isinstance(items, list):
        raise SourceError("an entity has a property twice")
    return items


def _component(found: Property) -> float:
    kind, value = _content(found.value)
    if kind != DOUBLE:
        raise SourceError("a vector holds something else than numbers")
    return wire.double(wire.message(value))


def _content(data: bytes) -> tuple[int, int | bytes]:
    """The only field of a value; (0, b"") stands for null."""
    fields = list(wire.parse(data))
    if len(fields) > 1:
        raise SourceError("a value has two types")
    return fields[0] if fields else (0, b"")


def _value(found: Property, *, depth: int) -> Value:
    kind, value = _content(found.value)
    if kind == 0:
        return None
    if (found.meaning, kind) == (MAP, STRING):
        return _fields(wire.message(value), depth=depth + 1)
    if (found.meaning, kind) == (GEOPOINT, POINT):
        return _point(wire.message(value))
    if (found.meaning, kind) == (TIMESTAMP, INT64):
        seconds, micros = divmod(wire.integer(value), 1_000_000)
        return Timestamp(seconds, micros * 1_000)
    return _scalar(found.meaning, kind, value)


def _scalar(meaning: int, kind: int, value: int | bytes) -> Value:
    if (meaning, kind) == (BYTES, STRING):
        return wire.message(value)
    if meaning in (PLAIN, TEXT) and kind == STRING:
        return wire.text(value)
    if meaning == PLAIN:
        return _plain(kind, value)
    raise SourceError(f"a value has the unknown meaning {meaning}")


def _plain(kind: int, value: int | bytes) -> Value:
    if kind == INT64:
        return wire.integer(value)
    if kind == BOOLEAN:
        return bool(wire.integer(value))
    if kind == DOUBLE:
        return wire.double(wire.message(value))
    if kind == REFERENCE:
        return _value_reference(wire.message(value))
    raise SourceError(f"a value has the unknown type {kind}")


def _point(data: bytes) -> GeoPoint:
    found = dict(wire.parse(data))
    if set(found) != {6, 7}:
        raise SourceError("a geographic point is incomplete")
    return GeoPoint(wire.double(wire.message(found[6])), wire.double(wire.message(found[7])))
