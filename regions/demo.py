"""``perdure demo failover``: an answer streams into one region and out of three; one region is
killed in the middle of a word; and the proof that nothing was lost, doubled or reordered.

What is proved is proved from what the readers received, event by event, against the source.
"""

import asyncio
import json
import re
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path

from perdure.regions.cluster import NAMES, Cluster, ClusterError, Issuer, Mint, free_ports
from perdure.regions.demo_screen import Screen

from perdure_client import Client, Event, Writer
from perdure_client.errors import PerdureError

SESSION = "failover"
TOKENS_PER_S = 60.0
TOKENS_PER_S_MAX = 3_000.0
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
    status: str = ""
    appends: int = 0
    lost: int = 0
    duplicated: int = 0
    reordered: int = 0
    replaced: int = 0
    regions: list[str] = field(default_factory=list)
    gap_ms: float = 0.0
    last_ms: float | None = None

    @property
    def is_over(self) -> bool:
        """Whether the reader was told that the answer has ended."""
        return self.status not in ("", "streaming")

    def take(self, event: Event, message: str, now_ms: float) -> None:
        """Judge one event: its place, and its text against the source's."""
        data = event.data
        if event.event in ("message", "snapshot"):
            whole = [data] if event.event == "message" else data["messages"]
            for value in whole:
                if value["id"] == message:
                    self._told_anew(value["length"], value["text"], value["status"])
        elif event.event == "deleted":
            self._told_anew(0, "", "deleted")
        elif data.get("message") != message:
            return
        elif event.event == "append":
            self._arrived(now_ms)
            self._append(data["from"], data["to"], data.get("text", ""))
        elif event.event == "replace":
            self._told_anew(data["to"], data["text"], data["status"])
        elif event.event == "end":
            self.status = data["status"]
        elif event.event == "delete":
            self._told_anew(0, "", "deleted")

    def _append(self, first: int, to: int, text: str) -> None:
        self.lost += max(0, first - self.held)
        self.duplicated += max(0, self.held - first)
        self.reordered += text != self._source_of(first, to)
        self.text += text
        self.held = to

    def _told_anew(self, length: int, text: str, status: str) -> None:
        """The message as a whole: it may be more than was held, never less, and never another."""
        self.replaced += self.held > 0
        self.lost += max(0, self.held - length)
        self.reordered += text != self._source_of(0, length)
        self.held, self.text, self.status = length, text, status

    def _source_of(self, first: int, to: int) -> str | None:
        if not 0 <= first <= to <= len(self.source):
            return None
        return "".join(self.source[first:to])

    def _arrived(self, now_ms: float) -> None:
        self.appends += 1
        if self.last_ms is not None:
            self.gap_ms = max(self.gap_ms, now_ms - self.last_ms)
        self.last_ms = now_ms


