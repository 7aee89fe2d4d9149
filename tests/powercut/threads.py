"""A loop on virtual time whose storage has its own threads, as it has where it ships: time stands
still while one of them works, and what is ready on the loop goes on."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from tests.simulation.loop import Stuck, VirtualLoop

# In real seconds; nothing that a thread does takes long.
_WAIT_S_MAX = 60


class ThreadedLoop(VirtualLoop):
    """How the threads and the loop take turns is the machine's affair: not the same every time."""

    def __init__(self) -> None:
        super().__init__()
        self._outstanding = 0
        self._landed = threading.Event()
        selector: Any = self._selector  # type: ignore[attr-defined]
        self._jump = selector.select
        selector.select = self._wait

    def _wait(self, timeout: float | None = None) -> Any:
        if not self._outstanding or timeout == 0:
            return self._jump(timeout)
        if not self._landed.wait(_WAIT_S_MAX):
            raise Stuck("a thread does not come to an end")
        self._landed.clear()
        return []

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        future = self.create_future()
        self._outstanding += 1

        def done(inner: Future[Any]) -> None:
            self.call_soon_threadsafe(self._land, inner, future)
            self._landed.set()

        executor.submit(func, *args).add_done_callback(done)
        return future

    def _land(self, inner: Future[Any], future: asyncio.Future[Any]) -> None:
        self._outstanding -= 1
        if future.cancelled():
            return
        if (error := inner.exception()) is not None:
            future.set_exception(error)
        else:
            future.set_result(inner.result())
