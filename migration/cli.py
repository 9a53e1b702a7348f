"""The command `freya-migrate`. Exit codes: 0 clean, 1 fatal, 2 usage, 3 rejects, 4 verification failed, 130 stopped."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from freya_gateway.db.engine import Database
from freya_gateway.errors import ConfigurationError, Unavailable
from freya_gateway.settings import load_settings
from migration import pipeline, staging
from migration.documents import SourceError
from migration.load import NotEmpty
from migration.mapping import MappingError, Policy, load_mapping
from migration.rollback import roll_back
from migration.sources import open_source
from migration.staging import Held

FATAL, USAGE, INTERRUPTED = 1, 2, 130
TELL_SECONDS = 1.0  # between two lines of progress
T = TypeVar("T")
commands = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@commands.callback()
def top() -> None:
    """Bring a predecessor's Firestore data into Freya's PostgreSQL."""


@commands.command()
def run(  # noqa: PLR0913, PLR0917
    source: Annotated[str, typer.Argument(help="firestore://PROJECT, an export's folder, or a dump.")],
    mapping: Annotated[Path | None, typer.Option(help="A mapping file instead of the default one.")] = None,
    owner: Annotated[str | None, typer.Option(help="The user of what names nobody.")] = None,
    zone: Annotated[str | None, typer.Option("--time-zone", help="Zone of times without one.")] = None,
    local_as_utc: Annotated[bool, typer.Option(help="Stored times are local, taken for UTC.")] = False,
    infer_roles: Annotated[bool, typer.Option(help="Messages without a role: by turns, and marked.")] = False,
    skip: Annotated[list[str] | None, typer.Option(help="A top-level collection to leave.")] = None,
    project: Annotated[str | None, typer.Option(help="The project, where a dump does not say it.")] = None,
    dry_run: Annotated[bool, typer.Option(help="Do everything, then undo it.")] = False,
    report_file: Annotated[Path | None, typer.Option("--report", help="Write the result there, as JSON.")] = None,
) -> None:
    """Extract, map, load and verify; the same command again goes on where it was stopped."""
    policy = Policy(owner, infer_roles, zone, local_as_utc)
    try:
        rules = load_mapping(mapping)
        rules = rules.model_copy(update={"skip": (*rules.skip, *(skip or []))})
    except MappingError as error:
        raise _end(str(error), USAGE) from error
    url = _database_url()
    try:
        job = pipeline.Job(open_source(source, project=project), rules, policy, _Progress())
        report = asyncio.run(_run(url, job, dry_run=dry_run))
    except SourceError as error:
        raise _end(f"{error} {error.place} {error.advice}".strip(), FATAL) from error
    except (Held, pipeline.Stopped, NotEmpty, Unavailable) as error:
        raise _end(str(error), FATAL) from error
    except KeyboardInterrupt as error:
        raise _end("stopped; the same command goes on from here", INTERRUPTED) from error
    _show(report)
    if report_file is not None:
        report_file.write_text(json.dumps(asdict(report) | {"exit_code": report.exit_code}, indent=2), "utf-8")
    raise typer.Exit(report.exit_code)


@commands.command()
def status() -> None:
    """What was migrated into the database, from where, and what became of it."""
    for found in _looked(_reports):
        console = Console(highlight=False)
        read = "read to its end" if found.complete else "not read to its end: give the same command again"
        console.print(Text(f"{found.origin}: {read}", "bold"))
        _show_sums(found.report)
        counts = ", ".join(f"{count} {kind}" for kind, count in found.loaded.items())
        console.print(f"{found.report.documents} documents; loaded: {counts or 'nothing'}")


@commands.command()
def verify() -> None:
    """Compare what is in the database with what was read, also days later. Exit code 4 where something differs."""
    code = 0
    for found in _looked(_reports):
        _show(found.report)
        code = max(code, 4 if found.report.faults else 0)
    raise typer.Exit(code)


@commands.command()
def rejects() -> None:
    """The documents that could not be taken, one JSON object a line: origin, path, code."""
    for line in _looked(_rejects):
        typer.echo(line)


@commands.command()
def rollback(origin: Annotated[str, typer.Argument(help="PROJECT/DATABASE, as `status` shows it.")]) -> None:
    """Take out what was migrated from a project. What the app made, and facts and topics that were edited, stay."""

    async def rolled_back(database: Database) -> list[tuple[str, int]]:
        async with database.reading() as connection:
            if origin not in {run.origin for run in await staging.runs(connection)}:
                raise _end(f"nothing was migrated from {origin!r}; see `freya-migrate status`", USAGE)
        return list((await roll_back(database, origin)).items())

    for kind, count in _looked(rolled_back):
        typer.echo(f"{count} {kind}" + (" stay: they were edited" if kind == "edited" else ""))


class _Progress:
    """A line on the error output, now and then."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._told = time.monotonic()

    def __call__(self, line: str) -> None:
        if time.monotonic() - self._told >= TELL_SECONDS:
            self._told = time.monotonic()
            self._console.print(line, style="dim")


