"""The doctor: what goes wrong in practice is found, and told with what to do about it."""

import base64
import json
import resource
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
from perdure.regions import doctor, doctor_machine, doctor_probes
from perdure.regions.cluster import free_ports
from perdure.regions.doctor import Finding
from perdure.regions.doctor_command import EXIT_CODES
from perdure.regions.doctor_machine import of_data, of_keys, of_limits
from perdure.regions.doctor_probes import Probes, claims_of
from perdure.regions.main import main
from perdure.regions.storage_engine import DATABASE

from perdure_client import Client
from tests.regions.encrypted import KEY, OTHER
from tests.regions.encrypted import made as filled

NOW_MS = 1_000_000_000


def levels(findings: Any) -> list[tuple[str, str]]:
    return [(finding.level, finding.check) for finding in findings]


# What is judged


def test_readiness() -> None:
    """Ready, or not with the region's own reason and what to do."""
    assert doctor.of_readiness("u", 200, {"ready": True}).level == "ok"
    found = doctor.of_readiness("u", 503, {"ready": False, "reason": "storage_failed"})
    assert (found.level, found.text) == ("fail", "u is not ready: storage_failed")
    assert found.advice is not None and "disk has failed" in found.advice


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        ([("eu", "1", [1]), ("us", "1", [1, 2])], [("ok", "versions")]),
        ([("eu", "1", [1]), ("us", "2", [1, 2])], [("warn", "versions")]),
        ([("eu", "1", [1]), ("us", "3", [2])], [("warn", "versions"), ("fail", "wire")]),
        ([("eu", "1", [1]), ("eu", "1", [1])], [("ok", "versions"), ("warn", "urls")]),
        ([], []),
    ],
)
def test_versions(versions: list[Any], expected: list[tuple[str, str]]) -> None:
    """Builds that differ are worth a look, no common wire is wrong, one region twice is told."""
    told = {
        f"u{number}": {"region": region, "version": version, "wire": wire}
        for number, (region, version, wire) in enumerate(versions)
    }
    assert levels(doctor.of_versions(told)) == expected


def test_grants() -> None:
    """Whether one ends soon, or has ended; an API key says nothing of it."""
    assert [
        doctor.of_grant(claims, 10_000).level
        for claims in (None, {}, {"exp": 9_999}, {"exp": 10_060}, {"exp": 99_999}, {"exp": 13_590})
    ] == ["ok", "fail", "fail", "warn", "ok", "ok"]
    body = base64.urlsafe_b64encode(json.dumps({"exp": 5}).encode()).decode().rstrip("=")
    assert claims_of(f"h.{body}.s") == {"exp": 5}
    assert [claims_of(text) for text in ("pk_x", "a.!.c", "a.WzFd.c")] == [None, None, None]


def test_clocks_and_certificates() -> None:
    """Half a second apart is worth a look, half a minute wrong; a month before its end a
    certificate is told of."""
    apart = (0, 400, -600, 31_000)
    assert [doctor.of_clock("u", NOW_MS + ms, NOW_MS).level for ms in apart] == [
        "ok", "ok", "warn", "fail",
    ]  # fmt: skip
    assert "behind" in doctor.of_clock("u", NOW_MS - 600, NOW_MS).text
    days = (-1, 0.5, 29, 31)
    ends = [int(NOW_MS + day * 86_400_000) for day in days]
    assert [doctor.of_certificate("u", end, NOW_MS).level for end in ends] == [
        "fail", "warn", "warn", "ok",
    ]  # fmt: skip


