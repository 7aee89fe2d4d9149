"""Clients of the simulation: writers with buffers, readers with cursors, and people who meddle."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from perdure.replication.admission import Draft

from perdure_client.errors import OutOfStep
from perdure_client.reducer import SessionView, apply
from tests.simulation.door import Door, Refused, Unavailable
from tests.simulation.history import (
    Acked,
    Announced,
    Asked,
    Called,
    Claimed,
    History,
    Shown,
    Stopped,
    Waited,
    Writer,
)
from tests.simulation.runs import LOST

SILENCE_S_MAX = 25.0
BATCH_ITEMS_MAX = 8
FOR_GOOD = frozenset({"fenced", "cancelled", "conflict", "deleted", "ended"})


@dataclass
class Surroundings:
    """What every client works with. ``calm`` is set when no fault happens any more."""

    door: Door
    history: History
    regions: list[str]
    random: Random
    calm: asyncio.Event

    def region(self) -> str:
        """Any region."""
        return self.random.choice(self.regions)


class Client:
    """Somebody who talks to regions, and to another one after a failure."""

    def __init__(self, around: Surroundings, name: str, session: str) -> None:
        self.around = around
        self.name = name
        self.session = session
        self.random = Random(around.random.getrandbits(64))
        self.region = around.region()

    @property
    def now_s(self) -> float:
        return asyncio.get_running_loop().time()

    async def call(self, verb: str, *args: Any, **more: Any) -> Any:
        """Once, at the current region."""
        return await self.around.door.call(self.name, self.region, verb, *args, **more)

    async def give_up_here(self) -> None:
        """Wait a little; go elsewhere, perhaps."""
        await asyncio.sleep(self.random.uniform(0.05, 0.6))
        if self.random.random() < 0.6:
            self.region = self.random.choice(self.around.regions)

    async def insist(self, verb: str, *args: Any, **more: Any) -> Any:
        """Until a region answers; ``Refused`` when one says no."""
        while True:
            try:
                return await self.call(verb, *args, **more)
            except Unavailable:
                await self.give_up_here()


class Producer(Client):
    """An agent that streams one message; it keeps its buffer until it is stable."""

    def __init__(
        self,
        around: Surroundings,
        name: str,
        session: str,
        writer: Writer,
        pace_s: float,
        crash_after: int | None = None,
    ) -> None:
        super().__init__(around, name, session)
        self.writer = writer
        self._pace_s = pace_s
        self._crash_after = crash_after
        self._claim_id = f"claim-{self.random.getrandbits(64):016x}"
        self._epoch = self._header = ""
        self._accepted = self._stable = self._made = 0
        self._ended: str | None = None
        # The region that the next append is made for, and where it starts.
        self._at = ""
        self._next = 0
        around.history.writers[writer.name] = writer

    async def run(self) -> None:
        """Write everything, end it, and wait until it is stable; or be refused for good."""
        try:
            await self._insist(self._begin)
            while not self._is_done():
                await self._make()
                if self._crash_after is not None and self._made >= self._crash_after:
                    self.writer.alive = False
                    return
                await self._insist(self._append)
                if self._made == len(self.writer.tokens) and not self._is_done():
                    await asyncio.sleep(self.random.uniform(0.2, 1.0))
            self.writer.finished = True
        except Refused as refused:
            self.writer.alive = False
            self.writer.stopped = refused.code
            self.around.history.stopped.append(
                Stopped(self.now_s, self.writer.name, self.writer.message, refused.code)
            )

    def _is_done(self) -> bool:
        if not self.writer.ended:
            return self._stable == len(self.writer.tokens) > 0
        return self._ended == "stable"

    async def _make(self) -> None:
        """The model says something."""
        left = len(self.writer.tokens) - self._made
        if left:
            await asyncio.sleep(self.random.expovariate(1 / self._pace_s))
            self._made += min(left, self.random.randint(1, 3))

    async def _insist(self, attempt: Callable[[], Any]) -> None:
        while True:
            try:
                await attempt()
                return
            except Unavailable:
                await self.give_up_here()
            except Refused as refused:
                if refused.code == "not_found":
                    # The region does not know the message that is to be claimed, or not yet; or it
                    # was on a disk that is lost.
                    if self.around.calm.is_set() and self.random.random() < 0.1:
                        raise
                    await self.give_up_here()
                elif refused.code in FOR_GOOD:
                    raise
                else:
                    await self._recover(refused)

    async def _begin(self) -> None:
        w = self.writer
        if w.mode == "open":
            draft = Draft("assistant", w.message, producer=self.name, claim_id=self._claim_id)
            opened, _ = await self.call("open", self.session, draft)
            self._epoch, self._header, self._next = opened.epoch, opened.header, opened.next
        else:
            began_s = self.now_s
            answer, disk = await self._claim()
            self._epoch, self._header = answer["epoch"], answer["header"]
            self._next = answer["next"]
            self.around.history.claimed.append(
                Claimed(self.now_s, w.name, w.message, answer["text"], w.mode, disk, began_s)
            )
        self._at = self.region

    async def _claim(self) -> Any:
        w = self.writer
        args = (self.session, w.message, self.name, self._claim_id, w.mode)
        return await self.call("claim", *args)

    async def _recover(self, refused: Refused) -> None:
        if refused.code == "unknown_epoch":
            try:
                opened, _ = await self.call("reopen", self.session, self._header)
                self._at, self._next = self.region, max(self._stable, opened.next)
            except Unavailable:
                await self.give_up_here()
            return
        if refused.code != "gap":
            raise AssertionError(f"{self.name} was refused: {refused}")
        self._next = refused.extra["expected"]
        if self._next < self._stable:
            # What is stable was let go of: somebody has it, and will bring it.
            await self.give_up_here()
            self._next = self._stable

    async def _append(self) -> None:
        w = self.writer
        if self._at != self.region:
            # What is not stable may be on the lost disk alone: it is repeated.
            self._at, self._next = self.region, self._stable
        batch = w.tokens[self._next : min(self._made, self._next + BATCH_ITEMS_MAX)]
        upto = self._next + len(batch)
        end = "complete" if w.ended and upto == len(w.tokens) else None
        if not batch and end is None:
            if self._made < len(w.tokens) or self._stable == len(w.tokens):
                return
            # All is said and not stable yet: say the last once more, to hear of it.
            self._next -= 1
            batch, upto = w.tokens[self._next :], len(w.tokens)
        where = (self.session, w.message, self.name, self._epoch, self._next)
        began_s = self.now_s
        ack, disk = await self.call("append", *where, batch, end)
        self._take(ack, disk, began_s)
        self._next = max(upto, ack.accepted)

    def _take(self, ack: Any, disk: str, began_s: float) -> None:
        w = self.writer
        stable = ack.stable or 0
        self._accepted = max(self._accepted, ack.accepted)
        self._stable = max(self._stable, stable)
        if ack.ended is not None:
            self._ended = "stable" if "stable" in (ack.ended, self._ended) else "accepted"
        self.around.history.acked.append(
            Acked(
                self.now_s,
                w.name,
                w.message,
                ack.accepted,
                stable,
                ack.ended,
                disk,
                began_s,
                self._made,
            )
        )


class Broken(Producer):
    """A producer that says something else under the same numbers in another region."""

    async def _append(self) -> None:
        if self._at not in ("", self.region):
            self.writer.tokens = self.writer.broken
            self._stable = 0
        await super()._append()


class Chatter(Client):
    """A person who sends whole messages, again until it is acknowledged."""

    def __init__(
        self,
        around: Surroundings,
        name: str,
        session: str,
        texts: list[tuple[str, str]],
        pace_s: float,
    ) -> None:
        super().__init__(around, name, session)
        self._texts = texts
        self._pace_s = pace_s

    async def run(self) -> None:
        history = self.around.history
        after: str | None = None
        for message, text in self._texts:
            writer = Writer(message, message, [text], opens=True)
            history.writers.setdefault(message, writer)
            await asyncio.sleep(self.random.expovariate(1 / self._pace_s))
            try:
                draft = Draft("user", message, text, after=after)
                sent, disk = await self.insist("send", self.session, draft)
            except Refused as refused:
                if refused.code == "clock_ahead":
                    after = None
                history.stopped.append(Stopped(self.now_s, message, message, refused.code))
                continue
            after = sent.message["serial"]
            stable = 1 if sent.stable else 0
            history.acked.append(Acked(self.now_s, message, message, 1, stable, "accepted", disk))
            writer.finished = bool(sent.stable)


class Meddler(Client):
    """Somebody who cancels, deletes, or writes again what was deleted."""

    def __init__(
        self, around: Surroundings, name: str, session: str, what: str, message: str, at_s: float
    ) -> None:
        super().__init__(around, name, session)
        self._what = what
        self._message = message
        self._at_s = at_s

    async def run(self) -> None:
        await asyncio.sleep(self._at_s)
        history = self.around.history
        while True:
            asked = Asked(self.now_s, self._what, self._message, False, "")
            history.asked.append(asked)
            try:
                _, disk = await self.insist(self._what, self.session, self._message)
            except Refused as refused:
                if not any(c.who == self.name and c.code in LOST for c in history.called):
                    history.asked.remove(asked)
                if refused.code in ("deleted", "ended"):
                    return
                # Not known here, or not yet.
                if self.around.calm.is_set():
                    return
                await self.give_up_here()
                continue
            history.asked.append(Asked(self.now_s, self._what, self._message, True, disk))
            break
        if self._what == "delete" and self.random.random() < 0.7:
            await self._reuse()

    async def _reuse(self) -> None:
        """Ids of what was deleted are never given again."""
        await asyncio.sleep(self.random.uniform(0, 5))
        try:
            draft = Draft("user", self._message, "written after the delete")
            await self.insist("send", self.session, draft)
        except Refused as refused:
            self.around.history.stopped.append(
                Stopped(self.now_s, self.name, self._message, refused.code)
            )


class Reader(Client):
    """A client that follows a session with its cursor, at one region after another."""

    def __init__(
        self, around: Surroundings, name: str, session: str, *, hop_s: float, stall: float
    ) -> None:
        super().__init__(around, name, session)
        self.view = SessionView(session)
        self._hop_s = hop_s
        self._stall = stall
        self._connected_s = 0.0
        # Of this connection: whether everything was held, whether all has been told, and when its
        # first event came.
        self._held = self._ready = False
        self._first_s = 0.0
        # Messages that it has been told of, in order.
        self._held_ids: dict[str, None] = {}
        self.task: asyncio.Task[None] | None = None

    async def run(self) -> None:
        while not self.view.deleted:
            began_s = self.now_s
            try:
                cursor = self.view.cursor
                socket = await self.around.door.follow(self.name, self.region, self.session, cursor)
            except Unavailable as error:
                where = (self.name, self.region, "follow", error.code)
                self.around.history.called.append(Called(began_s, self.now_s, *where))
                await self.give_up_here()
                continue
            except Refused as refused:
                if refused.code != "deleted":
                    self.around.history.out_of_step.append(f"{self.name}: {refused}")
                return
            self._connected_s = self.now_s
            try:
                await self._read(socket)
            except OutOfStep as error:
                self.around.history.out_of_step.append(f"{self.name} at {self.region}: {error}")
                return
            finally:
                socket.abort()
            if not self.around.calm.is_set() or self.random.random() < 0.5:
                await asyncio.sleep(self.random.uniform(0, 0.4))
                self.region = self.around.region()

    async def _read(self, socket: Any) -> None:
        self._held = self._ready = False
        self._first_s = 0.0
        try:
            await self._read_on(socket)
        finally:
            if self._held and not self._ready:
                self._waited()

    def _waited(self) -> None:
        held_s = self.now_s - self._first_s
        where = (self.name, self.session, self.region)
        self.around.history.waited.append(Waited(self.now_s, *where, held_s))

    async def _read_on(self, socket: Any) -> None:
        hop_at = self.now_s + self.random.expovariate(1 / self._hop_s)
        while True:
            limit = SILENCE_S_MAX
            if not self.around.calm.is_set():
                limit = min(limit, hop_at - self.now_s)
            try:
                async with asyncio.timeout(limit):
                    message = await socket.receive()
            except TimeoutError:
                return
            if message.data is None:
                return
            events = json.loads(message.data)
            # Cut between any two events.
            if not self.around.calm.is_set() and self.random.random() < 0.02:
                events = events[: self.random.randint(0, len(events))]
                self._take_all(events)
                return
            self._take_all(events)
            if not self.around.calm.is_set() and self.random.random() < self._stall:
                await asyncio.sleep(self.random.uniform(1, 25))

    def _take_all(self, events: list[Any]) -> None:
        for name, cursor, text in events:
            data = json.loads(text)
            before = dict(self.view.presence)
            apply(self.view, name, data)
            self._announced(name, data, before)
            self.view.cursor = cursor
            self._first_s = self._first_s or self.now_s
            self._held |= name == "stale" and data["held"] and data["message"] is None
            if name == "ready" and not self._ready:
                self._ready = True
                if self._held:
                    self._waited()
            self._record(name, data)

    def _announced(self, name: str, data: dict[str, Any], before: dict[str, Any]) -> None:
        if name in ("snapshot", "presence"):
            now = self.view.presence
            for who in sorted(now.keys() ^ before.keys()):
                told = Announced(self.now_s, self.name, self._connected_s, who, who in now)
                self.around.history.announced.append(told)

    def _record(self, name: str, data: dict[str, Any]) -> None:
        shown = self.around.history.shown
        if name == "snapshot":
            ids = {message.id: None for message in self.view.messages}
            for id_ in (*ids, *(id_ for id_ in self._held_ids if id_ not in ids)):
                shown.append(self._shown(name, data.get("reason"), id_))
            self._held_ids = ids
        elif name in ("message", "append", "replace", "end", "delete"):
            id_ = data["id"] if name == "message" else data["message"]
            self._held_ids[id_] = None
            shown.append(self._shown(name, data.get("reason"), id_))

    def _shown(self, event: str, reason: str | None, id_: str) -> Shown:
        message = self.view.message(id_)
        text = None if message is None else message.text
        status = "" if message is None else message.status
        return Shown(
            self.now_s, self.name, self.region, event, reason, id_, text, status, self._connected_s
        )
