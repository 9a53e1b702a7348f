"""The migrations build the schema that the models describe, from nothing and back, on the server in use."""

import asyncio

import asyncpg
import pytest
from alembic.config import Config

from alembic import command
from freya_gateway.db import embedded, memory_models, models, schema

TABLES = {
    "users", "streams", "conversations", "turns", "messages", "segments", "topics", "facts", "fact_sources",
    "fact_events", "fact_tombstones", "stream_events", "prompt_traces",
    "memory_work", "collection_stats", "term_stats", "obeyed_commands",
}  # fmt: skip


@pytest.fixture
def empty_url(server_url: str) -> str:
    url = embedded.create_database(server_url, "freya_migrations")
    schema.downgrade(url, "base")
    return url


def config_for(url: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(schema.migrations_folder()))
    config.attributes["url"] = url
    return config


def test_models_and_migrations_agree(empty_url: str) -> None:
    schema.upgrade(empty_url)
    command.check(config_for(empty_url))


async def _tables(url: str) -> set[str]:
    connection = await asyncpg.connect(url)
    rows = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    await connection.close()
    return {row["tablename"] for row in rows} - {"alembic_version"}


def test_up_makes_every_table_and_down_leaves_none(empty_url: str) -> None:
    schema.upgrade(empty_url)
    assert asyncio.run(_tables(empty_url)) == TABLES
    assert schema.current_revision(empty_url) == schema.head_revision()
    schema.downgrade(empty_url, "base")
    assert asyncio.run(_tables(empty_url)) == set()
    schema.upgrade(empty_url)
    assert asyncio.run(_tables(empty_url)) == TABLES


def test_every_table_is_a_users(database_url: str) -> None:
    """No table without a user, and no reference between two that could cross users."""
    assert memory_models.Fact.metadata is models.User.metadata
    for table in models.User.metadata.sorted_tables:
        if table.name == "users":
            continue
        assert "user_id" in table.columns, table.name
        for key in table.foreign_key_constraints:
            assert "user_id" in key.column_keys, f"{table.name}: {key.name}"
