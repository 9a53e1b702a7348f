"""An identity provider on this machine: key pairs, tokens signed with them, the public keys over real HTTP."""

import asyncio
import base64
import hmac
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

import jwt
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms
from starlette.datastructures import Headers

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ISSUER = "https://id.example"
AUDIENCE = "freya"


def claims(**changes: Any) -> dict[str, Any]:
    """Of a good token, an hour before its end; None leaves a claim out."""
    good = {"sub": "ana", "exp": int(NOW.timestamp()) + 3600, "iss": ISSUER, "aud": AUDIENCE}
    return {name: value for name, value in (good | changes).items() if value is not None}


def with_bearer(token: str) -> Headers:
    return Headers({"host": "freya.example", "authorization": f"Bearer {token}"})


def forged(header: Any, payload: Any, *, key: bytes | None = None) -> str:
    """A token put together by hand, signed with HMAC-SHA256 whatever its header says, or not signed at all."""
    signed = f"{_part(header)}.{_part(payload)}"
    signature = hmac.digest(key, signed.encode(), "sha256") if key is not None else b""
    return f"{signed}.{_base64(signature)}"


def _part(value: Any) -> str:
    return _base64(value if isinstance(value, bytes) else json.dumps(value).encode())


def _base64(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


@dataclass(frozen=True)
class KeyPair:
    """A key of the provider. `name` is its `kid`."""

    private: Any
    algorithm: str
    name: str

    @property
    def public(self) -> dict[str, Any]:
        """As the provider publishes it."""
        algorithm: Any = get_default_algorithms()[self.algorithm]
        jwk = json.loads(algorithm.to_jwk(self.private.public_key()))
        return {**jwk, "kid": self.name, "alg": self.algorithm, "use": "sig"}

    def sign(self, payload: dict[str, Any], **header: Any) -> str:
        return jwt.encode(payload, self.private, self.algorithm, {"kid": self.name} | header)


@cache
def pair(algorithm: str, name: str = "one") -> KeyPair:
    """The same each time it is asked for."""
    match algorithm[:2]:
        case "ES":
            curve = ec.SECP256R1() if algorithm == "ES256" else ec.SECP384R1()
            return KeyPair(ec.generate_private_key(curve), algorithm, name)
        case "Ed":
            return KeyPair(ed25519.Ed25519PrivateKey.generate(), algorithm, name)
        case _:
            return KeyPair(rsa.generate_private_key(65537, 2048), algorithm, name)


class Provider:
    """Publishes `keys`, or answers with `answer`; counts what it is asked."""

    def __init__(self) -> None:
        self.url = ""
        self.keys: list[dict[str, Any]] = []
        self.answer: web.Response | None = None
        self.seconds = 0.0
        self.asked: list[str] = []

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator["Provider"]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._respond)
        async with TestServer(app) as server:
            self.url = str(server.make_url("/keys.json"))
            yield self

    async def _respond(self, request: web.Request) -> web.Response:
        self.asked.append(request.raw_path)
        await asyncio.sleep(self.seconds)
        if self.answer is not None:
            return web.Response(status=self.answer.status, body=self.answer.body, headers=self.answer.headers)
        return web.json_response({"keys": self.keys})
