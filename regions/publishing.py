"""``perdure publish``: standard input as one message, plain text or a vendor's stream."""

import argparse
import asyncio
import codecs
import contextlib
import os
import threading
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from perdure.regions.console import patiently, print_json, say

from perdure_client import Client, Writer
from perdure_client.pipes import EventBytes, is_whole_answer

_READ_BYTES = 65_536
_CHUNKS_WAITING_MAX = 16


async def publish(options: argparse.Namespace, client: Client) -> int:
    """Stream standard input into a session; the exit code."""
    if options.format == "text":
        async with await _opened(options, client) as writer:
            with _left_open(writer):
                async for text in _text():
                    await writer.write(text)
        return _published(options, writer, "complete")
    events = _events()
    # Before there is anything to say, nothing is opened: a vendor may refuse at once.
    try:
        first = await anext(events, None)
    except UnicodeDecodeError as error:
        say(f"standard input is not UTF-8 ({error.reason})")
        return 1
    if first is None:
        say("standard input has no event of a stream")
        return 1
    if (refusal := _refusal(first)) is not None:
        say(f"the vendor refused: {refusal}")
        return 1
    async with await _opened(options, client) as writer:
        with _left_open(writer):
            status = await writer.pipe(_chain(first, events), options.format)
        await writer.stable()
    if status != "complete":
        say(f"the answer is not whole; message {writer.message} has ended as {status}")
    return _published(options, writer, status)


async def _opened(options: argparse.Namespace, client: Client) -> Writer:
    session = client.session(options.session)
    async with patiently(client):
        return await session.open(options.role, id=options.id, author=options.author)


@contextlib.contextmanager
def _left_open(writer: Writer) -> Any:
    try:
        yield
    except asyncio.CancelledError:
        say(f"message {writer.message} is left open; another producer may claim it")
        raise


def _published(options: argparse.Namespace, writer: Writer, status: str) -> int:
    if options.json:
        print_json(
            {
                "session": options.session,
                "message": writer.message,
                "status": status,
                "accepted": writer.accepted,
                "stable": writer.stable_count,
                "moves": writer.moves,
            }
        )
    else:
        print(f"{writer.message}: {writer.accepted} tokens, {writer.stable_count} stable")
    return 0 if status == "complete" else 1


def _refusal(event: Mapping[str, Any]) -> str | None:
    """What a vendor says in the place of a stream."""
    error = event.get("error")
    if not error:
        return "it sent a whole answer, no stream" if is_whole_answer(event) else None
    return str(error.get("message") or error) if isinstance(error, Mapping) else str(error)


async def _chain(
    first: Mapping[str, Any], rest: AsyncGenerator[Mapping[str, Any], None]
) -> AsyncGenerator[Mapping[str, Any], None]:
    async with contextlib.aclosing(rest):
        yield first
        async for event in rest:
            yield event


async def _events() -> AsyncGenerator[Mapping[str, Any], None]:
    """A vendor's events as they arrive."""
    parser = EventBytes()
    async for chunk in _standard_input():
        for event in parser.feed(chunk):
            yield event
    for event in parser.feed(b"", final=True):
        yield event


async def _text() -> AsyncGenerator[str, None]:
    """Text as it arrives; ``UnicodeDecodeError`` ends the message as failed."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    async for chunk in _standard_input():
        if text := decoder.decode(chunk):
            yield text
    if text := decoder.decode(b"", final=True):
        yield text


async def _standard_input() -> AsyncGenerator[bytes, None]:
    loop = asyncio.get_running_loop()
    chunks: asyncio.Queue[bytes] = asyncio.Queue()
    room = threading.Semaphore(_CHUNKS_WAITING_MAX)

    def read() -> None:
        chunk = b"more"
        # The loop may end before the input does: then nobody wants the rest.
        with contextlib.suppress(RuntimeError):
            while chunk:
                try:
                    chunk = os.read(0, _READ_BYTES)
                except OSError:
                    # It was closed before we were started: there is no input.
                    chunk = b""
                room.acquire()
                loop.call_soon_threadsafe(chunks.put_nowait, chunk)

    # A daemon: one that waits for somebody to type must not hold up the end.
    threading.Thread(target=read, daemon=True).start()
    while chunk := await chunks.get():
        room.release()
        yield chunk
