"""All that is kept of a user as one document, written while it is read: JSON to keep, or Markdown to read.

The document is of one moment, so one connection is held until its reader has it all. That is bounded: few exports at
once, and PostgreSQL ends a transaction in which nothing is asked for too long.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

import msgspec

from freya_gateway.clock import Now
from freya_gateway.db import exports as store
from freya_gateway.db.backup import FORMAT, VERSION
from freya_gateway.db.engine import Database
from freya_gateway.db.query import Connection
from freya_gateway.errors import Unavailable
from freya_gateway.memory.markdown import markdown

Form = Literal["json", "markdown"]
MOST_AT_ONCE: Final = 2  # of the process: each holds a pooled connection
RETRY_SECONDS: Final = 15

# In the order of the document.
KINDS: Final = {
    "conversations": store.conversations,
    "messages": store.messages,
    "facts": store.facts,
    "tombstones": store.tombstones,
    "topics": store.topics,
    "segments": store.segments,
}


class Exports:
    """Writes exports, MOST_AT_ONCE at a time."""

    def __init__(self, database: Database, now: Now) -> None:
        self._database = database
        self._now = now
        self._open = 0

    async def document(self, user_id: UUID, form: Form) -> AsyncGenerator[bytes, None]:
        """The document in pieces. Raises Unavailable, before the first piece, where too many are being written."""
        if self._open >= MOST_AT_ONCE:
            raise Unavailable(
                "too_many_exports", "Other exports are being written; try again soon.", retry_after=RETRY_SECONDS
            )
        self._open += 1
        try:
            async with self._database.snapshot() as connection:
                write = _json if form == "json" else markdown
                async with aclosing(write(connection, user_id, exported_at=self._now())) as pieces:
                    async for piece in pieces:
                        yield piece
        finally:
            self._open -= 1


async def _json(connection: Connection, user_id: UUID, *, exported_at: datetime) -> AsyncGenerator[bytes, None]:
    account = await store.account(connection, user_id)
    head = msgspec.json.encode({"format": FORMAT, "version": VERSION, "exported_at": exported_at, "account": account})
    yield head[:-1]
    for name, pages in KINDS.items():
        yield b',\n"%s":[' % name.encode()
        comma = b"\n"
        async for page in pages(connection, user_id):
            yield comma + b",\n".join(msgspec.json.encode(record) for record in page)
            comma = b",\n"
        yield b"]"
    yield b"}\n"
