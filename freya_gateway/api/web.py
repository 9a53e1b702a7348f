"""The files for browsers: `freya.js` for any page, and the cockpit page of this gateway.

The script is public, so any origin may load it; what it may then call is the CORS middleware's decision. A page that
names the hash in the address loads it once and for all; an address with an older hash leads to the present script.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Header, Response
from fastapi.responses import RedirectResponse

from freya_gateway.api.dependencies import GatewayState
from freya_gateway.api.state import Gateway
from freya_gateway.errors import NotFound
from freya_gateway.web import FOLDER

COCKPIT = FOLDER / "cockpit"
SHORT_CACHE = "public, max-age=300, stale-while-revalidate=86400"
LONG_CACHE = "public, max-age=31536000, immutable"
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".ts": "text/plain; charset=utf-8",
    ".woff2": "font/woff2",
}
FOR_ANY_PAGE = {"access-control-allow-origin": "*", "cross-origin-resource-policy": "cross-origin"}
# What a page of the gateway may do: run its own files and call its own server; no inline code, no frames around it.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
FOR_OWN_PAGE = {"content-security-policy": PAGE_POLICY, "cross-origin-opener-policy": "same-origin"}

router = APIRouter(include_in_schema=False)
IfNoneMatch = Annotated[str | None, Header()]


@dataclass(frozen=True, slots=True)
class File:
    """A file's bytes, how they are announced, and a hash that changes with them."""

    body: bytes
    type: str
    hash: str

    @classmethod
    def read(cls, path: Path) -> "File":
        body = path.read_bytes()
        return cls(body, TYPES[path.suffix], hashlib.sha256(body).hexdigest()[:16])

    def answer(self, if_none_match: str | None, cache: str, headers: dict[str, str]) -> Response:
        etag = f'"{self.hash}"'
        given = {"etag": etag, "cache-control": cache} | headers
        if if_none_match is not None and etag in if_none_match:
            return Response(status_code=304, headers=given)
        return Response(self.body, headers=given, media_type=self.type)


@lru_cache(maxsize=8)
def client_file(name: str) -> File:
    """One of the client's files; they do not change while the process lives."""
    return File.read(FOLDER / name)


@router.get("/freya.js")
async def script(if_none_match: IfNoneMatch = None) -> Response:
    """The client; `content-location` is its address for ever."""
    file = client_file("freya.js")
    own_address = {"content-location": f"/freya.{file.hash}.js"}
    return file.answer(if_none_match, SHORT_CACHE, FOR_ANY_PAGE | own_address)


@router.get("/freya.{version}.js")
async def script_for_ever(version: str, if_none_match: IfNoneMatch = None) -> Response:
    file = client_file("freya.js")
    if version != file.hash:
        return RedirectResponse("/freya.js", 302, FOR_ANY_PAGE | {"cache-control": "no-store"})
    return file.answer(if_none_match, LONG_CACHE, FOR_ANY_PAGE)


@router.get("/freya.mjs")
async def module(if_none_match: IfNoneMatch = None) -> Response:
    return client_file("freya.mjs").answer(if_none_match, SHORT_CACHE, FOR_ANY_PAGE)


@router.get("/freya.d.ts")
async def types(if_none_match: IfNoneMatch = None) -> Response:
    return client_file("freya.d.ts").answer(if_none_match, SHORT_CACHE, FOR_ANY_PAGE)


@router.get("/use-freya.js")
async def hook(if_none_match: IfNoneMatch = None) -> Response:
    return client_file("use-freya.js").answer(if_none_match, SHORT_CACHE, FOR_ANY_PAGE)


@router.get("/")
async def cockpit(gateway: GatewayState, if_none_match: IfNoneMatch = None) -> Response:
    return _page_file(gateway, "index.html", if_none_match)


@router.get("/cockpit/{name}")
async def cockpit_file(name: str, gateway: GatewayState, if_none_match: IfNoneMatch = None) -> Response:
    return _page_file(gateway, name, if_none_match)


def _page_file(gateway: Gateway, name: str, if_none_match: str | None) -> Response:
    """Read anew each time: it is small, and in development it changes."""
    path = COCKPIT / name
    if not gateway.settings.serves_cockpit or path.parent != COCKPIT or path.suffix not in TYPES or not path.is_file():
        raise NotFound("not_found", "There is nothing at this address; see /docs for what there is.")
    return File.read(path).answer(if_none_match, "no-cache", FOR_OWN_PAGE)
