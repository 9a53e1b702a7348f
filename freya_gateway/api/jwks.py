"""The public keys of an identity provider, kept at hand.

PyJWT's own client forgets its keys when the provider is away and asks it for every strange `kid` meanwhile; this one
keeps the last good keys for a day, and asks at most once in `cooldown` seconds, whatever it is shown.
"""

import asyncio
import json
import math
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import aiohttp
import jwt
from loguru import logger

from freya_gateway.api.tokens import VerifyingKey
from freya_gateway.errors import Unavailable

ALGORITHMS = frozenset({"RS256", "ES256", "EdDSA"})
MOST_BYTES = 256 * 1024
# What comes of a provider that is away, and of something else that answers in its place.
NO_KEYS = (aiohttp.ClientError, OSError, RecursionError, jwt.PyJWTError)
NOT_KEYS = (ValueError, TypeError, AttributeError, LookupError)


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds: after which keys are asked for again, after which they are given up, between two calls, for one call."""

    fresh: float = 600.0
    usable: float = 86_400.0
    cooldown: float = 10.0
    timeout: float = 5.0


class KeySet:
    """Keys by `kid`. Fetched at first use, then again in the background once they are no longer fresh."""

    def __init__(self, url: str, pace: Pace | None = None) -> None:
        self._url = url
        self._pace = pace or Pace()
        self._keys: dict[str, VerifyingKey] = {}
        self._fetched_at = self._asked_at = -math.inf
        self._failed = False
        self._fetching: asyncio.Task[None] | None = None

    async def find(self, kid: str | None) -> VerifyingKey | None:
        """The key named `kid`; the only one if the token names none. Raises Unavailable if it cannot be known now."""
        found = self._named(kid)
        if found is None:
            await self._ask()
            found = self._named(kid)
        elif self._age() > self._pace.fresh:
            self._start()
        if found is None and self._failed:
            detail = "The identity provider does not answer at the moment; try again."
            raise Unavailable("identity_provider_unavailable", detail, retry_after=math.ceil(self._pace.cooldown))
        return found

    async def aclose(self) -> None:
        if self._fetching is not None:
            self._fetching.cancel()
            with suppress(asyncio.CancelledError):
                await self._fetching

    def _named(self, kid: str | None) -> VerifyingKey | None:
        if self._age() > self._pace.usable:
            return None
        if kid is None:
            return next(iter(self._keys.values())) if len(self._keys) == 1 else None
        return self._keys.get(kid)

    def _age(self) -> float:
        return _time() - self._fetched_at

    async def _ask(self) -> None:
        """All who wait share one call, and who leaves does not end it for the others."""
        self._start()
        if self._fetching is not None and not self._fetching.done():
            await asyncio.shield(self._fetching)

    def _start(self) -> None:
        running = self._fetching is not None and not self._fetching.done()
        if running or _time() - self._asked_at < self._pace.cooldown:
            return
        self._fetching = asyncio.create_task(self._fetch(), name="jwks")

    async def _fetch(self) -> None:
        try:
            keys = _usable(await self._download())
        except (*NO_KEYS, *NOT_KEYS) as error:
            self._failed = True
            logger.warning("no keys from the identity provider", error=type(error).__name__, kept=len(self._keys))
        else:
            self._failed = False
            self._keys = keys
            self._fetched_at = _time()
        finally:
            self._asked_at = _time()

    async def _download(self) -> dict[str, Any]:
        timeout = aiohttp.ClientTimeout(total=self._pace.timeout)
        async with (
            aiohttp.ClientSession(timeout=timeout) as http,
            http.get(self._url, allow_redirects=False) as response,
        ):
            if response.status != 200:
                raise ValueError(f"status {response.status}")
            body = await response.content.read(MOST_BYTES)
            while len(body) < MOST_BYTES and (more := await response.content.read(MOST_BYTES - len(body))):
                body += more
        found = json.loads(body)
        if not isinstance(found, dict):
            raise TypeError("not a key set")
        return found


def _usable(found: dict[str, Any]) -> dict[str, VerifyingKey]:
    """Public keys for signatures. A symmetric key in a public place would let everyone sign."""
    keys = jwt.PyJWKSet.from_dict(found).keys
    usable = [key for key in keys if key.public_key_use in {"sig", None} and key.algorithm_name in ALGORITHMS]
    if not usable:
        raise ValueError("no usable key")
    return {key.key_id or "": VerifyingKey(key, key.algorithm_name) for key in usable}


def _time() -> float:
    return asyncio.get_running_loop().time()
