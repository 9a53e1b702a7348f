"""The errors that a caller can meet, one tree.

    FreyaError                      status, code, title; detail says what to do
    ├── BadRequest           400    the request cannot be read
    ├── Unauthenticated      401    no credential, or not a valid one
    ├── Forbidden            403    a valid credential that may not do this
    ├── NotFound             404    nothing of yours by that name
    ├── Conflict             409    it contradicts what is there
    ├── TooLarge             413    longer than the limit
    ├── UnsupportedMedia     415    not JSON
    ├── Invalid              422    readable, but not acceptable
    ├── TooManyRequests      429    retry_after seconds
    └── Unavailable          503    retry_after seconds
    ConfigurationError              the settings do not allow a start
    ModelError                      the model did not answer (never leaves the process as it is)
    LostClaim                       the memory work is another's now (never leaves its transaction's caller)

Layers below `api` raise these; `api.errors` renders them as `application/problem+json` (RFC 9457).
"""

from http import HTTPStatus


class FreyaError(Exception):
    """A refusal with a machine-readable `code` and a `detail` that tells the caller what to do."""

    status = HTTPStatus.INTERNAL_SERVER_ERROR

    def __init__(
        self, code: str, detail: str, *, retry_after: int | None = None, fields: list[dict[str, str]] | None = None
    ) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.retry_after = retry_after
        self.fields = fields or []


class BadRequest(FreyaError):
    status = HTTPStatus.BAD_REQUEST


class Unauthenticated(FreyaError):
    status = HTTPStatus.UNAUTHORIZED


class Forbidden(FreyaError):
    status = HTTPStatus.FORBIDDEN


class NotFound(FreyaError):
    status = HTTPStatus.NOT_FOUND


class Conflict(FreyaError):
    status = HTTPStatus.CONFLICT


class TooLarge(FreyaError):
    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE


class UnsupportedMedia(FreyaError):
    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE


class Invalid(FreyaError):
    status = HTTPStatus.UNPROCESSABLE_ENTITY


class TooManyRequests(FreyaError):
    status = HTTPStatus.TOO_MANY_REQUESTS


class Unavailable(FreyaError):
    status = HTTPStatus.SERVICE_UNAVAILABLE


class ConfigurationError(Exception):
    """The settings do not allow a start; the message lists every reason and its remedy."""


class ModelError(Exception):
    """The model gave no usable answer: `code` says how, `retryable` whether the same call may work later.

    Codes: `rate_limited`, `upstream_error`, `unreachable`, `timeout`, `rejected`, `broken_stream`,
    `no_finish_reason`, `empty_reply`; of answers that are data also `refused`, `cut_short`, `malformed_answer`.
    The provider's own words never travel with it.
    """

    def __init__(self, code: str, *, retryable: bool) -> None:
        super().__init__(code)
        self.code = code
        self.retryable = retryable


class LostClaim(Exception):
    """Memory work of a kind was taken over meanwhile: raised to roll its result back."""
