"""One timer for many waits: it must ring when asyncio.timeout would."""

import asyncio
import time

import pytest

from freya_gateway.llm.deadline import Deadline


async def forever() -> None:
    await asyncio.Event().wait()


async def test_wakes_the_waiting_task() -> None:
    with pytest.raises(TimeoutError), Deadline(0.02):
        await forever()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_moving_it_later_holds_it_off() -> None:
    deadline = Deadline(0.05)
    for _ in range(6):
        with deadline:
            await asyncio.sleep(0.02)
        deadline.move(0.05)
    with pytest.raises(TimeoutError), deadline:
        await forever()


async def test_moving_it_earlier_wakes_earlier() -> None:
    deadline = Deadline(30)
    with deadline:
        await asyncio.sleep(0)
    deadline.move(0.02)
    async with asyncio.timeout(1):
        with pytest.raises(TimeoutError), deadline:
            await forever()


async def test_does_not_disturb_what_happens_between_two_waits() -> None:
    complaints: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    deadline = Deadline(0.02)
    with deadline:
        await asyncio.sleep(0)
    await asyncio.sleep(0.05)
    loop.set_exception_handler(None)
    assert deadline.remaining < 0
    assert not complaints
    with pytest.raises(TimeoutError), deadline:
        await forever()


async def test_a_cancellation_from_elsewhere_stays_one() -> None:
    async def wait() -> None:
        with Deadline(30):
            await forever()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancellation_in_the_same_moment_wins() -> None:
    async def wait() -> None:
        with Deadline(0.01):
            await forever()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    time.sleep(0.03)  # noqa: ASYNC251  (a busy loop: the timer and the cancellation come in one turn of it)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_of_the_wait_passes() -> None:
    with pytest.raises(ZeroDivisionError), Deadline(30):
        raise ZeroDivisionError
