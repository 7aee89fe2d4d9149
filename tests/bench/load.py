"""The load client, a process of its own: ``python -m tests.bench.load KIND PARAMETERS``.

It prepares, prints ``ready``, waits for a line, does its work, prints the result as JSON with the
CPU that the work took, and waits for another line before it leaves.
"""

import asyncio
import json
import re
import resource
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop

from tests.bench.accounting import cpu_ns as region_cpu_ns
from tests.bench.wire import Connection, Lines, address, append, connect, opened, request

TOKEN = " token"
Work = Callable[[], Awaitable[dict[str, Any]]]
_RANGE = re.compile(rb'"from":(\d+),"to":(\d+)')


def cpu_ns() -> int:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return int((usage.ru_utime + usage.ru_stime) * 1e9)


# Appends


class Stream:
    """One long ``stream`` request of a message; ``window`` lines may be unacknowledged."""

    def __init__(self, url: str, session: str, epoch: str, batch: int, window: int = 1) -> None:
        self._url, self._session, self._epoch = url, session, epoch
        self._batch, self._window = batch, window
        self._wake: asyncio.Future[None] | None = None
        self._accepted = 0
        self.seq = 0

    async def begin(self) -> None:
        loop = asyncio.get_running_loop()
        _, self._lines = await loop.create_connection(
            lambda: Lines(self._on_line), *address(self._url)
        )
        path = f"/v1/sessions/{self._session}/messages/m/stream"
        head = (
            f"POST {path} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n"
            f"producer-id: p\r\nproducer-epoch: {self._epoch}\r\n\r\n"
        )
        assert self._lines.transport is not None
        self._lines.transport.write(head.encode())

    def _on_line(self, line: bytes) -> None:
        if b'"code"' in line:
            raise RuntimeError(line.decode())
        at = line.find(b'"accepted":')
        if at < 0:
            return
        self._accepted = int(line[at + 11 : line.find(b",", at)])
        if self._wake is not None and not self._wake.done() and self._room() > 0:
            self._wake.set_result(None)

    def _room(self) -> int:
        return self._window - (self.seq - self._accepted) // self._batch

    async def send(self) -> None:
        """Fill the window, and wait until there is room in it."""
        lines = bytearray()
        for _ in range(self._room()):
            tokens = [TOKEN] * self._batch
            entry = {"token": TOKEN} if self._batch == 1 else {"tokens": tokens}
            lines += json.dumps({"seq": self.seq, **entry}).encode() + b"\n"
            self.seq += self._batch
        assert self._lines.transport is not None
        self._lines.transport.write(b"%x\r\n%b\r\n" % (len(lines), bytes(lines)))
        if self._room() <= 0:
            self._wake = asyncio.get_running_loop().create_future()
            await self._wake

    async def finish(self) -> None:
        """Until everything is acknowledged."""
        while self._accepted < self.seq:
            self._wake = asyncio.get_running_loop().create_future()
            await self._wake


