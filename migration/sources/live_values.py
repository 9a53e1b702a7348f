"""Firestore's own messages as documents."""

from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp as TimestampMessage

from migration.documents import Document, GeoPoint, Reference, SourceError, Timestamp, Value, Vector
from migration.sources.json_values import DOCUMENT_NAME

VECTOR = "__vector__"
Message = Any  # the generated classes have no types


def document(message: Message) -> Document:
    return Document(
        reference(message.name).path,
        {name: value(field) for name, field in message.fields.items()},
        moment(message.create_time),
        moment(message.update_time),
    )


def moment(message: TimestampMessage) -> Timestamp:
    return Timestamp(message.seconds, message.nanos)


def reference(name: str) -> Reference:
    match = DOCUMENT_NAME.fullmatch(name)
    if match is None:
        raise SourceError("Firestore named a document in an unknown way")
    return Reference(match[1], match[2], tuple(match[3].split("/")))


def value(message: Message) -> Value:
    kind = message.WhichOneof("value_type")
    if kind == "null_value":
        return None
    if kind == "array_value":
        return [value(item) for item in message.array_value.values]
    if kind == "map_value":
        return _map({name: value(field) for name, field in message.map_value.fields.items()})
    return _single(message, kind)


def _single(message: Message, kind: str | None) -> Value:
    if kind == "timestamp_value":
        return moment(message.timestamp_value)
    if kind == "geo_point_value":
        return GeoPoint(message.geo_point_value.latitude, message.geo_point_value.longitude)
    if kind == "reference_value":
        return reference(message.reference_value)
    return _scalar(message, kind)


def _scalar(message: Message, kind: str | None) -> Value:
    if kind not in ("boolean_value", "integer_value", "double_value", "string_value", "bytes_value"):
        raise SourceError(f"a value is of an unknown kind ({kind})", advice="Install a newer google-cloud-firestore.")
    return getattr(message, kind)


def _map(fields: dict[str, Value]) -> Value:
    numbers = fields.get("value")
    if set(fields) == {"__type__", "value"} and fields["__type__"] == VECTOR and isinstance(numbers, list):
        return Vector(tuple(number for number in numbers if isinstance(number, float)))
    return fields
