"""Writing to a client that may stop reading, without a timer for those that read."""

import asyncio
import types
from collections.abc import Coroutine, Generator
from typing import Any

from perdure.api.bodies import Message, Send


async def send_within(seconds: float, send: Send, message: Message) -> None:
    """Hand a message to the server; ``TimeoutError`` when the client does not take it in time.

    Most messages go at once. Only one that has to wait gets a timer, which costs as much as the
    rest of a delivery.
    """
    sending = send(message)
    if not isinstance(sending, Coroutine):
        async with asyncio.timeout(seconds):
            await sending
        return
    try:
        waits = sending.send(None)
    except StopIteration:
        return
    async with asyncio.timeout(seconds):
        await _resumed(sending, waits)


@types.coroutine
def _resumed(work: Coroutine[Any, Any, None], waits: Any) -> Generator[Any, Any, None]:
    """Go on with a coroutine that waits for something already."""
    try:
        while True:
            try:
                value = yield waits
            except BaseException as error:
                waits = work.throw(error)
            else:
                waits = work.send(value)
    except StopIteration:
        return
