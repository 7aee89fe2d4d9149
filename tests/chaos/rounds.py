"""Rounds on real processes: clients write and read, regions die, and the checkers judge."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.chaos.door import HttpDoor
from tests.chaos.faults import Faults
from tests.chaos.namespaces import Namespaces
from tests.chaos.regions import NAMES, Regions, drawn
from tests.simulation.checkers import judge
from tests.simulation.clients import Client, Surroundings
from tests.simulation.crowd import Crowd
from tests.simulation.door import Refused, Unavailable
from tests.simulation.history import History, Seen, as_seen

CHAOS_S = 7.0
SESSIONS = 4


class ProcessCrowd(Crowd):
    """The clients of one round; sessions of earlier rounds are on the disks too."""

    paces_s = (0.02, 0.1, 0.25)
    chat_pace_s = 0.8

    async def view(self, region: str) -> dict[str, Seen] | None:
        """What a region shows of this round's sessions; None when it does not answer."""
        client = Client(self.around, "observer", "")
        client.region = region
        found: dict[str, Seen] = {}
        for session in self.sessions:
            try:
                listed, _ = await client.call("messages", session, None, 1000)
            except Unavailable:
                return None
            except Refused as refused:
                if refused.code != "not_found":
                    raise
                continue
            found |= {m["id"]: as_seen(m) for m in listed["messages"]}
        return found


@dataclass
class Outcome:
    """What came of a round."""

    seed: int
    faults: list[str]
    history: History
    breaches: list[str]
    seconds: float


async def play(regions: Regions, seed: int) -> Outcome:
    """One round: chaos, then healing, then what everybody holds. The seed draws the clients and the
    faults; what comes of them is up to the machine."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    sessions = [f"c{seed}s{number}" for number in range(SESSIONS)]
    history = History(list(NAMES), sessions)
    door = HttpDoor(regions, history, lambda _: None)
    calm = asyncio.Event()
    around = Surroundings(door, history, list(NAMES), Random(f"{seed}/clients"), calm)
    crowd = ProcessCrowd(around, sessions, CHAOS_S)
    faults = Faults(regions, history, Random(f"{seed}/faults"))
    try:
        crowd.populate()
        await faults.run(CHAOS_S)
        await regions.heal()
        calm.set()
        healed_s = loop.time()
        await asyncio.gather(*(regions.ready(name) for name in NAMES))
        await crowd.finish(healed_s)
        await crowd.until_read()
        await crowd.look()
        history.deaths, regions.deaths = regions.deaths, []
    finally:
        await crowd.leave()
        await door.aclose()
    return Outcome(seed, faults.names, history, judge(history), loop.time() - began)


async def campaign(
    directory: Path,
    seeds: range,
    told: "Told",
    outcomes: list[Outcome] | None = None,
    namespaces: Namespaces | None = None,
) -> list[Outcome]:
    """Many rounds on the same regions, whose disks grow older with them.

    ``outcomes`` gets each as it comes, for who may be stopped on the way.
    """
    outcomes = [] if outcomes is None else outcomes
    limits = drawn(Random(f"{seeds.start}/regions"))
    async with Regions(directory, limits, namespaces) as regions:
        told.on_begin(regions)
        for seed in seeds:
            outcome = await play(regions, seed)
            outcomes.append(outcome)
            told.on_round(outcome)
    return outcomes


class Told:
    """Who hears of a campaign as it goes on; nobody."""

    def on_begin(self, regions: Regions) -> None:
        """The regions run."""

    def on_round(self, outcome: Outcome) -> None:
        """A round is over."""
