"""The way to the event loop on which a blocking client does everything: a thread of its own."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import Any, TypeVar

# Plain streams of models are read in threads; there are as many as are being read.
THREADS_MAX = 1_000
T = TypeVar("T")


class Portal:
    """An event loop that runs in a thread until ``close``. Any thread may call into it, but its
    own."""

    def __init__(self) -> None:
        self._began = threading.Event()
        self._lock = threading.Lock()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="perdure-client", daemon=True)
        self._thread.start()
        self._began.wait()

    def _run(self) -> None:
        with asyncio.Runner() as runner:
            self._loop = runner.get_loop()
            self._loop.set_default_executor(ThreadPoolExecutor(THREADS_MAX, "perdure-client"))
            runner.run(self._until_closed())

    async def _until_closed(self) -> None:
        self._over = asyncio.Event()
        self._began.set()
        await self._over.wait()

    def call(self, made: Coroutine[Any, Any, T]) -> T:
        """What a coroutine gives or raises. Whatever ends the wait, be it Ctrl-C, cancels it.

        Raises ``RuntimeError`` once the client is closed, also when it is closed meanwhile, and in
        a callback of the client.
        """
        if threading.current_thread() is self._thread:
            made.close()
            raise RuntimeError("a callback cannot ask anything of the client that calls it")
        with self._lock:
            if self._is_closed:
                made.close()
                raise RuntimeError("the client is closed")
            future = asyncio.run_coroutine_threadsafe(made, self._loop)
        try:
            return future.result()
        except CancelledError:
            raise RuntimeError("the client was closed meanwhile") from None
        except BaseException:
            future.cancel()
            raise

    def close(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Carry out the last of it, cancel what goes on, and end the thread; again: nothing."""
        if self._is_closed:
            return
        try:
            self.call(last())
        finally:
            with self._lock:
                self._is_closed = True
            self._loop.call_soon_threadsafe(self._over.set)
            self._thread.join()


class Iteration(Iterator[T]):
    """Values as they come, each when it is asked for. To be closed, by ``close`` or at the end of
    a ``with`` block; one that is dropped is closed some time later."""

    def __init__(
        self, portal: Portal, values: AsyncGenerator[Any, None], made: Callable[[Any], T]
    ) -> None:
        self._portal = portal
        self._values = values
        self._made = made

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        for value in self._portal.call(self._next()):
            return self._made(value)
        raise StopIteration

    async def _next(self) -> list[Any]:
        """The next value, if there is one."""
        async for value in self._values:
            return [value]
        return []

    def close(self) -> None:
        """End it."""
        self._portal.call(self._end())

    async def _end(self) -> None:
        await self._values.aclose()

    def __enter__(self) -> "Iteration[T]":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
