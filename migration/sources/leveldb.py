"""Records of a LevelDB log, which is how managed exports are framed.

A file is blocks of 32 KiB; a record is one fragment or several, each with a masked CRC32C, a length and a type.
"""

import struct
from collections.abc import Iterator
from typing import BinaryIO

import google_crc32c

from migration.sources.dump import damaged

BLOCK = 32 * 1024
HEADER = struct.Struct("<IHB")
MASK_DELTA = 0xA282EAD8
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
LONGEST_RECORD = 16 << 20  # a document has at most 1 MiB


def records(file: BinaryIO, name: str) -> Iterator[tuple[bytes, int]]:
    """Each record with its offset. Anything but whole records and zero padding is a SourceError with the offset."""
    parts: list[bytes] = []
    start = 0
    for kind, data, offset in _fragments(file, name):
        if (kind in (FULL, FIRST)) == bool(parts):
            raise damaged("fragments of a record are missing", f"{name}, byte {offset}")
        start = start if parts else offset
        parts.append(data)
        if sum(map(len, parts)) > LONGEST_RECORD:
            raise damaged("a record is longer than a document can be", f"{name}, byte {start}")
        if kind in (FULL, LAST):
            yield b"".join(parts), start
            parts = []
    if parts:
        raise damaged("the file ends within a record", f"{name}, byte {start}")


def _fragments(file: BinaryIO, name: str) -> Iterator[tuple[int, bytes, int]]:
    base = 0
    while block := file.read(BLOCK):
        at = 0
        while len(block) - at >= HEADER.size:
            place = f"{name}, byte {base + at}"
            crc, length, kind = HEADER.unpack_from(block, at)
            if kind == 0:
                break
            data = block[at + HEADER.size : at + HEADER.size + length]
            _check(data, (crc, length, kind), place)
            yield kind, data, base + at
            at += HEADER.size + length
        if any(block[at:]):
            raise damaged("there is something where only padding may be", f"{name}, byte {base + at}")
        base += len(block)


def _check(data: bytes, header: tuple[int, int, int], place: str) -> None:
    crc, length, kind = header
    if kind not in (FULL, FIRST, MIDDLE, LAST):
        raise damaged("a record of an unknown type", place)
    if len(data) != length:
        raise damaged("a record is cut off", place)
    if masked_crc(bytes((kind,)) + data) != crc:
        raise damaged("a record's checksum does not match: its bytes were altered", place)


def masked_crc(data: bytes) -> int:
    crc = int(google_crc32c.value(data))
    return ((crc >> 15 | crc << 17) + MASK_DELTA) & 0xFFFFFFFF
