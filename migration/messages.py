"""Messages on their way in: the oldest first, in conversations, with seqs, segments and statistics like native ones.

What is loaded already is compared with what is wanted now. Where the user has said nothing in Freya yet, a history
that differs is put in anew, in order; else what changed is changed in its place, and what is new comes last.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from uuid import UUID

from freya_gateway.db import indexing, restoring
from freya_gateway.db.folding import fold
from freya_gateway.db.imports import ImportedConversation, ImportedMessage
from freya_gateway.db.messages import storable
from freya_gateway.db.query import Connection, Query, Row
from freya_gateway.llm.tokens import count_tokens
from freya_gateway.memory.indexing import add_history, index_batch
from migration.documents import Document
from migration.fields import Fields, first
from migration.mapper import map_document
from migration.mapping import MappedMessage, Piece, Settings
from migration.progress import Step, Tell
from migration.provenance import encoded, provenance
from migration.removal import drop_empty, is_alone, take_out, take_out_all
from migration.staging import PARENTS, PIECE_BYTES, Note, Owner, analyze, document_of, id_of, note, unnote
from migration.tally import Tally
from migration.values import decode, digest

PIECE = 2000  # messages held in memory at a time
GROWN = 4  # times: then PostgreSQL is told anew how large the tables are, or it plans for empty ones
TITLES, LONGEST_TITLE = ("title", "name"), 200  # fields; characters
# A silence of six hours parts what names no conversation; `turn` is the message's place in its conversation.
WANTED = Query("""
CREATE TEMP TABLE wanted ON COMMIT DROP AS
WITH mine AS (
    SELECT o.id, o.document, o.place, o.part, o.said_at, o.role, o.checksum, d.digest, length(d.body) AS size,
           o.part IS NULL AND o.said_at - lag(o.said_at) OVER w > interval '6 hours' AS parted
    FROM freya_migration.outcomes o
    JOIN freya_migration.documents d ON d.origin = o.origin AND d.id = o.document
    WHERE o.origin = :origin AND o.owner = :owner AND o.kind = 'message'
    WINDOW w AS (PARTITION BY o.part ORDER BY o.said_at, o.document, o.place)
), parts AS (
    SELECT *, count(*) FILTER (WHERE parted) OVER (PARTITION BY part ORDER BY said_at, document, place) AS talk
    FROM mine
), placed AS (
    SELECT *, row_number() OVER p AS turn, first_value(id) OVER p AS first, first_value(said_at) OVER p AS began
    FROM parts WINDOW p AS (PARTITION BY part, talk ORDER BY said_at, document, place)
)
SELECT row_number() OVER (ORDER BY began, first, turn) AS n, id, document, place, said_at, checksum, digest, size, part,
       role IS NULL AS inferred, coalesce(role, CASE turn % 2 WHEN 1 THEN 'user' ELSE 'assistant' END) AS role,
       coalesce('named ' || part, first::text) AS conversation
FROM placed
""")
DROP = "DROP TABLE IF EXISTS wanted"  # of the user before, in a dry run
INDEX = "CREATE INDEX ON wanted (n); CREATE INDEX ON wanted (id)"
# Whether it belongs to another conversation. One without a name is called by its first message, whichever that is.
MOVED = "l.part <> w.conversation AND (w.part IS NOT NULL OR l.part LIKE 'named %')"
CHANGED = Query(f"""
SELECT w.id, {MOVED} AS moved, m.seq FROM wanted w
JOIN freya_migration.loaded l ON l.origin = :origin AND l.owner = :owner AND l.id = w.id
LEFT JOIN messages m ON m.user_id = :user_id AND m.id = w.id
WHERE (l.checksum, l.digest, l.role) IS DISTINCT FROM (w.checksum, w.digest, w.role) OR {MOVED}
ORDER BY w.n
""")
GONE = Query("""
SELECT l.id FROM freya_migration.loaded l WHERE l.origin = :origin AND l.owner = :owner AND l.kind = 'message'
AND NOT EXISTS (SELECT 1 FROM wanted w WHERE w.id = l.id)
""")
# `between`: some of what is new belongs before what is there.
NEW = Query("""
SELECT count(*) AS wanted, count(*) FILTER (WHERE l.id IS NULL) AS n,
       coalesce(min(w.n) FILTER (WHERE l.id IS NULL) < max(w.n) FILTER (WHERE l.id IS NOT NULL), false) AS between
