"""Full-text search over a user's messages: BM25 with the structure of conversation, in plain PostgreSQL.

An answer stands next to its question, in the segment and the conversation that speak of it, so a message scores for
its neighbours too. Rare words bring the candidates, frequent ones only weigh in: the cost stays flat as a history
grows. Measured reasons: docs/decisions/search.md
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from uuid import UUID

from freya_gateway.db.query import Connection, Query

MOST_TERMS = 32  # lexemes of a query that are looked at, the rarest first
LOOKED_UP = range(3, 41)  # characters of a lexeme that similar ones are looked up for
MOST_UNKNOWN = 8  # lexemes that the user never said, for which similar ones are looked up
MOST_SIMILAR = 4  # known lexemes for an unknown one
ALIKE, TYPO_WEIGHT = 0.35, 0.7  # their least similarity, their weight
FREQUENT = 0.2  # share of the messages above which a lexeme brings no candidates
MANY = 12_000  # messages of a user from which on a plan that fits all would be too slow
MOST_CANDIDATES = 300  # messages that are looked at
RECENT = 20_000  # newest messages that are looked through where a long history has too many with each lexeme
MOST_SCORED = 100  # candidates and neighbours whose rows are read
MOST_JOINED = 4  # frequent lexemes of which two in one message bring it in
OVERLAP = 4  # how much oftener than by chance two words of a question meet in one message

# LATERAL with LIMIT 1 is a lookup by key for each lexeme, whatever the planner thinks of a user's number of words.
TERMS = Query("""
SELECT a.lexeme, t.n_messages, c.n_messages AS total, c.n_terms
FROM unnest(to_tsvector('english', :text)) a
CROSS JOIN LATERAL (SELECT n_messages, n_terms FROM collection_stats WHERE user_id = :user_id LIMIT 1) c
LEFT JOIN LATERAL (
    SELECT n_messages FROM term_stats WHERE user_id = :user_id AND lexeme = a.lexeme LIMIT 1
) t ON true
ORDER BY t.n_messages, a.lexeme
""")

SIMILAR = Query(f"""
SELECT s.lexeme, s.n_messages, max({TYPO_WEIGHT} * s.similarity) AS weight
FROM unnest(cast(:unknown AS text[])) u (lexeme), LATERAL (
    SELECT t.lexeme, t.n_messages, similarity(t.lexeme, u.lexeme)::float8 AS similarity
    FROM term_stats t WHERE t.user_id = :user_id AND t.lexeme % u.lexeme
    ORDER BY similarity DESC, t.n_messages DESC LIMIT {MOST_SIMILAR}
) s WHERE s.similarity >= {ALIKE}
GROUP BY s.lexeme, s.n_messages
""")

# `tf`: ts_rank of a single lexeme knows only how often it stands there (0.61 once, 0.76, 0.83, 0.86 ...), and is five
# times as fast as to unnest the tsvector; above four times nothing changes.
# The planner cannot know how many rows match, and takes a new user's for none. So nothing is left to it: LATERAL with
# LIMIT 1 is a lookup by key for each row, and what is looked up in memory stands in a jsonb object.
# `spread`: what a message gives to itself, to the next (more, if it asks something), to the one after, to the previous.
SCORE = f"""
WITH asked AS MATERIALIZED (
    SELECT query::tsquery, weight FROM unnest(cast(:queries AS text[]), cast(:weights AS float8[])) q (query, weight)
), candidates AS MATERIALIZED (
    SELECT seq, conversation_id, coalesce(segment, seq) AS segment, is_question, tsv FROM messages
    WHERE user_id = :user_id AND seq < :before AND %s
), hits AS MATERIALIZED (
    SELECT c.seq, c.conversation_id, c.segment, c.is_question, q.query, q.weight, length(c.tsv) AS size,
           width_bucket(ts_rank('{{1,1,1,1}}', c.tsv, q.query), '{{0.7,0.8,0.85}}'::real[]) + 1 AS tf
    FROM candidates c JOIN asked q ON c.tsv @@ q.query
), segments_ AS MATERIALIZED (
    SELECT jsonb_object_agg(segment, score) AS scores FROM (
        SELECT segment, sum(weight * tf * 1.9 / (tf + 0.9)) AS score
        FROM (SELECT segment, weight, sum(tf) AS tf FROM hits GROUP BY segment, query, weight) t GROUP BY segment
    ) s
), conversations_ AS MATERIALIZED (
    SELECT jsonb_object_agg(conversation_id, score) AS scores FROM (
        SELECT conversation_id, sum(weight * tf * 1.9 / (tf + 0.9)) AS score
        FROM (SELECT conversation_id, weight, sum(tf) AS tf FROM hits GROUP BY conversation_id, query, weight) t
        GROUP BY conversation_id
    ) c
), own AS (
    SELECT seq, conversation_id, is_question,
           sum(weight * tf * 1.9 / (tf + 0.9 * (0.5 + 0.5 * size / cast(:mean_size AS float8)))) AS score,
           0.3 * ((SELECT scores FROM conversations_) ->> conversation_id::text)::float8 AS conversation
    FROM hits GROUP BY seq, conversation_id, is_question
), spread AS (
    SELECT seq + g.step AS seq, conversation_id,
           sum(score * CASE WHEN is_question THEN g.asking ELSE g.share END) + min(conversation) AS score
    FROM own, (VALUES (0, 1::float8, 1::float8), (1, 0.3, 0.8), (2, 0.1, 0.1), (-1, 0.3, 0.3)) g (step, share, asking)
    GROUP BY 1, 2
), best AS (
    SELECT seq, conversation_id, score FROM spread ORDER BY score DESC, seq DESC LIMIT {MOST_SCORED}
), rows_ AS MATERIALIZED (
    SELECT m.*, m.conversation_id = b.conversation_id AS together, b.score
    FROM best b, LATERAL (
        SELECT id, seq, role, text, said_at, n_tokens, segment, conversation_id FROM messages
        WHERE user_id = :user_id AND seq = b.seq AND text <> '' LIMIT 1
    ) m
), scored AS (
    SELECT r.id, r.seq, r.role, r.text, r.said_at, r.n_tokens, r.segment, r.conversation_id,
           (r.score + 0.3 * coalesce(((SELECT scores FROM segments_) ->> coalesce(r.segment, r.seq)::text)::float8, 0))
           * CASE WHEN r.role = cast(:role AS text) THEN 2.0 ELSE 1.0 END
           * coalesce((SELECT max(factor) FROM unnest(cast(:starts AS timestamptz[]), cast(:ends AS timestamptz[]),
                                                      cast(:factors AS float8[])) w (starts, ends, factor)
                       WHERE r.said_at >= w.starts AND r.said_at < w.ends), 1.0) AS score
    FROM rows_ r WHERE r.together AND r.seq < :before
    ORDER BY score DESC, r.seq DESC LIMIT :limit
)
SELECT c.id, c.seq, c.role, c.text, c.said_at, c.n_tokens, s.topic_id, c.conversation_id, c.score,
       (SELECT title FROM topics WHERE user_id = :user_id AND id = s.topic_id) AS topic
