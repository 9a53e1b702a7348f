"""Running gateways for tests: one in this event loop for quick tests, or a process of its own that can be killed."""

import asyncio
import os
import re
import signal
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import jwt
from pydantic import SecretStr

from freya_gateway.api.state import Gateway
from freya_gateway.app import create_app
from freya_gateway.server import GatewayServer
from freya_gateway.settings import Settings
from tests.sse import Stream, stream

START_SECONDS = 30
SECRET = "tests-only-0123456789abcdefghijklmnopqrstuvwxyz"


def bearer(user: str, *, seconds: float = 3600) -> dict[str, str]:
    """The header of a user whose credential lives for `seconds`."""
    claims = {"sub": user, "exp": int(time.time() + seconds)}
    return {"authorization": f"Bearer {jwt.encode(claims, SECRET, algorithm='HS256')}"}


def settings_for(database_url: str, model_url: str, **changes: Any) -> Settings:
    """Settings for tests: short times, no limit on sends, nothing from the environment."""
    values: dict[str, Any] = {
        "database_url": SecretStr(database_url),
        "openai_base_url": model_url,
        "openai_api_key": SecretStr("test"),
        "model": "freya-test",
        "port": 0,
        "rate_limit": 0,
        "first_piece_timeout": 5.0,
        "piece_timeout": 5.0,
        "grace_seconds": 0.5,
        "log_level": "WARNING",
        "worker": False,
    }
    return Settings(_env_file=None, **(values | changes))  # pyright: ignore[reportCallIssue]


@dataclass
class Running:
    """A gateway in this event loop."""

    url: str
    gateway: Gateway
    http: aiohttp.ClientSession
    server: GatewayServer

    def stream(self, path: str = "/v1/stream", **options: Any) -> Any:
        return stream(self.http, self.url + path, **options)

    async def send(self, text: str = "Hello Freya", *, user: str | None = None, **body: Any) -> dict[str, Any]:
        headers = bearer(user) if user else {}
        async with self.http.post(f"{self.url}/v1/messages", json={"text": text, **body}, headers=headers) as response:
            assert response.status == 202, await response.text()
            return await response.json()

    async def get(self, path: str, **options: Any) -> Any:
        async with self.http.get(self.url + path, **options) as response:
            assert response.status == 200, await response.text()
            return await response.json()


@asynccontextmanager
async def running(settings: Settings) -> AsyncGenerator[Running, None]:
    """Serves until the block ends, then drains and closes like a deployed one."""
    app = create_app(settings)
    ports: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    server = GatewayServer(app, settings, drain=lambda grace: app.state.gateway.drain(grace), ready=ports.set_result)
    task = asyncio.create_task(server.serve())
    async with asyncio.timeout(START_SECONDS):
        port = await ports
    async with aiohttp.ClientSession() as http:
        try:
            yield Running(f"http://127.0.0.1:{port}", app.state.gateway, http, server)
        finally:
            server.should_exit = True
            await task


@dataclass
class Replica:
    """A gateway in a process of its own."""

    environment: dict[str, str]
    port: int = 0
    process: asyncio.subprocess.Process | None = field(default=None, init=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Starts it (again, on the same port) and waits until it answers."""
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.replica",
            env=os.environ | self.environment | {"PORT": str(self.port)},
            stdout=asyncio.subprocess.PIPE, stderr=None,
        )  # fmt: skip
        assert self.process.stdout is not None
        async with asyncio.timeout(START_SECONDS):
            line = (await self.process.stdout.readline()).decode()
        match = re.search(r"listening on (\d+)", line)
        assert match, f"the gateway did not start: {line!r}"
        self.port = int(match[1])

    async def kill(self) -> None:
        """As a power cut would."""
        await self._end(signal.SIGKILL)

    async def terminate(self) -> int:
        """As a platform would; the exit code."""
        return await self._end(signal.SIGTERM)

    async def _end(self, number: signal.Signals) -> int:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(number)
        return await self.process.wait()


@asynccontextmanager
async def replica(database_url: str, model_url: str, **environment: str) -> AsyncGenerator[Replica, None]:
    given = {
        "DATABASE_URL": database_url,
        "OPENAI_BASE_URL": model_url,
        "OPENAI_API_KEY": "test",
        "FREYA_RATE_LIMIT": "0",
        "FREYA_LEASE_SECONDS": "1.5",
        "FREYA_GRACE_SECONDS": "1",
        "FREYA_LOG_LEVEL": "ERROR",
        "FREYA_WORKER": "false",
    }
    one = Replica(given | environment)
    await one.start()
    try:
        yield one
    finally:
        await one.terminate()


def authenticated() -> dict[str, Any]:
    """Settings for many users: see `bearer`."""
    return {"jwt_secret": SecretStr(SECRET)}


async def collect(stream: Stream) -> list[str]:
    """Names of the events to the end of the body, without beats."""
    return [event.name for event in await stream.rest() if event.name != "beat"]
