"""The wire, as the cockpit and curl meet it: a real uvicorn, real sockets."""

import asyncio
import json
import random
from typing import Any
from uuid import uuid4

import aiohttp
import asyncpg
import pytest

from freya_gateway.events.types import utf16_length
from tests.gateway import Running, authenticated, bearer, running, settings_for
from tests.model_server import Gated, ModelServer, Raw, Reply, chunk, expected_reply
from tests.sse import Event, Parser, Transcript

QUICK_BEATS: dict[str, Any] = {"beat_seconds": 0.3}


def names(events: list[Event]) -> list[str]:
    return [event.name for event in events]


async def test_a_post_streams_one_turn_and_ends(freya: Running, model: ModelServer) -> None:
    model.script(Reply(["Hel", "lo ", "you"], gap=0.05))
    async with freya.stream(send={"text": "Hi"}) as stream:
        events = await stream.rest()
        headers = stream.response.headers
    assert names(events)[:4] == ["ready", "listening", "thinking", "token"]
    assert names(events)[-1] == "reply"
    assert "".join(e.data["text"] for e in events if e.name == "token") == events[-1].data["message"] == "Hello you"
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert headers["cache-control"] == "no-store, no-transform"
    assert headers["x-accel-buffering"] == "no"
    assert stream.parser.retry in range(1000, 3001)
    assert [e.seq for e in events[1:]] == list(range(1, len(events)))


async def test_the_reply_says_everything_that_the_protocol_names(freya: Running, model: ModelServer) -> None:
    usage = {"prompt_tokens": 20, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 16}}
    model.script(Reply(["Hi 🙂"], usage=usage))
    async with freya.stream(send={"text": "Hi"}) as stream:
        reply = (await stream.rest())[-1].data
    assert set(reply) == {
        "turn", "message", "message_id", "created_at", "status", "finish_reason", "length", "usage", "ttft_ms", "memory"
    }  # fmt: skip
    assert (reply["status"], reply["finish_reason"], reply["length"]) == ("complete", "stop", 5)
    assert reply["usage"] == {"prompt_tokens": 20, "completion_tokens": 3, "cached_tokens": 16}
    assert reply["memory"] == {"facts": [], "topics": []}
    stored = (await freya.get("/v1/messages"))["messages"]
    assert (stored[0]["id"], stored[0]["text"]) == (reply["message_id"], reply["message"])


async def test_a_stream_lives_across_turns(freya: Running, model: ModelServer) -> None:
    model.script(Reply(["one"]), Reply(["two"]))
    async with freya.stream() as stream:
        ready = await stream.next()
        await freya.send("1")
        first = await stream.until("reply")
        await freya.send("2")
        second = await stream.until("reply")
    assert (ready.data["phase"], ready.data["recovered"], ready.data["reason"]) == ("idle", False, "fresh")
    assert [first[-1].data["message"], second[-1].data["message"]] == ["one", "two"]
    seqs = [event.seq for event in first + second]
    assert seqs == list(range(1, len(seqs) + 1))


async def test_every_reader_sees_the_same(freya: Running, model: ModelServer) -> None:
    model.script(Reply([f"{n} " for n in range(50)], gap=0.01))
    streams = [freya.stream() for _ in range(4)]
    opened = [await stream.__aenter__() for stream in streams]
    for one in opened:
        await one.next()
    await freya.send()
    seen = await asyncio.gather(*(one.until("reply") for one in opened))
    for stream in streams:
        await stream.__aexit__(None, None, None)
    assert seen[0] == seen[1] == seen[2] == seen[3]


async def test_resume_replays_exactly_what_was_missed(freya: Running, model: ModelServer) -> None:
    model.script(Reply(["a", "b", "c"], gap=0.06), Reply(["d"]))
    async with freya.stream(send={"text": "1"}) as stream:
        events = (await stream.rest())[1:]
    for last in events:
        async with freya.stream(headers={"last-event-id": last.id}) as again:
            ready = await again.next()
            missed = [await again.next() for _ in range(len(names(_merged(events[events.index(last) + 1 :]))))]
        assert (ready.data["recovered"], ready.data["reason"]) == (True, None)
        assert ready.data["replay"] == events[-1].seq - last.seq
        assert missed == _merged(events[events.index(last) + 1 :])


