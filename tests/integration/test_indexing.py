"""The search's statistics: exact after whatever happened, and never half done."""

import asyncio
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest

from freya_gateway.clock import utc_now
from freya_gateway.db import indexing as store
from freya_gateway.db import memory_work, users
from freya_gateway.db.engine import Database
from freya_gateway.db.imports import ImportedConversation, ImportedMessage, insert_history
from freya_gateway.db.memory_work import WorkClaim
from freya_gateway.db.query import Connection
from freya_gateway.errors import LostClaim
from freya_gateway.memory.indexing import IndexWork, index_batch

START = datetime(2026, 3, 2, tzinfo=UTC)
WORDS = ["harbour", "lighthouse", "red", "went", "Café", "cafe", "the", "and", "ran", "x-ray", "😀", "маяк", "'", ""]

COUNTED = """
SELECT w.lexeme, count(*) AS n FROM messages m, unnest(m.tsv) w
WHERE m.user_id = $1 AND m.segment IS NOT NULL GROUP BY w.lexeme ORDER BY w.lexeme COLLATE "C"
"""
KEPT = 'SELECT lexeme, n_messages FROM term_stats WHERE user_id = $1 ORDER BY lexeme COLLATE "C"'
WHOLE_COUNTED = """
SELECT count(*), coalesce(sum(length(tsv)), 0) FROM messages WHERE user_id = $1 AND segment IS NOT NULL
"""
WHOLE_KEPT = """
SELECT coalesce(sum(n_messages), 0), coalesce(sum(n_terms), 0) FROM collection_stats WHERE user_id = $1
"""
SEGMENTS = "SELECT first_seq, last_seq, first_at, last_at FROM segments WHERE user_id = $1 ORDER BY first_seq"
MARKS = "SELECT seq, segment FROM messages WHERE user_id = $1 ORDER BY seq"


async def someone(database: Database) -> UUID:
    async with database.transaction() as connection:
        return await users.ensure_user(connection, uuid4().hex)


def talk(texts: Sequence[str], *, start: datetime = START) -> ImportedConversation:
    spoken = [
        ImportedMessage(uuid4(), "assistant" if place % 2 else "user", text, 1, start + timedelta(minutes=place), {})
        for place, text in enumerate(texts)
    ]
    return ImportedConversation(uuid4(), None, spoken, {})


def random_talk(chance: random.Random, *, start: datetime = START) -> ImportedConversation:
    texts = [" ".join(chance.choices(WORDS, k=chance.randrange(8))) for _ in range(chance.randint(1, 24))]
    return talk(texts, start=start)


async def add(database: Database, user: UUID, *talks: ImportedConversation) -> None:
    async with database.transaction() as connection:
        await insert_history(connection, user, talks)


async def delete(database: Database, user: UUID, *seqs: int) -> None:
    """As a deletion does it: each message out of the statistics, then out of the table."""
    async with database.transaction() as connection:
        for seq in seqs:
            await store.unindex(connection, user, seq)
            await connection.execute("DELETE FROM messages WHERE user_id = $1 AND seq = $2", user, seq)


async def index(database: Database, user: UUID) -> None:
    """One claim of index work, from its beginning to its end."""
    async with database.transaction() as connection:
        claim = await memory_work.claim(connection, user, "index", owner=uuid4().hex, now=utc_now())
    assert claim
    await IndexWork(database, utc_now).run(claim)
    async with database.transaction() as connection:
        await memory_work.release(connection, claim)


async def read(connection: Connection, sql: str, user: UUID) -> list[tuple[object, ...]]:
    return [tuple(row.values()) for row in await connection.fetch(sql, user)]


async def is_exact(database: Database, user: UUID) -> int:
    """Compares the statistics with a recount; how many messages they hold."""
    async with database.reading() as connection:
        assert await read(connection, KEPT, user) == await read(connection, COUNTED, user)
        ((counted, terms),) = await read(connection, WHOLE_COUNTED, user)
        assert await read(connection, WHOLE_KEPT, user) == [(counted, terms)]
        empty = "SELECT 1 FROM segments s WHERE user_id = $1 AND NOT EXISTS (SELECT 1 FROM messages m"
        beyond = f"{empty} WHERE m.user_id = s.user_id AND m.seq BETWEEN s.first_seq AND s.last_seq)"
        assert await read(connection, beyond, user) == []
    assert isinstance(counted, int)
    return counted


@pytest.mark.parametrize("seed", range(6))
async def test_statistics_are_exact_after_any_interleaving(database: Database, seed: int) -> None:
    chance = random.Random(seed)
    user, bystander = await someone(database), await someone(database)
    await add(database, bystander, talk(WORDS))
    await index(database, bystander)
    for step in range(30):
        match chance.choice(["add", "index", "delete", "at once"]):
            case "add":
                await add(database, user, random_talk(chance, start=START + timedelta(hours=step)))
            case "index":
                await index(database, user)
            case "delete":
                await delete(database, user, *chance.sample(await seqs_of(database, user), k=chance.randint(0, 2)))
            case _:
                gone = chance.sample(await seqs_of(database, user), k=2)
                await asyncio.gather(index(database, user), *(delete(database, user, seq) for seq in gone))
        await is_exact(database, user)
    await index(database, user)
    assert await is_exact(database, user) == len(await seqs_of(database, user)) - 2
    assert await is_exact(database, bystander) == len(WORDS)


