"""Regions as processes, each on a disk of its own, with proxies between them."""

import asyncio
import contextlib
import errno
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import httpx2
import jwt
from perdure.regions.cluster import EVERYTHING, free_ports
from perdure.regions.config import JWT_SECRET, PEER_SECRET

from tests.chaos.namespaces import Namespaces, Route
from tests.chaos.proxy import Proxy, Way

NAMES = ("eu", "us", "ap")
READY_S_MAX = 60.0
STOP_S_MAX = 15.0
GRANT_S = 86_400
SMALL_DISK_BYTES = 33_554_432
_POLL_S = 0.05


@dataclass
class Region:
    """A place, its ports and its disk; ``disk`` names what an acknowledgement was on."""

    name: str
    port: int
    peer_port: int
    root: Path
    generation: int = 0
    process: asyncio.subprocess.Process | None = None
    # Whether its process was told to end, or is none.
    ending: bool = True
    paused: bool = False
    address: str = "127.0.0.1"
    # The ways to the regions that it dials.
    dials: dict[str, Proxy | Route] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """The URL for clients."""
        return f"http://{self.address}:{self.port}"

    @property
    def disk(self) -> str:
        """The disk that is in it now."""
        return f"{self.name}/{self.generation}"

    @property
    def data(self) -> Path:
        """The data directory on it."""
        return self.root / f"data-{self.generation}"

    @property
    def is_up(self) -> bool:
        """Whether its process runs (or is paused)."""
        return self.process is not None and self.process.returncode is None


