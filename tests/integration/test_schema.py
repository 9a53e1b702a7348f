"""A database as a whole: looked at, migrated forward and back, and explained by the doctor."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from freya_gateway import doctor
from freya_gateway.db import embedded, schema
from freya_gateway.errors import ConfigurationError
from freya_gateway.settings import Settings


@pytest.fixture
def empty_url(server_url: str) -> Iterator[str]:
    """A database without the gateway's tables."""
    url = embedded.create_database(server_url, "freya_test_schema")
    yield url
    execute(server_url, "DROP DATABASE freya_test_schema WITH (FORCE)")


def execute(url: str, statement: str) -> None:
    async def run() -> None:
        async with schema.brief_connection(url) as connection:
            await connection.execute(statement)

    asyncio.run(run())


def examined(url: str) -> dict[str, doctor.Finding]:
    settings = Settings(_env_file=None, database_url=url, openai_base_url="http://127.0.0.1:9")  # pyright: ignore[reportCallIssue, reportArgumentType]
    return {finding.subject: finding for finding in doctor.examine(settings)}


def test_a_suitable_server_is_recognised(server_url: str) -> None:
    report = schema.database_report(server_url)
    assert report.suits
    assert report.server_major >= schema.OLDEST_SERVER
    assert abs(report.clock_ahead) < 1


def test_what_cannot_be_reached_is_reported_not_raised() -> None:
    report = schema.database_report("postgresql://freya:hidden@127.0.0.1:9/freya")
    assert report.error is not None
    assert "hidden" not in report.error
    assert not report.suits


def test_a_database_that_does_not_exist_is_named(server_url: str) -> None:
    report = schema.database_report(server_url.replace("/freya?", "/missing?"))
    assert report.error == 'database "missing" does not exist'


def test_migrating_forward_and_back_goes_from_empty_to_current_to_empty(empty_url: str) -> None:
    assert schema.schema_state(schema.current_revision(empty_url)) == "empty"
    schema.upgrade(empty_url)
    assert schema.current_revision(empty_url) == schema.head_revision()
    assert schema.schema_state(schema.current_revision(empty_url)) == "current"
    schema.downgrade(empty_url, "base")
    assert schema.current_revision(empty_url) is None


def test_an_unknown_migration_is_explained(empty_url: str) -> None:
    with pytest.raises(ConfigurationError, match="Cannot migrate to nowhere"):
        schema.upgrade(empty_url, "nowhere")


def test_the_doctor_follows_the_schema(empty_url: str) -> None:
    assert examined(empty_url)["schema"].remedy == "`freya db upgrade`"
    schema.upgrade(empty_url)
    findings = examined(empty_url)
    assert [findings[subject].state for subject in ("database", "schema", "clock")] == ["ok", "ok", "ok"]
    execute(empty_url, "UPDATE alembic_version SET version_num = 'later'")
    assert examined(empty_url)["schema"].remedy == "The database is of a later version: run that version here too."


@pytest.mark.parametrize(
    ("report", "remedy"),
    [
        (schema.DatabaseReport(server_version="14.9", server_major=14), "needs PostgreSQL 15 or later"),
        (
            schema.DatabaseReport(server_major=17, missing_extensions=("unaccent",)),
            "contrib package; missing: unaccent",
        ),
    ],
)
def test_an_unsuitable_server_gets_a_remedy(report: schema.DatabaseReport, remedy: str) -> None:
    assert not report.suits
    assert remedy in doctor.suitability("postgresql://somewhere/freya", report).remedy


def test_clocks_apart_get_a_remedy() -> None:
    assert doctor.clock(schema.DatabaseReport(clock_ahead=-7.5)).detail == "7.5 s apart from the database's"
    assert doctor.clock(schema.DatabaseReport(clock_ahead=-7.5)).state == "wrong"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgres://ada:s%40crt@db.example:6432/freya?sslmode=require", "postgres://ada:***@db.example:6432/freya"),
        ("postgresql://ada@[::1]/freya?password=s%40crt", "postgresql://ada@[::1]/freya"),
        ("postgresql://ada@/freya?host=/run/postgres", "postgresql://ada@/run/postgres/freya"),
    ],
)
def test_a_shown_url_has_no_password(url: str, shown: str) -> None:
    assert schema.masked_url(url) == shown


def test_a_password_is_taken_out_of_a_command_line() -> None:
    bare, password = schema.split_password("postgresql://ada:s%40crt@db.example/freya?sslmode=require")
    assert bare == "postgresql://ada@db.example/freya?sslmode=require"
    assert password == "s@crt"
    assert schema.split_password(bare) == (bare, None)


def test_the_migrations_are_found_beside_the_package() -> None:
    assert (schema.migrations_folder() / "versions").is_dir()
    assert schema.migrations_folder() == Path(__file__).parents[2] / "alembic"
