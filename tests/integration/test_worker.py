"""Memory work: claimed by one, done once, tried again after a failure, taken over after a death."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest

from freya_gateway.clock import utc_now
from freya_gateway.db import due_work, imports, memory_work, users
from freya_gateway.db.engine import Database
from freya_gateway.db.imports import ImportedConversation, ImportedMessage
from freya_gateway.db.memory_work import MOST_ATTEMPTS, Kind, WorkClaim
from freya_gateway.errors import LostClaim, ModelError, Unavailable
from freya_gateway.memory.worker import MODEL_LANES, Pace, Worker
from freya_gateway.metrics import Metrics

LONG_AGO = timedelta(days=30)
EXPIRE = "UPDATE memory_work SET lease_expires_at = now() - interval '1 second' WHERE owner IS NOT NULL"


async def someone(database: Database, *, messages: int = 2, ago: timedelta = LONG_AGO, text: str = "Hello") -> UUID:
    """A user with a conversation that ended `ago`."""
    async with database.transaction() as connection:
        user = await users.ensure_user(connection, uuid4().hex)
        await said(connection, user, messages=messages, until=utc_now() - ago, text=text)
    return user


async def said(connection: object, user: UUID, *, messages: int, until: datetime, text: str = "Hello") -> int:
    """A conversation of `messages`, a minute between them; the seq of the last."""
    moments = [until - timedelta(minutes=messages - 1 - place) for place in range(messages)]
    spoken = [
        ImportedMessage(uuid4(), "assistant" if place % 2 else "user", text, len(text) // 4, moment, {})
        for place, moment in enumerate(moments)
    ]
    conversation = ImportedConversation(uuid4(), None, spoken, {})
    return (await imports.insert_history(connection, user, [conversation]))[1]  # pyright: ignore[reportArgumentType]


async def taken(database: Database, user: UUID, kind: Kind = "index", *, owner: str = "") -> WorkClaim | None:
    async with database.transaction() as connection:
        return await memory_work.claim(connection, user, kind, owner=owner or uuid4().hex, now=utc_now())


async def expire(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.execute(EXPIRE)


async def whose(database: Database, kind: Kind, *, now: datetime | None = None) -> list[UUID]:
    async with database.reading() as connection:
        return [due.user_id for due in await due_work.due(connection, kind, now=now or utc_now(), limit=100)]


@dataclass
class Fake:
    """Work that does as told: fails, hangs, or counts the users' messages."""

    database: Database
    failures: list[Exception] = field(default_factory=list[Exception])
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    begun: list[UUID] = field(default_factory=list[UUID])
    done: list[UUID] = field(default_factory=list[UUID])

    def __post_init__(self) -> None:
        self.gate.set()

    async def run(self, claim: WorkClaim) -> None:
        self.begun.append(claim.user_id)
        await self.gate.wait()
        if self.failures:
            raise self.failures.pop(0)
        async with self.database.transaction() as connection:
            if not await memory_work.complete(connection, claim, done_seq=claim.done_seq + 2, now=utc_now()):
                raise LostClaim(claim.kind)
        self.done.append(claim.user_id)


