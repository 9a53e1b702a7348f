"""Deleting: nothing of the words is left anywhere, what stood on them is gone, and what others said of it stays."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from uuid import UUID, uuid4

import asyncpg
import pytest

from freya_gateway.clock import utc_now
from freya_gateway.db import facts as fact_store
from freya_gateway.db import grouping, memory_work
from freya_gateway.db.engine import Database
from freya_gateway.db.facts import Fact
from freya_gateway.db.grouping import NewTopic
from freya_gateway.errors import Conflict, NotFound
from freya_gateway.memory.deletion import Deletion
from freya_gateway.memory.indexing import index_batch
from freya_gateway.memory.ledger import Draft, Support, open_ledger, write
from freya_gateway.turns.service import Sent
from tests.integration.conftest import Core, core_on
from tests.model_server import Gated, ModelServer, Reply

WORD = "zanzibarwort"


@pytest.fixture
def deletion(core: Core) -> Deletion:
    return Deletion(core.means.database, utc_now)


@pytest.fixture
async def sql(database_url: str, clean: None) -> AsyncGenerator[asyncpg.Connection, None]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def traces_of(sql: asyncpg.Connection, word: str) -> list[str]:
    """Every `table.column` in which the word, in any case, or a form that the search makes of it, can be read."""
    columns = await sql.fetch(
        """SELECT table_name, column_name, data_type FROM information_schema.columns
           WHERE table_schema = 'public' AND table_name <> 'alembic_version'"""
    )
    found: list[str] = []
    for table, column, kind in columns:
        text = f"""encode("{column}", 'escape')""" if kind == "bytea" else f'"{column}"::text'
        if await sql.fetchval(f"""SELECT count(*) FROM "{table}" WHERE {text} ILIKE '%' || $1 || '%'""", word[:8]):
            found.append(f"{table}.{column}")
    return found


async def said(core: Core, model: ModelServer, user: UUID, text: str, reply: str = "I see.") -> Sent:
    model.script(Reply([reply]))
    sent = await core.send(user, text)
    await core.ended(user, sent.turn_id)
    return sent


async def reply_id(core: Core, user: UUID, sent: Sent) -> UUID:
    view = await core.turns.get(user, sent.turn_id)
    assert view.reply is not None
    return view.reply["message_id"]


async def index(database: Database, user: UUID) -> None:
    async with database.transaction() as connection:
        until = await index_batch(connection, user, after=0)
        claim = await memory_work.claim(connection, user, "index", owner=uuid4().hex, now=utc_now())
        assert claim is not None
        assert await memory_work.complete(connection, claim, done_seq=until, now=utc_now())
        await memory_work.release(connection, claim)


async def learn(
    database: Database, user: UUID, *, statement: str, stands_on: list[UUID], supersedes: UUID | None = None
) -> UUID:
    """An active fact, as the worker would have learned it."""
    async with database.transaction() as connection:
        profile = await fact_store.lock(connection, user)
        ledger = await open_ledger(connection, user, profile, now=utc_now())
        if supersedes is not None:
            ledger.close("supersede", ledger.facts[supersedes], status="superseded", at=utc_now())
        support = Support(tuple(stands_on), statement, utc_now())
        draft = Draft(subject="user", slot="home_city", kind="identity", statement=statement)
        fact = ledger.add(draft, support, supersedes=supersedes)
        await write(connection, user, ledger, actor="model")
    return fact.id


async def fact(database: Database, user: UUID, fact_id: UUID) -> Fact | None:
    async with database.reading() as connection:
        return await fact_store.get(connection, user, fact_id)


async def test_nothing_of_a_deleted_message_and_its_reply_is_left(
    core: Core, model: ModelServer, deletion: Deletion, sql: asyncpg.Connection
) -> None:
    user, database = await core.user(), core.means.database
    first = await said(core, model, user, f"I live in {WORD}.", f"{WORD.title()} is far away \x00 {WORD}!")
    await said(core, model, user, "And you?")
    await index(database, user)
    gone = await learn(database, user, statement=f"The user lives in {WORD}.", stands_on=[first.message_id])
    assert {"messages.text", "messages.exact", "messages.search_text", "messages.tsv", "stream_events.data",
            "term_stats.lexeme", "facts.statement", "fact_events.after", "fact_sources.quote"} <= set(
        await traces_of(sql, WORD))  # fmt: skip

    deleted = await deletion.message(user, first.message_id, with_reply=True)

    assert await traces_of(sql, WORD) == []
    assert list(deleted.facts) == [gone]
    assert len(deleted.messages) == 2
    assert await sql.fetchval("SELECT n_messages FROM collection_stats") == 2
    assert await sql.fetchval("SELECT count(*) FROM messages") == 2


async def test_each_message_of_a_turn_is_deleted_by_itself(
    core: Core, model: ModelServer, deletion: Deletion, sql: asyncpg.Connection
) -> None:
    user = await core.user()
    sent = await said(core, model, user, f"My secret is {WORD}", "An answer")
    await deletion.message(user, sent.message_id, with_reply=False)
    assert await sql.fetchval("SELECT array_agg(text) FROM messages") == ["An answer"]
    assert (await core.turns.get(user, sent.turn_id)).reply is not None
    other = await said(core, model, user, "Say it", f"It is {WORD}")
    await deletion.message(user, await reply_id(core, user, other), with_reply=False)
    assert (await core.turns.get(user, other.turn_id)).reply is None
    assert await traces_of(sql, WORD) == []


async def test_a_fact_that_was_also_said_elsewhere_stays(core: Core, model: ModelServer, deletion: Deletion) -> None:
    user, database = await core.user(), core.means.database
    one, two = await said(core, model, user, "I live in Oslo"), await said(core, model, user, "Yes, in Oslo")
    both = [one.message_id, two.message_id]
    kept = await learn(database, user, statement="The user lives in Oslo.", stands_on=both)
    assert (await deletion.message(user, one.message_id, with_reply=False)).facts == []
    assert await fact(database, user, kept) is not None
    assert (await deletion.message(user, two.message_id, with_reply=False)).facts == [kept]
    assert await fact(database, user, kept) is None


async def test_what_a_deleted_fact_had_replaced_holds_again(core: Core, model: ModelServer, deletion: Deletion) -> None:
    user, database = await core.user(), core.means.database
    one, two = await said(core, model, user, "I live in Oslo"), await said(core, model, user, "I moved to Rome")
    oslo = await learn(database, user, statement="The user lives in Oslo.", stands_on=[one.message_id])
    rome = await learn(database, user, statement="The user lives in Rome.", stands_on=[two.message_id], supersedes=oslo)
    deleted = await deletion.message(user, two.message_id, with_reply=False)
    assert list(deleted.facts) == [rome]
    held = await fact(database, user, oslo)
    assert held is not None
    assert (held.status, held.valid_to) == ("active", None)


async def test_deleting_in_the_middle_of_replaced_facts_leaves_the_last(
    core: Core, model: ModelServer, deletion: Deletion
) -> None:
    user, database = await core.user(), core.means.database
    sends = [await said(core, model, user, f"I live in {city}") for city in ("Oslo", "Rome", "Lima")]
    oslo = await learn(database, user, statement="In Oslo.", stands_on=[sends[0].message_id])
    rome = await learn(database, user, statement="In Rome.", stands_on=[sends[1].message_id], supersedes=oslo)
    lima = await learn(database, user, statement="In Lima.", stands_on=[sends[2].message_id], supersedes=rome)
    await deletion.message(user, sends[1].message_id, with_reply=False)
    kept = [await fact(database, user, one) for one in (oslo, rome, lima)]
    assert [one and (one.status, one.supersedes) for one in kept] == [("superseded", None), None, ("active", None)]


async def test_a_message_whose_turn_runs_or_waits_is_not_deleted(
    core: Core, model: ModelServer, deletion: Deletion
) -> None:
    user = await core.user()
    gate = Gated()
    model.script(gate)
    running, queued = await core.send(user, "one"), await core.send(user, "two")
    for sent in (running, queued):
        with pytest.raises(Conflict, match="turn_open"):
            await deletion.message(user, sent.message_id, with_reply=True)
    with pytest.raises(Conflict, match="turn_open"):
        await deletion.everything(user)


async def test_deleting_twice_or_what_is_anothers_finds_nothing(
    core: Core, model: ModelServer, deletion: Deletion
) -> None:
    ana, bob = await core.user(), await core.user()
    sent = await said(core, model, ana, "mine")
    for user, message in ((bob, sent.message_id), (ana, uuid4())):
        with pytest.raises(NotFound, match="message_not_found"):
            await deletion.message(user, message, with_reply=True)
    await deletion.message(ana, sent.message_id, with_reply=False)
    with pytest.raises(NotFound, match="message_not_found"):
        await deletion.message(ana, sent.message_id, with_reply=False)


async def test_two_deletions_at_once_count_down_once(
    core: Core, model: ModelServer, deletion: Deletion, sql: asyncpg.Connection
) -> None:
    user = await core.user()
    sent = await said(core, model, user, "apples and pears")
    await index(core.means.database, user)
    both = [deletion.message(user, sent.message_id, with_reply=False) for _ in range(2)]
    results = await asyncio.gather(*both, return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["Deleted", "NotFound"]
    assert await sql.fetchval("SELECT n_messages FROM collection_stats") == 1


async def test_a_late_retry_of_a_deleted_message_is_not_answered_again(
    core: Core, model: ModelServer, deletion: Deletion
) -> None:
    user, client_id = await core.user(), uuid4()
    model.script(Reply(["once"]))
    sent = await core.send(user, "only once", client_message_id=client_id)
    await core.ended(user, sent.turn_id)
    await deletion.message(user, sent.message_id, with_reply=True)
    with pytest.raises(Conflict, match="message_deleted"):
        await core.send(user, "only once", client_message_id=client_id)


async def test_memory_work_that_began_before_everything_was_deleted_writes_nothing(
    core: Core, model: ModelServer, deletion: Deletion
) -> None:
    user, database = await core.user(), core.means.database
    await said(core, model, user, "read before it was deleted")
    async with database.transaction() as connection:
        claim = await memory_work.claim(connection, user, "facts", owner="worker", now=utc_now())
    assert claim is not None
    await deletion.everything(user)
    async with database.transaction() as connection:
        assert not await memory_work.complete(connection, claim, done_seq=2, now=utc_now())


async def test_a_topic_of_a_deleted_message_says_nothing_of_it(
    core: Core, model: ModelServer, deletion: Deletion, sql: asyncpg.Connection
) -> None:
    user, database = await core.user(), core.means.database
    sent = await said(core, model, user, f"To {WORD} we go")
    await said(core, model, user, "By boat")
    await index(database, user)
    topic = uuid4()
    async with database.transaction() as connection:
        new = NewTopic(topic, f"Going to {WORD}", [WORD], f"A journey to {WORD}.", [1])
        await grouping.write(connection, user, new)
    assert "topics.title" in await traces_of(sql, WORD)
    deleted = await deletion.message(user, sent.message_id, with_reply=True)
    assert list(deleted.topics) == [topic]
    assert await traces_of(sql, WORD) == []


async def test_readers_behind_a_deletion_are_told_and_others_read_on(
    core: Core, model: ModelServer, deletion: Deletion, database_url: str
) -> None:
    user = await core.user()
    sent = await said(core, model, user, f"about {WORD}")
    later = await said(core, model, user, "and more")
    await deletion.message(user, sent.message_id, with_reply=True)
    async with core_on(database_url, model, owner="two") as other:
        for replica in (core, other):
            async with replica.reader(user) as reading:
                opening = await replica.means.log.open(reading.reader, sent.cursor)
                assert (opening.recovered, opening.reason) == (False, "evicted")
            async with replica.reader(user, later.cursor) as reading:
                assert (await reading.until("reply"))[0].kind == "listening"


async def test_a_reader_that_lags_gets_no_deleted_words_from_the_tail(
    core: Core, model: ModelServer, deletion: Deletion
) -> None:
    user = await core.user()
    async with core.reader(user) as reading:
        await core.means.log.open(reading.reader, None)
        sent = await said(core, model, user, f"about {WORD}")
        channel = reading.reader.channel
        assert WORD in "".join(event.data for event in channel.tail)
        await deletion.message(user, sent.message_id, with_reply=True)
        async with asyncio.timeout(5):
            while channel.tail:
                await asyncio.sleep(0.01)
        async for batch in core.means.log.follow(reading.reader):
            assert batch == []
            break
        assert reading.reader.bye is not None
        assert reading.reader.bye.reason == "rotate"


async def test_a_running_turn_keeps_its_events_when_an_earlier_one_is_deleted(
    core: Core, model: ModelServer, deletion: Deletion
) -> None:
    user = await core.user()
    first_gate, second_gate = Gated(), Gated()
    model.script(first_gate, second_gate)
    first, second = await core.send(user, "first"), await core.send(user, "second")
    await first_gate.finish()
    await core.ended(user, first.turn_id)
    await second_gate.send("partly")
    await deletion.message(user, first.message_id, with_reply=True)
    async with core.reader(user) as reading:
        opening = await core.means.log.open(reading.reader, None)
        assert opening.snapshot[0].kind == "listening"
        assert all(event.turn_id == second.turn_id for event in opening.snapshot)
    await second_gate.finish()
    view = await core.ended(user, second.turn_id)
    assert view.reply is not None
    assert view.reply["message"].startswith("partly")


async def test_everything_goes_with_counts_and_the_settings_stay(
    core: Core, model: ModelServer, deletion: Deletion, sql: asyncpg.Connection
) -> None:
    user, other, database = await core.user(), await core.user(), core.means.database
    await said(core, model, other, "somebody else's words")
    sent = await said(core, model, user, f"I live in {WORD}", f"{WORD}?")
    await index(database, user)
    await learn(database, user, statement=f"Lives in {WORD}", stands_on=[sent.message_id])
    await sql.execute("UPDATE users SET display_name = 'Ana', time_zone = 'Europe/Lisbon' WHERE id = $1", user)
    before = await sql.fetchrow("SELECT memory_key, display_name, time_zone FROM users WHERE id = $1", user)

    counts = await deletion.everything(user)

    assert (counts["messages"], counts["turns"], counts["facts"], counts["conversations"]) == (2, 1, 1, 1)
    assert await traces_of(sql, WORD) == []
    assert await sql.fetchval("SELECT count(*) FROM messages") == 2
    after = await sql.fetchrow("SELECT memory_key, display_name, time_zone FROM users WHERE id = $1", user)
    assert after is not None
    assert before is not None
    assert after["memory_key"] != before["memory_key"]
    assert (after["display_name"], after["time_zone"]) == ("Ana", "Europe/Lisbon")
    assert not any((await deletion.everything(user)).values())


async def test_after_everything_is_deleted_readers_start_over_and_freya_answers(
    core: Core, model: ModelServer, deletion: Deletion, database_url: str
) -> None:
    user = await core.user()
    sent = await said(core, model, user, "before")
    async with core_on(database_url, model, owner="two") as other, core.reader(user) as here, other.reader(user) as far:
        for reading in (here, far):
            await reading.core.means.log.open(reading.reader, None)
        await deletion.everything(user)
        async with asyncio.timeout(5):
            while not (here.reader.bye and far.reader.bye):
                await asyncio.sleep(0.01)
        assert here.reader.bye.reason == far.reader.bye.reason == "rotate"
    async with core.reader(user) as reading:
        opening = await core.means.log.open(reading.reader, sent.cursor)
        assert (opening.recovered, opening.reason) == (False, "epoch")
    again = await said(core, model, user, "after")
    assert again.cursor.epoch != sent.cursor.epoch
    async with core.reader(user, again.cursor) as reading:
        assert (await reading.until("reply"))[0].kind == "listening"


async def test_sends_and_deletions_at_once_leave_a_whole_history(
    core: Core, model: ModelServer, deletion: Deletion, sql: asyncpg.Connection
) -> None:
    user = await core.user()

    async def delete() -> None:
        for _ in range(20):
            try:
                await deletion.everything(user)
            except Conflict:
                await asyncio.sleep(0.005)

    async def send(number: int) -> None:
        sent = await core.send(user, f"number {number}")
        with suppress(NotFound):  # deleted before it was looked at
            await core.ended(user, sent.turn_id)

    model.script(*(Reply([f"answer {number}"]) for number in range(10)))
    deleting = asyncio.create_task(delete())
    for number in range(10):
        await send(number)
    await deleting
    rows = await sql.fetch("SELECT role, count(*) FROM messages GROUP BY role")
    assert len({row["count"] for row in rows}) <= 1
    assert await sql.fetchval("SELECT coalesce(max(seq), 0) FROM messages") == await sql.fetchval(
        "SELECT last_message FROM streams WHERE user_id = $1", user
    )


async def test_deleting_and_sending_do_not_wait_for_each_other(
    core: Core, model: ModelServer, deletion: Deletion, sql: asyncpg.Connection
) -> None:
    user = await core.user()
    sent = await said(core, model, user, "The first message")
    deleting: asyncio.Task[object] | None = None
    async with sql.transaction():  # takes what a send takes, in its order
        await sql.execute("SELECT FROM streams WHERE user_id = $1 FOR UPDATE", user)
        deleting = asyncio.create_task(deletion.message(user, sent.message_id, with_reply=False))
        async with asyncio.timeout(10):
            while not await sql.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                await asyncio.sleep(0.01)
        await sql.execute("UPDATE conversations SET last_message_at = now() WHERE user_id = $1", user)
    await deleting
