"""Requests come in turns: some in each turn of the event loop, of one caller after the other.

Two hundred requests that arrive at once, of one caller, would take the loop for as long as all of
them take. Here a request of somebody else is among the next few.
"""

import asyncio
from collections import OrderedDict, deque

from perdure.replication.errors import Refusal
from perdure.replication.limits import REQUESTS_WAITING_MAX

# So many are let in in one turn, each of which takes some hundred microseconds.
LET_IN_AT_ONCE_MAX = 8


class Gate:
    """``enter`` before the work of a request; ``by``: whose turn it is."""

    def __init__(self) -> None:
        self._free = LET_IN_AT_ONCE_MAX
        self._rows: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._waiting = 0
        self._turns = False

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return self._waiting

    async def enter(self, by: str) -> None:
        """Wait for a turn, where there are others. Raises ``Refusal`` ``too_many``."""
        loop = asyncio.get_running_loop()
        if not self._turns:
            self._turns = True
            loop.call_soon(self._turn)
        if self._free and not self._rows:
            self._free -= 1
            return
        if self._waiting >= REQUESTS_WAITING_MAX:
            raise Refusal("too_many", "too many requests wait for their turn", retry_after_s=1)
        self._waiting += 1
        turn: asyncio.Future[None] = loop.create_future()
        self._rows.setdefault(by, deque()).append(turn)
        try:
            await turn
        finally:
            self._waiting -= 1

    def _turn(self) -> None:
        self._free = LET_IN_AT_ONCE_MAX
        while self._free and self._rows:
            by, row = self._rows.popitem(last=False)
            turn = row.popleft()
            if not turn.done():
                turn.set_result(None)
                self._free -= 1
            if row:
                self._rows[by] = row
        self._turns = bool(self._rows) or self._free < LET_IN_AT_ONCE_MAX
        if self._turns:
            asyncio.get_running_loop().call_soon(self._turn)
