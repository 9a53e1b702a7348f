"""The same project by every way in: live, a managed export, and dumps. The rows are the same."""

import json
from pathlib import Path
from typing import Any

import grpc
import pytest

from freya_gateway.db.engine import Database
from migration.documents import Source, SourceError
from migration.sources import open_source
from migration.sources.live import LiveSource, Place
from migration.sources.live_errors import Patience
from tests.migration import companion
from tests.migration.emulator import Emulator
from tests.migration.everything import LONGEST_ID, SMILE
from tests.migration.fault_proxy import Fault, FaultProxy, proxied
from tests.migration.memory import command, everything, migrate, rolled_back, rows

PROJECT = "companion"
LASTING = ("created_at", "updated_at", "memory_key", "epoch", "at", "user_id")
HURRIED = Patience(total=0.5, first=0.01, longest=0.05)


@pytest.fixture(scope="session")
def seeded(emulator: Emulator) -> Emulator:
    emulator.seed(PROJECT, companion.documents(PROJECT))
    return emulator


async def brought(database: Database, source: Source) -> Any:
    """The report of a run with the skips that the project needs."""
    from migration.mapping import load_mapping

    return await migrate(database, source, mapping=load_mapping().model_copy(update={"skip": ("tokens",)}))


async def memory(database: Database, *, source: bool) -> dict[str, Any]:
    """What is there, without what differs between two runs; with provenance or without."""
    left_out = LASTING if source else (*LASTING, "source")
    named = {user["id"]: user["subject"] for user in await rows(database, "SELECT id, subject FROM users")}
    return {
        table: sorted(
            ({"user": named.get(row.get("user_id"))} | {k: v for k, v in row.items() if k not in left_out}
             for row in found), key=str)
        for table, found in (await everything(database)).items()
        if table in ("conversations", "messages", "facts", "topics")
    }  # fmt: skip


async def test_the_same_rows_come_by_every_way(bare: Database, seeded: Emulator, tmp_path: Path) -> None:
    ways = {
        "live": open_source(f"firestore://{PROJECT}", emulator=seeded.host),
        "export": open_source(str(seeded.export(PROJECT, tmp_path))),
        "import-export": open_source(str(companion.import_export(tmp_path / "a.json", PROJECT)), project=PROJECT),
        "backup": open_source(str(companion.backup_lines(tmp_path / "b.ndjson", PROJECT))),
    }
    found: dict[str, Any] = {}
    for name, source in ways.items():
        report = await brought(bare, source)
        await source.aclose()
        assert (name, report.exit_code, report.faults, report.added) == (name, 3, [], companion.ADDED)
        assert report.documents == len(companion.documents(PROJECT)) == sum(item.count for item in report.sums)
        for outcome, expected in (("rejected", companion.REJECTED), ("skipped", companion.SKIPPED)):
            assert _codes(report, outcome) == expected
        assert bool(report.losses) == (name != "live")
        exact = name in ("live", "export")
        found[name] = await memory(bare, source=exact), await memory(bare, source=False)
        if name == "live":
            again = await brought(bare, open_source(str(tmp_path / "export")))
            assert (again.added, again.changed, again.removed) == ({}, {}, {})
        await rolled_back(bare, f"{PROJECT}/(default)")
    assert found["export"] == found["live"]
    assert found["import-export"][1] == found["backup"][1] == found["live"][1]


def _codes(report: Any, outcome: str) -> dict[str, int]:
    codes: dict[str, int] = {}
    for item in report.sums:
        if item.outcome == outcome:
            codes[item.code] = codes.get(item.code, 0) + item.count
    return codes


