"""The command `freya-migrate`. Exit codes: 0 clean, 1 fatal, 2 usage, 3 rejects, 4 verification failed, 130 stopped."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.text import Text

from freya_gateway.db.engine import FAILURES, Database
from freya_gateway.db.query import Query
from freya_gateway.errors import ConfigurationError, Unavailable
from freya_gateway.settings import load_settings
from migration import pipeline, show, staging
from migration.compare import compare
from migration.documents import Source, SourceError
from migration.inspection import inspect as look_into
from migration.mapping import MappingError, Policy, Settings, load_mapping
from migration.messages import NotEmpty
from migration.progress import Progress
from migration.rollback import roll_back
from migration.sources import open_source
from migration.staging import Held
from migration.target import NotMigrated, held

DEFAULT = Path("default")
FATAL, USAGE, REJECTS, FAILED, INTERRUPTED = 1, 2, 3, 4, 130
T = TypeVar("T")
commands = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
rejects = typer.Typer(help="The documents that could not be taken.", no_args_is_help=True)
commands.add_typer(rejects, name="rejects")

SourceName = Annotated[str, typer.Argument(help="firestore://PROJECT[/DATABASE], an export's folder, or a dump.")]
Project = Annotated[str | None, typer.Option(help="The project, where a dump does not say it.")]
SourceDatabase = Annotated[str | None, typer.Option(help="Its Firestore database, where a dump does not say it.")]
Template = Annotated[str | None, typer.Option(help="Where documents of a dump without paths stood: users/{id}.")]
MappingFile = Annotated[Path | None, typer.Option(help="A mapping file; `default` is the one that comes with it.")]
OwnerName = Annotated[str | None, typer.Option(help="The user of what names nobody.")]
Zone = Annotated[str | None, typer.Option(help="Zone of times without one, e.g. Europe/Berlin.")]
LocalAsUtc = Annotated[bool | None, typer.Option(help="Stored times are local, taken for UTC.")]
InferRoles = Annotated[bool | None, typer.Option(help="Messages without a role: by turns, and marked.")]
Skip = Annotated[list[str] | None, typer.Option(help="A top-level collection to leave.")]
Append = Annotated[bool | None, typer.Option(help="A history may come after what was said in Freya.")]
DryRun = Annotated[bool, typer.Option(help="Do everything, then undo it.")]
ReportFolder = Annotated[
    Path | None, typer.Option("--report", help="Write the result there: report.json, report.md, …")
]
JsonLog = Annotated[bool, typer.Option(help="Progress as one JSON object a line.")]


@dataclass(frozen=True, slots=True)
class _Options:
    """What the documents are to become, as far as it was given."""

    mapping: Path | None = None
    owner: str | None = None
    zone: str | None = None
    local_as_utc: bool | None = None
    infer_roles: bool | None = None
    skip: tuple[str, ...] = ()
    append: bool | None = None

    def settings(self, before: Settings | None = None) -> Settings:
        """With those of the run before, where nothing else is said. Raises MappingError."""
        if self.mapping is None and before is not None:
            mapping = before.mapping
        else:
            mapping = load_mapping(self.mapping if self.mapping != DEFAULT else None)
        mapping = mapping.model_copy(update={"skip": tuple(dict.fromkeys((*mapping.skip, *self.skip)))})
        known = ("owner", "zone", "local_as_utc", "infer_roles", "append")
        given = {name: value for name in known if (value := getattr(self, name)) is not None}
        policy = (before.policy if before else Policy()).model_copy(update=given)
        policy.check()
        return Settings(mapping=mapping, policy=policy)


@commands.callback()
def top() -> None:
    """Bring a predecessor's Firestore data into Freya's PostgreSQL."""


@commands.command()
def run(  # noqa: PLR0913, PLR0917
    source: SourceName,
    mapping: MappingFile = None,
    owner: OwnerName = None,
    time_zone: Zone = None,
    local_as_utc: LocalAsUtc = None,
    infer_roles: InferRoles = None,
    skip: Skip = None,
    append: Append = None,
    project: Project = None,
    source_database: SourceDatabase = None,
    path_template: Template = None,
    dry_run: DryRun = False,
    report: ReportFolder = None,
    json_log: JsonLog = False,
) -> None:
    """Extract, map, load and verify; the same command again goes on where it was stopped. Options that are not given
    are those of the run before."""
    options = _Options(mapping, owner, time_zone, local_as_utc, infer_roles, tuple(skip or ()), append)

    async def work(database: Database) -> pipeline.Report:
        origin = open_source(source, project=project, database=source_database, path_template=path_template)
        before = await _run_before(database, staging.origin_of(origin))
        settings = options.settings(before and before.settings)
        return await _run(database, origin, settings, _Way(dry_run, report, json_log))

    raise typer.Exit(_shown(_with_database(work)).exit_code)


@commands.command()
def delta(  # noqa: PLR0913, PLR0917
    source: SourceName,
    mapping: MappingFile = None,
    owner: OwnerName = None,
    time_zone: Zone = None,
    local_as_utc: LocalAsUtc = None,
    infer_roles: InferRoles = None,
    skip: Skip = None,
    append: Append = None,
    project: Project = None,
    source_database: SourceDatabase = None,
    path_template: Template = None,
    final: Annotated[bool, typer.Option(help="The last one before the change: GO or NO-GO.")] = False,
    accept_rejects: Annotated[bool, typer.Option(help="GO also with rejects, which you have looked at.")] = False,
    dry_run: DryRun = False,
    report: ReportFolder = None,
    json_log: JsonLog = False,
) -> None:
    """Bring over what has changed in the source since, with the options of the run before where none are given."""
    options = _Options(mapping, owner, time_zone, local_as_utc, infer_roles, tuple(skip or ()), append)

    def opened() -> Source:
        return open_source(source, project=project, database=source_database, path_template=path_template)

    async def work(database: Database) -> tuple[pipeline.Report, list[str]]:
        origin = opened()
        before = await _run_before(database, staging.origin_of(origin))
        if before is None:
            raise _end(f"nothing was migrated from {staging.origin_of(origin)} yet: `freya-migrate run` first", USAGE)
        found = await _run(database, origin, options.settings(before.settings), _Way(dry_run, report, json_log))
        return found, await _reasons(found, opened(), accept_rejects=accept_rejects) if final else []

    found, reasons = _with_database(work)
    code = _shown(found).exit_code
    if final:
        Console(highlight=False).print(Text("NO-GO", "bold red") if reasons else Text("GO", "bold green"))
        for reason in reasons:
            Console(highlight=False).print(reason, soft_wrap=True)
        code = max(code, FAILED if found.faults else REJECTS) if reasons else 0
    raise typer.Exit(code)


async def _reasons(found: pipeline.Report, source: Source, *, accept_rejects: bool) -> list[str]:
    """Why not to go."""
    try:
        count = await source.expected()
    finally:
        await source.aclose()
    reasons = [f"{len(found.faults)} faults"] if found.faults else []
    if found.rejects and not accept_rejects:
        reasons.append(f"{found.rejects} rejected documents: see `freya-migrate rejects list`, or --accept-rejects")
    if count is not None and count != found.documents:
        reasons.append(f"the source has {count} documents by now, {found.documents} were read: is the old app stopped?")
    return reasons


@commands.command()
def inspect(  # noqa: PLR0913, PLR0917
    source: SourceName,
    mapping: MappingFile = None,
    owner: OwnerName = None,
    time_zone: Zone = None,
    infer_roles: InferRoles = None,
    skip: Skip = None,
    project: Project = None,
    source_database: SourceDatabase = None,
    path_template: Template = None,
    json_log: JsonLog = False,
) -> None:
    """What a source holds and what would become of it. Needs no database."""
    options = _Options(mapping, owner, time_zone, None, infer_roles, tuple(skip or ()))

    async def work() -> None:
        origin = open_source(source, project=project, database=source_database, path_template=path_template)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(origin.aclose)
            with Progress(as_json=json_log) as tell:
                found = await look_into(origin, options.settings(), tell)
        show.show_inspection(found)

    _done(work())


@commands.command()
def status() -> None:
    """What was migrated into the database, from where, and what became of it."""

    async def work(database: Database) -> None:
        for before in await _runs(database):
            console = Console(highlight=False)
            read = "read to its end" if before.complete else "not read to its end: give the same command again"
            console.print(Text(f"{before.origin}: {read}", "bold"))
            async with database.transaction() as connection:
                sums = await pipeline.sums(connection, before.origin)
                loaded = await staging.loaded(connection, before.origin)
            show.show_sums(sums)
            counts = ", ".join(f"{count} {kind}" for kind, count in loaded.items())
            console.print(f"{sum(item.count for item in sums)} documents; loaded: {counts or 'nothing'}")

    _with_database(work)


@commands.command()
def verify(  # noqa: PLR0913, PLR0917
    source: Annotated[str | None, typer.Option(help="Read it once more, and compare every document.")] = None,
    project: Project = None,
    source_database: SourceDatabase = None,
    path_template: Template = None,
    report: ReportFolder = None,
    json_log: JsonLog = False,
) -> None:
    """Compare what is in the database with what was read, also days later. Exit code 4 where something differs."""

    async def work(database: Database) -> int:
        code = 0
        for before in await _runs(database):
            found = await pipeline.report(database, before.origin, before.settings)
            if source is not None:
                origin = open_source(source, project=project, database=source_database, path_template=path_template)
                if staging.origin_of(origin) == before.origin:
                    found = await _compared(database, origin, found, json_log=json_log)
            if report is not None:
                await _write(database, found, report)
            code = max(code, FAILED if _shown(found).faults else 0)
        return code

    raise typer.Exit(_with_database(work))


async def _compared(database: Database, source: Source, found: pipeline.Report, *, json_log: bool) -> pipeline.Report:
    async with AsyncExitStack() as stack:
        stack.push_async_callback(source.aclose)
        connection = await stack.enter_async_context(database.reading())
        with Progress(as_json=json_log) as tell:
            return replace(found, faults=[*found.faults, *await compare(connection, source, tell)])


@rejects.command("list")
def list_rejects() -> None:
    """One JSON object a line: origin, path, pointer, code."""
    _list(staging.REJECTS)


@rejects.command()
def retry(  # noqa: PLR0913, PLR0917
    mapping: MappingFile = None,
    owner: OwnerName = None,
    time_zone: Zone = None,
    local_as_utc: LocalAsUtc = None,
    infer_roles: InferRoles = None,
    skip: Skip = None,
    append: Append = None,
    dry_run: DryRun = False,
    report: ReportFolder = None,
    json_log: JsonLog = False,
) -> None:
    """Map once more what was read, with other options: what was rejected comes in. The source is not read again."""
    options = _Options(mapping, owner, time_zone, local_as_utc, infer_roles, tuple(skip or ()), append)

    async def work(database: Database) -> int:
        code = 0
        for before in await _runs(database):
            if not before.complete:
                raise _end(f"{before.origin} was not read to its end: give the same `run` command again", USAGE)
            settings = options.settings(before.settings)
            found = await _run(database, before.origin, settings, _Way(dry_run, report, json_log))
            code = max(code, _shown(found).exit_code)
        return code

    raise typer.Exit(_with_database(work))


@commands.command()
def inferred() -> None:
    """The messages whose speaker was inferred, for review: path, pointer, role and time, one JSON object a line."""
    _list(staging.INFERRED)


@commands.command()
def rollback(
    origin: Annotated[str, typer.Argument(help="PROJECT/DATABASE, as `status` shows it.")], dry_run: DryRun = False
) -> None:
    """Take out what was migrated from a project. What the app made, and facts and topics that were edited, stay."""

    async def work(database: Database) -> None:
        async with held(database, undo=dry_run) as target:
            counts = await roll_back(target, origin)
        for kind, count in counts.items():
            typer.echo(f"{count} {kind}" + (" stay: they were edited" if kind == "edited" else ""))
        if not counts:
            typer.echo(f"nothing of {origin} is here; `freya-migrate status` shows what is")

    _with_database(work)


@dataclass(frozen=True, slots=True)
class _Way:
    dry_run: bool
    report: Path | None
    json_log: bool


async def _run(database: Database, source: Source | str, settings: Settings, way: _Way) -> pipeline.Report:
    """From a source, or with what was read of that origin before."""
    async with AsyncExitStack() as stack:
        if isinstance(source, str):
            origin, reader = source, None
        else:
            origin, reader = staging.origin_of(source), source
            stack.push_async_callback(source.aclose)
        tell = stack.enter_context(Progress(as_json=way.json_log))
        job = pipeline.Job(origin, reader, settings, tell)
        found = await pipeline.run(database, job, dry_run=way.dry_run)
    if way.report is not None:
        await _write(database, found, way.report)
    return found


async def _write(database: Database, found: pipeline.Report, folder: Path) -> None:
    async with database.reading() as connection:
        prepared = await staging.runs(connection)
        lists = [
            [entry async for entry in staging.listed(connection, found.origin, query)] if prepared else []
            for query in (staging.REJECTS, staging.INFERRED)
        ]
    show.write(folder, found, *lists)


def _shown(found: pipeline.Report) -> pipeline.Report:
    show.show(found)
    return found


def _list(query: Query) -> None:
    async def work(database: Database) -> None:
        for before in await _runs(database):
            async with database.reading() as connection:
                async for entry in staging.listed(connection, before.origin, query):
                    typer.echo(json.dumps(entry))

    _with_database(work)


async def _runs(database: Database) -> list[staging.Run]:
    async with database.reading() as connection:
        found = await staging.runs(connection)
    if not found:
        Console(stderr=True).print("nothing was migrated into this database")
    return found


async def _run_before(database: Database, origin: str) -> staging.Run | None:
    async with database.reading() as connection:
        return next((run for run in await staging.runs(connection) if run.origin == origin), None)


def _with_database(work: Callable[[Database], Awaitable[T]]) -> T:
    """What `work` gives; ends the program with a clear word where it cannot be done."""
    url = _database_url()

    async def worked() -> T:
        database = Database(url, timeout=None)
        try:
            return await work(database)
        finally:
            await database.aclose()

    return _done(worked())


def _done(work: Coroutine[Any, Any, T]) -> T:
    try:
        return asyncio.run(work)
    except MappingError as error:
        raise _end(str(error), USAGE) from error
    except SourceError as error:
        raise _end(f"{error} {error.place} {error.advice}".strip(), FATAL) from error
    except (Held, pipeline.Stopped, NotEmpty, NotMigrated) as error:
        raise _end(str(error), FATAL) from error
    except (Unavailable, *FAILURES) as error:
        said = str(error).partition("\n")[0] or type(error).__name__  # a second line may hold values
        raise _end(f"the database: {said}; check DATABASE_URL, then give the same command again", FATAL) from error
    except KeyboardInterrupt as error:
        raise _end("stopped; the same command goes on from here", INTERRUPTED) from error


def _database_url() -> str:
    try:
        url = load_settings().database_url
    except ConfigurationError as error:
        raise _end(str(error), USAGE) from error
    if url is None:
        raise _end("set DATABASE_URL to Freya's database", USAGE)
    return url.get_secret_value()


def _end(message: str, code: int) -> typer.Exit:
    Console(stderr=True).print(Text("freya-migrate: ", "bold red") + Text(message), soft_wrap=True)
    return typer.Exit(code)


def main() -> None:
    """The console script."""
    commands()
