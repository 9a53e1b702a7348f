"""From staged documents to Freya's messages, topics and facts, user by user, each in one transaction: all or nothing.

What is loaded is brought to what the documents and the mapping say now; what the app has edited or deleted since stays
as the app left it, and is told.
"""

from typing import Any
from uuid import UUID

from freya_gateway.db import facts, memory_work, turns, users
from freya_gateway.db.query import Connection, Query
from migration.facts import Facts
from migration.mapping import Settings
from migration.messages import Messages, NotEmpty
from migration.progress import Step, Tell
from migration.staging import Note, Owner, Target, analyze, note
from migration.tally import Tally
from migration.topics import Topics

OWNERS = Query("""
SELECT owner FROM freya_migration.outcomes WHERE origin = :origin AND outcome = 'mapped'
UNION SELECT owner FROM freya_migration.loaded WHERE origin = :origin ORDER BY owner
""")
# Users with messages of their own, for whom more are to come.
FOREIGN = Query("""
SELECT u.id FROM users u WHERE EXISTS (SELECT 1 FROM messages m WHERE m.user_id = u.id)
AND EXISTS (SELECT 1 FROM freya_migration.outcomes o
            WHERE o.origin = :origin AND o.owner = u.subject AND o.kind = 'message')
AND NOT EXISTS (SELECT 1 FROM freya_migration.loaded l
                WHERE l.origin = :origin AND l.user_id = u.id AND l.kind = 'message')
LIMIT 20
""")
IS_USER = Query("SELECT EXISTS (SELECT 1 FROM users WHERE subject = :owner)")


class Loader:
    """Loads what has been mapped."""

    def __init__(self, target: Target, origin: str, settings: Settings, tell: Tell) -> None:
        self._target = target
        self._origin = origin
        self._settings = settings
        self._tell = tell
        self.tally = Tally()

    async def load(self) -> Tally:
        """What was done. Raises NotEmpty."""
        self._tell(Step("loading"))
        async with self._target.transaction() as connection:
            await analyze(connection, "freya_migration.loaded")
            owners = await OWNERS.all(connection, origin=self._origin)
            foreign = await FOREIGN.all(connection, origin=self._origin)
            if foreign and not self._settings.policy.append:
                raise NotEmpty(", ".join(str(row["id"]) for row in foreign))
        for row in owners:
            async with self._target.transaction() as connection:
                await connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
                await self._load_user(connection, row["owner"])
        return self.tally

    async def _load_user(self, connection: Connection, name: str) -> None:
        owner = Owner(self._origin, name, await self._user(connection, name))
        await facts.lock(connection, owner.user_id)
        await memory_work.lock(connection, owner.user_id)
        await turns.lock(connection, owner.user_id)
        means: tuple[Any, ...] = (connection, owner, self._settings, self.tally)
        changed = await Messages(*means).load(self._tell)
        await Topics(*means).load(messages_changed=changed)
        await Facts(*means).load()

    async def _user(self, connection: Connection, name: str) -> UUID:
        is_new = not await IS_USER.value(connection, owner=name)
        user_id = await users.ensure_user(connection, name)
        if is_new:
            made = Note(user_id, b"", b"")
            await note(connection, Owner(self._origin, name, user_id), [made], kind="user")
        return user_id
