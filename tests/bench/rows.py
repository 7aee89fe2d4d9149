"""What is measured, row by row."""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx2
from perdure.regions.cluster import Cluster, RegionProcess

from tests.bench.accounting import ROOT, Usage, cpu_ns, memory_bytes

SATURATED_SHARE = 0.95
READY_S_MAX = 600
STEP_S_MAX = 1_800


@dataclass
class Row:
    """One line of the table: what it costs, what was aimed at."""

    name: str
    figures: dict[str, Any]
    aim: str = ""
    met: bool | None = None
    saturated: list[str] = field(default_factory=list)


class Load:
    """A load client that is under way."""

    def __init__(self, bench: "Bench", process: asyncio.subprocess.Process) -> None:
        self._bench = bench
        self._process = process

    async def line(self) -> str:
        assert self._process.stdout is not None
        async with asyncio.timeout(STEP_S_MAX):
            line = (await self._process.stdout.readline()).decode().strip()
        if not line:
            raise RuntimeError("the load client has died; what it said is above")
        return line

    async def go(self, *, quiet: bool = True) -> tuple[dict[str, Any], Usage]:
        """One stretch of work, until the peers have it too; its result and what it cost."""
        assert self._process.stdin is not None
        before = self._bench.cpu()
        self._process.stdin.write(b"go\n")
        result: dict[str, Any] = json.loads(await self.line())
        if quiet:
            await self._bench.quiet()
        regions = (now - then for now, then in zip(self._bench.cpu(), before, strict=True))
        return result, Usage(*regions, result["load_ns"], result["wall_s"])


class Bench:
    """Three regions, and what is asked of them. ``scale`` shortens everything, for a quick look."""

    def __init__(self, cluster: Cluster, *, quick: bool) -> None:
        self.cluster = cluster
        self.quick = quick
        self.seconds = 0.3 if quick else 5.0
        self.made = 0

    @property
    def eu(self) -> RegionProcess:
        return self.cluster.regions["eu"]

    @property
    def us(self) -> RegionProcess:
        return self.cluster.regions["us"]

    def pid(self, name: str) -> int:
        process = self.cluster.regions[name].process
        assert process is not None
        if process.returncode is not None:
            raise RuntimeError(f"region {name} has died")
        return process.pid

    def cpu(self) -> tuple[int, int, int]:
        """CPU so far: of the accepting region, and of each of its peers, where it has any."""
        eu, us, ap = (
            cpu_ns(self.pid(name)) if name in self.cluster.regions else 0
            for name in ("eu", "us", "ap")
        )
        return eu, us, ap

    async def ask(self, region: RegionProcess, path: str) -> Any:
        async with httpx2.AsyncClient(trust_env=False, timeout=60) as http:
            return (await http.get(region.url + path)).json()

    async def quiet(self) -> None:
        """Until every region has everything."""
        for region in self.cluster.regions.values():
            while any(p["behind"] for p in (await self.ask(region, "/v1/regions"))["peers"]):
                await asyncio.sleep(0.02)

    async def counter(self, name: str) -> int:
        value: int = (await self.ask(self.eu, "/v1/regions"))["counters"][name]
        return value

    async def restart(self, *, kill: bool = False) -> float:
        """The accepting region as a new process; seconds from its start to ready. The old one stops
        cleanly, or is killed."""
        process = self.eu.process
        assert process is not None
        process.kill() if kill else process.terminate()
        await process.wait()
        began = asyncio.get_running_loop().time()
        await self.cluster.start("eu")
        await self.cluster.ready("eu")
        return asyncio.get_running_loop().time() - began

    async def at_rest(self) -> None:
        """Until nothing is in memory that need not be."""
        for _ in range(READY_S_MAX):
            if not await self.counter("in_memory"):
                return
            await asyncio.sleep(1)
        raise RuntimeError("sessions stay in memory")

    @contextlib.asynccontextmanager
    async def load(self, kind: str, **parameters: Any) -> AsyncIterator[Load]:
        """A load client, prepared."""
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.bench.load", kind, json.dumps(parameters)),
            stdin=pipe,
            stdout=pipe,
            cwd=ROOT,
        )
        load = Load(self, process)
        try:
            assert await load.line() == "ready"
            yield load
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


def marks(usage: Usage) -> list[str]:
    """Which side had no CPU left."""
    peer = max(usage.us_ns, usage.ap_ns)
    shares = (("server", usage.server_ns), ("a peer", peer), ("load", usage.load_ns))
    return [name for name, ns in shares if usage.share(ns) >= SATURATED_SHARE]


def costs(usage: Usage, count: int, unit: str) -> dict[str, Any]:
    """Microseconds of CPU for each of so many."""
    return {
        f"server_us_per_{unit}": usage.server_ns / 1e3 / count,
        f"peers_us_per_{unit}": usage.peers_ns / 1e3 / count,
        f"load_us_per_{unit}": usage.load_ns / 1e3 / count,
    }