def test_an_overview() -> None:
    """Problems in the regions' words, with what to do; regions that do not know each other; and
    that all is well is told too."""
    eu = {"region": "eu", "reachable": True, "sees": [{"region": "us"}], "problems": []}
    us = {"region": "us", "reachable": True, "sees": [{"region": "eu"}], "problems": []}
    assert levels(doctor.of_overview({"regions": [eu, us]})) == [("ok", "regions")]
    bad = {**eu, "sees": [], "problems": [{"code": "link_down", "text": "it does not hear us"}]}
    gone = {"region": "old", "reachable": False, "is_gone": True}
    lost = {"region": "ap", "reachable": False}
    found = list(doctor.of_overview({"regions": [bad, us, gone, lost]}))
    assert [(each.level, each.text) for each in found] == [
        ("fail", "eu: it does not hear us"),
        ("fail", "eu does not know ap, us"),
        ("fail", "us does not know ap"),
        ("fail", "ap does not answer"),
    ]
    assert all(each.advice for each in found)
    peers = [{"region": "a", "state": state} for state in ("up", "suspect", "down")]
    told = doctor.of_peers({"region": "eu", "peers": peers})
    assert [each.level for each in told] == ["ok", "warn", "fail"]


def test_storage() -> None:
    """Whether it is encrypted; one that does not tell is not blamed."""
    for encrypted, expected in ((True, [("ok", "encryption")]), (False, [("ok", "encryption")])):
        assert levels(doctor.of_storage("eu", {"encrypted": encrypted})) == expected
    assert levels(doctor.of_storage("eu", {})) == []


def test_backups() -> None:
    """One of any region will do, for each holds everything; it is old, or there is none."""
    day_ms = 86_400_000
    for made, expected in (
        ({"eu": None, "us": NOW_MS - day_ms}, ["the last backup, of us, is 1 d 0 h old"]),
        ({"eu": NOW_MS - 3 * day_ms, "us": None}, ["the last backup, of eu, is 3 d 0 h old"]),
        ({"eu": None, "us": None}, ["no backup was made of eu, us"]),
        ({}, []),
    ):
        found = list(doctor.of_backups(made, NOW_MS))
        assert [each.text for each in found] == expected
    assert [doctor.worst(list(doctor.of_backups(made, NOW_MS))) for made in (
        {"eu": None, "us": NOW_MS - day_ms}, {"eu": NOW_MS - 3 * day_ms}, {"eu": None},
    )] == ["ok", "warn", "warn"]  # fmt: skip


# This machine


def test_a_data_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How long a sync takes, on what is left as it was; one that is not there, or full."""
    times = iter(range(100))
    found = list(of_data(tmp_path, lambda: next(times) / 10))
    assert levels(found)[1] == ("warn", "sync") and "takes 100 ms" in found[1].text
    assert list(tmp_path.iterdir()) == []
    assert levels(of_data(tmp_path, lambda: 0.0))[1] == ("ok", "sync")
    assert levels(of_data(tmp_path / "none")) == [("fail", "data")]
    for free, level in ((10**12, "ok"), (10**9, "warn"), (10**7, "fail")):
        usage = type("Usage", (), {"free": free})
        monkeypatch.setattr(doctor_machine.shutil, "disk_usage", lambda _, usage=usage: usage)
        assert next(of_data(tmp_path, lambda: 0.0)).level == level


def test_what_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the reason, and nothing stays behind."""

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(doctor_machine.os, "fsync", full)
    found = list(of_data(tmp_path))
    assert (found[1].level, "No space left" in found[1].text) == ("fail", True)
    # Another user would have no more room.
    assert found[1].advice == "make room"
    assert list(tmp_path.iterdir()) == []


def test_keys_and_data_belong_together(tmp_path: Path) -> None:
    """A start without its key, with another, or with one where the data is in the clear, would be
    refused; so would one on what is no database."""
    for folder, keys in (("sealed", (KEY,)), ("clear", ())):
        (tmp_path / folder).mkdir()
        filled(tmp_path / folder, *keys, sessions=1)

    def level(folder: str, *keys: bytes) -> str:
        ((found, check),) = levels(of_keys(tmp_path / folder, keys))
        assert check == "key"
        return found

    assert [level("sealed", *keys) for keys in ((KEY,), (OTHER, KEY), (OTHER,), ())] == [
        "ok", "ok", "fail", "fail",
    ]  # fmt: skip
    assert (level("clear"), level("clear", KEY)) == ("ok", "fail")
    assert list(of_keys(tmp_path / "none", (KEY,))) == []
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / DATABASE).write_bytes(b"no database" * 1_000)
    assert level("none") == "fail"


