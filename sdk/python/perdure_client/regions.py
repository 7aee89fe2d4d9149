"""Regions to talk to: which one next, when to come back, and one request that survives a death."""

import asyncio
import json
import math
import random
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any
from urllib.parse import urlsplit

import httpx2

from perdure_client.errors import Unavailable, error_of, invalid

CONNECT_S_MAX = 2.0
ANSWER_S_MAX = 15.0
FIRST_RETRY_S_MAX = 0.05
BACKOFF_S_MIN = 0.1
BACKOFF_S_MAX = 5.0
AVOID_S = 5.0
RETRY_AFTER_S_MAX = 60
RECONNECT_S_MAX = 60.0
GIVE_UP_S = 60.0
# So many requests are under way at once, of one client; others wait for their turn. None of them
# waits at its region for anything.
REQUESTS_AT_ONCE_MAX = 128
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
        return self._jitter.random() * min(seconds, RECONNECT_S_MAX)


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
            raise invalid("invalid_url", "a client needs a list of regions' URLs, at least one")
        self.urls = [_checked(url) for url in urls]
        self.give_up_s = give_up_s
        self.http = http
        self.sleep = sleep
        # S311: it spreads retries, nobody gains by guessing it
        self._jitter = jitter or random.Random()  # noqa: S311
        self._clock = clock or (lambda: asyncio.get_running_loop().time())
        self._avoid: dict[str, float] = {}
        # Where a region said when to come back: not before, also when there is no other.
        self._not_before: dict[str, float] = {}
        self._last_failure = ""
        self._at_once = asyncio.Semaphore(REQUESTS_AT_ONCE_MAX)

    @property
    def last_failure(self) -> str:
        """Which region failed last, and why."""
        return self._last_failure

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

    async def turn(self, after: str, wait_s: float, deadline: float = math.inf) -> str:
        """The region to try after one has failed, when it may be tried.

        Raises :class:`Unavailable` when that would be after the deadline.
        """
        await self._sleep(wait_s, deadline)
        url = self.pick(after)
        rest_s = self._not_before.get(url, 0.0) - self._clock()
        if rest_s > 0:
            await self._sleep(rest_s, deadline)
        return url

    async def _sleep(self, seconds: float, deadline: float) -> None:
        if self._clock() + seconds > deadline:
            detail = f"no region answers; the last that was tried: {self._last_failure}"
            raise Unavailable({"code": "unavailable", "status": 503, "detail": detail})
        await self.sleep(seconds)

    async def wait(self, event: asyncio.Event, wait_s: float | None) -> None:
        """Until the event is set anew, or so many seconds are over."""
        event.clear()
        waits: list[asyncio.Future[Any]] = [asyncio.ensure_future(event.wait())]
        if wait_s is not None:
            waits.append(asyncio.ensure_future(self.sleep(wait_s)))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def failed(self, url: str, why: str, retry_after_s: float = 0.0) -> None:
        """Avoid a region for a while, and for as long as it asked for."""
        now = self._clock()
        self._avoid[url] = now + max(AVOID_S, retry_after_s)
        self._not_before[url] = now + retry_after_s
        self._last_failure = f"{url}: {why}"

    def worked(self, url: str) -> None:
        """A region answers."""
        self._avoid.pop(url, None)
        self._not_before.pop(url, None)

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
        content = None if body is None else encoded(body)
        kind = {} if body is None else {"content-type": "application/json"}
        try:
            answer = await self.http.request(
                method, url + path, content=content, headers={**(headers or {}), **kind}
            )
            if answer.is_success:
                value = json.loads(answer.content or b"{}")
                if not isinstance(value, dict):
                    raise ValueError("its answer is no object")
        except (httpx2.RequestError, ValueError) as error:
            self.failed(url, _why(error))
            return None
        if answer.is_success:
            self.worked(url)
            return value
        problem = problem_of(answer)
        if answer.status_code in RETRY_STATUSES:
            self.failed(url, problem["detail"], problem.get("retry_after_s", 0))
            return None
        self.worked(url)
        raise error_of(problem)

    async def answers(self, url: str, wait_s: float) -> bool:
        """Whether anything is answered there to a plain question."""
        try:
            await self.http.get(url + "/v1/transports", timeout=wait_s)
        except httpx2.RequestError:
            return False
        return True

    async def told(self, path: str, body: Any) -> bool:
        """Whether the region that is asked now took it: one try. One that cannot be reached is
        avoided by the next.

        Raises :class:`PerdureError` for a refusal that every region would give.
        """
        kind = {"content-type": "application/json"}
        content = encoded(body)
        url = self.pick()
        try:
            answer = await self.http.post(url + path, content=content, headers=kind)
        except httpx2.RequestError as error:
            self.failed(url, _why(error))
            return False
        if not answer.is_success and answer.status_code not in RETRY_STATUSES:
            raise error_of(problem_of(answer))
        return answer.is_success

    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        *,
        first: str | None = None,
    ) -> tuple[dict[str, Any], str]:
        """A request that is the same at every region, tried until one answers: (answer, region).
        ``first``: where to try it first.

        Raises :class:`PerdureError`; :class:`Unavailable` when none answers for ``give_up_s``.
        """
        pause = self.pause()
        url, deadline = first, math.inf
        while True:
            async with self._at_once:
                if deadline == math.inf:
                    # Before, it was this program that had it wait.
                    deadline = self._clock() + self.give_up_s
                # Chosen now: many may have learned in the meantime that a region is away.
                url = url or self.pick()
                value = await self.once(url, method, path, body, headers)
            if value is not None:
                return value, url
            url = await self.turn(url, pause.next_s(), deadline)

    def stream(
        self, url: str, path: str, headers: dict[str, str], read_s_max: float
    ) -> AbstractAsyncContextManager[httpx2.Response]:
        """A long answer from one region; no byte for ``read_s_max`` seconds is a failure."""
        timeout = httpx2.Timeout(CONNECT_S_MAX, read=read_s_max)
        return self.http.stream("GET", url + path, headers=headers, timeout=timeout)


