"""One region as a process: start, serve until a signal, drain, stop."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

import uvicorn
from perdure.regions import database_checks
from perdure.regions.checkpoint import Limits
from perdure.regions.cipher import Cipher
from perdure.regions.clock import SystemClock, SystemEntropy
from perdure.regions.config import Config, ConfigError
from perdure.regions.expiry import expiry_of
from perdure.regions.guard_headers import GUARDS
from perdure.regions.identity import note_identity
from perdure.regions.life_cycle import FLUSH_S_MAX
from perdure.regions.listening import BACKLOG, CannotListen, listen
from perdure.regions.log_lines import last_words
from perdure.regions.node import Node
from perdure.regions.ops_port import OpsPort
from perdure.regions.peers_file import with_peers
from perdure.regions.ports import Clock, Entropy, StorageFailed
from perdure.regions.storage import SqliteStorage
from perdure.regions.transport import PeerLinks
from perdure.regions.transport_tls import PeerTls
from perdure.replication.limits import (
    BODY_BYTES_MAX,
    HEAD_BYTES_MAX,
    HEAD_READ_S_MAX,
    KEEPALIVE_S,
    OPS_CONNECTIONS_MAX,
)
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

SHUTDOWN_S_MAX = 3
KEEP_ALIVE_S = 30
# Longer than a client may take nothing: a pong waits behind what it has not taken yet.
PONG_S_MAX = 60
# How long what was sent may wait for the other end to take it, before the connection is gone.
UNTAKEN_S_MAX = 30
NAME_REFUSED_S_MAX = 15
# New objects until the collector of cycles looks at them.
GC_OBJECTS = 50_000
EXIT_NAME_IN_USE = 4
EXIT_STORAGE_FAILED = 5
EXIT_GONE = 6

_GONE = "this region was removed for good, so it stops: a new region needs another name"
log = logging.getLogger("perdure")

# The applications of the clients' port, and of the one for scrapers and probes.
MakeApps = Callable[[Node], tuple[Any, Any]]


class Server(uvicorn.Server):
    """uvicorn without its own signal handlers: readers are told before connections close."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to the region."""
        yield


class Connection(HttpToolsProtocol):
    """uvicorn's connection, with a limit on what comes before a request is known: uvicorn would
    wait for ever for the end of a head, and gather whatever comes of it."""

    _head_due: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _in_body = False
    _is_socket = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The first request is awaited."""
        super().connection_made(transport)
        _give_up_untaken(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """Something of a head, or of a body."""
        super().data_received(data)
        if self._is_socket or self._is_answering or self.transport.is_closing():
            return
        if self.timeout_keep_alive_task is None and self._head_due is None:
            # Or the rest of a body that nobody wanted: that has as long.
            self._await_head()
        self._head_bytes += 0 if self._in_body else len(data)
        if self._head_bytes > HEAD_BYTES_MAX:
            self.send_400_response("The head of the request is too large.")

    def on_headers_complete(self) -> None:
        """A request is known; from here on the application has its own limits."""
        self._forget_head()
        self._in_body = True
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """What is no request is refused here, before there is an application."""
        lines = [b"HTTP/1.1 400 Bad Request", b"content-type: text/plain; charset=utf-8"]
        lines += [name + b": " + value for name, value in GUARDS]
        lines += [b"content-length: %d" % len(msg), b"connection: close", b"", msg.encode("ascii")]
        self.transport.write(b"\r\n".join(lines))
        self.transport.close()

    def handle_websocket_upgrade(self) -> None:
        """From here on the connection is another protocol's: no head is awaited any more."""
        self._is_socket = True
        super().handle_websocket_upgrade()

    def on_message_complete(self) -> None:
        """The next thing is a head."""
        self._in_body = False
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        self._forget_head()
        super().connection_lost(exc)

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _await_head(self) -> None:
        self._head_due = self.loop.call_later(HEAD_READ_S_MAX, self.timeout_keep_alive_handler)

    def _forget_head(self) -> None:
        self._head_bytes = 0
        if self._head_due is not None:
            self._head_due.cancel()
            self._head_due = None


