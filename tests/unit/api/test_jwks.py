"""A provider's keys: fetched once, renewed, kept through an outage, and nobody can make the gateway ask often."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from freya_gateway.api.jwks import MOST_BYTES, KeySet, Pace
from freya_gateway.errors import Unavailable
from tests.unit.api.provider import Provider, pair

ALWAYS = Pace(cooldown=0)


@asynccontextmanager
async def key_set(provider: Provider, pace: Pace | None = None) -> AsyncGenerator[KeySet]:
    keys = KeySet(provider.url, pace)
    yield keys
    await keys.aclose()


async def settled(provider: Provider, asked: int) -> None:
    """Waits until the provider was asked so often, and its answer is in."""
    async with asyncio.timeout(5):
        while len(provider.asked) < asked:
            await asyncio.sleep(0.005)
    await asyncio.sleep(0.05)


async def test_who_come_at_once_share_one_call(provider: Provider) -> None:
    provider.keys, provider.seconds = [pair("ES256").public], 0.05
    async with key_set(provider) as keys:
        found = await asyncio.gather(*(keys.find("one") for _ in range(20)))
    assert all(key is not None and key.algorithm == "ES256" for key in found)
    assert provider.asked == ["/keys.json"]


async def test_who_leaves_does_not_end_the_call_for_the_others(provider: Provider) -> None:
    provider.keys, provider.seconds = [pair("ES256").public], 0.1
    async with key_set(provider) as keys:
        first = asyncio.create_task(keys.find("one"))
        second = asyncio.create_task(keys.find("one"))
        await asyncio.sleep(0.02)
        first.cancel()
        assert await second is not None
    assert len(provider.asked) == 1


async def test_a_new_key_is_found_without_a_restart(provider: Provider) -> None:
    provider.keys = [pair("ES256").public]
    async with key_set(provider, ALWAYS) as keys:
        assert await keys.find("one") is not None
        provider.keys = [pair("ES256", "two").public]
        assert await keys.find("two") is not None
        assert await keys.find("one") is None


async def test_strange_names_do_not_make_the_gateway_ask(provider: Provider) -> None:
    provider.keys = [pair("ES256").public]
    async with key_set(provider) as keys:
        for number in range(200):
            assert await keys.find(f"strange {number}") is None
        assert await keys.find("one") is not None
    assert len(provider.asked) == 1


@pytest.mark.parametrize("name", ["../../secrets", "http://evil.example/keys", "' OR 1=1 --", "\x00", "", "one\n"])
async def test_a_name_is_only_a_name(provider: Provider, name: str) -> None:
    provider.keys = [pair("ES256").public]
    async with key_set(provider) as keys:
        assert await keys.find(name) is None
    assert provider.asked == ["/keys.json"]


async def test_a_token_without_a_name_means_the_only_key(provider: Provider) -> None:
    provider.keys = [pair("ES256").public]
    async with key_set(provider, ALWAYS) as keys:
        assert await keys.find(None) is not None
        provider.keys = [pair("ES256").public, pair("ES256", "two").public]
        await keys.find("two")
        assert await keys.find(None) is None


async def test_keys_are_renewed_while_the_old_ones_serve(provider: Provider) -> None:
    provider.keys = [pair("ES256").public]
    async with key_set(provider, Pace(fresh=0, cooldown=0)) as keys:
        before = await keys.find("one")
        provider.keys = [pair("RS256").public]
        assert await keys.find("one") is before
        await settled(provider, 2)
        after = await keys.find("one")
        assert after is not None
        assert after.algorithm == "RS256"


async def test_known_keys_serve_through_an_outage(provider: Provider) -> None:
    provider.keys = [pair("ES256").public]
    async with key_set(provider, Pace(fresh=0, cooldown=0)) as keys:
        known = await keys.find("one")
        provider.answer = web.Response(status=500)
        for asked in (2, 3):
            assert await keys.find("one") is known
            await settled(provider, asked)
        with pytest.raises(Unavailable):
            await keys.find("another")
        provider.answer = None
        assert await keys.find("another") is None


async def test_keys_that_nobody_confirmed_for_long_are_given_up(provider: Provider) -> None:
    provider.keys = [pair("ES256").public]
    async with key_set(provider, Pace(usable=0.05, cooldown=0)) as keys:
        assert await keys.find("one") is not None
        provider.answer = web.Response(status=500)
        await asyncio.sleep(0.06)
        with pytest.raises(Unavailable):
            await keys.find("one")


async def test_a_provider_that_is_down_is_left_alone_for_a_while(provider: Provider) -> None:
    provider.answer = web.Response(status=503)
    async with key_set(provider) as keys:
        with pytest.raises(Unavailable) as refusal:
            await keys.find("one")
        assert (refusal.value.code, refusal.value.retry_after) == ("identity_provider_unavailable", 10)
        for _ in range(50):
            with pytest.raises(Unavailable):
                await keys.find("one")
    assert len(provider.asked) == 1


async def test_a_provider_that_hangs_is_not_waited_for(provider: Provider) -> None:
    provider.keys, provider.seconds = [pair("ES256").public], 0.3
    async with key_set(provider, Pace(timeout=0.05)) as keys:
        with pytest.raises(Unavailable):
            await keys.find("one")


async def test_nothing_listens_there() -> None:
    keys = KeySet("http://127.0.0.1:9/keys.json")
    with pytest.raises(Unavailable):
        await keys.find("one")
    await keys.aclose()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>login</html>",
        b"[]",
        b"null",
        b"{}",
        b'{"keys": 7}',
        b'{"keys": []}',
        b'{"keys": [7, null, {}]}',
        b'{"keys": [{"kty": "RSA", "kid": "one", "n": 7, "e": 7}]}',
        b'{"keys": [{"kty": "RSA", "kid": "one", "e": "AQAB"}]}',
        b'{"keys": [{"kty": "RSA", "kid": "one", "alg": {"a": 1}}]}',
        b'{"keys": [{"kty": ["RSA"], "kid": "one"}]}',
        b'{"keys": [{"kty": "EC", "kid": "one", "crv": "P-256", "x": "AA", "y": "AA"}]}',
        b'{"keys": ' + b"[" * 100_000,
        b"\xff\xfe",
        b'{"keys": [' + b" " * MOST_BYTES + b"]}",
    ],
    ids=lambda body: body[:60],
)
async def test_what_is_no_key_set_counts_as_an_outage(provider: Provider, body: bytes) -> None:
    provider.answer = web.Response(body=body)
    async with key_set(provider) as keys:
        with pytest.raises(Unavailable):
            await keys.find("one")


async def test_it_is_not_sent_elsewhere(provider: Provider) -> None:
    provider.keys = [pair("ES256").public]
    provider.answer = web.Response(status=302, headers={"location": "/elsewhere.json"})
    async with key_set(provider) as keys:
        with pytest.raises(Unavailable):
            await keys.find("one")
    assert provider.asked == ["/keys.json"]


@pytest.mark.parametrize(
    "useless",
    [
        {"kty": "oct", "kid": "one", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA", "alg": "HS256"},
        pair("ES256").public | {"use": "enc"},
        pair("ES384").public,
        pair("RS512").public,
    ],
    ids=["a shared secret in public", "for encryption", "another curve", "another algorithm"],
)
async def test_only_public_keys_for_signatures_are_taken(provider: Provider, useless: dict[str, Any]) -> None:
    provider.keys = [useless, pair("ES256", "good").public]
    async with key_set(provider) as keys:
        assert await keys.find("one") is None
        assert await keys.find("good") is not None