def _merged(events: list[Event]) -> list[Event]:
    merged: list[Event] = []
    for event in events:
        if merged and merged[-1].name == event.name == "token":
            data = merged[-1].data | {"text": merged[-1].data["text"] + event.data["text"]}
            merged[-1] = Event("token", data, event.id)
        else:
            merged.append(event)
    return merged


async def test_the_header_wins_over_the_query(freya: Running) -> None:
    async with freya.stream(send={"text": "1"}) as stream:
        events = (await stream.rest())[1:]
    first, last = events[0].id, events[-1].id
    async with freya.stream(f"/v1/stream?after={first}", headers={"last-event-id": last}) as again:
        assert (await again.next()).data["replay"] == 0
    async with freya.stream(f"/v1/stream?after={first}") as again:
        assert (await again.next()).data["replay"] == len(events) - 1


@pytest.mark.parametrize("cursor", ["nonsense", "e.-1", "e.1.2", "9", "%00.1", "e.1;drop"])
async def test_a_malformed_cursor_is_400(freya: Running, cursor: str) -> None:
    async with freya.http.get(f"{freya.url}/v1/stream?after={cursor}") as response:
        assert response.status == 400
        problem = await response.json()
    assert problem["code"] == "bad_cursor"
    assert "{epoch}.{seq}" in problem["detail"]


async def test_a_cursor_that_is_not_of_this_log_is_never_replayed(
    freya: Running, database_url: str, model: ModelServer
) -> None:
    async with freya.stream(send={"text": "1"}) as stream:
        events = await stream.rest()
    epoch, head = events[0].data["epoch"], events[-1].seq
    for cursor, reason in ((f"{epoch}.{head + 1}", "ahead"), (f"0{epoch[1:]}x.1", "epoch")):
        async with freya.stream(f"/v1/stream?after={cursor}") as again:
            ready = await again.next()
        assert (ready.data["recovered"], ready.data["reason"], ready.data["phase"]) == (False, reason, "idle")
    connection = await asyncpg.connect(database_url)
    await connection.execute("UPDATE stream_events SET created_at = now() - interval '2 days' WHERE seq < 3")
    await connection.close()
    await _evict(freya)
    async with freya.stream(f"/v1/stream?after={epoch}.1") as again:
        assert (await again.next()).data["reason"] == "evicted"
    async with freya.stream(f"/v1/stream?after={epoch}.2") as again:
        assert (await again.next()).data["recovered"] is True
    assert len((await freya.get("/v1/messages"))["messages"]) == 2


async def _evict(freya: Running) -> None:
    from freya_gateway.events.relay import Relay

    gateway = freya.gateway
    relay = Relay(gateway.database, gateway.hub, sender="test", on_stop=gateway.supervisor.stop, retention=86_400)
    await relay.evict()


async def test_a_late_reader_finds_the_running_turn_as_it_stands(freya: Running, model: ModelServer) -> None:
    gate = Gated()
    model.script(gate)
    await freya.send("Hi")
    for piece in ("so ", "far"):
        await gate.send(piece)
        await asyncio.sleep(0.1)
    async with freya.stream() as stream:
        ready = await stream.next()
        state = await stream.until("token")
        await gate.send(" and on")
        await gate.finish()
        rest = await stream.until("reply")
    assert (ready.data["phase"], ready.data["reason"]) == ("replying", "fresh")
    assert names(state) == ["listening", "thinking", "token"]
    assert state[-1].data["text"] == "so far"
    transcript = Transcript()
    transcript.take(state + rest)
    assert list(transcript.texts.values()) == ["so far and on"]
    assert (transcript.doubled, transcript.missing) == (0, 0)


