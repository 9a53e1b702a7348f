"""Whoever leaves a stream, in whatever way, hangs up on the model: it must not generate for nobody."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing

import pytest

from freya_gateway.llm.types import Piece
from tests.model_server import Gated, Hang, ModelServer, Reply, Status
from tests.unit.llm.conftest import MESSAGES, Asker

Make = Callable[..., Asker]


async def test_closing_the_generator_hangs_up(model: ModelServer, asker: Make) -> None:
    gate = Gated()
    model.script(gate)
    stream = asker().chat.stream(MESSAGES, user="u")
    first = asyncio.create_task(anext(stream))
    await gate.send("Yes")
    assert await first == Piece("Yes")
    await stream.aclose()
    await model.wait_disconnect()
    with pytest.raises(ConnectionResetError):
        await gate.send("more")


@pytest.mark.parametrize("hang", [Hang("headers"), Hang("first_piece"), Hang("piece")])
async def test_cancelling_the_task_hangs_up(model: ModelServer, asker: Make, hang: Hang) -> None:
    model.script(hang)
    asking = asyncio.create_task(asker(first_piece_timeout=30, piece_timeout=30).ask())
    await model.wait_requests()
    await asyncio.sleep(0.02)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await model.wait_disconnect()
    assert model.open_connections == 0


async def test_cancelling_during_a_pause_asks_no_more(model: ModelServer, asker: Make) -> None:
    model.script(Status(429, headers={"retry-after": "1"}))
    asking = asyncio.create_task(asker().ask())
    await model.wait_requests()
    await asyncio.sleep(0.05)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert len(model.requests) == 1


async def test_an_error_of_the_consumer_hangs_up(model: ModelServer, asker: Make) -> None:
    async def consume() -> None:
        async with aclosing(asker().chat.stream(MESSAGES, user="u")) as stream:
            async for _ in stream:
                raise ZeroDivisionError

    model.script(Hang("piece"))
    with pytest.raises(ZeroDivisionError):
        await consume()
    await model.wait_disconnect()


async def test_a_timeout_between_pieces_hangs_up(model: ModelServer, asker: Make) -> None:
    model.script(Hang("piece"))
    async with asyncio.timeout(1):
        assert (await asker(piece_timeout=0.05, first_piece_timeout=30).ask()).code == "timeout"
    await model.wait_disconnect()


async def test_a_hundred_stopped_streams_leave_no_connection(model: ModelServer, asker: Make) -> None:
    client = asker(first_piece_timeout=10)
    model.script(*[Hang("piece") for _ in range(100)])

    async def stop_after_first() -> None:
        stream = client.chat.stream(MESSAGES, user="u")
        await anext(stream)
        await stream.aclose()

    await asyncio.gather(*(stop_after_first() for _ in range(100)))
    await model.wait_disconnect(100)
    assert model.open_connections == 0
    model.script(Reply(["Yes"]))
    assert (await client.ask()).text == "Yes"


async def test_closing_the_client_closes_idle_connections(model: ModelServer, asker: Make) -> None:
    client = asker()
    await client.ask()
    assert model.open_connections == 1
    await client.chat.aclose()
    await model.wait_closed()
    assert model.disconnects == 0
