"""The link that this region dials to one peer: it pushes over it, and asks over it."""

import asyncio
import contextlib
from typing import Any

import aiohttp
from perdure.regions.certificates import regions_of
from perdure.regions.ports import StorageError
from perdure.regions.transport_asking import Questions
from perdure.regions.transport_tls import PeerTls, tls_reason
from perdure.regions.transport_wire import (
    CLOSE_S_MAX,
    HANDSHAKE_S_MAX,
    HEARTBEAT_S,
    IDLE_S_MAX,
    MESSAGE_BYTES_LIMIT,
    PATH,
    Dial,
    PeerSocket,
    Surroundings,
    beat,
    frame_of,
    log,
    take_leave,
    until_one_ends,
)
from perdure.replication.frames import (
    Channel,
    FrameError,
    Kind,
    decode_json,
    decode_piece,
    encode_records,
    fitting,
    vector_from_json,
)
from perdure.replication.gossip import Batch, ReadLog
from perdure.replication.handshake import Identity, LinkRefused, answer, establish, expect
from perdure.replication.peers import DOWN_MS
from perdure.replication.records import Record, Vector

BACKOFF_S_MIN = 0.1
BACKOFF_S_MAX = 5.0
STEADY_S = 10.0
# Dialers open a link anew somewhat before it must end, not all at once.
RENEWAL_SHARE = 0.1