def problem_of(answer: httpx2.Response) -> dict[str, Any]:
    """The problem object of a refusal whose body has been read, also where a proxy refused: always
    with ``status`` and ``detail``, and with ``retry_after_s`` where the refusal has it."""
    status = answer.status_code
    try:
        said = json.loads(answer.content)
    except ValueError:
        said = {}
    problem: dict[str, Any] = {"detail": f"{answer.url} answers {status}"}
    problem |= said if isinstance(said, dict) else {}
    # Seconds. A date needs a clock that agrees with the region's, and no region gives one.
    after = answer.headers.get("retry-after", "")
    if after.isascii() and after.isdigit():
        problem["retry_after_s"] = min(int(after[:9]), RETRY_AFTER_S_MAX)
    return {**problem, "status": status}


def encoded(value: Any) -> bytes:
    """JSON as the service takes it. Raises ``Invalid`` for what JSON in UTF-8 cannot say, and
    ``TypeError`` for what JSON has no word for."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:
        raise invalid("invalid_json", f"not JSON in UTF-8: {error}") from error


def _why(error: Exception) -> str:
    return f"{type(error).__name__} {error}".strip()


def _checked(url: str) -> str:
    """The URL as paths are added to it. Raises ``Invalid``, in the words of the one who gave it."""
    try:
        parts = urlsplit(url)
        is_url = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except (ValueError, AttributeError):
        is_url = False
    if not is_url:
        raise invalid("invalid_url", f"{url!r} must be a URL like http://127.0.0.1:7101")
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise invalid(
            "invalid_url", f"{url!r} must be the URL of a region alone, without a path or a query"
        )
    return url.rstrip("/")
