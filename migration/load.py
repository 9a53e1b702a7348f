"""From staged documents to Freya's messages and facts, user by user, each user in one transaction: all of it or none.

What was loaded once is never written again: what the app changed or deleted since stays as it is.
"""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any
from uuid import UUID

from freya_gateway.db import restoring, users
from freya_gateway.db.imports import ImportedConversation, ImportedMessage, insert_history
from freya_gateway.db.messages import storable
from freya_gateway.db.query import Connection, Query
from freya_gateway.llm.tokens import count_tokens
from freya_gateway.memory.indexing import index_batch
from migration.facts import load_facts
from migration.mapping import MappedMessage, Plan
from migration.provenance import provenance
from migration.staging import Target, document_of, id_of, note
from migration.topics import Mentions, load_topics
from migration.values import decode, digest

PIECE = 1000  # messages held in memory at a time
TITLES, LONGEST_TITLE = ("title", "name"), 200  # fields; characters
OWNERS = Query("""
SELECT DISTINCT owner FROM freya_migration.outcomes WHERE origin = :origin AND outcome = 'mapped' ORDER BY owner
""")
IS_USER = Query("SELECT EXISTS (SELECT 1 FROM users WHERE subject = :owner)")
HISTORY = Query("SELECT EXISTS (SELECT 1 FROM messages WHERE user_id = :user_id)")
OURS = Query("""
SELECT EXISTS (SELECT 1 FROM freya_migration.loaded WHERE origin = :origin AND user_id = :user_id AND kind = 'message')
""")
# A silence of six hours parts what names no conversation; `place` is the message's place in its conversation.
ORDER = Query("""
CREATE TEMP TABLE loading ON COMMIT DROP AS
WITH new AS (
    SELECT o.id, o.conversation, o.said_at, o.role,
           o.conversation IS NULL AND o.said_at - lag(o.said_at) OVER w > interval '6 hours' AS parted
    FROM freya_migration.outcomes o
    WHERE o.origin = :origin AND o.owner = :owner AND o.kind = 'message' AND NOT EXISTS (
        SELECT 1 FROM freya_migration.loaded l WHERE l.origin = o.origin AND l.id = o.id)
    WINDOW w AS (PARTITION BY o.conversation ORDER BY o.said_at, o.id)
), parts AS (
    SELECT *, count(*) FILTER (WHERE parted) OVER (PARTITION BY conversation ORDER BY said_at, id) AS part FROM new
), placed AS (
    SELECT *, row_number() OVER p AS place, first_value(id) OVER p AS first, first_value(said_at) OVER p AS began
    FROM parts WINDOW p AS (PARTITION BY conversation, part ORDER BY said_at, id)
)
SELECT row_number() OVER (ORDER BY began, first, place) AS n, * FROM placed
""")
NEXT = Query("""
SELECT l.*, d.path, d.body FROM loading l JOIN freya_migration.documents d ON d.origin = :origin AND d.id = l.id
WHERE l.n > :after ORDER BY l.n LIMIT :piece
""")
PARENTS = Query("""
SELECT body FROM freya_migration.documents WHERE origin = :origin AND id = ANY(cast(:ids AS uuid[]))
""")


class NotEmpty(Exception):
    """The user has messages of their own already: a history cannot be put in front of them."""


