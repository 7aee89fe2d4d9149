"""One region as a process: what it keeps when it is killed, how it stops, what it refuses."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from perdure.regions.dev import PEER_PORTS_ABOVE, stop_signal
from perdure.regions.main import main

from tests.regions.authority import Authority
from tests.regions.processes import COMMAND, DEADLINE_S, SECRET, Served, perdure, started

STOP_S_MAX = 10
GOOD = {"PERDURE_PEER_SECRET": SECRET, "PERDURE_JWT_SECRET": SECRET}


@pytest.fixture
def eu(tmp_path: Path) -> Served:
    return Served(tmp_path / "eu")


# What is acknowledged is kept


@pytest.mark.failure("P4", "P12")
async def test_a_region_that_is_killed_has_all_that_it_acknowledged(eu: Served) -> None:
    """SIGKILL right after each answer, again and again; then every token is there, each retry is
    known, and each start has another incarnation."""
    incarnations = set()
    for start in range(3):
        async with eu.serve() as running:
            opened = await eu.open()
            assert opened["next"] == start * 10
            for seq in range(start * 10, start * 10 + 10):
                ack = await eu.append(opened["epoch"], seq, f"{seq} ")
                assert ack["accepted"] == seq + 1
            incarnations.add((await eu.ask("GET", "/version"))["incarnation"])
            running.signal(signal.SIGKILL)
            assert (await running.end()).code == -signal.SIGKILL
    async with eu.serve():
        message = await eu.ask("GET", "/v1/sessions/s/messages/m")
        assert message["text"] == "".join(f"{seq} " for seq in range(30))
        again = await eu.append(opened["epoch"], 29, "29 ")
        assert (again["duplicates"], again["next"]) == (1, 30)
    assert len(incarnations) == 3


@pytest.mark.failure("P2")
async def test_writes_under_way_at_the_kill_are_whole_or_not_there(eu: Served) -> None:
    """Killed in the middle of many: what was answered is there; what was not, may be, whole."""
    acknowledged: list[str] = []

    async def write(http: httpx2.AsyncClient, id_: str) -> None:
        body = {"id": id_, "role": "user", "text": id_ * 1_000}
        with contextlib.suppress(httpx2.RequestError):
            answer = await http.post("/v1/sessions/s/messages", json=body)
            if answer.status_code == 201:
                acknowledged.append(id_)

    async with (
        eu.serve() as running,
        httpx2.AsyncClient(base_url=eu.url, trust_env=False, timeout=DEADLINE_S) as http,
    ):
        writes = [asyncio.create_task(write(http, f"m{n}")) for n in range(60)]
        while len(acknowledged) < 20:
            await asyncio.sleep(0)
        running.signal(signal.SIGKILL)
        await asyncio.gather(*writes)
    async with eu.serve():
        page = await eu.ask("GET", "/v1/sessions/s/messages?limit=1000")
        held = {message["id"]: message["text"] for message in page["messages"]}
    assert len(acknowledged) >= 20 and set(acknowledged) <= set(held)
    assert all(text == id_ * 1_000 for id_, text in held.items())


# How it stops


@contextlib.asynccontextmanager
async def streamed(eu: Served, epoch: str) -> AsyncIterator[asyncio.StreamReader]:
    """A long request that appends to ``m`` and stays open; its first acknowledgement is read."""
    reader, writer = await asyncio.open_connection("127.0.0.1", eu.port)
    line = json.dumps({"seq": 0, "tokens": ["streamed"]}).encode() + b"\n"
    writer.write(
        b"POST /v1/sessions/s/messages/m/stream HTTP/1.1\r\nhost: localhost\r\nproducer-id: p\r\n"
        b"producer-epoch: %s\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n"
        % (epoch.encode(), len(line), line)
    )
    assert b" 200 " in await reader.readline()
    while b'"accepted":1' not in await reader.readline():
        pass
    yield reader
    writer.close()


async def followed(http: httpx2.AsyncClient) -> AsyncIterator[str]:
    """The lines that a reader of ``s`` is sent, from ``ready`` on."""
    async with http.stream("GET", "/v1/sessions/s/events") as events:
        lines = events.aiter_lines()
        while await anext(lines) != "event: ready":
            pass
        yield "event: ready"
        async for line in lines:
            yield line


@pytest.mark.failure("P13")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_sends_readers_elsewhere_and_stops(
    eu: Served, number: signal.Signals
) -> None:
    """``reconnect`` is the last that they hear; the process ends with 0 and nothing to say."""
    async with (
        eu.serve() as running,
        httpx2.AsyncClient(base_url=eu.url, trust_env=False, timeout=DEADLINE_S) as http,
        contextlib.aclosing(followed(http)) as lines,
    ):
        assert await anext(lines) == "event: ready"
        running.signal(number)
        async with asyncio.timeout(STOP_S_MAX):
            rest = [line async for line in lines]
            ended = await running.end()
    assert [line for line in rest if line.startswith("event:")] == ["event: reconnect"]
    assert (ended.code, ended.err) == (0, "")


@pytest.mark.failure("P13")
async def test_a_long_request_does_not_keep_a_region_from_stopping(eu: Served) -> None:
    """Its client is in no hurry; it is told that the region drains, the process ends with 0 within
    ten seconds and nothing to complain of, and what was accepted is there at the next start."""
    async with eu.serve() as running:
        epoch = (await eu.open())["epoch"]
        async with streamed(eu, epoch) as stream:
            running.signal(signal.SIGTERM)
            async with asyncio.timeout(STOP_S_MAX):
                assert b'"code": "draining"' in await stream.read()
                ended = await running.end()
                assert (ended.code, ended.err) == (0, "")
    async with eu.serve():
        assert (await eu.ask("GET", "/v1/sessions/s/messages/m"))["text"] == "streamed"


# What it refuses


async def test_a_directory_has_one_process(eu: Served) -> None:
    """The second is told whose it is, and the first does not feel it."""
    async with eu.serve() as running:
        other = Served(eu.data)
        ended = await perdure(*other.arguments(), environment=GOOD)
        assert ended.code == 1
        assert f"{eu.data} is in use by process {running.process.pid};" in ended.err
        assert len(ended.err.splitlines()) == 1
        assert (await eu.ask("PUT", "/v1/sessions/s"))["id"] == "s"


@pytest.mark.parametrize("which", ["port", "peer port"])
async def test_a_port_that_is_taken_is_named(eu: Served, which: str) -> None:
    """In one line, before anything is announced; the directory is free again."""
    port = eu.port if which == "port" else eu.peer_port
    with socket.create_server(("127.0.0.1", port)):
        ended = await perdure(*eu.arguments("--log-format", "text"), environment=GOOD)
    assert ended.code == 1
    said = f"perdure: cannot listen on {which} {port} of 127.0.0.1: Address already in use\n"
    assert (ended.out, ended.err) == ("", said)
    async with eu.serve():
        pass


@pytest.mark.failure("S17")
@pytest.mark.parametrize(
    ("more", "environment", "message"),
    [
        ([], {}, "set PERDURE_JWT_SECRET (32 bytes or more) or give --jwks, or use --dev-no-auth"),
        ([], {"PERDURE_JWT_SECRET": SECRET}, "set PERDURE_PEER_SECRET"),
        ([], GOOD | {"PERDURE_JWT_SECRET": "short"}, "PERDURE_JWT_SECRET must have at least 32"),
        ([], GOOD | {"PERDURE_PEER_SECRET": "short"}, "PERDURE_PEER_SECRET must have at least 32"),
        (["--dev-no-auth", "--host", "0.0.0.0"], GOOD, "loopback only, not on 0.0.0.0"),
        (["--peer-host", "0.0.0.0"], GOOD, "peers would be taken on 0.0.0.0 in clear text"),
        (["--peer", "us=http://10.0.0.2:7201"], GOOD, "would be reached in clear text"),
        (["--peer-cert", "c"], GOOD, "--peer-key and --peer-ca are missing"),
        (
            ["--peer-cert", "/no/c", "--peer-key", "k", "--peer-ca", "a"],
            GOOD,
            "--peer-cert: cannot read /no/c: No such file or directory",
        ),
        (["--peer", "us"], GOOD, "--peer 'us' must be NAME=URL"),
        (["--peer", "eu=http://h"], GOOD, "--peer eu is this region itself"),
        (["--port", "7101", "--peer-port", "7101"], GOOD, "are both 7101"),
        (["--port", "x"], GOOD, "--port x must be a whole number"),
    ],
)
async def test_wrong_settings_start_nothing(
    eu: Served, more: list[str], environment: dict[str, str], message: str
) -> None:
    """Exit code 2, in the operator's words, and the directory is not even made."""
    command = ["serve", "--region", "eu", "--data", eu.data, "--port", eu.port, *more]
    ended = await perdure(*command, environment=environment)
    assert (ended.code, ended.out) == (2, "")
    assert message in ended.err and "Traceback" not in ended.err
    assert not eu.data.exists()


