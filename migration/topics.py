"""Topics on their way in, and the segments of messages that name them, by title or by document id."""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

from freya_gateway.db import restoring
from freya_gateway.db.backup import BackupTopic
from freya_gateway.db.messages import storable
from freya_gateway.db.query import Connection, Query
from migration.mapping import MappedTopic, Plan
from migration.provenance import provenance
from migration.staging import document_of, note, unloaded

LONGEST_TITLE, LONGEST_KEYWORD, LONGEST_SUMMARY = 120, 60, 4000  # characters; all of it stays in `source`
# Of topics that no message names, when they were last used; else the time of what names them.
TIMES = Query("""
UPDATE topics t SET first_at = s.first_at, last_at = s.last_at FROM (
    SELECT topic_id, min(first_at) AS first_at, max(last_at) AS last_at FROM segments
    WHERE user_id = :user_id AND topic_id = ANY(cast(:ids AS uuid[])) GROUP BY topic_id
) s WHERE t.user_id = :user_id AND t.id = s.topic_id
""")


@dataclass(slots=True)
class Mentions:
    """Which messages, by seq, name which topics."""

    names: dict[int, Sequence[str]] = field(default_factory=dict[int, Sequence[str]])

    def of_segments(self, firsts: Sequence[int], topics: dict[str, UUID]) -> dict[int, UUID]:
        """The topic that most messages of a segment name, by the segment's first seq."""
        counts: defaultdict[int, Counter[UUID]] = defaultdict(Counter)
        for seq, names in self.names.items():
            place = bisect_right(firsts, seq)
            known = {topics[_plain(name)] for name in names if _plain(name) in topics}
            if place and known:
                counts[firsts[place - 1]].update(known)
        return {first: max(found, key=lambda topic: (found[topic], str(topic))) for first, found in counts.items()}


async def load_topics(connection: Connection, user_id: UUID, owner: str, plan: Plan, mentions: Mentions) -> int:
    """The user's topics that were not loaded yet; how many there were."""
    rows = await unloaded(connection, plan.origin, owner, kind="topic")
    names: dict[str, UUID] = {}
    ids: list[UUID] = []
    for row in rows:
        document = document_of(row["path"], row["body"])
        mapped = plan.outcome(document)
        assert isinstance(mapped, MappedTopic)
        topic = _topic(row["id"], mapped)
        await restoring.add_topics(connection, user_id, [topic], source=provenance(plan.origin, document))
        names |= {_plain(document.path[-1]): topic.id, _plain(mapped.title): topic.id}
        ids.append(topic.id)
    if ids:
        of_segment = mentions.of_segments(await restoring.segments(connection, user_id), names)
        await restoring.assign(connection, user_id, of_segment)
        await TIMES.execute(connection, user_id=user_id, ids=ids)
        await note(connection, plan.origin, user_id, kind="topic", sums=dict.fromkeys(ids, b""))
    return len(rows)


def _topic(identity: UUID, mapped: MappedTopic) -> BackupTopic:
    at = mapped.last_at or datetime.now(UTC)
    keywords = tuple(_line(word, LONGEST_KEYWORD) for word in mapped.keywords)
    title, summary = _line(mapped.title, LONGEST_TITLE), _line(mapped.summary, LONGEST_SUMMARY)
    return BackupTopic(identity, title, keywords, summary, "current", None, at, at)


def _line(text: str, longest: int) -> str:
    return " ".join(storable(text)[0].split())[:longest]


def _plain(name: str) -> str:
    return " ".join(name.split()).casefold()
