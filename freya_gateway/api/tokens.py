"""Reading a JWT: whose it is and until when. The key's kind pins the algorithm, never the token.

The times are checked here, because the library would read a clock of its own.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt

MOST_TOKEN_CHARACTERS = 8192
MOST_SUBJECT_CHARACTERS = 255
LEEWAY = timedelta(seconds=30)  # between the issuer's clock and this one


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls: `subject` names the user; from `expires_at` on, the credential is refused."""

    subject: str
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """What a token must say, as far as it is set."""

    issuer: str | None = None
    audience: str | None = None
    leeway: timedelta = LEEWAY


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    """A key and the one algorithm that it is for."""

    key: Any
    algorithm: str


def unverified_header(token: str) -> dict[str, Any]:
    """Only for finding the key. Raises jwt.InvalidTokenError."""
    if len(token) > MOST_TOKEN_CHARACTERS:
        raise jwt.DecodeError("longer than any token")
    try:
        return jwt.get_unverified_header(token)
    except RecursionError:
        raise jwt.DecodeError("nested too deeply") from None


def read_claims(token: str, key: VerifyingKey, rules: Rules, now: datetime) -> dict[str, Any]:
    """The claims of a valid token. Raises jwt.PyJWTError, ExpiredSignatureError among them."""
    if len(token) > MOST_TOKEN_CHARACTERS:
        raise jwt.DecodeError("longer than any token")
    claims = jwt.decode(
        token,
        key.key,
        algorithms=[key.algorithm],
        issuer=rules.issuer,
        audience=rules.audience,
        options={
            "require": ["exp", "sub"],
            "verify_aud": rules.audience is not None,
            "verify_exp": False,
            "verify_nbf": False,
            "verify_iat": False,
            "enforce_minimum_key_length": True,
        },
    )
    _check_times(claims, rules.leeway, now)
    _check_subject(claims["sub"])
    return claims


def time_of(claims: dict[str, Any], name: str) -> datetime:
    """The point in time that a claim names. Raises jwt.DecodeError."""
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise jwt.DecodeError(f"{name} is no time")
    try:
        return datetime.fromtimestamp(value, UTC)
    except (OverflowError, OSError, ValueError) as error:
        raise jwt.DecodeError(f"{name} is out of range") from error


def _check_times(claims: dict[str, Any], leeway: timedelta, now: datetime) -> None:
    for name in ("nbf", "iat"):
        if name in claims and time_of(claims, name) - now > leeway:
            raise jwt.ImmatureSignatureError(name)
    if now - time_of(claims, "exp") >= leeway:
        raise jwt.ExpiredSignatureError("exp")


def _check_subject(subject: str) -> None:
    """PostgreSQL stores no NUL and no lone surrogate, and a name in a log holds no line break."""
    if not (0 < len(subject) <= MOST_SUBJECT_CHARACTERS and subject.isprintable()):
        raise jwt.InvalidTokenError("sub is not 1 to 255 printable characters")
