"""Who calls: an API key, a JWT of a shared secret or of an identity provider, or a ticket; on open loopback, the owner.

An open gateway believes only what a browser's page cannot forge: a loopback Host (a rebound DNS name shows its own) and
an allowed Origin.
"""

import hashlib
import hmac
import ipaddress
import math
from dataclasses import dataclass
from datetime import timedelta
from secrets import token_bytes
from urllib.parse import urlsplit

import jwt
from loguru import logger
from starlette.datastructures import Headers

from freya_gateway.api.jwks import ALGORITHMS, KeySet
from freya_gateway.api.origins import is_allowed
from freya_gateway.api.tokens import Principal, Rules, VerifyingKey, read_claims, time_of, unverified_header
from freya_gateway.clock import Now
from freya_gateway.errors import Forbidden, Unauthenticated
from freya_gateway.settings import Settings

OWNER = Principal("owner", None)
TICKET_SECONDS = 60
TICKET_AUDIENCE = "freya-stream"
TICKET_RULES = Rules(audience=TICKET_AUDIENCE, leeway=timedelta(0))


@dataclass(frozen=True, slots=True)
class Ticket:
    """What opens a stream in a URL, for `expires_in` seconds."""

    ticket: str
    expires_in: int


class Authenticator:
    """Turns a credential into a Principal, or refuses: 401 for the credential, 403 on an open gateway."""

    def __init__(self, settings: Settings, now: Now) -> None:
        self._settings = settings
        self._now = now
        self._users_by_digest = [(_digest(key.encode()), user) for key, user in settings.users_by_key.items()]
        secret = settings.jwt_secret
        self._secret = VerifyingKey(secret.get_secret_value(), "HS256") if secret else None
        self._keys = KeySet(settings.jwks_url) if settings.jwks_url else None
        self._rules = Rules(settings.jwt_issuer, settings.jwt_audience)
        self._ticket_key = VerifyingKey(_ticket_key(settings), "HS256")

    async def authenticate(self, headers: Headers) -> Principal:
        """The caller of a request. Raises Unauthenticated, Forbidden or Unavailable."""
        if not self._settings.authenticates:
            return self._owner(headers)
        credential = _bearer(headers)
        user = self._user_of_key(credential)
        return Principal(user, None) if user is not None else await self._user_of_token(credential)

    def issue_ticket(self, principal: Principal) -> Ticket:
        """A ticket that ends with the credential at the latest, and remembers when that will be.

        It may be used more than once in its time: EventSource comes back with the URL that it was given.
        """
        now = self._now()
        end = now + timedelta(seconds=TICKET_SECONDS)
        claims: dict[str, str | float] = {"sub": principal.subject, "aud": TICKET_AUDIENCE}
        if principal.expires_at is not None:
            end = min(end, principal.expires_at)
            claims["until"] = principal.expires_at.timestamp()
        claims["exp"] = end.timestamp()
        ticket = jwt.encode(claims, self._ticket_key.key, self._ticket_key.algorithm)
        return Ticket(ticket, max(0, math.floor((end - now).total_seconds())))

    def verify_ticket(self, ticket: str) -> Principal:
        """Whose ticket it is. Raises Unauthenticated."""
        try:
            claims = read_claims(ticket, self._ticket_key, TICKET_RULES, self._now())
            return Principal(claims["sub"], time_of(claims, "until") if "until" in claims else None)
        except jwt.ExpiredSignatureError:
            detail = "The ticket has expired; get another from POST /v1/stream/tickets."
            raise Unauthenticated("expired_ticket", detail) from None
        except (jwt.PyJWTError, ValueError):
            detail = "The ticket is not valid; get one from POST /v1/stream/tickets."
            raise Unauthenticated("bad_ticket", detail) from None

    async def aclose(self) -> None:
        if self._keys is not None:
            await self._keys.aclose()

    def _owner(self, headers: Headers) -> Principal:
        host = headers.get("host", "")
        if not _loopback(host):
            detail = "Nobody has to sign in here, so only http://localhost and http://127.0.0.1 are answered."
            raise Forbidden("forbidden_host", detail)
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host and not is_allowed(origin, self._settings):
            raise Forbidden("forbidden_origin", "Pages of this origin may not call; name it in FREYA_ALLOWED_ORIGINS.")
        return OWNER

    def _user_of_key(self, credential: str) -> str | None:
        """Compares with every key, whichever fits, so that the time taken tells nothing."""
        given = _digest(credential.encode("latin-1"))  # the bytes that came
        found: str | None = None
        for digest, user in self._users_by_digest:
            found = user if hmac.compare_digest(digest, given) else found
        return found

    async def _user_of_token(self, token: str) -> Principal:
        try:
            key = await self._key_for(token)
            claims = read_claims(token, key, self._rules, self._now())
            return Principal(claims["sub"], time_of(claims, "exp") + self._rules.leeway)
        except jwt.ExpiredSignatureError:
            raise Unauthenticated("expired_credential", "The token has expired; sign in again.") from None
        except (jwt.PyJWTError, ValueError, OverflowError) as error:
            logger.info("credential refused", reason=type(error).__name__)
            raise Unauthenticated("bad_credential", "The credential is not valid here; sign in again.") from None

    async def _key_for(self, token: str) -> VerifyingKey:
        header = unverified_header(token)
        algorithm = str(header.get("alg"))
        if algorithm == "HS256" and self._secret is not None:
            return self._secret
        if algorithm in ALGORITHMS and self._keys is not None:
            key = await self._keys.find(header.get("kid"))
            if key is not None:
                return key
        raise jwt.InvalidKeyError("no key for this token")


def _bearer(headers: Headers) -> str:
    scheme, _, credential = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not credential.strip():
        raise Unauthenticated("missing_credential", "Send `authorization: Bearer` with a JWT or an API key.")
    return credential.strip()


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _loopback(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _ticket_key(settings: Settings) -> bytes:
    """The same in every replica, without a setting of its own, where that is safe.

    Who knows all API keys is every user that they name; beside an identity provider, there would be others. So with
    FREYA_JWKS_URL a ticket is good only in the process that issued it, unless FREYA_JWT_SECRET is set as well.
    """
    if settings.jwt_secret is not None:
        material = settings.jwt_secret.get_secret_value().encode()
    elif settings.users_by_key and settings.jwks_url is None:
        material = repr(sorted(settings.users_by_key.items())).encode()
    else:
        material = token_bytes(32)
    return hmac.digest(material, b"freya-stream ticket 1", "sha256")
