"""Learning when things go wrong: a model that fails at each step, a death before the commit, two that learn at once,
and a user who deletes or pauses while the model thinks. Nothing is learned twice, nothing is taken for nothing.
"""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from freya_gateway.db import facts, memory_work
from freya_gateway.db.engine import Database
from freya_gateway.db.memory_work import WorkClaim
from freya_gateway.errors import LostClaim, ModelError
from freya_gateway.memory.deletion import Deletion
from tests.model_server import Behaviour, Cut, Hang, ModelServer, Raw, Reply, Status, data
from tests.remembering import Life, living, operation

ROME = operation(statement="The user lives in Rome.", slot="home_city", kind="identity", value="Rome",
                 quote="I live in Rome")  # fmt: skip
ANSWER = {"operations": [ROME]}


@pytest.fixture
async def life(database: Database, database_url: str, model: ModelServer) -> AsyncGenerator[Life]:
    async with living(database, database_url, model) as one:
        await one.says("I live in Rome")
        yield one


async def cursor(life: Life) -> int:
    async with life.database.reading() as connection:
        return (await memory_work.status(connection, life.user_id))[1].done_seq


async def release(life: Life, claim: WorkClaim) -> None:
    async with life.database.transaction() as connection:
        await memory_work.release(connection, claim)


async def learned_once(life: Life, model: ModelServer) -> None:
    """The work, done by whoever comes next, leaves exactly one fact of one source and one addition."""
    model.script_for("Extraction", data(ANSWER))
    claim = await life.claim()
    await life.work.run(claim)
    (fact,) = await life.facts(*facts.CURRENT, "superseded", "retracted")
    _, sources = await life.service.get(life.user_id, fact.id)
    history = await life.service.history(life.user_id, fact.id)
    assert (fact.confirmations, len(sources), [event.action for event in history]) == (1, 1, ["add"])
    assert [kind for kind, _ in await life.events()] == ["memory"]
    assert await cursor(life) == 1


@pytest.mark.parametrize(
    ("behaviour", "code"),
    [
        (Status(429), "rate_limited"),
        (Status(500), "upstream_error"),
        (Status(400), "rejected"),
        (Cut(headers=False), "unreachable"),
        (Cut(), "unreachable"),
        (Hang(), "timeout"),
        (Raw([b"<html>502 Bad Gateway</html>"]), "malformed_answer"),
        (Reply(("Sure! Here are the facts:",)), "malformed_answer"),
        (Reply(('{"operations": [{"reason": "the us',)), "malformed_answer"),
        (Reply(('{"operations": []}',), finish="length"), "cut_short"),
        (Reply(('{"operations": []}',), finish="content_filter"), "refused"),
        (data({"facts": []}), "malformed_answer"),
        (data({"operations": [ROME | {"op": "replace"}]}), "malformed_answer"),
        (data({"operations": [ROME | {"seq": "1"}]}), "malformed_answer"),
        (data({"operations": [{"op": "add"}]}), "malformed_answer"),
        (data([]), "malformed_answer"),
        (data(None), "malformed_answer"),
    ],
)
async def test_a_failure_is_never_nothing_to_remember(
    life: Life, model: ModelServer, behaviour: Behaviour, code: str
) -> None:
    model.script_for("Extraction", behaviour)
    claim = await life.claim()
    with pytest.raises(ModelError) as failure:
        await life.work.run(claim)
    assert failure.value.code == code
    assert (await life.facts(), await life.events(), await cursor(life)) == ([], [], 0)
    await release(life, claim)
    await learned_once(life, model)


async def test_a_failure_keeps_what_earlier_windows_brought(life: Life, model: ModelServer) -> None:
    for number in range(25):
        await life.says(f"Message {number}")
    model.script_for("Extraction", data(ANSWER), Status(500))
    with pytest.raises(ModelError):
        await life.work.run(await life.claim())
    assert (len(await life.facts()), await cursor(life)) == (1, 20)


