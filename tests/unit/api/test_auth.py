"""Who gets in, and as whom; everyone else is refused in words that do not say which check failed."""

import json
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import SecretStr
from starlette.datastructures import Headers

from freya_gateway.api.auth import Authenticator
from freya_gateway.api.tokens import LEEWAY, Principal
from freya_gateway.errors import Forbidden, Unauthenticated, Unavailable
from freya_gateway.settings import Settings
from tests.unit.api.provider import AUDIENCE, ISSUER, NOW, KeyPair, Provider, claims, forged, pair, with_bearer

SECRET = "unit-tests-0123456789abcdefghijklmnopqrstuvwxyz-long-enough-for-HS512"
KEY = "ana-key-0123456789abcdef"
OTHER_KEY = "bob-key-0123456789abcdef"
HS256 = {"alg": "HS256", "typ": "JWT"}
NAMED = {"jwt_issuer": ISSUER, "jwt_audience": AUDIENCE}


def authenticator(**values: Any) -> Authenticator:
    settings = Settings(_env_file=None, **values)  # pyright: ignore[reportCallIssue]
    return Authenticator(settings, lambda: NOW)


def by_secret(**values: Any) -> Authenticator:
    return authenticator(jwt_secret=SecretStr(SECRET), **values)


def signed(
    *, secret: str = SECRET, algorithm: str = "HS256", header: dict[str, Any] | None = None, **changes: Any
) -> str:
    return jwt.encode(claims(**changes), secret, algorithm, header)


async def refusal(by: Authenticator, headers: Headers) -> Unauthenticated:
    with pytest.raises(Unauthenticated) as refused:
        await by.authenticate(headers)
    return refused.value


@pytest.fixture
async def by_provider(provider: Provider) -> AsyncIterator[Authenticator]:
    """Trusts the provider, which has one key of each kind."""
    provider.keys = [pair(algorithm, algorithm).public for algorithm in ("RS256", "ES256", "EdDSA")]
    one = authenticator(jwks_url=provider.url, **NAMED)
    yield one
    await one.aclose()


# API keys


async def test_an_api_key_is_its_user_for_good() -> None:
    by = authenticator(api_keys=SecretStr(f"{KEY}:ana,{OTHER_KEY}:bob"))
    assert await by.authenticate(with_bearer(KEY)) == Principal("ana", None)
    assert await by.authenticate(with_bearer(OTHER_KEY)) == Principal("bob", None)
    assert await by.authenticate(Headers({"authorization": f"bearer   {KEY} "})) == Principal("ana", None)


@pytest.mark.parametrize("given", [KEY[:-1], KEY + "0", KEY.upper(), f"{KEY}:ana", "ana", f"{KEY},{OTHER_KEY}", "\xe9"])
async def test_nearly_a_key_is_none(given: str) -> None:
    by = authenticator(api_keys=SecretStr(f"{KEY}:ana,{OTHER_KEY}:bob"))
    assert (await refusal(by, with_bearer(given))).code == "bad_credential"


async def test_a_key_beyond_ascii_is_compared_by_its_bytes() -> None:
    key = "schlüssel-0123456789abcdef"
    by = authenticator(api_keys=SecretStr(f"{key}:ana"))
    sent = Headers(raw=[(b"authorization", f"Bearer {key}".encode())])
    assert (await by.authenticate(sent)).subject == "ana"


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Bearer    ", f"Basic {KEY}", KEY, f"Token {KEY}"])
async def test_without_a_bearer_credential_it_says_what_to_send(header: str | None) -> None:
    by = authenticator(api_keys=SecretStr(f"{KEY}:ana"))
    refused = await refusal(by, Headers({} if header is None else {"authorization": header}))
    assert refused.code == "missing_credential"
    assert "Bearer" in refused.detail


# Tokens of the shared secret


async def test_a_token_is_its_subject_until_it_would_be_refused() -> None:
    principal = await by_secret(**NAMED).authenticate(with_bearer(signed()))
    assert principal == Principal("ana", NOW + timedelta(hours=1) + LEEWAY)


async def test_clocks_may_differ_a_little() -> None:
    now = NOW.timestamp()
    near: list[dict[str, Any]] = [{"exp": now - 29}, {"nbf": now + 29}, {"iat": now + 29.5}]
    for changes in near:
        assert (await by_secret().authenticate(with_bearer(signed(**changes)))).subject == "ana"


async def test_an_expired_token_says_so() -> None:
    assert (await refusal(by_secret(), with_bearer(signed(exp=NOW.timestamp() - 30)))).code == "expired_credential"


