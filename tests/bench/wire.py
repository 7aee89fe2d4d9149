"""As little HTTP as a load client needs: requests are made once, answers are barely looked at."""

import asyncio
import json
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import urlsplit


class Connection(asyncio.Protocol):
    """A kept-alive connection: one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._answer: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none of asyncio's classes.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0 or self._answer is None:
            return
        at = self._buffer.find(b"content-length: ", 0, head)
        # An answer without a body has none.
        size = int(self._buffer[at + 16 : self._buffer.find(b"\r\n", at)]) if at >= 0 else 0
        if len(self._buffer) >= head + 4 + size:
            whole = bytes(self._buffer[: head + 4 + size])
            del self._buffer[: head + 4 + size]
            answer, self._answer = self._answer, None
            answer.set_result(whole)

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError("the region closed the connection"))

    async def ask(self, raw: bytes, *, may_refuse: bool = False) -> bytes:
        """Send a request; the raw answer. ``RuntimeError`` when it is no success, unless it may be
        that too much was asked for."""
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(raw)
        answer = await self._answer
        if answer[9:10] != b"2" and not (may_refuse and answer[9:12] == b"429"):
            raise RuntimeError(answer.decode(errors="replace"))
        return answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class Lines(asyncio.Protocol):
    """A long answer: each whole line is handed on, with the framing of chunks among them."""

    def __init__(self, on_line: Callable[[bytes], None]) -> None:
        self.transport: asyncio.Transport | None = None
        self.bytes = 0
        self._on_line = on_line
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.bytes += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._on_line(line)


def address(url: str) -> tuple[str, int]:
    """Host and port."""
    parts = urlsplit(url)
    assert parts.hostname and parts.port
    return parts.hostname, parts.port


async def connect(url: str, source: str | None = None) -> Connection:
    """A connection to a region; ``source``: from this address."""
    loop = asyncio.get_running_loop()
    local = None if source is None else (source, 0)
    _, connection = await loop.create_connection(Connection, *address(url), local_addr=local)
    return connection


def request(method: str, path: str, body: Any = None, **headers: str) -> bytes:
    """A whole request."""
    raw = b"" if body is None else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", "host: localhost", f"content-length: {len(raw)}"]
    if raw:
        lines.append("content-type: application/json")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + raw


def body_of(answer: bytes) -> Any:
    """The JSON of an answer."""
    return json.loads(answer.partition(b"\r\n\r\n")[2])


async def opened(connection: Connection, session: str, message: str = "m") -> str:
    """Open a streaming message; its epoch."""
    body = {"id": message, "role": "assistant", "producer": "p", "claim_id": "claim-0001"}
    answer = await connection.ask(request("POST", f"/v1/sessions/{session}/messages", body))
    epoch: str = body_of(answer)["epoch"]
    return epoch


def append(session: str, epoch: str, seq: int, tokens: list[str], **more: Any) -> bytes:
    """The request that appends to message ``m``, or to the one that ``more`` names."""
    message = more.pop("message", "m")
    path = f"/v1/sessions/{session}/messages/{message}/tokens"
    producer = {"producer_id": "p", "producer_epoch": epoch, "producer_seq": str(seq)}
    return request("POST", path, {"tokens": tokens, **more}, **producer)
