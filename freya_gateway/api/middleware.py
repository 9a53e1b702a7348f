"""Around every request: an id, a line in the log, a limit on the body, an answer to what nobody foresaw.

Pure ASGI: a stream costs one small object. It belongs inside the CORS middleware, so that a page may read even a 500.
The log's line has the path without its query: tickets travel there.
"""

import re
import time
from collections.abc import Awaitable, Callable
from secrets import token_hex
from typing import Any
from urllib.parse import quote

from loguru import logger
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from freya_gateway.api.errors import unforeseen
from freya_gateway.api.origins import LOCAL_ORIGIN, allows_local
from freya_gateway.settings import Settings

MOST_BODY_BYTES = 1024 * 1024
LARGER_BODIES = {("POST", "/v1/import"): 64 * 1024 * 1024}  # read after the credential has been looked at
MOST_PATH_CHARACTERS = 200
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
PROBES = frozenset({"/healthz", "/readyz", "/metrics"})
CORS_MAX_AGE = 600  # seconds


def cors_options(settings: Settings) -> dict[str, Any]:
    """Arguments of Starlette's CORSMiddleware."""
    return {
        "allow_origins": settings.allowed_origins,
        "allow_origin_regex": LOCAL_ORIGIN if allows_local(settings) else None,
        "allow_methods": ("GET", "POST", "PUT", "PATCH", "DELETE"),
        "allow_headers": ("authorization", "content-type", "last-event-id", "x-request-id"),
        "expose_headers": ("x-request-id", "retry-after"),
        "allow_credentials": True,
        "max_age": CORS_MAX_AGE,
    }


AFTERWARDS = "afterwards"
Afterwards = Callable[[Receive, Send], Awaitable[None]]


class RequestMiddleware:
    """Gives a request its id (the caller's, if well-formed) and holds its body to what the address takes."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send)
        with logger.contextualize(request=exchange.id):
            try:
                await self._answer(scope, exchange)
            except Exception as error:  # boundary: Starlette's own last answer would pass by the CORS middleware
                if exchange.answering:
                    raise  # the server cuts the connection, so that half an answer cannot pass for a whole one
                await unforeseen(Request(scope), error)(scope, receive, exchange.send)
            finally:
                exchange.log()

    async def _answer(self, scope: Scope, exchange: "_Exchange") -> None:
        """Has the app answer, then does what it left for afterwards. Routing writes into a copy of the scope, which is
        gone by then; the server keeps the original as long as the connection."""
        works: list[Afterwards] = []
        scope["state"][AFTERWARDS] = works
        await self._app(dict(scope), exchange.receive, exchange.send)
        del scope["state"][AFTERWARDS]
        for work in works:
            await work(exchange.receive, exchange.send)


def afterwards(scope: Scope, work: Afterwards) -> None:
    """Leaves the rest of an answer for when the app has returned."""
    scope["state"][AFTERWARDS].append(work)


class _Exchange:
    """One request and its answer."""

    __slots__ = ("_began", "_left", "_receive", "_scope", "_send", "_status", "id")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        self.id = given if REQUEST_ID.fullmatch(given) else token_hex(8)
        scope.setdefault("state", {})["request_id"] = self.id
        self._scope = scope
        self._receive = receive
        self._send = send
        self._status = 0
        self._began = time.monotonic()
        length = headers.get("content-length", "")
        announced = int(length) if length.isascii() and length.isdigit() and len(length) < 20 else 0
        most = LARGER_BODIES.get((scope["method"], scope["path"]), MOST_BODY_BYTES)
        self._left = -1 if announced > most else most

    @property
    def answering(self) -> bool:
        return self._status > 0

    async def receive(self) -> Message:
        if self._left < 0:
            return self._refuse()
        message = await self._receive()
        if message["type"] == "http.request":
            self._left -= len(message.get("body", b""))
            if self._left < 0:
                return self._refuse()
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self.id
            headers["x-content-type-options"] = "nosniff"
            headers["referrer-policy"] = "no-referrer"
            if "json" in headers.get("content-type", ""):
                headers.setdefault("cache-control", "no-store")  # what users said stays out of caches
        await self._send(message)

    def log(self) -> None:
        path = self._scope["path"]
        level = "DEBUG" if path in PROBES else "INFO"
        logger.log(
            level,
            "request",
            method=self._scope["method"],
            path=quote(path, errors="replace")[:MOST_PATH_CHARACTERS],
            status=self._status or 500,
            ms=round((time.monotonic() - self._began) * 1000, 1),
        )

    def _refuse(self) -> Message:
        """Raised to whoever reads the body, it is answered like any other refusal; once an answer runs, it ends."""
        if self.answering:
            return {"type": "http.disconnect"}
        raise HTTPException(413)