FROM scored c
LEFT JOIN LATERAL (SELECT topic_id FROM segments WHERE user_id = :user_id AND first_seq = c.segment LIMIT 1) s ON true
ORDER BY c.score DESC, c.seq DESC
"""
SEARCH = Query(SCORE % "tsv @@ cast(:candidates AS tsquery)")
SEARCH_RECENT = Query(
    SCORE
    % f"""
    seq >= (SELECT max(seq) FROM messages WHERE user_id = :user_id AND seq < :before) - {RECENT}
    AND (tsv @@ cast(:candidates AS tsquery)) IS NOT FALSE ORDER BY seq DESC LIMIT {MOST_CANDIDATES}
    """
)


# A topic's own words, and those of the facts that its messages gave.
TOPICS = Query("""
WITH asked AS MATERIALIZED (
    SELECT query::tsquery, weight FROM unnest(cast(:queries AS text[]), cast(:weights AS float8[])) q (query, weight)
)
SELECT t.id, t.title, t.state, t.first_at, t.last_at, (
    SELECT coalesce(sum(a.weight), 0) FROM asked a
    WHERE to_tsvector('english', lower(concat_ws(' ', t.title, array_to_string(t.keywords, ' '), t.summary))) @@ a.query
) AS labels, (
    SELECT coalesce(sum(a.weight), 0) FROM asked a WHERE EXISTS (
        SELECT 1 FROM segments s
        JOIN messages m ON m.user_id = s.user_id AND m.seq BETWEEN s.first_seq AND s.last_seq
        JOIN fact_sources c ON c.user_id = m.user_id AND c.message_id = m.id
        JOIN facts f ON f.user_id = c.user_id AND f.id = c.fact_id AND f.status = 'active'
        WHERE s.user_id = :user_id AND s.topic_id = t.id AND to_tsvector('english', lower(f.statement)) @@ a.query)
) AS facts
FROM topics t WHERE t.user_id = :user_id AND t.id = ANY(cast(:ids AS uuid[]))
""")


@dataclass(frozen=True, slots=True)
class Term:
    """A lexeme to look for: in how many messages it stands, and how much it counts (less, if it only resembles)."""

    lexeme: str
    n_messages: int
    weight: float


@dataclass(frozen=True, slots=True)
class Terms:
    """A query's lexemes, the rarest first, and the size of what they are looked for in."""

    terms: Sequence[Term] = ()
    n_messages: int = 0
    mean_size: float = 1.0
    unknown: Sequence[str] = ()  # lexemes of the query that the user never said

    @property
    def many(self) -> bool:
        """Whether the user has so many messages that a search must be planned for them."""
        return self.n_messages > MANY

    @property
    def rare(self) -> Sequence[Term]:
        """Those that tell messages apart."""
        return [term for term in self.terms if term.n_messages <= FREQUENT * self.n_messages]

    @property
    def exact(self) -> Sequence[str]:
        """The lexemes that stand in the query itself."""
        return [term.lexeme for term in self.terms if term.weight == 1]

    def idf(self, term: Term) -> float:
        rest = max(self.n_messages - term.n_messages, 0)
        return term.weight * math.log(1 + (rest + 0.5) / (term.n_messages + 0.5))


