"""The live source before Google's own emulator, with faults planted in between."""

import asyncio
import os
import time

import grpc
import pytest

from migration.documents import SourceError
from migration.sources import open_source
from migration.sources.live import LiveSource, Place
from migration.sources.live_errors import PASSING, Patience
from tests.migration import everything
from tests.migration.emulator import Emulator, free_port
from tests.migration.fault_proxy import Fault, FaultProxy, proxied
from tests.migration.reading import documents, fields

MANY = 700  # pages: 300, 300, 100
QUICK = Patience(total=5.0, first=0.01, longest=0.05)
HURRIED = Patience(total=0.5, first=0.01, longest=0.05)


@pytest.fixture(scope="session")
def many(emulator: Emulator) -> str:
    """A project with more documents than two pages hold."""
    emulator.seed("many", {("items", f"{at:04}"): {"n": {"integerValue": str(at)}} for at in range(MANY)})
    return "many"


def source(project: str, host: str, *, patience: Patience = QUICK) -> LiveSource:
    return LiveSource(Place(project, "(default)", host), patience=patience)


async def numbers(project: str, host: str) -> list[object]:
    return [document.fields["n"] for document in await documents(source(project, host))]


async def test_every_document_is_read_once_in_order(emulator: Emulator, many: str) -> None:
    live = open_source(f"firestore://{many}", emulator=emulator.host)
    assert await live.expected() == MANY
    assert [document.fields["n"] for document in await documents(live)] == list(range(MANY))


async def test_reading_goes_on_after_a_cursor_at_the_same_moment(emulator: Emulator, many: str) -> None:
    first = source(many, emulator.host)
    page = await anext(first.pages())
    await first.aclose()
    second = source(many, emulator.host)
    rest = await documents(second, after=page.cursor)
    assert [d.fields["n"] for d in (*page.documents, *rest)] == list(range(MANY))
    assert second.fingerprint == first.fingerprint


async def test_what_is_written_meanwhile_is_not_read(emulator: Emulator) -> None:
    emulator.seed("moment", {("items", "1"): {}})
    live = source("moment", emulator.host)
    await asyncio.sleep(0.01)
    emulator.seed("moment", {("items", "2"): {}})
    assert [document.path for document in await documents(live)] == [("items", "1")]


@pytest.mark.parametrize("after", [0, 150])
@pytest.mark.parametrize("code", sorted(PASSING, key=str), ids=str)
async def test_a_passing_failure_loses_and_repeats_nothing(
    emulator: Emulator, many: str, code: grpc.StatusCode, after: int
) -> None:
    fault = Fault(code, after)
    proxy = FaultProxy(emulator.host, [fault, fault, None, fault])
    async with proxied(proxy) as host:
        assert await numbers(many, host) == list(range(MANY))


async def test_a_failure_in_every_third_call_loses_nothing(emulator: Emulator, many: str) -> None:
    proxy = FaultProxy(emulator.host, [None, None, Fault(grpc.StatusCode.UNAVAILABLE, 7)] * 10)
    async with proxied(proxy) as host:
        assert await numbers(many, host) == list(range(MANY))


@pytest.mark.parametrize("after", [0, 1, 299])
async def test_an_early_end_is_not_taken_for_the_end(emulator: Emulator, many: str, after: int) -> None:
    proxy = FaultProxy(emulator.host, [Fault(None, after)] * 3)
    async with proxied(proxy) as host:
        assert await numbers(many, host) == list(range(MANY))


async def test_counting_survives_failures(emulator: Emulator, many: str) -> None:
    proxy = FaultProxy(emulator.host, [Fault(grpc.StatusCode.UNAVAILABLE), Fault(None)])
    async with proxied(proxy) as host:
        live = source(many, host)
        assert await live.expected() == MANY
        await live.aclose()


async def test_always_unavailable_ends_in_bounded_time_and_says_what_to_do(emulator: Emulator, many: str) -> None:
    proxy = FaultProxy(emulator.host, always=Fault(grpc.StatusCode.UNAVAILABLE))
    async with proxied(proxy) as host:
        began = time.monotonic()
        with pytest.raises(SourceError, match="does not answer") as caught:
            await documents(source(many, host, patience=HURRIED))
    assert time.monotonic() - began < 3
    assert caught.value.retryable
    assert "run the same command again" in caught.value.advice
    assert proxy.calls > 2


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (grpc.StatusCode.PERMISSION_DENIED, "Cloud Datastore Viewer"),
        (grpc.StatusCode.UNAUTHENTICATED, "gcloud auth"),
        (grpc.StatusCode.NOT_FOUND, "database's name"),
        (grpc.StatusCode.FAILED_PRECONDITION, "database's name"),
    ],
    ids=str,
)
async def test_a_lasting_refusal_is_not_repeated(
    emulator: Emulator, many: str, code: grpc.StatusCode, advice: str
) -> None:
    proxy = FaultProxy(emulator.host, always=Fault(code))
    async with proxied(proxy) as host:
        with pytest.raises(SourceError) as caught:
            await documents(source(many, host))
    assert (proxy.calls, caught.value.retryable) == (1, False)
    assert advice in caught.value.advice
    assert many in caught.value.place


async def test_an_emulator_that_is_down_is_named() -> None:
    with pytest.raises(SourceError, match="emulator does not answer") as caught:
        await documents(source("any", f"127.0.0.1:{free_port()}", patience=HURRIED))
    assert caught.value.retryable


async def test_an_empty_project_ends_at_once(emulator: Emulator) -> None:
    live = source("nobody", emulator.host)
    assert await live.expected() == 0
    assert await documents(live) == []


async def test_a_read_time_that_is_too_old_moves_and_is_reported(emulator: Emulator, many: str) -> None:
    hour = 0.0
    live = LiveSource(Place(many, "(default)", emulator.host), patience=QUICK, now=lambda: time.time() + hour - 3600)
    before = live.fingerprint
    hour = 3600.0
    assert len(await documents(live)) == MANY
    assert live.fingerprint != before
    assert [loss.code for loss in live.losses()] == ["several-read-times"]


async def test_pages_of_large_documents_stay_small(emulator: Emulator) -> None:
    text = {"text": {"stringValue": "x" * 1_000_000}}
    emulator.seed("heavy", {("large", str(at)): text for at in range(4)})
    emulator.seed("heavy", {("large", str(at)): text for at in range(4, 8)})
    emulator.seed("heavy", {("large", str(at)): text for at in range(8, 12)})
    live = source("heavy", emulator.host)
    sizes = [len(page.documents) async for page in live.pages()]
    await live.aclose()
    assert sum(sizes) == 12
    assert max(sizes) <= 9


async def test_the_environment_names_the_emulator(
    emulator: Emulator, many: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", emulator.host)
    assert os.environ["FIRESTORE_EMULATOR_HOST"]
    assert len(await documents(open_source(f"firestore://{many}"))) == MANY


async def test_all_paths_and_types_are_read(emulator: Emulator) -> None:
    seeded = everything.documents("types")
    emulator.seed("types", seeded)
    read = await fields(source("types", emulator.host))
    assert read.keys() == seeded.keys()
    value = read["every", "value"]
    assert value["largest"] == ("int", str(2**63 - 1))
    assert value["smallest"] == ("int", str(-(2**63)))
    assert value["integral double"] == ("float", "1.0")
    assert value["nan"] == ("float", "nan")
    assert value["vector"] == ("Vector", "Vector(values=(1.0, -2.5))")
    assert value["elsewhere"][1].startswith("Reference(project='another', database='other'")
    assert value["look-alike"] == {"seconds": ("int", "5")}
