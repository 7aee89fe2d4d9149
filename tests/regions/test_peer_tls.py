"""Links with certificates: whose get through, whose do not, and what becomes of replaced ones."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvloop
from aiohttp import web
from cryptography.x509.oid import ExtendedKeyUsageOID
from perdure.regions import transport_wire
from perdure.regions.config import PeerFiles
from perdure.regions.node import Node
from perdure.regions.transport_dialing import RENEWAL_SHARE, Socket
from perdure.regions.transport_wire import HANDSHAKE_S_MAX, IDLE_S_MAX, PATH
from perdure.replication.admission import Draft
from perdure.replication.frames import Channel, Kind
from perdure.replication.handshake import Identity, answer, challenge, establish
from perdure.replication.limits import CERTIFICATES_LOOK_S, PEER_LINK_S_MAX
from perdure.replication.records import Origin

from tests.regions.authority import Authority, put
from tests.regions.linked import SECRET, Linked, LoopTime, dialer, ended, linked, turns

PAIR = {"eu": ["us"], "us": ["eu"]}
MESH = {"eu": ["us", "ap"], "us": ["eu", "ap"], "ap": ["eu", "us"]}


async def send(node: Node, id_: str = "m") -> None:
    await node.send("s", Draft("user", id=id_, text="hello"))


def certify(regions: Linked, tmp_path: Path, authority: Authority) -> None:
    for name in regions.links:
        regions.files[name] = authority.issue(tmp_path / "tls" / name, f"{name}.perdure")


def context(files: PeerFiles | None) -> ssl.SSLContext:
    """Of a dialer that believes everybody, with a certificate or without."""
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    found.check_hostname, found.verify_mode = False, ssl.CERT_NONE
    if files is not None:
        found.load_cert_chain(files.cert, files.key)
    return found


async def flow(tmp_path: Path) -> dict[str, Any]:
    """Three regions with certificates have what one of them accepts; how its links are."""
    async with linked(tmp_path, MESH, start=False) as regions:
        certify(regions, tmp_path, Authority())
        for name in MESH:
            await regions.start(name)
        await send(regions.nodes["eu"])
        await regions.until(regions.same)
        await regions.until(lambda: regions.counters("eu")["links_opened"] == 2)
        assert regions.state("us", "eu") == "up"
        link = regions.peers["eu"]._acceptor._links["us"]
        tls = link.transport.get_extra_info("ssl_object")  # type: ignore[union-attr]
        return {"version": tls.version(), "counters": dict(regions.counters("eu"))}


@pytest.mark.failure("S8")
async def test_regions_with_certificates_of_one_authority_talk(tmp_path: Path) -> None:
    """By TLS 1.3, and nothing is refused."""
    found = await flow(tmp_path)
    assert found["version"] == "TLSv1.3"
    assert [name for name in found["counters"] if "refused" in name] == []


def test_they_talk_on_the_loop_that_ships(tmp_path: Path) -> None:
    """It has a TLS of its own."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(flow(tmp_path))["version"] == "TLSv1.3"


# Who does not get in


async def knock(
    tmp_path: Path,
    make: Callable[[Path, Authority], ssl.SSLContext],
    claims: str = "us",
    secret: bytes = SECRET,
) -> dict[str, int]:
    """A dialer who knows the secret comes to ``eu`` with a context; what ``eu`` counts as refused.
    It goes on, also with its real peer."""
    async with linked(tmp_path, MESH, start=False) as regions:
        certify(regions, tmp_path, authority := Authority())
        eu = await regions.start("eu")
        await regions.start("ap")
        url = f"https://127.0.0.1:{regions.ports['eu']}{PATH}"
        me = Identity(Origin(claims, 7), 1_000, "a" * 64)
        async with aiohttp.ClientSession(ws_response_class=Socket) as http:
            try:
                async with http.ws_connect(url, ssl=make(tmp_path / "other", authority)) as socket:
                    channel = Channel("d", secret, [SECRET])
                    opening = channel.decode(await socket.receive_bytes()).payload
                    them, hello = answer(me, opening, "eu", {})
                    await socket.send_bytes(channel.encode(Kind.HELLO, hello))
                    establish(channel, secret, me, them)
                    await ended(socket)
            except (aiohttp.ClientError, OSError):
                # TLS has ended it, sooner or later.
                pass
        await send(eu)
        await regions.until(lambda: regions.same("eu", "ap"))
        assert eu.gossip.peers["us"].heard_ms is None
        return {name: n for name, n in regions.counters("eu").items() if "refused." in name}


