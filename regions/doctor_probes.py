"""What the doctor asks regions, each through its own URL, and whatever lies before it."""

import asyncio
import base64
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx2
from perdure.regions import doctor
from perdure.regions.client_command import is_not_for_us
from perdure.regions.doctor import Finding

from perdure_client import Client
from perdure_client.errors import PerdureError

ANSWER_S_MAX = 5.0
# A keep-alive comes every 10 s; the first events of a reader come at once.
FIRST_EVENT_S_MAX = 5.0
_TRANSPORTS: tuple[Literal["sse", "websocket"], ...] = ("sse", "websocket")
_SESSION = "perdure-doctor"
Clients = Callable[..., Client]


class Probes:
    """Asks, and keeps what was found. ``verify``: whose certificates are believed;
    ``clients`` and ``http`` are for tests."""

    def __init__(
        self,
        urls: list[str],
        grant: str | None,
        wall_ms: Callable[[], int],
        clients: Clients = Client,
        http: httpx2.AsyncBaseTransport | None = None,
        verify: ssl.SSLContext | bool = True,
    ) -> None:
        self._urls = [url.rstrip("/") for url in urls]
        self._grant = grant
        self._wall_ms = wall_ms
        self._clients = clients
        self._http = http
        self._verify = verify
        self._versions: dict[str, dict[str, Any]] = {}
        self._backups: dict[str, int | None] = {}
        # Where a reader of the probes' session was refused by the region itself.
        self._refused: set[str] = set()
        self._unready: set[str] = set()

    async def findings(self) -> AsyncIterator[Finding]:
        """Everything, one after the other; what cannot be asked is told and stops nothing."""
        if self._grant is not None:
            yield doctor.of_grant(claims_of(self._grant), self._wall_ms() // 1000)
        reached = []
        for url in self._urls:
            async for finding in self._region(url):
                yield finding
            if url in self._versions:
                reached.append(url)
        for finding in doctor.of_versions(self._versions):
            yield finding
        for at, url in enumerate(reached):
            async for finding in self._told(url, with_regions=at == 0):
                yield finding
        for finding in doctor.of_backups(self._backups, self._wall_ms()):
            yield finding
        # A region that is not ready sends readers elsewhere: nothing is learned of the way to it.
        for url in (each for each in reached if each not in self._unready):
            for transport in _TRANSPORTS:
                yield await self._passage(url, transport)

    # One region

    async def _region(self, url: str) -> AsyncIterator[Finding]:
        if url.startswith("https:"):
            yield await self._certificate(url)
        try:
            async with httpx2.AsyncClient(
                trust_env=False, verify=self._verify, timeout=ANSWER_S_MAX, transport=self._http
            ) as http:
                began = asyncio.get_running_loop().time()
                version = await http.get(f"{url}/version")
                took_s = asyncio.get_running_loop().time() - began
                ready = await http.get(f"{url}/readyz")
            about = json.loads(version.content)
            state = json.loads(ready.content)
            if not isinstance(about, dict) or not isinstance(state, dict) or "region" not in about:
                raise ValueError("it answers, but not as a region does")
        except (httpx2.RequestError, httpx2.InvalidURL, ValueError) as error:
            advice = "is the region running, and is this the URL of its clients' port?"
            text = f"{url} cannot be reached: {str(error) or type(error).__name__}"
            yield Finding("fail", "reach", text, advice)
            return
        self._versions[url] = about
        yield Finding(
            "ok", "reach", f"{url} is region {about['region']}, in {took_s * 1000:.0f} ms"
        )
        if ready.status_code != 200:
            self._unready.add(url)
        yield doctor.of_readiness(url, ready.status_code, state)

    async def _certificate(self, url: str) -> Finding:
        parts = urlsplit(url)
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                _, writer = await asyncio.open_connection(
                    parts.hostname, parts.port or 443, ssl=ssl.create_default_context()
                )
            try:
                found = writer.get_extra_info("peercert")
            finally:
                writer.close()
        except (OSError, TimeoutError) as error:
            text = f"TLS with {url} fails: {str(error) or type(error).__name__}"
            advice = "a certificate that names this host, of an authority that clients know"
            return Finding("fail", "certificate", text, advice)
        end_ms = int(ssl.cert_time_to_seconds(found["notAfter"]) * 1000)
        return doctor.of_certificate(url, end_ms, self._wall_ms())

    # What it says

    async def _told(self, url: str, *, with_regions: bool) -> AsyncIterator[Finding]:
        """``with_regions``: what it says of the others too, which all of them say."""
        async with self._clients([url], self._grant, give_up_s=ANSWER_S_MAX) as client:
            try:
                overview = await client.admin.get("overview")
                yield doctor.of_clock(url, overview["now_ms"], self._wall_ms())
                if with_regions:
                    for finding in doctor.of_overview(overview):
                        yield finding
                storage = await client.admin.get("storage")
                for finding in doctor.of_storage(overview["region"], storage):
                    yield finding
                if "last_backup_ms" in storage:
                    self._backups[overview["region"]] = storage["last_backup_ms"]
            except PerdureError as error:
                if not is_not_for_us(error):
                    yield Finding("fail", "overview", f"{url}: {error}")
                    return
                async for finding in self._told_to_anybody(url, client, error):
                    yield finding

    async def _told_to_anybody(
        self, url: str, client: Client, why: PerdureError
    ) -> AsyncIterator[Finding]:
        advice = "perdure token mint --subject ops --can '*=admin', into PERDURE_GRANT"
        if why.code == "not_found":
            text = f"{url} has no overview: it is of an older version"
            yield Finding("warn", "overview", text, "upgrade it")
        else:
            text = f"{url} tells operators more, and the grant is not one's"
            yield Finding("warn", "grant", text, advice)
        try:
            known = await client.peers()
        except PerdureError as error:
            level: doctor.Level = "warn" if is_not_for_us(error) else "fail"
            yield Finding(level, "peers", f"{url} does not say what it knows: {error}", advice)
            return
        for finding in doctor.of_peers(known):
            yield finding

    # Whether events get through

    async def _passage(self, url: str, transport: Literal["sse", "websocket"]) -> Finding:
        """Follow a session for a moment: its first events come at once, or something holds them."""
        began = asyncio.get_running_loop().time()
        client = self._clients([url], self._grant, give_up_s=ANSWER_S_MAX, transport=transport)
        try:
            async with (
                client,
                asyncio.timeout(FIRST_EVENT_S_MAX),
                aclosing(client.session(_SESSION).events()) as events,
            ):
                await anext(events)
        except TimeoutError:
            if url in self._refused and transport == "websocket":
                # A handshake that is answered with ``not_found`` is taken for a way that is shut.
                return doctor.of_passage_refused(url, transport)
            return doctor.of_passage(url, transport, None, f"nothing in {FIRST_EVENT_S_MAX:g} s")
        except PerdureError as error:
            if error.code == "not_found" or is_not_for_us(error):
                # It was the region that answered so.
                self._refused.add(url)
                took_s = asyncio.get_running_loop().time() - began
                return Finding("ok", transport, f"{url} answers a reader in {took_s * 1000:.0f} ms")
            return doctor.of_passage(url, transport, None, str(error))
        took_s = asyncio.get_running_loop().time() - began
        return doctor.of_passage(url, transport, took_s)


def claims_of(grant: str) -> dict[str, Any] | None:
    """What a grant says, unchecked; None where it is no JWT (an API key is none)."""
    parts = grant.split(".")
    if len(parts) != 3:
        return None
    try:
        raw = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
        found = json.loads(raw)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