async def seqs_of(database: Database, user: UUID) -> list[int]:
    """The seqs of the user's messages, and two that are none's."""
    async with database.reading() as connection:
        rows = await connection.fetch("SELECT seq FROM messages WHERE user_id = $1 ORDER BY seq", user)
    return [0, *(row["seq"] for row in rows), 10**6]


async def test_what_is_indexed_twice_counts_once(database: Database) -> None:
    user = await someone(database)
    await add(database, user, talk(WORDS))
    await index(database, user)
    await index(database, user)
    assert await is_exact(database, user) == len(WORDS)


async def test_what_all_have_forgotten_leaves_nothing(database: Database) -> None:
    user = await someone(database)
    await add(database, user, talk(WORDS))
    await index(database, user)
    await delete(database, user, *range(1, len(WORDS) + 1))
    async with database.reading() as connection:
        assert await read(connection, KEPT, user) == []
        assert await read(connection, SEGMENTS, user) == []
        assert await read(connection, WHOLE_KEPT, user) == [(0, 0)]


async def test_pieces_give_the_same_segments_as_all_at_once(database: Database) -> None:
    chance = random.Random(1)
    talks = [random_talk(chance, start=START + timedelta(minutes=20 * place)) for place in range(12)]
    whole, pieces = await someone(database), await someone(database)
    await add(database, whole, *talks)
    await index(database, whole)
    for one in talks:
        copy = ImportedConversation(uuid4(), None, [renamed(message) for message in one.messages], {})
        await add(database, pieces, copy)
        await index(database, pieces)
    async with database.reading() as connection:
        for sql in (SEGMENTS, MARKS, KEPT):
            assert await read(connection, sql, whole) == await read(connection, sql, pieces)
        assert len(await read(connection, SEGMENTS, whole)) > len(talks)


def renamed(message: ImportedMessage) -> ImportedMessage:
    return ImportedMessage(uuid4(), message.role, message.text, message.n_tokens, message.said_at, {})


async def test_a_segment_goes_on_where_the_last_batch_ended(database: Database) -> None:
    user = await someone(database)
    await add(database, user, talk(["one", "two", "three"]))
    await index(database, user)
    async with database.transaction() as connection:
        await connection.execute(
            """INSERT INTO messages (user_id, id, seq, conversation_id, role, text, search_text, n_tokens, is_question,
                                     said_at)
               SELECT user_id, gen_random_uuid(), 4, conversation_id, 'assistant', 'four', 'four', 1, false,
                      said_at + interval '1 minute' FROM messages WHERE user_id = $1 AND seq = 3""",
            user,
        )
    await index(database, user)
    async with database.reading() as connection:
        assert await read(connection, MARKS, user) == [(1, 1), (2, 1), (3, 1), (4, 1)]
        assert [row[:2] for row in await read(connection, SEGMENTS, user)] == [(1, 4)]


async def test_work_that_is_killed_leaves_nothing_half_done(database: Database, database_url: str) -> None:
    user = await someone(database)
    await add(database, user, talk(WORDS))
    blocker = await asyncpg.connect(database_url)
    async with blocker.transaction():
        await blocker.execute("LOCK TABLE collection_stats IN ACCESS EXCLUSIVE MODE")  # the last that is written
        work = asyncio.create_task(index(database, user))
        while not await blocker.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            await asyncio.sleep(0.01)
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
    async with database.reading() as connection:
        assert await read(connection, KEPT, user) == []
        assert await read(connection, SEGMENTS, user) == []
        assert {mark for _, mark in await read(connection, MARKS, user)} == {None}
        assert await read(connection, "SELECT done_seq FROM memory_work WHERE user_id = $1", user) == [(0,)]
    await blocker.execute("UPDATE memory_work SET lease_expires_at = now() - interval '1 second'")
    await blocker.close()
    await index(database, user)
    assert await is_exact(database, user) == len(WORDS)


async def test_work_that_was_taken_over_writes_nothing(database: Database) -> None:
    user = await someone(database)
    await add(database, user, talk(WORDS))
    late = WorkClaim(user, "index", 0, 0, "gone")
    await index(database, user)
    with pytest.raises(LostClaim):
        await IndexWork(database, utc_now).run(late)
    assert await is_exact(database, user) == len(WORDS)


async def test_a_batch_without_messages_moves_nothing(database: Database) -> None:
    user = await someone(database)
    async with database.transaction() as connection:
        assert await index_batch(connection, user, after=7) == 7
    assert await is_exact(database, user) == 0