class Socket(aiohttp.ClientWebSocketResponse):
    """A dialled WebSocket that can be let go of: aiohttp forgets the transport when it closes."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        connection = self._response.connection
        self.transport = None if connection is None else connection.transport


def dialing(session: aiohttp.ClientSession, tls: PeerTls | None, peer: str) -> Dial:
    """Dials with aiohttp; the session makes each WebSocket a :class:`Socket`. With ``tls`` it must
    be the peer's by its certificate: raises ``LinkRefused`` for another's."""

    async def dial(url: str) -> Socket:
        try:
            socket = await session.ws_connect(
                url,
                max_msg_size=MESSAGE_BYTES_LIMIT,
                compress=0,
                timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_S_MAX),
                ssl=True if tls is None else tls.dialing(),
            )
        except (aiohttp.ClientError, OSError) as error:
            if (reason := tls_reason(error)) is not None:
                raise LinkRefused("certificate", reason) from error
            raise
        assert isinstance(socket, Socket), "the session makes these"
        if tls is not None:
            names = regions_of(socket.get_extra_info("peercert"))
            if peer not in names:
                await take_leave(socket, socket.transport)
                named = ", ".join(sorted(names)) or "no region"
                raise LinkRefused("certificate", f"it names {named}, not {peer}")
        return socket

    return dial


class Backoff:
    """How long to wait before a link is dialled again: full jitter under a bound that doubles."""

    def __init__(self) -> None:
        self._most_s = BACKOFF_S_MIN

    def after(self, share: float, *, lived_s: float) -> float:
        """Seconds to wait after a link that lived so long; ``share``, of [0, 1), is the jitter."""
        if lived_s > STEADY_S:
            self._most_s = BACKOFF_S_MIN
        wait_s = self._most_s * share
        self._most_s = min(self._most_s * 2, BACKOFF_S_MAX)
        return wait_s


class DialedLink:
    """Dials one peer again and again, for as long as :meth:`run` is not cancelled."""

    def __init__(self, around: Surroundings, name: str, url: str) -> None:
        self.name = name
        self.refused: str | None = None
        # Whether an attempt has led to a link; and when the first began, once one has failed.
        self._was_open = False
        self._failed_from_s: float | None = None
        self.wake = asyncio.Event()
        self._url = url.rstrip("/") + PATH
        self._around = around
        self._gossip = around.gossip
        self.questions = Questions(name, self.wake)
        # Whether the last heartbeat said who is present.
        self._spoke = False

    def is_tried(self) -> bool:
        """Whether it is known if the peer can be reached. One attempt that fails tells nothing: a
        link may flap, and a peer be about to start."""
        if self._was_open or self._failed_from_s is None:
            return self._was_open
        return asyncio.get_running_loop().time() - self._failed_from_s >= DOWN_MS / 1000

    async def run(self, dial: Dial) -> None:
        """Keep a link open; back off with full jitter while that fails."""
        loop = asyncio.get_running_loop()
        backoff = Backoff()
        while True:
            began = loop.time()
            await self._try(dial)
            if self._failed_from_s is None:
                self._failed_from_s = began
            share = self._around.entropy.uniform()
            await asyncio.sleep(backoff.after(share, lived_s=loop.time() - began))

    async def _try(self, dial: Dial) -> None:
        name_in_use = None
        try:
            await self._dial(dial)
        except FrameError as error:
            self._around.refused("frames_refused", error, self.name)
        except LinkRefused as refused:
            self._around.refused("links_refused", refused, self.name)
            name_in_use = str(refused) if refused.code == "name_in_use" else None
            if refused.code == "gone":
                self._around.host.expelled()
        except (aiohttp.ClientError, OSError, TimeoutError, StorageError) as error:
            self._around.counters["links_failed"] += 1
            known = {"peer": self.name}
            log.debug("link to %s: %s", self.name, type(error).__name__, extra=known)
        except Exception as error:
            # A dialer that ended would never be missed: the region would just fall behind.
            self._around.broken(error, self.name)
        finally:
            self.questions.close()
            self._gossip.lost(self.name)
            self._around.host.desk.lost(self.name)
            self._around.host.peers_changed()
        # A peer that is away refuses nobody: only the last attempt counts.
        self.refused = name_in_use

    async def _dial(self, dial: Dial) -> None:
        # The session's own limit ends when the connection is made: a peer, or a proxy before it,
        # that then says nothing would be waited for for ever.
        async with asyncio.timeout(HANDSHAKE_S_MAX):
            socket = await dial(self._url)
        try:
            channel = self._around.channel("d")
            async with asyncio.timeout(HANDSHAKE_S_MAX):
                them, vector = await self._introduce(socket, channel)
            self.refused = None
            self.questions.open(channel.version)
            self._around.counters["links_opened"] += 1
            now_ms = self._around.clock.monotonic_ms()
            self._gossip.connected(self.name, them.origin, vector, now_ms)
            self._around.host.desk.linked(self.name)
            self._around.host.peers_changed()
            self._around.host.linked(self.name)
            self._was_open = True
            share = self._around.entropy.uniform() if self._around.certified else 0.0
            await until_one_ends(
                self._push(socket, channel),
                self._listen(socket, channel),
                *self._around.ageing(1.0 - RENEWAL_SHARE * share),
            )
        finally:
            await take_leave(socket, socket.transport)

    async def _introduce(self, socket: PeerSocket, channel: Channel) -> tuple[Identity, Vector]:
        me = self._around.identity()
        opening = expect(frame_of(channel, await socket.receive()), Kind.CHALLENGE)
        them, hello = answer(me, opening, self.name, self._gossip.vector, self._around.versions)
        await socket.send_bytes(channel.encode(Kind.HELLO, hello))
        establish(channel, self._around.secret, me, them)
        welcome = expect(frame_of(channel, await socket.receive()), Kind.WELCOME)
        return them, vector_from_json(decode_json(welcome).get("vector"))

    async def _push(self, socket: PeerSocket, channel: Channel) -> None:
        """Send what has gathered since the last send; the whole vector every second."""
        loop = asyncio.get_running_loop()
        next_heartbeat = loop.time()
        while True:
            if await self._push_presence(socket, channel) and not self._spoke:
                # Nobody shows who is here through a region of which nothing was heard.
                await self._push_digest(socket, channel)
            if loop.time() >= next_heartbeat:
                next_heartbeat = loop.time() + HEARTBEAT_S
                await self._push_digest(socket, channel)
                below = self._gossip.is_below(self.name)
                payload = beat(self._gossip, below=below)
                await socket.send_bytes(channel.encode(Kind.VECTOR, payload))
            self.wake.clear()
            for question in self.questions.take():
                await socket.send_bytes(channel.encode(*question))
            records = await self._next()
            if records:
                self._gossip.sent(self.name, records)
                payload = encode_records(records)
                await socket.send_bytes(channel.encode(Kind.OPERATIONS, payload))
                self._around.counters["records_sent"] += len(records)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(next_heartbeat):
                    await self.wake.wait()

    async def _push_presence(self, socket: PeerSocket, channel: Channel) -> bool:
        pushed = False
        while (payload := self._around.host.desk.next(self.name)) is not None:
            await socket.send_bytes(channel.encode(Kind.PRESENCE, payload))
            self._around.counters["presence_sent"] += 1
            pushed = True
        while (payload := self._around.host.desk.signals.next(self.name)) is not None:
            await socket.send_bytes(channel.encode(Kind.SIGNAL, payload))
        return pushed

    async def _push_digest(self, socket: PeerSocket, channel: Channel) -> None:
        """The peer has been told everything by now, so what differs is missing there, or here."""
        await self._push_presence(socket, channel)
        digest = self._around.host.desk.digest()
        self._spoke = digest is not None
        if digest is not None:
            await socket.send_bytes(channel.encode(Kind.PRESENCE_DIGEST, digest))

    async def _next(self) -> list[Record]:
        """What to send now. What cannot be sent is set aside, and the next thing is asked for."""
        while True:
            step = self._gossip.next_batch(self.name, self._around.clock.monotonic_ms())
            if step is None:
                return []
            if isinstance(step, Batch):
                found = step.records
            else:
                # The peer may report more meanwhile; it skips what it has.
                self._around.counters["log_reads"] += 1
                found = await self._around.storage.read(*step)
            records = fitting(found)
            if records:
                return records
            if found:
                first = found[0]
                text, known = "%s/%d is too large for a frame to %s", {"peer": self.name}
                log.error(text, first.origin, first.lsn, self.name, extra=known)
                self._around.counters["records_too_large"] += 1
                step = ReadLog(first.origin, first.lsn - 1, 0)
            else:
                self._around.counters["log_reads_empty"] += 1
                assert isinstance(step, ReadLog), "a batch is never empty"
                self._around.host.unreadable(step.origin, step.after_lsn + 1)
            assert isinstance(step, ReadLog), "a batch is never empty"
            self._gossip.unreadable(self.name, step)

    async def _listen(self, socket: PeerSocket, channel: Channel) -> None:
        while True:
            async with asyncio.timeout(IDLE_S_MAX):
                frame = frame_of(channel, await socket.receive())
            if frame.kind is Kind.VECTOR:
                self._around.heard(self.name, frame.payload)
                self.wake.set()
            elif frame.kind in (Kind.DIGESTS, Kind.STATUS):
                self.questions.answered(decode_json(frame.payload))
            elif frame.kind is Kind.SESSIONS:
                await self.questions.take_piece(*decode_piece(frame.payload))
            elif frame.kind is Kind.ASK_PRESENCE:
                self._around.host.desk.asked(self.name, frame.payload)
            else:
                raise FrameError("unexpected", frame.kind.name)