def _give_up_untaken(transport: asyncio.Transport) -> None:
    """Have the system end a connection whose other end takes nothing any more. Else one that was
    closed with something left to send would stay for ever, and a phone that sleeps would be here
    for a quarter of an hour."""
    connection = transport.get_extra_info("socket")
    if connection is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
        limit_ms = int(UNTAKEN_S_MAX * 1000)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, limit_ms)


class SocketConnection(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket, let go of some time after its end: what a client that was cut does not
    take would be kept for it for ever. And its refusals of what is no handshake, guarded."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        reject = self.conn.reject

        def guarded_reject(status: Any, text: str) -> Any:
            response = reject(status, text)
            for name, value in GUARDS:
                response.headers[name.decode()] = value.decode()
            return response

        setattr(self.conn, "reject", guarded_reject)  # noqa: B010 - mypy: it is a method

    async def run_asgi(self) -> None:
        """Until the application is done with it."""
        await super().run_asgi()
        self.loop.call_later(self.close_timeout, self.transport.abort)


def build_node(
    config: Config, clock: Clock | None = None, entropy: Entropy | None = None
) -> tuple[Node, PeerLinks]:
    """A region on real disk and network, recovered and not yet started; on the system's clock and
    entropy, unless others are given.

    Raises ``ConfigError``, ``StorageLocked``, ``StorageKeyWrong`` and ``StorageFailed``.
    """
    clock, entropy = clock or SystemClock(), entropy or SystemEntropy()
    for fault in database_checks.strangers(config.data, config.region):
        raise ConfigError(fault)
    tls = None
    if config.peer_files is not None:
        tls = PeerTls(config.peer_files, config.region, clock)
    keys = config.storage_keys
    storage = SqliteStorage(config.data, Cipher(keys, entropy) if keys else None)
    node = Node(
        config.region,
        storage,
        clock,
        entropy,
        secret=config.peer_secret,
        accepted=config.peer_secrets_accepted,
        peers=list(config.peers),
        bootstrap=config.bootstrap,
        limits=Limits(config.evict_idle_s, config.log_bytes_max, config.log_age_s_max),
    )
    counts = config.allowed.counts
    node.state.census.limit(counts.get("tenant-sessions"), counts.get("session-messages"))
    node.expiry = expiry_of(config)
    node.recover()
    try:
        note_identity(config.data, config.region, node.origin.incarnation, version("perdure"))
    except OSError as error:
        storage.close()
        raise StorageFailed(f"cannot use {config.data}: {error.strerror}") from error
    links = PeerLinks(
        node.gossip,
        storage,
        node,
        clock,
        entropy,
        secret=config.peer_secret,
        accepted=config.peer_secrets_accepted,
        # But for those that were removed for good.
        peers={name: config.peers[name] for name in node.gossip.peers},
        bind=(config.peer_host, config.peer_port),
        tls=tls,
    )
    return node, links


async def serve(config: Config, make_apps: MakeApps) -> int:
    """Serve until SIGTERM or SIGINT; the exit code.

    Raises ``ConfigError``, ``StorageLocked``, ``StorageKeyWrong``, ``StorageFailed`` and
    ``CannotListen``.
    """
    node, links = build_node(with_peers(config))
    if node.membership.expelled.is_set():
        await node.stop()
        last_words(_GONE)
        return EXIT_GONE
    # What was loaded stays; what requests leave behind is freed by counting, nearly all of it.
    gc.freeze()
    gc.set_threshold(GC_OBJECTS)
    try:
        listener = listen("port", config.host, config.port)
        ops_port = config.ops_port
        ops_listener = None if ops_port is None else listen("ops port", config.ops_host, ops_port)
        await _start_links(config, links)
    except CannotListen:
        await node.stop()
        raise
    node.start(links)
    app, ops_app = make_apps(node)
    server = make_server(config, app)
    ops = OpsPort(make_ops_server(ops_app), ops_listener)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if config.peers_file is not None or not os.isatty(0):
        # Else the terminal is closed, and that ends the process.
        loop.add_signal_handler(signal.SIGHUP, _read_peers_again, config, node)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    ops.start()
    watching = asyncio.create_task(_watch_name(links, stop))
    stopping = asyncio.create_task(stop.wait())
    failing = asyncio.create_task(node.failed.wait())
    leaving = asyncio.create_task(node.membership.expelled.wait())
    _announce(config, node)
    ends = {serving, stopping, failing, leaving}
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    code = await _shut_down(node, links, server, serving)
    await ops.stop()
    for task in (watching, stopping, failing, leaving):
        task.cancel()
    (refused,) = await asyncio.gather(watching, return_exceptions=True)
    if node.failed.is_set():
        last_words("the disk has failed; this node stops")
        return EXIT_STORAGE_FAILED
    if node.membership.expelled.is_set():
        last_words(_GONE)
        return EXIT_GONE
    return EXIT_NAME_IN_USE if refused is True else code


async def _start_links(config: Config, links: PeerLinks) -> None:
    try:
        await links.start()
    except OSError as error:
        raise CannotListen("peer port", config.peer_host, config.peer_port, error) from error


def make_server(config: Config, app: Any) -> Server:
    """The server of clients."""
    return Server(
        uvicorn.Config(
            app,
            http=Connection,
            host=config.host,
            port=config.port,
            lifespan="off",
            ws=SocketConnection,
            ws_max_size=BODY_BYTES_MAX,
            ws_per_message_deflate=False,
            ws_ping_interval=KEEPALIVE_S,
            ws_ping_timeout=PONG_S_MAX,
            log_config=None,
            ssl_certfile=None if config.tls is None else config.tls[0],
            ssl_keyfile=None if config.tls is None else config.tls[1],
            log_level="warning",
            access_log=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=SHUTDOWN_S_MAX,
        )
    )


def make_ops_server(app: Any) -> Server:
    """The server of the ops port."""
    return Server(
        uvicorn.Config(
            app,
            http=Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            # Of its own: who watches must not be kept out by clients, nor the other way.
            limit_concurrency=OPS_CONNECTIONS_MAX,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=1,
        )
    )


def _announce(config: Config, node: Node) -> None:
    grants = "no grants needed" if config.no_auth else "grants needed"
    ops = "" if config.ops_port is None else f" metrics on {config.ops_host}:{config.ops_port},"
    links = " (mutual TLS)" if config.peer_files else " (clear text)" * config.peer_insecure
    url = f"http{'s' * bool(config.tls)}://{config.host}:{config.port}"
    print(
        f"perdure {config.region}: {url} ({grants}),"
        f" peers on {config.peer_host}:{config.peer_port}{links}, data in {config.data},{ops}"
        f" {len(node.state)} sessions",
        flush=True,
    )


def _read_peers_again(config: Config, node: Node) -> None:
    """SIGHUP: the other regions are those that are configured now; where that is wrong, those that
    were stay."""
    if config.peers_file is None:
        log.warning("there is no --peers-file to read again")
        return
    try:
        peers = with_peers(config).peers
    except ConfigError as error:
        log.error("the peers stay as they are: %s", error)
        return
    node.configure_peers(peers)
    log.warning("the other regions are now: %s", ", ".join(sorted(node.gossip.peers)) or "none")


async def _watch_name(links: PeerLinks, stop: asyncio.Event) -> bool:
    """Stop this node when peers keep saying that another live one has its name."""
    seconds = 0
    while seconds < NAME_REFUSED_S_MAX:
        await asyncio.sleep(1)
        seconds = seconds + 1 if links.refused() else 0
    last_words(f"this node stops: {links.refused()}")
    stop.set()
    return True


async def _shut_down(
    node: Node, links: PeerLinks, server: Server, serving: asyncio.Task[None]
) -> int:
    """Tell readers, flush to peers, close: within ``DRAIN_S_MAX``."""
    await node.drain(FLUSH_S_MAX)
    server.should_exit = True
    result = await asyncio.gather(serving, return_exceptions=True)
    await links.stop()
    await node.stop()
    await asyncio.to_thread(node.tracing.close)
    if isinstance(result[0], Exception):
        last_words(str(result[0]))
        return 1
    return 0
