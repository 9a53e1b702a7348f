"""How the gateway says that it is alive and ready, on a real database."""

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from tests.gateway import Running, authenticated, bearer, running, settings_for
from tests.model_server import ModelServer

READY = {"status": "ready", "checks": {"database": "ok", "migrations": "current", "sends": "accepted"}}


@pytest.fixture
async def freya(database_url: str, clean: None, model: ModelServer) -> AsyncIterator[Running]:
    async with running(settings_for(database_url, model.base_url)) as one:
        yield one


async def readiness(freya: Running) -> tuple[int, Any]:
    async with freya.http.get(f"{freya.url}/readyz") as response:
        return response.status, await response.json()


async def test_a_running_gateway_is_alive_and_ready(freya: Running) -> None:
    assert await freya.get("/healthz") == {"status": "ok"}
    assert await readiness(freya) == (200, READY)


async def test_a_draining_gateway_is_alive_but_not_ready(freya: Running) -> None:
    freya.gateway.draining = True
    status, answer = await readiness(freya)
    assert (status, answer["status"], answer["checks"]["sends"]) == (503, "unready", "draining")
    assert await freya.get("/healthz") == {"status": "ok"}


@pytest.mark.parametrize(("revision", "state"), [("0000", "ahead"), (None, "empty")])
async def test_tables_of_another_version_are_not_ready(
    freya: Running, database_url: str, revision: str | None, state: str
) -> None:
    connection = await asyncpg.connect(database_url)
    await connection.execute("ALTER TABLE alembic_version RENAME TO alembic_version_kept")
    try:
        if revision is not None:
            await connection.execute("CREATE TABLE alembic_version AS SELECT $1::text AS version_num", revision)
        status, answer = await readiness(freya)
        assert (status, answer["checks"]["migrations"]) == (503, state)
    finally:
        await connection.execute("DROP TABLE IF EXISTS alembic_version")
        await connection.execute("ALTER TABLE alembic_version_kept RENAME TO alembic_version")
        await connection.close()
    assert await readiness(freya) == (200, READY)


async def test_a_database_that_does_not_answer_is_named_and_no_secret_with_it(model: ModelServer) -> None:
    nowhere = "postgresql://freya:hunter2@127.0.0.1:1/freya"
    async with running(settings_for(nowhere, model.base_url)) as freya:
        status, answer = await readiness(freya)
        assert (status, answer["status"]) == (503, "unready")
        assert answer["checks"] == {"database": "unavailable", "migrations": "unknown", "sends": "accepted"}
        assert await freya.get("/healthz") == {"status": "ok"}


async def test_the_figures_need_a_credential_where_one_has_to_sign_in(
    database_url: str, clean: None, model: ModelServer
) -> None:
    async with running(settings_for(database_url, model.base_url, **authenticated())) as freya:
        async with freya.http.get(f"{freya.url}/metrics") as response:
            assert response.status == 401
            assert response.headers["www-authenticate"] == "Bearer"
        async with freya.http.get(f"{freya.url}/metrics", headers=bearer("ana")) as response:
            assert response.headers["content-type"].startswith("text/plain; version=")
            assert "freya_open_streams 0.0" in await response.text()
        assert await readiness(freya) == (200, READY)
    connection = await asyncpg.connect(database_url)
    assert await connection.fetchval("SELECT count(*) FROM users") == 0
    await connection.close()
