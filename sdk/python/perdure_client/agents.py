"""An agent's worker: it follows its agent's feed, claims runs, and has each in hand as a turn."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Literal

from perdure_client.errors import (
    Cancelled,
    Deleted,
    Ended,
    Fenced,
    Invalid,
    NotFound,
    PerdureError,
    Unavailable,
)
from perdure_client.feeds import FeedConnecting
from perdure_client.following import followed
from perdure_client.ids import checked_id, given, new_id
from perdure_client.own_names import new_worker
from perdure_client.regions import Regions
from perdure_client.session import Session
from perdure_client.transports import Event, Transports
from perdure_client.turns import Turn
from perdure_client.waiting_runs import Key, WaitingRuns, key_of
from perdure_client.writer import Writer

LEASE_S = 15
CONCURRENCY = 8
# When a claim is tried again where a region could not say: it has not been told of the run yet.
CLAIM_AGAIN_S = 1.0
# Somebody else's doing: no fault of who has the run in hand.
_TAKEN_AWAY = (Cancelled, Deleted, Ended, Fenced)
_log = logging.getLogger("perdure_client")


class Agent:
    """A worker of the agent of this name. Any number of them, anywhere, share its runs: each run is
    one's at a time, and another's when its worker is gone."""

    def __init__(
        self,
        regions: Regions,
        transports: Transports,
        headers: Callable[[], dict[str, str]],
        session: Callable[[str], Session],
        name: str,
        *,
        worker: str | None,
        mode: Literal["continue", "restart"],
        lease_s: int,
    ) -> None:
        self.name: str = checked_id(name)
        self.worker: str | None = worker and checked_id(worker)
        self._mode = mode
        self._lease_s = lease_s
        self._regions = regions
        self._transports = transports
        self._session = session
        self._headers = headers
        self._path = f"/v1/agents/{self.name}/runs"
        self._connecting = FeedConnecting(regions, transports, self._path, headers)

    async def runs(self) -> list[dict[str, Any]]:
        """The agent's runs that are not over, in all sessions, oldest first."""
        answer, _ = await self._regions.request("GET", self._path)
        runs: list[dict[str, Any]] = answer["runs"]
        return runs

    async def events(self) -> AsyncGenerator[Event, None]:
        """The agent's feed, across regions, for ever: ``runs`` with ``all`` runs that are not over,
        and ``run`` for each that has changed. A new connection begins with all."""
        bound = given(worker=self.worker)

        def connected(
            transport: str, region: str, cursor: str | None
        ) -> AsyncGenerator[Event, None]:
            return self._connecting.events(transport, region, cursor, None, bound)

        async with aclosing(followed(self._regions, self._transports, connected)) as events:
            async for event in events:
                yield event

    async def turns(self) -> AsyncGenerator[Turn, None]:
        """Each run that this worker wins, for ever. The next is claimed when it is asked for.

        Turns of before may still be held: they hear of what happens to them for as long as this
        goes on, and learn it from their leases otherwise.
        Raises :class:`PerdureError` for what every region would refuse.
        """
        waiting = WaitingRuns(self._regions)
        following = asyncio.create_task(self._follow(waiting), name=f"perdure-agent-{self.name}")
        try:
            while True:
                run = await waiting.next()
                turn = await self._claim(run, waiting)
                if turn is not None:
                    yield turn
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    async def work(
        self,
        handler: Callable[[Turn], Awaitable[object]],
        *,
        concurrency: int = CONCURRENCY,
        on_error: Callable[[Turn, Exception], object] | None = None,
    ) -> None:
        """Have the handler carry out each turn, ``concurrency`` of them at once, for ever.

        A turn that the handler has not ended is complete when it returns, and failed when it
        raises; ``on_error`` is called with what it raised, which is logged otherwise. When a run is
        cancelled or taken over its handler is cancelled. Cancelled itself, this lets go of every
        turn, to be claimed.
        """
        if concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, not {concurrency}")
        free = asyncio.Semaphore(concurrency)
        tasks: set[asyncio.Task[None]] = set()
        try:
            async with aclosing(self.turns()) as turns:
                while True:
                    await free.acquire()
                    task = asyncio.create_task(_handled(await anext(turns), handler, on_error))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
                    task.add_done_callback(lambda _: free.release())
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, waiting: WaitingRuns) -> None:
        try:
            async with aclosing(self.events()) as events:
                async for event in events:
                    waiting.heard(event)
        except Exception as error:
            # Whatever it is: who asks for turns must hear it.
            waiting.fail(error)

    async def _claim(self, run: dict[str, Any], waiting: WaitingRuns) -> Turn | None:
        """The turn, or None where somebody else has it, or nobody needs to."""
        key = key_of(run)
        session = self._session(run["session"])
        producer = self.worker or new_worker(self._headers().get("authorization"))
        body = {"producer": producer, "claim_id": new_id(), "mode": self._mode}
        path = f"/v1/sessions/{session.id}/runs/{checked_id(run['id'])}/claim"
        try:
            claimed, region = await self._regions.request(
                "POST", path, body | {"lease_s": self._lease_s}
            )
        except (Ended, Cancelled, Deleted):
            waiting.forget(key)
            return None
        except (NotFound, Unavailable):
            waiting.put_off(key, CLAIM_AGAIN_S)
            return None
        except PerdureError as error:
            if isinstance(error, Invalid) or error.code == "unauthorized":
                raise
            # Held; or there is something about this run alone, and others wait.
            waiting.put_off(key, _retry_after_s(error))
            return None
        if claimed["run"]["epoch"] != claimed["epoch"]:
            # Another worker claimed it at the same time, and has it.
            waiting.put_off(key, CLAIM_AGAIN_S)
            return None
        return self._turn(key, claimed, region, session, producer, waiting)

    def _turn(
        self,
        key: Key,
        claimed: dict[str, Any],
        region: str,
        session: Session,
        producer: str,
        waiting: WaitingRuns,
    ) -> Turn:
        messages = f"/v1/sessions/{session.id}/messages"
        writer = Writer(self._regions, messages, claimed, region, message=key[1], producer=producer)
        turn = Turn(self._regions, session, claimed, writer, self._lease_s)
        waiting.hold(key, turn)
        return turn


def _retry_after_s(error: PerdureError) -> float:
    """When a lease is over that somebody else holds, at the latest."""
    said = error.problem.get("retry_after_s")
    return float(said) if isinstance(said, int | float) and said > 0 else CLAIM_AGAIN_S


async def _handled(
    turn: Turn,
    handler: Callable[[Turn], Awaitable[object]],
    on_error: Callable[[Turn, Exception], object] | None,
) -> None:
    """One turn, until the handler is done or the turn was taken away."""
    handling = asyncio.ensure_future(_in_turn(turn, handler))
    stopped = asyncio.ensure_future(turn.stopped())
    try:
        await asyncio.wait((handling, stopped), return_when=asyncio.FIRST_COMPLETED)
        if turn.error is None:
            await asyncio.wait((handling,))
    finally:
        handling.cancel()
        stopped.cancel()
        await asyncio.gather(handling, stopped, return_exceptions=True)
    # What took the turn away has cancelled the handler, which then cannot say it.
    error = turn.error if handling.cancelled() else handling.exception()
    if isinstance(error, Exception) and not isinstance(error, _TAKEN_AWAY):
        if on_error is None:
            _log.error("run %s of session %s", turn.id, turn.session.id, exc_info=error)
        else:
            on_error(turn, error)


async def _in_turn(turn: Turn, handler: Callable[[Turn], Awaitable[object]]) -> None:
    async with turn:
        await handler(turn)