class Loader:
    """Loads what has been mapped."""

    def __init__(self, target: Target, plan: Plan, tell: Callable[[str], None]) -> None:
        self._target = target
        self._tell = tell
        self._plan = plan
        self._origin = plan.origin

    async def load(self) -> int:
        """Messages, topics and facts that were added. Raises NotEmpty."""
        async with self._target.transaction() as connection:
            owners = [row["owner"] for row in await OWNERS.all(connection, origin=self._origin)]
        added = 0
        for owner in owners:
            async with self._target.transaction() as connection:
                added += await self._load_user(connection, owner)
        return added

    async def _load_user(self, connection: Connection, owner: str) -> int:
        user_id = await self._user(connection, owner)
        await connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        await connection.execute("DROP TABLE IF EXISTS loading")  # of the user before, in a dry run
        await ORDER.execute(connection, origin=self._origin, owner=owner)
        done, last, mentions = 0, 0, Mentions()
        while rows := await NEXT.all(connection, origin=self._origin, after=done, piece=PIECE):
            if not done:
                await self._refuse_foreign(connection, user_id)
            last = await self._add(connection, user_id, owner, rows)
            first = last - len(rows) + 1
            mentions.names |= {first + n: names for n, row in enumerate(rows) if (names := self._mapped(row).topics)}
            done = rows[-1]["n"]
            self._tell(f"loading: {done:,} messages of user {user_id}")
        if done:
            await restoring.move_on(connection, user_id, done_seq=last)
        topics = await load_topics(connection, user_id, owner, self._plan, mentions)
        return done + topics + await load_facts(connection, user_id, owner, self._plan)

    async def _user(self, connection: Connection, owner: str) -> UUID:
        is_new = not await IS_USER.value(connection, owner=owner)
        user_id = await users.ensure_user(connection, owner)
        if is_new:
            await note(connection, self._origin, user_id, kind="user", sums={user_id: b""})
        return user_id

    async def _refuse_foreign(self, connection: Connection, user_id: UUID) -> None:
        theirs = await HISTORY.value(connection, user_id=user_id)
        if theirs and not await OURS.value(connection, origin=self._origin, user_id=user_id):
            raise NotEmpty(f"user {user_id} has messages already; a history cannot be put among them")

    async def _add(self, connection: Connection, user_id: UUID, owner: str, rows: Sequence[Any]) -> int:
        """A piece of the history; a conversation may go on in the next one."""
        conversations: list[ImportedConversation] = []
        for _, group in groupby(rows, key=lambda row: row["first"]):
            members = list(group)
            conversations.append(await self._conversation(connection, owner, members))
        first, last = await insert_history(connection, user_id, conversations)
        done = first - 1
        while (until := await index_batch(connection, user_id, after=done)) > done:
            done = until
        grouped = {conversation.id: "done" for conversation in conversations}
        await restoring.mark_grouped(connection, user_id, grouped)
        messages = [message for conversation in conversations for message in conversation.messages]
        sums = {message.id: checksum(message.role, message.text, message.said_at) for message in messages}
        await note(connection, self._origin, user_id, kind="message", sums=sums)
        return last

    async def _conversation(self, connection: Connection, owner: str, members: Sequence[Any]) -> ImportedConversation:
        """Under one id, whenever more of it comes: by its name, or else by its first message."""
        name = members[0]["conversation"]
        pointer = str(members[0]["first"]) if name is None else f"{owner}/{name}"
        title = None
        if name is not None:
            homes = (("conversations", name), ("users", owner, "conversations", name))
            ids = [id_of(self._origin, path) for path in homes]
            bodies = await PARENTS.all(connection, origin=self._origin, ids=ids)
            title = next((text for row in bodies if (text := _title(row["body"]))), None)
        source = {"imported": {"conversation": name}}
        messages = [self._message(row) for row in members]
        return ImportedConversation(id_of(self._origin, ("conversation",), pointer), title, messages, source)

    def _message(self, row: Any) -> ImportedMessage:
        document, mapped = document_of(row["path"], row["body"]), self._mapped(row)
        role = mapped.role or ("user" if row["place"] % 2 else "assistant")
        source = provenance(self._origin, document, **({} if mapped.role else {"role_inferred": True}))
        return ImportedMessage(row["id"], role, mapped.text, count_tokens(mapped.text), mapped.said_at, source)

    def _mapped(self, row: Any) -> MappedMessage:
        mapped = self._plan.outcome(document_of(row["path"], row["body"]))
        assert isinstance(mapped, MappedMessage)
        return mapped


def _title(body: bytes) -> str | None:
    """The title in a conversation's document."""
    fields = decode(body)
    title = next((fields[name] for name in TITLES if fields.get(name)), None) if isinstance(fields, dict) else None
    return storable(title)[0].strip()[:LONGEST_TITLE] or None if isinstance(title, str) else None


def checksum(role: str, text: str, said_at: Any) -> bytes:
    """Of what a message says, who said it, and when to the microsecond."""
    return digest([role, text, said_at.isoformat()])
