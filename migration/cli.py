"""The command `freya-migrate`. Exit codes: 0 clean, 1 fatal, 2 usage, 3 rejects, 4 verification failed, 130 stopped."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from freya_gateway.db.engine import Database
from freya_gateway.errors import ConfigurationError, Unavailable
from freya_gateway.settings import load_settings
from migration import pipeline
from migration.documents import SourceError
from migration.load import NotEmpty
from migration.mapping import MappingError, Policy, load_mapping
from migration.sources import open_source
from migration.staging import Held

FATAL, USAGE = 1, 2
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
) -> None:
    """Extract, map, load and verify; the same command again goes on where it was stopped."""
    policy = Policy(owner, infer_roles, zone, local_as_utc)
    try:
        rules = load_mapping(mapping)
        rules = rules.model_copy(update={"skip": (*rules.skip, *(skip or []))})
        url = load_settings().database_url
    except (MappingError, ConfigurationError) as error:
        raise _end(str(error), USAGE) from error
    if url is None:
        raise _end("set DATABASE_URL to Freya's database", USAGE)
    try:
        job = pipeline.Job(open_source(source, project=project), rules, policy)
        report = asyncio.run(_run(url.get_secret_value(), job, dry_run=dry_run))
    except SourceError as error:
        raise _end(f"{error} {error.place} {error.advice}".strip(), FATAL) from error
    except (Held, pipeline.Stopped, NotEmpty, Unavailable) as error:
        raise _end(str(error), FATAL) from error
    _show(report)
    raise typer.Exit(report.exit_code)


async def _run(url: str, job: pipeline.Job, *, dry_run: bool) -> pipeline.Report:
    database = Database(url)
    try:
        return await pipeline.run(database, job, dry_run=dry_run)
    finally:
        await job.source.aclose()
        await database.aclose()


def _show(report: pipeline.Report) -> None:
    table = Table("collection", "outcome", "why", "documents")
    for item in report.sums:
        table.add_row(item.collection, item.outcome, item.code, str(item.count))
    console = Console(highlight=False)
    console.print(table)
    for fault in report.faults:
        console.print(Text(f"{fault.code}: {fault.row}", "bold red"), soft_wrap=True)
    console.print(f"{report.documents} documents, {report.added} messages added, {len(report.faults)} faults")


def _end(message: str, code: int) -> typer.Exit:
    Console(stderr=True).print(Text("freya-migrate: ", "bold red") + Text(message), soft_wrap=True)
    return typer.Exit(code)


def main() -> None:
    """The console script."""
    commands()
