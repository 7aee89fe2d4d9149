"""The command line against three real regions, as processes, with real pipes and signals."""

import argparse
import asyncio
import contextlib
import io
import json
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jwt
import pytest
from perdure.regions import client_command, commands, console
from perdure.regions.cluster import Cluster, free_ports
from perdure.regions.main import main

from perdure_client import Client, Event
from perdure_client.errors import invalid
from tests.regions.processes import COMMAND, SECRET, Served, started

COMMAND_S_MAX = 40


class Ran(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


async def start(*arguments: str, environment: Mapping[str, str] = {}) -> Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "perdure.regions.main", *arguments),
        stdin=PIPE, stdout=PIPE, stderr=PIPE, env={**os.environ, **environment},
    )  # fmt: skip


async def end(process: Process, stdin: bytes | None = None) -> Ran:
    try:
        async with asyncio.timeout(COMMAND_S_MAX):
            out, err = await process.communicate(stdin)
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode is not None
    assert b"Traceback" not in err, err.decode()
    return Ran(process.returncode, out.decode(), err.decode())


async def run(*arguments: str, stdin: bytes | None = None) -> Ran:
    return await end(await start(*arguments), stdin)


def three_regions(path: Path) -> Cluster:
    ports = free_ports(6)
    return Cluster(path, list(zip(ports[::2], ports[1::2], strict=True)))


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with three_regions(tmp_path) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Regions for tests that leave them as they are, each with a session of its own."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        cluster = three_regions(tmp_path_factory.mktemp("shared"))
        runner.run(cluster.__aenter__())
        yield cluster
        runner.run(cluster.__aexit__())


def at(cluster: Cluster, *names: str) -> list[str]:
    return [part for name in names for part in ("--url", cluster.regions[name].url)]


async def until_followed(cluster: Cluster, name: str) -> None:
    """Until a region has a reader: the process of one takes its time to start."""
    async with (
        asyncio.timeout(COMMAND_S_MAX),
        Client([cluster.regions[name].url]) as client,
    ):
        while (await client.peers())["counters"]["readers"] == 0:
            pass


async def test_publish_tail_list_and_verify(cluster: Cluster) -> None:
    """Text from standard input arrives byte for byte, also where a character is cut between two
    reads; it is followed at another region, listed, and the same everywhere."""
    tailing = await start("tail", "s", "--until-end", *at(cluster, "us"))
    await until_followed(cluster, "us")
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
    assert regions.code == 0 and re.search(r"^us +up ", regions.out, re.MULTILINE)


async def test_what_goes_wrong_is_said_and_has_its_code(shared: Cluster) -> None:
    """In the caller's words, without a traceback: 1 refused, 2 wrong arguments."""
    eu = at(shared, "eu")
    broken = await run("publish", "wrong", "--id", "m", *eu, stdin=b"good \xff bad")
    assert broken.code == 1 and "standard input is not UTF-8" in broken.err
    taken = await run("publish", "wrong", "--id", "m", *eu, stdin=b"other")
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
    assert noted.code == 1
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


async def test_a_message_that_is_cancelled_and_a_session_that_is_deleted(
    shared: Cluster,
) -> None:
    """Publish ends with 1 and the region's word; tail ends with 0 when the session does, and with
    1 where it is gone already."""
    us = at(shared, "us")
    tailing = await start("tail", "cancelled", "--json", *us)
    while (await json_line(tailing))["event"] != "ready":
        pass
    publishing = await start("publish", "cancelled", "--id", "m", *us)
    while (await json_line(tailing))["event"] != "message":
        pass
    async with Client([shared.regions["us"].url]) as client:
        await client.session("cancelled").cancel("m")
        stopped = await end(publishing, b"too late")
        assert stopped.code == 1 and "perdure: cancelled: " in stopped.err
        await client.session("cancelled").delete()
    ended = await end(tailing)
    assert ended.code == 0
    assert json.loads(ended.out.splitlines()[-1])["event"] == "deleted"
    gone = await run("tail", "cancelled", *us)
    assert (gone.code, gone.out) == (1, "") and "perdure: deleted: " in gone.err