class SmallDisk:
    """A file system of its own, so small that it can be filled; only root can mount it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"
        path.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK_BYTES}", "perdure-chaos"]
        try:
            done = subprocess.run([*command, str(path)], capture_output=True, check=False)
            self.mounted = done.returncode == 0
        except OSError:
            self.mounted = False

    def fill(self) -> None:
        """Not a byte is free."""
        with contextlib.suppress(FileNotFoundError), self._ballast.open("ab", buffering=0) as file:
            while True:
                try:
                    file.write(bytes(4_096))
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    return

    def free(self) -> None:
        """There is room again."""
        self._ballast.unlink(missing_ok=True)

    def unmount(self) -> None:
        """Gone, with everything on it."""
        if self.mounted:
            subprocess.run(["umount", str(self.path)], check=False)


def drawn(random: Random) -> Callable[[], Sequence[str]]:
    """Limits so small that their edges are met, or those that are usual."""

    def draw() -> Sequence[str]:
        idle_s, log_bytes = random.choice([1, 5, 60]), random.choice([3_000, 4_294_967_296])
        return "--evict-idle-s", str(idle_s), "--log-bytes-max", str(log_bytes)

    return draw


class Regions:
    """Three regions, on loopback with proxies between them, or in ``namespaces`` of their own.
    ``limits`` gives the options that a start gets."""

    def __init__(
        self,
        directory: Path,
        limits: Callable[[], Sequence[str]] = tuple,
        namespaces: Namespaces | None = None,
    ) -> None:
        ports = iter(free_ports(2 * len(NAMES)))
        self._limits = limits
        self.namespaces = namespaces
        self.all = {n: Region(n, next(ports), next(ports), directory / n) for n in NAMES}
        if namespaces is not None:
            for name, region in self.all.items():
                region.address = namespaces.address(name)
        # Processes that ended though nobody ended them, or not as they were told: (when, region,
        # how).
        self.deaths: list[tuple[float, str, str]] = []
        self.small = SmallDisk(self.all["us"].root)
        self._environment = {
            **{name: text for name, text in os.environ.items() if not name.startswith("PERDURE_")},
            PEER_SECRET: secrets.token_hex(32),
            JWT_SECRET: (secret := secrets.token_hex(32)),
        }
        claims = {
            "sub": "chaos",
            "exp": int(time.time()) + GRANT_S,
            "can": {"*": list(EVERYTHING)},
            "as": ["*"],
        }
        grant = jwt.encode(claims, secret, "HS256")
        # For clients: nobody else is served outside loopback.
        self.headers = {"authorization": f"Bearer {grant}"} if namespaces is not None else {}

    async def __aenter__(self) -> "Regions":
        for region in self.all.values():
            region.root.mkdir(parents=True, exist_ok=True)
            for other in self.all.values():
                if other is not region:
                    region.dials[other.name] = way = self._way(region.name, other)
                    await way.start()
        try:
            for name in self.all:
                await self.start(name)
            await asyncio.gather(*(self.ready(name) for name in self.all))
        except BaseException:
            await self.__aexit__()
            raise
        return self

    def _way(self, start: str, end: Region) -> Proxy | Route:
        if self.namespaces is not None:
            return self.namespaces.route(start, end.name)
        return Proxy(end.peer_port)

    async def __aexit__(self, *_: object) -> None:
        for name in self.all:
            self.resume(name)
        await asyncio.gather(*(self.stop(name) for name in self.all))
        for region in self.all.values():
            for proxy in region.dials.values():
                await proxy.stop()
        self.small.unmount()

    async def start(self, name: str) -> None:
        """Start its process, unless it runs."""
        region = self.all[name]
        if region.is_up:
            return
        if not region.ending and region.process is not None:
            self._died(name, f"ended by itself with {region.process.returncode}")
        region.ending = False
        command = [sys.executable, "-m", "perdure.regions.main", "serve", "--region", name]
        command += ["--port", str(region.port), "--peer-port", str(region.peer_port)]
        command += ["--data", str(region.data), *self._limits()]
        if self.namespaces is None:
            command += ["--dev-no-auth"]
        else:
            command = [*self.namespaces.inside(name), *command]
            command += ["--host", region.address, "--peer-host", region.address]
            command += ["--peer-insecure", "--behind-proxy"]
        for other, way in region.dials.items():
            peer = self.all[other]
            port = way.port if isinstance(way, Proxy) else peer.peer_port
            command += ["--peer", f"{other}=http://{peer.address}:{port}"]
        with self._log(name).open("ab") as log:
            region.process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
            )

    def _died(self, name: str, how: str) -> None:
        self.deaths.append((asyncio.get_running_loop().time(), name, how))

    async def ready(self, name: str) -> None:
        """Until it says so. Raises ``TimeoutError``."""
        await self._until(name, "/readyz")

    async def answers(self, name: str) -> None:
        """Until it answers at all. Raises ``TimeoutError``."""
        await self._until(name, "/livez")

    async def _until(self, name: str, path: str) -> None:
        region = self.all[name]
        try:
            async with (
                httpx2.AsyncClient(trust_env=False, timeout=2) as http,
                asyncio.timeout(READY_S_MAX),
            ):
                while True:
                    with contextlib.suppress(httpx2.RequestError):
                        if (await http.get(region.url + path)).status_code == 200:
                            return
                    await self.start(name)
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            printed = self._log(name).read_text(encoding="utf-8", errors="replace")[-2_000:]
            raise TimeoutError(f"{name} is not well after {READY_S_MAX:.0f} s: {printed}") from None

    def _log(self, name: str) -> Path:
        return self.all[name].root.parent / f"{name}.log"

    async def kill(self, name: str) -> None:
        """SIGKILL."""
        region = self.all[name]
        region.paused = False
        if region.process is not None and region.is_up:
            region.ending = True
            region.process.kill()
            await region.process.wait()

    async def stop(self, name: str) -> int:
        """SIGTERM, and SIGKILL when that is not enough; its exit code."""
        process = self.all[name].process
        if process is None:
            return 0
        if process.returncode is None:
            self.all[name].ending = True
            process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(STOP_S_MAX):
                    await process.wait()
            except TimeoutError:
                self._died(name, f"did not end within {STOP_S_MAX:.0f} s of SIGTERM")
                process.kill()
            else:
                # Killed meanwhile, by another fault, is no fault of its own.
                if process.returncode not in (0, -signal.SIGTERM, -signal.SIGKILL):
                    self._died(name, f"ended with {process.returncode} on SIGTERM")
        return await process.wait()

    def pause(self, name: str) -> None:
        """SIGSTOP."""
        region = self.all[name]
        if region.process is not None and region.is_up:
            region.paused = True
            region.process.send_signal(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """SIGCONT."""
        region = self.all[name]
        if region.paused and region.process is not None and region.is_up:
            region.process.send_signal(signal.SIGCONT)
        region.paused = False

    async def wipe(self, name: str) -> str:
        """Killed, and its disk lost; the name of the lost disk. It is not started."""
        await self.kill(name)
        region = self.all[name]
        lost = region.disk
        region.generation += 1
        return lost

    def ways(self, one: str, other: str) -> list[Proxy | Route]:
        """From one to the other and back."""
        return [self.all[one].dials[other], self.all[other].dials[one]]

    async def heal(self) -> None:
        """Every way open, room on every disk, every region running."""
        self.small.free()
        for region in self.all.values():
            for proxy in region.dials.values():
                proxy.set(Way.OPEN)
            self.resume(region.name)
            await self.start(region.name)
