"""An agent's worker, for threads. Made by ``make sync-client``: change
``perdure_client/agents.py`` instead."""

from collections.abc import Callable
from typing import Any

from perdure_client import agents as asynchronous
from perdure_client import turns as asynchronous_turns
from perdure_client.agents import CONCURRENCY
from perdure_client.sync.portal import Iteration, Portal
from perdure_client.sync.turns import Turn
from perdure_client.sync.working import working
from perdure_client.transports import Event


class Agent:
    """A worker of the agent of this name. Any number of them, anywhere, share its runs: each run is
    one's at a time, and another's when its worker is gone."""

    def __init__(self, portal: Portal, it: asynchronous.Agent) -> None:
        self._portal = portal
        self._it = it

    @property
    def name(self) -> str:
        """As the class says."""
        return self._it.name

    @property
    def worker(self) -> str | None:
        """As the class says."""
        return self._it.worker

    def runs(self) -> list[dict[str, Any]]:
        """The agent's runs that are not over, in all sessions, oldest first."""
        return self._portal.call(self._it.runs())

    def events(self) -> Iteration[Event]:
        """The agent's feed, across regions, for ever: ``runs`` with ``all`` runs that are not over,
        and ``run`` for each that has changed. A new connection begins with all."""
        return Iteration(self._portal, self._it.events(), lambda it: it)

    def turns(self) -> Iteration[Turn]:
        """Each run that this worker wins, for ever. The next is claimed when it is asked for.

        Turns of before may still be held: they hear of what happens to them for as long as this
        goes on, and learn it from their leases otherwise.
        Raises :class:`PerdureError` for what every region would refuse.
        """
        return Iteration(self._portal, self._it.turns(), lambda it: Turn(self._portal, it))

    def work(
        self,
        handler: Callable[[Turn], object],
        *,
        concurrency: int = CONCURRENCY,
        on_error: Callable[[Turn, Exception], object] | None = None,
    ) -> None:
        """Have the handler carry out each turn, ``concurrency`` of them at once, for ever.

        A turn that the handler has not ended is complete when it returns, and failed when it
        raises; ``on_error`` is called with what it raised, which is logged otherwise. When a run is
        cancelled or taken over its handler is cancelled. Cancelled itself, this lets go of every
        turn, to be claimed.

        The handler runs in a thread, which nothing can stop: where it would be cancelled,
        whatever it does with the turn raises. ``on_error`` cannot ask anything of the client.
        """
        portal = self._portal

        def handled(turn: asynchronous_turns.Turn) -> object:
            return handler(Turn(portal, turn))

        def failed(turn: asynchronous_turns.Turn, error: Exception) -> None:
            if on_error is not None:
                on_error(Turn(portal, turn), error)

        told = None if on_error is None else failed
        portal.call(working(self._it, handled, concurrency, told))