async def test_grants(tmp_path: Path) -> None:
    """Where regions ask for one it comes from the environment; without it the command says so."""
    eu = Served(tmp_path / "eu")
    secrets = {"PERDURE_PEER_SECRET": SECRET, "PERDURE_JWT_SECRET": SECRET}
    arguments = [argument for argument in eu.arguments() if argument != "--dev-no-auth"]
    async with started(*COMMAND, *arguments, environment=secrets) as serving:
        await serving.line_with(f"{eu.url} (grants needed)")
        refused = await run("sessions", "--url", eu.url)
        assert refused.code == 1 and "perdure: unauthorized: " in refused.err
        assert "; PERDURE_GRANT is not set (" in refused.err
        claims = {"sub": "me", "exp": 4_000_000_000, "can": {"mine": ["read", "write"]}}
        environment = {"PERDURE_GRANT": jwt.encode(claims, SECRET, "HS256")}
        granted = await end(await start("sessions", "--url", eu.url, environment=environment))
        assert (granted.code, granted.err) == (0, "")
        # A grant that says no names is good for what is its subject's.
        writing = await start("publish", "mine", "--url", eu.url, environment=environment)
        written = await end(writing, b"Nothing is lost.")
        assert (written.code, written.err) == (0, "")


async def test_interrupts(shared: Cluster) -> None:
    """Ctrl-C ends what follows, and what waits for somebody to type, at once and quietly."""
    eu = at(shared, "eu")
    tailing = await start("tail", "interrupts", "--json", *eu)
    assert tailing.stdout is not None
    async with asyncio.timeout(COMMAND_S_MAX):
        assert b"snapshot" in await tailing.stdout.readline()
    tailing.send_signal(signal.SIGINT)
    assert (await end(tailing)).code == 130
    publishing = await start("publish", "interrupts", "--id", "m", *eu)
    following = await start("tail", "interrupts", "--json", *eu)
    assert following.stdout is not None
    async with asyncio.timeout(COMMAND_S_MAX):
        while b'"id": "m"' not in await following.stdout.readline():
            pass
    publishing.send_signal(signal.SIGINT)
    async with asyncio.timeout(COMMAND_S_MAX):
        assert await publishing.wait() == 130
    following.send_signal(signal.SIGTERM)
    await end(following)


async def test_a_reader_of_the_output_may_leave(shared: Cluster) -> None:
    """``perdure tail | head -1`` and the like end quietly, with 0."""
    eu = at(shared, "eu")
    tailing = await start("tail", "pipe", "--json", *eu)
    assert tailing.stdout is not None
    async with asyncio.timeout(COMMAND_S_MAX):
        assert b"snapshot" in await tailing.stdout.readline()
    tailing._transport.get_pipe_transport(1).close()  # type: ignore[attr-defined]
    await run("publish", "pipe", *eu, stdin=b"x")
    async with asyncio.timeout(COMMAND_S_MAX):
        assert tailing.stderr is not None
        assert (await tailing.stderr.read(), await tailing.wait()) == (b"", 0)


async def test_tail_goes_on_from_a_cursor(cluster: Cluster) -> None:
    """With what came after it, and says to which region it has moved; what is no cursor is told
    and not taken for the beginning."""
    await run("publish", "s", "--id", "one", *at(cluster, "us"), stdin=b"first")
    tailing = await start("tail", "s", "--json", *at(cluster, "us", "ap"))
    snapshot = await json_line(tailing)
    assert [m["id"] for m in snapshot["data"]["messages"]] == ["one"]
    resumed = await start("tail", "s", "--cursor", snapshot["id"], "--json", *at(cluster, "us"))
    while (await json_line(resumed))["event"] != "ready":
        pass
    await run("publish", "s", "--id", "two", *at(cluster, "ap"), stdin=b"second")
    while (event := await json_line(resumed))["event"] != "end":
        assert event["event"] != "snapshot"
    assert event["data"]["message"] == "two"
    resumed.send_signal(signal.SIGINT)
    assert (await end(resumed)).code == 130
    while (await json_line(tailing))["event"] != "end":
        pass
    await cluster.kill("us")
    await run("publish", "s", "--id", "three", *at(cluster, "ap"), stdin=b"third")
    while (event := await json_line(tailing))["event"] != "end":
        pass
    assert event["data"]["message"] == "three"
    tailing.send_signal(signal.SIGINT)
    ended = await end(tailing)
    assert ended.code == 130
    assert ended.err == f"perdure: now reading at {cluster.regions['ap'].url}\n"
    wrong = await run("tail", "s", "--cursor", "no cursor!", *at(cluster, "ap"))
    assert (wrong.code, wrong.out) == (2, "")
    assert "argument --cursor: 'no cursor!'" in wrong.err


async def json_line(process: Process) -> Any:
    """The next line that it prints, as JSON."""
    assert process.stdout is not None
    async with asyncio.timeout(COMMAND_S_MAX):
        line = await process.stdout.readline()
    assert line, await end(process)
    return json.loads(line)