@dataclass(frozen=True, slots=True)
class Period:
    """A time that the question speaks of, and by how much a message from it counts more."""

    starts: datetime
    ends: datetime
    factor: float


@dataclass(frozen=True, slots=True)
class Leaning:
    """Whose messages, and of when, the question is about; `before` is the first seq that is not searched."""

    role: str | None = None
    periods: Sequence[Period] = field(default_factory=tuple[Period, ...])
    before: int = 2**62


@dataclass(frozen=True, slots=True)
class TopicMatch:
    """How a topic's title, keywords and summary, and its facts, answer a query, in the same measure as its messages."""

    id: UUID
    title: str
    state: str
    first_at: datetime
    last_at: datetime
    labels: float
    facts: float


@dataclass(frozen=True, slots=True)
class Hit:
    """A message that was found."""

    id: UUID
    seq: int
    role: str
    text: str
    said_at: datetime
    n_tokens: int
    topic_id: UUID | None
    conversation_id: UUID
    score: float
    topic: str | None = None  # its title


async def terms(connection: Connection, user_id: UUID, text: str) -> Terms:
    """The lexemes of `text` (folded), as the user's messages know them."""
    rows = await TERMS.all(connection, user_id=user_id, text=text)
    if not rows:
        return Terms()
    total = max(rows[0]["total"], 1)
    known = [Term(row["lexeme"], row["n_messages"], 1.0) for row in rows if row["n_messages"] is not None]
    unknown = [row["lexeme"] for row in rows if row["n_messages"] is None and len(row["lexeme"]) in LOOKED_UP]
    return Terms(known[:MOST_TERMS], total, max(rows[0]["n_terms"] / total, 1.0), unknown[:MOST_UNKNOWN])


async def with_similar(connection: Connection, user_id: UUID, asked: Terms) -> Terms:
    """`asked` and, for its unknown lexemes, the nearest that are known."""
    rows = await SIMILAR.all(connection, user_id=user_id, unknown=asked.unknown)
    known = {term.lexeme: term for term in asked.terms}
    for row in rows:
        known.setdefault(row["lexeme"], Term(*row.values()))
    return replace(asked, terms=sorted(known.values(), key=lambda term: (term.n_messages, term.lexeme)))


async def search(connection: Connection, user_id: UUID, asked: Terms, *, leaning: Leaning, limit: int) -> list[Hit]:
    """The messages that score best for `asked`, at most `limit`. Nothing if `asked` holds no lexeme."""
    if not asked.terms:
        return []
    values = {
        "user_id": user_id,
        "queries": [_quoted(term.lexeme) for term in asked.terms],
        "weights": [asked.idf(term) for term in asked.terms],
        "mean_size": asked.mean_size,
        "role": leaning.role,
        "starts": [period.starts for period in leaning.periods],
        "ends": [period.ends for period in leaning.periods],
        "factors": [period.factor for period in leaning.periods],
        "before": leaning.before,
        "limit": limit,
    }
    rare, joint = candidate_queries(asked)
    candidates = " | ".join(filter(None, (rare, joint)))
    rows = await SEARCH.all(connection, **values, candidates=candidates) if candidates else []
    if not rows and not rare:
        rows = await SEARCH_RECENT.all(connection, **values, candidates=_quoted(asked.terms[0].lexeme))
    return [Hit(*row.values()) for row in rows]


async def match_topics(connection: Connection, user_id: UUID, asked: Terms, ids: Sequence[UUID]) -> list[TopicMatch]:
    """How the topics with these ids answer what is asked, beside their messages."""
    queries, weights = [_quoted(term.lexeme) for term in asked.terms], [asked.idf(term) for term in asked.terms]
    rows = await TOPICS.all(connection, user_id=user_id, queries=queries, weights=weights, ids=ids)
    return [TopicMatch(*row.values()) for row in rows]


def candidate_queries(asked: Terms) -> tuple[str, str]:
    """What brings candidates, as tsqueries: any of the rarest lexemes, as long as all their messages can be looked at,
    and two of the next in one message."""
    room = MOST_CANDIDATES
    rare: list[Term] = []
    for term in asked.terms:
        if term.n_messages > room:
            break
        rare.append(term)
        room -= term.n_messages
    pairs: list[str] = []
    for first, second in itertools.combinations(asked.terms[len(rare) : len(rare) + MOST_JOINED], 2):
        expected = OVERLAP * first.n_messages * second.n_messages / asked.n_messages
        if expected <= room:
            room -= int(expected)
            pairs.append(f"({_quoted(first.lexeme)} & {_quoted(second.lexeme)})")
    return " | ".join(_quoted(term.lexeme) for term in rare), " | ".join(pairs)


def _quoted(lexeme: str) -> str:
    escaped = lexeme.replace("\\", "\\\\").replace("'", "''")
    return f"'{escaped}'"
