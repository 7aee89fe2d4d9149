"""Waking many who wait, some at a time, so that nobody else waits for all of them.

Two thousand readers that are woken at once take the event loop for forty milliseconds, in one turn
of it. Here a crowd is woken in slices, and crowds take turns. After each slice the loop is left to
others until they want no more of it, and at most for as long as the slice took: however many there
are to be told, they take half of it, or what nobody else wants. What happens meanwhile is seen by
those whose turn is still to come, in one go: the longer a round takes, the more it brings.
"""

import asyncio
from collections import deque
from collections.abc import Callable

# So many are woken in one turn of the loop, each of whom takes some tens of microseconds.
WOKEN_AT_ONCE_MAX = 16
# Timers of the loop are no finer.
PAUSE_S_MIN = 0.001
# What has arrived on sockets while one turn began is worked off in the next.
LOOK_TURNS = 2
# Turns in which nobody did anything take a tenth of that each.
IDLE_S_MAX = 0.0001

Waiting = asyncio.Future[None]


class Crowd:
    """Those who wait for the same thing."""

    def __init__(self, waking: "Waking") -> None:
        self._waking = waking
        self._waiting: deque[Waiting] = deque()
        self.woken: deque[Waiting] = deque()

    async def wait(self) -> None:
        """Until the next :meth:`wake`, or a little later."""
        future: Waiting = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future

    def wake(self, *, patient: bool = False) -> None:
        """Let everybody look who waits now. A few do at once, unless they are ``patient``."""
        if not self._waiting:
            return
        if not patient and not self.woken and len(self._waiting) <= WOKEN_AT_ONCE_MAX:
            release(self._waiting, len(self._waiting))
            return
        begins = not self.woken
        self.woken += self._waiting
        self._waiting.clear()
        if begins:
            self._waking.queue(self)


def release(waiting: deque[Waiting], count: int) -> int:
    """Wake the first of these; how many there were."""
    count = min(count, len(waiting))
    for _ in range(count):
        future = waiting.popleft()
        if not future.done():
            future.set_result(None)
    return count


class Waking:
    """The crowds that are being woken, in turns."""

    def __init__(self) -> None:
        # Whether somebody waits for a commit.
        self.is_disk_at_work: Callable[[], bool] = lambda: False
        self._crowds: deque[Crowd] = deque()

    def queue(self, crowd: Crowd) -> None:
        """One more, which is in here until all of it is woken."""
        self._crowds.append(crowd)
        if len(self._crowds) == 1:
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        loop = asyncio.get_running_loop()
        left = WOKEN_AT_ONCE_MAX
        while left and self._crowds:
            crowd = self._crowds.popleft()
            left -= release(crowd.woken, left)
            if crowd.woken:
                self._crowds.append(crowd)
        if self._crowds:
            # Behind those who were woken now.
            loop.call_soon(self._leave, loop.time())

    def _leave(self, began_s: float) -> None:
        """The slice is through: others may have as long as it took."""
        now_s = asyncio.get_running_loop().time()
        self._look(now_s, now_s - began_s + now_s, 0)

    def _look(self, since_s: float, until_s: float, turns: int) -> None:
        """Have they had it, or does nobody want it?"""
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        if self.is_disk_at_work():
            # Its thread needs the interpreter, which a loop that only turns hardly gives away.
            loop.call_later(max(PAUSE_S_MIN, until_s - now_s), self._turn)
        elif turns < LOOK_TURNS:
            loop.call_soon(self._look, since_s, until_s, turns + 1)
        elif now_s < until_s and now_s - since_s >= IDLE_S_MAX:
            loop.call_soon(self._look, now_s, until_s, 1)
        else:
            self._turn()
