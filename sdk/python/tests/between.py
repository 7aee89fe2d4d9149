"""What may lie between a client and a region: a proxy that forbids, holds back, or cuts."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Literal
from urllib.parse import urlsplit

# As little as can be told from nothing; 30 s where there are real proxies.
IDLE_S = 0.4
Kind = Literal["plain", "forbids", "buffers", "cuts", "swallows"]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Between:
    """A proxy, one exchange a connection but for sockets.

    ``forbids`` upgrades; ``buffers`` each answer until its end, forbidding upgrades too;
    ``cuts`` connections on which nothing has moved for ``IDLE_S``; ``swallows`` what comes
    after an upgrade, without a word.
    """

    def __init__(self, url: str, kind: Kind) -> None:
        parts = urlsplit(url)
        self._region = (parts.hostname, parts.port)
        self._kind = kind
        self._tasks: set[asyncio.Task[None]] = set()
        self.url = ""
        # The paths that were asked for, each by its last name.
        self.asked: list[str] = []
        self.cuts = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._exchange(reader, writer)
        except (OSError, EOFError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        path = head.split(b" ", 2)[1].partition(b"?")[0].decode()
        self.asked.append(path.rpartition("/")[2])
        is_upgrade = b"upgrade: websocket" in head.lower()
        if is_upgrade and self._kind in ("forbids", "buffers"):
            page = b"<html>no upgrades here</html>"
            status = b"HTTP/1.1 403 Forbidden\r\nconnection: close\r\ncontent-type: text/html\r\n"
            writer.write(status + b"content-length: %d\r\n\r\n%s" % (len(page), page))
            await writer.drain()
            return
        if not is_upgrade:
            # So that the end of an answer is the end of its connection.
            head = head.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
            lines = [
                line for line in head.split(b"\r\n") if line.lower() != b"connection: keep-alive"
            ]
            head = b"\r\n".join(lines)
        region = await asyncio.open_connection(*self._region)
        try:
            region[1].write(head)
            await self._between((reader, writer), region)
        finally:
            region[1].close()

    async def _between(self, client: Streams, region: Streams) -> None:
        moved = asyncio.Event()
        ways = {
            asyncio.create_task(self._copy(client[0], region[1], moved)),
            asyncio.create_task(self._back(region[0], client[1], moved)),
        }
        try:
            await self._until_over(ways, moved)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _until_over(self, ways: set[asyncio.Task[None]], moved: asyncio.Event) -> None:
        over = asyncio.ensure_future(asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED))
        while not over.done():
            moved.clear()
            moving = asyncio.ensure_future(moved.wait())
            limit = IDLE_S if self._kind == "cuts" else None
            await asyncio.wait({over, moving}, timeout=limit, return_when="FIRST_COMPLETED")
            if not over.done() and not moving.done():
                self.cuts += 1
                over.cancel()
            moving.cancel()

    async def _back(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, moved: asyncio.Event
    ) -> None:
        if self._kind == "buffers":
            target.write(await source.read())
            await target.drain()
        elif self._kind == "swallows" and self.asked[-1] == "ws":
            target.write(await source.readuntil(b"\r\n\r\n"))
            await source.read()
        else:
            await self._copy(source, target, moved)

    async def _copy(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, moved: asyncio.Event
    ) -> None:
        while piece := await source.read(65_536):
            target.write(piece)
            await target.drain()
            moved.set()

    async def start(self) -> asyncio.Server:
        """Listen."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        return server

    async def stop(self, server: asyncio.Server) -> None:
        """Cut what is open."""
        server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await server.wait_closed()


@contextlib.asynccontextmanager
async def between(url: str, kind: Kind) -> AsyncIterator[Between]:
    """A proxy in front of a region."""
    proxy = Between(url, kind)
    server = await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop(server)