def test_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as the unit of systemd allows are enough."""
    for soft, level in ((1_024, "warn"), (65_536, "ok"), (resource.RLIM_INFINITY, "ok")):
        monkeypatch.setattr(doctor_machine.resource, "getrlimit", lambda _, soft=soft: (soft, 0))
        assert of_limits().level == level


# What is asked


async def asked(probes: Probes) -> dict[str, Finding]:
    return {finding.check: finding async for finding in probes.findings()}


async def test_regions_that_are_not_there() -> None:
    """What does not answer, or is something else, is told, and nothing else is asked of it."""
    (port,) = free_ports(1)
    found = await asked(Probes([f"http://127.0.0.1:{port}"], None, lambda: NOW_MS))
    assert levels(found.values()) == [("fail", "reach")]
    page = httpx2.MockTransport(lambda _: httpx2.Response(200, text="<html>"))
    found = await asked(Probes(["http://h"], None, lambda: NOW_MS, http=page))
    assert levels(found.values()) == [("fail", "reach")]


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (403, "forbidden", ["ok reach", "ok ready", "ok versions", "warn grant", "warn peers"]),
        (404, "not_found", ["ok reach", "ok ready", "ok versions", "warn overview", "warn peers"]),
    ],
)
async def test_a_grant_that_is_no_operators(
    status: int, code: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told which would do, and the rest is looked at all the same."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        answers = {"/version": {"region": "eu", "version": "1", "wire": [1]}, "/readyz": {}}
        if request.url.path in answers:
            return httpx2.Response(200, json=answers[request.url.path])
        return httpx2.Response(status, json={"code": code, "detail": "no", "status": status})

    transport = httpx2.MockTransport(answer)
    clients = partial(Client, http=transport)
    monkeypatch.setattr(doctor_probes, "_TRANSPORTS", ("sse",))
    probes = Probes(["http://h"], None, lambda: NOW_MS, clients, transport)
    told = [f"{each.level} {each.check}" async for each in probes.findings()]
    assert told == [*expected, "ok sse"]


async def test_a_grant_that_reads_no_session_of_the_probes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing comes over a WebSocket then, and no proxy is blamed for it."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        body = {"code": "not_found", "detail": "no", "status": 404}
        return httpx2.Response(404, json=body)

    async def nothing(*_: Any) -> Any:
        raise TimeoutError
        yield

    clients = partial(Client, http=httpx2.MockTransport(answer))
    probes = Probes(["http://h"], None, lambda: NOW_MS, clients)
    assert (await probes._passage("http://h", "sse")).level == "ok"
    monkeypatch.setattr("perdure_client.session.Session.events", nothing)
    found = await probes._passage("http://h", "websocket")
    assert found.level == "warn" and "the grant may not read" in found.text
    other = await probes._passage("http://other", "websocket")
    assert other.advice is not None and "proxy" in other.advice


def test_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its exit code is that of the worst; for programs everything is one line; what is no URL is
    refused."""
    monkeypatch.delenv("PERDURE_STORAGE_KEY", raising=False)
    assert main(["doctor", "--data", str(tmp_path / "none")]) == EXIT_CODES["fail"] == 3
    out = capsys.readouterr().out
    assert f"fail  {tmp_path / 'none'} is not there" in out and out.endswith("1 wrong\n")
    bad = tmp_path / "f"
    bad.write_text("prot = 1\n")
    assert main(["doctor", "--config", str(bad), "--json"]) == 3
    told = json.loads(capsys.readouterr().out)
    assert told["level"] == "fail"
    assert any("did you mean port" in check["text"] for check in told["checks"])
    assert main(["doctor", "--url", "h:1"]) == 2
