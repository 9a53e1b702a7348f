"""A real browser for tests: pages of another origin, and a proxy that breaks what lies between them and the gateway."""

import asyncio
import json
import os
import shutil
import subprocess
from collections import deque
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import aiohttp
import pytest
from aiohttp import web

ROOT = Path(__file__).resolve().parents[1]
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host", "content-encoding", "date"}
PIECE = 4096
SCRIPT_SECONDS = 0.1  # the page's own code comes after the connector: what is told before is lost to it


def missing(what: str) -> NoReturn:
    """In CI a failure; elsewhere a skip that says so."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} is missing, and CI must have it")
    pytest.skip(f"{what} is missing: these tests did not run")


def chromium() -> str:
    """The path of Chromium; `scripts/chromium`, which `make test` runs first, installs it."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    missing("Chromium")


def node_path() -> str:
    return shutil.which("node") or missing("node")


def node(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs node."""
    return subprocess.run([node_path(), *arguments], capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)


def npm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs npm."""
    path = shutil.which("npm") or missing("npm")
    return subprocess.run([path, *arguments], capture_output=True, text=True, timeout=60, check=True, cwd=ROOT)


def client_package() -> Path:
    """The program that reads a stream with libraries of npm; `scripts/test` installs those."""
    folder = ROOT / "tests" / "client"
    if not (folder / "node_modules").is_dir():
        missing("tests/client/node_modules (npm ci --prefix tests/client)")
    return folder / "read.mjs"


@dataclass(frozen=True)
class Status:
    """An answer in the gateway's place. A proxy's own have no CORS headers, so that the page sees only a failure."""

    status: int
    headers: dict[str, str] = field(default_factory=dict[str, str])
    cors: bool = False


@dataclass(frozen=True)
class Cut:
    """What goes wrong with an answer after `after` bytes of its body."""

    after: int
    how: str = "reset"  # or "close": an orderly end; "stall": silence on an open connection


Fault = Status | Cut


class Proxy:
    """Stands before a gateway. `faults` meets the next streams, one each; `lost` so many sends lose their answer.

    `sessions` signs in like a proxy of one's own: a cookie `session` -> the headers that it stands for."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.faults: deque[Fault] = deque()
        self.lost = 0
        self.down = False
        self.open_streams = 0
        self.most_streams = 0
        self.asked: list[str] = []
        self.sessions: dict[str, dict[str, str]] = {}
        self.url = ""

    def break_next(self, *faults: Fault) -> None:
        self.faults.extend(faults)

    def streams(self) -> int:
        """Streams asked for so far."""
        return sum(line.startswith("GET /v1/stream") for line in self.asked)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(f"{request.method} {request.path_qs}")
        if self.down:
            return _hang_up(request)
        is_stream = request.method == "GET" and request.path == "/v1/stream"
        fault = self.faults.popleft() if is_stream and self.faults else None
        if isinstance(fault, Status):
            allowed = {"access-control-allow-origin": request.headers.get("origin", "*")} if fault.cors else {}
            return web.Response(status=fault.status, headers=fault.headers | allowed)
        self.open_streams += is_stream
        self.most_streams = max(self.most_streams, self.open_streams)
        try:
            return await self._forward(request, fault)
        finally:
            self.open_streams -= is_stream

    async def _forward(self, request: web.Request, cut: Cut | None) -> web.StreamResponse:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
        headers |= self.sessions.get(request.cookies.get("session", ""), {})
        body = await request.read()
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session:
            try:
                url = self.target + request.path_qs
                async with session.request(request.method, url, headers=headers, data=body or None) as answer:
                    if request.path == "/v1/messages" and request.method == "POST" and self.lost:
                        await answer.read()
                        self.lost -= 1
                        return _hang_up(request)
                    return await self._copy(request, answer, cut)
            except (aiohttp.ClientError, ConnectionError):
                return _hang_up(request)

    async def _copy(self, request: web.Request, answer: aiohttp.ClientResponse, cut: Cut | None) -> web.StreamResponse:
        kept = {name: value for name, value in answer.headers.items() if name.lower() not in HOP_BY_HOP}
        response = web.StreamResponse(status=answer.status, headers=kept)
        await response.prepare(request)
        left = cut.after if cut else -1
        async for piece in answer.content.iter_any():
            await response.write(piece if left < 0 else piece[:left])
            if cut and len(piece) >= left:
                return await _break(request, response, cut.how)
            left -= len(piece) if cut else 0
        await response.write_eof()
        return response


async def _break(request: web.Request, response: web.StreamResponse, how: str) -> web.StreamResponse:
    if how == "close":
        await response.write_eof()
    elif how == "reset":
        _hang_up(request)
    else:
        while request.transport is not None and not request.transport.is_closing():
            await asyncio.sleep(0.05)
    return response


def _hang_up(request: web.Request) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=502)


@asynccontextmanager
async def serving(app: web.Application) -> AsyncGenerator[str, None]:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield site.name if not site.name.endswith(":0") else f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def proxied(target: str) -> AsyncGenerator[Proxy, None]:
    proxy = Proxy(target)
    app = web.Application(client_max_size=2**24)
    app.router.add_route("*", "/{path:.*}", proxy.handle)
    async with serving(app) as url:
        proxy.url = url
        yield proxy


# What the existing cockpit does, and nothing more; beside it a record for the test.
COCKPIT_SCRIPT = """
"use strict";
const show = (id, text) => { document.getElementById(id).textContent = text; };
window.phases = [];
window.replies = [];
const phase = (name) => { window.phases.push(name); show("phase", name); };
window.addEventListener("freya:listening", () => phase("LISTENING"));
window.addEventListener("freya:thinking", () => phase("REPLYING"));
window.addEventListener("freya:reply", (event) => {
  window.replies.push(event.detail);
  show("reply", event.detail.message);
  phase("STANDBY");
});
window.said = {};
window.addEventListener("freya:token", ({ detail: { turn, attempt, off, text } }) => {
  const before = window.said[turn] && window.said[turn].attempt === attempt ? window.said[turn].text : "";
  if (before.length !== off) window.replies.push("a piece is missing or doubled: " + before.length + ", " + off);
  window.said[turn] = { attempt, text: before + text };
});
"""


def cockpit_page(gateway: str, **attributes: str) -> str:
    """A page like the existing cockpit: one script tag for Freya, then its own code."""
    data = "".join(f' data-{name.replace("_", "-")}="{value}"' for name, value in attributes.items())
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Cockpit</title>'
        f'<script src="{gateway}/freya.js"{data}></script>'
        '<p id="phase">STANDBY</p><pre id="reply"></pre><script src="/page.js"></script></html>'
    )


@dataclass
class Site:
    """The origin of the cockpit: `page` is served under a policy without inline code, `/token` gives `tokens`."""

    url: str
    page: str = ""
    policy: str = ""
    tokens: deque[str] = field(default_factory=deque[str])
    token_asked: int = 0

    async def index(self, _: web.Request) -> web.Response:
        headers = {"content-security-policy": self.policy}
        return web.Response(text=self.page, content_type="text/html", headers=headers)

    async def script(self, _: web.Request) -> web.Response:
        await asyncio.sleep(SCRIPT_SECONDS)
        return web.Response(text=COCKPIT_SCRIPT, content_type="text/javascript")

    async def token(self, _: web.Request) -> web.Response:
        self.token_asked += 1
        token = self.tokens.popleft() if len(self.tokens) > 1 else self.tokens[0]
        return web.Response(text=json.dumps({"token": token}), content_type="application/json")

    def shows(self, gateway: str, **attributes: str) -> None:
        """Serve the cockpit with Freya from `gateway`, and nothing from anywhere else."""
        self.page = cockpit_page(gateway, **attributes)
        self.policy = f"default-src 'none'; script-src 'self' {gateway}; connect-src 'self' {gateway}"


@asynccontextmanager
async def site() -> AsyncGenerator[Site, None]:
    one = Site("")
    app = web.Application()
    app.router.add_get("/", one.index)
    app.router.add_get("/page.js", one.script)
    app.router.add_post("/token", one.token)
    async with serving(app) as url:
        one.url = url
        yield one


async def until(page: Any, expression: str, argument: object = None, *, seconds: float = 30) -> Any:
    """Waits until the expression is true in the page. Asks from outside, so a strict policy does not forbid it."""
    async with asyncio.timeout(seconds):
        while not (value := await page.evaluate(expression, argument)):
            await asyncio.sleep(0.02)
    return value


def texts(messages: Iterable[dict[str, Any]]) -> dict[str, str]:
    """turn -> Freya's stored words."""
    return {message["turn"]: message["text"] for message in messages if message["role"] == "assistant"}
