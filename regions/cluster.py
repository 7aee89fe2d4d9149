"""Three regions on this machine as three processes, for ``perdure dev`` and the demos."""

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from perdure.regions.clock import SystemClock
from perdure.regions.config import JWT_SECRET, PEER_SECRET

NAMES = ("eu", "us", "ap")
EVERYTHING = ("read", "write", "presence", "run", "cancel", "admin")
GRANT_S = 7 * 86_400
READY_S_MAX = 20.0
STOP_S_MAX = 10.0
_POLL_S = 0.05


# Signs claims with a secret.
Mint = Callable[[bytes, Mapping[str, Any]], str]


class ClusterError(Exception):
    """A region did not start; the message holds what it said."""


class Issuer:
    """Gives the grants of regions on this machine; ``mint`` signs claims with a secret."""

    def __init__(self, mint: Mint, secret: str | None = None) -> None:
        self.secret = secret or secrets.token_hex(32)
        self._mint = mint

    def grant(self) -> str:
        """A grant for who runs the regions: everything, for some days."""
        now_s = SystemClock().wall_ms() // 1000
        claims = {"sub": "dev", "as": ["*"], "can": {"*": list(EVERYTHING)}}
        return self._mint(self.secret.encode(), {**claims, "iat": now_s, "exp": now_s + GRANT_S})


@dataclass
class RegionProcess:
    """One region and how it is run."""

    name: str
    port: int
    peer_port: int
    data: Path
    process: asyncio.subprocess.Process | None = None
    # How long the log was when the process was started.
    logged_bytes: int = 0

    @property
    def url(self) -> str:
        """The URL for clients."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        """What the process prints."""
        return self.data.parent / f"{self.name}.log"

    def said(self) -> str:
        """What this process has printed."""
        with self.log.open("rb") as log:
            log.seek(self.logged_bytes)
            return log.read().decode(errors="replace")

    def has_its_port(self) -> bool:
        """Whether this process has said that it listens: what answers there is not another one."""
        return any(
            line.startswith(f"perdure {self.name}: http") for line in self.said().split("\n")
        )


def free_ports(count: int) -> list[int]:
    """Ports on loopback that nothing listens on just now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


class Cluster:
    """Regions that know each other; each can be killed and started again."""

    def __init__(
        self,
        directory: Path,
        ports: list[tuple[int, int]],
        options: Sequence[str] = (),
        issuer: "Issuer | None" = None,
    ) -> None:
        """``options``: further flags of ``perdure serve``, for every region. ``issuer``: gives the
        grants that they ask for; without one anybody on this machine may call."""
        self._options = [*options, *(["--dev-no-auth"] if issuer is None else [])]
        self.grant = None if issuer is None else issuer.grant()
        self.regions = {
            name: RegionProcess(name, port, peer_port, directory / name)
            for name, (port, peer_port) in zip(NAMES, ports, strict=True)
        }
        self._environment = {
            **os.environ,
            PEER_SECRET: os.environ.get(PEER_SECRET) or secrets.token_hex(32),
        }
        if issuer is not None:
            self._environment[JWT_SECRET] = issuer.secret

    async def __aenter__(self) -> "Cluster":
        try:
            for region in self.regions.values():
                await self.start(region.name)
            await asyncio.gather(*(self.ready(name) for name in self.regions))
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self, name: str) -> None:
        """Start the process of a region; see :meth:`ready`."""
        region = self.regions[name]
        region.data.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "perdure.regions.main", "serve", "--region", name]
        command += ["--port", str(region.port), "--peer-port", str(region.peer_port)]
        command += ["--public-url", f"http://127.0.0.1:{region.port}"]
        command += ["--data", str(region.data), "--log-format", "text", *self._options]
        for other in self.regions.values():
            if other is not region:
                command += ["--peer", f"{other.name}=http://127.0.0.1:{other.peer_port}"]
        with region.log.open("ab") as log:
            region.logged_bytes = log.tell()
            # A session of its own: Ctrl-C reaches us alone, and we stop the regions in order.
            region.process = await asyncio.create_subprocess_exec(
                *command,
                stdout=log,
                stderr=log,
                stdin=asyncio.subprocess.DEVNULL,
                env=self._environment,
                start_new_session=True,
            )

    async def ready(self, name: str) -> None:
        """Until the region is ready; raises :class:`ClusterError` when it does not come up."""
        region = self.regions[name]
        deadline = asyncio.get_running_loop().time() + READY_S_MAX
        async with httpx2.AsyncClient(trust_env=False, timeout=1.0) as http:
            while asyncio.get_running_loop().time() < deadline:
                if region.process is None or region.process.returncode is not None:
                    break
                if region.has_its_port():
                    with contextlib.suppress(httpx2.TransportError):
                        if (await http.get(f"{region.url}/readyz")).status_code == 200:
                            return
                await asyncio.sleep(_POLL_S)
        said = region.said().strip().splitlines()[-5:]
        raise ClusterError(f"region {name} did not start: {' / '.join(said) or 'it said nothing'}")

    async def kill(self, name: str) -> None:
        """SIGKILL: no drain, no goodbye."""
        process = self.regions[name].process
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()

    async def stop(self) -> None:
        """SIGTERM to every region, and SIGKILL to what does not stop within 10 s."""
        running = [
            region.process
            for region in self.regions.values()
            if region.process is not None and region.process.returncode is None
        ]
        try:
            for process in running:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(STOP_S_MAX):
                await asyncio.gather(*(process.wait() for process in running))
        except TimeoutError:
            pass
        finally:
            # Also when this is cancelled, by somebody who presses Ctrl-C twice.
            for process in running:
                if process.returncode is None:
                    with contextlib.suppress(ProcessLookupError):
                        process.kill()
        await asyncio.gather(*(process.wait() for process in running))
