"""People of the simulation: they come through a connection or are put, move, drop off, and leave.

What is noted is what they did themselves, and what the regions showed to who looked.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from random import Random
from typing import Any

from tests.simulation.clients import Client, Reader, Surroundings
from tests.simulation.door import Refused, Unavailable
from tests.simulation.hands import Asker, Hand, Overseer
from tests.simulation.history import Act, Met

STAYS_S_MEAN = (2.0, 6.0, 40.0)
MOVE_S_MAX = 2.0
AWAY_S = (8.0, 25.0)
LEASE_S = 6
LOOK_S_MEAN = 0.5
# After the heal they go on for so long; then they stay as they are, here or away.
CALM_S = 50.0
# What they did last is known everywhere by then.
SETTLED_S = 25.0
# And so long agents have, after that, to end what they were asked for.
RUNS_S_MAX = 120.0
# People settle after their last visits, which are long for some.
PERSONS_S_MAX = 900.0
# After everything is well a region answers within so long.
ANSWER_S_MAX = 60.0
# Who looks on stays where it is, as long as that is there.
LONG_S = 1_000.0


class Person(Client):
    """Somebody who is here and away again; in the end one or the other for good."""

    def __init__(
        self, around: Surroundings, name: str, session: str, whim: Random, *, stays: bool
    ) -> None:
        super().__init__(around, name, session)
        self.whim = whim
        self._stays = stays
        self._stay_s_mean = whim.choice(STAYS_S_MEAN)
        self.is_settled = False
        self._region = whim.choice(around.regions)

    def _note(self, what: str, region: str = "") -> None:
        act = Act(self.now_s, self.session, self.name, what, region)
        self.around.history.acts.append(act)

    async def run(self) -> None:
        calm_s = None
        while True:
            if self.around.calm.is_set():
                calm_s = self.now_s if calm_s is None else calm_s
                if self.now_s - calm_s > CALM_S:
                    break
            await self._visit(self.whim.expovariate(1 / self._stay_s_mean))
            await self._pause()
        self.is_settled = True
        if self._stays:
            self.around.history.stay.add(self.name)
            await self._visit(float("inf"))

    async def _pause(self) -> None:
        """Away: for a moment, or for long."""
        draw = self.whim.random()
        if draw < 0.25:
            await self._leave()
        if draw < 0.5:
            await asyncio.sleep(self.whim.uniform(*AWAY_S))
        else:
            await asyncio.sleep(self.whim.uniform(0, MOVE_S_MAX))
        if self.whim.random() < 0.7:
            self._region = self.whim.choice(self.around.regions)

    async def _visit(self, stay_s: float) -> None:
        """Be here for so long, wherever that can be."""
        until_s = self.now_s + stay_s
        while self.now_s < until_s:
            try:
                await self._be_here(until_s)
            except (Unavailable, ConnectionError):
                await asyncio.sleep(self.whim.uniform(0.05, 0.6))
                self._region = self.whim.choice(self.around.regions)
            except Refused as refused:
                raise AssertionError(f"{self.name} was refused: {refused}") from refused

    async def _be_here(self, until_s: float) -> None:
        raise NotImplementedError

    async def _leave(self) -> None:
        self._note("leaves")
        try:
            await self.around.door.call(
                self.name, self._region, "remove_member", self.session, self.name
            )
        except Unavailable:
            return
        self._note("left", self._region)


class Visitor(Person):
    """Through a connection."""

    async def _be_here(self, until_s: float) -> None:
        door, region = self.around.door, self._region
        self._note("comes", region)
        try:
            socket = await door.follow(self.name, region, self.session, None, self.name)
        except BaseException:
            # It may be open all the same, until the region finds out.
            self._note("drops", region)
            raise
        try:
            while self.now_s < until_s:
                left_s = min(until_s - self.now_s, 25.0)
                try:
                    async with asyncio.timeout(left_s):
                        message = await socket.receive()
                except TimeoutError:
                    if left_s == 25.0:
                        return
                    continue
                if message.data is None:
                    return
                self._note("here", region)
        finally:
            self._note("drops", region)
            socket.abort()


class Guest(Person):
    """By a lease that is renewed."""

    async def _be_here(self, until_s: float) -> None:
        while True:
            region = self._region
            self._note("comes", region)
            more: Any = {"ttl_s": LEASE_S}
            where = (self.session, self.name)
            await self.around.door.call(self.name, region, "put_member", *where, **more)
            self._note("put", region)
            if self.now_s >= until_s:
                return
            await asyncio.sleep(min(until_s - self.now_s, self.whim.uniform(1, LEASE_S / 2)))


class Host(Client):
    """Somebody who looks at who is here, in every region, again and again."""

    def __init__(self, around: Surroundings, name: str, session: str, whim: Random) -> None:
        super().__init__(around, name, session)
        self._whim = whim

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._whim.expovariate(1 / LOOK_S_MEAN))
            await self.look(self._whim.choice(self.around.regions))

    async def ask_at(self, region: str, verb: str) -> Any:
        """A region's answer; None when there is none."""
        try:
            return await self.around.door.call(self.name, region, verb)
        except Unavailable:
            return None

    async def look(self, region: str) -> bool | None:
        """Note who is here; None when the region does not say."""
        began_s = self.now_s
        try:
            members, disk = await self.around.door.call(self.name, region, "members", self.session)
        except Unavailable:
            return None
        except Refused as refused:
            if refused.code != "not_found":
                raise
            members, disk = [], ""
        names = frozenset(member["member"] for member in members)
        where = (self.session, region, disk)
        self.around.history.met.append(Met(began_s, self.now_s, *where, names))
        return True