async def test_one_turn_mode_ends_with_its_turn_and_204_after(freya: Running, model: ModelServer) -> None:
    first = Gated()
    model.script(first, Reply(["other"]))
    one, two = await freya.send("1"), await freya.send("2")
    await first.send("mine")
    await first.finish()
    async with freya.stream(f"/v1/stream?turn={one['turn']}") as stream:
        events = await stream.rest()
    assert {e.data["turn"] for e in events if e.id} == {one["turn"]}
    assert events[-1].data["message"] == "mine"
    async with freya.stream(f"/v1/stream?turn={two['turn']}") as stream:
        assert (await stream.rest())[-1].data["message"] == "other"
    async with freya.http.get(
        f"{freya.url}/v1/stream?turn={one['turn']}", headers={"last-event-id": events[-1].id or ""}
    ) as response:
        assert response.status == 204
    async with freya.http.get(f"{freya.url}/v1/stream?turn={uuid4()}") as response:
        assert response.status == 404


async def test_one_turn_mode_still_tells_a_reply_that_left_the_log(
    freya: Running, database_url: str, model: ModelServer
) -> None:
    model.script(Reply(["kept"]))
    sent = await freya.send("1")
    async with freya.stream(f"/v1/stream?turn={sent['turn']}") as stream:
        await stream.rest()
    connection = await asyncpg.connect(database_url)
    await connection.execute("UPDATE stream_events SET created_at = now() - interval '2 days'")
    await connection.close()
    await _evict(freya)
    async with freya.stream(f"/v1/stream?turn={sent['turn']}") as stream:
        events = await stream.rest()
    assert names(events) == ["ready", "reply"]
    assert (events[1].data["message"], events[1].id) == ("kept", None)


async def test_the_same_send_again_shows_the_same_turn(freya: Running, model: ModelServer) -> None:
    model.script(Reply(["once"]))
    body = {"text": "Hi", "client_message_id": str(uuid4())}
    async with freya.stream(send=body) as stream:
        first = await stream.rest()
    async with freya.stream(send=body) as stream:
        again = await stream.rest()
    assert again[1:] == _merged(first[1:])
    assert len(model.requests) == 1


async def test_the_same_send_again_after_its_reply_was_read_just_ends(freya: Running, model: ModelServer) -> None:
    model.script(Reply(["once"]))
    body = {"text": "Hi", "client_message_id": str(uuid4())}
    async with freya.stream(send=body) as stream:
        last = (await stream.rest())[-1].id
    async with asyncio.timeout(5), freya.stream(send=body, headers={"last-event-id": last}) as stream:
        assert names(await stream.rest()) == ["ready"]


async def test_a_peer_that_takes_nothing_is_cut(database_url: str, clean: None, model: ModelServer) -> None:
    model.script(Reply(["x" * 20_000] * 1000, gap=0.002))
    settings = settings_for(database_url, model.base_url, slow_seconds=0.3)
    async with running(settings) as freya:
        _, writer = await asyncio.open_connection("127.0.0.1", int(freya.url.rpartition(":")[2]), limit=1024)
        writer.write(b"GET /v1/stream HTTP/1.1\r\nhost: localhost\r\n\r\n")
        await asyncio.sleep(0.3)
        assert freya.gateway.hub.open == 1
        await freya.send()
        async with asyncio.timeout(10):
            await freya.gateway.hub.emptied()
        writer.close()


async def test_leaving_is_not_stopping(freya: Running, model: ModelServer) -> None:
    gate = Gated()
    model.script(gate)
    async with freya.stream(send={"text": "Hi"}) as stream:
        turn = (await stream.until("listening"))[-1].data["turn"]
    await gate.send("all ", "of it")
    await gate.finish()
    async with freya.stream(f"/v1/stream?turn={turn}") as stream:
        reply = (await stream.rest())[-1]
    assert (reply.data["status"], reply.data["message"]) == ("complete", "all of it")


async def test_a_waiting_send_gives_the_reply(freya: Running, model: ModelServer) -> None:
    model.script(Reply(["now"]), Gated())
    async with freya.http.post(f"{freya.url}/v1/messages?wait=5", json={"text": "1"}) as response:
        body = await response.json()
        assert response.status == 200
    assert (body["state"], body["reply"]["message"]) == ("done", "now")
    async with freya.http.post(f"{freya.url}/v1/messages?wait=0.2", json={"text": "2"}) as response:
        assert response.status == 202
        assert "reply" not in await response.json()


