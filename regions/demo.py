"""``perdure demo failover``: an answer streams into one region and out of three; one region is
killed in the middle of a word; and the proof that nothing was lost, doubled or reordered.

What is proved is proved from what the readers received, event by event, against the source.
"""

import asyncio
import json
import re
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path

from perdure.regions.cluster import NAMES, Cluster, free_ports
from perdure.regions.demo_screen import Screen

from perdure_client import Client, Event, Writer
from perdure_client.errors import PerdureError

SESSION = "failover"
TOKENS_PER_S = 60.0
KILL_AT = 0.35
RETURN_AT = 0.65
CATCH_UP_S_MAX = 20.0
_PIECE = re.compile(
    r" ?[A-Za-z]{1,5}|[A-Za-z]{1,4}| ?[0-9]{1,3}|\n+| ?[^\sA-Za-z0-9\u0370-\U0010ffff]{1,3}"
    r"| ?[\u0370-\u1fff]{1,3}|[\s\S]",
)


def tokenize(text: str) -> list[str]:
    """Cut a text about as a model's tokenizer does: parts of words with their space, runs of
    punctuation, single characters of other scripts, emoji between their code points."""
    return _PIECE.findall(text)


def answer() -> list[str]:
    """The tokens of the bundled answer."""
    text = files("perdure.regions").joinpath("demo_answer.md").read_text(encoding="utf-8")
    return tokenize(text)


@dataclass
class Received:
    """What one reader was sent of the answer, judged against the source as it came."""

    source: list[str]
    held: int = 0
    text: str = ""
    ended: bool = False
    lost: int = 0
    duplicated: int = 0
    reordered: int = 0
    regions: list[str] = field(default_factory=list)
    gap_ms: float = 0.0
    last_ms: float | None = None

    def take(self, event: Event, message: str, now_ms: float) -> None:
        """Judge one event: its place, and its text against the source's."""
        data = event.data
        if event.event == "append" and data["message"] == message:
            self._arrived(now_ms)
            self.lost += max(0, data["from"] - self.held)
            self.duplicated += max(0, self.held - data["from"])
            if data["text"] != "".join(self.source[data["from"] : data["to"]]):
                self.reordered += 1
            self.text += data["text"]
            self.held = data["to"]
        elif event.event == "end" and data["message"] == message:
            self.ended = True
        elif event.event == "replace" and data["message"] == message:
            self._told_anew(data["to"], data["text"])
        elif event.event in ("message", "snapshot"):
            whole = [data] if event.event == "message" else data["messages"]
            for value in whole:
                if value["id"] == message:
                    self._told_anew(value["length"], value["text"])
                    self.ended = value["status"] != "streaming"

    def _told_anew(self, length: int, text: str) -> None:
        """The message as a whole: it may be more than was held, never less, and never another."""
        self.lost += max(0, self.held - length)
        self.reordered += text != "".join(self.source[:length])
        self.held, self.text = length, text

    def _arrived(self, now_ms: float) -> None:
        if self.last_ms is not None:
            self.gap_ms = max(self.gap_ms, now_ms - self.last_ms)
        self.last_ms = now_ms


@dataclass
class Result:
    """The outcome; ``ok`` only if everything holds."""

    ok: bool
    tokens: int
    lost: int
    duplicated: int
    reordered: int
    texts_equal: bool
    regions_equal: bool
    killed_at_token: int
    agent_moves: int
    reader_gap_ms: dict[str, int]
    reader_regions: dict[str, list[str]]