def of_nobody(_: Path, __: Authority) -> ssl.SSLContext:
    return context(None)


def of_another_authority(path: Path, _: Authority) -> ssl.SSLContext:
    return context(Authority().issue(path, "us.perdure"))


def expired(path: Path, authority: Authority) -> ssl.SSLContext:
    return context(authority.issue(path, "us.perdure", days=(-3, -1)))


def not_yet_valid(path: Path, authority: Authority) -> ssl.SSLContext:
    return context(authority.issue(path, "us.perdure", days=(1, 3)))


def for_servers_only(path: Path, authority: Authority) -> ssl.SSLContext:
    purposes = (ExtendedKeyUsageOID.SERVER_AUTH,)
    return context(authority.issue(path, "us.perdure", purposes=purposes))


def of_an_older_tls(path: Path, authority: Authority) -> ssl.SSLContext:
    found = context(authority.issue(path, "us.perdure"))
    found.maximum_version = ssl.TLSVersion.TLSv1_2
    return found


@pytest.mark.failure("S8")
@pytest.mark.parametrize(
    "make",
    [of_nobody, of_another_authority, expired, not_yet_valid, for_servers_only, of_an_older_tls],
)
async def test_tls_keeps_out(tmp_path: Path, make: Any) -> None:
    """Who knows the secret, and has no certificate that is good here: counted, and closed before a
    word of ours is said. (aiohttp tries once more by itself.)"""
    assert (await knock(tmp_path, make)).keys() == {"links_refused.certificate"}


