"""Proof that what was staged is what can be read back: every message, fact and topic, and the sum of all outcomes.

The documents are mapped once more, and compared row by row with what the tables hold; the checksums per user and table
are sums, so that they do not depend on an order.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from uuid import UUID

from freya_gateway.db.messages import exact_text
from freya_gateway.db.query import Connection, Query, Row
from migration import facts, messages
from migration.decisions import decide_all
from migration.mapping import Settings
from migration.staging import PIECE, Decision, batch

# The fields of a row that the documents decide about, by kind.
MESSAGES = Query("""
SELECT l.id, l.user_id, l.owner, l.role AS said_by, l.part, m.id IS NOT NULL AS is_there, m.role, m.text, m.exact,
       m.said_at, m.conversation_id
FROM freya_migration.loaded l LEFT JOIN messages m ON m.user_id = l.user_id AND m.id = l.id
WHERE l.origin = :origin AND l.kind = 'message' AND l.id = ANY(cast(:ids AS uuid[]))
""")
# What the app has done to a fact since is in its history: then it may say something else.
FACTS = Query(f"""
SELECT l.id, l.user_id, l.owner, l.kind, f.id IS NOT NULL AS is_there, f.statement, f.said_at, {facts.EDITED} AS edited
FROM freya_migration.loaded l LEFT JOIN facts f ON f.user_id = l.user_id AND f.id = l.id
WHERE l.origin = :origin AND l.kind IN ('fact', 'merged') AND l.id = ANY(cast(:ids AS uuid[]))
""")
# What the app says of a topic changes when it is grouped anew or named by the user.
TOPICS = Query("""
SELECT l.id, l.user_id, l.owner, t.id IS NOT NULL AS is_there
FROM freya_migration.loaded l LEFT JOIN topics t ON t.user_id = l.user_id AND t.id = l.id
WHERE l.origin = :origin AND l.kind = 'topic' AND l.id = ANY(cast(:ids AS uuid[]))
""")
SURPLUS = Query("""
SELECT l.id, l.kind FROM freya_migration.loaded l WHERE l.origin = :origin AND l.kind <> 'user' AND NOT EXISTS (
    SELECT 1 FROM freya_migration.outcomes o
    WHERE o.origin = l.origin AND o.owner = l.owner AND o.id = l.id AND o.outcome = 'mapped')
ORDER BY l.id LIMIT 100
""")
UNDECIDED = Query("""
SELECT count(*) FROM freya_migration.documents d WHERE d.origin = :origin AND NOT EXISTS (
    SELECT 1 FROM freya_migration.outcomes o WHERE o.origin = d.origin AND o.document = d.id)