@dataclass(frozen=True, slots=True)
class _Found:
    origin: str
    complete: bool
    report: pipeline.Report
    loaded: dict[str, int]


async def _reports(database: Database) -> list[_Found]:
    found: list[_Found] = []
    async with database.reading() as connection:
        for run in await staging.runs(connection):
            counts = await staging.loaded(connection, run.origin)
            found.append(_Found(run.origin, run.complete, await pipeline.report(database, run.origin), counts))
    return found


async def _rejects(database: Database) -> list[str]:
    async with database.reading() as connection:
        return [
            json.dumps({"origin": run.origin, "path": "/".join(reject.path), "code": reject.code})
            for run in await staging.runs(connection)
            async for reject in staging.rejects(connection, run.origin)
        ]


def _looked(look: Callable[[Database], Awaitable[list[T]]]) -> list[T]:
    """What `look` finds in the database; ends the program where there is none, or nothing was migrated."""

    async def looked(url: str) -> list[T]:
        database = Database(url)
        try:
            return await look(database)
        finally:
            await database.aclose()

    try:
        found = asyncio.run(looked(_database_url()))
    except (Held, Unavailable) as error:
        raise _end(str(error), FATAL) from error
    if not found:
        Console(stderr=True).print("nothing of that kind here")
    return found


def _database_url() -> str:
    try:
        url = load_settings().database_url
    except ConfigurationError as error:
        raise _end(str(error), USAGE) from error
    if url is None:
        raise _end("set DATABASE_URL to Freya's database", USAGE)
    return url.get_secret_value()


async def _run(url: str, job: pipeline.Job, *, dry_run: bool) -> pipeline.Report:
    database = Database(url)
    try:
        return await pipeline.run(database, job, dry_run=dry_run)
    finally:
        await job.source.aclose()
        await database.aclose()


def _show(report: pipeline.Report) -> None:
    _show_sums(report)
    console = Console(highlight=False)
    for fault in report.faults:
        console.print(Text(f"{fault.code}: {fault.row}", "bold red"), soft_wrap=True)
    for loss in report.losses:
        console.print(Text(f"lost before, in the source: {loss.count} {loss.code} ({loss.detail})", "yellow"))
    if report.inferred:
        console.print(
            f"{report.inferred} messages without a role take turns, marked `role_inferred`: look them through"
        )
    console.print(f"{report.documents} documents, {report.added} rows added, {len(report.faults)} faults")


def _show_sums(report: pipeline.Report) -> None:
    table = Table("collection", "outcome", "why", "documents")
    for item in report.sums:
        table.add_row(item.collection, item.outcome, item.code, str(item.count))
    Console(highlight=False).print(table)


def _end(message: str, code: int) -> typer.Exit:
    Console(stderr=True).print(Text("freya-migrate: ", "bold red") + Text(message), soft_wrap=True)
    return typer.Exit(code)


def main() -> None:
    """The console script."""
    commands()
