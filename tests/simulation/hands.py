"""Agents of the simulation that work from a feed, and who asks them.

A hand looks at the feed in any region, claims what nobody is at work on, and writes it as a
producer does; it may die in the middle, think for long with a lease that it renews or lets lapse,
and suspend what it has begun.
"""

import asyncio
import json
from random import Random
from typing import Any

from perdure.replication.admission import Draft
from perdure.replication.runs import RunDraft

from tests.simulation.clients import Client, Producer, Surroundings
from tests.simulation.door import Refused, Unavailable
from tests.simulation.history import Acked, Asked, Ran, Sign, Writer

AGENT = "bot"
LEASE_S = 6
HEARTBEAT_S = 1.5
FEED_S = 0.7
LOOK_S_MEAN = 0.7
FIRST_RUN = 50


class Asker(Client):
    """A person who asks for turns, says more to those that run, and stops some."""

    def __init__(
        self, around: Surroundings, name: str, session: str, whim: Random, chaos_s: float
    ) -> None:
        super().__init__(around, name, session)
        self._whim = whim
        self._chaos_s = chaos_s
        self._count = whim.randint(1, 3)

    async def run(self) -> None:
        for number in range(self._count):
            await asyncio.sleep(self._whim.uniform(0.2, self._chaos_s / 2))
            run = f"{self.session}-m{FIRST_RUN + number}"
            opener = Writer(f"{run}-w0", run, [], opens=True, alive=False)
            self.around.history.writers[opener.name] = opener
            disk = await self._insist_once("request_run", RunDraft(AGENT, run))
            self.around.history.requested[run] = disk or ""
            if self._whim.random() < 0.5:
                await asyncio.sleep(self._whim.uniform(0.2, 6.0))
                await self._say_more(run)
            if self._whim.random() < 0.25:
                await asyncio.sleep(self._whim.uniform(0.0, 6.0))
                await self._stop(run)

    async def _insist_once(self, verb: str, *args: Any) -> str | None:
        """Until it is carried out, or refused; the disk behind the answer."""
        while True:
            try:
                _, disk = await self.call(verb, self.session, *args)
                return str(disk)
            except Unavailable:
                await self.give_up_here()
            except Refused as refused:
                if refused.code != "not_found":
                    return None
                await self.give_up_here()

    async def _say_more(self, run: str) -> None:
        history = self.around.history
        message = f"{run}-more"
        text = f"more for {run}"
        history.writers[message] = Writer(message, message, [text], opens=True)
        disk = await self._insist_once("send", Draft("user", message, text, run=run))
        if disk is None:
            # The run is over: nothing is sent.
            del history.writers[message]
            return
        history.acked.append(Acked(self.now_s, message, message, 1, 0, "accepted", disk))
        history.inputs.append((run, message, disk))

    async def _stop(self, run: str) -> None:
        asked = Asked(self.now_s, "cancel", run, False, "")
        self.around.history.asked.append(asked)
        disk = await self._insist_once("cancel_run", run)
        if disk is not None:
            self.around.history.asked.append(Asked(self.now_s, "cancel", run, True, disk))


