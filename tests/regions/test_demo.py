"""The failover demo, and that it could not pass on wrong evidence."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from perdure.regions.demo import Received, answer, tokenize
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


async def test_the_demo(tmp_path: Path) -> None:
    """Three processes, one killed with SIGKILL in the middle of the answer: nothing is lost,
    doubled or reordered; all that was asked for is in the result."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "perdure.regions.main", "demo", "failover", "--json"),
        *("--tokens-per-s", "300"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=tmp_path,
    )
    async with asyncio.timeout(DEMO_S_MAX):
        out, said = await process.communicate()
    assert process.returncode == 0, (out, said)
    result = json.loads(out)
    assert (result["lost"], result["duplicated"], result["reordered"]) == (0, 0, 0)
    assert result["texts_equal"] is True and result["regions_equal"] is True
    assert set(result["reader_gap_ms"]) == {"eu", "us", "ap"}
    assert result["tokens"] == len(answer())
    assert 0 < result["killed_at_token"] < result["tokens"]
    assert result["agent_moves"] >= 1
    assert result["reader_regions"]["eu"][0] == "eu" != result["reader_regions"]["eu"][-1]
    assert "eu was killed with SIGKILL" in said.decode()


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


def test_text_that_is_taken_back_is_lost() -> None:
    """Also when it is announced: nothing in the demo is a reason for it."""
    parts = [{"type": "text", "text": "Hel"}]
    replaced = event("replace", to=1, text="Hel", parts=parts, status="streaming", reason="behind")
    assert counts(judged(append(0, "Hel", "lo"), replaced)) == (1, 0, 0)
    whole = {"id": "m", "length": 1, "text": "Hel", "status": "streaming"}
    again = Event("snapshot", "c", {"messages": [whole]}, "http://eu")
    assert counts(judged(append(0, "Hel", "lo"), again)) == (1, 0, 0)


# The screen


def test_the_end_of_a_text_fits_its_lines() -> None:
    """Wide characters take two columns, combining ones none."""
    assert tail("abcdef", 3, 2) == ["abc", "def"]
    assert tail("漢字漢字", 4, 2) == ["漢字", "漢字"]
    assert tail("a\nb", 9, 3) == ["", "a", "b"]
    assert tail("e\u0301" * 3, 3, 1) == ["e\u0301" * 3]


def test_a_screen_that_is_no_terminal_gets_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """No escape sequences in a log."""
    screen = Screen(sys.stdout)
    screen.say("hello")
    screen.draw({"eu": (["eu"], 3, "abc")})
    screen.close(3)
    out = capsys.readouterr().out
    assert "hello" in out and "eu 3" in out and "\x1b" not in out
