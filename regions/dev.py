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
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    async with Cluster(directory, ports) as cluster:
        watching = [asyncio.create_task(_watch(cluster, name)) for name in cluster.regions]
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


async def _watch(cluster: Cluster, name: str) -> None:
    process = cluster.regions[name].process
    assert process is not None
    code = await process.wait()
    print(f"{name} has stopped (exit code {code}); the others go on", flush=True)
