"""The command line against three real regions, as processes, with real pipes and signals."""

import asyncio
import json
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from perdure.regions import commands
from perdure.regions.cluster import Cluster, free_ports
from perdure.regions.main import main

COMMAND_S_MAX = 40


class Ran(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


async def start(*arguments: str) -> Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "perdure.regions.main", *arguments),
        stdin=PIPE, stdout=PIPE, stderr=PIPE,
    )  # fmt: skip


async def end(process: Process, stdin: bytes | None = None) -> Ran:
    async with asyncio.timeout(COMMAND_S_MAX):
        out, err = await process.communicate(stdin)
    assert process.returncode is not None
    assert b"Traceback" not in err, err.decode()
    return Ran(process.returncode, out.decode(), err.decode())


async def run(*arguments: str, stdin: bytes | None = None) -> Ran:
    return await end(await start(*arguments), stdin)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    ports = free_ports(6)
    async with Cluster(tmp_path, list(zip(ports[::2], ports[1::2], strict=True))) as cluster:
        yield cluster


def at(cluster: Cluster, *names: str) -> list[str]:
    return [part for name in names for part in ("--url", cluster.regions[name].url)]


async def test_publish_tail_list_and_verify(cluster: Cluster) -> None:
    """Text from standard input arrives byte for byte, also where a character is cut between two
    reads; it is followed at another region, listed, and the same everywhere."""
    tailing = await start("tail", "s", "--until-end", *at(cluster, "us"))
    publishing = await start("publish", "s", "--id", "m", "--json", *at(cluster, "eu"))
    assert publishing.stdin is not None
    for piece in ("Hel", "lo "):
        publishing.stdin.write(piece.encode())
        await publishing.stdin.drain()
    whole = "漢\r\n🙂".encode()
    publishing.stdin.write(whole[:1])
    await publishing.stdin.drain()
    published = await end(publishing, whole[1:])
    assert published.code == 0
    assert published.json["message"] == "m" and published.json["stable"] >= 1
    followed = await end(tailing)
    assert followed.code == 0
    assert "assistant m: Hello 漢\r\n🙂" in followed.out.replace("… m: ", "")
    assert "[m complete" in followed.out
    listed = await run("sessions", "--json", *at(cluster, "ap"))
    assert [(s["id"], s["messages"]) for s in listed.json["sessions"]] == [("s", 1)]
    assert "s  " in (await run("sessions", *at(cluster, "ap"))).out
    for verify in (["verify"], ["verify", "s"]):
        verified = await run(*verify, "--json", *at(cluster, "eu"))
        assert (verified.code, verified.json["equal"]) == (0, True)
    assert "equal: 1 session(s)\n" in (await run("verify", *at(cluster, "eu"))).out
    regions = await run("regions", *at(cluster, "eu"))
    assert regions.code == 0 and "us           up" in regions.out


async def test_what_goes_wrong_is_said_and_has_its_code(cluster: Cluster) -> None:
    """In the caller's words, without a traceback: 1 refused, 2 wrong arguments."""
    eu = at(cluster, "eu")
    broken = await run("publish", "s", "--id", "m", *eu, stdin=b"good \xff bad")
    assert broken.code == 1 and "standard input is not UTF-8" in broken.err
    taken = await run("publish", "s", "--id", "m", *eu, stdin=b"other")
    assert taken.code == 1 and "conflict" in taken.err
    for wrong in (
        ["publish", "a b"],
        ["sessions", "--limit", "0"],
        ["sessions", "--after", "a b"],
        ["verify", "a b"],
    ):
        refused = await run(*wrong, *eu, stdin=b"")
        assert (refused.code, refused.out) == (2, ""), (wrong, refused)
        assert refused.err.startswith("perdure: invalid_"), refused.err
    wrong_url = await run("sessions", "--url", "localhost:1")
    assert wrong_url.code == 2 and "must be a URL like" in wrong_url.err
    noted = await run("verify", "none", *eu)
    assert "this region knows no session none" in noted.err


async def test_a_region_that_is_away(cluster: Cluster) -> None:
    """The others are asked; verify and regions say that one could not be, with code 3."""
    await run("publish", "s", *at(cluster, "us"), stdin=b"x")
    await cluster.kill("eu")
    published = await run("publish", "s", "--json", *at(cluster, "eu", "us"), stdin=b"y")
    assert published.code == 0
    verified = await run("verify", "--wait-s", "0", *at(cluster, "us"))
    assert verified.code == 3
    assert "but not every region could be asked" in verified.out
    assert "eu           unreachable" in verified.out
    assert (await run("regions", *at(cluster, "us"))).code == 3


async def test_interrupts(cluster: Cluster) -> None:
    """Ctrl-C ends what follows, and what waits for somebody to type, at once and quietly."""
    eu = at(cluster, "eu")
    tailing = await start("tail", "s", "--json", *eu)
    assert tailing.stdout is not None
    async with asyncio.timeout(COMMAND_S_MAX):
        assert b"snapshot" in await tailing.stdout.readline()
    tailing.send_signal(signal.SIGINT)
    assert (await end(tailing)).code == 130
    publishing = await start("publish", "s", "--id", "m", *eu)
    following = await start("tail", "s", "--json", *eu)
    assert following.stdout is not None
    async with asyncio.timeout(COMMAND_S_MAX):
        while b'"id": "m"' not in await following.stdout.readline():
            pass
    publishing.send_signal(signal.SIGINT)
    async with asyncio.timeout(COMMAND_S_MAX):
        assert await publishing.wait() == 130
    following.send_signal(signal.SIGTERM)
    await end(following)


def test_nobody_answers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Code 3 and a sentence, after the command's patience."""
    monkeypatch.setattr(commands, "PATIENCE_S", 0.2)
    url = f"http://127.0.0.1:{free_ports(1)[0]}"
    for command in (["sessions"], ["tail", "s"], ["verify"], ["regions"]):
        assert main([*command, "--url", url]) == 3
        said = capsys.readouterr()
        assert said.out == "" and said.err.startswith("perdure: unavailable: no region answers")


def test_wrong_arguments_exit_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    """Those that the parser finds, and a command line without a command."""
    assert main([]) == 2
    assert "perdure" in capsys.readouterr().out
    for wrong in (["nothing"], ["tail"], ["sessions", "--limit", "x"], ["demo", "other"]):
        with pytest.raises(SystemExit) as exit_:
            main(wrong)
        assert exit_.value.code == 2
    assert main(["demo", "failover", "--tokens-per-s", "0"]) == 2
    assert "--tokens-per-s must be positive" in capsys.readouterr().err
