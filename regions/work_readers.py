"""Readers of agents' feeds: what each is still to be told."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from perdure.regions.connections import Progress

# Changes that wait for a worker; beyond that it is told of all runs anew.
_CHANGES_WAITING_MAX = 1_000

# What a worker is told: the event, and its data.
Told = tuple[str, str]


class Following(Protocol):
    """What a reader asks of the desk whose feed it reads."""

    def everything(self, agent: str) -> str:
        """All open runs of an agent, as JSON."""

    def left(self, reader: "WorkReader") -> None:
        """A reader has gone."""


class WorkReader:
    """One reader of an agent's feed. ``next`` until it gives None; ``close`` always."""

    def __init__(self, desk: Following, agent: str, worker: str | None) -> None:
        self.agent = agent
        self.worker = worker
        self.is_over = False
        self._desk = desk
        self._waiting: deque[Told] = deque()
        self._last: list[Told] = []
        self._gone: list[Callable[[], None]] = []
        # Whether it is to be told of all runs, as they are when it looks.
        self._is_new = True
        self._woken = asyncio.Event()
        self._woken.set()
        self._given = 0

    def tell(self, told: Told) -> None:
        """One more change."""
        if not self._is_new:
            self._waiting.append(told)
        if len(self._waiting) > _CHANGES_WAITING_MAX:
            self.begin_anew()
        self._woken.set()

    def begin_anew(self) -> None:
        """Tell of all runs; what waits is part of that."""
        self._is_new = True
        self._waiting.clear()
        self._woken.set()

    def wake(self) -> None:
        """Let it look, for a keep-alive or its end."""
        self._woken.set()

    async def next(self) -> list[Told] | None:
        """What to write now; an empty list for a keep-alive; None when it is over."""
        if not (self._is_new or self._waiting or self.is_over):
            self._woken.clear()
            await self._woken.wait()
        told = list(self._waiting)
        if self._is_new:
            told = [("runs", self._desk.everything(self.agent))]
        told += self._last
        self._is_new = False
        self._waiting.clear()
        self._last.clear()
        self._given += len(told)
        return None if self.is_over and not told else told

    def progress(self) -> Progress:
        """How far it is."""
        size = sum(len(data) for _, data in self._waiting)
        return Progress(len(self._waiting), size, self._given, None)

    def end(self) -> None:
        """End it, with what waits as its last words: the worker comes back."""
        self.is_over = True
        self._woken.set()

    def expire_grant(self, why: str) -> None:
        """End it, whose grant is over, with that as a last word after what waits; once."""
        if self.is_over:
            return
        self._last.append(("expired", f'{{"reason":"{why}"}}'))
        self.is_over = True
        self._woken.set()

    def close(self) -> None:
        """Leave; idempotent."""
        self._desk.left(self)
        for call in self._gone:
            call()

    def on_close(self, call: Callable[[], None]) -> None:
        """What is to be done when it is over; it may be done twice."""
        self._gone.append(call)
