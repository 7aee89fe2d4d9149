"""Waiting with a limit: the same as with a timer, whatever is waited for."""

import asyncio
from typing import Any

import pytest
from perdure.api.patience import within


async def test_what_is_done_at_once_is_given_back() -> None:
    """A result, or an exception; a coroutine, or anything that can be awaited."""

    async def ready() -> int:
        return 7

    async def broken() -> None:
        raise ValueError("broken")

    assert await within(1, ready()) == 7
    done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    done.set_result(8)
    assert await within(1, done) == 8
    with pytest.raises(ValueError, match="broken"):
        await within(1, broken())


async def test_what_waits_goes_on_where_it_was() -> None:
    """Several times, with its own exceptions and its own ``finally``."""
    steps: list[Any] = []
    gates = [asyncio.get_running_loop().create_future() for _ in range(3)]

    async def work() -> str:
        try:
            steps.append(await gates[0])
            with pytest.raises(OSError, match="gone"):
                await gates[1]
            steps.append(await gates[2])
            return "done"
        finally:
            steps.append("left")

    waiting = asyncio.create_task(within(20, work()))
    await asyncio.sleep(0)
    gates[0].set_result(1)
    await asyncio.sleep(0)
    gates[1].set_exception(OSError("gone"))
    await asyncio.sleep(0)
    gates[2].set_result(2)
    assert await waiting == "done" and steps == [1, 2, "left"]


async def test_what_takes_too_long_is_ended() -> None:
    """It is cancelled, and cleans up; so it is when whoever waits is cancelled."""
    left: list[str] = []

    async def work(name: str) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            left.append(name)

    with pytest.raises(TimeoutError):
        await within(0, work("late"))
    waiting = asyncio.create_task(within(20, work("cancelled")))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert left == ["late", "cancelled"]