async def append_rows(bench: Bench) -> AsyncIterator[Row]:
    """Durable here, in the CRDT, and on both peers' disks."""
    aims = {("post", 1): 60.0, ("stream", 1): 15.0}
    kinds = (("post", 1), ("post", 20), ("stream", 1), ("stream", 20), ("streams", 1))
    for mode, batch in kinds:
        for in_flight in (1, 32) if bench.quick else (1, 32, 64):
            name = f"{mode}{batch}" if batch > 1 else mode
            async with bench.load(
                "appends",
                url=bench.eu.url,
                mode=mode,
                label=f"{name}-{in_flight}",
                in_flight=in_flight,
                seconds=bench.seconds,
                batch=batch,
            ) as load:
                result, usage = await load.go()
            figures = {
                "tokens_per_s": result["tokens"] / usage.wall_s,
                **costs(usage, result["tokens"], "token"),
            }
            if batch > 1:
                figures["server_us_per_request"] = usage.server_ns / 1e3 / result["requests"]
            aim = aims.get((mode, batch)) if in_flight == 32 else None
            met = None if aim is None else figures["server_us_per_token"] <= aim
            text = "" if aim is None else f"≤ {aim:.0f} µs a token"
            yield Row(f"append-{name}-{in_flight}-in-flight", figures, text, met, marks(usage))


async def latency_rows(bench: Bench) -> AsyncIterator[Row]:
    """From just before a token is sent until a reader has it, over all tokens and all readers, at
    20 tokens a second. ``us_per_delivery``: CPU of the region that the readers are at."""
    here: dict[int, float] = {}
    for place, region in (("same-region", bench.eu), ("other-region", bench.us)):
        for readers in (1, 50) if bench.quick else (1, 200, 1_000):
            async with bench.load(
                "paced",
                url=bench.eu.url,
                reader_url=region.url,
                readers=readers,
                rate=20,
                seconds=bench.seconds * 2,
                session=f"paced-{place}-{readers}",
            ) as load:
                result, usage = await load.go()
            serving = usage.server_ns if region is bench.eu else usage.us_ns
            figures = {n: v for n, v in result.items() if n.endswith("_ms")}
            figures["us_per_delivery"] = serving / 1e3 / result["deliveries"]
            figures["wrong"] = result["wrong"]
            row = Row(f"latency-{place}-{readers}-readers", figures, saturated=marks(usage))
            if region is bench.eu:
                here[readers] = figures["sent_p99_ms"]
                if readers == 1:
                    row.aim, row.met = "p99 ≤ 9 ms", figures["sent_p99_ms"] <= 9
                else:
                    row.aim, row.met = "≤ 20 µs a delivery", figures["us_per_delivery"] <= 20
            elif readers == 1:
                figures["later_p50_ms"] = figures["acked_p50_ms"]
                later = figures["sent_p99_ms"] - here[readers]
                figures["later_p99_ms"] = later
                row.aim, row.met = "p99 ≤ 5 ms later", later <= 5
            yield row


async def fanout_rows(bench: Bench) -> AsyncIterator[Row]:
    """As fast as one producer goes."""
    readers = 50 if bench.quick else 1_000
    async with bench.load(
        "saturated", url=bench.eu.url, readers=readers, seconds=bench.seconds
    ) as load:
        result, usage = await load.go()
    figures = {
        "tokens_per_s": result["tokens"] / usage.wall_s,
        "deliveries_per_s": result["deliveries"] / usage.wall_s,
        "tokens_per_event": result["tokens"] * readers / result["deliveries"],
        "us_per_delivery": usage.server_ns / 1e3 / result["deliveries"],
        "ns_per_token_and_reader": usage.server_ns / (result["tokens"] * readers),
        "wrong": result["wrong"],
    }
    row = Row(f"fanout-saturated-{readers}-readers", figures, saturated=marks(usage))
    row.aim, row.met = "coalesced, nothing wrong", figures["wrong"] == 0
    yield row


async def resume_rows(bench: Bench) -> AsyncIterator[Row]:
    """A reader that comes for the first time to one long message."""
    tokens = 5_000 if bench.quick else 100_000
    async with bench.load(
        "long_message", url=bench.eu.url, session="long", tokens=tokens
    ) as writing:
        await writing.go()
    async with bench.load("resume", url=bench.eu.url, session="long", times=5) as load:
        result, usage = await load.go()
    figures = {
        "wall_ms": result["wall_ms"],
        "server_ms": usage.server_ns / 1e6 / 5,
        "events": result["events"],
        "bytes": result["bytes"],
    }
    met = figures["wall_ms"] <= 100 and figures["events"] == 1
    yield Row(f"resume-{tokens}-tokens", figures, "≤ 100 ms in one event", met)


