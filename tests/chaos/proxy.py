"""The way from one region to another, over a proxy that can cut it, hold it up or slow it down."""

import asyncio
import contextlib
from enum import Enum

_CHUNK_BYTES = 16_384


class Way(Enum):
    """``CUT``: connections break, and none is taken. ``HOLE``: they stay, and nothing passes.
    ``SLOW``: so many bytes a second pass."""

    OPEN = "open"
    CUT = "cut"
    HOLE = "hole"
    SLOW = "slow"


class Proxy:
    """Takes connections on ``port`` of loopback and passes them on to ``target``."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.bytes_per_s = 4_000
        self._way = Way.OPEN
        self._changed = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Break everything."""
        self.set(Way.CUT)
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    def set(self, way: Way) -> None:
        """From now on it is so."""
        self._way = way
        self._changed.set()
        self._changed = asyncio.Event()
        if way is Way.CUT:
            for writer in list(self._writers):
                writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            if self._way is Way.CUT:
                return
            with contextlib.suppress(OSError):
                there, back = await asyncio.open_connection("127.0.0.1", self.target)
                self._writers.add(back)
                try:
                    await self._both(reader, back, there, writer)
                finally:
                    self._writers.discard(back)
                    back.transport.abort()
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _both(
        self,
        reader: asyncio.StreamReader,
        back: asyncio.StreamWriter,
        there: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        tasks = [
            asyncio.create_task(self._pass(reader, back)),
            asyncio.create_task(self._pass(there, writer)),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(_CHUNK_BYTES):
            while self._way is Way.HOLE:
                await self._changed.wait()
            if self._way is Way.SLOW:
                await asyncio.sleep(len(chunk) / self.bytes_per_s)
            writer.write(chunk)
            await writer.drain()
