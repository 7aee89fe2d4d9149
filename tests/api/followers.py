"""One reader on each of the three transports, which give what they read in the same form."""

import asyncio
import json
from typing import Any, NamedTuple

import websockets
from websockets.asyncio.client import ClientConnection


class Told(NamedTuple):
    """An event, however it came."""

    event: str
    id: str
    data: Any


class Plug:
    """A socket, and what has come over it by kind."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.number = 0
        self.replies: dict[int | None, Any] = {}
        self.events: dict[str, list[Told]] = {}
        self.acks: list[Any] = []
        self.over: list[str] = []
        self.alive = 0
        # Every frame in the order in which it came.
        self.frames: list[Any] = []
        self.said: list[str] = []

    async def say(self, do: str, **fields: Any) -> int:
        """Send a frame; its number."""
        self.number += 1
        self.said.append(json.dumps({"do": do, "number": self.number, **fields}))
        await self.connection.send(self.said[-1])
        return self.number

    async def do(self, do: str, **fields: Any) -> Any:
        """Send a frame and await its answer."""
        return await self.reply(await self.say(do, **fields))

    async def reply(self, number: int | None) -> Any:
        """The answer with this number."""
        while number not in self.replies:
            await self.take()
        return self.replies.pop(number)

    async def take(self) -> Any:
        """One frame."""
        async with asyncio.timeout(10):
            frame = json.loads(await self.connection.recv())
        self.frames.append(frame)
        if "agent" in frame:
            return frame
        if "event" in frame:
            told = Told(frame["event"], frame["id"], frame["data"])
            self.events.setdefault(frame["session"], []).append(told)
        elif "reply" in frame:
            self.replies[frame["reply"]] = frame
        elif "ack" in frame:
            self.acks.append(frame)
        elif "over" in frame:
            self.over.append(frame["session"])
        elif "expired" not in frame:
            assert frame == {"alive": True}
            self.alive += 1
        return frame

    async def until(self, name: str, session: str = "s") -> list[Told]:
        """The events of a session up to the first of a kind, which are taken away."""
        while True:
            events = self.events.setdefault(session, [])
            for at, event in enumerate(events):
                if event.event == name:
                    self.events[session] = events[at + 1 :]
                    return events[: at + 1]
            await self.take()

    async def closed(self) -> int | None:
        """The code with which the region closes."""
        try:
            while True:
                await self.take()
        except websockets.ConnectionClosed:
            return self.connection.close_code


async def plug(region: Any, session: str = "s", **options: Any) -> Plug:
    """A socket to a region."""
    url = f"ws://127.0.0.1:{region.port}/v1/sessions/{session}/ws{options.pop('query', '')}"
    options = {"compression": None, "proxy": None, "max_size": None, **options}
    return Plug(await websockets.connect(url, **options))


class SocketFollower:
    """Reads a session over a WebSocket."""

    def __init__(self, region: Any, cursor: str | None = None) -> None:
        self._region = region
        self._cursor = cursor
        self._plug: Plug | None = None

    async def until(self, last: str) -> list[Told]:
        """Events up to the first of a kind."""
        if self._plug is None:
            self._plug = await plug(self._region)
            fields = {"cursor": self._cursor} if self._cursor else {}
            assert (await self._plug.do("subscribe", **fields))["status"] == 200
        return await self._plug.until(last)

    async def close(self) -> None:
        """Leave."""
        if self._plug is not None:
            await self._plug.connection.close()


class StreamFollower:
    """Reads a session as server-sent events."""

    def __init__(self, region: Any, cursor: str | None = None) -> None:
        self._region = region
        self._headers = [("last-event-id", cursor)] if cursor else []
        self._connection: Any = None

    async def until(self, last: str) -> list[Told]:
        """Events up to the first of a kind."""
        if self._connection is None:
            self._connection = await self._region.follow(headers=self._headers)
        found = await self._connection.events(last)
        return [Told(e["event"], e["id"], json.loads(e["data"])) for e in found]

    async def close(self) -> None:
        """Leave."""
        self._connection.close()


class PollFollower:
    """Reads a session by long poll."""

    def __init__(self, region: Any, cursor: str | None = None, **every: str) -> None:
        """``every``: what is asked with every poll."""
        self._region = region
        self._every = every
        self.cursor = cursor or ""
        self.handle = ""
        self.polls = 0
        self._waiting: list[Told] = []

    async def poll(self, wait_ms: int | None = None, **more: Any) -> Any:
        """One poll; its answer."""
        values = {"cursor": self.cursor, "poll": self.handle, **self._every, **more}
        if wait_ms is not None:
            values["wait_ms"] = str(wait_ms)
        query = "&".join(f"{name}={value}" for name, value in values.items() if value)
        reply = await self._region.request("GET", f"/v1/sessions/s/poll?{query}")
        assert reply.status == 200, reply
        self.polls += 1
        self.cursor, self.handle = reply.json["cursor"], reply.json.get("poll", "")
        return reply.json

    async def until(self, last: str) -> list[Told]:
        """Events up to the first of a kind."""
        while True:
            for at, event in enumerate(self._waiting):
                if event.event == last:
                    found, self._waiting = self._waiting[: at + 1], self._waiting[at + 1 :]
                    return found
            wait_ms = None if self.polls else 0
            self._waiting += [Told(**event) for event in (await self.poll(wait_ms))["events"]]

    async def close(self) -> None:
        """Nothing to leave."""


FOLLOWERS = {"websocket": SocketFollower, "sse": StreamFollower, "poll": PollFollower}