class Worker(Producer):
    """One attempt at one run."""

    def __init__(self, *args: Any, whim: Random, **more: Any) -> None:
        super().__init__(*args, **more)
        self.whim = whim
        self._said = 0

    async def _claim(self) -> Any:
        w = self.writer
        args = (self.session, w.message, self.name, self._claim_id, w.mode, LEASE_S)
        answer = await self.call("claim_run", *args)
        self._sign()
        return answer

    def _sign(self) -> None:
        where = (self.writer.message, self.name, self.region)
        self.around.history.signs.append(Sign(self.now_s, *where))

    async def _recover(self, refused: Refused) -> None:
        if refused.code == "held":
            raise refused
        await super()._recover(refused)

    def _take(self, ack: Any, disk: str, began_s: float) -> None:
        super()._take(ack, disk, began_s)
        self._sign()

    async def _make(self) -> None:
        await super()._make()
        draw = self.whim.random()
        if draw < 0.1:
            await self._think(renews=draw < 0.07)
        elif draw < 0.14:
            await self._suspend()

    async def _think(self, *, renews: bool) -> None:
        """The model is slow; the agent says that it lives, or does not."""
        until_s = self.now_s + self.whim.uniform(2, 45 if renews else 2 * LEASE_S)
        while self.now_s < until_s:
            await asyncio.sleep(HEARTBEAT_S)
            if renews:
                who = (self.session, self.writer.message, self.name, self._epoch)
                try:
                    await self.call("renew_run", *who)
                    self._sign()
                except (Unavailable, Refused):
                    # Its next append will find out.
                    continue

    async def _suspend(self) -> None:
        """It waits for something, and then goes on."""
        for state in ("suspended", "running"):
            self._said += 1
            who = (self.session, self.writer.message, self.name, self._epoch)
            await self._insist(lambda who=who, n=self._said, s=state: self._say(who, n, s))  # type: ignore[misc]
            await asyncio.sleep(self.whim.uniform(0.5, 12))
            if self.whim.random() < 0.5:
                self.region = self.whim.choice(self.around.regions)

    async def _say(self, who: Any, n: int, state: str) -> None:
        try:
            await self.call("say_state", *who, n, state, None)
            self._sign()
        except Refused as refused:
            # Where it is not known what was said before, that goes first.
            if refused.code == "gap":
                self._said = refused.extra["expected"] - 1
            elif refused.code != "conflict":
                raise


class Hand(Client):
    """A process of an agent."""

    def __init__(self, around: Surroundings, name: str, whim: Random) -> None:
        super().__init__(around, name, "")
        self._whim = whim
        self._attempts = 0

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._whim.uniform(0.3, 1) * FEED_S)
            try:
                answer, _ = await self.call("agent_runs", AGENT)
            except (Unavailable, Refused):
                await self.give_up_here()
                continue
            runs = [run for run in json.loads(answer[0]) if self._may_take(run)]
            if runs:
                await self._attempt(self._whim.choice(runs))
            if self._whim.random() < 0.2:
                self.region = self._whim.choice(self.around.regions)

    def _may_take(self, run: dict[str, Any]) -> bool:
        """What nobody is at work on; a few also ask for what is held, and are refused."""
        waits = bool(run["inputs"]) or self.around.calm.is_set()
        chance = {"running": 0.01, "suspended": 0.2 if waits else 0.0}.get(run["status"], 1.0)
        return self._whim.random() < chance

    async def _attempt(self, run: dict[str, Any]) -> None:
        self._attempts += 1
        number = int(self.name.rpartition("h")[2]) * 1_000 + self._attempts
        name = f"{run['id']}-w{number}"
        count = self._whim.choice([2, 5, 12])
        mode = "restart" if self._whim.random() < 0.15 else "continue"
        tokens = [f"{name}.{seq};" for seq in range(count)]
        writer = Writer(name, run["id"], tokens, opens=False, mode=mode)
        dies = self._whim.random() < 0.3 and not self.around.calm.is_set()
        crash_after = self._whim.randint(0, count) if dies else None
        worker = Worker(
            self.around, name, run["session"], writer, 0.2, crash_after, whim=self._whim
        )
        worker.region = self.region
        await worker.run()
        if writer.stopped is not None:
            # Somebody else has it: no need to be quick.
            await asyncio.sleep(self._whim.uniform(0.2, 2))


class Overseer(Client):
    """Somebody who looks at the runs of a session, in every region, again and again."""

    def __init__(self, around: Surroundings, name: str, session: str, whim: Random) -> None:
        super().__init__(around, name, session)
        self._whim = whim

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._whim.expovariate(1 / LOOK_S_MEAN))
            await self.look(self._whim.choice(self.around.regions))

    async def look(self, region: str) -> dict[str, Any] | None:
        """Note what a region shows; None when it does not say."""
        began_s = self.now_s
        try:
            where = (self.session, None, 1000)
            listed, _ = await self.around.door.call(self.name, region, "runs", *where)
        except Unavailable:
            return None
        except Refused as refused:
            if refused.code != "not_found":
                raise
            listed = {"runs": []}
        runs = {run["id"]: run for run in listed["runs"]}
        shown = {id_: (run["status"], run["producer"] or "") for id_, run in runs.items()}
        self.around.history.ran.append(Ran(began_s, self.now_s, region, shown))
        return runs
