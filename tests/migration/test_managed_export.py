"""Managed exports as Google's emulator writes them, whole and damaged in every way that a disk and a network know."""

import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from migration.documents import Document, SourceError
from migration.sources import entity, open_source
from migration.sources.leveldb import BLOCK, HEADER, masked_crc
from tests.migration import everything
from tests.migration.emulator import Emulator
from tests.migration.reading import documents, exact, fields

DEPTH_BOMB = 2_000


@pytest.fixture(scope="session")
def exported(emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small documents, many enough for several blocks."""
    seeded = {("items", f"{at:04}"): {"text": {"stringValue": "word " * 20}} for at in range(400)}
    emulator.seed("exported", seeded)
    return emulator.export("exported", tmp_path_factory.mktemp("exported"))


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "copy"))


def found(folder: Path, name: str) -> Path:
    return next(path for path in folder.rglob(name) if path.is_file())


def output(folder: Path) -> Path:
    return found(folder, "output-0")


async def read(folder: Path) -> list[Document]:
    return await documents(open_source(str(folder)))


async def test_an_export_holds_what_the_live_source_reads(emulator: Emulator, tmp_path: Path) -> None:
    emulator.seed("same", everything.documents("same"))
    live = await fields(open_source("firestore://same", emulator=emulator.host))
    export = open_source(str(emulator.export("same", tmp_path)))
    assert (export.kind, export.project, export.database) == ("managed-export", "same", "(default)")
    assert await export.expected() == len(live)
    assert await fields(export) == live
    assert [loss.code for loss in export.losses()] == ["document-times"]


async def test_reading_goes_on_after_a_cursor(exported: Path) -> None:
    whole = await read(exported)
    rest = await documents(open_source(str(exported)), after="150")
    assert rest == whole[150:]
    assert len(whole) == 400


async def test_the_metadata_file_names_the_export_too(exported: Path) -> None:
    assert await read(found(exported, "*.overall_export_metadata")) == await read(exported)


async def test_an_export_of_nothing_is_refused(emulator: Emulator, tmp_path: Path) -> None:
    folder = emulator.export("no-documents", tmp_path)
    with pytest.raises(SourceError, match="no documents"):
        open_source(str(folder))


async def refused(folder: Path) -> SourceError:
    """Whether opening refuses or reading does, it says where, and nothing came that was not whole."""
    with pytest.raises(SourceError) as caught:
        await read(folder)
    assert str(folder) in caught.value.place
    assert "word" not in f"{caught.value} {caught.value.place} {caught.value.advice}"
    return caught.value


async def test_any_flipped_bit_is_found(copy: Path) -> None:
    path, chance = output(copy), random.Random(4)
    whole = path.read_bytes()
    for _ in range(150):
        at = chance.randrange(len(whole))
        damaged = bytearray(whole)
        damaged[at] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        error = await refused(copy)
        assert "byte" in error.place or "counts" in str(error)


async def test_any_truncation_is_found(copy: Path) -> None:
    path, chance = output(copy), random.Random(5)
    whole = path.read_bytes()
    for length in [0, 1, 6, 7, BLOCK - 1, BLOCK, BLOCK + 1, *(chance.randrange(len(whole)) for _ in range(60))]:
        path.write_bytes(whole[:length])
        await refused(copy)


def ends(data: bytes) -> list[int]:
    """Where records end."""
    found: list[int] = []
    at = 0
    while at + HEADER.size <= len(data):
        _, length, kind = HEADER.unpack_from(data, at)
        if kind == 0 or BLOCK - at % BLOCK < HEADER.size:
            at += BLOCK - at % BLOCK
            continue
        at += HEADER.size + length
        found += [at] if kind in (1, 4) else []
    return found


async def test_a_truncation_at_the_end_of_a_record_shows_in_the_counts(copy: Path) -> None:
    path = output(copy)
    path.write_bytes(path.read_bytes()[: ends(path.read_bytes())[-2]])
    assert "counts 400 documents, its files hold 399" in str(await refused(copy))


def delete(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def garbage(path: Path) -> None:
    path.write_bytes(random.Random(6).randbytes(5_000))


def text(path: Path) -> None:
    path.write_text("<html>404</html>" * 10)


@pytest.mark.parametrize("damage", [delete, empty, garbage, text], ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("name", ["output-0", "*.export_metadata", "*.overall_export_metadata"])
async def test_a_damaged_file_is_refused(copy: Path, name: str, damage: Callable[[Path], None]) -> None:
    damage(found(copy, name))
    await refused(copy)


def framed(data: bytes) -> bytes:
    kinds = bytes((1,))
    return HEADER.pack(masked_crc(kinds + data), len(data), 1) + data


async def test_a_length_bomb_is_refused(copy: Path) -> None:
    bomb = b"\x6a\xff\xff\xff\xff\xff\xff\xff\xff\x7f"
    output(copy).write_bytes(framed(bomb))
    assert "longer than itself" in str(await refused(copy))


async def test_metadata_may_not_lead_out_of_the_folder(copy: Path) -> None:
    metadata = found(copy, "*.export_metadata")
    name = b"../../../../etc/passwd"
    inner = b"\x0a\x00\x12" + bytes((len(name),)) + name
    metadata.write_bytes(b"\x12" + bytes((len(inner),)) + inner)
    assert "outside of the export" in str(await refused(copy))


def varint(value: int) -> bytes:
    head = b""
    while value > 0x7F:
        head += bytes((value & 0x7F | 0x80,))
        value >>= 7
    return head + bytes((value,))


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def document(*properties: bytes) -> bytes:
    path = b"\x0b\x12\x01c\x22\x01d\x0c"
    return field(13, field(13, b"dev~p") + field(14, path)) + b"".join(properties)


def prop(value: bytes, *, meaning: int = 0) -> bytes:
    return field(15, b"\x08" + varint(meaning) + field(3, b"n") + b"\x20\x00" + field(5, value))


def test_deep_nesting_is_refused_without_a_stack_overflow() -> None:
    value = b""
    for _ in range(DEPTH_BOMB):
        value = field(3, prop(value, meaning=19))
    with pytest.raises(SourceError, match="deep"):
        entity.decode(document(prop(value, meaning=19)))


def test_deep_groups_are_refused_without_a_stack_overflow() -> None:
    with pytest.raises(SourceError, match=r"deep|without an end"):
        entity.decode(b"\x0b" * DEPTH_BOMB)


@pytest.mark.parametrize("meaning", [1, 2, 5, 18, 99])
def test_an_unknown_meaning_is_an_error(meaning: int) -> None:
    with pytest.raises(SourceError, match=f"unknown meaning {meaning}"):
        entity.decode(document(prop(b"\x08\x01", meaning=meaning)))


def test_negative_zero_is_kept() -> None:
    found = entity.decode(document(prop(b"\x21" + struct.pack("<d", -0.0)))).document
    assert exact(found.fields) == {"n": ("float", "-0.0")}


def test_any_bytes_are_an_entity_or_a_source_error() -> None:
    chance = random.Random(7)
    valid = document(prop(b"\x08\x01"), prop(b"\x1a\x02ab", meaning=15).replace(b"n", b"m"))
    assert entity.decode(valid).document.fields == {"n": 1, "m": "ab"}
    outcomes = {True: 0, False: 0}
    for _ in range(3_000):
        damaged = bytearray(valid)
        for _ in range(chance.randrange(1, 4)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        try:
            entity.decode(bytes(damaged))
            outcomes[True] += 1
        except SourceError:
            outcomes[False] += 1
    assert min(outcomes.values()) > 100
