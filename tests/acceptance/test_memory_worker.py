"""Memory work from end to end: what is said is indexed and grouped, and the open pages are told."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from freya_gateway.db import imports, users
from freya_gateway.db.engine import Database
from freya_gateway.db.imports import ImportedConversation, ImportedMessage
from freya_gateway.memory.announce import announce
from freya_gateway.metrics import Metrics
from freya_gateway.worker import build
from tests.gateway import Running, authenticated, bearer, running, settings_for
from tests.model_server import Gated, ModelServer, data

SAID = ["I went to pottery with Ana", "How was it?", "The wheel was hard", "Keep going!"]
FREYA = [sys.executable, "-c", "from freya_gateway.cli import main; main()"]


async def remembered(database: Database, subject: str, *, conversations: int = 1) -> UUID:
    """A user with conversations of two years ago, a day between them."""
    async with database.transaction() as connection:
        user = await users.ensure_user(connection, subject)
        for day in range(conversations):
            start = datetime(2023, 5, 8, 12, 0, tzinfo=UTC) + timedelta(days=day)
            said = [
                ImportedMessage(uuid4(), "assistant" if n % 2 else "user", text, 9, start + timedelta(minutes=n), {})
                for n, text in enumerate(SAID)
            ]
            await imports.insert_history(connection, user, [ImportedConversation(uuid4(), None, said, {})])
    return user


def grouped(first: int, title: str = "Pottery with Ana") -> Any:
    topic = {"from_seq": first, "to_seq": first + 3, "title": title, "keywords": ["clay"], "summary": "Ana."}
    return data({"topics": [topic | {"continues": None}]})


@asynccontextmanager
async def sweeping(freya: Running) -> AsyncGenerator[None, None]:
    """A worker that looks for work again and again."""
    memory = build(freya.gateway.settings, Metrics())

    async def sweep() -> None:
        while True:
            await memory.worker.sweep()
            await asyncio.sleep(0.1)

    tasks = [asyncio.create_task(memory.worker.run()), asyncio.create_task(sweep())]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await memory.aclose()


@pytest.fixture
async def guarded(database_url: str, clean: None, model: ModelServer) -> AsyncIterator[Running]:
    async with running(settings_for(database_url, model.base_url, **authenticated())) as one:
        yield one


async def indexed(database_url: str) -> int:
    connection = await asyncpg.connect(database_url)
    count: int = await connection.fetchval("SELECT count(*) FROM messages WHERE segment IS NOT NULL")
    await connection.close()
    return count


@pytest.mark.parametrize("worker", [True, False])
async def test_the_end_of_a_turn_wakes_the_worker_unless_it_is_switched_off(
    database_url: str, clean: None, model: ModelServer, worker: bool
) -> None:
    async with running(settings_for(database_url, model.base_url, worker=worker)) as freya:
        async with freya.stream(send={"text": "hi"}) as stream:
            await stream.rest()
        count = 0
        for _ in range(25):
            count = await indexed(database_url)
            if count == 2:
                break
            await asyncio.sleep(0.1)
        async with freya.http.get(f"{freya.url}/metrics") as response:
            runs = 'freya_memory_runs_total{kind="index",outcome="done"} 1.0' in await response.text()
    assert (count, runs) == ((2, True) if worker else (0, False))


async def test_freya_worker_works_alone_and_stops_when_told(
    database_url: str, database: Database, model: ModelServer
) -> None:
    await remembered(database, "ana")
    environment = {
        "DATABASE_URL": database_url,
        "OPENAI_API_KEY": "test",
        "OPENAI_BASE_URL": model.base_url,
        "FREYA_LOG_LEVEL": "INFO",
    }
    process = await asyncio.create_subprocess_exec(
        *FREYA, "worker", env=os.environ | environment, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    async with asyncio.timeout(30):
        while b"memory worker started" not in await process.stderr.readline():
            assert process.returncode is None
        process.send_signal(signal.SIGTERM)
        rest = await process.stderr.read()
        assert await process.wait() == 0
    assert b"memory worker stopped" in rest
    assert b"Traceback" not in rest


async def test_topics_are_made_announced_and_read(guarded: Running, database: Database, model: ModelServer) -> None:
    user = await remembered(database, "ana", conversations=2)
    model.script_for("ProposedTopics", grouped(1), grouped(5, "Pottery again"))
    async with guarded.stream("/v1/stream", headers=bearer("ana")) as stream:
        await stream.next()
        async with sweeping(guarded):
            events = [(await stream.until("memory"))[-1] for _ in range(2)]
    headers = bearer("ana")
    page = await guarded.get("/v1/topics?limit=1", headers=headers)
    rest = await guarded.get(f"/v1/topics?limit=1&before={page['before']}", headers=headers)
    again, first = page["topics"][0], rest["topics"][0]
    assert (again["title"], first["title"], rest["before"]) == ("Pottery again", "Pottery with Ana", None)
    assert [event.data for event in events] == [{"facts": [], "topics": [one["id"]]} for one in (first, again)]
    whole = await guarded.get(f"/v1/topics/{first['id']}?limit=3", headers=headers)
    more = await guarded.get(f"/v1/topics/{first['id']}?limit=3&after={whole['after']}", headers=headers)
    assert [m["text"] for m in (*whole["messages"], *more["messages"])] == SAID
    assert (more["after"], whole["state"], whole["n_messages"]) == (None, "current", 4)
    assert user.hex in {request.body["user"] for request in model.structured}


async def test_a_topic_is_renamed_and_deleted_and_its_messages_stay(
    guarded: Running, database: Database, model: ModelServer
) -> None:
    await remembered(database, "ana")
    model.script_for("ProposedTopics", grouped(1))
    async with guarded.stream("/v1/stream", headers=bearer("ana")) as stream:
        await stream.next()
        async with sweeping(guarded):
            topic = (await stream.until("memory"))[-1].data["topics"][0]
    path, headers = f"{guarded.url}/v1/topics/{topic}", bearer("ana")
    async with guarded.http.patch(path, json={"title": " Mine "}, headers=headers) as response:
        assert (response.status, (await response.json())["title"]) == (200, "Mine")
    for body in ({}, {"title": ""}, {"title": "x" * 121}, {"title": "a\nb"}, {"title": "a\0b"}, {"title": "a", "b": 1}):
        async with guarded.http.patch(path, json=body, headers=headers) as response:
            assert (response.status, (await response.json())["code"]) == (422, "invalid_request")
    for method, status in (("PATCH", 404), ("DELETE", 404), ("GET", 404)):
        async with guarded.http.request(method, path, json={"title": "Theirs"}, headers=bearer("bob")) as response:
            assert (response.status, (await response.json())["code"]) == (status, "topic_not_found")
    async with guarded.http.delete(path, headers=headers) as response:
        assert (response.status, await response.text()) == (204, "")
    async with guarded.http.delete(path, headers=headers) as response:
        assert response.status == 404
    assert (await guarded.get("/v1/topics", headers=headers))["topics"] == []
    assert len((await guarded.get("/v1/messages", headers=headers))["messages"]) == 4


async def test_a_memory_event_comes_amid_a_turn_numbered_and_resumable(
    guarded: Running, database: Database, model: ModelServer
) -> None:
    gate, learned = Gated(), uuid4()
    model.script(gate)
    user = await remembered(database, "ana")
    async with guarded.stream("/v1/stream", headers=bearer("ana")) as stream:
        await stream.next()
        await guarded.send("hi", user="ana")
        await gate.send("so ")
        before = await stream.until("token")
        async with database.transaction() as connection:
            await announce(connection, user, facts=[learned], topics=())
        told = (await stream.until("memory"))[-1]
        await gate.send("far")
        await gate.finish()
        after = await stream.until("reply")
    assert told.data == {"facts": [str(learned)], "topics": []}
    assert after[-1].data["message"] == "so far"
    numbers = [int(event.id.split(".")[1]) for event in (*before, told, *after) if event.id]
    assert numbers == list(range(1, len(numbers) + 1))
    async with guarded.stream(f"/v1/stream?after={before[-1].id}", headers=bearer("ana")) as resumed:
        assert (await resumed.next()).data["recovered"] is True
        assert (await resumed.next()).data == told.data
