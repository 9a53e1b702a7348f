"""subject -> user id, remembered: an id never changes, so a known user costs no query."""

from collections import OrderedDict
from uuid import UUID

from freya_gateway.db import users as store
from freya_gateway.db.engine import Database

MOST_REMEMBERED = 10_000


class KnownUsers:
    """Users by the subject of their credential, made at the first sight of one."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._ids: OrderedDict[str, UUID] = OrderedDict()

    async def id_of(self, subject: str) -> UUID:
        known = self._ids.get(subject)
        if known is not None:
            self._ids.move_to_end(subject)
            return known
        async with self._database.transaction() as connection:
            found = await store.ensure_user(connection, subject)
        self._ids[subject] = found
        if len(self._ids) > MOST_REMEMBERED:
            self._ids.popitem(last=False)
        return found
