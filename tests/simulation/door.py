"""A client's way to the regions: requests and streams of events."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol

from perdure.regions.answers import Ack, Sent
from perdure.regions.ports import StorageError, StorageFull
from perdure.replication.errors import Refusal

from tests.simulation.history import Called, CarriedOut, History
from tests.simulation.network import Network, SimSocket
from tests.simulation.process import Addresses
from tests.simulation.runs import CLAIMS

REQUEST_S_MAX = 8.0


class Refused(Exception):
    """A region said no, and why."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(str(refusal))
        self.code = refusal.code
        self.extra = refusal.extra


class Unavailable(Exception):
    """No answer, or none that helps: it may have been carried out, or not. ``code``: the code of
    the refusal, or ``lost``."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


TEMPORARY = frozenset({"draining", "starting", "catching_up", "storage_failed", "too_many"})


class Socket(Protocol):
    """What a reader reads from: messages of events, and one without data at the end."""

    async def receive(self) -> Any: ...

    def abort(self) -> None: ...


class Door(ABC):
    """What clients can ask of the regions. ``log`` is told of every request, for the trace."""

    def __init__(self, history: History, log: Callable[[str], None]) -> None:
        self._history = history
        self._awaited: dict[asyncio.Future[None], tuple[str, bool]] = {}
        self._log = log

    async def call(self, who: str, region: str, verb: str, *args: Any, **more: Any) -> Any:
        """The node's answer and the disk behind it; ``Refused`` or ``Unavailable``."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        self._history.calls += 1
        try:
            async with asyncio.timeout(REQUEST_S_MAX):
                answer, disk = await self._ask(who, region, verb, args, more)
            self._log(f"{loop.time():.4f} {who} {region} {verb} ok")
            if verb in CLAIMS:
                done = CarriedOut(began, args[2], args[1], disk)
                self._history.carried_out.append(done)
            elif verb == "open":
                opened = CarriedOut(began, who, args[1].id, disk)
                self._history.opened.append(opened)
            self._tell_acknowledged(region, answer)
            return answer, disk
        except Refused as refused:
            self._log(f"{loop.time():.4f} {who} {region} {verb} {refused.code}")
            if refused.code in TEMPORARY:
                self._failed(began, who, region, verb, refused.code)
                raise Unavailable(refused.code) from None
            raise
        except StorageFull:
            code = "storage_full"
        except StorageError:
            code = "storage_failed"
        except (TimeoutError, ConnectionError):
            code = "lost"
        except asyncio.CancelledError:
            # Nobody waits for the answer any more; it may be carried out all the same.
            self._failed(began, who, region, verb, "left")
            raise
        self._log(f"{loop.time():.4f} {who} {region} {verb} {code}")
        self._failed(began, who, region, verb, code)
        raise Unavailable(code)

    async def acknowledged(self, region: str, *, stable: bool) -> None:
        """Until this region tells a writer that something is accepted, or stable."""
        told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._awaited[told] = (region, stable)
        try:
            await told
        finally:
            del self._awaited[told]

    def _tell_acknowledged(self, region: str, answer: Any) -> None:
        if not isinstance(answer, Ack | Sent):
            return
        for told, (where, stable) in self._awaited.items():
            if where == region and (answer.stable or not stable) and not told.done():
                told.set_result(None)

    def _failed(self, began: float, who: str, region: str, verb: str, code: str) -> None:
        now = asyncio.get_running_loop().time()
        self._history.called.append(Called(began, now, who, region, verb, code))

    @abstractmethod
    async def _ask(self, who: str, region: str, verb: str, args: Any, more: Any) -> tuple[Any, str]:
        """The answer, and the disk behind it. Raises ``Refused``, ``StorageError``, ``OSError``."""

    @abstractmethod
    async def follow(
        self, who: str, region: str, session: str, cursor: str | None, member: str | None = None
    ) -> Socket:
        """A stream of events; ``Refused`` or ``Unavailable``."""


class NetworkDoor(Door):
    """The way over the simulated network."""

    def __init__(
        self,
        network: Network,
        addresses: Addresses,
        history: History,
        log: Callable[[str], None],
    ) -> None:
        super().__init__(history, log)
        self._network = network
        self._addresses = addresses

    async def _ask(self, who: str, region: str, verb: str, args: Any, more: Any) -> tuple[Any, str]:
        await self._go(who, region)
        process = self._addresses.listening.get(region)
        if process is None:
            raise ConnectionRefusedError(f"nobody listens at {region}")
        try:
            answer = await process.call(process.carry_out(verb, args, more))
        except Refusal as refusal:
            await self._go(region, who)
            raise Refused(refusal) from None
        await self._go(region, who)
        return answer, process.disk.name

    async def _go(self, start: str, end: str) -> None:
        path = self._network.path(start, end)
        if path.spoil and self._network.random.random() < path.spoil:
            # Lost with its connection; the client sees nothing of it until it gives up.
            raise ConnectionResetError("the connection broke")
        await self._network.travel(start, end)

    async def follow(
        self, who: str, region: str, session: str, cursor: str | None, member: str | None = None
    ) -> SimSocket:
        """A stream of events; ``Refused`` or ``Unavailable``."""
        return await self._open(who, region, "follow", session, cursor, member)

    async def share(self, who: str, region: str, session: str, document: str) -> SimSocket:
        """A socket at a document; ``Refused`` or ``Unavailable``."""
        return await self._open(who, region, "share", session, document)

    async def _open(self, who: str, region: str, what: str, *args: Any) -> SimSocket:
        try:
            async with asyncio.timeout(REQUEST_S_MAX):
                await self._go(who, region)
                process = self._addresses.listening.get(region)
                if process is None:
                    raise ConnectionRefusedError(f"nobody listens at {region}")
                near = await process.call(getattr(process, what)(who, *args))
                assert isinstance(near, SimSocket)
                return near
        except Refusal as refusal:
            if refusal.code in TEMPORARY:
                raise Unavailable(refusal.code) from None
            raise Refused(refusal) from None
        except (TimeoutError, ConnectionError):
            raise Unavailable("lost") from None
        except StorageError:
            raise Unavailable("storage_failed") from None
