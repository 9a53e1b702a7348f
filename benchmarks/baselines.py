"""What others do with PostgreSQL's full-text search, for comparison. $1 is the user, $2 the question."""

# The query functions of the manual's first page: every word must stand in the message.
ALL_WORDS = """
SELECT id FROM messages, websearch_to_tsquery('english', $2) q
WHERE user_id = $1 AND to_tsvector('english', text) @@ q
ORDER BY ts_rank(to_tsvector('english', text), q) DESC, seq DESC LIMIT 50
"""

# Any word, ranked by ts_rank, which knows no rarity of words.
ANY_WORD = """
WITH q AS (
    SELECT replace(plainto_tsquery('english', $2)::text, '&', '|')::tsquery AS query
)
SELECT id FROM messages, q WHERE user_id = $1 AND to_tsvector('english', text) @@ query
ORDER BY ts_rank(to_tsvector('english', text), query) DESC, seq DESC LIMIT 50
"""

# Plain BM25 (k1 = 0.9, b = 0.5) over any word.
BM25 = """
WITH docs AS (
    SELECT id, seq, to_tsvector('english', text) AS tsv FROM messages WHERE user_id = $1
), whole AS (
    SELECT count(*)::float8 AS n, avg(length(tsv))::float8 AS mean_size FROM docs
), hits AS (
    SELECT d.id, d.seq, length(d.tsv) AS size, w.lexeme, cardinality(w.positions) AS tf
    FROM docs d, unnest(d.tsv) w
    WHERE w.lexeme IN (SELECT lexeme FROM unnest(to_tsvector('english', $2)))
), df AS (
    SELECT lexeme, count(*) AS df FROM hits GROUP BY lexeme
)
SELECT h.id FROM hits h JOIN df USING (lexeme), whole
GROUP BY h.id, h.seq
ORDER BY sum(ln(1 + (n - df + 0.5) / (df + 0.5)) * tf * 1.9 / (tf + 0.9 * (0.5 + 0.5 * size / mean_size))) DESC,
         h.seq DESC LIMIT 50
"""

BASELINES = {"plain BM25": BM25, "any word, ts_rank": ANY_WORD, "all words (websearch)": ALL_WORDS}