async def answered(region: str, ask: Callable[[], Awaitable[Any]]) -> Any:
    """What a region answers, once it does: nothing is wrong with it any more."""
    began_s = asyncio.get_running_loop().time()
    while (answer := await ask()) is None:
        waited_s = asyncio.get_running_loop().time() - began_s
        assert waited_s < ANSWER_S_MAX, f"{region} does not answer any more"
        await asyncio.sleep(0.5)
    return answer


class Meeting:
    """The people of some sessions."""

    def __init__(
        self, around: Surroundings, sessions: list[str], chaos_s: float, whim: Random
    ) -> None:
        self._chaos_s = chaos_s
        self.history = around.history
        self._around = around
        self._whim = whim
        self._sessions = sessions
        self._hosts: list[Host] = []
        self._overseers: list[Overseer] = []
        self._persons: list[Person] = []
        self._tasks: list[asyncio.Task[None]] = []

    def populate(self) -> list[str]:
        """Begin; the names of everybody."""
        names: list[str] = []
        for session in self._sessions:
            for number in range(self._whim.randint(2, 4)):
                kind = self._whim.choice([Visitor, Visitor, Guest])
                stays = self._whim.random() < 0.5
                name = f"{session}-p{number}"
                names.append(name)
                person = kind(self._around, name, session, self._whim, stays=stays)
                self._persons.append(person)
                self._start(person)
            for number in range(2):
                onlooker = Reader(
                    self._around, f"{session}-o{number}", session, hop_s=LONG_S, stall=0.0
                )
                self._start(onlooker)
            host = Host(self._around, f"{session}-host", session, self._whim)
            self._hosts.append(host)
            self._start(host)
            names += self._ask(session)
        for number in range(2):
            name = f"h{number}"
            names.append(name)
            self._start(Hand(self._around, name, self._whim))
        return names

    def _ask(self, session: str) -> list[str]:
        args = (self._around, f"{session}-asker", session, self._whim, self._chaos_s)
        self._start(Asker(*args))
        overseer = Overseer(self._around, f"{session}-overseer", session, self._whim)
        self._overseers.append(overseer)
        self._start(overseer)
        return [f"{session}-asker"]

    def _start(self, client: Any) -> None:
        self._tasks.append(asyncio.create_task(client.run()))

    async def leave(self) -> None:
        """Everybody stops at once."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def settle(self) -> None:
        """Until those who do not stay have been away for long, and runs have ended."""
        began_s = asyncio.get_running_loop().time()
        while not all(person.is_settled for person in self._persons):
            waited_s = asyncio.get_running_loop().time() - began_s
            assert waited_s < PERSONS_S_MAX, "people cannot settle"
            await asyncio.sleep(1)
            for task in self._tasks:
                if task.done():
                    task.result()
        await self._look_at_runs()
        await asyncio.sleep(SETTLED_S)

    async def look(self) -> None:
        """Who is here in the end, in every region, and what each knows of."""
        for host in self._hosts:
            for region in self._around.regions:
                await answered(region, partial(host.look, region))
                self.history.final_met.append(self.history.met[-1])
        for region in self._around.regions:
            counters, _ = await answered(region, partial(self._hosts[0].ask_at, region, "regions"))
            self.history.final_present[region] = counters["counters"]["present"]

    async def _look_at_runs(self) -> None:
        """Once they have had the time to come to their ends."""
        began_s = asyncio.get_running_loop().time()
        while True:
            views: dict[str, dict[str, Any]] = {}
            for region in self._around.regions:
                views[region] = {}
                for overseer in self._overseers:
                    views[region] |= await answered(region, partial(overseer.look, region))
            over = all(
                run in view and view[run]["status"] in ("complete", "cancelled")
                for view in views.values()
                for run in self.history.requested
            )
            late = asyncio.get_running_loop().time() - began_s > RUNS_S_MAX
            if late or (over and all(view == views[region] for view in views.values())):
                self.history.final_runs = views
                return
            await asyncio.sleep(2)
