"""Topics on their way in, and the segments of messages that name them, by title or by document id."""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from freya_gateway.db import restoring, topics
from freya_gateway.db.backup import BackupTopic
from freya_gateway.db.messages import storable
from freya_gateway.db.query import Connection, Query, Row
from migration.mapper import piece_at
from migration.mapping import MappedTopic, Settings
from migration.provenance import provenance
from migration.staging import Note, Owner, document_of, note, unnote
from migration.tally import Tally
from migration.values import digest

LONGEST_TITLE, LONGEST_KEYWORD, LONGEST_SUMMARY = 120, 60, 4000  # characters; all of it stays in `source`
# A title that the user gave.
EDITED = "coalesce(t.source ->> 'title' = 'user', false)"
LOADED = Query(f"""
SELECT l.id, t.id IS NOT NULL AS is_there, {EDITED} AS edited, o.id IS NULL AS gone,
       o.id IS NOT NULL AND (l.checksum, l.digest) IS DISTINCT FROM (o.checksum, d.digest) AS changed
FROM freya_migration.loaded l
LEFT JOIN topics t ON t.user_id = l.user_id AND t.id = l.id
LEFT JOIN freya_migration.outcomes o
    ON o.origin = l.origin AND o.id = l.id AND o.owner = l.owner AND o.kind = 'topic'
LEFT JOIN freya_migration.documents d ON d.origin = o.origin AND d.id = o.document
WHERE l.origin = :origin AND l.owner = :owner AND l.kind = 'topic'
""")
WANTED = Query("""
SELECT o.id, o.place, o.checksum, d.digest, d.path, d.body, l.id IS NULL AS is_new FROM freya_migration.outcomes o
JOIN freya_migration.documents d ON d.origin = o.origin AND d.id = o.document
LEFT JOIN freya_migration.loaded l ON l.origin = o.origin AND l.owner = o.owner AND l.id = o.id
WHERE o.origin = :origin AND o.owner = :owner AND o.kind = 'topic' ORDER BY o.said_at NULLS FIRST, o.document, o.place
""")
MENTIONS = Query("""
SELECT m.seq, o.topics FROM freya_migration.outcomes o JOIN messages m ON m.user_id = :user_id AND m.id = o.id
WHERE o.origin = :origin AND o.owner = :owner AND o.kind = 'message' AND cardinality(o.topics) > 0
""")
THERE = Query("SELECT id FROM topics WHERE user_id = :user_id")
SEGMENTS = Query("""
SELECT DISTINCT s.first_seq, s.topic_id FROM freya_migration.loaded l
JOIN messages m ON m.user_id = l.user_id AND m.id = l.id
JOIN segments s ON s.user_id = m.user_id AND s.first_seq = m.segment
WHERE l.origin = :origin AND l.owner = :owner AND l.user_id = :user_id AND l.kind = 'message' ORDER BY s.first_seq
""")
# Of topics that no message names, when they were last used; else the time of what names them.
RESET = Query("""
UPDATE topics t SET first_at = n.at, last_at = n.at
FROM unnest(cast(:ids AS uuid[]), cast(:moments AS timestamptz[])) AS n (id, at)
WHERE t.user_id = :user_id AND t.id = n.id AND NOT EXISTS (
    SELECT 1 FROM segments s WHERE s.user_id = t.user_id AND s.topic_id = t.id)
""")
TIMES = Query("""
UPDATE topics t SET first_at = s.first_at, last_at = s.last_at FROM (
    SELECT topic_id, min(first_at) AS first_at, max(last_at) AS last_at FROM segments
    WHERE user_id = :user_id AND topic_id = ANY(cast(:ids AS uuid[])) GROUP BY topic_id
) s WHERE t.user_id = :user_id AND t.id = s.topic_id AND (t.first_at, t.last_at) <> (s.first_at, s.last_at)
""")


