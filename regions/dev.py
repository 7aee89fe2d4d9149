"""``perdure dev``: three regions on this machine, until Ctrl-C or the terminal is closed."""

import asyncio
import signal
from pathlib import Path

from perdure.regions.cluster import Cluster

FIRST_PORT = 7_101
FIRST_PEER_PORT = 7_201


async def dev(directory: Path) -> int:
    """Run ``eu``, ``us`` and ``ap``; a region that is killed is reported, not restarted."""
    ports = [(FIRST_PORT + number, FIRST_PEER_PORT + number) for number in range(3)]
    stop = stop_signal()
    async with Cluster(directory, ports) as cluster:
        watching = [asyncio.create_task(watch(cluster, name)) for name in cluster.regions]
        for region in cluster.regions.values():
            assert region.process is not None
            print(f"{region.name}  {region.url}  pid {region.process.pid}  log {region.log}")
        print("anybody on this machine may call; data is kept in", directory)
        print("try:  curl -N http://127.0.0.1:7102/v1/sessions/demo/events", flush=True)
        await stop.wait()
        print("stopping", flush=True)
        for task in watching:
            task.cancel()
    return 0


def stop_signal() -> asyncio.Event:
    """Set by Ctrl-C, a termination, and a terminal that is closed."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    return stop


async def watch(cluster: Cluster, name: str) -> None:
    """Report the end of a region's process."""
    process = cluster.regions[name].process
    assert process is not None
    code = await process.wait()
    print(f"{name} has stopped (exit code {code}); the others go on", flush=True)