async def test_only_the_owner_of_an_expired_token_hears_that_it_expired() -> None:
    old = signed(secret="somebody-else-0123456789abcdefghijkl", exp=NOW.timestamp() - 3600)
    assert (await refusal(by_secret(), with_bearer(old))).code == "bad_credential"


@pytest.mark.parametrize("subject", ["ana", "auth0|507f1f77bcf86cd799439011", "x" * 255, "Ana Özgür", "安娜", "0"])
async def test_a_subject_may_be_any_printable_name(subject: str) -> None:
    assert (await by_secret().authenticate(with_bearer(signed(sub=subject)))).subject == subject


FUTURE = NOW.timestamp() + 31
BAD_CLAIMS: list[dict[str, Any]] = [
    {"sub": None},
    {"sub": ""},
    {"sub": "x" * 256},
    {"sub": "a\x00b"},
    {"sub": "a\nb"},
    {"sub": "a\x7fb"},
    {"sub": "a\u2028b"},
    {"sub": "a\u202eb"},
    {"sub": "\ud800"},
    {"sub": 7},
    {"sub": ["ana"]},
    {"sub": {"name": "ana"}},
    {"sub": True},
    {"exp": None},
    {"exp": "soon"},
    {"exp": True},
    {"exp": [1]},
    {"exp": float("nan")},
    {"exp": float("inf")},
    {"exp": 1e300},
    {"exp": 10**400},
    {"exp": 253402300799},  # the last second that there is; the leeway leads beyond
    {"nbf": FUTURE},
    {"iat": FUTURE},
    {"nbf": "x"},
    {"iat": float("nan")},
    {"iss": None},
    {"iss": "https://id.example/"},
    {"iss": 7},
    {"aud": None},
    {"aud": "someone else"},
    {"aud": []},
    {"aud": ["freya-stream", "other"]},
    {"aud": 7},
]


@pytest.mark.parametrize("changes", BAD_CLAIMS, ids=lambda changes: ascii(changes)[:40])
async def test_a_claim_that_does_not_hold_is_refused(changes: dict[str, Any]) -> None:
    token = forged(HS256, claims(**changes), key=SECRET.encode())
    assert (await refusal(by_secret(**NAMED), with_bearer(token))).code == "bad_credential"


async def test_one_of_several_audiences_is_enough() -> None:
    assert await by_secret(**NAMED).authenticate(with_bearer(signed(aud=["other", AUDIENCE])))


async def test_without_issuer_and_audience_in_the_settings_any_will_do() -> None:
    assert await by_secret().authenticate(with_bearer(signed(iss="https://other.example", aud="other")))
    assert await by_secret().authenticate(with_bearer(signed(iss=None, aud=None)))


def tampered(token: str) -> str:
    """The same header and signature around other claims."""
    header, _, signature = token.split(".")
    return ".".join((header, forged({}, claims(sub="admin")).split(".")[1], signature))


BAD_TOKENS: dict[str, Callable[[], str]] = {
    "not signed": lambda: forged({"alg": "none"}, claims()),
    "not signed, shouting": lambda: forged({"alg": "NONE"}, claims()),
    "none, but signed": lambda: forged({"alg": "none"}, claims(), key=SECRET.encode()),
    "HS256 without a signature": lambda: forged(HS256, claims()),
    "signed with nothing": lambda: forged(HS256, claims(), key=b""),
    "signed with another secret": lambda: signed(secret="another-secret-0123456789abcdefghijklmn"),
    "other claims": lambda: tampered(signed()),
    "HS512 of the right secret": lambda: signed(algorithm="HS512"),
    "HS384 of the right secret": lambda: signed(algorithm="HS384"),
    "hs256": lambda: forged({"alg": "hs256"}, claims(), key=SECRET.encode()),
    "no algorithm": lambda: forged({"typ": "JWT"}, claims(), key=SECRET.encode()),
    "a list of algorithms": lambda: forged({"alg": ["HS256"]}, claims(), key=SECRET.encode()),
    "an object for an algorithm": lambda: forged({"alg": {"HS256": 1}}, claims(), key=SECRET.encode()),
    "an algorithm of null": lambda: forged({"alg": None}, claims(), key=SECRET.encode()),
    "an unknown critical header": lambda: forged(HS256 | {"crit": ["x"], "x": 1}, claims(), key=SECRET.encode()),
    "a header that is a list": lambda: forged([HS256], claims(), key=SECRET.encode()),
    "a header that is no JSON": lambda: forged(b"alg: HS256", claims(), key=SECRET.encode()),
    "a header without an end": lambda: forged(b"[" * 5000, claims(), key=SECRET.encode()),
    "a header with half a character": lambda: forged(b'{"alg": "\xff"}', claims(), key=SECRET.encode()),
    "claims that are a list": lambda: forged(HS256, [claims()], key=SECRET.encode()),
    "claims without an end": lambda: forged(HS256, b"[" * 5000, key=SECRET.encode()),
    "claims that are no JSON": lambda: forged(HS256, b"\xff", key=SECRET.encode()),
    "a name that is a number": lambda: forged(HS256 | {"kid": 7}, claims(), key=SECRET.encode()),
    "too long": lambda: signed(filler="x" * 10_000),
    "very long": lambda: "a." * 500_000,
    "two parts": lambda: signed().rpartition(".")[0],
    "four parts": lambda: signed() + ".x",
    "dots": lambda: "..",
    "no base64": lambda: "é.é.é",
    "its own key": lambda: forged({"alg": "RS256", "jwk": pair("RS256").public}, claims(), key=b"x"),
    "RS256 without a provider": lambda: pair("RS256").sign(claims()),
}


