"""What the gateway promises when things break: every accepted message has exactly one reply, and no reader a wrong one.

Each run has a short form that is always tested, and a long one behind `make chaos`.
"""

import asyncio
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import asyncpg
import pytest

from freya_gateway.db import embedded, schema
from tests.gateway import SECRET, Replica, bearer, replica
from tests.model_server import ModelServer, expected_reply
from tests.sse import Transcript, stream

LONG = pytest.param(20, marks=pytest.mark.chaos)
TROUBLE = (aiohttp.ClientError, TimeoutError, ConnectionError, AssertionError)
ENVIRONMENT = {"FREYA_JWT_SECRET": SECRET, "FREYA_STREAMS_PER_USER": "12"}


@dataclass
class Crowd:
    """Users who send, and read until they have their replies, whatever happens to the gateways."""

    http: aiohttp.ClientSession
    chooser: random.Random
    accepted: dict[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])  # turn: user, words

    async def send(self, replicas: Sequence[Replica], user: str, words: str) -> str:
        """Sends until it is accepted, safely again after a failure; the turn."""
        body = {"text": words, "client_message_id": str(uuid4())}
        async with asyncio.timeout(60):
            while True:
                url = self.chooser.choice(replicas).url
                try:
                    async with self.http.post(f"{url}/v1/messages", json=body, headers=bearer(user)) as response:
                        if response.status == 202:
                            turn = (await response.json())["turn"]
                            self.accepted[turn] = (user, words)
                            return turn
                        assert response.status in (503, 500), await response.text()
                except TROUBLE:
                    await asyncio.sleep(0.1)

    async def read(
        self, replicas: Sequence[Replica], turn: str, *, life: tuple[float, float]
    ) -> tuple[Transcript, int]:
        """Follows a turn over connections of random `life` seconds, each to any replica; how many it took."""
        user, transcript, connections = self.accepted[turn][0], Transcript(), 0
        async with asyncio.timeout(90):
            while turn not in transcript.replies:
                connections += 1
                url = f"{self.chooser.choice(replicas).url}/v1/stream"
                headers = bearer(user) | ({"last-event-id": transcript.last_id} if transcript.last_id else {})
                try:
                    async with (
                        asyncio.timeout(self.chooser.uniform(*life)),
                        stream(self.http, url, headers=headers) as one,
                    ):
                        while turn not in transcript.replies:
                            transcript.take([await one.next()])
                except (*TROUBLE, StopAsyncIteration):
                    await asyncio.sleep(0.02)
        return transcript, connections

    async def settle(self, database_url: str) -> list[asyncpg.Record]:
        """Once every accepted message is answered: its turn, status, attempt, and reply."""
        connection = await asyncpg.connect(database_url)
        async with asyncio.timeout(90):
            while await connection.fetchval("SELECT count(*) FROM turns WHERE state <> 'done'"):
                await asyncio.sleep(0.1)
        rows = await connection.fetch(
            """SELECT t.id::text AS turn, t.status, t.attempt, array_agg(m.text) AS replies FROM turns t
               JOIN messages m ON m.turn_id = t.id AND m.role = 'assistant' GROUP BY t.id, t.status, t.attempt"""
        )
        gaps = await connection.fetchval(
            "SELECT count(*) FROM streams s WHERE s.head <> (SELECT count(*) FROM stream_events e"
            " WHERE e.user_id = s.user_id)"
        )
        doubled = await connection.fetchval(
            "SELECT count(*) FROM (SELECT turn_id FROM stream_events WHERE kind = 'reply'"
            " GROUP BY turn_id HAVING count(*) <> 1) d"
        )
        await connection.close()
        assert (gaps, doubled) == (0, 0)
        return rows

    def check(self, rows: list[asyncpg.Record]) -> None:
        """One reply for each accepted message, and the right one; a fallback only after two lost attempts."""
        by_turn = {row["turn"]: row for row in rows}
        assert set(self.accepted) <= set(by_turn)
        for turn, (_, words) in self.accepted.items():
            row = by_turn[turn]
            assert len(row["replies"]) == 1
            if row["status"] == "fallback":
                assert row["attempt"] > 2
            else:
                assert row["replies"][0] == plain(expected_reply(words)), row


def plain(text: str) -> str:
    return text.replace("\x00", "\ufffd")


def words(number: int, *, tokens: int, rate: int) -> str:
    return f"!reply tokens={tokens} rate={rate} seed={number}"


@pytest.fixture
async def crowd() -> Any:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        yield Crowd(http, random.Random(11))