async def test_a_file_that_is_no_database_is_refused(eu: Served) -> None:
    """In one line, with its path."""
    eu.data.mkdir()
    (eu.data / "perdure.sqlite").write_bytes(b"no database" * 500)
    ended = await perdure(*eu.arguments("--log-format", "text"), environment=GOOD)
    assert ended.code == 1
    said = f"perdure: cannot open {eu.data}/perdure.sqlite: file is not a database\n"
    assert ended.err == said


@pytest.mark.failure("C3")
async def test_the_newer_of_two_nodes_with_one_name_stops(tmp_path: Path) -> None:
    """Peers refuse it; when they have done so for a while it drains and says why, with a code of
    its own. The older goes on."""
    us, old, new = (Served(tmp_path / name, name[:2]) for name in ("us", "eu-old", "eu-new"))
    peer_of_us = f"eu=http://127.0.0.1:{old.peer_port}"
    peer_of_eu = f"us=http://127.0.0.1:{us.peer_port}"
    sooner = "import perdure.regions.serving as s; s.NAME_REFUSED_S_MAX = 1"
    async with us.serve("--peer", peer_of_us), old.serve("--peer", peer_of_eu):
        await until_up(us, "eu")
        async with new.serve("--peer", peer_of_eu, code=sooner) as running:
            ended = await running.end()
        assert ended.code == 4
        assert "this node stops: " in ended.err and "eu" in ended.err
        await until_up(us, "eu")
        assert (await old.ask("PUT", "/v1/sessions/s"))["id"] == "s"