@pytest.mark.parametrize("token", BAD_TOKENS.values(), ids=BAD_TOKENS.keys())
async def test_what_is_no_token_of_the_secret_is_refused_in_the_same_words(token: Callable[[], str]) -> None:
    refused = await refusal(by_secret(), with_bearer(token()))
    assert (refused.code, refused.detail) == ("bad_credential", "The credential is not valid here; sign in again.")


# Tokens of a provider


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
async def test_a_providers_token_is_its_subject(by_provider: Authenticator, algorithm: str) -> None:
    token = pair(algorithm, algorithm).sign(claims())
    assert (await by_provider.authenticate(with_bearer(token))).subject == "ana"


def _public_key(key: KeyPair, encoding: Encoding) -> bytes:
    return key.private.public_key().public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)


RSA = pair("RS256", "RS256")
CONFUSIONS: dict[str, Callable[[], str]] = {
    "HS256 with the public PEM": lambda: forged(HS256 | {"kid": "RS256"}, claims(), key=_public_key(RSA, Encoding.PEM)),
    "HS256 with the public DER": lambda: forged(HS256 | {"kid": "RS256"}, claims(), key=_public_key(RSA, Encoding.DER)),
    "HS256 with the published key": lambda: forged(
        HS256 | {"kid": "RS256"}, claims(), key=json.dumps(RSA.public).encode()
    ),
    "RS256 with the public PEM": lambda: forged(
        {"alg": "RS256", "kid": "RS256"}, claims(), key=_public_key(RSA, Encoding.PEM)
    ),
    "RS256 with the secret": lambda: forged({"alg": "RS256", "kid": "RS256"}, claims(), key=SECRET.encode()),
    "not signed": lambda: forged({"alg": "none", "kid": "RS256"}, claims()),
    "another algorithm than the key's": lambda: jwt.encode(claims(), RSA.private, "PS256", {"kid": "RS256"}),
    "another kind of key": lambda: pair("ES256", "ES256").sign(claims(), kid="RS256"),
    "another key of that name": lambda: pair("RS256", "stranger").sign(claims(), kid="RS256"),
    "a key of its own": lambda: pair("RS256", "stranger").sign(
        claims(), kid="RS256", jwk=pair("RS256", "stranger").public
    ),
    "a key from elsewhere": lambda: pair("RS256", "stranger").sign(
        claims(), jku="http://evil.example/keys", x5u="http://evil.example/x"
    ),
    "a name that is a list": lambda: forged({"alg": "RS256", "kid": ["RS256"]}, claims(), key=b"x"),
    "a name that is an object": lambda: forged({"alg": "RS256", "kid": {"a": 1}}, claims(), key=b"x"),
    "no name among several": lambda: jwt.encode(claims(), RSA.private, "RS256"),
    "a path for a name": lambda: RSA.sign(claims(), kid="../../dev/null"),
    "another customer of the provider": lambda: RSA.sign(claims(aud="another app")),
    "another issuer": lambda: RSA.sign(claims(iss="https://evil.example")),
    "no audience": lambda: RSA.sign(claims(aud=None)),
}