async def test_200_disconnects_over_20_turns_and_two_replicas(
    database_url: str, clean: None, model: ModelServer, crowd: Crowd
) -> None:
    async with (
        replica(database_url, model.base_url, **ENVIRONMENT) as one,
        replica(database_url, model.base_url, **ENVIRONMENT) as two,
    ):
        both = (one, two)
        turns = [await crowd.send(both, f"user-{n}", words(n, tokens=400, rate=100)) for n in range(20)]
        read = await asyncio.gather(*(crowd.read(both, turn, life=(0.05, 0.5)) for turn in turns))
        crowd.check(await crowd.settle(database_url))
    assert sum(connections - 1 for _, connections in read) >= 200
    for turn, (transcript, _) in zip(turns, read, strict=True):
        assert (transcript.doubled, transcript.missing) == (0, 0)
        whole = expected_reply(crowd.accepted[turn][1])
        assert transcript.texts[turn] == transcript.replies[turn]["message"] == whole


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("kills", [2, LONG])
async def test_kill_9_in_mid_reply(
    database_url: str, clean: None, model: ModelServer, crowd: Crowd, kills: int
) -> None:
    async with (
        replica(database_url, model.base_url, **ENVIRONMENT) as one,
        replica(database_url, model.base_url, **ENVIRONMENT) as two,
    ):
        for number in range(kills):
            alone = number % 2 == 1
            if alone:
                await two.kill()
            standing = (one,) if alone else (one, two)
            turns = [
                await crowd.send((one,), f"user-{n}", words(100 * number + n, tokens=150, rate=100)) for n in range(4)
            ]
            reading = [asyncio.create_task(crowd.read(standing, turn, life=(1.0, 3.0))) for turn in turns]
            await asyncio.sleep(crowd.chooser.uniform(0.0, 1.6))
            await one.kill()
            await one.start()
            for turn, task in zip(turns, reading, strict=True):
                transcript, _ = await task
                assert transcript.texts[turn] == transcript.replies[turn]["message"]
            if alone:
                await two.start()
        rows = await crowd.settle(database_url)
    crowd.check(rows)
    assert any(row["attempt"] > 1 for row in rows)


async def test_sigterm_with_200_streams_and_20_turns(
    database_url: str, clean: None, model: ModelServer, crowd: Crowd
) -> None:
    environment = ENVIRONMENT | {"FREYA_GRACE_SECONDS": "3"}
    async with (
        replica(database_url, model.base_url, **environment) as leaving,
        replica(database_url, model.base_url, **ENVIRONMENT) as staying,
    ):
        quick = [await crowd.send((leaving,), f"user-{n}", words(n, tokens=100, rate=100)) for n in range(15)]
        slow = [await crowd.send((leaving,), f"user-{n}", words(n, tokens=600, rate=100)) for n in range(15, 20)]
        watching = [asyncio.create_task(_watch(crowd, leaving, f"user-{n % 20}")) for n in range(200)]
        await asyncio.sleep(1)
        begun = asyncio.get_running_loop().time()
        code = await leaving.terminate()
        took = asyncio.get_running_loop().time() - begun
        farewells = await asyncio.gather(*watching)
        rows = {row["turn"]: row for row in await crowd.settle(database_url)}
        assert staying.process is not None
    assert (code, took < 3 + 8) == (0, True)
    assert farewells == ["deploy"] * 200
    crowd.check(list(rows.values()))
    assert {rows[turn]["attempt"] for turn in quick} == {1}
    assert {rows[turn]["attempt"] for turn in slow} == {2}


async def _watch(crowd: Crowd, one: Replica, user: str) -> str:
    """Reads to the proper end of the body; the reason of the last event."""
    async with stream(crowd.http, f"{one.url}/v1/stream", headers=bearer(user)) as reading:
        return (await reading.rest())[-1].data["reason"]


@pytest.mark.parametrize("crash", [False, True])
async def test_postgresql_restarts_in_mid_reply(model: ModelServer, crowd: Crowd, crash: bool) -> None:
    folder = Path(tempfile.mkdtemp(prefix="freya-tests-"))
    server = await asyncio.to_thread(embedded.start, folder / "server")
    await asyncio.to_thread(schema.upgrade, server.url)
    try:
        async with replica(server.url, model.base_url, **ENVIRONMENT) as one:
            turns = [await crowd.send((one,), f"user-{n}", words(n, tokens=300, rate=100)) for n in range(5)]
            reading = [asyncio.create_task(crowd.read((one,), turn, life=(30, 40))) for turn in turns]
            await asyncio.sleep(1)
            if crash:
                await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.restart)
            turns.append(await crowd.send((one,), "late", words(9, tokens=5, rate=0)))
            read = [await task for task in reading]
            rows = await crowd.settle(server.url)
        crowd.check(rows)
        for turn, (transcript, _) in zip(turns, read, strict=False):
            assert transcript.texts[turn] == transcript.replies[turn]["message"]
            assert (transcript.doubled, transcript.missing) == (0, 0)
    finally:
        await asyncio.to_thread(server.stop)


async def test_a_stop_without_postgresql_still_says_bye(model: ModelServer, crowd: Crowd) -> None:
    folder = Path(tempfile.mkdtemp(prefix="freya-tests-"))
    server = await asyncio.to_thread(embedded.start, folder / "server")
    await asyncio.to_thread(schema.upgrade, server.url)
    try:
        async with replica(server.url, model.base_url, **ENVIRONMENT) as one:
            await crowd.send((one,), "user-0", words(0, tokens=3000, rate=100))
            watching = asyncio.create_task(_watch(crowd, one, "user-0"))
            await asyncio.sleep(0.5)
            await asyncio.to_thread(server.kill)
            assert await one.terminate() == 0
            assert await watching == "deploy"
    finally:
        await asyncio.to_thread(server.stop)
