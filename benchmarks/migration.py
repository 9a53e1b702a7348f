"""The migration's figures: the real command on a dump of made-up messages, next to a plain COPY of the same rows."""

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import asyncpg

from benchmarks.histories import Language, conversations

META = {"type": "meta", "dump_schema": 1, "project_id": "bench", "database": "(default)"}
OWNER = "bench-migration"
COLUMNS = """
SELECT column_name FROM information_schema.columns
WHERE table_schema = 'public' AND table_name = 'messages' AND is_generated = 'NEVER'
"""
FORGET = "DELETE FROM messages m USING users u WHERE m.user_id = u.id AND u.subject = $1"
KIBIBYTE = 1024


@dataclass(frozen=True, slots=True)
class Plan:
    messages: int = 100_000


@dataclass(frozen=True, slots=True)
class MigrationFigures:
    """Seconds, the whole run's and by step; `copy`: of a plain COPY of the same rows into the same table; bytes."""

    messages: int
    run: float
    steps: dict[str, float]
    copy: float
    peak_memory: int

    @property
    def of_copy(self) -> float:
        """The loading's speed as a share of the plain COPY's."""
        return self.copy / self.steps["loading"]


async def measure(database_url: str, plan: Plan, say: Callable[[str], None]) -> MigrationFigures:
    """Leaves nothing in the database."""
    connection = await asyncpg.connect(database_url)
    with tempfile.TemporaryDirectory(prefix="freya-bench-") as folder:
        say(f"a dump of {plan.messages:,} messages")
        dump = _dump(Path(folder) / "dump.ndjson", plan.messages)
        try:
            say("the run")
            seconds, steps, peak = await _run(database_url, dump)
            say("a plain COPY of the same rows")
            copied = await _copy(connection, Path(folder) / "rows", plan.messages)
        finally:
            await connection.execute("DROP SCHEMA IF EXISTS freya_migration CASCADE")
            await connection.execute(FORGET, OWNER)
            await connection.execute("DELETE FROM users WHERE subject = $1", OWNER)
            await connection.close()
    return MigrationFigures(plan.messages, seconds, steps, copied, peak)


def _dump(path: Path, count: int) -> Path:
    """As firestore-backup writes it, a document a line."""
    number = 0
    with path.open("w") as file:
        file.write(json.dumps(META) + "\n")
        for conversation in conversations(Language(7), count):
            for message in conversation.messages:
                number += 1
                stamp = {"__fs_type__": "timestamp", "value": message.said_at.isoformat()}
                data = {"role": message.role, "content": message.text, "timestamp": stamp}
                name = f"conversations/{conversation.id}/messages/m{number:07}"
                file.write(json.dumps({"path": name, "data": data}) + "\n")
        file.write(json.dumps({**META, "complete": True, "final": True, "documents": count}) + "\n")
    return path


async def _run(database_url: str, dump: Path) -> tuple[float, dict[str, float], int]:
    """Seconds of the whole command, those of its steps, and its peak memory."""
    words = (sys.executable, "-m", "migration", "run", str(dump), "--owner", OWNER, "--json-log")
    log = dump.with_suffix(".log")
    began = time.time()
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *words, env=os.environ | {"DATABASE_URL": database_url}, stdout=asyncio.subprocess.DEVNULL, stderr=file
        )
        peak = await asyncio.to_thread(_watched, process.pid)
        code = await process.wait()
    ended = time.time()
    if code:
        raise RuntimeError(f"the migration ended with {code}: {log.read_text()[-500:]}")
    begins: dict[str, float] = {}
    for line in log.read_text().splitlines():
        step = json.loads(line)
        begins.setdefault(step["name"], datetime.fromisoformat(step["at"]).timestamp())
    moments = [*begins.values(), ended]
    steps = {name: moments[place + 1] - moments[place] for place, name in enumerate(begins)}
    return ended - began, steps, peak


def _watched(pid: int) -> int:
    """The process's peak memory in bytes, as the kernel last counted it before it ended."""
    peak = 0
    while True:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return peak
        found = [line for line in status.splitlines() if line.startswith("VmHWM")]
        if not found:
            return peak
        peak = int(found[0].split()[1]) * KIBIBYTE
        time.sleep(0.05)


async def _copy(connection: asyncpg.Connection, path: Path, count: int) -> float:
    """Seconds of a binary COPY of the migrated rows into their table, emptied before."""
    columns = [row["column_name"] for row in await connection.fetch(COLUMNS)]
    user = await connection.fetchval("SELECT id FROM users WHERE subject = $1", OWNER)
    query = f"SELECT {', '.join(columns)} FROM messages WHERE user_id = $1 ORDER BY seq"
    with path.open("wb") as file:
        await connection.copy_from_query(query, user, output=file, format="binary")
    await connection.execute("DELETE FROM messages WHERE user_id = $1", user)
    await connection.execute("VACUUM ANALYZE messages")
    began = time.perf_counter()
    with path.open("rb") as file:
        await connection.copy_to_table("messages", source=file, columns=columns, format="binary")
    seconds = time.perf_counter() - began
    found = await connection.fetchval("SELECT count(*) FROM messages WHERE user_id = $1", user)
    if found != count:
        raise RuntimeError(f"{found} of {count} rows were migrated")
    return seconds