async def appends(
    url: str, mode: str, label: str, in_flight: int, seconds: float, batch: int
) -> Work:
    """``post`` and ``streams``: so many producers, each with a message of its own and one append
    outstanding. ``stream``: one producer, with so many lines outstanding."""
    window = in_flight if mode == "stream" else 1
    in_flight = 1 if mode == "stream" else in_flight
    connections = [await connect(url) for _ in range(in_flight)]
    names = [f"{label}-{number}" for number in range(in_flight)]
    pairs = zip(connections, names, strict=True)
    epochs = [await opened(connection, name) for connection, name in pairs]
    streams = [Stream(url, n, e, batch, window) for n, e in zip(names, epochs, strict=True)]
    if mode != "post":
        for stream in streams:
            await stream.begin()

    async def post(connection: Connection, session: str, epoch: str, until: float) -> int:
        seq = 0
        while time.perf_counter() < until:
            await connection.ask(append(session, epoch, seq, [TOKEN] * batch))
            seq += batch
        return seq

    async def lines(stream: Stream, until: float) -> int:
        while time.perf_counter() < until:
            await stream.send()
        await stream.finish()
        return stream.seq

    async def work() -> dict[str, Any]:
        until = time.perf_counter() + seconds
        if mode != "post":
            counts = await asyncio.gather(*(lines(stream, until) for stream in streams))
        else:
            triples = zip(connections, names, epochs, strict=True)
            counts = await asyncio.gather(*(post(*triple, until) for triple in triples))
        return {"tokens": sum(counts), "requests": sum(counts) // batch}

    return work


# Readers


class Watcher:
    """A reader: what it got, and when."""

    def __init__(self, *, timed: bool = False) -> None:
        self.held = 0
        self.events = 0
        self.ready = asyncio.Event()
        self.timed = timed
        self.at: dict[int, float] = {}
        self.wrong = 0

    def on_line(self, line: bytes) -> None:
        if line.startswith(b"data: {"):
            found = _RANGE.search(line)
            if found is not None:
                start, stop = int(found[1]), int(found[2])
                self.wrong += start != self.held
                self.held = stop
                self.events += 1
                if self.timed:
                    self.at |= dict.fromkeys(range(start + 1, stop + 1), time.perf_counter())
            elif line == b"data: {}":
                self.ready.set()


async def watchers(
    url: str, session: str, count: int, timeout_s: float = 60, *, timed: bool = False
) -> list[Any]:
    """Readers that are caught up; ``timed`` ones note when they got each token."""
    loop = asyncio.get_running_loop()
    found = []
    for _ in range(count):
        watcher = Watcher(timed=timed)
        _, lines = await loop.create_connection(lambda w=watcher: Lines(w.on_line), *address(url))  # type: ignore[misc]
        assert lines.transport is not None
        path = f"/v1/sessions/{session}/events"
        lines.transport.write(f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
        found.append(watcher)
    async with asyncio.timeout(timeout_s):
        for watcher in found:
            await watcher.ready.wait()
    return found


async def paced(
    url: str, reader_url: str, readers: int, rate: float, seconds: float, session: str
) -> Work:
    """One producer at ``rate`` tokens a second, so many readers at another region or the same."""
    connection = await connect(url)
    epoch = await opened(connection, session)
    # The other region must know the message before it is followed there.
    await connection.ask(append(session, epoch, 0, [TOKEN]))
    await asyncio.sleep(1)
    following = await watchers(reader_url, session, readers, timed=True)
    for watcher in following:
        watcher.held = 1

    async def work() -> dict[str, Any]:
        count = int(rate * seconds)
        sent: list[float] = []
        acked: list[float] = []
        began = time.perf_counter()
        for number in range(count):
            await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
            sent.append(time.perf_counter())
            await connection.ask(append(session, epoch, number + 1, [TOKEN]))
            acked.append(time.perf_counter())
        await until_held(following, count + 1)
        from_sent = sorted(
            at - sent[stop - 2] for w in following for stop, at in w.at.items() if stop > 1
        )
        from_acked = sorted(
            at - acked[stop - 2] for w in following for stop, at in w.at.items() if stop > 1
        )
        return {
            "deliveries": sum(w.events for w in following),
            "wrong": sum(w.wrong for w in following),
            **{f"sent_{name}": value for name, value in percentiles(from_sent).items()},
            **{f"acked_{name}": value for name, value in percentiles(from_acked).items()},
        }

    return work


def percentiles(values: list[float]) -> dict[str, float]:
    """p50 and p99 in milliseconds, of sorted seconds."""
    last = len(values) - 1
    return {"p50_ms": values[last // 2] * 1e3, "p99_ms": values[last * 99 // 100] * 1e3}


async def until_held(following: list[Watcher], count: int, timeout_s: float = 120) -> None:
    async with asyncio.timeout(timeout_s):
        while any(watcher.held < count for watcher in following):
            await asyncio.sleep(0.01)


async def saturated(url: str, readers: int, seconds: float) -> Work:
    """One producer as fast as it goes, 32 tokens a line, and so many readers of its session."""
    connection = await connect(url)
    epoch = await opened(connection, "saturated")
    following = await watchers(url, "saturated", readers)
    stream = Stream(url, "saturated", epoch, 32)
    await stream.begin()

    async def work() -> dict[str, Any]:
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            await stream.send()
        await until_held(following, stream.seq)
        return {
            "tokens": stream.seq,
            "deliveries": sum(w.events for w in following),
            "wrong": sum(w.wrong for w in following),
        }

    return work


async def idle(url: str, readers: int) -> Work:
    """Readers of an idle session each, that stay."""

    async def work() -> dict[str, Any]:
        kept = [await watchers(url, f"idle-{number % 100}", 1) for number in range(readers)]
        return {"readers": len(kept)}

    return work


async def long_message(url: str, session: str, tokens: int) -> Work:
    """One finished message of so many tokens."""
    connection = await connect(url)
    epoch = await opened(connection, session)

    async def work() -> dict[str, Any]:
        for seq in range(0, tokens, 1_000):
            batch = [f" w{seq + n}" for n in range(1_000)]
            await connection.ask(append(session, epoch, seq, batch))
        await connection.ask(append(session, epoch, tokens, [], end="complete"))
        return {"tokens": tokens}

    return work


async def resume(url: str, session: str, times: int) -> Work:
    """A reader that comes for the first time, so often, one after the other."""
    loop = asyncio.get_running_loop()

    async def once() -> tuple[float, int, int]:
        done, events = loop.create_future(), 0

        def on_line(line: bytes) -> None:
            nonlocal events
            events += line.startswith(b"data: ")
            if line == b"data: {}" and not done.done():
                done.set_result(None)

        began = time.perf_counter()
        _, lines = await loop.create_connection(lambda: Lines(on_line), *address(url))
        assert lines.transport is not None
        path = f"/v1/sessions/{session}/events"
        lines.transport.write(f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
        await done
        took = time.perf_counter() - began
        lines.transport.close()
        return took, events - 1, lines.bytes

    async def work() -> dict[str, Any]:
        found = [await once() for _ in range(times)]
        walls = sorted(took for took, _, _ in found)
        return {
            "wall_ms": walls[len(walls) // 2] * 1e3,
            "events": found[0][1],
            "bytes": found[0][2],
        }

    return work


async def sessions(url: str, first: int, count: int, in_flight: int) -> Work:
    """So many sessions, each with one short complete message."""
    connections = [await connect(url) for _ in range(in_flight)]
    numbers = iter(range(first, first + count))

    async def fill(connection: Connection) -> None:
        for number in numbers:
            body = {"id": "m", "role": "user", "text": "What is the capital of France?"}
            await connection.ask(request("POST", f"/v1/sessions/i{number:07}/messages", body))

    async def work() -> dict[str, Any]:
        await asyncio.gather(*(fill(connection) for connection in connections))
        return {"sessions": count}

    return work


async def growing(url: str, session: str, lengths: list[int]) -> Work:
    """One message that grows in batches of 20; it stops at each of these lengths and waits."""
    connection = await connect(url)
    epoch = await opened(connection, session)
    state = {"seq": 0}

    async def work() -> dict[str, Any]:
        target = lengths.pop(0)
        while state["seq"] < target:
            size = min(1_000 if len(lengths) % 2 else 20, target - state["seq"])
            await connection.ask(append(session, epoch, state["seq"], [TOKEN] * size))
            state["seq"] += size
        return {"tokens": state["seq"]}

    return work


_MEMBER = re.compile(rb'"member":"j(\d+)"')


async def joins(url: str, reader_urls: list[str], rate: float, seconds: float) -> Work:
    """Members that join one session at ``rate`` a second, and one reader of it in each region; each
    leaves before the next but ten comes, so the session stays small."""
    loop = asyncio.get_running_loop()
    connection = await connect(url)
    seen: list[dict[int, float]] = [{} for _ in reader_urls]

    def watching(times: dict[int, float]) -> Callable[[bytes], None]:
        def on_line(line: bytes) -> None:
            joined = line.partition(b'"updated"')[0]
            for found in _MEMBER.finditer(joined):
                times.setdefault(int(found[1]), time.perf_counter())

        return on_line

    for reader_url, times in zip(reader_urls, seen, strict=True):
        _, lines = await loop.create_connection(
            lambda t=times: Lines(watching(t)),  # type: ignore[misc]
            *address(reader_url),
        )
        assert lines.transport is not None
        lines.transport.write(b"GET /v1/sessions/joins/events HTTP/1.1\r\nhost: localhost\r\n\r\n")
    await asyncio.sleep(1)

    async def work() -> dict[str, Any]:
        count = int(rate * seconds)
        asked: list[float] = []
        began = time.perf_counter()
        for number in range(count):
            await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
            asked.append(time.perf_counter())
            await connection.ask(request("PUT", f"/v1/sessions/joins/presence/j{number}"))
            if number >= 10:
                path = f"/v1/sessions/joins/presence/j{number - 10}"
                await connection.ask(request("DELETE", path))
        await asyncio.sleep(2)
        waits = sorted(times[n] - asked[n] for times in seen for n in range(count) if n in times)
        missing = len(seen) * count - len(waits)
        return {"joins": count, "missing": missing, **percentiles(waits)}

    return work


async def members(url: str, count: int) -> Work:
    """So many members of one session: they come at the first work, and renew at the next."""
    connection = await connect(url)

    async def work() -> dict[str, Any]:
        for number in range(count):
            path = f"/v1/sessions/members/presence/m{number}"
            await connection.ask(request("PUT", path, {"ttl_s": 3600}))
        return {"members": count}

    return work


# Neighbours


async def quiet(url: str, label: str, sessions: int, rate: float, seconds: float, pid: int) -> Work:
    """So many sessions with a producer and a reader each, ``rate`` tokens a second, evenly spread:
    how long it takes until a token is acknowledged, and until its reader has it; and how much CPU
    the region (``pid``) takes between a request and its answer, whoever that was for. What else
    runs on the machine is in the first two, and not in that."""
    names = [f"{label}-{number}" for number in range(sessions)]
    lanes = []
    for name in names:
        connection = await connect(url)
        epoch = await opened(connection, name)
        lanes.append((connection, name, epoch, (await watchers(url, name, 1, timed=True))[0]))
    done = dict.fromkeys(names, 0)
    before: list[float] = []

    async def write(number: int, began: float) -> tuple[list[float], list[float]]:
        connection, name, epoch, watcher = lanes[number]
        first, sent, acked = done[name], [], []
        for count in range(int(rate * seconds)):
            due = began + (count + number / sessions) / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            worked = region_cpu_ns(pid)
            sent.append(time.perf_counter())
            await connection.ask(append(name, epoch, first + count, [TOKEN]))
            acked.append(time.perf_counter() - sent[-1])
            before.append((region_cpu_ns(pid) - worked) / 1e9)
        done[name] += len(sent)
        await until_held([watcher], done[name])
        return acked, [watcher.at[first + n + 1] - at for n, at in enumerate(sent)]

    async def work() -> dict[str, Any]:
        before.clear()
        began = time.perf_counter()
        both = await asyncio.gather(*(write(number, began) for number in range(sessions)))
        acked = sorted(each for found, _ in both for each in found)
        read = sorted(each for _, found in both for each in found)
        return {
            "wrong": sum(watcher.wrong for *_, watcher in lanes),
            **{f"acked_{name}": value for name, value in percentiles(acked).items()},
            **{f"read_{name}": value for name, value in percentiles(read).items()},
            **{f"worked_{name}": value for name, value in percentiles(sorted(before)).items()},
        }

    return work


async def hot(url: str, session: str, readers: int, seconds: float) -> Work:
    """One session with so many readers, and a producer that sends one token a line, as fast as it
    may."""
    connection = await connect(url)
    epoch = await opened(connection, session)
    following = await watchers(url, session, readers)
    stream = Stream(url, session, epoch, 1, 64)
    await stream.begin()

    async def work() -> dict[str, Any]:
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            await stream.send()
        return {"tokens": stream.seq, "deliveries": sum(w.events for w in following)}

    return work


async def busy(url: str, label: str, sessions: int, seconds: float, source: str) -> Work:
    """So many sessions whose producers each send the next token when the last is acknowledged; all
    from one address. Who is refused waits as long as it is told."""
    names = [f"{label}-{number}" for number in range(sessions)]
    connections = [await connect(url, source) for _ in names]
    epochs = [await opened(c, name) for c, name in zip(connections, names, strict=True)]
    refused = 0

    async def write(connection: Connection, name: str, epoch: str, until: float) -> int:
        nonlocal refused
        seq = 0
        while time.perf_counter() < until:
            answer = await connection.ask(append(name, epoch, seq, [TOKEN]), may_refuse=True)
            if answer[9:12] == b"429":
                refused += 1
                found = re.search(rb"retry-after: (\d+)", answer)
                assert found is not None
                await asyncio.sleep(int(found[1]))
            else:
                seq += 1
        return seq

    async def work() -> dict[str, Any]:
        until = time.perf_counter() + seconds
        lanes = zip(connections, names, epochs, strict=True)
        counts = await asyncio.gather(*(write(*lane, until) for lane in lanes))
        return {"tokens": sum(counts), "refused": refused}

    return work


KINDS: dict[str, Callable[..., Awaitable[Work]]] = {
    "appends": appends,
    "paced": paced,
    "saturated": saturated,
    "idle": idle,
    "long_message": long_message,
    "resume": resume,
    "sessions": sessions,
    "growing": growing,
    "joins": joins,
    "members": members,
    "quiet": quiet,
    "hot": hot,
    "busy": busy,
}


async def main(kind: str, parameters: dict[str, Any]) -> None:
    loop = asyncio.get_running_loop()
    work = await KINDS[kind](**parameters)
    print("ready", flush=True)
    while (await loop.run_in_executor(None, sys.stdin.readline)).strip() == "go":
        began, cpu = time.perf_counter(), cpu_ns()
        result = await work()
        result |= {"wall_s": time.perf_counter() - began, "load_ns": cpu_ns() - cpu}
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], json.loads(sys.argv[2])))