class Failover:
    """One run of the demo."""

    def __init__(self, cluster: Cluster, tokens_per_s: float, screen: Screen) -> None:
        self._cluster = cluster
        self._pace_s = 1 / tokens_per_s
        self._screen = screen
        self._source = answer()
        self._message = "answer"
        self.received = {name: Received(self._source) for name in NAMES}
        self._killed_at = 0
        self._moves = 0

    def _client(self, first: str) -> Client:
        names = [first, *(name for name in NAMES if name != first)]
        return Client([self._cluster.regions[name].url for name in names])

    def _name(self, url: str) -> str:
        regions = self._cluster.regions.values()
        return next(region.name for region in regions if region.url == url)

    async def run(self) -> Result:
        """Stream, kill, go on, come back, check."""
        async with self._client("eu") as client:
            await client.session(SESSION).send("user", "How does a message survive?", id="prompt")
        readers = [asyncio.create_task(self._read(name)) for name in NAMES]
        drawing = asyncio.create_task(self._draw())
        chaos = asyncio.create_task(self._chaos())
        try:
            async with asyncio.timeout(120 + len(self._source) * self._pace_s):
                await self._write()
                await chaos
                await asyncio.gather(*readers)
                return await self._check()
        finally:
            for task in (*readers, drawing, chaos):
                task.cancel()
            await asyncio.gather(*readers, drawing, chaos, return_exceptions=True)

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        async with self._client("eu") as client:
            async with client.session(SESSION).open("assistant", id=self._message) as writer:
                began = loop.time()
                for number, token in enumerate(self._source):
                    await writer.write(token)
                    self._wrote(number + 1, writer)
                    await asyncio.sleep(max(0.0, began + (number + 1) * self._pace_s - loop.time()))
            self._wrote(len(self._source), writer)

    def _wrote(self, number: int, writer: Writer) -> None:
        self._moves = writer.moves
        self._screen.written = number
        self._screen.writer = self._name(writer.region)
        self._screen.stable = writer.stable_count

    async def _chaos(self) -> None:
        kill_at, return_at = (int(len(self._source) * share) for share in (KILL_AT, RETURN_AT))
        while self.received["eu"].held < kill_at:
            await asyncio.sleep(0.005)
        await self._cluster.kill("eu")
        self._killed_at = self._screen.written
        self._screen.say(f"eu was killed with SIGKILL at token {self._killed_at}")
        while self._screen.written < return_at:
            await asyncio.sleep(0.02)
        await self._cluster.start("eu")
        await self._cluster.ready("eu")
        self._screen.say(f"eu is back at token {self._screen.written}, on its old disk")

    async def _read(self, name: str) -> None:
        received = self.received[name]
        loop = asyncio.get_running_loop()

        def connected(url: str) -> None:
            received.regions.append(self._name(url))

        async with self._client(name) as client:
            async for event in client.session(SESSION).events(on_region=connected):
                received.take(event, self._message, loop.time() * 1000)
                if received.ended:
                    return

    async def _draw(self) -> None:
        while True:
            self._screen.draw(
                {name: (r.regions[-1:], r.held, r.text) for name, r in self.received.items()}
            )
            await asyncio.sleep(0.1)

    async def _check(self) -> Result:
        """Judge what was received, and compare the regions."""
        whole = "".join(self._source)
        regions_equal = await self._regions_equal()
        texts = [received.text for received in self.received.values()]
        texts += [await self._held_by(name) for name in NAMES]
        readers = self.received.values()
        lost = sum(r.lost + max(0, len(self._source) - r.held) for r in readers)
        duplicated = sum(r.duplicated for r in readers)
        reordered = sum(r.reordered for r in readers)
        texts_equal = all(text == whole for text in texts)
        return Result(
            ok=not (lost or duplicated or reordered) and texts_equal and regions_equal,
            tokens=len(self._source),
            lost=lost,
            duplicated=duplicated,
            reordered=reordered,
            texts_equal=texts_equal,
            regions_equal=regions_equal,
            killed_at_token=self._killed_at,
            agent_moves=self._moves,
            reader_gap_ms={name: round(r.gap_ms) for name, r in self.received.items()},
            reader_regions={name: r.regions for name, r in self.received.items()},
        )

    async def _regions_equal(self) -> bool:
        """Whether every region says that all hold the same, within the time for catching up."""
        deadline = asyncio.get_running_loop().time() + CATCH_UP_S_MAX
        while asyncio.get_running_loop().time() < deadline:
            answers = [await self._verified_by(name) for name in NAMES]
            if all(answers):
                return True
            await asyncio.sleep(0.2)
        return False

    async def _verified_by(self, name: str) -> bool:
        async with Client([self._cluster.regions[name].url]) as client:
            return bool((await client.verify())["equal"])

    async def _held_by(self, name: str) -> str:
        async with Client([self._cluster.regions[name].url]) as client:
            snapshot = await client.session(SESSION).snapshot()
        messages = {message["id"]: message["text"] for message in snapshot["messages"]}
        return str(messages.get(self._message, ""))


async def failover(*, as_json: bool, tokens_per_s: float = TOKENS_PER_S) -> int:
    """Run the demo; 0 only if nothing was lost, doubled or reordered and all are equal."""
    screen = Screen(sys.stderr if as_json else sys.stdout)
    ports = free_ports(2 * len(NAMES))
    with tempfile.TemporaryDirectory(prefix="perdure-demo-") as directory:
        pairs = list(zip(ports[::2], ports[1::2], strict=True))
        screen.say("starting three regions: " + ", ".join(NAMES))
        try:
            async with Cluster(Path(directory), pairs) as cluster:
                result = await Failover(cluster, tokens_per_s, screen).run()
        except (PerdureError, TimeoutError) as error:
            screen.say(f"the demo did not come to its end: {type(error).__name__} {error}")
            return 1
    if as_json:
        print(json.dumps(asdict(result), ensure_ascii=False))
    else:
        screen.close(result.tokens)
        print(_report(result))
    return 0 if result.ok else 1


def _report(result: Result) -> str:
    gaps = ", ".join(f"{name} {ms} ms" for name, ms in result.reader_gap_ms.items())
    ways = ", ".join(f"{name}: {' → '.join(way)}" for name, way in result.reader_regions.items())
    lines = [
        "",
        f"  tokens         {result.tokens}, eu killed at {result.killed_at_token}",
        f"  lost           {result.lost}",
        f"  duplicated     {result.duplicated}",
        f"  reordered      {result.reordered}",
        f"  texts equal    {'yes' if result.texts_equal else 'NO'} (3 readers, 3 regions, source)",
        f"  regions equal  {'yes' if result.regions_equal else 'NO'} (by digests)",
        f"  longest gap    {gaps}",
        f"  read at        {ways}",
        "",
        "  Nothing was lost, doubled or reordered." if result.ok else "  THIS RUN FAILED.",
    ]
    return "\n".join(lines)
