"""The failover demo, and that it could not pass on wrong evidence."""

import asyncio
import contextlib
import io
import json
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unicodedata import east_asian_width

import pytest
from perdure.regions.cluster import NAMES
from perdure.regions.demo import Received, Result, _report, answer, tokenize
from perdure.regions.demo_screen import Screen, tail

from perdure_client import Event

DEMO_S_MAX = 120
SOURCE = ["Hel", "lo", " wor", "ld"]


def test_the_answer_is_cut_as_a_model_cuts_it() -> None:
    """Nothing is lost by cutting; parts of words, several scripts, emoji cut in the middle."""
    tokens = answer()
    text = "".join(tokens)
    assert len(tokens) > 800 and tokenize(text) == tokens
    assert any(len(token) < 3 and token.isalpha() for token in tokens)
    assert any("\u4e00" <= token <= "\u9fff" for token in tokens)
    assert any(ord(token[0]) > 0xFFFF for token in tokens)
    assert "\u200d" in tokens, "an emoji of several code points is cut between them"


@contextlib.asynccontextmanager
async def demo(directory: Path, *arguments: str) -> AsyncIterator[Process]:
    """The demo as a process, whose temporary directory is in this one."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "perdure.regions.main", "demo", "failover", *arguments),
        stdout=PIPE,
        stderr=PIPE,
        env={**os.environ, "TMPDIR": str(directory)},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def test_the_demo(tmp_path: Path) -> None:
    """Three processes, one killed with SIGKILL in the middle of the answer: nothing is lost,
    doubled or reordered; all that was asked for is in the result."""
    async with demo(tmp_path, "--json", "--tokens-per-s", "400") as process:
        async with asyncio.timeout(DEMO_S_MAX):
            out, said = await process.communicate()
    assert process.returncode == 0, (out, said)
    result = json.loads(out)
    assert (result["ok"], result["faults"]) == (True, [])
    assert (result["lost"], result["duplicated"], result["reordered"]) == (0, 0, 0)
    assert result["texts_equal"] is True and result["regions_equal"] is True
    assert all(result["reader_gap_ms"][name] > 0 for name in NAMES)
    assert result["tokens"] == len(answer())
    assert 0 < result["killed_at_token"] < result["returned_at_token"] <= result["tokens"]
    assert result["agent_moves"] >= 1
    assert result["reader_regions"]["eu"][0] == "eu" != result["reader_regions"]["eu"][-1]
    assert "eu was killed with SIGKILL" in said.decode()
    assert names_in(tmp_path) == []


async def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    listing = await asyncio.create_subprocess_exec("ps", "-A", "-o", "pid=,ppid=", stdout=PIPE)
    out, _ = await listing.communicate()
    pairs = [line.split() for line in out.decode().splitlines()]
    return [int(child) for child, parent in pairs if int(parent) == pid]


def names_in(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    ("signals", "code"),
    [
        ([signal.SIGINT, signal.SIGINT], 130),
        ([signal.SIGHUP], 129),
    ],
)
async def test_a_demo_that_is_stopped_leaves_nothing_behind(
    tmp_path: Path, signals: list[signal.Signals], code: int
) -> None:
    """No process, no directory, no traceback: on Ctrl-C by somebody impatient, and when the
    terminal is closed, which is taken as a termination is."""
    async with demo(tmp_path, "--tokens-per-s", "20") as process:
        assert process.stdout is not None and process.stderr is not None
        async with asyncio.timeout(DEMO_S_MAX):
            while b"agent at eu" not in await process.stdout.readline():
                pass
            regions = await children(process.pid)
            for number in signals:
                process.send_signal(number)
            _, said = await process.communicate()
    assert len(regions) == 3
    assert (process.returncode, said) == (code, b"")
    assert [pid for pid in regions if is_alive(pid)] == []
    assert names_in(tmp_path) == []


# What readers received is judged as it came


def event(name: str, **data: Any) -> Event:
    return Event(name, "c", {"message": "m", **data}, "http://eu")


def append(from_: int, *tokens: str) -> Event:
    return event("append", part=0, **{"from": from_}, to=from_ + len(tokens), text="".join(tokens))


def judged(*events: Event) -> Received:
    received = Received(SOURCE)
    for number, one in enumerate(events):
        received.take(one, "m", float(number))
    return received


def snapshot(text: str, length: int, status: str = "streaming") -> Event:
    whole = {"id": "m", "length": length, "text": text, "status": status}
    other = {"id": "prompt", "length": 9, "text": "?", "status": "complete"}
    return Event("snapshot", "c", {"messages": [other, whole]}, "http://eu")


def counts(received: Received) -> tuple[int, int, int]:
    return received.lost, received.duplicated, received.reordered


def test_a_whole_text_is_whole() -> None:
    """In one piece or in several."""
    received = judged(append(0, "Hel"), append(1, "lo", " wor"), append(3, "ld"))
    assert counts(received) == (0, 0, 0)
    assert received.text == "".join(SOURCE)


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([append(0, "Hel"), append(2, " wor")], (1, 0, 0)),
        ([append(0, "Hel", "lo"), append(1, "lo", " wor")], (0, 1, 0)),
        ([append(0, "lo"), append(1, "Hel")], (0, 0, 2)),
        ([append(0, "Hel"), append(1, "l")], (0, 0, 1)),
    ],
)
def test_broken_histories_are_counted(events: list[Event], expected: tuple[int, int, int]) -> None:
    """A gap, a repetition, another order, another text."""
    assert counts(judged(*events)) == expected


def replaced(text: str, to: int) -> Event:
    return event("replace", to=to, text=text, parts=[], status="streaming", reason="behind")


@pytest.mark.parametrize(
    "anew",
    [
        replaced("Hel", 1),
        snapshot("Hel", 1),
        Event("message", "c", snapshot("Hel", 1).data["messages"][1], "http://eu"),
    ],
    ids=lambda anew: anew.event,
)
def test_text_that_is_taken_back_is_lost(anew: Event) -> None:
    """Also when it is announced: nothing in the demo is a reason for it."""
    received = judged(append(0, "Hel", "lo"), anew, append(1, "lo", " wor", "ld"))
    assert counts(received) == (1, 0, 0)
    assert received.text == "".join(SOURCE)
    assert received.replaced == 1


def test_a_message_that_is_deleted_is_lost() -> None:
    """All that was held of it; and its reader waits for no more."""
    for gone in (event("delete"), Event("deleted", "c", {}, "http://eu")):
        received = judged(append(0, "Hel", "lo"), gone)
        assert counts(received) == (2, 0, 0) and received.is_over


def test_what_is_told_anew_is_judged_too() -> None:
    """Another text is none of the source; the same again is not silent either."""
    assert counts(judged(append(0, "Hel"), replaced("Hallo", 2))) == (0, 0, 1)
    assert counts(judged(snapshot("Hellx", 2))) == (0, 0, 1)
    again = judged(append(0, "Hel"), replaced("Hel", 1))
    assert counts(again) == (0, 0, 0) and again.replaced == 1
    first = judged(snapshot("Hello", 2))
    assert counts(first) == (0, 0, 0) and first.replaced == 0


@pytest.mark.parametrize(
    "wrong",
    [
        append(0),
        event("append", part=0, **{"from": 0}, to=2, text="Hel"),
        event("append", part=0, **{"from": 0}, to=1, text="Hello"),
        event("append", part=0, **{"from": 0}, to=9, text="Hello world"),
        event("append", part=0, **{"from": 2}, to=1, text=""),
        event("append", part=0, **{"from": 0}, to=1, items=[{"set": {}}]),
    ],
)
def test_a_count_that_does_not_fit_its_text_is_seen(wrong: Event) -> None:
    """Too little text for what it says it is, too much, beyond the source, backwards, no text; and
    an append of nothing moves nothing."""
    received = judged(wrong)
    assert received.reordered == (wrong.data["to"] != 0)


def test_what_is_said_of_other_messages_does_not_count() -> None:
    """Nor what is no part of the text."""
    events = [
        Event("append", "c", {"message": "x", "from": 0, "to": 1, "text": "?"}, "http://eu"),
        Event("end", "c", {"message": "x", "status": "complete", "length": 1}, "http://eu"),
        event("stale", held=True),
        Event("stale", "c", {"message": None, "held": True}, "http://eu"),
        Event("metadata", "c", {"metadata": {}}, "http://eu"),
        Event("ready", "c", {}, "http://eu"),
    ]
    assert judged(*events) == Received(SOURCE)


GOOD: dict[str, Any] = {
    "tokens": 4,
    "lost": 0,
    "duplicated": 0,
    "reordered": 0,
    "replaced": 0,
    "texts_equal": True,
    "regions_equal": True,
    "killed_at_token": 1,
    "returned_at_token": 3,
    "agent_moves": 1,
    "reader_gap_ms": dict.fromkeys(NAMES, 5),
    "reader_regions": {"eu": ["eu", "us"], "us": ["us"], "ap": ["ap"]},
    "reader_appends": dict.fromkeys(NAMES, 3),
    "reader_status": dict.fromkeys(NAMES, "complete"),
}


def test_a_good_run_is_ok() -> None:
    """With all the evidence there is."""
    assert (Result(**GOOD).ok, Result(**GOOD).faults) == (True, [])


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"lost": 1}, "1 lost"),
        ({"duplicated": 2}, "2 duplicated"),
        ({"reordered": 1}, "1 reordered"),
        ({"replaced": 1}, "1 replaced"),
        ({"texts_equal": False}, "the texts are not equal"),
        ({"regions_equal": False}, "the regions are not equal"),
        ({"killed_at_token": 0}, "eu was not killed in the middle of the answer"),
        ({"killed_at_token": 4}, "eu was not killed in the middle of the answer"),
        ({"returned_at_token": 0}, "eu did not come back"),
        ({"agent_moves": 0}, "the agent never had to move"),
        ({"reader_regions": {"eu": ["eu"]}}, "the reader of eu never had to move"),
        (
            {"reader_appends": {"eu": 1, "us": 0, "ap": 1}},
            "the reader of us saw nothing of it live",
        ),
        (
            {"reader_status": {"eu": "complete", "us": "complete", "ap": "failed"}},
            "the reader of ap was not told of the end",
        ),
    ],
)
def test_a_run_with_a_fault_is_not_ok(changes: dict[str, Any], fault: str) -> None:
    """Neither one in which something went wrong nor one in which something was not shown; and the
    report says what."""
    result = Result(**{**GOOD, **changes})
    assert (result.ok, result.faults) == (False, [fault])
    assert "THIS RUN FAILED" in _report(result) and f"- {fault}" in _report(result)


def test_a_run_in_which_nothing_happened_is_not_ok() -> None:
    """No tokens, no readers: nothing was lost, and nothing was proved."""
    empty = {name: {} for name in GOOD if name.startswith("reader_")}
    nothing = {"tokens": 0, "killed_at_token": 0, "returned_at_token": 0, "agent_moves": 0}
    assert not Result(**{**GOOD, **nothing, **empty}).ok


# The screen


def test_the_end_of_a_text_fits_its_lines() -> None:
    """Wide characters take two columns, combining ones none."""
    assert tail("abcdef", 3, 2) == ["abc", "def"]
    assert tail("漢字漢字", 4, 2) == ["漢字", "漢字"]
    assert tail("a\nb", 9, 3) == ["", "a", "b"]
    assert tail("e\u0301" * 3, 3, 1) == ["e\u0301" * 3]
    assert tail("abc", 3, 0) == []
    assert tail("", 3, 2) == ["", ""]


def test_lines_stay_where_they_are_while_text_comes() -> None:
    """Each is broken at the same places, however much follows it."""
    text = "".join(f"line {n} of the answer " for n in range(20)) + "\n"
    text += "".join(f"second {n} " for n in range(60))
    seen: list[str] = []
    for length in range(1, len(text)):
        *whole, _ = tail(text[:length], 17, 4)
        seen += [line for line in whole if line and line not in seen]
    broken: list[str] = []
    for part in text.split("\n"):
        broken += [part[i : i + 17] for i in range(0, len(part), 17)]
    assert set(seen) <= set(broken) and len(seen) > 30


def test_a_screen_that_is_no_terminal_gets_plain_lines() -> None:
    """No escape sequences in a log, and no line for each picture."""
    out = io.StringIO()
    screen = Screen(out)
    screen.say("hello")
    for held in range(25):
        screen.draw({"eu": (["eu"], held, "abc")})
    screen.say("bye")
    assert "\x1b" not in out.getvalue()
    assert out.getvalue().splitlines() == [
        "• hello",
        *(f"  agent at eu: 0 written; readers: eu {held}" for held in (0, 10, 20)),
        "• bye",
    ]


class Terminal(io.StringIO):
    """A terminal that knows what the demo uses: going up, and erasing."""

    def __init__(self, columns: int, lines: int) -> None:
        super().__init__()
        self.size = os.terminal_size((columns, lines))
        self.rows = [""]
        self.writes = 0

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.writes += 1
        for part in re.findall(r"\x1b\[[0-9]*[A-Za-z]|\n|[^\x1b\n]+", text):
            self._take(part)
        return len(text)

    def _take(self, part: str) -> None:
        if part == "\n":
            assert columns_of(self.rows[self.row]) < self.size.columns, self.rows[self.row]
            self.row += 1
            self.rows += [""] * (self.row == len(self.rows))
            self.fresh = True
        elif match := re.fullmatch(r"\x1b\[(\d+)F", part):
            assert int(match[1]) < self.size.lines, "what has scrolled away cannot be drawn over"
            self.row -= int(match[1])
            assert self.row >= 0
            self.fresh = True
        elif part == "\x1b[K":
            if self.fresh:
                self.rows[self.row] = ""
        elif part == "\x1b[J":
            del self.rows[self.row :]
            self.rows.append("")
        elif not part.endswith("m"):
            self.rows[self.row] = part if self.fresh else self.rows[self.row] + part
            self.fresh = False

    row = 0
    fresh = True


def columns_of(text: str) -> int:
    return sum(2 if east_asian_width(c) in "WF" else c.isprintable() for c in text)


@pytest.mark.parametrize(("columns", "lines"), [(80, 24), (200, 50), (40, 12), (24, 8), (30, 6)])
def test_a_terminal_holds_one_picture(
    monkeypatch: pytest.MonkeyPatch, columns: int, lines: int
) -> None:
    """Drawn over itself however long it goes on, in one write, no wider and no higher than the
    terminal; what is said stands above it, once."""
    terminal = Terminal(columns, lines)
    monkeypatch.setattr("shutil.get_terminal_size", lambda: terminal.size)
    screen = Screen(terminal)
    screen.say("begin")
    for number in range(20):
        text = "漢字 and 👩\u200d💻 words\n" * number
        screen.written = screen.stable = number * 1_000
        screen.draw({name: (["us"], number, text) for name in NAMES})
        if number == 9:
            screen.say("killed")
    assert terminal.writes == 22
    heads = [n for n, row in enumerate(terminal.rows) if row.startswith("agent → eu")]
    assert terminal.rows[:2] == ["• begin", "• killed"] and heads == [2]
    below = terminal.rows[2:]
    assert len(below) <= lines
    assert [row.split()[0] for row in below if row[:2] in NAMES] == list(NAMES)
    if lines >= 24:
        assert sum("words" in row for row in below) == 12
    assert terminal.rows[-1] == ""
