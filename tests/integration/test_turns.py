"""The life of a turn: one reply for every accepted message, whatever comes in between."""

import asyncio
from uuid import UUID, uuid4

import asyncpg
import pytest

from freya_gateway.errors import Conflict, Invalid, NotFound, TooLarge, TooManyRequests, Unavailable
from freya_gateway.events.types import parse_token
from freya_gateway.turns.replies import FALLBACK_WORDS, FILTERED_WORDS
from tests.integration.conftest import LEASE, Core, core_on
from tests.model_server import (
    Cut,
    Empty,
    Garbage,
    Gated,
    Hang,
    ModelServer,
    NoFinish,
    Reply,
    Status,
)


async def test_a_message_becomes_a_stored_reply_and_its_events(core: Core, model: ModelServer) -> None:
    model.script(Reply(["Hel", "lo ", "you"]))
    user = await core.user()
    sent = await core.send(user, "Hi")
    async with core.reader(user, sent.cursor) as reading:
        events = await reading.until("reply")
    assert events[0].seq == 1
    kinds = [event.kind for event in events]
    assert kinds[:2] == ["listening", "thinking"]
    assert kinds[-1] == "reply"
    assert "".join(parse_token(e.data).text for e in events if e.kind == "token") == "Hello you"
    view = await core.turns.get(user, sent.turn_id)
    assert view.reply is not None
    assert (view.status, view.reply["message"], view.reply["length"]) == ("complete", "Hello you", 9)
    assert model.requests[0].body["messages"][-1] == {"role": "user", "content": "Hi"}


async def test_the_next_prompt_holds_what_was_said(core: Core, model: ModelServer) -> None:
    model.script(Reply(["One."]), Reply(["Two."]))
    user = await core.user()
    for words in ("First", "Second"):
        await core.ended(user, (await core.send(user, words)).turn_id)
    said = [(m["role"], m["content"]) for m in model.requests[1].body["messages"]][1:]
    assert said == [("user", "First"), ("assistant", "One."), ("user", "Second")]


async def test_the_same_client_message_id_is_the_same_turn(core: Core, model: ModelServer) -> None:
    user, ours = await core.user(), uuid4()
    sends = await asyncio.gather(*(core.send(user, "Hi", client_message_id=ours) for _ in range(5)))
    assert len({sent.turn_id for sent in sends}) == 1
    assert [sent.listening is None for sent in sends].count(True) == 4
    await core.ended(user, sends[0].turn_id)
    assert len(model.requests) == 1
    again = await core.send(user, "Hi", client_message_id=ours)
    assert (again.turn_id, again.state, again.cursor) == (sends[0].turn_id, "done", sends[0].cursor)


async def test_the_same_client_message_id_with_another_text_is_refused(core: Core) -> None:
    user, ours = await core.user(), uuid4()
    await core.send(user, "Hi", client_message_id=ours)
    with pytest.raises(Conflict, match="client_message_id_reused"):
        await core.send(user, "Ho", client_message_id=ours)


async def test_messages_queue_behind_a_running_turn_in_order(core: Core, model: ModelServer) -> None:
    first = Gated()
    model.script(first, Reply(["b"]), Reply(["c"]))
    user = await core.user()
    one = await core.send(user, "1")
    two, three = await core.send(user, "2"), await core.send(user, "3")
    assert [one.state, two.state, three.state] == ["running", "queued", "queued"]
    await first.send("a")
    await first.finish()
    async with core.reader(user, one.cursor) as reading:
        events = await reading.until("reply", count=3)
    assert [e.turn_id for e in events if e.kind == "reply"] == [one.turn_id, two.turn_id, three.turn_id]
    said = [m["content"] for m in model.requests[2].body["messages"]][1:]
    assert said == ["1", "a", "2", "b", "3"]


async def test_interrupt_keeps_the_partial_reply_and_runs_next(core: Core, model: ModelServer) -> None:
    first = Gated()
    model.script(first, Reply(["now"]), Reply(["later"]))
    user = await core.user()
    one, two = await core.send(user, "1"), await core.send(user, "2")
    await first.send("partial")
    await _until_said(core, user, one.turn_id)
    urgent = await core.send(user, "3", if_busy="interrupt")
    views = [await core.ended(user, sent.turn_id) for sent in (one, two, urgent)]
    assert [view.status for view in views] == ["stopped", "complete", "complete"]
    assert [view.reply and view.reply["message"] for view in views] == ["partial", "later", "now"]
    await model.wait_disconnect()


async def test_reject_refuses_while_a_turn_runs(core: Core, model: ModelServer) -> None:
    model.script(Gated())
    user = await core.user()
    await core.send(user, "1")
    with pytest.raises(Conflict, match="busy"):
        await core.send(user, "2", if_busy="reject")


async def test_the_queue_has_an_end(core: Core, model: ModelServer) -> None:
    model.script(Gated())
    user = await core.user()
    with pytest.raises(TooManyRequests, match="queue_full"):
        for number in range(40):
            await core.send(user, str(number))


