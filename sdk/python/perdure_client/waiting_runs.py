"""What an agent's feed tells a worker: which runs wait to be claimed, and what becomes of those
that it holds."""

import asyncio
from typing import Any

from perdure_client.reducer import is_over
from perdure_client.regions import Regions
from perdure_client.transports import Event
from perdure_client.turns import Turn

# A run's id is its own in its session only.
Key = tuple[str, str]


def key_of(run: dict[str, Any]) -> Key:
    """The key of a run."""
    return run["session"], run["id"]


class WaitingRuns:
    """Feed it events; it gives the runs to claim, the oldest first. One that could not be claimed
    is put off, and comes again at once when something else is told of it."""

    def __init__(self, regions: Regions) -> None:
        self._regions = regions
        self._waiting: dict[Key, dict[str, Any]] = {}
        self._put_off: dict[Key, float] = {}
        self._held: dict[Key, Turn] = {}
        # Of runs that were held here: the inputs that were seen.
        self._seen: dict[Key, set[str]] = {}
        self._error: Exception | None = None
        self._changed = asyncio.Event()

    async def next(self) -> dict[str, Any]:
        """The next run to claim; raises what the feed has failed with."""
        while True:
            if self._error is not None:
                raise self._error
            now = self._regions.now()
            for key, run in self._waiting.items():
                if self._put_off.get(key, now) <= now:
                    return run
            soonest = min((self._put_off[key] for key in self._waiting), default=None)
            await self._regions.wait(self._changed, None if soonest is None else soonest - now)

    def heard(self, event: Event) -> None:
        """An event of the feed."""
        if event.event == "runs":
            runs = event.data["all"]
            told = {key_of(run) for run in runs}
            for key in [*self._waiting, *self._seen]:
                if key not in told and self._turn(key) is None:
                    self.forget(key)
                    self._seen.pop(key, None)
            for run in runs:
                self._note(run)
        elif event.event == "run":
            self._note(event.data["run"])
        self._changed.set()

    def fail(self, error: Exception) -> None:
        """The feed has failed."""
        self._error = error
        self._changed.set()

    def hold(self, key: Key, turn: Turn) -> None:
        """This worker has won it."""
        self.forget(key)
        self._held[key] = turn
        self._seen[key] = {message["id"] for message in turn.inputs}

    def put_off(self, key: Key, seconds: float) -> None:
        """It could not be claimed now."""
        self._put_off[key] = self._regions.now() + seconds

    def forget(self, key: Key) -> None:
        """It waits no more."""
        self._waiting.pop(key, None)
        self._put_off.pop(key, None)

    def _note(self, run: dict[str, Any]) -> None:
        key = key_of(run)
        turn = self._turn(key)
        if turn is not None:
            turn.heard(run)
        if is_over(run):
            self._held.pop(key, None)
            self._seen.pop(key, None)
        if turn is not None or not self._is_claimable(key, run):
            self.forget(key)
        elif self._waiting.get(key) != run:
            self._waiting[key] = run
            self._put_off.pop(key, None)

    def _turn(self, key: Key) -> Turn | None:
        """The turn that is held here, if one is."""
        turn = self._held.get(key)
        if turn is None or not turn.is_over:
            return turn
        self._seen.setdefault(key, set()).update(turn.run["inputs"])
        del self._held[key]
        return None

    def _is_claimable(self, key: Key, run: dict[str, Any]) -> bool:
        if run["status"] == "suspended":
            return not self._seen.get(key, set()).issuperset(run["inputs"])
        return run["status"] in ("requested", "interrupted")