async def memory_rows(bench: Bench) -> AsyncIterator[Row]:
    """Private memory of the accepting region, as it grows: of a new process, for one that has
    worked fills what it was given before."""
    await bench.restart()
    readers = 50 if bench.quick else 1_000
    async with bench.load("idle", url=bench.eu.url, readers=readers) as load:
        await asyncio.sleep(1)
        before = memory_bytes(bench.pid("eu"))
        await load.go(quiet=False)
        each = (memory_bytes(bench.pid("eu")) - before) / readers / 1024
        yield Row("memory-idle-reader", {"kib": each}, "≤ 40 KiB", each <= 40)
    count = 5 if bench.quick else 40
    weighing = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bench.weigh", str(count)),
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    out, _ = await weighing.communicate()
    if weighing.returncode != 0:
        raise RuntimeError("the sessions could not be weighed; what was said is above")
    weights = json.loads(out)
    yield Row("memory-live-session", {"kib": weights["live"]})
    yield Row("memory-finished-session-just-written", {"kib": weights["finished"]})
    rest = weights["at_rest"]
    yield Row("memory-finished-session-at-rest", {"kib": rest}, "≤ 64 KiB", rest <= 64)


async def sessions_rows(bench: Bench) -> AsyncIterator[Row]:
    """What it costs to have many sessions: a token, memory, a start."""
    await bench.at_rest()
    await bench.restart()
    costs_of: list[float] = []
    base = memory_bytes(bench.pid("eu"))
    for count in (10, 50, 100) if bench.quick else (10, 1_000, 100_000):
        async with bench.load(
            "sessions", url=bench.eu.url, first=bench.made, count=count - bench.made, in_flight=64
        ) as load:
            await load.go()
        bench.made = count
        await bench.at_rest()
        async with bench.load(
            "appends",
            url=bench.eu.url,
            mode="post",
            label=f"many{count}",
            in_flight=32,
            seconds=bench.seconds,
            batch=20,
        ) as load:
            result, usage = await load.go()
        cost = usage.server_ns / 1e3 / result["tokens"]
        costs_of.append(cost)
        row = Row(f"token-at-{count}-sessions", {"server_us_per_token": cost})
        row.saturated = marks(usage)
        if count >= 100:
            row.figures["ratio"] = costs_of[-1] / costs_of[0]
            row.aim, row.met = "flat", row.figures["ratio"] <= 1.25
        yield row
    await bench.at_rest()
    grown = (memory_bytes(bench.pid("eu")) - base) / 1024 / 1024
    figures = {"mib": grown, "bytes_per_session": grown * 1024 * 1024 / bench.made}
    yield Row(f"memory-{bench.made}-idle-sessions", figures, "none worth naming", grown < 100)
    for kill in (False, True):
        took = await bench.restart(kill=kill)
        figures = {"ready_s": took, "mib": memory_bytes(bench.pid("eu")) / 1024 / 1024}
        figures["cpu_ms"] = cpu_ns(bench.pid("eu")) / 1e6
        yield Row(f"start-with-{bench.made}-sessions{'-after-a-kill' if kill else ''}", figures)


async def length_rows(bench: Bench) -> AsyncIterator[Row]:
    """Batches of 20, the last 1,000 tokens before each length."""
    lengths = (1_000, 2_000, 4_000) if bench.quick else (1_000, 10_000, 100_000)
    last = 400 if bench.quick else 1_000
    stops = [stop for length in lengths for stop in (length - last, length)]
    costs_of: list[float] = []
    async with bench.load("growing", url=bench.eu.url, session="growing", lengths=stops) as load:
        for length in lengths:
            await load.go()
            _, usage = await load.go()
            costs_of.append(usage.server_ns / 1e3 / last)
            row = Row(f"token-at-length-{length}", {"server_us_per_token": costs_of[-1]})
            if len(costs_of) > 1:
                row.figures["ratio"] = costs_of[-1] / costs_of[0]
                row.aim, row.met = "flat", row.figures["ratio"] <= 1.25
            yield row


async def presence_rows(bench: Bench) -> AsyncIterator[Row]:
    """From just before a member joins until a reader in each of the regions is told; and what it
    costs that many stay."""
    urls = [region.url for region in bench.cluster.regions.values()]
    async with bench.load(
        "joins", url=bench.eu.url, reader_urls=urls, rate=20, seconds=bench.seconds * 2
    ) as load:
        result, _ = await load.go()
    figures = {name: result[name] for name in ("p50_ms", "p99_ms", "missing")}
    met = result["p99_ms"] <= 300 and not result["missing"]
    yield Row("presence-join-seen-in-every-region", figures, "p99 ≤ 300 ms, none missing", met)
    count = 100 if bench.quick else 5_000
    async with bench.load("members", url=bench.eu.url, count=count) as load:
        _, usage = await load.go()
        yield Row(f"presence-{count}-members-come", costs(usage, count, "member"))
        sent = await bench.counter("presence_sent")
        _, usage = await load.go()
        figures = costs(usage, count, "renewal")
        figures["frames_to_peers"] = await bench.counter("presence_sent") - sent
        row = Row(f"presence-{count}-members-stay", figures, "no traffic between regions")
        row.met = not figures["frames_to_peers"]
        yield row


GROUPS: dict[str, Callable[[Bench], AsyncIterator[Row]]] = {
    "append": append_rows,
    "latency": latency_rows,
    "fanout": fanout_rows,
    "resume": resume_rows,
    "presence": presence_rows,
    "length": length_rows,
    "memory": memory_rows,
    "sessions": sessions_rows,
}
Say = Callable[[Row], Awaitable[None]]
