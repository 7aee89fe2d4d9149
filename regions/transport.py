"""Links between regions, over WebSockets by aiohttp, on a listener of their own.

Each region dials every peer and pushes over that link; it receives over the links that others dial.
A bad frame is counted and closes its link only. Nothing here is kept for a peer that does not take
it: what it lacks is read from the log again.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial

import aiohttp
from aiohttp import web
from perdure.regions.links import Digests
from perdure.regions.ports import Clock, Entropy, Storage
from perdure.regions.transport_accepting import Acceptor
from perdure.regions.transport_dialing import DialedLink, Socket, dialing
from perdure.regions.transport_wire import HANDSHAKE_S_MAX, PATH, Dial, Host, Surroundings
from perdure.replication.gossip import Gossip

_FLUSH_EVERY_S = 0.02


class Unnamed(web.Request):
    """A request whose answer does not say what it is made with; aiohttp tells that with its
    version. A signal of the application would not see the answer to what is no request."""

    async def _prepare_hook(self, response: web.StreamResponse) -> None:
        await super()._prepare_hook(response)
        response.headers.popall("Server", None)


class PeerLinks:
    """All links of a region."""

    def __init__(
        self,
        gossip: Gossip,
        storage: Storage,
        host: Host,
        clock: Clock,
        entropy: Entropy,
        *,
        secret: bytes,
        peers: Mapping[str, str],
        bind: tuple[str, int],
    ) -> None:
        self.port = bind[1]
        self._bind = bind
        self._gossip = gossip
        self._around = Surroundings(gossip, storage, host, clock, entropy, secret, clock.wall_ms())
        self._dialed = {name: DialedLink(self._around, name, url) for name, url in peers.items()}
        self._acceptor = Acceptor(self._around)
        self._tasks: list[asyncio.Task[None]] = []
        self._runner: web.AppRunner | None = None
        self._session: aiohttp.ClientSession | None = None

    @property
    def counters(self) -> Counter[str]:
        """Links opened, failed, refused; frames refused, by code; records sent and received."""
        return self._around.counters

    async def start(self) -> None:
        """Listen, and dial every peer. Raises ``OSError`` when the port is taken."""
        app = web.Application()
        app.router.add_get(PATH, self._acceptor.handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        assert self._runner.server is not None
        self._runner.server.request_factory = partial(app._make_request, _cls=Unnamed)
        try:
            await web.TCPSite(self._runner, *self._bind).start()
        except OSError:
            await self._runner.cleanup()
            raise
        self.port = self._runner.addresses[0][1]
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=HANDSHAKE_S_MAX)
        self._session = aiohttp.ClientSession(timeout=timeout, ws_response_class=Socket)
        self._dial_all(dialing(self._session))

    def _dial_all(self, dial: Dial) -> None:
        self._tasks = [
            asyncio.create_task(link.run(dial), name=f"perdure-link-{link.name}")
            for link in self._dialed.values()
        ]

    async def stop(self) -> None:
        """Close every link and the listener."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, self._acceptor.close(), return_exceptions=True)
        if self._session is not None:
            await self._session.close()
        if self._runner is not None:
            await self._runner.cleanup()

    def wake(self) -> None:
        """There may be something to send."""
        for link in self._dialed.values():
            link.wake.set()

    def untried(self) -> set[str]:
        """The peers of which it is not known yet whether they can be reached."""
        return {name for name, link in self._dialed.items() if not link.is_tried()}

    async def flush(self, timeout_s: float) -> bool:
        """Wait until the connected peers have everything; False when the time was too short."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while asyncio.get_running_loop().time() < deadline:
            peers = self._gossip.peers.values()
            if not any(peer.connected and self._gossip.lacks_own(peer.name) for peer in peers):
                return True
            self.wake()
            await asyncio.sleep(_FLUSH_EVERY_S)
        return False

    def refused(self) -> str | None:
        """Why a peer refuses this region as such (another node has its name); None if none does."""
        return next((link.refused for link in self._dialed.values() if link.refused), None)

    async def ask_digests(
        self, peer: str, session: str | None, buckets: Sequence[int] | None
    ) -> Digests:
        """Digests of a peer: of one session, of the sessions in buckets, or of all buckets.

        Raises ``PeerUnreachable`` when it does not answer in time.
        """
        return await self._dialed[peer].ask(session, buckets)

    def pull(self, peer: str, sessions: Sequence[str]) -> AsyncIterator[bytes]:
        """Everything that a peer knows of some sessions, in pieces.

        Raises ``PeerUnreachable`` when it stops before the last.
        """
        return self._dialed[peer].pull(sessions)
