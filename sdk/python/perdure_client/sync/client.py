"""The client, for threads. Made by ``make sync-client``: change
``perdure_client/client.py`` instead."""

import asyncio
import random
from collections.abc import Callable
from typing import Any, Literal

import httpx2

from perdure_client import client as asynchronous
from perdure_client.agents import LEASE_S
from perdure_client.regions import GIVE_UP_S, Sleep
from perdure_client.sync.admin import Admin
from perdure_client.sync.agents import Agent
from perdure_client.sync.portal import Portal
from perdure_client.sync.session import Session
from perdure_client.transports import Transport


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
        self._it = asynchronous.Client(
            urls,
            grant,
            give_up_s=give_up_s,
            transport=transport,
            http=http,
            jitter=jitter,
            sleep=sleep,
            clock=clock,
        )
        self._portal = Portal()

    def session(self, id_: str) -> Session:
        """A session of this id; nothing is sent yet. Raises ``Invalid`` for what is no id."""
        return Session(self._portal, self._it.session(id_))

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
        return Agent(self._portal, self._it.agent(name, worker=worker, mode=mode, lease_s=lease_s))

    @property
    def admin(self) -> Admin:
        """What operators ask of regions."""
        return Admin(self._portal, self._it.admin)

    def sessions(self, *, after: str | None = None, limit: int = 100) -> dict[str, Any]:
        """A page of sessions: ``{"sessions", "next"}``."""
        return self._portal.call(self._it.sessions(after=after, limit=limit))

    def peers(self) -> dict[str, Any]:
        """What the first region that answers knows of the others."""
        return self._portal.call(self._it.peers())

    def transports(self) -> dict[str, Any]:
        """How events can be had from the first region that answers, the best first."""
        return self._portal.call(self._it.transports())

    def verify(self, session: str | None = None) -> dict[str, Any]:
        """Whether all regions hold the same, of one session or of all."""
        return self._portal.call(self._it.verify(session))

    def audit(self, after: str | None = None, limit: int = 1000) -> dict[str, Any]:
        """A page of the audit log: ``entries`` and, where there are more, the ``next`` place."""
        return self._portal.call(self._it.audit(after, limit))

    def close(self) -> None:
        """Close every connection."""
        self._portal.close(self._it.aclose)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