async def test_stop_in_mid_reply_keeps_what_was_said_and_hangs_up(core: Core, model: ModelServer) -> None:
    gate = Gated()
    model.script(gate)
    user = await core.user()
    sent = await core.send(user)
    await gate.send("so far")
    await _until_said(core, user, sent.turn_id)
    await core.turns.stop(user, sent.turn_id)
    view = await core.ended(user, sent.turn_id)
    assert view.reply is not None
    assert (view.status, view.reply["message"]) == ("stopped", "so far")
    await model.wait_disconnect()
    assert (await core.turns.stop(user, sent.turn_id)).status == "stopped"


async def test_stop_before_the_first_piece_and_while_queued(core: Core, model: ModelServer) -> None:
    gate = Gated()
    model.script(gate)
    user = await core.user()
    running, queued = await core.send(user, "1"), await core.send(user, "2")
    stopped = await core.turns.stop(user, queued.turn_id)
    assert (stopped.state, stopped.status) == ("done", "stopped")
    await gate.wait_asked()
    await core.turns.stop(user, running.turn_id)
    assert (await core.ended(user, running.turn_id)).status == "stopped"
    assert len(model.requests) == 1


@pytest.mark.parametrize(
    ("behaviour", "status", "words", "code"),
    [
        (Status(500), "fallback", FALLBACK_WORDS, "upstream_error"),
        (Status(429), "fallback", FALLBACK_WORDS, "rate_limited"),
        (Hang(before="headers"), "fallback", FALLBACK_WORDS, "timeout"),
        (Garbage(), "fallback", FALLBACK_WORDS, "broken_stream"),
        (Empty(), "fallback", FALLBACK_WORDS, "empty_reply"),
        (Cut(after=2), "interrupted", "0 1 ", "broken_stream"),
        (Hang(before="piece", after=1), "interrupted", None, "timeout"),
        (NoFinish(["so ", "far"]), "interrupted", "so far", "no_finish_reason"),
        (Reply(["long"], finish="length"), "length", "long", None),
        (Reply(["some"], finish="content_filter"), "filtered", "some", None),
        (Reply([], finish="content_filter"), "filtered", FILTERED_WORDS, None),
    ],
)
async def test_each_failure_of_the_model_has_its_reply(
    core: Core, model: ModelServer, behaviour: object, status: str, words: str | None, code: str | None
) -> None:
    model.script(behaviour)  # pyright: ignore[reportArgumentType]
    user = await core.user()
    sent = await core.send(user)
    async with core.reader(user, sent.cursor) as reading:
        events = await reading.until("reply")
    view = await core.ended(user, sent.turn_id)
    assert view.reply is not None
    assert view.status == status
    streamed = "".join(parse_token(e.data).text for e in events if e.kind == "token")
    assert streamed == view.reply["message"]
    assert words is None or streamed == words
    assert view.reply.get("error", {}).get("code") == code


@pytest.mark.parametrize(
    ("text", "error", "code"),
    [
        ("", Invalid, "empty_text"),
        (" \n\t", Invalid, "empty_text"),
        ("a\x00b", Invalid, "nul_in_text"),
        ("a\ud83db", Invalid, "lone_surrogate"),
        ("word " * 20_000, TooLarge, "message_too_long"),
    ],
)
async def test_unusable_words_are_refused_and_nothing_is_written(
    core: Core, database_url: str, text: str, error: type[Exception], code: str
) -> None:
    user = await core.user()
    with pytest.raises(error, match=code):
        await core.send(user, text)
    assert await _count(database_url, "turns", user) == await _count(database_url, "stream_events", user) == 0


async def test_a_stranger_finds_nothing(core: Core) -> None:
    mine, stranger = await core.user(), await core.user()
    sent = await core.send(mine)
    with pytest.raises(NotFound):
        await core.turns.get(stranger, sent.turn_id)
    with pytest.raises(NotFound):
        await core.turns.stop(stranger, sent.turn_id)
    assert (await core.ended(mine, sent.turn_id)).status == "complete"


async def test_a_draining_server_accepts_nothing(core: Core) -> None:
    user = await core.user()
    core.turns.accepting = False
    with pytest.raises(Unavailable, match="draining"):
        await core.send(user)


async def test_a_lost_turn_is_taken_over_from_its_beginning(database_url: str, clean: None, model: ModelServer) -> None:
    lost = Gated()
    model.script(lost, Reply(["whole"]))
    async with core_on(database_url, model, owner="lost") as first:
        user = await first.user()
        sent = await first.send(user)
        await lost.send("half")
        await _until_said(first, user, sent.turn_id)
    async with core_on(database_url, model, owner="heir") as heir:
        view = await heir.ended(user, sent.turn_id)
        async with heir.reader(user, sent.cursor) as reading:
            events = await reading.until("reply")
    assert view.reply is not None
    assert (view.attempt, view.reply["message"]) == (2, "whole")
    tokens = [parse_token(e.data) for e in events if e.kind == "token"]
    assert [(t.attempt, t.off, t.text) for t in tokens] == [(1, 0, "half"), (2, 0, "whole")]


