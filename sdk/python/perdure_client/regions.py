"""Regions to talk to: which one next, when to come back, and one request that survives a death."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any
from urllib.parse import urlsplit

import httpx2

from perdure_client.errors import Unavailable, error_of

CONNECT_S_MAX = 2.0
ANSWER_S_MAX = 15.0
FIRST_RETRY_S_MAX = 0.05
BACKOFF_S_MIN = 0.1
BACKOFF_S_MAX = 5.0
AVOID_S = 5.0
GIVE_UP_S = 60.0
RETRY_STATUSES = frozenset({408, 429, 500, 502, 503, 504, 507})

Sleep = Callable[[float], Awaitable[None]]


class Pause:
    """How long to wait before the next try: at once elsewhere, then longer and longer."""

    def __init__(self, jitter: random.Random, regions: int) -> None:
        self._jitter = jitter
        self._regions = regions
        self._tries = 0

    def next_s(self) -> float:
        """Seconds before the next try; every region is tried once before it waits at all."""
        self._tries += 1
        if self._tries < self._regions:
            return self._jitter.random() * FIRST_RETRY_S_MAX
        doubled = BACKOFF_S_MIN * float(2 ** min(self._tries - self._regions, 10))
        most = min(BACKOFF_S_MAX, doubled)
        return most * (0.5 + self._jitter.random() / 2)

    def reset(self) -> None:
        """It worked."""
        self._tries = 0

    def share_of_s(self, seconds: float) -> float:
        """A random share of so many seconds, so that readers who are sent away come back spread."""
        return self._jitter.random() * seconds


class Regions:
    """The regions of a client, in the order of preference."""

    def __init__(
        self,
        urls: list[str],
        http: httpx2.AsyncClient,
        *,
        give_up_s: float = GIVE_UP_S,
        jitter: random.Random | None = None,
        sleep: Sleep = asyncio.sleep,
        clock: Callable[[], float] | None = None,
    ) -> None:
        if isinstance(urls, str) or not urls:
            raise ValueError("a client needs a list of regions' URLs, at least one")
        for url in urls:
            if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
                raise ValueError(f"{url!r} must be a URL like http://127.0.0.1:7101")
        self.urls = [url.rstrip("/") for url in urls]
        self.give_up_s = give_up_s
        self.http = http
        self.sleep = sleep
        self._jitter = jitter or random.Random()
        self._clock = clock or (lambda: asyncio.get_running_loop().time())
        self._avoid: dict[str, float] = {}

    def now(self) -> float:
        """Seconds on a clock that never goes back."""
        return self._clock()

    def pause(self) -> Pause:
        """A fresh series of tries."""
        return Pause(self._jitter, len(self.urls))

    def pick(self, after: str | None = None) -> str:
        """A region: the first that has not failed lately, never ``after`` if there is another."""
        now = self._clock()
        others = [url for url in self.urls if url != after] or self.urls
        fit = [url for url in others if self._avoid.get(url, 0.0) <= now]
        return fit[0] if fit else min(others, key=lambda url: self._avoid.get(url, 0.0))

    def failed(self, url: str) -> None:
        """Avoid a region for a while."""
        self._avoid[url] = self._clock() + AVOID_S

    def worked(self, url: str) -> None:
        """A region answers."""
        self._avoid.pop(url, None)

    async def once(
        self,
        url: str,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
    ) -> Any:
        """One request to one region: its answer, or None when it must be tried elsewhere.

        Raises :class:`PerdureError` for a refusal that every region would give.
        """
        content = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        headers = {**(headers or {}), **({"content-type": "application/json"} if body else {})}
        try:
            answer = await self.http.request(method, url + path, content=content, headers=headers)
            value = answer.json() if answer.content else {}
        except (httpx2.TransportError, httpx2.DecodingError, ValueError):
            self.failed(url)
            return None
        if answer.status_code in RETRY_STATUSES:
            self.failed(url)
            return None
        self.worked(url)
        if answer.status_code >= 400:
            problem = value if isinstance(value, dict) else {}
            raise error_of({"status": answer.status_code, **problem})
        return value

    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[Any, str]:
        """A request that is the same at every region, tried until one answers: (answer, region).

        Raises :class:`PerdureError`; :class:`Unavailable` when none answers for ``give_up_s``.
        """
        pause = self.pause()
        deadline = self._clock() + self.give_up_s
        url: str | None = None
        while self._clock() < deadline:
            url = self.pick(url) if url is None or url in self._avoid else url
            value = await self.once(url, method, path, body, headers)
            if value is not None:
                return value, url
            await self.sleep(pause.next_s())
        raise Unavailable({"code": "unavailable", "status": 503, "detail": "no region answers"})

    def stream(
        self, url: str, path: str, headers: dict[str, str], read_s_max: float
    ) -> AbstractAsyncContextManager[httpx2.Response]:
        """A long answer from one region; no byte for ``read_s_max`` seconds is a failure."""
        timeout = httpx2.Timeout(CONNECT_S_MAX, read=read_s_max)
        return self.http.stream("GET", url + path, headers=headers, timeout=timeout)