@pytest.mark.failure("S8")
@pytest.mark.parametrize("make", [of_nobody, expired])
def test_tls_keeps_out_on_the_loop_that_ships(tmp_path: Path, make: Any) -> None:
    """And counts it there as well."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(knock(tmp_path, make)).keys() == {"links_refused.certificate"}


@pytest.mark.failure("S8")
@pytest.mark.parametrize(
    "names", [["ap.perdure"], ["us"], ["US.perdure"], ["*.perdure"], ["us.perdure.example"], []]
)
async def test_a_certificate_of_another_region_opens_nothing(
    tmp_path: Path, names: list[str]
) -> None:
    """It is good, and its owner knows the secret: a region is who its certificate says."""

    def make(path: Path, authority: Authority) -> ssl.SSLContext:
        return context(authority.issue(path, *names))

    assert await knock(tmp_path, make) == {"links_refused.certificate": 1}


@pytest.mark.failure("S8")
async def test_neither_secret_nor_certificate_is_enough_alone(tmp_path: Path) -> None:
    """A good certificate, and another secret; the secret, and a name that nobody knows."""

    def make(path: Path, authority: Authority) -> ssl.SSLContext:
        return context(authority.issue(path, "us.perdure"))

    assert await knock(tmp_path / "1", make, secret=b"t" * 32) == {"frames_refused.mac": 1}
    unknown = {"links_refused.certificate": 1}
    assert await knock(tmp_path / "2", make, claims="xx") == unknown


@pytest.mark.failure("S8")
async def test_what_is_no_tls_is_counted_once(tmp_path: Path) -> None:
    """Clear text on a port that asks for certificates; and a dialer who says nothing at all is let
    go of when its time is over."""
    async with linked(tmp_path, PAIR, start=False) as regions:
        certify(regions, tmp_path, Authority())
        await regions.start("eu")
        address = ("127.0.0.1", regions.ports["eu"])
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"GET /v1/peer HTTP/1.1\r\nHost: eu\r\n\r\n")
        # An alert of TLS, or nothing.
        assert b"HTTP" not in await reader.read()
        writer.close()
        assert regions.counters("eu")["links_refused.certificate"] == 1
        time = LoopTime()
        reader, writer = await asyncio.open_connection(*address)
        reading = asyncio.create_task(reader.read())
        await turns()
        assert not reading.done()
        time.shift_s += HANDSHAKE_S_MAX + 0.1
        async with asyncio.timeout(HANDSHAKE_S_MAX):
            assert await reading == b""
        writer.close()


# Whom this region does not dial


@pytest.mark.failure("S8")
@pytest.mark.parametrize("kind", ["another name", "another authority", "expired"])
async def test_an_acceptor_of_another_certificate_is_left(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The dialer looks as well: who took over a peer's address is told nothing. The log says what
    is wrong."""
    async with linked(tmp_path, PAIR, start=False) as regions:
        certify(regions, tmp_path, authority := Authority())
        path = tmp_path / "other"
        if kind == "another name":
            other = authority.issue(path, "ap.perdure", "us")
        elif kind == "expired":
            other = authority.issue(path, "us.perdure", days=(-3, -1))
        else:
            other = Authority().issue(path, "us.perdure", ca=authority.pem)
        # It is not dialled again while it closes: see ``answering`` of test_strange_peers.
        regions.share = 1.0
        async with impostor(regions.ports["us"], other) as heard:
            eu = await regions.start("eu")
            await send(eu)
            refused = "links_refused.certificate"
            await regions.until(lambda: regions.counters("eu")[refused] >= 2)
        assert heard == []
        assert regions.counters("eu")["links_opened"] == 0
        wrong = {"another name": "names ap, not us", "expired": "has expired"}.get(
            kind, "certificate: "
        )
        assert "link with us: 'certificate: " in caplog.text and wrong in caplog.text
        await regions.start("us")
        await regions.until(regions.same)


@contextlib.asynccontextmanager
async def impostor(port: int, files: PeerFiles) -> AsyncIterator[list[Any]]:
    """An acceptor that takes every link and knows the secret; the messages that it was sent."""
    heard: list[Any] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(timeout=0.01)
        await socket.prepare(request)
        me = Identity(Origin("us", 7), 1_000, "a" * 64)
        await socket.send_bytes(Channel("a", SECRET).encode(Kind.CHALLENGE, challenge(me)))
        async for message in socket:
            heard.append(message.data)
        return socket

    app = web.Application()
    app.router.add_get(PATH, handle)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(files.cert, files.key)
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls).start()
    try:
        yield heard
    finally:
        await runner.cleanup()


# Certificates that are replaced


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_new_certificates_are_used_without_a_restart(tmp_path: Path, loop: Any) -> None:
    """The authority is replaced as well, in three steps: both are believed, certificates are of the
    new, the old is believed no more. Links that were open stay; new ones are of what is new."""
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(replace_everything(tmp_path))


async def replace_everything(tmp_path: Path) -> None:
    async with linked(tmp_path, PAIR, start=False) as regions:
        old, new = Authority(), Authority()
        certify(regions, tmp_path, old)
        for name in PAIR:
            await regions.start(name)
        await regions.until(lambda: opened(regions) == [1, 1])
        for authority, ca in ((old, old.pem + new.pem), (new, old.pem + new.pem), (new, new.pem)):
            for name in PAIR:
                authority.issue(tmp_path / "tls" / name, f"{name}.perdure", ca=ca)
            before = opened(regions)
            regions.clock.shift_ms += CERTIFICATES_LOOK_S * 1000
            assert opened(regions) == before
            cut(regions, "eu", "us")
            await regions.until(lambda before=before: opened(regions) == [n + 1 for n in before])
        await send(regions.nodes["eu"])
        await regions.until(regions.same)
        # What is of the old authority, and was good at the start, opens nothing any more.
        files = old.issue(tmp_path / "late", "us.perdure")
        url = f"https://127.0.0.1:{regions.ports['eu']}{PATH}"
        async with aiohttp.ClientSession() as http:
            # By TLS 1.3 the dialer hears of it when it has said what it wants.
            with pytest.raises((aiohttp.ClientError, OSError)):
                await http.ws_connect(url, ssl=context(files))
        assert regions.counters("eu")["links_refused.certificate"] >= 1
        assert regions.counters("us")["links_refused"] == 0


