"""Clients that do more than they must: agents behind balancers and with hasty retries, and people
who look at the regions all the time."""

import asyncio
from random import Random
from typing import Any

from tests.simulation.clients import Client, Producer, Surroundings
from tests.simulation.door import Refused, Unavailable
from tests.simulation.history import Looked, as_seen

HOP = 0.25
SILENCE = 0.03
SILENCE_S = (5.0, 30.0)
HASTE = {"open": 0.6, "claim": 1.0, "append": 0.2}
HASTE_S = (0.0, 0.002, 0.02)
LOOK_S_MEAN = 0.4


class Restless(Producer):
    """An agent that goes to another region for no reason, that is silent for long, and that asks
    once more before it has been answered; the first answer counts."""

    def __init__(self, *args: Any, whim: Random, **more: Any) -> None:
        super().__init__(*args, **more)
        self._whim = whim
        self._late: list[asyncio.Task[Any]] = []

    async def run(self) -> None:
        try:
            await super().run()
        finally:
            for task in self._late:
                task.cancel()
            await asyncio.gather(*self._late, return_exceptions=True)

    async def _make(self) -> None:
        await super()._make()
        if self._whim.random() < SILENCE and not self.around.calm.is_set():
            await asyncio.sleep(self._whim.uniform(*SILENCE_S))
        if self._whim.random() < HOP:
            self.region = self._whim.choice(self.around.regions)

    async def call(self, verb: str, *args: Any, **more: Any) -> Any:
        if self._whim.random() >= HASTE.get(verb, 0.0):
            return await super().call(verb, *args, **more)
        other = self.region
        if verb == "claim" or (verb == "open" and self._whim.random() < 0.5):
            other = self._whim.choice(self.around.regions)
        calls = ((0.0, self.region), (self._whim.choice(HASTE_S), other))
        tasks = [asyncio.create_task(self._after(*call, verb, args)) for call in calls]
        self._late += tasks
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not any(task.done() and task.exception() is None for task in tasks):
            # The other one may still bring it about.
            await asyncio.wait(tasks)
        done = [task for task in tasks if task.done()]
        answered = [task for task in done if task.exception() is None]
        self.region, answer = await (answered or done)[0]
        return answer

    async def _after(self, pause_s: float, region: str, verb: str, args: Any) -> Any:
        await asyncio.sleep(pause_s)
        return region, await self.around.door.call(self.name, region, verb, *args)


class Watcher(Client):
    """Somebody who looks at what the regions show, again and again."""

    def __init__(self, around: Surroundings, name: str, session: str, whim: Random) -> None:
        super().__init__(around, name, session)
        self._whim = whim

    async def run(self) -> None:
        while not self.around.calm.is_set():
            await asyncio.sleep(self._whim.expovariate(1 / LOOK_S_MEAN))
            region = self._whim.choice(self.around.regions)
            began_s = self.now_s
            try:
                where = (self.session, None, 1000)
                listed, disk = await self.around.door.call(self.name, region, "messages", *where)
                seen = {m["id"]: as_seen(m) for m in listed["messages"]}
            except Unavailable:
                continue
            except Refused as refused:
                if refused.code != "not_found":
                    return
                # The answer of a region that knows nothing of the session.
                disk, seen = "", {}
            what = (self.session, region, disk, seen)
            self.around.history.looked.append(Looked(self.now_s, *what, began_s))