async def test_input_that_goes_wrong(shared: Cluster) -> None:
    """Much of it behind what is not UTF-8, none because it was closed, some that is cut in the
    middle of a character: each ends by itself, and what was good is kept."""
    eu = at(shared, "eu")
    much = await run("publish", "input", "--id", "much", *eu, stdin=b"good" + b"\xff" * 5_000_000)
    assert much.code == 1 and len(much.err.splitlines()) == 1, much.err
    assert "the message has ended as failed" in much.err
    cut = await run("publish", "input", "--id", "cut", *eu, stdin="good 漢".encode()[:-1])
    assert cut.code == 1 and "unexpected end of data" in cut.err
    closed = await run_shell("exec {perdure} publish input --id closed {at} <&-", eu)
    assert closed.code == 0 and "closed: 0 tokens" in closed.out
    tailed = await start("tail", "input", "--json", *eu)
    held = {
        m["id"]: (m["text"], m["status"]) for m in (await json_line(tailed))["data"]["messages"]
    }
    tailed.send_signal(signal.SIGINT)
    await end(tailed)
    assert held == {
        "much": ("", "failed"),
        "cut": ("good ", "failed"),
        "closed": ("", "complete"),
    }


async def run_shell(command: str, at: list[str]) -> Ran:
    """A line of shell, with ``{perdure}`` and ``{at}`` in it."""
    line = command.format(perdure=f"{sys.executable} -m perdure.regions.main", at=" ".join(at))
    return await end(await asyncio.create_subprocess_shell(line, stdout=PIPE, stderr=PIPE))


async def test_a_terminal_that_knows_few_characters(shared: Cluster) -> None:
    """Gets the numbers of those that it cannot show."""
    eu = at(shared, "eu")
    await run("publish", "few", *eu, stdin="é 漢".encode())
    tailing = await start("tail", "few", *eu, environment={"PYTHONIOENCODING": "latin-1"})
    assert tailing.stdout is not None
    async with asyncio.timeout(COMMAND_S_MAX):
        line = await tailing.stdout.readline()
    assert line.endswith(b": \xe9 \\u6f22\n"), line
    tailing.send_signal(signal.SIGINT)
    ended = await end(tailing)
    assert (ended.code, ended.err) == (130, "")