def opened(regions: Linked) -> list[int]:
    return [regions.counters(name)["links_opened"] for name in ("eu", "us")]


def cut(regions: Linked, *names: str) -> None:
    """End the links that these have accepted."""
    for name in names:
        for link in regions.peers[name]._acceptor._links.values():
            assert link.transport is not None
            link.transport.abort()


async def test_files_that_do_not_do_change_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A certificate whose key has not come yet: links are made as before, the log says why; they
    are looked at again, also where nothing changes any more."""
    async with linked(tmp_path, PAIR, start=False) as regions:
        certify(regions, tmp_path, authority := Authority())
        for name in PAIR:
            await regions.start(name)
        await regions.until(lambda: opened(regions) == [1, 1])
        key = regions.files["eu"].key
        was = key.read_bytes()
        key.unlink()
        for text in ("cannot read", "is not the key of"):
            regions.clock.shift_ms += CERTIFICATES_LOOK_S * 1000
            before = opened(regions)
            cut(regions, "eu", "us")
            await regions.until(lambda before=before: opened(regions) == [n + 1 for n in before])
            assert text in caplog.text
            put(key, authority.issue(tmp_path / "other", "eu.perdure").key.read_bytes())
        put(key, was)
        regions.clock.shift_ms += CERTIFICATES_LOOK_S * 1000
        cut(regions, "eu", "us")
        await regions.until(lambda: opened(regions) == [4, 4])
        assert "new in the files" in caplog.text


async def test_a_link_is_opened_anew_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was replaced or has expired since: by the dialer, somewhat before the acceptor would
    end it; and by the acceptor, where the dialer does not. A day is nine seconds here."""
    day_s = 9.0
    assert day_s < IDLE_S_MAX < PEER_LINK_S_MAX == 86_400
    monkeypatch.setattr(transport_wire, "PEER_LINK_S_MAX", day_s)
    async with linked(tmp_path, MESH, start=False) as regions:
        certify(regions, tmp_path, Authority())
        regions.share = 1.0
        time = LoopTime()
        for name in PAIR:
            await regions.start(name)
        await regions.until(lambda: opened(regions) == [1, 1])
        await turns()
        with monkeypatch.context() as stands_still:
            now_s = time.time()
            stands_still.setattr(time, "_time", lambda: now_s)
            time.shift_s = day_s * (1 - RENEWAL_SHARE) / 2
            await turns()
            assert regions.counters("eu")["links_renewed"] == 0
            time.shift_s = day_s * (1 - RENEWAL_SHARE)
            await regions.until(lambda: passed(time) and opened(regions) == [2, 2])
            assert [regions.counters(name)["links_renewed"] for name in PAIR] == [1, 1]
            await send(regions.nodes["eu"])
            await regions.until(lambda: passed(time) and regions.same())
            me = Identity(Origin("ap", 7), 1_000, "a" * 64)
            tls = context(regions.files["ap"])
            async with dialer(regions, me, tls=tls) as (socket, _):
                await socket.receive_bytes()
                await turns()
                time.shift_s += day_s - 0.1
                await turns()
                assert not socket.closed
                time.shift_s += 0.2
                ending = asyncio.create_task(ended(socket))
                await regions.until(ending.done)
                await ending


def passed(time: LoopTime) -> bool:
    """A little time has; always true."""
    time.shift_s += 0.0005
    return True