""")
# What holds of every user's memory; each names what breaks it. Seqs have gaps where the user has talked, or deleted.
INVARIANTS = {
    "not_in_a_segment": Query("""
        SELECT 'messages ' || m.id || ' of user ' || m.user_id AS row
        FROM freya_migration.loaded l JOIN messages m ON m.user_id = l.user_id AND m.id = l.id
        LEFT JOIN segments s ON s.user_id = m.user_id AND s.first_seq = m.segment
        WHERE l.origin = :origin AND l.kind = 'message' AND (s.id IS NULL OR s.conversation_id <> m.conversation_id
            OR m.seq NOT BETWEEN s.first_seq AND s.last_seq) ORDER BY 1 LIMIT 100"""),
    "seq_missing": Query("""
        SELECT 'messages of user ' || l.user_id AS row
        FROM freya_migration.loaded l JOIN messages m ON m.user_id = l.user_id AND m.id = l.id
        WHERE l.origin = :origin AND l.kind = 'message' GROUP BY l.user_id
        HAVING max(m.seq) - min(m.seq) + 1 > count(*) AND count(*) = ALL (ARRAY[
            (SELECT count(*) FROM messages a WHERE a.user_id = l.user_id),
            (SELECT count(*) FROM freya_migration.loaded a
             WHERE a.origin = :origin AND a.user_id = l.user_id AND a.kind = 'message')])
        AND NOT EXISTS (SELECT 1 FROM turns t WHERE t.user_id = l.user_id)"""),
    "conversation_times": Query("""
        SELECT DISTINCT 'conversations ' || c.id || ' of user ' || c.user_id AS row
        FROM freya_migration.loaded l JOIN messages m ON m.user_id = l.user_id AND m.id = l.id
        JOIN conversations c ON c.user_id = m.user_id AND c.id = m.conversation_id
        WHERE l.origin = :origin AND l.kind = 'message'
          AND m.said_at NOT BETWEEN c.started_at AND c.last_message_at ORDER BY 1 LIMIT 100"""),
    "not_counted": Query("""
        SELECT 'statistics of user ' || u.user_id AS row
        FROM (SELECT DISTINCT user_id FROM freya_migration.loaded WHERE origin = :origin AND kind = 'message') u
        LEFT JOIN collection_stats c ON c.user_id = u.user_id
        WHERE coalesce(c.n_messages, 0) <> (
            SELECT count(*) FROM messages m WHERE m.user_id = u.user_id AND m.segment IS NOT NULL)"""),
}
MODULUS = 1 << 256


@dataclass(frozen=True, slots=True)
class Fault:
    """What does not agree; `row` names it."""

    code: str
    row: str


@dataclass(frozen=True, slots=True)
class Checksum:
    """Of the rows of one user in one table: from the staged documents, and from what was read back."""

    table: str
    user: str
    rows: int
    staged: str
    target: str


@dataclass(frozen=True, slots=True)
class Verified:
    """`faults`: all that does not agree; empty where all does. What the app has edited is in neither checksum."""

    faults: list[Fault]
    checksums: list[Checksum]


class _Sums:
    def __init__(self) -> None:
        self._sums: defaultdict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0])

    def add(self, table: str, user: str, staged: bytes, target: bytes | None) -> None:
        entry = self._sums[table, user]
        entry[0] += 1
        for place, value in ((1, staged), (2, target or b"")):
            entry[place] = (entry[place] + int.from_bytes(value)) % MODULUS

    def all(self) -> list[Checksum]:
        return [
            Checksum(table, user, rows, f"{staged:064x}"[:16], f"{target:064x}"[:16])
            for (table, user), (rows, staged, target) in sorted(self._sums.items())
        ]


async def verify(connection: Connection, origin: str, settings: Settings) -> Verified:
    """Compares everything; reads all of it once."""
    faults: list[Fault] = []
    sums = _Sums()
    async for decisions in _decided(connection, origin, settings):
        faults += await _compared(connection, origin, decisions, sums)
    undecided = await UNDECIDED.value(connection, origin=origin)
    if undecided:
        faults.append(Fault("not_accounted_for", f"{undecided} documents"))
    surplus = await SURPLUS.all(connection, origin=origin)
    faults += [Fault("surplus", f"{row['kind']} {row['id']}") for row in surplus]
    for code, query in INVARIANTS.items():
        faults += [Fault(code, row["row"]) for row in await query.all(connection, origin=origin)]
    return Verified(faults, sums.all())


async def _decided(connection: Connection, origin: str, settings: Settings) -> AsyncIterator[list[Decision]]:
    after = UUID(int=0)
    while documents := await batch(connection, origin, after=after):
        decided = (decide_all(origin, settings, identity, document) for identity, document in documents)
        pieces = [decision for decisions in decided for decision in decisions or ()]
        for start in range(0, len(pieces), PIECE):
            yield pieces[start : start + PIECE]
        after = documents[-1][0]


async def _compared(connection: Connection, origin: str, decisions: Sequence[Decision], sums: _Sums) -> list[Fault]:
    ids = [decision.id for decision in decisions if decision.outcome == "mapped"]
    rows: dict[tuple[str | None, UUID], Row] = {}
    for query in (MESSAGES, FACTS, TOPICS):
        rows |= {(row["owner"], row["id"]): row for row in await query.all(connection, origin=origin, ids=ids)}
    faults: list[Fault] = []
    for decision in decisions:
        if decision.outcome != "mapped":
            continue
        row = rows.get((decision.owner, decision.id))
        if row is None:
            faults.append(Fault("not_loaded", f"{decision.kind} {decision.id}"))
        elif fault := _fault(decision, row, origin, sums):
            faults.append(Fault(fault, f"{decision.kind}s {decision.id} of user {row['user_id']}"))
    return faults


def _fault(decision: Decision, row: Row, origin: str, sums: _Sums) -> str | None:
    """What is wrong with a row, if anything."""
    if decision.kind == "fact" and row["kind"] == "merged":
        return None
    if decision.kind == "fact" and row["edited"]:
        return None if row["is_there"] else "missing"
    if not row["is_there"]:
        sums.add(f"{decision.kind}s", str(row["user_id"]), decision.checksum or b"", None)
        return "missing"
    found = _checksum(decision, row, origin)
    sums.add(f"{decision.kind}s", str(row["user_id"]), decision.checksum or b"", found)
    return None if found == decision.checksum else "altered"


def _checksum(decision: Decision, row: Row, origin: str) -> bytes | None:
    """Of what was read back; None where it is not even where it belongs."""
    if decision.kind == "fact":
        return facts.checksum(row["statement"], decision.said_at and row["said_at"])
    if decision.kind == "topic":
        return decision.checksum
    conversation = messages.conversation_id(origin, row["owner"], row["part"])
    is_placed = row["role"] == (decision.role or row["said_by"]) and row["conversation_id"] == conversation
    return messages.checksum(exact_text(row), row["said_at"]) if is_placed else None
