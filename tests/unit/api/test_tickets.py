"""Tickets for EventSource: short, for the stream only, and never more than the credential that they stand for."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import jwt
import pytest
from pydantic import SecretStr

from freya_gateway.api.auth import TICKET_AUDIENCE, TICKET_SECONDS, Authenticator
from freya_gateway.api.tokens import Principal
from freya_gateway.errors import Unauthenticated
from freya_gateway.settings import Settings
from tests.unit.api.provider import AUDIENCE, ISSUER, NOW, claims, forged, with_bearer

SECRET = "unit-tests-0123456789abcdefghijklmnopqrstuvwxyz"
KEY = "ana-key-0123456789abcdef"
ANA = Principal("ana", NOW + timedelta(hours=1))
TICKET_CLAIMS = {"sub": "ana", "aud": TICKET_AUDIENCE, "exp": NOW.timestamp() + TICKET_SECONDS}


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def authenticator(clock: Clock | None = None, **values: Any) -> Authenticator:
    settings = Settings(_env_file=None, **values)  # pyright: ignore[reportCallIssue]
    return Authenticator(settings, clock or Clock())


def by_secret(clock: Clock | None = None) -> Authenticator:
    return authenticator(clock, jwt_secret=SecretStr(SECRET))


def refusal(by: Authenticator, ticket: str) -> str:
    with pytest.raises(Unauthenticated) as refused:
        by.verify_ticket(ticket)
    return refused.value.code


def test_a_ticket_is_its_holder_and_knows_when_their_credential_ends() -> None:
    by = by_secret()
    ticket = by.issue_ticket(ANA)
    assert ticket.expires_in == TICKET_SECONDS
    assert by.verify_ticket(ticket.ticket) == ANA


def test_a_key_never_ends_and_neither_does_a_stream_of_it() -> None:
    by = authenticator(api_keys=SecretStr(f"{KEY}:ana"))
    assert by.verify_ticket(by.issue_ticket(Principal("ana", None)).ticket) == Principal("ana", None)


def test_event_source_may_come_back_with_it_within_its_minute() -> None:
    clock = Clock()
    by = by_secret(clock)
    ticket = by.issue_ticket(ANA).ticket
    for _ in range(3):
        clock.passes(19)
        assert by.verify_ticket(ticket) == ANA
    clock.passes(3)
    assert refusal(by, ticket) == "expired_ticket"


def test_a_ticket_ends_with_the_credential() -> None:
    clock = Clock()
    by = by_secret(clock)
    ticket = by.issue_ticket(Principal("ana", NOW + timedelta(seconds=7.5)))
    assert ticket.expires_in == 7
    clock.passes(8)
    assert refusal(by, ticket.ticket) == "expired_ticket"


def test_a_credential_that_just_ended_gets_a_ticket_that_opens_nothing() -> None:
    by = by_secret()
    ticket = by.issue_ticket(Principal("ana", NOW - timedelta(seconds=1)))
    assert ticket.expires_in == 0
    assert refusal(by, ticket.ticket) == "expired_ticket"


async def test_a_ticket_is_no_credential_and_a_credential_no_ticket() -> None:
    by = by_secret()
    with pytest.raises(Unauthenticated) as refused:
        await by.authenticate(with_bearer(by.issue_ticket(ANA).ticket))
    assert refused.value.code == "bad_credential"
    assert refusal(by, jwt.encode(claims(aud=TICKET_AUDIENCE), SECRET, "HS256")) == "bad_ticket"


async def test_a_key_is_no_ticket() -> None:
    assert refusal(authenticator(api_keys=SecretStr(f"{KEY}:ana")), KEY) == "bad_ticket"


FORGED: dict[str, Callable[[str], str]] = {
    "nothing": lambda ticket: "",
    "nonsense": lambda ticket: "nonsense",
    "dots": lambda ticket: "..",
    "NUL": lambda ticket: ticket + "\x00",
    "half a character": lambda ticket: ticket + "\ud800",
    "huge": lambda ticket: ticket + "x" * 100_000,
    "not signed": lambda ticket: forged({"alg": "none"}, TICKET_CLAIMS),
    "signed with the secret itself": lambda ticket: forged({"alg": "HS256"}, TICKET_CLAIMS, key=SECRET.encode()),
    "signed with nothing": lambda ticket: forged({"alg": "HS256"}, TICKET_CLAIMS, key=b""),
    "another's name in it": lambda ticket: _with_other_claims(ticket),
    "a header without an end": lambda ticket: forged(b"[" * 5000, TICKET_CLAIMS, key=b"x"),
}


def _with_other_claims(ticket: str) -> str:
    header, _, signature = ticket.split(".")
    return f"{header}.{forged({}, TICKET_CLAIMS | {'sub': 'bob'}).split('.')[1]}.{signature}"


@pytest.mark.parametrize("make", FORGED.values(), ids=FORGED.keys())
def test_what_is_no_ticket_of_this_gateway_is_refused(make: Callable[[str], str]) -> None:
    by = by_secret()
    assert refusal(by, make(by.issue_ticket(ANA).ticket)) == "bad_ticket"


@pytest.mark.parametrize(
    "values",
    [{"jwt_secret": SecretStr(SECRET)}, {"api_keys": SecretStr(f"{KEY}:ana,{KEY[::-1]}:bob")}],
    ids=["secret", "keys"],
)
def test_replicas_take_each_others_tickets(values: dict[str, Any]) -> None:
    ticket = authenticator(**values).issue_ticket(ANA).ticket
    assert authenticator(**values).verify_ticket(ticket) == ANA


def test_gateways_with_other_secrets_do_not() -> None:
    ticket = by_secret().issue_ticket(ANA).ticket
    assert refusal(authenticator(jwt_secret=SecretStr(SECRET[::-1])), ticket) == "bad_ticket"
    assert refusal(authenticator(), ticket) == "bad_ticket"


def test_who_holds_the_api_keys_cannot_write_tickets_for_a_providers_users() -> None:
    keys = SecretStr(f"{KEY}:ana")
    ticket = authenticator(api_keys=keys).issue_ticket(Principal("user of the provider", None)).ticket
    beside: dict[str, Any] = {"jwks_url": "https://id.example/keys", "jwt_issuer": ISSUER, "jwt_audience": AUDIENCE}
    assert refusal(authenticator(api_keys=keys, **beside), ticket) == "bad_ticket"