@pytest.mark.parametrize(
    "command", ["publish", "tail", "sessions", "regions", "verify", "dev", "demo"]
)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Its options, and what its exit codes mean."""
    with pytest.raises(SystemExit) as exit_:
        main([command, "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert exit_.value.code == 0
    assert f"usage: perdure {command}" in told and "Exit codes: 0 " in told
    if command not in ("dev", "demo"):
        assert "--url URL" in told and "--json" in told


def test_a_region_that_is_slow_to_answer_is_told_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """While the command goes on trying: silence would look like an answer."""
    monkeypatch.setattr(console, "NOTE_AFTER_S", 0)
    monkeypatch.setattr(client_command, "PATIENCE_S", 0.2)
    url = f"http://127.0.0.1:{free_ports(1)[0]}"
    assert main(["sessions", "--url", url, "--url", "http://127.0.0.1:1"]) == 3
    noted, said = capsys.readouterr().err.splitlines()
    assert noted == f"perdure: no answer from {url} or http://127.0.0.1:1 yet; still trying"
    assert said.startswith("perdure: unavailable: no region answers")


def shown(events: list[tuple[str, dict[str, Any]]], *, for_people: bool = False) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        printer = commands._Printer(for_people=for_people)
        for name, data in events:
            printer.show(name, data)
    return out.getvalue()


def message(id_: str, text: str, status: str = "streaming") -> dict[str, Any]:
    return {"id": id_, "serial": id_, "role": "user", "text": text, "status": status}


def test_what_people_see() -> None:
    """A line for each message; text as it comes; who is replaced, ended, deleted or behind."""
    events = [
        ("snapshot", {"messages": [message("a", "one", "complete"), message("b", "tw")]}),
        ("append", {"message": "b", "text": "o"}),
        ("message", message("c", "")),
        ("append", {"message": "b", "text": "!"}),
        ("append", {"message": "b", "items": [{"set": {}}]}),
        ("replace", {"message": "b", "text": "2", "reason": "fenced"}),
        ("end", {"message": "b", "status": "complete", "length": 1}),
        ("stale", {"message": None, "held": True}),
        ("delete", {"message": "a"}),
    ]
    assert shown(events) == (
        "user a: one\n[complete]\nuser b: two\nuser c: \n… b: !\n[b is replaced: fenced]\n"
        "b: 2\n[b complete, 1 items]\n[stale ]\n[delete a]\n"
    )


@pytest.mark.failure("S12")
def test_nothing_in_a_text_controls_the_terminal() -> None:
    """No escape sequence reaches it; emoji of several code points and other scripts do. What goes
    into a file is as it was."""
    evil = "a\x1b]0;title\x07\r\nb\tc\x9b2J 👩\u200d💻 漢"
    events = [("message", message("m", evil, "complete"))]
    assert shown(events, for_people=True) == (
        "user m: a\ufffd]0;title\ufffd\nb\tc\ufffd2J 👩\u200d💻 漢\n[complete]\n"
    )
    assert evil in shown(events)


class Answers:
    """A client whose regions answer this, one after the other, the last for ever."""

    def __init__(self, *answers: dict[str, str]) -> None:
        self.regions = argparse.Namespace(urls=["http://eu"])
        self.answers = list(answers)

    async def verify(self, session: str | None) -> dict[str, Any]:
        regions = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        equal = all(outcome == "equal" for outcome in regions.values())
        differs = "different" in regions.values()
        return {
            "equal": equal,
            "regions": regions,
            "sessions": 2,
            "different": ["s"] if differs else [],
        }


@pytest.mark.parametrize(
    ("answers", "wait_s", "code", "said"),
    [
        ([{"us": "equal"}], 0, 0, "equal: 2 session(s)\n"),
        ([{"us": "different", "ap": "equal"}], 0, 1, "NOT equal: 2 session(s)\n"),
        ([{"us": "different", "ap": "unreachable"}], 0, 1, "NOT equal"),
        ([{"us": "equal", "ap": "unreachable"}], 0, 3, "but not every region could be asked"),
        ([{"us": "different"}, {"us": "different"}, {"us": "equal"}], 60, 0, "equal: 2 session(s)"),
    ],
)
async def test_what_verify_says(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answers: list[dict[str, str]],
    wait_s: float,
    code: int,
    said: str,
) -> None:
    """0 equal, 1 different, 3 not all could be asked; what is under way gets time to arrive."""
    monkeypatch.setattr(commands, "_VERIFY_EVERY_S", 0)
    monkeypatch.setattr(commands, "_BUSY_AFTER_S", 0)
    options = argparse.Namespace(session=None, wait_s=wait_s, json=False)
    assert await commands._verify(options, Answers(*answers)) == code  # type: ignore[arg-type]
    out = capsys.readouterr().out
    assert said in out and ("differs: s" in out) == (code == 1)


class Busy:
    """A client of regions of which two sessions differ: one is written to, one may be quiet."""

    def __init__(self, *, quiet: str, unreachable: bool = False) -> None:
        self.regions = argparse.Namespace(urls=["http://eu"])
        self.quiet, self.asked = quiet, 0
        self.outcomes = {"us": "different"} | ({"ap": "unreachable"} if unreachable else {})

    async def verify(self, session: str | None) -> dict[str, Any]:
        self.asked += 1
        digest = "1" if session == "still" and self.quiet == "different" else str(self.asked)
        equal = session == "still" and self.quiet == "equal"
        outcomes = {**self.outcomes, "us": "equal" if equal else "different"}
        named = ["busy", "still"] if session is None else [session] * (not equal)
        about = {"sessions": 9, "different": named, "digest": digest}
        return {"equal": equal, "regions": outcomes, **about}


@pytest.mark.parametrize(
    ("client", "code", "said"),
    [
        (Busy(quiet="equal"), 0, " equal: 9 session(s), but for 2 that are written to now\n"),
        (Busy(quiet="different"), 1, " NOT equal: 9 session(s)\n"),
        (Busy(quiet="equal", unreachable=True), 3, "but not every region could be asked"),
    ],
)
async def test_verify_while_something_is_written(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    client: Busy,
    code: int,
    said: str,
) -> None:
    """A session that changes while one looks is never the same everywhere, and no reason to wait
    with the next region of a roll-out; one that is quiet and differs is."""
    monkeypatch.setattr(commands, "_BUSY_AFTER_S", 0)
    options = argparse.Namespace(session=None, wait_s=0, json=False)
    assert await commands._verify(options, client) == code  # type: ignore[arg-type]
    out = capsys.readouterr().out
    assert said in out and ("differs: still\n" in out) == (code == 1)
    assert (
        "differs: busy" not in out and "written to now, and compared when it is quiet: busy" in out
    )


async def test_verify_takes_no_region_that_went_away_for_equal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It held something else when it was last asked."""
    monkeypatch.setattr(commands, "_BUSY_AFTER_S", 0)
    options = argparse.Namespace(session=None, wait_s=0, json=False)
    client = Answers({"us": "different"}, {"us": "different"}, {"us": "unreachable"})
    assert await commands._verify(options, client) == 1  # type: ignore[arg-type]
    out = capsys.readouterr().out
    assert " NOT equal: 2 session(s)\n" in out and "differs: s\n" in out


