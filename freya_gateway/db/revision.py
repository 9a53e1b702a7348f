"""The migration that the database is at, read over a connection of the pool."""

from freya_gateway.db.query import Connection, Query

HAS_REVISION = Query("SELECT to_regclass('alembic_version') IS NOT NULL")
REVISION = Query("SELECT version_num FROM alembic_version")


async def read_revision(connection: Connection) -> str | None:
    """None for a database without the gateway's tables."""
    if not await HAS_REVISION.value(connection):
        return None
    return await REVISION.value(connection)
