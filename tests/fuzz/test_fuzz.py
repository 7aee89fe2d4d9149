"""A slice of the campaign, and that it would see what it looks for."""

import os
import signal
import time
from typing import Any

import pytest
from perdure.replication import frames

from tests.fuzz import campaign, cursors, peer_frames, taking, yjs
from tests.fuzz.__main__ import main
from tests.fuzz.campaign import Campaign, Watched
from tests.fuzz.peer_frames import FramesTarget
from tests.fuzz.yjs import YjsTarget


class Begin:
    value = -1


@pytest.mark.failure("C7")
@pytest.mark.parametrize(
    ("name", "inputs"), [("yjs", 3_000), ("frames", 10_000), ("cursors", 10_000)]
)
def test_damaged_bytes_do_no_harm(capsys, name: str, inputs: int) -> None:
    """Some thousand inputs, through the command line, in a process with a watchdog."""
    assert main(["--target", name, "--inputs", str(inputs), "--seed", "42"]) == 0
    told = capsys.readouterr().out
    assert f"target: {name}" in told
    assert "failures: 0" in told
    assert f"inputs: {inputs}" in told


def test_all_targets_are_tried_without_a_name(capsys) -> None:
    """``make fuzz`` leaves none out, and a failure of one is the failure of all."""
    assert main(["--inputs", "5"]) == 0
    told = capsys.readouterr().out
    assert [line for line in told.splitlines() if line.startswith("target: ")] == [
        f"target: {name}" for name in campaign.TARGETS
    ]


@pytest.mark.parametrize("name", campaign.TARGETS)
def test_inputs_follow_from_their_numbers(name: str) -> None:
    """So that one of them can be put in again."""
    one, other, third = (campaign.TARGETS[name](seed).inputs for seed in (3, 3, 4))
    first = [one[number] for number in range(50)]
    assert first == [other[number] for number in range(50)]
    assert first != [third[number] for number in range(50)]


def test_half_of_what_is_made_is_taken() -> None:
    """Inputs that are all refused would show nothing."""
    figures = YjsTarget(1).run(range(300), Begin())
    assert figures.inputs == 300
    assert figures.codes["taken"] > 30
    assert len(figures.codes) > 8


def test_frames_reach_every_decoder() -> None:
    """Of what is put in, something of every kind is refused early, late, and not at all."""
    figures = FramesTarget(1).run(range(3_000), Begin())
    refusals = {"crc", "mac", "number", "payload", "record", "malformed operation", "link refused"}
    assert refusals <= set(figures.codes)
    assert figures.codes["taken"] > 300


def test_what_no_decoder_may_do_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A forged frame that passes, an operation that is not what it was, a cursor with two texts,
    and what is raised besides refusals."""

    def of(name: str, inputs: int = 300) -> str:
        found = campaign.TARGETS[name](1).run(range(inputs), Begin()).failures
        return found[0][1] if found else ""

    with monkeypatch.context() as patch:
        patch.setattr(frames, "_mac", lambda *_: b"m" * 16)
        patch.setattr(frames.zlib, "crc32", lambda *_: 0)
        assert "nobody made" in of("frames")
    with monkeypatch.context() as patch:
        patch.setattr(peer_frames, "encode", lambda _: b'["delete","other",null]')
        assert "changes on its way" in of("frames")
    with monkeypatch.context() as patch:
        patch.setattr(peer_frames, "decode_records", lambda _: {}["x"])
        assert "KeyError" in of("frames")
    with monkeypatch.context() as patch:
        patch.setattr(cursors, "encode", lambda _: "AAAA")
        assert of("cursors") == ""
        patch.setattr(cursors, "decode", lambda _: cursors.Position(0, (), 0, 0))
        assert "two texts" in of("cursors")


def test_a_failure_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """What pycrdt raises, and what takes too long, is told with the input's number."""
    monkeypatch.setattr(yjs.Living, "read", lambda _: 1 // 0)
    figures = YjsTarget(1).run(range(100), Begin())
    assert len(figures.failures) == figures.codes["failed"] > 10
    assert "ZeroDivisionError" in figures.failures[0][1]
    monkeypatch.setattr(taking, "INPUT_CPU_MS_MAX", -1)
    assert len(YjsTarget(1).run(range(1), Begin()).failures) >= 1


def _hang(name: str, seed: int, first: int, inputs: int, begin: Any, pipe: Any) -> None:
    begin.value = first + 3
    while True:
        time.process_time()


def _die(name: str, seed: int, first: int, inputs: int, begin: Any, pipe: Any) -> None:
    begin.value = first + 5
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(("work", "at"), [(_hang, 13), (_die, 15)])
def test_a_process_that_hangs_or_dies_is_seen(
    monkeypatch: pytest.MonkeyPatch, work: Any, at: int
) -> None:
    """And the input that did it is known."""
    monkeypatch.setattr(campaign, "_work", work)
    monkeypatch.setattr(campaign, "HANG_CPU_S_MAX", 0.3)
    watched = Watched("yjs", 1, 10, 20)
    assert isinstance(watched.next(), str)
    assert watched.at == at


def test_memory_that_grows_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against what was in use after the first chunks."""
    monkeypatch.setattr(campaign, "RSS_GROWTH_KIB_MAX", -1_000_000)
    told = Campaign("yjs", 1, 0, 100)
    told.run()
    assert "KiB of memory" in told.figures.failures[0][1]
