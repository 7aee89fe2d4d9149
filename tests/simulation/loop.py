"""An event loop on virtual time: nothing waits, and the same program runs the same way again.

Every step belongs to the process of its context, if it has one: a paused process does nothing until
it is resumed, and a dead one nothing at all.
"""

import asyncio
import selectors
from collections.abc import Callable, Mapping
from contextvars import Context, ContextVar, copy_context
from typing import Any, Protocol

STEPS_MAX = 20_000_000


class Runs(Protocol):
    """What may stand still: the process that a step belongs to."""

    paused: bool
    dead: bool
    parked: list[asyncio.Handle]


PROCESS: ContextVar[Runs | None] = ContextVar("process", default=None)


class Stuck(AssertionError):
    """Nothing will ever happen again, and somebody waits."""


class _Jump(selectors.BaseSelector):
    """Waits for nothing: time jumps to where something is due."""

    def __init__(self) -> None:
        self.loop: VirtualLoop | None = None

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return selectors.SelectorKey(fileobj, 0, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return selectors.SelectorKey(fileobj, 0, 0, None)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert self.loop is not None
        if timeout is None:
            raise Stuck("nothing is due, and the simulation waits")
        if timeout > 0:
            self.loop.now_s += timeout
        return []

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return {}

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        raise KeyError(fileobj)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time passes when there is nothing to do, at once and exactly as far as the next timer."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.steps = 0
        jump = _Jump()
        super().__init__(jump)
        jump.loop = self

    def time(self) -> float:
        return self.now_s

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        """At once: a thread would run differently each time."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except BaseException as error:
            future.set_exception(error)
        return future

    def call_soon(
        self, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        process = PROCESS.get() if context is None else context.get(PROCESS)
        if process is None:
            return super().call_soon(callback, *args, context=context)
        if process.dead or process.paused:
            handle = asyncio.Handle(callback, args, self, context)
            if not process.dead:
                process.parked.append(handle)
            return handle
        self.steps += 1
        if self.steps > STEPS_MAX:
            raise Stuck(f"more than {STEPS_MAX} steps")
        return super().call_soon(callback, *args, context=context)

    def call_at(
        self, when: float, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        process = PROCESS.get() if context is None else context.get(PROCESS)
        if process is None:
            return super().call_at(when, callback, *args, context=context)
        return super().call_at(when, self._fire, process, callback, args, context=context)

    def _fire(self, process: Runs, callback: Any, args: tuple[Any, ...]) -> None:
        if process.paused and not process.dead:
            process.parked.append(asyncio.Handle(callback, args, self, copy_context()))
        elif not process.dead:
            callback(*args)

    def resume(self, process: Runs) -> None:
        """What was due while the process stood still happens now."""
        process.paused = False
        parked, process.parked = process.parked, []
        for handle in parked:
            if not handle.cancelled():
                super().call_soon(handle._run)


def run(main: Callable[[VirtualLoop], Any], make: Callable[[], VirtualLoop] = VirtualLoop) -> Any:
    """Run a coroutine on a new loop, until it is done; nothing of it goes on afterwards."""
    loop = make()
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(main(loop))
    finally:
        _end(loop)
        asyncio.set_event_loop(None)
        loop.close()


def _end(loop: VirtualLoop) -> None:
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())
