"""Links between regions, over WebSockets by aiohttp, on a listener of their own.

Each region dials every peer and pushes over that link; it receives over the links that others dial.
A bad frame is counted and closes its link only. Nothing here is kept for a peer that does not take
it: what it lacks is read from the log again.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from typing import Any

import aiohttp
from aiohttp import web
from perdure.regions.links import Digests, PeerUnreachable
from perdure.regions.ports import Clock, Entropy, Storage
from perdure.regions.transport_accepting import Acceptor
from perdure.regions.transport_asking import Questions
from perdure.regions.transport_dialing import DialedLink, Socket, dialing
from perdure.regions.transport_tls import PeerTls
from perdure.regions.transport_wire import (
    CLOSE_S_MAX,
    HANDSHAKE_S_MAX,
    PATH,
    Dial,
    Host,
    Surroundings,
)
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
        accepted: Sequence[bytes] = (),
        peers: Mapping[str, str],
        bind: tuple[str, int],
        tls: PeerTls | None = None,
    ) -> None:
        """``accepted``: secrets that peers may prove themselves with besides; ``tls``: without it
        links carry no certificates."""
        self.port = bind[1]
        self._bind = bind
        self._gossip = gossip
        self._tls = tls
        self._around = Surroundings(
            gossip,
            storage,
            host,
            clock,
            entropy,
            secret,
            clock.wall_ms(),
            accepted,
            certified=tls is not None,
        )
        self._urls = dict(peers)
        self._dialed = {name: DialedLink(self._around, name, url) for name, url in peers.items()}
        self._acceptor = Acceptor(self._around)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        # Of links that are dialled no more, and to whom.
        self._ending: dict[asyncio.Task[None], str] = {}
        self._dialing: Callable[[str], Dial] | None = None
        self._runner: web.AppRunner | None = None
        self._listening: asyncio.Server | None = None
        self._session: aiohttp.ClientSession | None = None

    @property
    def counters(self) -> Counter[str]:
        """Links opened, failed, refused; frames refused, by code; records sent and received."""
        return self._around.counters

    async def start(self) -> None:
        """Listen, and dial every peer. Raises ``OSError`` when the port is taken."""
        await self._listen()
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=HANDSHAKE_S_MAX)
        session = self._session = aiohttp.ClientSession(timeout=timeout, ws_response_class=Socket)
        self._dial_all(lambda name: dialing(session, self._tls, name))

    async def _listen(self) -> None:
        app = web.Application()
        app.router.add_get(PATH, self._acceptor.handle, allow_head=False)
        app.router.add_route("*", "/{rest:.*}", self._acceptor.turn_away)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        assert self._runner.server is not None, "it was set up"
        self._runner.server.request_factory = partial(app._make_request, _cls=Unnamed)
        tls = None if self._tls is None else self._tls.accepting(self._acceptor.refuse_tls)
        try:
            # Not by a site of aiohttp's: that knows no limit on a handshake of TLS.
            self._listening = await asyncio.get_running_loop().create_server(
                self._runner.server,
                *self._bind,
                ssl=tls,
                ssl_handshake_timeout=None if tls is None else HANDSHAKE_S_MAX,
                ssl_shutdown_timeout=None if tls is None else CLOSE_S_MAX,
            )
        except OSError:
            await self._runner.cleanup()
            raise
        self.port = self._listening.sockets[0].getsockname()[1]

    def _dial_all(self, dialed: Callable[[str], Dial]) -> None:
        self._dialing = dialed
        for name in self._dialed:
            self._dial(name)

    def _dial(self, name: str) -> None:
        assert self._dialing is not None, "the links were started"
        earlier = {task for task, whose in self._ending.items() if whose == name}
        way = self._run(self._dialed[name], self._dialing(name), earlier)
        self._tasks[name] = asyncio.create_task(way, name=f"perdure-link-{name}")

    @staticmethod
    async def _run(link: DialedLink, dial: Dial, earlier: set[asyncio.Task[None]]) -> None:
        if earlier:
            # Their ends take the peer for lost.
            await asyncio.wait(earlier)
        await link.run(dial)

    def connect(self, peers: Mapping[str, str]) -> None:
        """Dial these peers, and no others, from now on; open links to the same URLs stay."""
        for name in [name for name, url in self._urls.items() if peers.get(name) != url]:
            self._hang_up(name)
        for name, url in peers.items():
            if name not in self._dialed:
                self._urls[name] = url
                self._dialed[name] = DialedLink(self._around, name, url)
                if self._dialing is not None:
                    self._dial(name)

    def part(self, name: str) -> None:
        """A region is a peer no more: nothing is sent to it, or taken from it."""
        self._hang_up(name)
        self._acceptor.part(name)

    def _hang_up(self, name: str) -> None:
        self._urls.pop(name, None)
        self._dialed.pop(name, None)
        if (task := self._tasks.pop(name, None)) is not None:
            task.cancel()
            self._ending[task] = name
            task.add_done_callback(self._ending.pop)

    async def stop(self) -> None:
        """Close every link and the listener."""
        if self._listening is not None:
            # First: who was accepted just before is known by the time that all are closed.
            self._listening.close()
        tasks = [*self._tasks.values(), *self._ending]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, self._acceptor.close(), return_exceptions=True)
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
        return await self._asking(peer).digests(session, buckets)

    async def ask_status(self, peer: str, what: Mapping[str, Any]) -> dict[str, Any]:
        """What a peer says of itself. Raises ``PeerUnreachable`` when it does not answer in time,
        or is of a version that knows no such question."""
        return await self._asking(peer).status(what)

    def wire(self, peer: str) -> int | None:
        """The version that the link to a peer speaks; None while it is closed."""
        link = self._dialed.get(peer)
        return None if link is None else link.questions.version

    def _asking(self, peer: str) -> Questions:
        link = self._dialed.get(peer)
        if link is None:
            raise PeerUnreachable(peer)
        return link.questions

    def pull(self, peer: str, sessions: Sequence[str]) -> AsyncIterator[bytes]:
        """Everything that a peer knows of some sessions, in pieces.

        Raises ``PeerUnreachable`` when it stops before the last.
        """
        return self._asking(peer).pull(sessions)
