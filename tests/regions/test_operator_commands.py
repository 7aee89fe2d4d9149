"""The commands of who runs the regions, against an admin API that answers as the contract says."""

import argparse
import io
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import httpx2
import pytest
from perdure.regions import client_command, watching
from perdure.regions.main import main

from perdure_client import Client
from perdure_client.errors import Unavailable

LINK = {
    "state": "up", "rtt_ms": 1.25, "behind_operations": 0, "behind_bytes": 0, "behind_s": 0.0,
    "clock_offset_ms": 3.0, "last_seen_ms": 40, "last_anti_entropy_ms": 9, "digests": "equal",
    "wire": 2,
}  # fmt: skip
EU = {
    "region": "eu", "reachable": True, "state": None, "version": "0.1.0", "incarnation": "1f",
    "wire": [1, 2], "uptime_s": 3_700, "now_ms": 0, "url": None, "is_gone": False,
    "sees": [
        {"region": "us", **LINK},
        {"region": "ap", **LINK, "state": "down", "rtt_ms": None, "behind_operations": 1_234,
         "behind_bytes": 5_000, "behind_s": 12.0, "clock_offset_ms": -1_500.0,
         "last_seen_ms": 14_000, "digests": "different"},
    ],
    "sessions": 3, "in_memory": 2, "readers": 7, "connections": 8, "open_runs": 1, "present": 4,
    "tokens_per_s": 12.5, "events_per_s": 80.0, "log_bytes": 3_000_000,
    "disk_free_bytes": 9_000_000_000, "problems": [{"code": "link_down", "text": "ap is down"}],
}  # fmt: skip
US = {**EU, "region": "us", "sees": [{"region": "eu", **LINK}], "problems": [], "state": "draining"}
SILENT = {"code": "unreachable", "text": "ap does not answer; this is what it said 14 s ago"}
AP = {
    **EU, "region": "ap", "reachable": False, "age_ms": 14_000, "problems": [SILENT],
    "sees": [{"region": "eu", **LINK}],
}  # fmt: skip
GONE = {"region": "old\x1b[2J", "reachable": False, "is_gone": True, "problems": []}
OVERVIEW = {"region": "eu", "regions": [EU, US, AP, GONE], "summary": {}}
PEERS = {
    "region": "eu",
    "peers": [
        {"region": "us", "state": "up", "behind": 0, "last_seen_ms": 40},
        {"region": "ap", "state": "down", "behind": 3, "last_seen_ms": None},
    ],
    "counters": {"sessions": 3},
}
SESSION = {
    "session": "acme:s\u202e\x1b]0;x\x07", "tenant": "acme", "messages": 1_200, "bytes": 2_048,
    "members": 2, "readers": 1, "active_runs": 1, "tokens_per_s": 3.0,
    "updated": "2026-01-02T03:04:05Z", "positions": {"us": "equal", "ap": "behind"},
}  # fmt: skip
ENTRY = {
    "at_ms": 1_000, "region": "us", "kind": "retry", "message": "m", "run": None, "epoch": "3",
    "producer": "p", "detail": {"duplicates": 4},
}  # fmt: skip
WHOLE = {
    **SESSION,
    "runs": [{"run": "r1", "agent": "writer", "state": "running", "message": "m"}],
    "presence": [{"member": "ann", "regions": ["eu", "us"], "connections": 2}],
    "timeline": [ENTRY],
}
CONNECTION = {
    "id": 7, "kind": "sse", "session": "s", "subject": "ann", "address": "10.0.0.1", "member": None,
    "since_ms": 0, "waiting_events": 9, "waiting_bytes": 10_240, "sent_events": 3,
    "last_taken_ms": None,
}  # fmt: skip
STORAGE = {
    "log_bytes": 2_048, "logs": [{"origin": "eu", "records": 9, "bytes": 1_024, "oldest_ms": 0}],
    "commits": 12_345, "commit_p99_s": 0.004, "encrypted": True, "last_backup_ms": None,
}  # fmt: skip
ANSWERS: dict[str, Any] = {
    "GET /v1/regions": PEERS,
    "GET /admin/api/overview": OVERVIEW,
    "GET /admin/api/sessions": {"sessions": [SESSION], "next": "acme:s"},
    "GET /admin/api/sessions/acme%3As": WHOLE,
    "GET /admin/api/sessions/acme%3As/timeline": {"entries": [ENTRY, ENTRY], "next": "12.3"},
    "GET /admin/api/connections": {"connections": [CONNECTION]},
    "GET /admin/api/storage": STORAGE,
    "GET /admin/api/errors": {
        "since_ms": 0,
        "codes": [
            {"code": "gap", "count": 2, "last_ms": 5_000, "last_text": "expected 4"},
            {"code": "fenced", "count": 30, "last_ms": 6_000, "last_text": "by 5"},
        ],
    },
    "GET /admin/api/history": {
        "step_s": 5,
        "names": ["tokens_per_s", "readers"],
        "samples": [[0, 1.0, None], [5_000, 2.0, 3], [10_000, 4.0, 3]],
    },
    "POST /admin/api/connections/7/disconnect": {"disconnected": True},
    "POST /admin/api/sessions/acme%3As/cancel": {"cancelled": True},
}
Told = Callable[..., tuple[int, str, str]]