async def test_verify_where_a_region_compares_no_session_of_a_tenant(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One of an older version, which refuses such a name: what differs is told as that."""

    class Older(Answers):
        async def verify(self, session: str | None) -> dict[str, Any]:
            if session is not None:
                raise invalid("invalid_id", "session must be an id")
            return await super().verify(session)

    options = argparse.Namespace(session=None, wait_s=0, json=False)
    assert await commands._verify(options, Older({"us": "different"})) == 1  # type: ignore[arg-type]
    assert " NOT equal: 2 session(s)\n" in capsys.readouterr().out


async def test_verify_says_that_it_still_looks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where it takes long, with how many differ, beside the output."""
    monkeypatch.setattr(commands, "_VERIFY_EVERY_S", 0)
    monkeypatch.setattr(commands, "_TELL_EVERY_S", 0)
    options = argparse.Namespace(session=None, wait_s=9, json=False)
    answers = Answers({"us": "different"}, {"us": "equal"})
    assert await commands._verify(options, answers) == 0  # type: ignore[arg-type]
    assert "sessions differ; asking again" in capsys.readouterr().err


class OutOfStepOnce:
    """A session of which the first reading goes wrong."""

    def __init__(self) -> None:
        self.cursors: list[str | None] = []

    def session(self, _: str) -> "OutOfStepOnce":
        return self

    async def events(self, cursor: str | None, *_: Any) -> AsyncIterator[Event]:
        self.cursors.append(cursor)
        session = {"id": "s", "messages": [{**message("m", "ab"), "length": 2, "parts": []}]}
        session |= {"cursor": "c", "metadata": {}, "more": False}
        yield Event("snapshot", "c", session, "http://eu")
        if len(self.cursors) == 1:
            data = {"message": "m", "part": 0, "from": 7, "to": 8, "text": "x"}
            yield Event("append", "d", data, "http://eu")
        yield Event("ready", "e", {}, "http://eu")


async def test_an_event_that_does_not_fit_is_not_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The session is read from its beginning again, and that is said."""
    client = OutOfStepOnce()
    options = argparse.Namespace(session="s", cursor=None)
    names = [event.event async for event in commands._events(options, client)]  # type: ignore[arg-type]
    assert names == ["snapshot", "snapshot", "ready"]
    assert client.cursors == [None, None]
    assert "from the beginning again" in capsys.readouterr().err


def test_nobody_answers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Code 3 and a sentence, after the command's patience."""
    monkeypatch.setattr(client_command, "PATIENCE_S", 0.2)
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
    for pace in ("0", "-1", "nan", "inf", "100000"):
        assert main(["demo", "failover", f"--tokens-per-s={pace}"]) == 2
        assert "--tokens-per-s must be positive, and at most 3000" in capsys.readouterr().err


def test_drain_and_its_undoing(shared: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    """Of one region, whose readers have left and whose peers have everything when it says so; the
    others serve meanwhile. What does not go together is refused."""
    url = ("--url", shared.regions["ap"].url)
    assert main(["drain", "--wait", "--json", *url]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"region": "ap", "state": "draining", "flushed": True, "readers": 0}
    assert main(["drain", *url]) == 0
    assert "ap is draining: 0 readers are still here, and the" in capsys.readouterr().out
    assert main(["drain", "--undo", *url]) == 0
    assert capsys.readouterr().out == "ap is not drained any more: ready\n"
    assert main(["drain", *url, "--url", shared.regions["eu"].url]) == 2
    assert main(["drain", "--undo", "--wait", *url]) == 2
    assert "give one --url\nperdure: --undo does not wait" in capsys.readouterr().err


def test_a_region_is_removed_by_its_name_twice(
    shared: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name that is not said again, one that is at work, and one that nobody knows are refused."""
    url = ("--url", shared.regions["eu"].url)
    assert main(["region", "forget", "ap", "--confirm", "us", *url]) == 2
    assert main(["region", "forget", "ap", "--confirm", "ap", *url]) == 1
    assert main(["region", "forget", "xx", "--confirm", "xx", *url]) == 1
    assert main(["region", "forget", "eu", "--confirm", "eu", *url]) == 1
    said = capsys.readouterr().err
    assert "--confirm us is not ap" in said and "region ap is up: drain it first" in said
    assert "this region knows no region xx" in said and "does not remove itself" in said
