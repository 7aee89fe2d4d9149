"""A slice of the campaign, and that it would see what it looks for."""

import os
import signal
import time
from typing import Any

import pytest

from tests.fuzz import campaign, target
from tests.fuzz.__main__ import main
from tests.fuzz.campaign import Campaign, Watched
from tests.fuzz.target import Target, campaign_inputs


class Begin:
    value = -1


def test_damaged_updates_do_no_harm(capsys) -> None:
    """Some thousand inputs, through the command line, in a process with a watchdog."""
    assert main(["--inputs", "3000", "--seed", "42"]) == 0
    told = capsys.readouterr().out
    assert "failures: 0" in told
    assert "inputs: 3000" in told


def test_inputs_follow_from_their_numbers() -> None:
    """So that one of them can be put in again."""
    one, other = campaign_inputs(3), campaign_inputs(3)
    assert [one[number] for number in range(50)] == [other[number] for number in range(50)]
    assert one[0] != campaign_inputs(4)[0]


def test_half_of_what_is_made_is_taken() -> None:
    """Inputs that are all refused would show nothing."""
    figures = Target(1).run(range(300), Begin())
    assert figures.inputs == 300
    assert figures.codes["taken"] > 30
    assert len(figures.codes) > 8


def test_a_failure_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """What pycrdt raises, and what takes too long, is told with the input's number."""
    monkeypatch.setattr(target.Living, "read", lambda _: 1 // 0)
    figures = Target(1).run(range(100), Begin())
    assert len(figures.failures) == figures.codes["failed"] > 10
    assert "ZeroDivisionError" in figures.failures[0][1]
    monkeypatch.setattr(target, "INPUT_CPU_MS_MAX", -1)
    assert len(Target(1).run(range(1), Begin()).failures) >= 1


def _hang(seed: int, first: int, inputs: int, begin: Any, pipe: Any) -> None:
    begin.value = first + 3
    while True:
        time.process_time()


def _die(seed: int, first: int, inputs: int, begin: Any, pipe: Any) -> None:
    begin.value = first + 5
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(("work", "at"), [(_hang, 13), (_die, 15)])
def test_a_process_that_hangs_or_dies_is_seen(
    monkeypatch: pytest.MonkeyPatch, work: Any, at: int
) -> None:
    """And the input that did it is known."""
    monkeypatch.setattr(campaign, "_work", work)
    monkeypatch.setattr(campaign, "HANG_CPU_S_MAX", 0.3)
    watched = Watched(1, 10, 20)
    assert isinstance(watched.next(), str)
    assert watched.at == at


def test_memory_that_grows_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against what was in use after the first chunks."""
    monkeypatch.setattr(campaign, "RSS_GROWTH_KIB_MAX", -1_000_000)
    told = Campaign(1, 0, 100)
    told.run()
    assert "KiB of memory" in told.figures.failures[0][1]