async def test_awkward_documents_come_over_whole(bare: Database, seeded: Emulator) -> None:
    await brought(bare, open_source(f"firestore://{PROJECT}", emulator=seeded.host))
    found = {row["source"]: row for row in await rows(bare, SPOKEN)}
    by_path = {path: next(row for source, row in found.items() if f'"path": "{path}"' in source) for path in (
        f"messages/{SMILE}", f"messages/{LONGEST_ID}", "messages/large", "messages/a%2Fb c?#..",
        "users/gone/conversations/gone/messages/1",
    )}  # fmt: skip
    assert by_path[f"messages/{SMILE}"]["text"] == f"nul \ufffd and {SMILE}"
    assert "u0000" in by_path[f"messages/{SMILE}"]["exact"]
    assert by_path["messages/large"]["text"] == "é" * 400_000
    assert by_path["users/gone/conversations/gone/messages/1"]["subject"] == "gone"
    emails = [row["text"] for row in found.values() if row["subject"] == "ana@example.com"]
    assert sorted(emails) == ["by e-mail", "by the same"]
    titles = "SELECT u.subject, t.title FROM topics t JOIN users u ON u.id = t.user_id ORDER BY 1"
    assert [tuple(row.values()) for row in await rows(bare, titles)] == [("ana", "Clay"), ("bea", "Clay")]


SPOKEN = """
SELECT u.subject, m.text, m.exact, m.source::text AS source FROM messages m JOIN users u ON u.id = m.user_id
"""


async def test_a_reading_that_was_cut_goes_on_at_its_moment(bare: Database, emulator: Emulator) -> None:
    seeds = {("messages", f"{n:04}"): companion.said(f"line {n}", n % 60) for n in range(700)}
    emulator.seed("cut", seeds)
    cut = Fault(grpc.StatusCode.UNAVAILABLE)
    async with proxied(FaultProxy(emulator.host, [None, None], always=cut)) as host:  # the count, and a page
        with pytest.raises(SourceError):
            await migrate(bare, LiveSource(Place("cut", "(default)", host), patience=HURRIED))
    assert len(await rows(bare, "SELECT id FROM freya_migration.documents")) == 300
    emulator.seed("cut", {("messages", "later"): companion.said("later", 1)})
    report = await migrate(bare, open_source("firestore://cut", emulator=emulator.host))
    assert (report.exit_code, report.documents, report.added) == (0, 700, {"message": 700})
    report = await migrate(bare, open_source("firestore://cut", emulator=emulator.host))
    assert (report.source.added, report.added, report.changed) == (1, {"message": 1}, {})


