"""Which of Firestore's failures pass by waiting, how long that is tried, and what a person does about the others."""

import asyncio
import random
import time
from dataclasses import dataclass
from typing import Protocol

import grpc
from google.api_core.exceptions import GoogleAPICallError
from google.auth.exceptions import GoogleAuthError, TransportError

from migration.documents import SourceError

PASSING = frozenset(
    {
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.UNKNOWN,
    }
)
ROLE = "Give the account the role `Cloud Datastore Viewer`, or log in: gcloud auth application-default login."
NAMES = "Check the project's and the database's name: gcloud firestore databases list --project PROJECT."
AGAIN = "Nothing is lost: run the same command again, it goes on where it stopped."
ADVICE = {
    grpc.StatusCode.PERMISSION_DENIED: ("Firestore refuses access to the project", f"{ROLE} {NAMES}"),
    grpc.StatusCode.UNAUTHENTICATED: ("Firestore does not accept the credentials", ROLE),
    grpc.StatusCode.NOT_FOUND: ("there is no such project or database", NAMES),
    grpc.StatusCode.INVALID_ARGUMENT: ("Firestore does not accept the query", f"{NAMES} Check this machine's clock."),
}


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds: how long nothing may come, and the first and the longest pause between two attempts."""

    total: float = 180.0
    first: float = 0.2
    longest: float = 15.0


class Where(Protocol):
    @property
    def parent(self) -> str: ...
    @property
    def emulator(self) -> str | None: ...


class Waiting:
    """One row of failures without a document in between."""

    def __init__(self, patience: Patience) -> None:
        self._patience, self._pause = patience, patience.first
        self._end = time.monotonic() + patience.total

    async def after(self, error: Exception | None, place: Where) -> None:
        """Waits before the next attempt; raises SourceError where there is none. No error: an answer broke off."""
        passing = _passes(error)
        if not passing or time.monotonic() + self._pause > self._end:
            raise refusal(error, place.parent, emulator=place.emulator is not None) from error
        await asyncio.sleep(self._pause * random.uniform(0.5, 1.0))
        self._pause = min(self._pause * 2, self._patience.longest)


def _passes(error: Exception | None) -> bool:
    if isinstance(error, GoogleAuthError):
        return isinstance(error, TransportError)
    code = _code(error)
    return code is None or code in PASSING


def _code(error: Exception | None) -> grpc.StatusCode | None:
    if isinstance(error, GoogleAPICallError):
        return error.grpc_status_code
    return error.code() if isinstance(error, grpc.aio.AioRpcError) else None


def refusal(error: Exception | None, place: str, *, emulator: bool) -> SourceError:
    """What a person can do; never Firestore's own text, which may quote a document."""
    if isinstance(error, GoogleAuthError) and not isinstance(error, TransportError):
        return SourceError("there are no valid credentials for Firestore", place=place, advice=ROLE)
    code = _code(error)
    if code in ADVICE:
        message, advice = ADVICE[code]
        return SourceError(message, place=place, advice=advice)
    name = code.name if code else "no answer"
    if not _passes(error):
        return SourceError(f"Firestore refuses to be read ({name})", place=place, advice=NAMES)
    where = "the emulator" if emulator else "Firestore"
    advice = f"Is {where} up and reachable from here? {AGAIN}"
    return SourceError(f"{where} does not answer ({name})", place=place, advice=advice, retryable=True)