async def test_a_death_between_answer_and_commit_doubles_nothing(life: Life, model: ModelServer) -> None:
    claim = await life.claim()
    model.script_for("Extraction", Reply((data(ANSWER).pieces[0],), delay=0.3))
    work = asyncio.create_task(life.work.run(claim))
    await model.wait_structured()
    async with life.database.transaction() as connection:
        await facts.lock(connection, life.user_id)
        await _waiting(life)
        work.cancel()
        await asyncio.wait({work})
    assert work.cancelled()
    assert (await life.facts(), await cursor(life)) == ([], 0)
    await release(life, claim)
    await learned_once(life, model)


async def test_who_lost_the_claim_writes_nothing(life: Life, model: ModelServer) -> None:
    claim = await life.claim()
    model.script_for("Extraction", Reply((data(ANSWER).pieces[0],), delay=0.3))
    slow = asyncio.create_task(life.work.run(claim))
    await model.wait_structured()
    await release(life, claim)
    await learned_once(life, model)
    with pytest.raises(LostClaim):
        await slow
    assert len(await life.facts(*facts.CURRENT, "superseded", "retracted")) == 1


async def test_a_message_deleted_meanwhile_leaves_no_fact(life: Life, model: ModelServer) -> None:
    model.script_for("Extraction", Reply((data(ANSWER).pieces[0],), delay=0.3))
    slow = asyncio.create_task(life.work.run(await life.claim()))
    await model.wait_structured()
    await Deletion(life.database, lambda: life.now).message(life.user_id, life.ids[0], with_reply=False)
    await slow
    assert "Rome" not in await life.everything()


async def test_a_pause_meanwhile_learns_nothing(life: Life, model: ModelServer) -> None:
    model.script_for("Extraction", Reply((data(ANSWER).pieces[0],), delay=0.3))
    slow = asyncio.create_task(life.work.run(await life.claim()))
    await model.wait_structured()
    async with life.database.transaction() as connection:
        await connection.execute("UPDATE users SET memory_paused = true")
    await slow
    assert (await life.facts(), await cursor(life)) == ([], 1)


async def test_what_was_forgotten_meanwhile_stays_so(life: Life, model: ModelServer) -> None:
    (fact,) = await life.learn(ROME)
    seq = await life.says("Yes, I live in Rome")
    confirm = ROME | {"op": "confirm", "target": 0, "seq": [seq]}
    again = data({"operations": [confirm, confirm | {"op": "add", "target": None}]})
    model.script_for("Extraction", Reply(again.pieces, delay=0.3))
    slow = asyncio.create_task(life.work.run(await life.claim()))
    await model.wait_structured(2)
    await life.service.forget(life.user_id, fact.id)
    await slow
    assert await life.facts() == []


async def test_hostile_answers_change_nothing_and_break_nothing(life: Life) -> None:
    wild = [
        ROME | {"op": "supersede", "target": 10**9, "quote": "nowhere"},
        ROME | {"op": "retract", "target": -1},
        ROME | {"op": "confirm", "target": None, "statement": ""},
        ROME | {"seq": [10**18]},
        ROME | {"slot": "x" * 10_000, "statement": "a\u0000b"},
        ROME | {"subject": "\u0000", "statement": "The user lives in Rome\u0000."},
        ROME | {"slot": "", "subject": "", "value": "R" * 10_000},
        ROME | {"valid_from": "9999-99-99", "kind": "plan", "statement": "The user lives in Rome in 99999 years."},
        ROME | {"quote": "I live in Rome" * 1000},
    ]
    held = await life.learn(*wild, ROME | {"valid_from": "yesterday"})
    assert "The user lives in Rome." in [fact.statement for fact in held]
    assert all(len(fact.slot) <= 40 and "\x00" not in fact.subject for fact in held)


async def _waiting(life: Life) -> None:
    """Until the work stands before a lock."""
    async with asyncio.timeout(5), life.database.reading() as connection:
        while not await connection.fetchval("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"):
            await asyncio.sleep(0.01)