FROM wanted w LEFT JOIN freya_migration.loaded l ON l.origin = :origin AND l.owner = :owner AND l.id = w.id
""")
DONE = Query("""
DELETE FROM wanted w USING freya_migration.loaded l WHERE l.origin = :origin AND l.owner = :owner AND l.id = w.id
""")
NEXT = Query("SELECT * FROM wanted WHERE n > :after ORDER BY n LIMIT :piece")
THESE = Query(f"""
SELECT w.*, CASE WHEN {MOVED} THEN w.conversation ELSE l.part END AS held FROM wanted w
JOIN freya_migration.loaded l ON l.origin = :origin AND l.owner = :owner AND l.id = w.id
WHERE w.id = ANY(cast(:ids AS uuid[])) ORDER BY w.n
""")
DOCUMENTS = Query("""
SELECT id, path, body FROM freya_migration.documents WHERE origin = :origin AND id = ANY(cast(:ids AS uuid[]))
""")
HISTORY = Query("""
SELECT EXISTS (SELECT 1 FROM messages WHERE user_id = :user_id) AS is_there, EXISTS (
    SELECT 1 FROM freya_migration.loaded WHERE origin = :origin AND user_id = :user_id AND kind = 'message') AS ours
""")
INDEXED = Query("SELECT done_seq FROM memory_work WHERE user_id = :user_id AND kind = 'index'")
SEQ = Query("SELECT seq FROM messages WHERE user_id = :user_id AND id = :id")
REWRITE = Query("""
UPDATE messages SET role = :role, text = :text, exact = :exact, search_text = :folded, n_tokens = :n_tokens,
    is_question = :is_question, said_at = :said_at, source = cast(:source AS jsonb)
