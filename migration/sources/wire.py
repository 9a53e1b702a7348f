"""The protocol buffers wire format, with groups, which the EntityProto of exports still uses.

Lengths are checked before anything is copied; whoever descends counts the depth.
"""

import struct
from collections.abc import Iterator

from migration.documents import SourceError

VARINT, FIXED64, BYTES, START_GROUP, END_GROUP, FIXED32 = range(6)
LONGEST_VARINT = 10
DEEPEST_GROUP = 16
DOUBLE = struct.Struct("<d")

Field = tuple[int, int | bytes]


def parse(data: bytes) -> Iterator[Field]:
    """Field numbers and values: an int of 64 bits without a sign, or bytes; a group's are its inner bytes."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if number == 0 or wire in (END_GROUP, 6, 7):
            raise SourceError("an entity has an invalid tag")
        start = at
        at = _end(data, at, tag)
        if wire == VARINT:
            yield number, _varint(data, start)[0]
        elif wire == BYTES:
            length, start = _varint(data, start)
            yield number, data[start : start + length]
        elif wire == START_GROUP:
            yield number, data[start : at - _tag_size(tag)]
        else:
            yield number, data[start:at]


def _end(data: bytes, at: int, tag: int, *, depth: int = 0) -> int:
    """Where the value that begins here ends."""
    wire = tag & 7
    if wire == START_GROUP:
        return _group_end(data, at, tag, depth=depth)
    if wire == VARINT:
        return _varint(data, at)[1]
    if wire == BYTES:
        length, at = _varint(data, at)
        at += length
    else:
        at += 8 if wire == FIXED64 else 4
    if at > len(data):
        raise SourceError("an entity has a field that is longer than itself")
    return at


def _group_end(data: bytes, at: int, tag: int, *, depth: int) -> int:
    if depth > DEEPEST_GROUP:
        raise SourceError("an entity nests too deep")
    while at < len(data):
        inner, at = _varint(data, at)
        if inner & 7 == END_GROUP:
            if inner >> 3 == tag >> 3:
                return at
            break
        if inner & 7 in (6, 7) or inner >> 3 == 0:
            break
        at = _end(data, at, inner, depth=depth + 1)
    raise SourceError("an entity has a group without an end")


def _tag_size(tag: int) -> int:
    return (tag.bit_length() + 6) // 7


def _varint(data: bytes, at: int) -> tuple[int, int]:
    result = 0
    for shift, byte in enumerate(data[at : at + LONGEST_VARINT]):
        result |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            return result & 0xFFFFFFFFFFFFFFFF, at + shift + 1
    raise SourceError("an entity has a number without an end")


def signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def double(data: bytes) -> float:
    if len(data) != DOUBLE.size:
        raise SourceError("an entity has a number of the wrong size")
    return float(DOUBLE.unpack(data)[0])


def message(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise SourceError("an entity has a field of the wrong type")
    return value


def integer(value: int | bytes) -> int:
    if isinstance(value, bytes):
        raise SourceError("an entity has a field of the wrong type")
    return signed(value)


def text(value: int | bytes) -> str:
    try:
        return message(value).decode()
    except UnicodeDecodeError:
        raise SourceError("an entity has a text that is not UTF-8") from None