@pytest.mark.failure("S8")
async def test_regions_with_certificates_and_two_secrets_serve(tmp_path: Path) -> None:
    """As processes: they say that links are mutual TLS, and come to know each other."""
    authority = Authority()
    eu, us = (Served(tmp_path / name, name) for name in ("eu", "us"))
    flags = {}
    for name, other in ((eu, us), (us, eu)):
        files = authority.issue(tmp_path / "tls" / name.name, f"{name.name}.perdure")
        flags[name.name] = ["--peer", f"{other.name}=https://127.0.0.1:{other.peer_port}"]
        flags[name.name] += ["--peer-cert", files.cert, "--peer-key", files.key]
        flags[name.name] += ["--peer-ca", files.ca]
    several = {"PERDURE_PEER_SECRET": f"{SECRET}\nanother secret, that is long enough as well\n"}
    async with eu.serve(*flags["eu"], environment=several):
        us_command = [*COMMAND, *us.arguments(*flags["us"])]
        async with started(*us_command, environment=GOOD) as running:
            line = await running.line_with(us.url)
            assert f"peers on 127.0.0.1:{us.peer_port} (mutual TLS)" in line
            await until_up(eu, "us")
            await until_up(us, "eu")


async def until_up(region: Served, peer: str) -> None:
    """Until it has heard of the peer."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            known: Any = (await region.ask("GET", "/v1/regions"))["peers"]
            if {p["region"]: p["state"] for p in known}[peer] == "up":
                return


async def test_the_command_explains_itself() -> None:
    """``--version``, and help for ``serve`` with its exit codes and where secrets come from."""
    version = await perdure("--version")
    assert (version.code, version.out.split()[0]) == (0, "perdure")
    told = await perdure("serve", "--help")
    text = " ".join(told.out.split())
    assert told.code == 0
    assert "0 stopped, 1 failed, 2 wrong settings, 4 another live node" in text
    assert "PERDURE_PEER_SECRET" in text and "PERDURE_JWT_SECRET_FILE" in text
    nothing = await perdure()
    assert nothing.code == 2 and "serve" in nothing.out


async def test_commands_that_only_talk_do_not_load_the_server() -> None:
    """They are typed by people, who wait for them."""
    code = "import sys, perdure.regions.main; print(*sys.modules)"
    async with started(sys.executable, "-c", code) as running:
        loaded = (await running.end()).out.split()
    assert "perdure_client" in loaded
    assert {"fastapi", "uvicorn", "aiohttp", "sqlalchemy", "pycrdt"}.isdisjoint(loaded)


DEV = (*COMMAND, "dev", "--port")


@pytest.mark.parametrize("port", [0, -1, 65_434])
def test_dev_names_the_ports_that_it_cannot_have(
    port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of all its regions must be there."""
    assert main(["dev", f"--port={port}"]) == 2
    assert capsys.readouterr().err == f"perdure: --port {port} must be 1 to 65433\n"