WHERE user_id = :user_id AND id = :id
""")
TIMES = (
    Query("""
    UPDATE segments s SET first_at = m.first_at, last_at = m.last_at FROM (
        SELECT segment, min(said_at) AS first_at, max(said_at) AS last_at FROM messages
        WHERE user_id = :user_id AND segment = ANY(SELECT segment FROM messages WHERE user_id = :user_id
                                                   AND id = ANY(cast(:ids AS uuid[])))
        GROUP BY segment) m
    WHERE s.user_id = :user_id AND s.first_seq = m.segment
    """),
    Query("""
    UPDATE conversations c SET started_at = m.started_at, last_message_at = m.last_at FROM (
        SELECT conversation_id, min(said_at) AS started_at, max(said_at) AS last_at FROM messages
        WHERE user_id = :user_id AND conversation_id = ANY(SELECT conversation_id FROM messages
            WHERE user_id = :user_id AND id = ANY(cast(:ids AS uuid[])))
        GROUP BY conversation_id) m
    WHERE c.user_id = :user_id AND c.id = m.conversation_id
    """),
)


class NotEmpty(Exception):
    """Users have messages of their own already: a history cannot be put in front of them."""

    def __init__(self, users: str) -> None:
        how = "a history cannot be put in front of them; --append puts it after them"
        super().__init__(f"has messages already: user {users}; {how}")


@dataclass(slots=True)
class Messages:
    """Brings the messages of one user to what is wanted, in the caller's transaction, which has locked the user."""

    connection: Connection
    owner: Owner
    settings: Settings
    tally: Tally

    async def load(self, tell: Tell) -> bool:
        """Whether anything was to be done. Raises NotEmpty. What the app has deleted stays deleted."""
        await self.connection.execute(DROP)
        await WANTED.execute(self.connection, **self._place)
        await self.connection.execute(INDEX)
        await analyze(self.connection, "wanted")
        new = await NEW.one(self.connection, **self._place)
        changed = await CHANGED.all(self.connection, **self._place, user_id=self.owner.user_id)
        gone = [row["id"] for row in await GONE.all(self.connection, **self._place)]
        if new["n"] and not self.settings.policy.append:
            await self._refuse_foreign()
        if changed or gone or new["between"]:
            await self._settle(changed, gone)
        self.tally.added["message"] += new["n"]
        await self._fill(new["wanted"], tell)
        return bool(new["n"] or changed or gone)

    @property
    def _place(self) -> dict[str, str]:
        return {"origin": self.owner.origin, "owner": self.owner.name}

    async def _refuse_foreign(self) -> None:
        ids = {"origin": self.owner.origin, "user_id": self.owner.user_id}
        row = await HISTORY.one(self.connection, **ids)
        if row["is_there"] and not row["ours"]:
            raise NotEmpty(str(self.owner.user_id))

    async def _settle(self, changed: Sequence[Row], gone: Sequence[UUID]) -> None:
        """Takes out or rewrites what is not as it is wanted."""
        user_id = self.owner.user_id
        there = [row for row in changed if row["seq"] is not None]
        deleted = [row["id"] for row in changed if row["seq"] is None]
        for identity in deleted:
            self.tally.keep("message", identity)
        self.tally.changed["message"] += len(there)
        self.tally.removed["message"] += len(gone)
        if await is_alone(self.connection, self.owner):
            out = await take_out_all(self.connection, self.owner)
        else:
            out = [row["id"] for row in there if row["moved"]]
            await take_out(self.connection, user_id, [*gone, *out])
            await self._rewrite([row["id"] for row in there if not row["moved"]])
        await drop_empty(self.connection, user_id)
        await unnote(self.connection, self.owner, [*gone, *out])
        rows = await THESE.all(self.connection, **self._place, ids=deleted)
        await note(self.connection, self.owner, [_noted(row, row["held"]) for row in rows], kind="message")

    async def _rewrite(self, ids: Sequence[UUID]) -> None:
        """Changes messages in their place."""
        user_id = self.owner.user_id
        rows: Sequence[Row] = await THESE.all(self.connection, **self._place, ids=list(ids))
        while piece := _light(rows[:PIECE]):
            for message in await self._read(piece):
                await self._rewrite_one(message)
            await note(self.connection, self.owner, [_noted(row, row["held"]) for row in piece], kind="message")
            for query in TIMES:
                await query.execute(self.connection, user_id=user_id, ids=[row["id"] for row in piece])
            rows = rows[len(piece) :]

    async def _rewrite_one(self, message: ImportedMessage) -> None:
        user_id, (plain, exact) = self.owner.user_id, storable(message.text)
        seq = await SEQ.value(self.connection, user_id=user_id, id=message.id)
        await indexing.uncount(self.connection, user_id, seq)
        await REWRITE.execute(
            self.connection,
            user_id=user_id,
            id=message.id,
            role=message.role,
            text=plain,
            exact=exact,
            folded=fold(plain),
            n_tokens=message.n_tokens,
            is_question="?" in plain,
            said_at=message.said_at,
            source=json.dumps(message.source),
        )
        await indexing.count(self.connection, user_id, after=seq - 1, until=seq)

    async def _fill(self, wanted: int, tell: Tell) -> None:
        """Puts in what is not there yet."""
        user_id, done, began, last, counted = self.owner.user_id, 0, 0, 0, 0
        await DONE.execute(self.connection, **self._place)
        while rows := await NEXT.all(self.connection, after=done, piece=PIECE):
            if not done:
                await self._index_all()
            rows = _light(rows)
            pairs = zip(rows, await self._read(rows), strict=True)
            groups = [list(group) for _, group in groupby(pairs, key=lambda pair: pair[0]["conversation"])]
            conversations = [
                await self._conversation(group[0][0], [message for _, message in group]) for group in groups
            ]
            first_seq, last = await add_history(self.connection, user_id, conversations)
            began = began or first_seq
            grouped = {conversation.id: "done" for conversation in conversations}
            await restoring.mark_grouped(self.connection, user_id, grouped)
            await note(self.connection, self.owner, [_noted(row, row["conversation"]) for row in rows], kind="message")
            done = rows[-1]["n"]
            if last >= counted * GROWN:
                counted = last
                for table in ("messages", "segments", "conversations"):
                    await analyze(self.connection, table)
            tell(Step("loading", done, wanted))
        if done:
            await indexing.count(self.connection, user_id, after=began - 1, until=last)
            await restoring.move_on(self.connection, user_id, since=began - 1, done_seq=last)

    async def _index_all(self) -> None:
        """What was said in Freya is in its segments before what comes after it."""
        user_id = self.owner.user_id
        await indexing.lock(self.connection, user_id)
        done: int = await INDEXED.value(self.connection, user_id=user_id)
        while (until := await index_batch(self.connection, user_id, after=done)) > done:
            done = until

    async def _conversation(self, row: Row, messages: Sequence[ImportedMessage]) -> ImportedConversation:
        """Under one id, whenever more of it comes: by its name, or else by its first message."""
        origin, name = self.owner.origin, row["part"] and json.loads(row["part"])
        kept, title = {"conversation": row["part"]}, None
        if name is not None:
            homes = (("conversations", name), ("users", self.owner.name, "conversations", name))
            ids = [id_of(origin, path) for path in homes]
            for parent in await PARENTS.all(self.connection, origin=origin, ids=ids):
                fields = decode(parent["body"])
                assert isinstance(fields, dict)
                title = title or _title(fields)
                own = {key: value for key, value in fields.items() if key not in self.settings.mapping.inside}
                kept["fields"] = encoded(own)
        identity = conversation_id(origin, self.owner.name, row["conversation"])
        return ImportedConversation(identity, title, messages, {"imported": kept})

    async def _read(self, rows: Sequence[Row]) -> list[ImportedMessage]:
        """The messages of rows of `wanted`."""
        ids = list({row["document"] for row in rows})
        found = await DOCUMENTS.all(self.connection, origin=self.owner.origin, ids=ids)
        documents = {row["id"]: document_of(row["path"], row["body"]) for row in found}
        pieces = {identity: map_document(self.settings, document) for identity, document in documents.items()}
        return [self._message(row, documents[row["document"]], pieces[row["document"]] or ()) for row in rows]

    def _message(self, row: Row, document: Document, pieces: Sequence[Piece]) -> ImportedMessage:
        piece = pieces[row["place"]]
        mapped = piece.outcome
        assert isinstance(mapped, MappedMessage)
        marks = {"role_inferred": True} if row["inferred"] else {}
        source = provenance(self.owner.origin, document.path, piece, **marks)
        return ImportedMessage(row["id"], row["role"], mapped.text, count_tokens(mapped.text), mapped.said_at, source)


def _noted(row: Row, conversation: str) -> Note:
    return Note(row["id"], row["checksum"], row["digest"], part=conversation, role=row["role"])


def _light(rows: Sequence[Row]) -> Sequence[Row]:
    """As many of the first rows as have documents that fit into memory together; at least one."""
    seen: set[UUID] = set()
    size = 0
    for place, row in enumerate(rows):
        size += 0 if row["document"] in seen else row["size"]
        seen.add(row["document"])
        if place and size > PIECE_BYTES:
            return rows[:place]
    return rows


def _title(fields: Fields) -> str | None:
    """The title in a conversation's document."""
    title = first(fields, TITLES)
    return storable(title)[0].strip()[:LONGEST_TITLE] or None if isinstance(title, str) else None


def conversation_id(origin: str, owner: str, key: str) -> UUID:
    """`key`: its name, or its first message, as in `wanted`."""
    return id_of(origin, ("conversation",), f"{owner}/{key}")


def checksum(text: str, said_at: datetime) -> bytes:
    """Of what a message says, and when to the microsecond."""
    return digest([text, said_at.isoformat()])