async def test_after_two_lost_attempts_the_reply_is_a_fallback(
    database_url: str, clean: None, model: ModelServer
) -> None:
    gates = [Gated(), Gated()]
    model.script(*gates)
    user = sent = None
    for number, gate in enumerate(gates):
        async with core_on(database_url, model, owner=f"lost-{number}") as core:
            user = user or await core.user()
            sent = sent or await core.send(user)
            await asyncio.wait_for(gate.wait_asked(), 10)
    assert user is not None
    assert sent is not None
    async with core_on(database_url, model, owner="heir") as heir:
        view = await heir.ended(user, sent.turn_id)
    assert (view.status, view.attempt, len(model.requests)) == ("fallback", 3, 2)


async def test_a_fenced_writer_writes_nothing(database_url: str, clean: None, model: ModelServer) -> None:
    stale = Gated()
    model.script(stale, Reply(["whole"]))
    async with (
        core_on(database_url, model, owner="stale", hangs=True) as first,
        core_on(database_url, model, owner="heir") as heir,
    ):
        user = await first.user()
        sent = await first.send(user)
        await stale.send("half")
        await _until_said(first, user, sent.turn_id)
        await _expire(database_url, sent.turn_id)
        await heir.supervisor.sweep()
        view = await heir.ended(user, sent.turn_id)
        await stale.send("never seen")
        await model.wait_disconnect()
        async with heir.reader(user, sent.cursor) as reading:
            events = await reading.until("reply")
    assert view.reply is not None
    assert view.reply["message"] == "whole"
    assert "never seen" not in "".join(event.data for event in events)
    assert [event.seq for event in events] == sorted({event.seq for event in events})


async def test_another_replica_stops_a_turn(database_url: str, clean: None, model: ModelServer) -> None:
    gate = Gated()
    model.script(gate)
    async with core_on(database_url, model, owner="runs") as one, core_on(database_url, model, owner="asks") as other:
        user = await one.user()
        sent = await one.send(user)
        await gate.send("so far")
        await _until_said(one, user, sent.turn_id)
        await other.turns.stop(user, sent.turn_id)
        assert (await other.ended(user, sent.turn_id)).status == "stopped"


async def test_another_replica_reads_along(database_url: str, clean: None, model: ModelServer) -> None:
    model.script(Reply(["a", "b", "c"], gap=0.1))
    async with core_on(database_url, model, owner="runs") as one, core_on(database_url, model, owner="reads") as other:
        user = await one.user()
        sent = await one.send(user)
        async with other.reader(user, sent.cursor) as reading:
            events = await reading.until("reply")
    assert "".join(parse_token(e.data).text for e in events if e.kind == "token") == "abc"


async def test_a_drain_gives_unfinished_turns_back(database_url: str, clean: None, model: ModelServer) -> None:
    model.script(Gated(), Reply(["done elsewhere"]))
    async with core_on(database_url, model, owner="leaves") as leaving:
        user = await leaving.user()
        sent = await leaving.send(user)
        await model.wait_requests()
        await leaving.supervisor.drain(0.1)
    async with core_on(database_url, model, owner="stays") as staying:
        view = await staying.ended(user, sent.turn_id)
    assert view.reply is not None
    assert (view.reply["message"], view.attempt) == ("done elsewhere", 2)


async def test_one_running_turn_per_user_even_without_the_lock(
    core: Core, model: ModelServer, database_url: str
) -> None:
    model.script(Gated())
    user = await core.user()
    await core.send(user, "1")
    queued = await core.send(user, "2")
    connection = await asyncpg.connect(database_url)
    with pytest.raises(asyncpg.UniqueViolationError, match="uq_turns_one_running"):
        await connection.execute(
            "UPDATE turns SET state = 'running', owner = 'x', lease_expires_at = now() WHERE id = $1", queued.turn_id
        )
    await connection.close()


async def test_leases_are_renewed_while_a_turn_runs(core: Core, model: ModelServer) -> None:
    gate = Gated()
    model.script(gate)
    user = await core.user()
    sent = await core.send(user)
    for piece in "abcde":
        await gate.send(piece)
        await asyncio.sleep(LEASE / 2)
    await gate.finish()
    view = await core.ended(user, sent.turn_id)
    assert (view.attempt, view.status) == (1, "complete")


async def _until_said(core: Core, user: UUID, turn_id: UUID) -> None:
    view = await core.turns.get(user, turn_id)
    async with core.reader(user) as reading:
        reading.cursor = None
        opening = await core.means.log.open(reading.reader, None, turn_start=view.first_event)
        assert opening.epoch
        async with asyncio.timeout(10):
            async for batch in core.means.log.follow(reading.reader):
                if any(event.kind == "token" for event in batch):
                    return


async def _count(database_url: str, table: str, user: UUID) -> int:
    connection = await asyncpg.connect(database_url)
    count: int = await connection.fetchval(f"SELECT count(*) FROM {table} WHERE user_id = $1", user)
    await connection.close()
    return count


async def _expire(database_url: str, turn_id: UUID) -> None:
    connection = await asyncpg.connect(database_url)
    await connection.execute("UPDATE turns SET lease_expires_at = now() - interval '1 second' WHERE id = $1", turn_id)
    await connection.close()