@dataclass(slots=True)
class Topics:
    """Brings the topics of one user to what is wanted, in the caller's transaction, which has locked the user."""

    connection: Connection
    owner: Owner
    settings: Settings
    tally: Tally

    async def load(self, *, messages_changed: bool) -> None:
        place = {"origin": self.owner.origin, "owner": self.owner.name}
        out = await self._take_out(await LOADED.all(self.connection, **place))
        names: dict[str, UUID] = {}
        times: dict[UUID, datetime] = {}
        new = 0
        for row in await WANTED.all(self.connection, **place):
            name, topic = await self._topic(row)
            names |= {_plain(name): row["id"], _plain(topic.title): row["id"]}
            times |= {row["id"]: topic.last_at} if topic.last_at else {}
            new += row["is_new"]
        self.tally.added["topic"] += new - out
        if names and (new or messages_changed):
            await self._assign(names, times)

    async def _assign(self, names: dict[str, UUID], times: dict[UUID, datetime]) -> None:
        """Segments of imported messages belong to what these name; a topic's times are those of its segments."""
        place = {"origin": self.owner.origin, "owner": self.owner.name, "user_id": self.owner.user_id}
        rows = await SEGMENTS.all(self.connection, **place)
        mentions = {row["seq"]: row["topics"] for row in await MENTIONS.all(self.connection, **place)}
        found = _of_segments(mentions, [row["first_seq"] for row in rows], names)
        known = {row["id"] for row in await THERE.all(self.connection, user_id=self.owner.user_id)}
        ours = {None, *names.values()}
        assigned = {row["first_seq"]: found.get(row["first_seq"]) for row in rows if row["topic_id"] in ours}
        there = {first: topic if topic in known else None for first, topic in assigned.items()}
        await restoring.assign(self.connection, self.owner.user_id, there)
        ids = list(times)
        await RESET.execute(self.connection, user_id=self.owner.user_id, ids=ids, moments=[times[i] for i in ids])
        await TIMES.execute(self.connection, user_id=self.owner.user_id, ids=list({*names.values()}))

    async def _take_out(self, loaded: Sequence[Row]) -> int:
        """Takes out what is gone or comes in again; how many the latter are."""
        out: list[UUID] = []
        again = 0
        for row in loaded:
            if not (row["gone"] or row["changed"]):
                continue
            if row["edited"] or not row["is_there"]:
                self.tally.keep("topic", row["id"])
                continue
            await topics.delete(self.connection, self.owner.user_id, row["id"])
            self.tally.removed["topic"] += row["gone"]
            self.tally.changed["topic"] += row["changed"]
            again += row["changed"]
            out.append(row["id"])
        await unnote(self.connection, self.owner, out)
        return again

    async def _topic(self, row: Row) -> tuple[str, MappedTopic]:
        """Puts the topic in, if it is not there yet; its document's id, and what it says."""
        document = document_of(row["path"], row["body"])
        piece = piece_at(self.settings, document, row["place"])
        assert isinstance(piece.outcome, MappedTopic)
        if row["is_new"]:
            source = provenance(self.owner.origin, document.path, piece)
            topic = _topic(row["id"], piece.outcome)
            await restoring.add_topics(self.connection, self.owner.user_id, [topic], source=source)
            noted = Note(row["id"], row["checksum"], row["digest"])
            await note(self.connection, self.owner, [noted], kind="topic")
        return "" if piece.pointer else document.path[-1], piece.outcome


def _of_segments(mentions: dict[int, Sequence[str]], firsts: Sequence[int], names: dict[str, UUID]) -> dict[int, UUID]:
    """The topic that most messages of a segment name, by the segment's first seq."""
    counts: defaultdict[int, Counter[UUID]] = defaultdict(Counter)
    for seq, said in mentions.items():
        place = bisect_right(firsts, seq)
        known = {names[_plain(name)] for name in said if _plain(name) in names}
        if place and known:
            counts[firsts[place - 1]].update(known)
    return {first: max(found, key=lambda topic: (found[topic], str(topic))) for first, found in counts.items()}


def checksum(mapped: MappedTopic) -> bytes:
    """Of what a topic says."""
    return digest([mapped.title, *mapped.keywords, mapped.summary, mapped.last_at and mapped.last_at.isoformat()])


def _topic(identity: UUID, mapped: MappedTopic) -> BackupTopic:
    at = mapped.last_at or datetime.now(UTC)
    keywords = tuple(_line(word, LONGEST_KEYWORD) for word in mapped.keywords)
    title, summary = _line(mapped.title, LONGEST_TITLE), _line(mapped.summary, LONGEST_SUMMARY)
    return BackupTopic(identity, title, keywords, summary, "current", None, at, at)


def _line(text: str, longest: int) -> str:
    return " ".join(storable(text)[0].split())[:longest]


def _plain(name: str) -> str:
    return " ".join(name.split()).casefold()