async def test_beats_come_from_the_first_second_on(database_url: str, clean: None, model: ModelServer) -> None:
    async with (
        running(settings_for(database_url, model.base_url, **QUICK_BEATS)) as freya,
        freya.stream() as stream,
    ):
        ready = await stream.next()
        async with asyncio.timeout(5):
            beats = [(await stream.until("beat"))[-1] for _ in range(3)]
    assert ready.data["beat_ms"] == 300
    assert all(beat.id is None and beat.data == {"head": 0} for beat in beats)


async def test_a_stream_rotates(database_url: str, clean: None, model: ModelServer) -> None:
    settings = settings_for(database_url, model.base_url, rotate_seconds=1.0)
    async with running(settings) as freya, freya.stream() as stream:
        async with asyncio.timeout(5):
            events = await stream.rest()
    assert (events[-1].name, events[-1].data["reason"], events[-1].data["final"]) == ("bye", "rotate", False)


async def test_a_stream_ends_with_its_credential(database_url: str, clean: None, model: ModelServer) -> None:
    async with running(settings_for(database_url, model.base_url, **authenticated())) as freya:
        async with freya.stream(headers=bearer("ana", seconds=2)) as stream, asyncio.timeout(40):
            events = await stream.rest()
    assert (events[-1].name, events[-1].data["reason"]) == ("bye", "auth")


async def test_the_oldest_stream_of_too_many_gives_way(database_url: str, clean: None, model: ModelServer) -> None:
    async with running(settings_for(database_url, model.base_url, streams_per_user=2)) as freya:
        async with freya.stream() as first, freya.stream() as second:
            await first.next()
            await second.next()
            async with freya.stream() as third:
                await third.next()
                bye = (await first.rest())[-1]
                await freya.send()
                assert (await second.until("reply"))[-1].data["message"]
    assert (bye.name, bye.data["reason"], bye.data["final"]) == ("bye", "superseded", True)


async def test_a_superseded_ticket_is_told_to_stay_away(database_url: str, clean: None, model: ModelServer) -> None:
    settings = settings_for(database_url, model.base_url, streams_per_user=1, **authenticated())
    async with running(settings) as freya:
        async with freya.http.post(f"{freya.url}/v1/stream/tickets", headers=bearer("ana")) as response:
            ticket = (await response.json())["ticket"]
        async with freya.stream(f"/v1/stream?ticket={ticket}") as first:
            await first.next()
            async with freya.stream(headers=bearer("ana")) as second:
                await second.next()
                assert (await first.rest())[-1].data["final"] is True
                async with freya.http.get(f"{freya.url}/v1/stream?ticket={ticket}") as again:
                    assert again.status == 204


async def test_a_full_server_says_come_back_with_200(database_url: str, clean: None, model: ModelServer) -> None:
    async with running(settings_for(database_url, model.base_url, max_streams=1)) as freya:
        async with freya.stream() as first:
            await first.next()
            async with freya.stream() as second:
                events = await second.rest()
            assert second.parser.retry is not None
            assert second.parser.retry >= 5000
    assert [(e.name, e.data["reason"], e.data["final"]) for e in events] == [("bye", "rotate", False)]


async def test_a_reader_that_stalls_is_told_and_hurts_nobody(
    database_url: str, clean: None, model: ModelServer
) -> None:
    text = "x" * 20_000
    model.script(Reply([text] * 1500, gap=0.002))
    settings = settings_for(database_url, model.base_url, slow_seconds=0.5)
    async with running(settings) as freya, freya.stream() as quick:
        await quick.next()
        reader, writer = await asyncio.open_connection("127.0.0.1", int(freya.url.rpartition(":")[2]), limit=1024)
        writer.write(b"GET /v1/stream HTTP/1.1\r\nhost: localhost\r\n\r\n")
        await freya.send()
        received, (*_, reply) = await asyncio.gather(_after_a_nap(reader, 1.3), quick.until("reply"))
        writer.close()
    assert b'"reason":"slow"' in received
    assert reply.data["length"] == 1500 * len(text)


async def _after_a_nap(reader: asyncio.StreamReader, seconds: float) -> bytes:
    """The end of what comes, if nothing is read for `seconds`."""
    await asyncio.sleep(seconds)
    received = b""
    async with asyncio.timeout(20):
        while b"event: bye" not in received and (data := await reader.read(1 << 20)):
            received = received[-200:] + data
    return received


