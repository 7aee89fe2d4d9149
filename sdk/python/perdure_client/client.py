"""The client: a list of regions, and sessions in them."""

import asyncio
import os
import random
from collections.abc import Callable, Generator
from typing import Any, Literal

import httpx2

from perdure_client.admin import Admin
from perdure_client.agents import LEASE_S, Agent
from perdure_client.ids import query
from perdure_client.regions import ANSWER_S_MAX, CONNECT_S_MAX, GIVE_UP_S, Regions, Sleep
from perdure_client.session import Session
from perdure_client.transports import Transport, Transports
from perdure_client.trust import trusted

_CONNECTIONS_MAX = 1_000
# The variable of the environment that a client takes its grant from.
GRANT = "PERDURE_GRANT"


class Client:
    """Talks to the first region that answers, and goes on at the next by itself.

    ``urls``: the regions in the order of preference. ``grant``: a JWT, where the regions ask for
    one, or a function that gives the one to use now (None: that of the environment,
    ``PERDURE_GRANT``, if there is one). ``give_up_s``: for so long a request is tried,
    at one region after the other, before it raises ``Unavailable``; a reader tries for ever.
    ``transport``: how events come, ``websocket``, ``sse`` or ``poll``; ``auto`` takes the first of
    them that gets through to a region. ``jitter``, ``sleep``, ``clock`` and ``http`` are for tests.

    Raises ``Invalid``, a ``ValueError``, for what is not a list of regions' URLs.
    """

    def __init__(
        self,
        urls: list[str],
        grant: str | Callable[[], str] | None = None,
        *,
        give_up_s: float = GIVE_UP_S,
        transport: Transport = "auto",
        http: httpx2.AsyncBaseTransport | None = None,
        jitter: random.Random | None = None,
        sleep: Sleep = asyncio.sleep,
        clock: Callable[[], float] | None = None,
    ) -> None:
        grant = os.environ.get(GRANT) if grant is None else grant
        self._http = httpx2.AsyncClient(
            auth=_Bearer(grant) if grant else None,
            timeout=httpx2.Timeout(ANSWER_S_MAX, connect=CONNECT_S_MAX),
            limits=httpx2.Limits(
                max_connections=_CONNECTIONS_MAX, max_keepalive_connections=_CONNECTIONS_MAX
            ),
            trust_env=False,
            verify=trusted(os.environ),
            transport=http,
        )
        self._grant = grant
        self.regions = Regions(
            urls, self._http, give_up_s=give_up_s, jitter=jitter, sleep=sleep, clock=clock
        )
        self._transports = Transports(transport, sockets=http is None, clock=self.regions.now)
        # An agent's feed comes as server-sent events or by long poll.
        self._feeds = Transports(
            "auto" if transport == "websocket" else transport,
            sockets=False,
            clock=self.regions.now,
        )

    def session(self, id_: str) -> Session:
        """A session of this id; nothing is sent yet. Raises ``Invalid`` for what is no id."""
        return Session(self.regions, self._transports, id_, self._headers)

    def agent(
        self,
        name: str,
        *,
        worker: str | None = None,
        mode: Literal["continue", "restart"] = "continue",
        lease_s: int = LEASE_S,
    ) -> Agent:
        """A worker of the agent of this name; nothing is sent yet. Raises ``Invalid`` for what is
        no id.

        ``mode``: whether an interrupted run is continued, or started over. ``lease_s``: for so long
        a worker that says nothing is taken to be at work; it says something three times as often.
        ``worker``: a name of this process alone, drawn anew at each start. With it the feed renews
        all leases too, so a turn that is let go is another's only when the feed has ended.
        """
        return Agent(
            self.regions,
            self._feeds,
            self._headers,
            self.session,
            name,
            worker=worker,
            mode=mode,
            lease_s=lease_s,
        )

    @property
    def admin(self) -> Admin:
        """What operators ask of regions."""
        return Admin(self.regions)

    def _headers(self) -> dict[str, str]:
        """What a handshake says who calls with; the other requests have it from ``_Bearer``."""
        grant = self._grant() if callable(self._grant) else self._grant
        return {"authorization": f"Bearer {grant}"} if grant else {}

    async def sessions(self, *, after: str | None = None, limit: int = 100) -> dict[str, Any]:
        """A page of sessions: ``{"sessions", "next"}``."""
        return await self._get("/v1/sessions" + query(limit=limit, after=after))

    async def peers(self) -> dict[str, Any]:
        """What the first region that answers knows of the others."""
        return await self._get("/v1/regions")

    async def transports(self) -> dict[str, Any]:
        """How events can be had from the first region that answers, the best first."""
        return await self._get("/v1/transports")

    async def verify(self, session: str | None = None) -> dict[str, Any]:
        """Whether all regions hold the same, of one session or of all."""
        return await self._get("/v1/verify" + query(session=session))

    async def audit(self, after: str | None = None, limit: int = 1_000) -> dict[str, Any]:
        """A page of the audit log: ``entries`` and, where there are more, the ``next`` place."""
        return await self._get("/v1/audit" + query(after=after, limit=limit))

    async def _get(self, path: str) -> dict[str, Any]:
        answer, _ = await self.regions.request("GET", path)
        return answer

    async def aclose(self) -> None:
        """Close every connection."""
        await self._transports.closed()
        await self._http.aclose()

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class _Bearer(httpx2.Auth):
    """Asked for each request: grants expire while readers go on."""

    def __init__(self, grant: str | Callable[[], str]) -> None:
        self._grant = grant

    def auth_flow(
        self, request: httpx2.Request
    ) -> Generator[httpx2.Request, httpx2.Response, None]:
        if "authorization" not in request.headers:
            grant = self._grant if isinstance(self._grant, str) else self._grant()
            request.headers["authorization"] = f"Bearer {grant}"
        yield request
