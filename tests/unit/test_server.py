"""The HTTP server's stop: the gateway drains while it still answers, then everything closes."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx2
import pytest

from freya_gateway.server import GatewayServer
from freya_gateway.settings import Settings


class Streaming:
    """An application with one endless stream, which ends when the drain says so."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.over = asyncio.Event()

    async def drain(self, grace: float) -> None:
        self.said.append(f"drain {grace:g}")
        async with httpx2.AsyncClient() as client:
            self.said.append((await client.get(f"{self.url}/quick")).text)
        self.over.set()

    async def __call__(
        self,
        scope: dict[str, str],
        receive: Callable[[], Awaitable[dict[str, str]]],
        send: Callable[[dict[str, object]], Awaitable[None]],
    ) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"open", "more_body": True})
        if scope["path"] != "/quick":
            await self.over.wait()
        await send({"type": "http.response.body", "body": b" closed"})

    async def _live(
        self, receive: Callable[[], Awaitable[dict[str, str]]], send: Callable[[dict[str, object]], Awaitable[None]]
    ) -> None:
        for _ in range(2):
            message = await receive()
            self.said.append(message["type"])
            await send({"type": f"{message['type']}.complete"})

    url = ""


@asynccontextmanager
async def serving(
    app: Streaming, drain: Callable[[float], Awaitable[None]]
) -> AsyncGenerator[asyncio.Task[None], None]:
    settings = Settings(_env_file=None, port=0, grace_seconds=1)  # pyright: ignore[reportCallIssue]
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    server = GatewayServer(app, settings, drain=drain, ready=port.set_result)
    task = asyncio.create_task(server.serve())
    app.url = f"http://127.0.0.1:{await port}"
    yield task
    await task


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_while_the_gateway_answers_and_ends_streams_properly(number: signal.Signals) -> None:
    app = Streaming()
    async with serving(app, app.drain), httpx2.AsyncClient() as client, client.stream("GET", app.url) as response:
        os.kill(os.getpid(), number)
        assert await response.aread() == b"open closed"
    assert app.said == ["lifespan.startup", "drain 1", "open closed", "lifespan.shutdown"]


async def test_a_second_interrupt_does_not_wait() -> None:
    app = Streaming()

    async def never(grace: float) -> None:
        app.said.append("draining")
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.Event().wait()

    async with serving(app, never):
        os.kill(os.getpid(), signal.SIGINT)
    assert app.said == ["lifespan.startup", "draining"]


async def test_a_drain_that_fails_does_not_keep_the_server_from_stopping() -> None:
    app = Streaming()

    async def broken(grace: float) -> None:
        raise RuntimeError

    async with serving(app, broken):
        os.kill(os.getpid(), signal.SIGTERM)
    assert app.said == ["lifespan.startup", "lifespan.shutdown"]