@pytest.fixture
def asked() -> list[httpx2.Request]:
    return []


@pytest.fixture
def told(
    asked: list[httpx2.Request],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Told:
    """Runs a command; its exit code, and what it printed. ``but``: other answers."""

    def run(*arguments: str, but: dict[str, Any] | None = None) -> tuple[int, str, str]:
        def answer(request: httpx2.Request) -> httpx2.Response:
            asked.append(request)
            path = request.url.raw_path.decode().partition("?")[0]
            value = {**ANSWERS, **(but or {})}.get(f"{request.method} {path}")
            if isinstance(value, int) or value is None:
                codes = {401: "unauthorized", 403: "forbidden", None: "not_found"}
                body = {"code": codes[value], "detail": "no", "status": value or 404}
                return httpx2.Response(value or 404, json=body)
            return httpx2.Response(200, json=value)

        made = partial(Client, http=httpx2.MockTransport(answer))
        monkeypatch.setattr(client_command, "Client", made)
        code = main([*arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_regions_tells_problems_first(told: Told) -> None:
    """In words, then every region, then who sees whom; 3 where one is not up. What is gone for good
    is no problem, and nothing in a name controls the terminal."""
    code, out, _ = told("regions")
    assert code == 3
    lines = out.splitlines()
    assert lines[:2] == ["! eu: ap is down", "! ap does not answer; this is what it said 14 s ago"]
    (eu,) = [line for line in lines if line.startswith("eu *")]
    assert eu.split()[2:7] == ["ready", "0.1.0", "1-2", "1", "h"]
    assert "draining" in out and "not reachable, for 14 s" in out and "gone for good" in out
    (ap,) = [line for line in lines if line.startswith("ap  ")]
    assert ap.split()[-10:] == ["-"] * 10
    assert "ap, 14 s ago" in out
    matrix = out.partition("SEEN BY")[2].splitlines()
    assert "up 1.25 ms" in matrix[1]
    assert "down 1,234 behind (4.9 KiB, 12 s) clock -1.5 s differs seen 14 s ago" in matrix[1]
    assert "\x1b" not in out and "old\ufffd[2J" in out


def test_how_long_a_region_is_away(told: Told) -> None:
    """Since anybody has heard it. What it said last may be much older: it is asked for that only
    while somebody looks."""
    ap = {**AP, "age_ms": 86_400_000}
    regions = {
        **OVERVIEW,
        "regions": [EU, {**US, "sees": [{**EU["sees"][1], "last_seen_ms": 12_000}]}, ap],
    }
    out = told("regions", but={"GET /admin/api/overview": regions})[1]
    assert "not reachable, for 12 s" in out and "ap, 1 d 0 h ago" in out
    alone = {**OVERVIEW, "regions": [{**EU, "sees": []}, ap]}
    out = told("regions", but={"GET /admin/api/overview": alone})[1]
    assert "not reachable" in out and "not reachable, for" not in out


def test_regions_leaves_no_trace_in_the_audit_log(told: Told, asked: list[httpx2.Request]) -> None:
    """Regions note who asks for /v1/regions, each time: who watches them must not fill the log."""
    assert told("regions")[0] == 3
    assert [request.url.path for request in asked] == ["/admin/api/overview"]


def test_regions_for_programs(told: Told) -> None:
    """What anybody may know, as ever, and the overview besides."""
    code, out, _ = told("regions", "--json")
    assert code == 3
    assert json.loads(out) == {**PEERS, "overview": OVERVIEW}


@pytest.mark.parametrize("status", [401, 403, None])
def test_regions_without_an_operators_grant(told: Told, status: int | None) -> None:
    """It tells what anybody may know, and so it does of a region that has no such page yet."""
    peers = {**PEERS, "peers": PEERS["peers"][:1]}
    answers = {"GET /admin/api/overview": status, "GET /v1/regions": peers}
    code, out, _ = told("regions", but=answers)
    assert (code, out.splitlines()[1]) == (0, "us           up        0 behind, seen 40 ms ago")
    assert told("regions", but={"GET /admin/api/overview": status})[0] == 3


def test_all_is_well(told: Told) -> None:
    """It says so in as many words, and the exit code is 0."""
    well = {**EU, "problems": [], "sees": [{"region": "us", **LINK}]}
    overview = {**OVERVIEW, "regions": [well, {**US, "state": None}]}
    peers = {**PEERS, "peers": PEERS["peers"][:1]}
    answers = {"GET /admin/api/overview": overview, "GET /v1/regions": peers}
    code, out, _ = told("regions", but=answers)
    assert (code, out.splitlines()[0]) == (0, "all is well")


def test_sessions_are_searched(told: Told, asked: list[httpx2.Request]) -> None:
    """Only what differs among the regions is told; the next page by its place."""
    code, out, _ = told("sessions", "--search", "a b", "--sort", "size", "--limit", "5")
    assert code == 0
    assert dict(asked[0].url.params) == {"search": "a b", "sort": "size", "limit": "5"}
    head, row, more = out.splitlines()
    assert head.startswith("SESSION") and more == "… more: --after acme:s"
    assert "1,200" in row and "2.0 KiB" in row and row.endswith("ap behind")
    assert "\x1b" not in out and "\u202e" not in out and "\x07" not in out


def test_one_session(told: Told, asked: list[httpx2.Request]) -> None:
    """Where it is the same, who is here, its runs, what happened; its name is quoted."""
    code, out, _ = told("session", "acme:s")
    assert code == 0
    assert "1,200 messages, 2.0 KiB" in out and "  ap: behind" in out
    assert "ann     eu, us" in out and "writer" in out
    assert "01-01 00:00:01" in out and "duplicates=4" in out
    code, out, _ = told("session", "acme:s", "--before", "99", "--limit", "2")
    assert out.splitlines()[-1] == "… earlier: --before 12.3" and len(out.splitlines()) == 4
    assert dict(asked[-1].url.params) == {"before": "99", "limit": "2"}
    assert told("session", "none")[0] == 1


@pytest.mark.parametrize(
    ("command", "query", "words"),
    [
        (("connections", "--slowest"), {"sort": "slowest", "limit": "50"}, ["7", "10.0 KiB"]),
        (("storage",), {}, ["2.0 KiB", "12,345", "4 ms", "yes", "last backup          -"]),
        (("errors",), {}, ["fenced", "30", "expected 4"]),
        (("history", "--minutes", "5"), {"minutes": "5"}, ["▂▄█", "EVERY 5 s"]),
    ],
)
def test_the_other_views(
    told: Told,
    asked: list[httpx2.Request],
    command: tuple[str, ...],
    query: dict[str, str],
    words: list[str],
) -> None:
    """For people and, unchanged and on one line, for programs."""
    code, out, _ = told(*command)
    assert code == 0
    assert [word for word in words if word not in out] == []
    assert dict(asked[-1].url.params) == query
    code, out, _ = told(*command, "--json")
    assert (code, json.loads(out)) == (0, ANSWERS[f"GET /admin/api/{command[0]}"])


def test_errors_are_sorted(told: Told) -> None:
    """What happens most stands first; and that nothing happened is said."""
    _, out, _ = told("errors")
    assert out.index("fenced") < out.index("gap")
    nothing = {"GET /admin/api/errors": {"since_ms": 0, "codes": []}}
    assert told("errors", but=nothing)[1].startswith("nothing was refused since 01-01")


def test_actions(told: Told, asked: list[httpx2.Request]) -> None:
    """Done at the region that is named."""
    assert told("disconnect", "7") == (0, "connection 7 is cut off\n", "")
    code, out, _ = told("cancel", "acme:s", "m", "--json")
    assert (code, json.loads(out)) == (0, {"cancelled": True})
    assert json.loads(asked[-1].content) == {"message": "m"}


@pytest.mark.parametrize("command", ["storage", "disconnect 7"])
def test_who_is_no_operator_is_told_what_would_do(told: Told, command: str) -> None:
    """Exit code 1, and the command that makes such a grant."""
    refused = {"GET /admin/api/storage": 403, "POST /admin/api/connections/7/disconnect": 401}
    code, out, err = told(*command.split(), but=refused)
    assert (code, out) == (1, "")
    assert "perdure token mint --subject ops --can '*=admin'" in err


def test_how_often_is_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong time is refused before anything is asked."""
    for text in ("0.1", "3601", "often", "nan"):
        with pytest.raises(SystemExit) as left:
            main(["storage", "--watch", text])
        assert left.value.code == 2
        assert "must be 0.5 to 3600" in capsys.readouterr().err


def test_tail_asks_nothing_that_is_for_operators(told: Told, asked: list[httpx2.Request]) -> None:
    """Who may read a session may follow it, and is refused by that session alone."""
    but = {"GET /v1/regions": 403, "GET /v1/transports": {"transports": []}}
    code, _, err = told("tail", "s", but=but)
    assert (code, err) == (1, "perdure: not_found: no\n")
    assert "/v1/sessions/s" in asked[-1].url.path


def test_verify_by_who_may_not_read(told: Told) -> None:
    """An operator's grant has sessions compared, and need not be one to read them."""
    equal = {"equal": True, "regions": {"us": "equal"}, "sessions": 1, "different": []}
    code, out, err = told("verify", "s", but={"GET /v1/verify": equal, "GET /v1/sessions/s": 403})
    assert (code, err) == (0, "") and "equal: 1 session(s)" in out


class Screen(io.StringIO):
    """Where a person looks, or not."""

    def __init__(self, *, is_terminal: bool) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


async def watched(
    monkeypatch: pytest.MonkeyPatch, *, is_terminal: bool, as_json: bool = False
) -> str:
    """What is shown in four rounds, of which the third has no answer, and then Ctrl-C."""
    screen, rounds, waits = Screen(is_terminal=is_terminal), 0, 0
    monkeypatch.setattr("sys.stdout", screen)

    async def view() -> dict[str, Any]:
        nonlocal rounds
        rounds += 1
        if rounds == 3:
            raise Unavailable({"code": "unavailable", "status": 503, "detail": "nobody"})
        return {"n": rounds}

    async def sleep(seconds: float) -> None:
        nonlocal waits
        assert seconds == 2
        waits += 1
        if waits == 4:
            raise KeyboardInterrupt

    options = argparse.Namespace(watch=2.0, json=as_json)
    async with Client(["http://127.0.0.1:1"]) as client:
        with pytest.raises(KeyboardInterrupt):
            await watching.show(options, client, view, lambda v, _: [f"n is {v['n']}"], sleep)
    return screen.getvalue()


async def test_watching(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal is drawn anew, anything else is added to, programs get a line each; a region that
    does not answer is told, and asked again."""
    drawn = await watched(monkeypatch, is_terminal=True)
    assert drawn.count("\x1b[H\x1b[J") == 3 and "perdure: unavailable: nobody" in drawn
    added = await watched(monkeypatch, is_terminal=False)
    assert "\x1b" not in added
    assert [line for line in added.splitlines() if "UTC" not in line] == [
        "n is 1",
        "n is 2",
        "perdure: unavailable: nobody",
        "n is 4",
    ]
    lines = await watched(monkeypatch, is_terminal=False, as_json=True)
    assert [*map(json.loads, lines.splitlines())] == [
        {"n": 1},
        {"n": 2},
        {"error": "unavailable: nobody"},
        {"n": 4},
    ]
