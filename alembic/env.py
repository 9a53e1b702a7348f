"""Alembic's environment: migrates over asyncpg, the URL from the caller or DATABASE_URL."""

import asyncio
import os

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine

from alembic import context
from freya_gateway.db import memory_models, models
from freya_gateway.db.engine import async_url

assert memory_models.Fact.metadata is models.User.metadata  # both files fill one
METADATA = models.User.metadata
# One lock for all who migrate: two replicas that start together must not both create the tables.
MIGRATION_LOCK = 4_073_215_861


def _url() -> str:
    url = context.config.attributes.get("url") or os.environ.get("DATABASE_URL")
    if not url:
        raise SystemExit("Set DATABASE_URL to the database to migrate, or call `freya db upgrade`.")
    return url


def _migrate(connection: Connection) -> None:
    connection.exec_driver_sql(f"SELECT pg_advisory_lock({MIGRATION_LOCK})")
    connection.commit()
    context.configure(connection=connection, target_metadata=METADATA, compare_server_default=True)
    with context.begin_transaction():
        context.run_migrations()


async def _run() -> None:
    engine = create_async_engine(async_url(_url()))
    try:
        async with engine.connect() as connection:
            await connection.run_sync(_migrate)
    finally:
        await engine.dispose()


if context.is_offline_mode():
    context.configure(dialect_name="postgresql", target_metadata=METADATA, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    asyncio.run(_run())