async def test_dev_says_which_region_could_not_start(tmp_path: Path) -> None:
    """In that region's own words; those that did start are stopped."""
    port = ports_for_dev()
    with socket.create_server(("127.0.0.1", port + 1)):
        async with started(*DEV, port, "--data", tmp_path) as running:
            ended = await running.end()
    why = f"perdure: cannot listen on port {port + 1} of 127.0.0.1: Address already in use"
    assert (ended.code, ended.out) == (1, "")
    assert ended.err == f"perdure: region us did not start: {why}\n"
    for number in range(3):
        socket.create_server(("127.0.0.1", port + number)).close()


async def test_dev_is_not_taken_in_by_who_holds_its_ports(tmp_path: Path) -> None:
    """Regions of another one are there, and say that they are ready: it did not start."""
    port = ports_for_dev()
    async with started(*DEV, port, "--data", tmp_path / "first") as first:
        await first.line_with("try:")
        async with started(*DEV, port, "--data", tmp_path / "second") as second:
            ended = await second.end()
        assert (ended.code, ended.out) == (1, "")
        assert "did not start: perdure: cannot listen on port" in ended.err
        first.signal(signal.SIGINT)
        assert (await first.end()).code == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_what_ends_dev(number: signal.Signals) -> None:
    """Ctrl-C, a termination, and a terminal that is closed."""
    before = {each: signal.getsignal(each) for each in signal.Signals if each < signal.SIGRTMIN}
    stop = stop_signal()
    try:
        assert not stop.is_set()
        os.kill(os.getpid(), number)
        async with asyncio.timeout(DEADLINE_S):
            await stop.wait()
    finally:
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().remove_signal_handler(each)
            signal.signal(each, before[each])


async def test_dev_runs_three_regions_until_it_is_told(tmp_path: Path) -> None:
    """They know each other; a region that is killed is told of and the others go on; when it ends
    it leaves no process behind."""
    port = ports_for_dev()
    async with started(*DEV, port, "--data", tmp_path / "dev") as running:
        pids = [int((await running.line()).split(" pid ")[1].split()[0]) for _ in range(3)]
        assert f"http://127.0.0.1:{port + 1}/v1/" in await running.line_with("try:")
        os.kill(pids[0], signal.SIGKILL)
        assert "eu has stopped (exit code -9)" in await running.line()
        running.signal(signal.SIGHUP)
        ended = await running.end()
    assert (ended.code, ended.err) == (0, "")
    assert [pid for pid in pids if is_alive(pid)] == []


def ports_for_dev() -> int:
    """The first port of three in a row that nothing listens on, as regions need them."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as first:
            port = int(first.getsockname()[1])
        with contextlib.suppress(OSError, OverflowError), contextlib.ExitStack() as held:
            for number in range(3):
                held.enter_context(socket.create_server(("127.0.0.1", port + number)))
                above = port + PEER_PORTS_ABOVE + number
                held.enter_context(socket.create_server(("127.0.0.1", above)))
            return port


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