@asynccontextmanager
async def working(worker: Worker) -> AsyncGenerator[None, None]:
    task = asyncio.create_task(worker.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(25):
        while not reached():
            await asyncio.sleep(0.02)


async def state(database: Database, user: UUID, kind: Kind) -> memory_work.WorkStatus:
    async with database.reading() as connection:
        return next(one for one in await memory_work.status(connection, user) if one.kind == kind)


def runs(metrics: Metrics, kind: Kind, outcome: str) -> float | None:
    return metrics.registry.get_sample_value("freya_memory_runs_total", {"kind": kind, "outcome": outcome})


async def test_the_sweep_finds_what_no_wake_announced(database: Database) -> None:
    user, metrics = await someone(database), Metrics()
    index, facts = Fake(database), Fake(database)
    worker = Worker(database, {"index": index, "facts": facts}, metrics, now=utc_now, pace=Pace(sweep=0.1))
    async with working(worker):
        await until(lambda: bool(index.done and facts.done))
        await asyncio.sleep(0.5)
    assert index.done == facts.done == [user]
    assert (runs(metrics, "index", "done"), runs(metrics, "facts", "done")) == (1, 1)
    assert metrics.registry.get_sample_value("freya_memory_oldest_due_seconds", {"kind": "facts"}) == 0
    assert (await state(database, user, "facts")).unread == 0
    assert await taken(database, user, "facts") is not None


async def test_a_wake_is_enough_and_brings_the_rest_too(database: Database) -> None:
    user, index = await someone(database, messages=6), Fake(database)
    worker = Worker(database, {"index": index}, Metrics(), now=utc_now, pace=Pace(sweep=3600))
    async with working(worker):
        worker.wake(user)
        await until(lambda: len(index.done) == 3)
    assert (await state(database, user, "index")).done_seq == 6


async def test_index_work_never_waits_for_a_model(database: Database) -> None:
    await asyncio.gather(*(someone(database) for _ in range(4)))
    index, facts = Fake(database), Fake(database)
    facts.gate.clear()
    worker = Worker(database, {"index": index, "facts": facts}, Metrics(), now=utc_now, pace=Pace(sweep=0.1))
    async with working(worker):
        await until(lambda: len(set(index.done)) == 4 and len(facts.begun) == MODEL_LANES)
        await asyncio.sleep(0.3)
        assert len(facts.begun) == MODEL_LANES
        facts.gate.set()
        await until(lambda: len(facts.done) == 4)


async def test_work_that_is_cut_off_is_given_back_and_done_once_by_another(database: Database) -> None:
    user, first, second = await someone(database), Fake(database), Fake(database)
    first.gate.clear()
    async with working(Worker(database, {"facts": first}, Metrics(), now=utc_now, pace=Pace(sweep=0.1))):
        await until(lambda: bool(first.begun))
    async with working(Worker(database, {"facts": second}, Metrics(), now=utc_now, pace=Pace(sweep=0.1))):
        await until(lambda: bool(second.done))
    assert (first.done, second.done) == ([], [user])
    assert (await state(database, user, "facts")).attempts == 0


async def test_a_worker_that_lost_its_lease_writes_nothing(database: Database) -> None:
    user, slow, heir, metrics = await someone(database), Fake(database), Fake(database), Metrics()
    slow.gate.clear()
    paused = Worker(database, {"facts": slow}, metrics, now=utc_now, pace=Pace(sweep=3600))
    await paused.sweep()
    async with working(paused):
        await until(lambda: bool(slow.begun))
        await expire(database)
        async with working(Worker(database, {"facts": heir}, Metrics(), now=utc_now, pace=Pace(sweep=0.1))):
            await until(lambda: bool(heir.done))
        slow.gate.set()
        await until(lambda: runs(metrics, "facts", "lost") == 1)
    assert (slow.done, heir.done) == ([], [user])
    assert (await state(database, user, "facts")).done_seq == 2


async def test_a_lease_is_renewed_while_its_work_runs_and_the_work_ends_when_it_is_lost(database: Database) -> None:
    user, slow, metrics = await someone(database), Fake(database), Metrics()
    slow.gate.clear()
    worker = Worker(database, {"facts": slow}, metrics, now=utc_now, pace=Pace(sweep=3600, renew=0.1))
    await worker.sweep()
    async with working(worker):
        await until(lambda: bool(slow.begun))
        await expire(database)
        await asyncio.sleep(0.5)
        assert await taken(database, user, "facts") is None
        async with database.transaction() as connection:
            await connection.execute("UPDATE memory_work SET owner = 'another'")
        await until(lambda: runs(metrics, "facts", "lost") == 1)
    assert slow.done == []


@pytest.mark.parametrize(
    ("failure", "code"),
    [(ModelError("timeout", retryable=True), "timeout"), (ZeroDivisionError(), "internal_error")],
)
async def test_a_failure_is_written_down_and_tried_again(database: Database, failure: Exception, code: str) -> None:
    user, metrics = await someone(database), Metrics()
    facts = Fake(database, failures=[failure])
    async with working(Worker(database, {"facts": facts}, metrics, now=utc_now, pace=Pace(sweep=0.1))):
        await until(lambda: runs(metrics, "facts", "failed") == 1)
        await asyncio.sleep(0.4)
        failed = await state(database, user, "facts")
        assert (failed.attempts, failed.error_code, failed.dead, facts.done) == (1, code, False, [])
        async with database.transaction() as connection:
            await memory_work.revive(connection, user, "facts")
        await until(lambda: facts.done == [user])
    assert (await state(database, user, "facts")).error_code is None


async def test_memory_work_outlives_a_postgresql_that_was_away(database: Database) -> None:
    user = await someone(database)
    facts = Fake(database, failures=[Unavailable("database_unavailable", "away")])
    async with working(Worker(database, {"facts": facts}, Metrics(), now=utc_now, pace=Pace(sweep=0.1))):
        await until(lambda: not facts.failures)
        await expire(database)
        await until(lambda: facts.done == [user])
    assert (await state(database, user, "facts")).attempts == 0


async def test_work_goes_on_after_every_connection_was_cut(database: Database, database_url: str) -> None:
    user, facts = await someone(database), Fake(database)
    facts.gate.clear()
    worker = Worker(database, {"facts": facts}, Metrics(), now=utc_now, pace=Pace(sweep=0.1))
    async with working(worker):
        await until(lambda: bool(facts.begun))
        connection = await asyncpg.connect(database_url)
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        await connection.execute(EXPIRE)
        facts.gate.set()
        await until(lambda: facts.done == [user])
        assert await connection.fetchval("SELECT done_seq FROM memory_work WHERE user_id = $1", user) == 2
        await connection.close()


async def test_a_user_who_is_gone_stops_no_lane(database: Database) -> None:
    gone, user = await someone(database), await someone(database)
    index = Fake(database)
    worker = Worker(database, {"index": index}, Metrics(), now=utc_now, pace=Pace(sweep=3600))
    await worker.sweep()
    async with database.transaction() as connection:
        await connection.execute("DELETE FROM users WHERE id = $1", gone)
    async with working(worker):
        await until(lambda: index.done == [user])


async def test_dead_work_is_counted(database: Database) -> None:
    user, metrics = await someone(database), Metrics()
    async with database.transaction() as connection:
        await connection.execute(
            "INSERT INTO memory_work (user_id, kind, dead, attempts) VALUES ($1, 'facts', true, 8)", user
        )
    worker = Worker(database, {"facts": Fake(database)}, metrics, now=utc_now)
    await worker.sweep()
    assert metrics.registry.get_sample_value("freya_memory_dead", {"kind": "facts"}) == 1


async def test_of_many_who_claim_one_gets_it(database: Database) -> None:
    user = await someone(database)
    claims = await asyncio.gather(*(taken(database, user, owner=f"worker-{n}") for n in range(8)))
    assert len([claim for claim in claims if claim]) == 1
    assert await taken(database, user, "facts") is not None
    assert await whose(database, "index") == []


async def test_a_claim_is_taken_over_after_its_lease_and_shut_out(database: Database) -> None:
    user = await someone(database)
    lost = await taken(database, user)
    assert lost is not None
    await expire(database)
    heir = await taken(database, user)
    assert heir is not None
    async with database.transaction() as connection:
        assert not await memory_work.renew(connection, lost)
        assert not await memory_work.complete(connection, lost, done_seq=2, now=utc_now())
        assert await memory_work.complete(connection, heir, done_seq=2, now=utc_now())
        assert not await memory_work.fail(connection, lost, code="timeout", now=utc_now())
        assert not await memory_work.release(connection, lost)
    assert await whose(database, "index") == []


async def test_the_cursor_never_goes_back(database: Database) -> None:
    user = await someone(database)
    claim = await taken(database, user)
    assert claim is not None
    async with database.transaction() as connection:
        assert await memory_work.complete(connection, claim, done_seq=2, now=utc_now())
        assert not await memory_work.complete(connection, claim, done_seq=1, now=utc_now())
        assert await memory_work.release(connection, claim)


async def test_failures_wait_longer_and_longer_until_the_work_is_given_up_and_revived(database: Database) -> None:
    user, now = await someone(database), utc_now()
    pauses: list[timedelta] = []
    for attempt in range(1, MOST_ATTEMPTS + 1):
        async with database.transaction() as connection:
            claim = await memory_work.claim(connection, user, "facts", owner=uuid4().hex, now=now)
            assert claim is not None
            assert claim.attempts == attempt - 1
            dead = await memory_work.fail(connection, claim, code="timeout", now=now)
            facts = (await memory_work.status(connection, user))[1]
        assert (facts.attempts, facts.error_code, facts.dead, dead) == (attempt, "timeout", attempt == 8, attempt == 8)
        assert facts.not_before is not None
        pauses.append(facts.not_before - now)
        assert await whose(database, "facts", now=now) == []
        now = facts.not_before
    assert pauses == [timedelta(minutes=m) for m in (1, 3, 9, 27, 81, 243, 360, 360)]
    assert await whose(database, "facts", now=now + LONG_AGO) == []
    async with database.transaction() as connection:
        assert await memory_work.claim(connection, user, "facts", owner="x", now=now + LONG_AGO) is None
        assert await due_work.dead(connection) == {"facts": 1}
        assert await memory_work.revive(connection, user, "facts")
        assert not await memory_work.revive(connection, user, "facts")
    assert await whose(database, "facts") == [user]


async def test_status_tells_of_each_kind_before_its_first_run(database: Database) -> None:
    user = await someone(database, messages=5)
    async with database.transaction() as connection:
        status = await memory_work.status(connection, user)
        assert [(s.kind, s.done_seq, s.unread, s.dead) for s in status] == [
            ("index", 0, 5, False),
            ("facts", 0, 5, False),
            ("topics", 0, 5, False),
        ]
        claim = await memory_work.claim(connection, user, "facts", owner="x", now=utc_now())
        assert claim is not None
        await memory_work.complete(connection, claim, done_seq=3, now=utc_now())
        assert [s.unread for s in await memory_work.status(connection, user)] == [5, 2, 5]


async def test_facts_are_due_after_six_messages_or_many_tokens_or_ten_minutes(database: Database) -> None:
    recent = timedelta(seconds=5)
    few = await someone(database, messages=10, ago=recent)
    six = await someone(database, messages=11, ago=recent)
    long = await someone(database, messages=2, ago=recent, text="word " * 500)
    idle = await someone(database, messages=1, ago=timedelta(minutes=11))
    assert set(await whose(database, "facts")) == {six, long, idle}
    async with database.reading() as connection:
        assert set(await due_work.due_among(connection, "facts", [few, six], now=utc_now())) == {six}
    assert set(await whose(database, "index")) == {few, six, long, idle}


async def test_a_turn_that_has_not_ended_is_not_read(database: Database) -> None:
    user = await someone(database, messages=13)
    async with database.transaction() as connection:
        await connection.execute(
            "INSERT INTO turns (user_id, id, conversation_id, state, position, first_event)"
            " SELECT user_id, gen_random_uuid(), id, 'queued', 1, 1 FROM conversations"
        )
    assert (await whose(database, "facts"), await whose(database, "index")) == ([], [user])
    async with database.transaction() as connection:
        await connection.execute("UPDATE turns SET position = 13")
    assert await whose(database, "facts") == [user]


async def test_what_is_skipped_is_not_due_and_work_on_it_writes_nothing(database: Database) -> None:
    user = await someone(database)
    claim = await taken(database, user, "facts")
    assert claim is not None
    async with database.transaction() as connection:
        await memory_work.skip(connection, user, "facts")
        assert not await memory_work.complete(connection, claim, done_seq=1, now=utc_now())
        await memory_work.release(connection, claim)
    assert (await whose(database, "facts"), (await state(database, user, "facts")).done_seq) == ([], 2)


async def test_a_conversation_is_due_for_topics_after_its_end_and_its_index(database: Database) -> None:
    ended = await someone(database, messages=1)
    going_on = await someone(database, messages=1, ago=timedelta(hours=5))
    assert await whose(database, "topics") == []
    async with database.transaction() as connection:
        await connection.execute("UPDATE messages SET segment = seq")
    assert await whose(database, "topics") == [ended]
    async with database.transaction() as connection:
        await said(connection, going_on, messages=1, until=utc_now())
    assert set(await whose(database, "topics")) == {ended, going_on}
