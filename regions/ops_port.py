"""The port for scrapers and probes, while a region runs."""

import asyncio
import socket
from typing import Protocol


class Serves(Protocol):
    """A server, as uvicorn's is."""

    should_exit: bool

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until ``should_exit`` is set."""


class OpsPort:
    """The server of scrapers and probes, who are told how a region drains until it has ended.
    Without a listener there is none."""

    def __init__(self, server: Serves, listener: socket.socket | None) -> None:
        self._server = server
        self._listener = listener
        self._serving: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Serve."""
        if self._listener is not None:
            serving = self._server.serve(sockets=[self._listener])
            self._serving = asyncio.create_task(serving, name="perdure-ops")

    async def stop(self) -> None:
        """Close what is open."""
        self._server.should_exit = True
        if self._serving is not None:
            await asyncio.gather(self._serving, return_exceptions=True)