@pytest.mark.parametrize("token", CONFUSIONS.values(), ids=CONFUSIONS.keys())
@pytest.mark.parametrize("secret", [None, SecretStr(SECRET)], ids=["provider", "provider and secret"])
async def test_keys_are_not_taken_for_what_they_are_not(
    provider: Provider, token: Callable[[], str], secret: SecretStr | None
) -> None:
    provider.keys = [RSA.public, pair("ES256", "ES256").public]
    by = authenticator(jwks_url=provider.url, jwt_secret=secret, **NAMED)
    assert (await refusal(by, with_bearer(token()))).code == "bad_credential"
    assert set(provider.asked) <= {"/keys.json"}
    await by.aclose()


async def test_secret_key_and_provider_may_stand_side_by_side(provider: Provider) -> None:
    provider.keys = [RSA.public]
    by = authenticator(jwks_url=provider.url, jwt_secret=SecretStr(SECRET), api_keys=SecretStr(f"{KEY}:carl"), **NAMED)
    given = (signed(sub="ana"), RSA.sign(claims(sub="bob")), KEY)
    assert [(await by.authenticate(with_bearer(one))).subject for one in given] == ["ana", "bob", "carl"]
    await by.aclose()


async def test_a_flood_of_strange_keys_asks_the_provider_once(provider: Provider, by_provider: Authenticator) -> None:
    for number in range(50):
        token = forged({"alg": "RS256", "kid": f"strange {number}"}, claims(), key=b"x")
        assert (await refusal(by_provider, with_bearer(token))).code == "bad_credential"
    assert len(provider.asked) == 1


async def test_tokens_that_no_key_could_fit_ask_nobody(provider: Provider, by_provider: Authenticator) -> None:
    for token in (signed(), "nonsense", forged({"alg": "none"}, claims()), "x" * 100_000):
        await refusal(by_provider, with_bearer(token))
    assert provider.asked == []


async def test_a_provider_that_is_away_is_not_the_callers_fault(provider: Provider) -> None:
    by = authenticator(jwks_url=provider.url, **NAMED)
    with pytest.raises(Unavailable) as refused:
        await by.authenticate(with_bearer(RSA.sign(claims())))
    assert refused.value.retry_after
    await by.aclose()


# Nobody has to sign in


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8000", "127.0.0.1:8000", "127.1.2.3", "[::1]:8000", "LOCALHOST"]
)
async def test_on_open_loopback_everyone_is_the_owner(host: str) -> None:
    assert await authenticator().authenticate(Headers({"host": host})) == Principal("owner", None)


@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example", "192.168.1.7",
     "0.0.0.0", "[::]", "[", "evil.example@localhost.", "2130706433"],
)  # fmt: skip
async def test_a_rebound_name_does_not_reach_an_open_gateway(host: str) -> None:
    with pytest.raises(Forbidden) as refused:
        await authenticator().authenticate(Headers({"host": host}))
    assert refused.value.code == "forbidden_host"


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://localhost:3000", True),
        ("http://127.0.0.1:5173", True),
        ("https://[::1]", True),
        ("http://localhost:8000", True),
        ("https://evil.example", False),
        ("http://localhost.evil.example", False),
        ("http://localhost:3000.evil.example", False),
        ("http://evil.example/http://localhost:3000", False),
        ("http://localhost:3000\n", False),
        ("null", False),
        ("file://", False),
        ("", False),
    ],
)
async def test_a_foreign_page_does_not_reach_an_open_gateway(origin: str, allowed: bool) -> None:
    headers = Headers({"host": "localhost:8000", "origin": origin})
    if allowed:
        assert (await authenticator().authenticate(headers)).subject == "owner"
        return
    with pytest.raises(Forbidden) as refused:
        await authenticator().authenticate(headers)
    assert refused.value.code == "forbidden_origin"
    assert "FREYA_ALLOWED_ORIGINS" in refused.value.detail


async def test_named_origins_replace_those_of_this_machine_but_not_its_own_page() -> None:
    by = authenticator(allowed_origins=("https://cockpit.example",))
    for origin in ("https://cockpit.example", "http://localhost:8000"):
        assert await by.authenticate(Headers({"host": "localhost:8000", "origin": origin}))
    with pytest.raises(Forbidden):
        await by.authenticate(Headers({"host": "localhost:8000", "origin": "http://localhost:3000"}))


async def test_where_one_signs_in_host_and_origin_say_nothing() -> None:
    by = authenticator(api_keys=SecretStr(f"{KEY}:ana"))
    headers = {"host": "freya.example", "origin": "https://other.example", "authorization": f"Bearer {KEY}"}
    assert (await by.authenticate(Headers(headers))).subject == "ana"
    assert (await refusal(by, Headers({"host": "localhost:8000"}))).code == "missing_credential"
