"""The log when something goes wrong under it: lost answers, eviction under a reader, another log, stalled peers."""

import asyncio
from typing import Any
from uuid import UUID

import asyncpg

from freya_gateway.db.events import StoredEvent
from freya_gateway.events.relay import Relay
from freya_gateway.events.types import Cursor, parse_token, utf16_length
from tests.integration.conftest import Core, core_on
from tests.model_server import Gated, ModelServer, Reply


async def all_events(core: Core, user: UUID, cursor: Cursor) -> list[StoredEvent]:
    async with core.reader(user, cursor) as reading:
        return await reading.until("reply")


async def test_an_append_whose_answer_was_lost_is_written_once(
    core: Core, model: ModelServer, database_url: str
) -> None:
    gate = Gated()
    model.script(gate)
    user = await core.user()
    sent = await core.send(user)
    await gate.send("first ")
    await asyncio.sleep(0.2)
    blocker = await asyncpg.connect(database_url)
    transaction = blocker.transaction()
    await transaction.start()
    await blocker.execute("SELECT 1 FROM streams WHERE user_id = $1 FOR UPDATE", user)
    await gate.send("second ")
    await asyncio.sleep(0.2)  # the append waits for the row now, in a backend that does not see its client go
    connection: Any = core.means.writer._connection  # pyright: ignore[reportPrivateUsage]
    connection.terminate()
    await gate.send("third ")
    await asyncio.sleep(0.3)
    await transaction.rollback()
    await blocker.close()
    await gate.finish()
    view = await core.ended(user, sent.turn_id)
    events = await all_events(core, user, sent.cursor)
    tokens = [parse_token(event.data) for event in events if event.kind == "token"]
    assert view.reply is not None
    assert "".join(token.text for token in tokens) == view.reply["message"] == "first second third "
    assert [t.off for t in tokens] == [sum(utf16_length(e.text) for e in tokens[:i]) for i in range(len(tokens))]
    assert (view.attempt, view.status) == (1, "complete")


async def test_a_log_that_is_evicted_under_a_reader_sends_it_back(
    core: Core, model: ModelServer, database_url: str
) -> None:
    model.script(Reply(["a", "b", "c"], gap=0.06))
    user = await core.user()
    sent = await core.send(user)
    await core.ended(user, sent.turn_id)
    reader = core.means.hub.join(user)
    opening = await core.means.log.open(reader, Cursor(sent.cursor.epoch, 1))
    assert opening.recovered
    connection = await asyncpg.connect(database_url)
    await connection.execute("UPDATE stream_events SET created_at = now() - interval '2 days' WHERE seq <= 4")
    await connection.close()
    await _relay(core).evict()
    reader.channel.tail.clear()
    async for batch in core.means.log.follow(reader):
        assert batch == []
        break
    core.means.hub.leave(reader)
    assert reader.bye is not None
    again = core.means.hub.join(user)
    assert (await core.means.log.open(again, Cursor(sent.cursor.epoch, 1))).reason == "evicted"
    core.means.hub.leave(again)


async def test_a_rebuilt_log_is_not_mixed_with_the_old_one(core: Core, model: ModelServer, database_url: str) -> None:
    model.script(Reply(["old"]))
    user = await core.user()
    old = core.means.hub.join(user)
    await core.means.log.open(old, None)
    await core.ended(user, (await core.send(user)).turn_id)
    connection = await asyncpg.connect(database_url)
    await connection.execute("DELETE FROM stream_events WHERE user_id = $1", user)
    await connection.execute("UPDATE streams SET epoch = 'rebuilt', head = 0 WHERE user_id = $1", user)
    await connection.close()
    new = core.means.hub.join(user)
    opening = await core.means.log.open(new, None)
    assert (opening.epoch, opening.head) == ("rebuilt", 0)
    assert (new.channel.head, new.channel.tail) == (0, [])
    assert old.bye is not None
    assert new.bye is None
    for reader in (old, new):
        core.means.hub.leave(reader)


async def test_a_stop_keeps_what_a_lost_attempt_had_said(database_url: str, clean: None, model: ModelServer) -> None:
    lost, silent = Gated(), Gated()
    model.script(lost, silent)
    async with core_on(database_url, model, owner="lost") as first:
        user = await first.user()
        sent = await first.send(user)
        await lost.send("half of it")
        await asyncio.sleep(0.3)
    async with core_on(database_url, model, owner="heir") as heir:
        await asyncio.wait_for(silent.wait_asked(), 10)
        await heir.turns.stop(user, sent.turn_id)
        view = await heir.ended(user, sent.turn_id)
    assert view.reply is not None
    assert (view.status, view.reply["message"]) == ("stopped", "half of it")


async def test_a_look_at_a_turn_that_ends_meanwhile_is_consistent(core: Core, model: ModelServer) -> None:
    model.script(*(Reply(["x"], delay=0.01) for _ in range(20)))
    for _ in range(20):
        user = await core.user()
        sent = await core.send(user)
        while (view := await core.turns.get(user, sent.turn_id)).state != "done":
            assert view.reply is None
        assert view.reply is not None
        assert view.status == view.reply["status"] == "complete"


async def test_a_wait_for_a_turn_that_is_over_answers_at_once(core: Core, model: ModelServer) -> None:
    model.script(Reply(["done"]))
    user = await core.user()
    sent = await core.send(user)
    await core.ended(user, sent.turn_id)
    async with asyncio.timeout(1):
        reply = await core.turns.wait(user, sent, seconds=30)
    assert reply is not None
    assert reply["message"] == "done"


async def test_an_outage_longer_than_the_lease_takes_no_turn_from_ourselves(
    core: Core, model: ModelServer, database_url: str
) -> None:
    gate = Gated()
    model.script(gate)
    user = await core.user()
    sent = await core.send(user)
    await gate.send("still ")
    connection = await asyncpg.connect(database_url)
    await connection.execute("UPDATE turns SET lease_expires_at = now() - interval '1 second'")
    core.supervisor._renewed_at -= 60  # pyright: ignore[reportPrivateUsage]
    await core.supervisor.sweep()
    await gate.send("here")
    await gate.finish()
    view = await core.ended(user, sent.turn_id)
    await connection.close()
    assert view.reply is not None
    assert (view.attempt, view.reply["message"]) == (1, "still here")


def _relay(core: Core) -> Relay:
    means = core.means
    return Relay(means.database, means.hub, sender="test", on_stop=core.supervisor.stop, retention=86_400)
