"""What can go wrong in one attempt, and whether and when the same model is asked again.

Codes and times only: a provider's message may quote the user's words, so none of it gets here.
"""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import httpx2

from freya_gateway.errors import ModelError
from freya_gateway.llm.chunks import ErrorObject

RETRIED_STATUSES = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS})
# A 429 that waiting does not cure, and what a gateway reports in mid-stream with status 200.
REFUSALS = frozenset(
    {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "access_terminated", "invalid_api_key",
     "model_not_found", "context_length_exceeded", "invalid_request_error", "authentication_error", "permission_error"}
)  # fmt: skip
ERROR_STATUSES = frozenset(str(status.value) for status in HTTPStatus if status >= HTTPStatus.BAD_REQUEST)
RATE_LIMITS = frozenset({"rate_limit_exceeded", "rate_limit_error", "requests", "tokens"})


class AttemptError(ModelError):
    """One attempt failed. `again` allows another with the same model, not before `retry_after` seconds if given."""

    def __init__(
        self, code: str, *, retryable: bool = True, again: bool = True, retry_after: float | None = None
    ) -> None:
        super().__init__(code, retryable=retryable)
        self.again = again
        self.retry_after = retry_after
        self.status: int | None = None


def from_response(response: httpx2.Response, *, code: object, kind: object) -> AttemptError:
    """The failure that an answer with an error status means; `code` and `kind` are those of its error object."""
    failure = _from_status(response.status_code, {_word(code), _word(kind)})
    failure.status = response.status_code
    failure.retry_after = retry_after(response.headers, now=datetime.now(UTC))
    if response.headers.get("x-should-retry") == "false":
        failure.again = False
    return failure


def from_error(error: ErrorObject | str) -> AttemptError:
    """The failure that an error object in mid-stream means. Some carry an HTTP status as their code."""
    if isinstance(error, str):
        return AttemptError("upstream_error")
    words = {_word(error.code), _word(error.type)}
    if words & RATE_LIMITS:
        return _from_status(HTTPStatus.TOO_MANY_REQUESTS, words)
    return _from_status(next(map(int, words & ERROR_STATUSES), HTTPStatus.BAD_GATEWAY), words)


def retry_after(headers: httpx2.Headers, *, now: datetime) -> float | None:
    """Seconds that the provider asks to wait: `retry-after-ms`, or `retry-after` in seconds or as a date."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            return max(0.0, float(headers[name]) * unit)
        except (KeyError, ValueError):
            continue
    try:
        date = parsedate_to_datetime(headers["retry-after"])
    except (KeyError, ValueError):
        return None
    return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - now).total_seconds())


def _from_status(status: int, words: set[str]) -> AttemptError:
    if words & REFUSALS or (status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in RETRIED_STATUSES):
        return AttemptError("rejected", retryable=False, again=False)
    return AttemptError("rate_limited" if status == HTTPStatus.TOO_MANY_REQUESTS else "upstream_error")


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, str | int) else ""
