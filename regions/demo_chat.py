"""``perdure demo chat``: three regions on this machine, a scripted agent, and a page on which two
browser windows at two regions share a session. Regions can be killed, and started again."""

import asyncio
import contextlib
import os
import sys
import tempfile
import webbrowser
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

from perdure.regions.cluster import (
    NAMES,
    Cluster,
    ClusterError,
    Issuer,
    Mint,
    RegionProcess,
    free_ports,
)
from perdure.regions.demo_agent import AGENT, ScriptedAgent
from perdure.regions.dev import stop_signal, watch

from perdure_client import Client

SESSION = "chat"
# Who the pages that are told of are made out to.
PEOPLE = dict(zip(NAMES, ("Ana", "Ben", "Cem"), strict=True))
_LINE_BYTES_MAX = 256


def page_url(region: RegionProcess) -> str:
    """The page of a region."""
    return f"{region.url}/demo/chat?name={PEOPLE[region.name]}"


@contextlib.asynccontextmanager
async def chat_cluster(
    directory: Path, ports: Sequence[int], mint: Mint
) -> AsyncGenerator[Cluster, None]:
    """Regions that serve the page, on these ports for clients."""
    urls = {name: f"http://127.0.0.1:{port}" for name, port in zip(NAMES, ports, strict=True)}
    options = [f"--demo-page={name}={url}" for name, url in urls.items()]
    options += [f"--cors-origin={url}" for url in urls.values()]
    # Nobody listens on the ports of the clients yet, so some of these may be the same.
    peer_ports = [port for port in free_ports(2 * len(NAMES)) if port not in ports]
    pairs = list(zip(ports, peer_ports[: len(NAMES)], strict=True))
    async with Cluster(directory, pairs, options, Issuer(mint)) as cluster:
        yield cluster


async def chat(mint: Mint, first_port: int, *, opens: bool) -> int:
    """Run the demo until Ctrl-C, or until ``quit`` is typed; what it kept is removed then."""
    stop = stop_signal()
    ports = [first_port + number for number in range(len(NAMES))]
    with tempfile.TemporaryDirectory(prefix="perdure-chat-", ignore_cleanup_errors=True) as kept:
        async with (
            chat_cluster(Path(kept), ports, mint) as cluster,
            Client([region.url for region in cluster.regions.values()], cluster.grant) as client,
        ):
            desk = _Desk(cluster, stop)
            desk.explain()
            working = asyncio.create_task(ScriptedAgent(client, say).work(SESSION))
            stopping = asyncio.create_task(stop.wait())
            if opens:
                for region in list(cluster.regions.values())[:2]:
                    await asyncio.to_thread(webbrowser.open_new, page_url(region))
            try:
                with _typed(desk.heard):
                    await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
                if working.done():
                    say(f"the agent has failed: {working.exception()!r}")
                    return 1
                say("stopping")
            finally:
                for task in (working, stopping, *desk.tasks):
                    task.cancel()
                await asyncio.gather(working, stopping, *desk.tasks, return_exceptions=True)
    return 0


def say(text: str) -> None:
    """Tell who sits at the terminal."""
    print(text, flush=True)


class _Desk:
    """What is told and typed at the terminal. ``tasks``: what is under way."""

    def __init__(self, cluster: Cluster, stop: asyncio.Event) -> None:
        self._cluster = cluster
        self._stop = stop
        self.tasks: set[asyncio.Task[None]] = set()
        for name in cluster.regions:
            self._watch(name)

    def explain(self) -> None:
        """Where the pages are, and what to try."""
        regions = list(self._cluster.regions.values())
        say("Three regions run on this machine. Open two of these pages, in two windows:\n")
        for region in regions:
            assert region.process is not None
            say(f"  {region.name}  {page_url(region)}  pid {region.process.pid}")
        first = regions[0]
        assert first.process is not None
        say(
            f"\nThen ask {AGENT} something in one of them, and try:\n"
            "  · press Stop in the other one\n"
            "  · type into the shared draft in both at once\n"
            '  · ask for a "story", and kill the region that the window reads from:\n'
            f"    type  kill {first.name}  here, or run  kill -9 {first.process.pid}  elsewhere\n"
            f"  · bring it back:  start {first.name}\n"
            "Ctrl-C ends everything, and removes what was said.\n"
        )

    def heard(self, line: str) -> None:
        """A line that was typed."""
        match line.split():
            case []:
                pass
            case ["kill" | "start" as verb, name] if name in self._cluster.regions:
                self._begin(self._kill(name) if verb == "kill" else self._start(name))
            case ["quit" | "exit"]:
                self._stop.set()
            case _:
                say(f"type  kill NAME,  start NAME  ({', '.join(self._cluster.regions)})  or  quit")

    async def _kill(self, name: str) -> None:
        await self._cluster.kill(name)

    async def _start(self, name: str) -> None:
        process = self._cluster.regions[name].process
        if process is not None and process.returncode is None:
            say(f"{name} runs")
            return
        try:
            await self._cluster.start(name)
            await self._cluster.ready(name)
        except ClusterError as error:
            say(str(error))
            return
        process = self._cluster.regions[name].process
        assert process is not None
        say(f"{name} is back, pid {process.pid}")
        self._watch(name)

    def _watch(self, name: str) -> None:
        self._begin(watch(self._cluster, name))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


@contextlib.contextmanager
def _typed(heard: Callable[[str], None]) -> Iterator[None]:
    """Have each line that is typed heard; nothing is typed where there is no terminal or pipe."""
    loop = asyncio.get_running_loop()
    try:
        descriptor = sys.stdin.fileno()
        loop.add_reader(descriptor, lambda: take())
    except (AttributeError, OSError, ValueError):
        yield
        return
    held = b""

    def take() -> None:
        nonlocal held
        try:
            read = os.read(descriptor, _LINE_BYTES_MAX)
        except OSError:
            read = b""
        if not read:
            loop.remove_reader(descriptor)
            return
        *lines, held = (held + read).split(b"\n")
        held = held[-_LINE_BYTES_MAX:]
        for line in lines:
            heard(line.decode(errors="replace"))

    try:
        yield
    finally:
        loop.remove_reader(descriptor)
