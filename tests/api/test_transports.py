"""Three transports, one stream of events: the same, in the same order, with the same cursors."""

import asyncio
import random

import pytest
from perdure.api.transports import TRANSPORTS

from .followers import FOLLOWERS, PollFollower

SEEDS = range(12)


class Script:
    """A producer, and others who take over, cancel and delete, from a seed."""

    def __init__(self, region, seed):
        self.region = region
        self.random = random.Random(seed)
        self.lanes = {}
        self.count = 0

    async def step(self):
        """One thing that happens."""
        rare = (self.open, self.mark, self.end, self.claim, self.cancel, self.delete)
        await self.random.choice([*rare, self.send, self.metadata, *[self.append] * 6])()

    async def post(self, path, value=None, method="POST", **more):
        return await self.region.json(method, f"/v1/sessions/s{path}", value, **more)

    def pick(self):
        return self.random.choice(sorted(self.lanes)) if self.lanes else None

    async def open(self):
        self.count += 1
        message = f"m{self.count}"
        lane = await self.region.open(message=message)
        self.lanes[message] = (lane, 0)

    async def append(self, *items, **more):
        if (message := self.pick()) is None:
            return
        lane, seq = self.lanes[message]
        tokens = list(items) or [
            f"{self.count}.{seq + n} " for n in range(self.random.randint(1, 3))
        ]
        reply = await self.region.append(lane, seq, tokens, **more)
        if reply.status == 200 and not more:
            self.lanes[message] = (lane, reply.json["next"])
        else:
            del self.lanes[message]

    async def mark(self):
        await self.append({"part": {"type": "reasoning"}}, "hm", {"set": {"a": 1}})

    async def end(self):
        await self.append(end=self.random.choice(["complete", "failed"]))

    async def claim(self):
        if (message := self.pick()) is None:
            return
        self.count += 1
        body = {
            "producer": f"p{self.count}",
            "claim_id": f"claim-{self.count:04}",
            "mode": self.random.choice(["continue", "restart"]),
        }
        reply = await self.post(f"/messages/{message}/claim", body)
        if reply.status == 200:
            lane, _ = self.lanes[message]
            lane = lane._replace(producer=body["producer"], epoch=reply.json["epoch"])
            self.lanes[message] = (lane, 0)

    async def cancel(self):
        if (message := self.pick()) is not None:
            await self.post(f"/messages/{message}/cancel")
            del self.lanes[message]

    async def delete(self):
        if (message := self.pick()) is not None and self.random.random() < 0.5:
            await self.post(f"/messages/{message}", method="DELETE")
            del self.lanes[message]

    async def send(self):
        self.count += 1
        await self.post("/messages", {"id": f"t{self.count}", "role": "user", "text": "hi 👩‍👧"})

    async def metadata(self):
        self.count += 1
        await self.post("/metadata", {"n": self.count}, "PATCH")

    async def last(self):
        """What every follower waits for: a message that nobody else sends."""
        await self.post("/messages", {"id": "last", "role": "user", "text": "."})


async def until_last(follower):
    """Everything up to the message ``last``."""
    found = []
    while not (found and found[-1].event == "message" and found[-1].data["id"] == "last"):
        found += await follower.until("message")
    return found


@pytest.mark.parametrize("seed", SEEDS)
async def test_the_same_events(region, seed):
    """A scripted session, live: every transport tells the same, cursor for cursor."""
    script = Script(region, seed)
    for _ in range(5):
        await script.step()
    followers = {name: kind(region) for name, kind in FOLLOWERS.items()}
    first = {name: await follower.until("ready") for name, follower in followers.items()}
    assert first["websocket"] == first["sse"] == first["poll"]
    reading = {name: asyncio.create_task(until_last(f)) for name, f in followers.items()}
    for _ in range(30):
        await script.step()
    await script.last()
    told = {name: await task for name, task in reading.items()}
    assert told["websocket"] == told["sse"] == told["poll"]
    for follower in followers.values():
        await follower.close()


@pytest.mark.parametrize("seed", SEEDS)
async def test_the_same_resume(region, seed):
    """A cursor of any event of one transport, taken to each of them, brings the same."""
    script = Script(region, seed)
    kinds = list(FOLLOWERS)
    script.random.shuffle(kinds)
    follower = FOLLOWERS[kinds[0]](region)
    await follower.until("ready")
    reading = asyncio.create_task(until_last(follower))
    for _ in range(25):
        await script.step()
    await script.last()
    events = await reading
    await follower.close()
    for event in script.random.sample(events, min(4, len(events))):
        resumed = {}
        for name, kind in FOLLOWERS.items():
            again = kind(region, event.id)
            resumed[name] = await again.until("ready")
            await again.close()
        assert resumed["websocket"] == resumed["sse"] == resumed["poll"]


async def test_the_end_of_a_session(region):
    """Every transport tells that the session is gone, and ends."""
    await region.request("PUT", "/v1/sessions/s")
    followers = [kind(region) for kind in FOLLOWERS.values()]
    for follower in followers:
        await follower.until("ready")
    await region.request("DELETE", "/v1/sessions/s")
    told = [await follower.until("deleted") for follower in followers]
    assert told[0] == told[1] == told[2]
    for follower in followers:
        await follower.close()


async def test_transports_are_listed(region):
    """What is offered, best first, with the paths that are there."""
    reply = await region.request("GET", "/v1/transports")
    assert [each["name"] for each in reply.json["transports"]] == list(FOLLOWERS)
    assert reply.json["transports"] == TRANSPORTS
    reply = await region.request("GET", "/v1/transports?a=1")
    reply.assert_problem(400, "invalid_query")


async def test_poll_costs_no_resume(region, lane):
    """A reader by poll that comes in time is one subscription from its first poll to its last."""
    follower = PollFollower(region)
    await follower.until("ready")
    for seq in range(20):
        await region.append(lane, seq, ["x"])
        await follower.until("append")
    assert region.node.resumes == 0
    assert region.node.fanout.count == 1
