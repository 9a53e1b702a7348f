"""The real command on a real dump, killed at random points: the same command ends in the same rows."""

import asyncio
import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import asyncpg
import pytest

COUNT = 2500
ROWS = "SELECT id, seq, role, text, said_at, segment FROM messages ORDER BY seq"


def dump(path: Path) -> Path:
    """What node-firestore-import-export writes of a predecessor's messages."""
    stamp = {"__datatype__": "timestamp"}
    documents: dict[str, Any] = {
        f"m{n:05}": {
            "user": f"the blue lantern {n}",
            "timestamp": {**stamp, "value": {"_seconds": 1_700_000_000 + n * 600, "_nanoseconds": 5000}},
            "__collections__": {},
        }
        for n in range(COUNT)
    }
    path.write_text(json.dumps({"__collections__": {"messages": documents}}))
    return path


async def command(url: str, file: Path, *, seconds: float | None = None, report: Path | None = None) -> int:
    """The exit code; -9 where it was killed after `seconds`."""
    words = ("run", str(file), "--project", "p", "--owner", "owner", "--infer-roles")
    words += ("--report", str(report)) if report else ()
    surroundings = os.environ | {"DATABASE_URL": url}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "migration", *words, env=surroundings, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        return await asyncio.wait_for(process.wait(), seconds)
    except TimeoutError:
        process.kill()
        return await process.wait()


async def wiped(url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute("DROP SCHEMA IF EXISTS freya_migration CASCADE; TRUNCATE users CASCADE")
    await connection.close()


async def found(url: str) -> list[tuple[Any, ...]]:
    connection = await asyncpg.connect(url)
    rows = [tuple(row) for row in await connection.fetch(ROWS)]
    await connection.close()
    return rows


async def resume(url: str, file: Path, *, kills: int) -> None:
    await wiped(url)
    assert await command(url, file) == 0
    undisturbed = await found(url)
    assert len(undisturbed) == COUNT
    await wiped(url)
    for _ in range(kills):
        await command(url, file, seconds=random.uniform(0.6, 2.5))
    assert await command(url, file) == 0
    assert await found(url) == undisturbed


async def test_killed_runs_end_in_the_same_rows(database_url: str, clean: None, tmp_path: Path):
    await resume(database_url, dump(tmp_path / "dump.json"), kills=4)


@pytest.mark.chaos
async def test_runs_killed_twenty_times_end_in_the_same_rows(database_url: str, clean: None, tmp_path: Path):
    await resume(database_url, dump(tmp_path / "dump.json"), kills=20)


async def test_an_interrupted_run_says_so_and_goes_on(database_url: str, clean: None, tmp_path: Path):
    await wiped(database_url)
    file, report = dump(tmp_path / "dump.json"), tmp_path / "report"
    words = ("run", str(file), "--project", "p", "--owner", "owner", "--infer-roles", "--report", str(report))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "migration",
        *words,
        env=os.environ | {"DATABASE_URL": database_url},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    connection = await asyncpg.connect(database_url)
    async with asyncio.timeout(60):
        while not await connection.fetchval("SELECT to_regclass('freya_migration.documents') IS NOT NULL"):
            await asyncio.sleep(0.005)
    await connection.close()
    process.send_signal(signal.SIGINT)
    _, said = await process.communicate()
    assert (process.returncode, b"the same command goes on" in said) == (130, True), said
    assert not report.exists()
    assert await command(database_url, file) == 0
    assert len(await found(database_url)) == COUNT
    assert await command(database_url, file, report=report) == 0
    told = json.loads((report / "report.json").read_text())
    assert (told["exit_code"], told["documents"], told["added"], told["inferred"]) == (0, COUNT, {}, COUNT)
