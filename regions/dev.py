"""``perdure dev``: three regions on this machine, until Ctrl-C or the terminal is closed."""

import asyncio
import os
import signal
from pathlib import Path

from perdure.regions.clock import SystemEntropy
from perdure.regions.cluster import NAMES, Cluster, Issuer, Mint

FIRST_PORT = 7_101
# The regions hear each other at ports that are so much higher than those of their clients.
PEER_PORTS_ABOVE = 100


async def dev(directory: Path, mint: Mint, first_port: int = FIRST_PORT) -> int:
    """Run ``eu``, ``us`` and ``ap``; a region that is killed is reported, not restarted."""
    issuer = Issuer(mint, _kept_secret(directory))
    clients_ports = [first_port + number for number in range(len(NAMES))]
    ports = [(port, port + PEER_PORTS_ABOVE) for port in clients_ports]
    stop = stop_signal()
    async with Cluster(directory, ports, ["--cors-origin", "loopback"], issuer) as cluster:
        watching = [asyncio.create_task(watch(cluster, name)) for name in cluster.regions]
        for region in cluster.regions.values():
            assert region.process is not None
            print(f"{region.name}  {region.url}  pid {region.process.pid}  log {region.log}")
        environment = _write_environment(directory, cluster.grant or "")
        page = f"{next(iter(cluster.regions.values())).url}/admin"
        print(f"for operators:  {page}   (asks for the grant in {directory / 'grant'})")
        print("data is kept in", directory)
        print(f"in another terminal:  . {environment}   (gives perdure and its clients the grant)")
        events = f"http://127.0.0.1:{clients_ports[1]}/v1/sessions/demo/events"
        print(f"try:  curl -K {directory / 'curl'} -N {events}", flush=True)
        await stop.wait()
        print("stopping", flush=True)
        for task in watching:
            task.cancel()
    return 0


def _kept_secret(directory: Path) -> str:
    """The secret of earlier runs, so that their grants are still good."""
    path = directory / "secret"
    if not path.exists():
        _write_own(path, f"{SystemEntropy().token(256):064x}")
    return path.read_text().strip()


def _write_environment(directory: Path, grant: str) -> Path:
    """What a shell reads to have the grant, for perdure and its Python client; and what curl reads
    when it is told to (``-K``), so that it goes to no other host by itself."""
    _write_own(directory / "grant", grant)
    _write_own(directory / "curl", f'header = "Authorization: Bearer {grant}"\n')
    _write_own(directory / "env", f"export PERDURE_GRANT={grant}\n")
    return directory / "env"


def _write_own(path: Path, text: str) -> None:
    """A file that nobody else may read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


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
