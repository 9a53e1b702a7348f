"""The HTTP server: uvicorn, with a stop that tells every reader before it closes anything.

uvicorn by itself waits for open streams before the application hears of the shutdown, and the streams would wait for
the application. Here the gateway drains first, while it still answers, and only then uvicorn closes.
"""

import asyncio
import gc
import resource
import signal
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import FrameType
from typing import Any

import uvicorn
from loguru import logger

from freya_gateway.settings import Settings

CLOSE_SECONDS = 5  # for what is left after the drain: the last bytes of streams, a slow client's answer
# Tokens make many small short-lived objects and hardly a cycle: at the defaults, a third of the CPU went into looking.
GC_THRESHOLDS = (50_000, 20, 20)
DEAD_PEER_MS = 120_000
GOODBYE_SECONDS = 5  # beyond the grace, for telling the readers


class GatewayServer(uvicorn.Server):
    """Serves until SIGTERM or SIGINT, drains, closes. A second SIGINT leaves at once. Both end in exit code 0.

    `drain(grace)` is the gateway's; `ready(port)` is called once, when requests are answered.
    """

    def __init__(
        self,
        app: Callable[..., Any],
        settings: Settings,
        *,
        drain: Callable[[float], Awaitable[None]],
        ready: Callable[[int], None] = lambda port: None,
    ) -> None:
        super().__init__(_configuration(app, settings))
        self._grace = settings.grace_seconds
        self._drain = drain
        self._ready = ready
        self._alone = False

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serves until told to stop, in a process of its own. Raises SystemExit when the start fails."""
        _raise_file_limit()
        self._alone = True
        super().run(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._alone:  # what exists now stays for good: the collector need not look at it again and again
            gc.collect()
            gc.freeze()
            gc.set_threshold(*GC_THRESHOLDS)
        for listener in (one for server in self.servers for one in server.sockets):
            _give_up_on_dead_peers(listener)
        self._ready(self.servers[0].sockets[0].getsockname()[1])

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._drain_or_give_up()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Unlike uvicorn's, does not raise the signal again at the end: platforms expect 0 after a clean stop,
        # and what was started before the server is still to be stopped after it.
        self.force_exit = self.force_exit or (self.should_exit and sig == signal.SIGINT)
        self.should_exit = True

    async def _drain_or_give_up(self) -> None:
        draining = asyncio.ensure_future(self._drain(self._grace))
        deadline = asyncio.get_running_loop().time() + self._grace + GOODBYE_SECONDS
        while not (draining.done() or self.force_exit) and asyncio.get_running_loop().time() < deadline:
            await asyncio.wait({draining}, timeout=0.1)
        draining.cancel()
        outcome = (await asyncio.gather(draining, return_exceptions=True))[0]
        if isinstance(outcome, BaseException):
            logger.error("drain ended early: {}", type(outcome).__name__)


def _configuration(app: Callable[..., Any], settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        # A stranger could claim any address by X-Forwarded-For, loopback too.
        proxy_headers=False,
        backlog=2048,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=CLOSE_SECONDS,
    )


def _give_up_on_dead_peers(listener: socket.socket) -> None:
    """Has the system reset a connection whose peer takes nothing for so long; every accepted socket inherits it."""
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_PEER_MS)


def _raise_file_limit() -> None:
    """Every open stream is an open file; the usual soft limit of 1024 is for programs that use `select`."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