async def test_commands_from_the_first_look_to_the_last_delta(
    bare: Database, database_url: str, emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", emulator.host)
    spoken = {n: {"user": companion.text(f"line {n}"), "timestamp": companion.at(n)} for n in range(10)}
    emulator.seed("cutover", {("messages", f"{n}"): fields for n, fields in spoken.items()})
    emulator.seed("cutover", {("tokens", "t"): {"token": companion.text("x")}})
    source = "firestore://cutover"
    code, told = await command(database_url, "inspect", source, "--owner", "owner")
    assert (code, "unknown: the run would stop" in told, "rejected: no_role" in told) == (0, True, True)
    assert 'paths = ["tokens/*"] kind = "skip"' in told
    assert "bills 11 reads" in told
    assert (await command(database_url, "delta", source))[0] == 2
    assert (await command(database_url, "run", source, "--owner", "owner"))[0] == 1  # tokens
    before = await everything(bare)
    words = ("run", source, "--owner", "owner", "--skip", "tokens")
    assert (await command(database_url, *words, "--dry-run", "--report", str(tmp_path / "dry")))[0] == 3
    assert await everything(bare) == before
    assert {path.name for path in (tmp_path / "dry").iterdir()} == {
        "report.json", "report.md", "rejects.ndjson", "inferred.ndjson",
    }  # fmt: skip
    assert (await command(database_url, *words))[0] == 3
    code, told = await command(database_url, "rejects", "retry", "--infer-roles")
    assert (code, "added 10 messages" in told) == (0, True)
    code, told = await command(database_url, "inferred")
    assert (code, len(told.splitlines()), '"role": "assistant"' in told) == (0, 10, True)
    assert "line" not in told
    assert (await command(database_url, "verify", "--source", source))[0] == 0
    emulator.seed("cutover", {("messages", "3"): {"user": companion.text("changed"), "timestamp": companion.at(3)}})
    code, told = await command(database_url, "verify", "--source", source)
    assert (code, "changed_in_source: messages/3" in told) == (4, True)
    code, told = await command(database_url, "delta", source, "--final")
    assert (code, "1 changed" in told, "GO" in told.splitlines(), "changed 1 message" in told) == (0, True, True, True)
    emulator.seed("cutover", {("messages", "9x"): {"timestamp": companion.at(9)}})
    code, told = await command(database_url, "delta", source, "--final")
    assert (code, "NO-GO" in told, "1 rejected" in told) == (3, True, True)
    assert (await command(database_url, "delta", source, "--final", "--accept-rejects"))[0] == 0
    now = await everything(bare)
    code, told = await command(database_url, "rollback", "cutover/(default)", "--dry-run")
    assert (code, "10 messages" in told, await everything(bare) == now) == (0, True, True)
    assert (await command(database_url, "rollback", "cutover/(default)"))[0] == 0
    assert await rows(bare) == []
    code, told = await command(database_url, "rollback", "cutover/(default)")
    assert (code, "nothing of cutover/(default) is here" in told) == (0, True)


async def test_a_damaged_export_brings_nothing(
    bare: Database, database_url: str, seeded: Emulator, tmp_path: Path
) -> None:
    export = seeded.export(PROJECT, tmp_path)
    output = next(path for path in export.rglob("output-0") if path.is_file())
    bytes_ = bytearray(output.read_bytes())
    bytes_[len(bytes_) // 2] ^= 1
    output.write_bytes(bytes_)
    assert (await command(database_url, "run", str(export), "--owner", "owner", "--skip", "tokens"))[0] == 1
    assert await rows(bare) == []


async def test_a_database_that_cannot_take_it_is_told(database_url: str, tmp_path: Path) -> None:
    dump = str(companion.backup_lines(tmp_path / "b.ndjson", PROJECT))
    nowhere = "postgresql://postgres:secret-word@127.0.0.1:1/none"
    for url in (nowhere, database_url.replace("/freya_test", "/none_such")):
        code, told = await command(url, "run", dump, "--owner", "owner", errors=True)
        assert (code, "check DATABASE_URL" in told, "Traceback" in told) == (1, True, False)
        assert "secret-word" not in told
    empty = database_url.replace(database_url.split("@/")[1].split("?", maxsplit=1)[0], "postgres")
    code, told = await command(empty, "run", dump, "--owner", "owner", errors=True)
    assert (code, "freya db upgrade" in told) == (1, True)
    code, told = await command(database_url, "run", dump, "--time-zone", "Europe/Atlantis", errors=True)
    assert (code, "no time zone 'Europe/Atlantis'" in told) == (2, True)


async def test_progress_can_be_read_by_a_machine(bare: Database, database_url: str, tmp_path: Path) -> None:
    dump = str(companion.backup_lines(tmp_path / "b.ndjson", PROJECT))
    words = ("run", dump, "--owner", "owner", "--skip", "tokens", "--json-log", "--report", str(tmp_path / "report"))
    code, told = await command(database_url, *words, errors=True)
    steps = [json.loads(line) for line in told.splitlines() if line.startswith("{")]
    assert (code, list(dict.fromkeys(step["name"] for step in steps))) == (
        3, ["reading", "mapping", "loading", "verifying"],
    )  # fmt: skip
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert (report["exit_code"], report["added"], report["faults"]) == (3, companion.ADDED, [])
    rejects = [json.loads(line) for line in (tmp_path / "report" / "rejects.ndjson").read_text().splitlines()]
    assert len(rejects) == sum(companion.REJECTED.values())
    assert "| messages | mapped |" in (tmp_path / "report" / "report.md").read_text()
    written = "".join(path.read_text() for path in (tmp_path / "report").iterdir())
    assert not any(words in written + told for words in ('flat"', "answered", "Plays the cello", "Momo"))