@dataclass
class Result:
    """The outcome; ``ok`` only if everything was seen and nothing speaks against it."""

    tokens: int
    lost: int
    duplicated: int
    reordered: int
    replaced: int
    texts_equal: bool
    regions_equal: bool
    killed_at_token: int
    returned_at_token: int
    agent_moves: int
    reader_gap_ms: dict[str, int]
    reader_regions: dict[str, list[str]]
    reader_appends: dict[str, int]
    reader_status: dict[str, str]
    ok: bool = field(init=False)
    faults: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.faults = list(self._faults())
        self.ok = not self.faults

    def _faults(self) -> Iterator[str]:
        """What is wrong, and what was not shown: a run without evidence proves nothing."""
        for name in ("lost", "duplicated", "reordered", "replaced"):
            if count := getattr(self, name):
                yield f"{count} {name}"
        if not self.texts_equal:
            yield "the texts are not equal"
        if not self.regions_equal:
            yield "the regions are not equal"
        if not 0 < self.killed_at_token < self.tokens:
            yield "eu was not killed in the middle of the answer"
        if not self.returned_at_token:
            yield "eu did not come back"
        if self.agent_moves < 1:
            yield "the agent never had to move"
        for name in NAMES:
            if not self.reader_appends.get(name):
                yield f"the reader of {name} saw nothing of it live"
            if self.reader_status.get(name) != "complete":
                yield f"the reader of {name} was not told of the end"
        if len(set(self.reader_regions.get("eu", ()))) < 2:
            yield "the reader of eu never had to move"


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
        self._returned_at = 0
        self._moves = 0

    def _client(self, first: str) -> Client:
        names = [first, *(name for name in NAMES if name != first)]
        return Client([self._cluster.regions[name].url for name in names], self._cluster.grant)

    def _name(self, url: str) -> str:
        regions = self._cluster.regions.values()
        return next(region.name for region in regions if region.url == url)

    async def run(self) -> Result:
        """Stream, kill, go on, come back, check."""
        async with self._client("eu") as client:
            await client.session(SESSION).send("user", "How does a message survive?", id="prompt")
        parts = [self._write(), self._chaos(), *(self._read(name) for name in NAMES)]
        running = [asyncio.create_task(part) for part in parts]
        drawing = asyncio.create_task(self._draw())
        try:
            async with asyncio.timeout(120 + len(self._source) * self._pace_s):
                # What fails ends the run: the others would wait for it.
                await asyncio.wait(running, return_when=asyncio.FIRST_EXCEPTION)
                for part in running:
                    if part.done():
                        part.result()
                self._show()
                return await self._check()
        finally:
            for task in (*running, drawing):
                task.cancel()
            await asyncio.gather(*running, drawing, return_exceptions=True)

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
        self._returned_at = self._screen.written
        self._screen.say(f"eu is back at token {self._returned_at}, on its old disk")

    async def _read(self, name: str) -> None:
        received = self.received[name]
        loop = asyncio.get_running_loop()

        def connected(url: str) -> None:
            received.regions.append(self._name(url))

        async with self._client(name) as client:
            async for event in client.session(SESSION).events(on_region=connected):
                received.take(event, self._message, loop.time() * 1000)
                if received.is_over:
                    return

    async def _draw(self) -> None:
        while True:
            self._show()
            await asyncio.sleep(0.1)

    def _show(self) -> None:
        self._screen.draw(
            {name: (r.regions[-1:], r.held, r.text) for name, r in self.received.items()}
        )

    async def _check(self) -> Result:
        """Judge what was received, and compare the regions."""
        whole = "".join(self._source)
        regions_equal = await self._regions_equal()
        texts = [received.text for received in self.received.values()]
        texts += [await self._held_by(name) for name in NAMES]
        readers = self.received
        return Result(
            tokens=len(self._source),
            lost=sum(r.lost + max(0, len(self._source) - r.held) for r in readers.values()),
            duplicated=sum(r.duplicated for r in readers.values()),
            reordered=sum(r.reordered for r in readers.values()),
            replaced=sum(r.replaced for r in readers.values()),
            texts_equal=all(text == whole for text in texts),
            regions_equal=regions_equal,
            killed_at_token=self._killed_at,
            returned_at_token=self._returned_at,
            agent_moves=self._moves,
            reader_gap_ms={name: round(r.gap_ms) for name, r in readers.items()},
            reader_regions={name: r.regions for name, r in readers.items()},
            reader_appends={name: r.appends for name, r in readers.items()},
            reader_status={name: r.status for name, r in readers.items()},
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
        async with Client([self._cluster.regions[name].url], self._cluster.grant) as client:
            return bool((await client.verify())["equal"])

    async def _held_by(self, name: str) -> str:
        async with Client([self._cluster.regions[name].url], self._cluster.grant) as client:
            snapshot = await client.session(SESSION).snapshot()
        messages = {message["id"]: message["text"] for message in snapshot["messages"]}
        return str(messages.get(self._message, ""))


async def failover(mint: Mint, *, as_json: bool, tokens_per_s: float = TOKENS_PER_S) -> int:
    """Run the demo; 0 only if nothing was lost, doubled or reordered and all are equal.

    A termination or a closed terminal ends it as Ctrl-C does: no process is left behind.
    """
    running = asyncio.current_task()
    assert running is not None
    loop = asyncio.get_running_loop()
    told: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        told.append(number)
        running.cancel()

    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop, number)
    try:
        return await _failover(Issuer(mint), as_json, tokens_per_s)
    except asyncio.CancelledError:
        if not told:
            raise
        return 128 + told[0]


async def _failover(issuer: Issuer, as_json: bool, tokens_per_s: float) -> int:
    screen = Screen(sys.stderr if as_json else sys.stdout)
    ports = free_ports(2 * len(NAMES))
    # Killed regions may leave files while their directory is removed.
    with tempfile.TemporaryDirectory(
        prefix="perdure-demo-", ignore_cleanup_errors=True
    ) as directory:
        pairs = list(zip(ports[::2], ports[1::2], strict=True))
        screen.say("starting three regions: " + ", ".join(NAMES))
        try:
            async with Cluster(Path(directory), pairs, issuer=issuer) as cluster:
                result = await Failover(cluster, tokens_per_s, screen).run()
        except (PerdureError, ClusterError, TimeoutError) as error:
            screen.say(f"the demo did not come to its end: {type(error).__name__} {error}")
            return 1
    if as_json:
        print(json.dumps(asdict(result), ensure_ascii=False))
    else:
        print(_report(result))
    return 0 if result.ok else 1


def _report(result: Result) -> str:
    gaps = ", ".join(f"{name} {ms} ms" for name, ms in result.reader_gap_ms.items())
    ways = ", ".join(f"{name}: {' → '.join(way)}" for name, way in result.reader_regions.items())
    lines = [
        "",
        f"  tokens         {result.tokens}, eu killed at {result.killed_at_token},"
        f" back at {result.returned_at_token}",
        f"  lost           {result.lost}",
        f"  duplicated     {result.duplicated}",
        f"  reordered      {result.reordered}",
        f"  replaced       {result.replaced}",
        f"  texts equal    {'yes' if result.texts_equal else 'NO'} (3 readers, 3 regions, source)",
        f"  regions equal  {'yes' if result.regions_equal else 'NO'} (by digests)",
        f"  longest gap    {gaps}",
        f"  read at        {ways}",
        "",
        "  Nothing was lost, doubled or reordered." if result.ok else "  THIS RUN FAILED:",
        *(f"  - {fault}" for fault in result.faults),
    ]
    return "\n".join(lines)
