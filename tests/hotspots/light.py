"""A reader that costs so little that one process can be thousands of them."""

import asyncio
import re
from collections import Counter
from random import Random
from typing import Any
from urllib.parse import urlsplit

from perdure_client.regions import Pause

CONNECT_S_MAX = 10.0
_BLOCK = b"\n\n"
_FIELD = re.compile(rb"^(id|event): ?(.*)$", re.MULTILINE)
_ID = re.compile(rb'"id":"(x[0-9]+)"')


class LightReader(asyncio.Protocol):
    """Follows a session over server-sent events, at one region after another: with the pauses of
    the Python client, and no more of it. Knows messages by their ids, ``x`` and a number."""

    def __init__(self, urls: list[str], session: str, seed: str, answers: Counter[str]) -> None:
        self.region = ""
        self.left: str | None = None
        self.back_s: float | None = None
        self.session = session
        self.ids: list[str] = []
        self._urls = urls
        self._answers = answers
        self._jitter = Random(seed)
        self._cursor = b""
        self._buffer = b""
        self._status = ""
        self._gone: asyncio.Future[None] | None = None

    async def run(self) -> None:
        """Until it is cancelled."""
        loop = asyncio.get_running_loop()
        pause = Pause(self._jitter, len(self._urls))
        number = 0
        while True:
            url = self._urls[number % len(self._urls)]
            address = urlsplit(url)
            self._buffer, self._status = b"", ""
            self._gone = loop.create_future()
            try:
                async with asyncio.timeout(CONNECT_S_MAX):
                    connecting = loop.create_connection(
                        lambda: self, address.hostname, address.port
                    )
                    transport, _ = await connecting
            except (OSError, TimeoutError) as error:
                self._answers[type(error).__name__] += 1
            else:
                try:
                    transport.write(self._request())
                    self.region = url
                    await self._gone
                finally:
                    transport.abort()
                if self._status == "200":
                    pause.reset()
            number += 1
            await asyncio.sleep(pause.next_s())

    def holds(self, messages: list[dict[str, Any]]) -> bool:
        """Whether it has been told of just these, each once and in order."""
        return self.ids == [message["id"] for message in messages]

    def _request(self) -> bytes:
        head = f"GET /v1/sessions/{self.session}/events HTTP/1.1\r\nhost: localhost\r\n".encode()
        cursor = b"last-event-id: " + self._cursor + b"\r\n" if self._cursor else b""
        return head + cursor + b"accept: text/event-stream\r\n\r\n"

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._status:
            head, found, self._buffer = self._buffer.partition(b"\r\n\r\n")
            if not found:
                self._buffer = head
                return
            self._status = head[9:12].decode()
            after = " with Retry-After" if b"\r\nretry-after:" in head.lower() else ""
            self._answers[f"{self._status}{after}"] += 1
        *blocks, self._buffer = self._buffer.split(_BLOCK)
        for block in blocks:
            self._take(block)

    def _take(self, block: bytes) -> None:
        fields = dict(_FIELD.findall(block))
        if b"event" not in fields:
            return
        self._cursor = fields.get(b"id", b"").strip() or self._cursor
        ids = [found.decode() for found in _ID.findall(block)]
        if fields[b"event"].strip() == b"snapshot":
            self.ids = ids
        elif fields[b"event"].strip() == b"message":
            self.ids += ids[:1]
        if self.left not in (None, self.region) and self.back_s is None:
            self.back_s = asyncio.get_running_loop().time()

    def connection_lost(self, error: Exception | None) -> None:
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)
