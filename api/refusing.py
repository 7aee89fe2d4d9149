"""Answering with a problem, also where the client is still writing."""

import asyncio
import contextlib

from perdure.api.bodies import Receive, Send, Unread
from perdure.api.hot import respond
from perdure.api.problems import problem
from perdure.replication.limits import BODY_BYTES_MAX

# How long, and how much, is read of a body that was refused.
LINGER_S = 2
LINGER_BYTES_MAX = BODY_BYTES_MAX


async def refuse(
    error: Exception, headers: list[tuple[bytes, bytes]], receive: Receive, send: Send
) -> None:
    """Answer with the problem of an exception; a connection that cannot go on is closed."""
    found = problem(error)
    headers = [(name.encode(), value.encode()) for name, value in found.headers] + headers
    if not isinstance(error, Unread):
        await respond(send, found.status, found.encode(), headers)
        return
    headers.append((b"connection", b"close"))
    await respond(send, found.status, found.encode(), headers, more=True)
    await _linger(receive)
    await send({"type": "http.response.body", "body": b""})


async def _linger(receive: Receive) -> None:
    """Read on for a while after a refusal.

    Closing a connection with bytes unread resets it, and a client that is still writing would
    never see the answer.
    """
    left = LINGER_BYTES_MAX
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER_S):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body"):
                    return
