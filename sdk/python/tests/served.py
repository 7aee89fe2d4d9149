"""Two regions that are linked and served for real, on loopback, each of which can die."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import uvicorn
from perdure.api.app import create_app
from perdure.regions.cluster import free_ports
from perdure.regions.config import Config
from perdure.regions.node import Node
from perdure.regions.serving import build_node
from perdure.regions.transport import PeerLinks
from perdure.replication.limits import BODY_BYTES_MAX


class Served:
    """A region on real disk, linked to its peers, and its server for clients."""

    def __init__(self, node: Node, links: PeerLinks) -> None:
        self.node = node
        self._links = links
        self._linked = True
        app = create_app(node, rules=None, version="1")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                lifespan="off",
                ws="websockets-sansio",
                ws_max_size=BODY_BYTES_MAX,
                ws_per_message_deflate=False,
                log_config=None,
                access_log=False,
            )
        )

    async def start(self) -> None:
        await self._links.start()
        self.node.start(self._links)
        self._server.config.load()
        self._server.lifespan = self._server.config.lifespan_class(self._server.config)
        await self._server.startup(sockets=[self._listener])

    async def isolate(self) -> None:
        """Cut its links: it serves clients, and tells nobody."""
        if self._linked:
            self._linked = False
            await self._links.stop()

    async def die(self) -> None:
        """Without a word: every connection is reset, and nobody listens any more."""
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()
        for listening in self._server.servers:
            listening.close()
            await listening.wait_closed()
        await asyncio.gather(*self._server.server_state.tasks, return_exceptions=True)

    async def stop(self) -> None:
        await self.isolate()
        await self.die()
        await self.node.stop()


@contextlib.asynccontextmanager
async def served(path: Path) -> AsyncIterator[tuple[Served, Served]]:
    """Regions ``eu`` and ``us``; both are stopped at the end."""
    ports = dict(zip(("eu", "us"), free_ports(2), strict=True))
    regions: list[Served] = []
    try:
        for name, other in (("eu", "us"), ("us", "eu")):
            config = Config(
                region=name,
                data=path / name,
                port=0,
                peer_port=ports[name],
                peers={other: f"http://127.0.0.1:{ports[other]}"},
                peer_secret=b"s" * 32,
                bootstrap=True,
            )
            region = Served(*build_node(config))
            await region.start()
            regions.append(region)
        yield regions[0], regions[1]
    finally:
        for region in regions:
            await region.stop()
