"""The bell and the tail: no wake-up is lost, and a tail with a gap is not believed."""

import asyncio
from uuid import UUID

import pytest

from freya_gateway.db.events import LogEnds, StoredEvent
from freya_gateway.events.hub import TAIL_EVENTS, Bye, Channel, Hub
from freya_gateway.metrics import Metrics

USER = UUID(int=1)


@pytest.fixture
def hub() -> Hub:
    return Hub(Metrics(), streams_per_user=2, max_streams=3)


def events(*seqs: int) -> list[StoredEvent]:
    return [StoredEvent(seq, None, "token", 1, "{}") for seq in seqs]


def seqs(found: list[StoredEvent] | None) -> list[int] | None:
    return None if found is None else [event.seq for event in found]


def test_tail_serves_a_reader_within_it() -> None:
    channel = Channel(USER)
    channel.extend(events(5, 6, 7))
    assert seqs(channel.after(4)) == [5, 6, 7]
    assert seqs(channel.after(6)) == [7]
    assert seqs(channel.after(7)) == []
    assert channel.after(3) is None


def test_tail_with_a_gap_starts_anew() -> None:
    channel = Channel(USER)
    channel.extend(events(5, 6))
    channel.extend(events(8, 9))
    assert channel.after(6) is None
    assert seqs(channel.after(7)) == [8, 9]


def test_late_events_do_not_disorder_the_tail() -> None:
    channel = Channel(USER)
    channel.extend(events(8, 9))
    channel.extend(events(6, 7))
    assert seqs(channel.after(7)) == [8, 9]
    assert channel.head == 9


def test_tail_that_does_not_reach_the_head_is_not_used() -> None:
    channel = Channel(USER)
    channel.extend(events(5, 6))
    channel.rise(8)
    assert channel.after(5) is None


def test_tail_is_bounded() -> None:
    channel = Channel(USER)
    for seq in range(1, 10 * TAIL_EVENTS):
        channel.extend(events(seq))
    assert len(channel.tail) <= 2 * TAIL_EVENTS
    assert seqs(channel.after(channel.head - 1)) == [channel.head]


async def test_a_ring_before_the_wait_is_not_lost(hub: Hub) -> None:
    reader = hub.join(USER)
    reader.rung = False
    hub.publish(USER, events(1))
    async with asyncio.timeout(1):
        await reader.wait()


async def test_a_waiting_reader_wakes_when_the_log_grows(hub: Hub) -> None:
    reader = hub.join(USER)
    waiting = asyncio.create_task(reader.wait())
    await asyncio.sleep(0)
    hub.rise(USER, 4)
    async with asyncio.timeout(1):
        await waiting
    assert reader.channel.head == 4


async def test_readers_wake_when_something_is_due(hub: Hub) -> None:
    early, late = hub.join(USER), hub.join(USER)
    early.wake_at, late.wake_at = 10.0, 20.0
    hub.wake_due(15.0)
    assert (early.rung, late.rung) == (True, False)


async def test_one_stream_too_many_supersedes_the_oldest(hub: Hub) -> None:
    first, second, third = hub.join(USER), hub.join(USER), hub.join(USER)
    assert first.bye == Bye("superseded", retry_ms=0, final=True)
    assert second.bye is third.bye is None


async def test_the_gateways_own_readers_supersede_nobody(hub: Hub) -> None:
    streams = [hub.join(USER), hub.join(USER)]
    for _ in range(5):
        hub.join(USER, counted=False)
    assert [stream.bye for stream in streams] == [None, None]
    assert hub.open == 2


async def test_another_epoch_sends_readers_back_to_the_start(hub: Hub) -> None:
    reader = hub.join(USER)
    reader.channel.epoch = "old"
    hub.enter(LogEnds(USER, "new", 3, 0))
    assert reader.bye is not None
    assert reader.bye.reason == "rotate"


async def test_channels_go_with_their_last_reader(hub: Hub) -> None:
    readers = [hub.join(UUID(int=number)) for number in range(3)]
    assert hub.full
    for reader in readers:
        hub.leave(reader)
    assert hub.users == []
    assert not hub.full
