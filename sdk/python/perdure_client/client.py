"""The client: a list of regions, and sessions in them."""

import asyncio
import random
from collections.abc import Callable
from typing import Any

import httpx2

from perdure_client.regions import ANSWER_S_MAX, CONNECT_S_MAX, GIVE_UP_S, Regions, Sleep
from perdure_client.session import Session

_CONNECTIONS_MAX = 1_000


class Client:
    """Talks to the first region that answers, and goes on at the next by itself.

    ``urls``: the regions in the order of preference. ``grant``: a JWT, where the regions ask for
    one. ``give_up_s``: for so long a request is tried, at one region after the other, before it
    raises ``Unavailable``. ``jitter``, ``sleep``, ``clock`` and ``transport`` are for tests.

    Raises ``ValueError`` for a URL that is none.
    """

    def __init__(
        self,
        urls: list[str],
        grant: str | None = None,
        *,
        give_up_s: float = GIVE_UP_S,
        transport: httpx2.AsyncBaseTransport | None = None,
        jitter: random.Random | None = None,
        sleep: Sleep = asyncio.sleep,
        clock: Callable[[], float] | None = None,
    ) -> None:
        headers = {"authorization": f"Bearer {grant}"} if grant else {}
        self._http = httpx2.AsyncClient(
            headers=headers,
            timeout=httpx2.Timeout(ANSWER_S_MAX, connect=CONNECT_S_MAX),
            limits=httpx2.Limits(
                max_connections=_CONNECTIONS_MAX, max_keepalive_connections=_CONNECTIONS_MAX
            ),
            trust_env=False,
            transport=transport,
        )
        self.regions = Regions(
            urls, self._http, give_up_s=give_up_s, jitter=jitter, sleep=sleep, clock=clock
        )

    def session(self, id_: str) -> Session:
        """A session of this id; nothing is sent yet."""
        return Session(self.regions, id_)

    async def sessions(self, *, after: str | None = None, limit: int = 100) -> dict[str, Any]:
        """A page of sessions: ``{"sessions", "next"}``."""
        page = f"?limit={limit}" + (f"&after={after}" if after else "")
        return await self._get(f"/v1/sessions{page}")

    async def peers(self) -> dict[str, Any]:
        """What the first region that answers knows of the others."""
        return await self._get("/v1/regions")

    async def verify(self, session: str | None = None) -> dict[str, Any]:
        """Whether all regions hold the same, of one session or of all."""
        return await self._get("/v1/verify" + (f"?session={session}" if session else ""))

    async def _get(self, path: str) -> dict[str, Any]:
        answer, _ = await self.regions.request("GET", path)
        value: dict[str, Any] = answer
        return value

    async def aclose(self) -> None:
        """Close every connection."""
        await self._http.aclose()

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
