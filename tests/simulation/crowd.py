"""Who uses the regions: agents, people and readers; and what everybody holds in the end."""

import asyncio
from random import Random
from typing import Any

from tests.simulation.clients import (
    Broken,
    Chatter,
    Client,
    Meddler,
    Producer,
    Reader,
    Surroundings,
)
from tests.simulation.door import Unavailable
from tests.simulation.history import Seen, Writer, as_seen
from tests.simulation.restless import Restless, Watcher

# After the heal: until all regions are equal, and until all readers are.
CONVERGE_S_MAX = 60.0
# A reader may stall for 25 s, hear nothing for as long again, and then be held for 30 s.
READERS_S_MAX = 90.0
FINISH_S_MAX = 90.0
LOOK_S_MAX = 10.0


class Crowd:
    """The clients of some sessions, drawn from the randomness of what surrounds them."""

    # Seconds between what an agent says, on average; and a person.
    paces_s: tuple[float, ...] = (0.05, 0.3, 1.0)
    chat_pace_s = 3.0

    def __init__(
        self,
        around: Surroundings,
        sessions: list[str],
        chaos_s: float,
        whim: Random | None = None,
    ) -> None:
        """``whim``: where some are restless, what they draw from."""
        self.around = around
        self.history = around.history
        self.random = around.random
        self.sessions = sessions
        self.names: list[str] = []
        self._chaos_s = chaos_s
        self._whim = whim
        self._tasks: list[asyncio.Task[None]] = []
        self._readers: list[Reader] = []

    @property
    def now_s(self) -> float:
        """The loop's time."""
        return asyncio.get_running_loop().time()

    async def leave(self) -> None:
        """Everybody stops at once."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def populate(self) -> None:
        """Begin."""
        for session in self.sessions:
            for number in range(self.random.randint(1, 3)):
                self._add_message(session, f"{session}-m{number}")
            texts = [(f"{session}-c{n}", f"chat {n} of {session};") for n in range(4)]
            # In one session at least somebody speaks, whatever becomes of the agents.
            if session == self.sessions[0] or self.random.random() < 0.5:
                self._start(
                    Chatter(self.around, f"{session}-chatter", session, texts, self.chat_pace_s)
                )
            for number in range(self.random.randint(1, 2)):
                self._add_reader(session, number)
            if self._whim is not None:
                watcher = Watcher(self.around, f"{session}-watcher", session, self._whim)
                self._start(watcher)

    def _add_message(self, session: str, message: str) -> None:
        random = self.random
        count = random.choice([3, 12, 30])
        pace_s = random.choice(self.paces_s)
        taken_over = random.random() < 0.4
        crash_after = random.randint(0, count) if taken_over and random.random() < 0.6 else None
        first = self._writer(message, 0, count, "open")
        kind = Broken if random.random() < 0.04 else Producer
        self._produce(session, first, pace_s, crash_after, kind)
        if random.random() < 0.05:
            self._produce(session, self._writer(message, 1, count, "open"), pace_s, None)
        if taken_over:
            for number in range(random.choice([1, 1, 2])):
                mode = random.choice(["continue", "continue", "restart"])
                writer = self._writer(message, 2 + number, random.choice([2, 10]), mode)
                self._later(random.uniform(0.5, self._chaos_s), session, writer, pace_s)
        if self._whim is not None and self._whim.random() < 0.4:
            # One that comes while another still writes.
            writer = self._writer(message, 5, 6, "continue")
            self._later(self._whim.uniform(0.3, 3.0), session, writer, pace_s)
        for what, chance in (("cancel", 0.2), ("delete", 0.12)):
            if random.random() < chance:
                at_s = random.uniform(0.5, self._chaos_s)
                name = f"{message}-{what}"
                self._start(Meddler(self.around, name, session, what, message, at_s))

    @staticmethod
    def _writer(message: str, number: int, count: int, mode: str) -> Writer:
        name = f"{message}-w{number}"
        tokens = [f"{name}.{seq};" for seq in range(count)]
        broken = [f"{name}.{seq}!;" for seq in range(count)]
        return Writer(name, message, tokens, mode == "open", mode, broken=broken)

    def _produce(
        self,
        session: str,
        writer: Writer,
        pace_s: float,
        crash_after: int | None,
        kind: type[Producer] = Producer,
    ) -> None:
        if kind is Broken:
            self.history.counts[f"broken.{writer.message}"] += 1
            self._start(Broken(self.around, writer.name, session, writer, pace_s, crash_after))
        else:
            self._start(self._producer(session, writer, pace_s, crash_after))

    def _producer(
        self, session: str, writer: Writer, pace_s: float, crash_after: int | None = None
    ) -> Producer:
        args = (self.around, writer.name, session, writer, pace_s, crash_after)
        if self._whim is not None and self._whim.random() < 0.5:
            return Restless(*args, whim=self._whim)
        return Producer(*args)

    def _later(self, after_s: float, session: str, writer: Writer, pace_s: float) -> None:
        async def begin() -> None:
            await asyncio.sleep(after_s)
            await self._producer(session, writer, pace_s).run()

        self.names.append(writer.name)
        self._tasks.append(asyncio.create_task(begin()))

    def _add_reader(self, session: str, number: int) -> None:
        reader = Reader(
            self.around,
            f"{session}-r{number}",
            session,
            hop_s=self.random.choice([0.5, 3, 15]),
            stall=self.random.choice([0.0, 0.0, 0.02]),
        )
        self._readers.append(reader)
        reader.task = self._start(reader)

    def _start(self, client: Any) -> asyncio.Task[None]:
        self.names.append(client.name)
        task = asyncio.create_task(client.run())
        self._tasks.append(task)
        return task

    # In the end

    async def finish(self, healed_s: float) -> None:
        """All that live producers still have to say is said, and all regions show the same."""
        writing = [task for task in self._tasks if task not in self._reading]
        done, waiting = await asyncio.wait(writing, timeout=FINISH_S_MAX)
        for task in done:
            task.result()
        self.history.counts["unfinished"] += len(waiting)
        for task in waiting:
            task.cancel()
        began = self.now_s
        while self.now_s - began < CONVERGE_S_MAX:
            if await self._equal() and await self._verified():
                self.history.equal_after_s = self.now_s - healed_s
                self.history.converged_s = self.now_s - began
                return
            await asyncio.sleep(0.5)

    @property
    def _reading(self) -> list[asyncio.Task[None] | None]:
        return [reader.task for reader in self._readers]

    async def _equal(self) -> bool:
        views = [await self.view(name) for name in self.around.regions]
        return views[0] is not None and all(view == views[0] for view in views)

    async def _verified(self) -> bool:
        """Whether every region says, by digests of everything, that all hold the same."""
        client = Client(self.around, "observer", "")
        for client.region in self.around.regions:
            try:
                self.history.verified, _ = await client.call("verify")
            except Unavailable:
                return False
            if not self.history.verified["equal"]:
                return False
        return True

    async def view(self, region: str) -> dict[str, Seen] | None:
        """What a region shows of all sessions; None when it does not answer."""
        client = Client(self.around, "observer", "")
        client.region = region
        found: dict[str, Seen] = {}
        try:
            page, _ = await client.call("sessions", None, 100)
            for session in page["sessions"]:
                listed, _ = await client.call("messages", session["id"], None, 1000)
                found |= {m["id"]: as_seen(m) for m in listed["messages"]}
        except Unavailable:
            return None
        return found

    async def until_read(self) -> None:
        """Readers hold what the regions hold, once no hold can last any more."""
        began = self.now_s
        final = await self.view(self.around.regions[0]) or {}
        while self.now_s - began < READERS_S_MAX:
            if all(self._held(reader) == self._of(reader, final) for reader in self._readers):
                return
            await asyncio.sleep(1)

    @staticmethod
    def _held(reader: Reader) -> dict[str, Seen]:
        return {m.id: Seen(m.text, m.status, m.length) for m in reader.view.messages}

    @staticmethod
    def _of(reader: Reader, final: dict[str, Seen]) -> dict[str, Seen]:
        return {id_: seen for id_, seen in final.items() if id_.startswith(reader.session + "-")}

    async def look(self) -> None:
        """Note what everybody holds."""
        for task in self._reading:
            if task is not None and task.done():
                task.result()
        for name in self.around.regions:
            # A disk that failed before the heal may end a process after it, which is started anew.
            began, seen = self.now_s, await self.view(name)
            while seen is None and self.now_s - began < LOOK_S_MAX:
                await asyncio.sleep(0.5)
                seen = await self.view(name)
            self.history.final[name] = seen or {}
        for reader in self._readers:
            self.history.final_readers[reader.name] = self._held(reader)
