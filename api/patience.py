"""Waiting for a client that may do nothing, without a timer for those that do what they should."""

import asyncio
import types
from collections.abc import Awaitable, Coroutine, Generator
from typing import Any, TypeVar

T = TypeVar("T")


async def within(seconds: float, work: Awaitable[T]) -> T:
    """Await this; ``TimeoutError`` when it takes longer.

    What is done at once gets no timer: that would cost as much as the rest of a delivery.
    """
    if not isinstance(work, Coroutine):
        async with asyncio.timeout(seconds):
            return await work
    try:
        waits = work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    async with asyncio.timeout(seconds):
        return await _resumed(work, waits)


@types.coroutine
def _resumed(work: Coroutine[Any, Any, T], waits: Any) -> Generator[Any, Any, T]:
    """Go on with a coroutine that waits for something already."""
    try:
        while True:
            try:
                value = yield waits
            except BaseException as error:
                waits = work.throw(error)
            else:
                waits = work.send(value)
    except StopIteration as done:
        result: T = done.value
        return result
