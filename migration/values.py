"""Firestore's values as bytes and back, exactly: staging keeps what neither `text` nor `jsonb` of PostgreSQL can.

One tag per value, then its length or fixed size; maps in the order of their keys, so equal values have equal bytes.
"""

import hashlib
import struct
from collections.abc import Callable

from migration.documents import GeoPoint, Reference, Timestamp, Unresolved, Value, Vector

DEEPEST = 200


def digest(value: Value) -> bytes:
    """SHA-256 of the value's encoding."""
    return hashlib.sha256(encode(value)).digest()


def encode(value: Value) -> bytes:
    """Bytes that `decode` turns into the very same value: NaN, -0.0, NUL and lone surrogates included."""
    match value:
        case None | bool() | int() | float():
            return _encode_number(value)
        case str():
            return _sized(b"s", value.encode("utf-8", "surrogatepass"))
        case bytes():
            return _sized(b"b", value)
        case list():
            return _many(b"l", [encode(item) for item in value])
        case dict():
            return _many(b"m", [part for key in sorted(value) for part in (encode(key), encode(value[key]))])
        case _:
            return _encode_special(value)


def _encode_number(value: float | bool | None) -> bytes:
    if value is None:
        return b"n"
    if isinstance(value, bool):
        return b"t" if value else b"f"
    return b"i" + struct.pack(">q", value) if isinstance(value, int) else b"d" + struct.pack(">d", value)


def _encode_special(value: Timestamp | GeoPoint | Reference | Vector | Unresolved) -> bytes:
    match value:
        case Timestamp():
            return b"T" + struct.pack(">qi", value.seconds, value.nanos)
        case GeoPoint():
            return b"G" + struct.pack(">dd", value.latitude, value.longitude)
        case Reference():
            return _many(b"R", [encode(part) for part in (value.project, value.database, *value.path)])
        case Vector():
            return _many(b"V", [encode(number) for number in value.values])
        case Unresolved():
            return _sized(b"U", value.kind.encode())


def decode(data: bytes) -> Value:
    """The value of `encode`. Raises ValueError where the bytes are none of its."""
    value, end = _decode(data, 0, depth=0)
    if end != len(data):
        raise ValueError("bytes after the value")
    return value


def _sized(tag: bytes, body: bytes) -> bytes:
    return tag + struct.pack(">I", len(body)) + body


def _many(tag: bytes, parts: list[bytes]) -> bytes:
    return tag + struct.pack(">I", len(parts)) + b"".join(parts)


def _decode(data: bytes, at: int, *, depth: int) -> tuple[Value, int]:
    tag, at = data[at : at + 1], at + 1
    if depth > DEEPEST:
        raise ValueError("nested too deep")
    if tag in FIXED:
        form, make = FIXED[tag]
        return make(*struct.unpack_from(form, data, at)), at + struct.calcsize(form)
    if tag in (b"s", b"b", b"U"):
        (size,) = struct.unpack_from(">I", data, at)
        body, end = data[at + 4 : at + 4 + size], at + 4 + size
        if len(body) != size:
            raise ValueError("cut off")
        return SIZED[tag](body), end
    return _decode_many(data, at, tag=tag, depth=depth)


def _decode_many(data: bytes, at: int, *, tag: bytes, depth: int) -> tuple[Value, int]:
    if tag not in MANY:
        raise ValueError("unknown tag")
    (count,) = struct.unpack_from(">I", data, at)
    at += 4
    items: list[Value] = []
    for _ in range(count):
        item, at = _decode(data, at, depth=depth + 1)
        items.append(item)
    return MANY[tag](items), at


def _reference(parts: list[Value]) -> Value:
    project, database, *path = (str(part) for part in parts)
    return Reference(project, database, tuple(path))


FIXED: dict[bytes, tuple[str, Callable[..., Value]]] = {
    b"n": ("", lambda: None),
    b"t": ("", lambda: True),
    b"f": ("", lambda: False),
    b"i": (">q", int),
    b"d": (">d", float),
    b"T": (">qi", Timestamp),
    b"G": (">dd", GeoPoint),
}
SIZED: dict[bytes, Callable[[bytes], Value]] = {
    b"s": lambda body: body.decode("utf-8", "surrogatepass"),
    b"b": lambda body: body,
    b"U": lambda body: Unresolved(body.decode()),
}
MANY: dict[bytes, Callable[[list[Value]], Value]] = {
    b"l": lambda items: items,
    b"m": lambda items: {str(key): item for key, item in zip(items[::2], items[1::2], strict=True)},
    b"R": _reference,
    b"V": lambda items: Vector(tuple(item for item in items if isinstance(item, float))),
}