@pytest.mark.parametrize(
    "pieces",
    [
        ["</script><script>alert(1)</script>"],
        ["data: forged\n\nevent: reply\ndata: {}\n\n"],
        ["a\r\nb\rc\nd"],
        ["nul\x00here", "\x00"],
        ["sep\u2028and\u2029and\x85end"],
        ["lone \ud83d here"],
        ["pair \ud83d", "\ude42 split"],
        ["👩\u200d🚀🏳️\u200d🌈", "שלום"],
        ["x" * 100_000],
    ],
)
async def test_any_text_arrives_exactly(freya: Running, model: ModelServer, pieces: list[str]) -> None:
    chunks = [b"data: %b\n\n" % json.dumps(chunk({"content": piece}, model="m")).encode() for piece in pieces]
    end = b"data: %b\n\n" % json.dumps(chunk({}, model="m", finish="stop")).encode()
    model.script(Raw([*chunks, end, b"data: [DONE]\n\n"], gap=0.02))
    async with freya.stream(send={"text": "Hi"}) as stream:
        events = await stream.rest()
    whole = json.loads(json.dumps("".join(pieces)))
    reply = events[-1].data
    assert json.loads(json.dumps("".join(e.data["text"] for e in events if e.name == "token"))) == whole
    assert (reply["message"], reply["length"]) == (whole, utf16_length(whole))
    assert (await freya.get("/v1/messages"))["messages"][0]["text"] == whole


async def test_a_reply_cut_at_every_byte_and_resumed_is_whole(freya: Running) -> None:
    words = "!reply tokens=2000 rate=700 seed=11"
    recorded = bytearray()
    async with freya.http.post(f"{freya.url}/v1/stream", json={"text": words}) as response:
        async for data in response.content.iter_any():
            recorded += data
    turn = next(e for e in Parser().feed(bytes(recorded)) if e.name == "listening").data["turn"]
    tails: dict[str | None, list[Event]] = {}
    parser, held, broken = Parser(), Transcript(), 0
    for offset in range(len(recorded) + 1):
        if held.last_id not in tails:
            tails[held.last_id] = await _resumed(freya, turn, held.last_id)
        after = Transcript(dict(held.texts), dict(held.attempts), dict(held.replies))
        after.take(tails[held.last_id])
        broken += after.doubled + after.missing + (after.texts[turn] != expected_reply(words))
        broken += len(after.replies) != 1
        if offset < len(recorded):
            held.take(parser.feed(bytes(recorded[offset : offset + 1])))
    assert broken == 0
    assert len(tails) > 40


async def _resumed(freya: Running, turn: str, last_id: str | None) -> list[Event]:
    headers = {"last-event-id": last_id} if last_id else {}
    async with freya.http.get(f"{freya.url}/v1/stream?turn={turn}", headers=headers) as response:
        if response.status == 204:
            return []
        return Parser().feed(await response.read())


async def test_readers_that_come_and_go_lose_nothing(freya: Running) -> None:
    words = "!reply tokens=400 rate=200 seed=5"
    await freya.send(words)
    chooser = random.Random(7)
    results = await asyncio.gather(*(_restless(freya, random.Random(chooser.random())) for _ in range(6)))
    for transcript in results:
        assert (transcript.doubled, transcript.missing) == (0, 0)
        assert [reply["message"] for reply in transcript.replies.values()] == [expected_reply(words)]


async def _restless(freya: Running, chooser: random.Random) -> Transcript:
    transcript = Transcript()
    while not transcript.replies:
        headers = {"last-event-id": transcript.last_id} if transcript.last_id else {}
        try:
            async with asyncio.timeout(chooser.uniform(0.05, 0.5)), freya.stream(headers=headers) as stream:
                while not transcript.replies:
                    transcript.take([await stream.next()])
        except TimeoutError:
            continue
    return transcript


async def test_a_client_that_speaks_no_http_is_answered_and_forgotten(freya: Running) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(freya.url.rpartition(":")[2]))
    writer.write(b"\x16\x03\x01 garbage\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    assert answer.startswith(b"HTTP/1.1 400")
    async with aiohttp.ClientSession() as session, session.get(f"{freya.url}/healthz") as response:
        assert response.status == 200
