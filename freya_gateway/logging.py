"""The log: JSON lines on stdout in production, coloured lines on stderr in development, both by loguru.

An exception is shown by its type, its way through the code and its causes. Its words are shown only where they are the
gateway's own or the operating system's: PostgreSQL, Pydantic and others quote the values that they refuse, and those
can be what a user said.
"""

import json
import logging
import re
import sys
from datetime import UTC
from itertools import islice
from traceback import walk_tb
from typing import TYPE_CHECKING, Any

from loguru import logger

from freya_gateway.errors import ConfigurationError, FreyaError, ModelError
from freya_gateway.settings import Settings

if TYPE_CHECKING:
    from loguru import Record

SPEAKING = (FreyaError, ConfigurationError, ModelError, ImportError, NameError, AttributeError, TypeError)
TALKATIVE = ("uvicorn", "uvicorn.error", "uvicorn.access", "aiohttp", "sse_starlette", "asyncio")
FOREIGN_LEVEL = logging.WARNING
SECRETS = re.compile(r"(?i)(?<=://)[^/@\s]+(?=@)|(?<=bearer )\S+|(?<=ticket=)[^&\s]+")
MOST_MESSAGE = 500
MOST_CAUSES = 5
MOST_FRAMES = 40
READABLE = (
    "<green>{time:HH:mm:ss.SSS}</green> <level>{level: <8}</level> {message}"
    "<cyan>{extra[_fields]}</cyan><red>{extra[_trouble]}</red>\n"
)


def configure_logging(settings: Settings) -> None:
    """Sets up the one log of the process; what libraries say to `logging` joins it from WARNING on."""
    sink, line = (sys.stdout, _as_json) if settings.production else (sys.stderr, _as_text)
    logger.remove()
    logger.add(sink, level=settings.log_level, format=line, backtrace=False, diagnose=False)
    logging.basicConfig(handlers=[_Intercepted()], level=FOREIGN_LEVEL, force=True)
    for name in TALKATIVE:
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
        library.setLevel(FOREIGN_LEVEL)


class _Intercepted(logging.Handler):
    """Hands the standard library's records to loguru: their first line, as asyncio quotes exceptions further down."""

    def emit(self, record: logging.LogRecord) -> None:
        line = (record.getMessage().splitlines() or [""])[0][:MOST_MESSAGE]
        known = record.levelname in {"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"}
        level = record.levelname if known else record.levelno
        logger.opt(exception=record.exc_info).bind(logger=record.name).log(level, "{}", SECRETS.sub("***", line))


def _as_json(record: "Record") -> str:
    extra = dict(record["extra"])
    line: dict[str, Any] = {
        "time": record["time"].astimezone(UTC).isoformat(timespec="milliseconds"),
        "level": record["level"].name,
        "message": record["message"],
        "logger": extra.pop("logger", record["name"]),
    }
    line |= {name: extra.pop(name) for name in ("request", "turn") if name in extra}
    if extra:
        line["extra"] = extra
    if (error := _error(record)) is not None:
        line["exception"] = describe(error)
    record["extra"]["_line"] = json.dumps(line, default=_plain)
    return "{extra[_line]}\n"


def _as_text(record: "Record") -> str:
    extra = record["extra"]
    fields = "".join(f" {name}={_plain(value)}" for name, value in extra.items())
    error = _error(record)
    extra["_fields"] = fields.encode("unicode_escape").decode()
    extra["_trouble"] = "" if error is None else "\n" + json.dumps(describe(error), indent=2)
    return READABLE


def _plain(value: object) -> str:
    return type(value).__name__ if isinstance(value, BaseException) else str(value)


def _error(record: "Record") -> BaseException | None:
    return record["exception"].value if record["exception"] else None


def describe(error: BaseException, causes: int = MOST_CAUSES) -> dict[str, Any]:
    """An exception without the values that it met."""
    told: dict[str, Any] = {"type": f"{type(error).__module__}.{type(error).__qualname__}"}
    if isinstance(error, SPEAKING):
        told["message"] = str(error)[:MOST_MESSAGE]
    elif isinstance(error, OSError) and error.strerror:
        told["message"] = error.strerror
    elif isinstance(state := getattr(error, "sqlstate", None), str):
        told["sqlstate"] = state
    told["traceback"] = _way(error)
    if isinstance(error, BaseExceptionGroup) and causes:
        told["exceptions"] = [describe(one, causes - 1) for one in islice(error.exceptions, MOST_CAUSES)]
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None and causes:
        told["cause"] = describe(cause, causes - 1)
    return told


def _way(error: BaseException) -> list[str]:
    frames = [
        f"{frame.f_code.co_filename}:{number} {frame.f_code.co_qualname}"
        for frame, number in walk_tb(error.__traceback__)
    ]
    return frames[-MOST_FRAMES:]
