"""Regions in network namespaces: what is cut there is lost packets, and nobody is told."""

import contextlib
import os
import subprocess
from collections.abc import Sequence

from tests.chaos.proxy import Way

# Of the network 10.201.0.0/16, a part for each campaign that runs.
_NETWORK = "10.201"
_HOST = 254


class NoNamespaces(RuntimeError):
    """They cannot be made here."""


def _ip(*arguments: str) -> None:
    try:
        done = subprocess.run(["ip", *arguments], capture_output=True, check=False, text=True)
    except OSError as error:
        raise NoNamespaces(f"ip: {error}") from error
    if done.returncode:
        raise NoNamespaces(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


class Namespaces:
    """A namespace for each region, joined by a bridge to which clients on the host reach too."""

    def __init__(self, names: Sequence[str]) -> None:
        self._tag = f"pd{os.getpid()}"
        self._part = os.getpid() % 250
        self._names = list(names)

    def make(self) -> None:
        """Raises ``NoNamespaces``, with nothing left behind: only root can, and not everywhere."""
        try:
            bridge = self._bridge
            _ip("link", "add", bridge, "type", "bridge")
            _ip("addr", "add", f"{_NETWORK}.{self._part}.{_HOST}/24", "dev", bridge)
            _ip("link", "set", bridge, "up")
            for name in self._names:
                self._join(name)
        except NoNamespaces:
            self.remove()
            raise

    def _join(self, name: str) -> None:
        space, here = self._space(name), f"{self._tag}{name}"
        _ip("netns", "add", space)
        _ip("link", "add", here, "type", "veth", "peer", "name", "wan0", "netns", space)
        _ip("link", "set", here, "master", self._bridge, "up")
        _ip("-n", space, "addr", "add", f"{self.address(name)}/24", "dev", "wan0")
        _ip("-n", space, "link", "set", "wan0", "up")
        _ip("-n", space, "link", "set", "lo", "up")

    def remove(self) -> None:
        """Everything that was made; what was not is no matter."""
        for name in self._names:
            with contextlib.suppress(NoNamespaces):
                _ip("netns", "del", self._space(name))
        with contextlib.suppress(NoNamespaces):
            _ip("link", "del", self._bridge)

    @property
    def _bridge(self) -> str:
        return f"{self._tag}br"

    def _space(self, name: str) -> str:
        return f"{self._tag}-{name}"

    def address(self, name: str) -> str:
        """The address of a region."""
        return f"{_NETWORK}.{self._part}.{self._names.index(name) + 1}"

    def inside(self, name: str) -> list[str]:
        """What to put before a command so that it runs there."""
        return ["ip", "netns", "exec", self._space(name)]

    def route(self, start: str, end: str) -> "Route":
        """The way of packets from one region to another."""
        return Route(self._space(start), self.address(end))


class Route:
    """One direction between two regions. ``CUT`` and ``HOLE`` are the same here: packets are lost,
    and connections stay until somebody gives up. Nothing is slow."""

    def __init__(self, space: str, to: str) -> None:
        self._space, self._to = space, to
        self._lost = False

    def set(self, way: Way) -> None:
        """From now on it is so."""
        lost = way in (Way.CUT, Way.HOLE)
        if lost != self._lost:
            _ip("-n", self._space, "route", "add" if lost else "del", "blackhole", self._to)
            self._lost = lost

    async def start(self) -> None:
        """There is nothing to start."""

    async def stop(self) -> None:
        """It goes with its namespace."""
