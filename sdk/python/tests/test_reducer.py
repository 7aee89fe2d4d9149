"""The assembled session is a function of the events, and never guesses."""

import copy
from typing import Any

import pytest

from perdure_client import OutOfStep, SessionView, apply


def message(id_: str, **fields: Any) -> dict[str, Any]:
    text = fields.get("text", "")
    value = {"id": id_, "serial": f"0.{id_}", "role": "assistant", "author": None, "text": text}
    value |= {"status": "streaming", "length": 0, "created": "", "metadata": {}}
    value["parts"] = [{"type": "text", "text": text}] if text else []
    return value | fields


def view_of(*messages: dict[str, Any]) -> SessionView:
    view = SessionView("s")
    apply(view, "snapshot", {"messages": list(messages), "metadata": {"a": 1}, "more": False})
    return view


def append(from_: int, to: int, part: int = 0, **content: Any) -> dict[str, Any]:
    return {"message": "m", "part": part, "from": from_, "to": to, **content}


def test_a_snapshot_is_the_whole_state() -> None:
    """What was held before it is gone."""
    view = view_of(message("m", text="x", length=1))
    apply(view, "snapshot", {"messages": [message("n")], "metadata": {}, "more": True})
    assert [m.id for m in view.messages] == ["n"]
    assert (view.metadata, view.more) == ({}, True)


def test_members_come_change_and_leave() -> None:
    """``all`` takes the place of everybody; else the changes add up, also when told twice."""
    view = view_of()
    apply(view, "presence", {"all": [{"member": "a", "data": 1}, {"member": "b"}]})
    change = {"joined": [{"member": "c"}], "updated": [{"member": "a", "data": 2}], "left": []}
    for _ in range(2):
        apply(view, "presence", change)
    apply(view, "presence", {"left": [{"member": "b"}, {"member": "x"}]})
    assert view.presence == {"a": {"member": "a", "data": 2}, "c": {"member": "c"}}
    apply(view, "snapshot", {"messages": [], "metadata": {}, "more": False, "presence": []})
    assert view.presence == {}


def test_runs_that_are_over_are_dropped() -> None:
    """``all`` takes the place of every run; else each is what it was last said to be."""
    view = view_of()
    apply(view, "run", {"all": [{"id": "a", "status": "requested"}]})
    apply(view, "run", {"run": {"id": "b", "status": "running"}})
    apply(view, "run", {"run": {"id": "a", "status": "suspended"}})
    assert {id_: run["status"] for id_, run in view.runs.items()} == {
        "a": "suspended",
        "b": "running",
    }
    apply(view, "run", {"run": {"id": "b", "status": "cancelled"}})
    apply(view, "signal", {"signal": "typing", "data": None})
    assert list(view.runs) == ["a"]


def test_messages_stand_by_serial() -> None:
    """Wherever they arrive; one of the same id takes the place of the other."""
    view = view_of(message("b", serial="2.b"))
    apply(view, "message", message("c", serial="3.c"))
    apply(view, "message", message("a", serial="1.a"))
    apply(view, "message", message("c", serial="0.c", role="tool", reason="conflict"))
    assert [(m.id, m.role) for m in view.messages] == [
        ("c", "tool"), ("a", "assistant"), ("b", "assistant"),
    ]  # fmt: skip


def test_appends_add_up_over_parts_and_marks() -> None:
    """Text goes to its part, marks open parts and set fields."""
    view = view_of(message("m"))
    apply(view, "append", append(0, 2, text="Hello"))
    apply(view, "append", append(2, 3, 1, items=[{"part": {"type": "reasoning"}}]))
    apply(view, "append", append(3, 4, 1, text="hm"))
    apply(view, "append", append(4, 5, 1, items=[{"set": {"done": True}}]))
    apply(view, "append", append(5, 6, 2, items=[{"part": {"type": "text"}}]))
    apply(view, "append", append(6, 7, 2, text=" world"))
    held = view.messages[0]
    assert (held.text, held.length) == ("Hello world", 7)
    assert held.parts[1] == {"type": "reasoning", "text": "hm", "done": True}


def test_every_other_event() -> None:
    """replace, end, stale, delete, metadata, ready, deleted, and what a later version may send."""
    view = view_of(message("m", text="old", length=3), message("n"))
    apply(view, "stale", {"message": "m", "held": True})
    assert [m.held for m in view.messages] == [True, False]
    parts = [{"type": "text", "text": "new"}]
    data = {"message": "m", "to": 1, "text": "new", "parts": parts, "status": "failed"}
    apply(view, "replace", {**data, "reason": "behind"})
    held = view.message("m")
    assert held is not None and (held.text, held.length, held.held) == ("new", 1, False)
    assert held.status == "failed"
    apply(view, "end", {"message": "m", "status": "complete", "length": 1})
    assert held.status == "complete"
    apply(view, "delete", {"message": "m"})
    apply(view, "metadata", {"metadata": {"b": 2}})
    apply(view, "ready", {})
    apply(view, "of a later version", {"what": "ever"})
    assert ([m.id for m in view.messages], view.metadata, view.ready) == (["n"], {"b": 2}, True)
    apply(view, "deleted", {})
    assert view.deleted and view.messages == []


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("append", append(2, 3, text="gap")),
        ("append", append(0, 1, text="again")),
        ("append", append(1, 2, 4, text="no such part")),
        ("append", append(1, 2, 2, items=[{"part": {"type": "text"}}])),
        ("append", append(1, 2, 0, items=[{"part": {"type": "text"}}])),
        ("append", append(1, 2, 1, items=[{"set": {"done": True}}])),
        ("append", {**append(0, 1, text="unknown"), "message": "x"}),
        ("end", {"message": "m", "status": "complete", "length": 2}),
        ("replace", {"message": "x", "to": 0, "text": "", "parts": [], "status": "streaming"}),
    ],
)
def test_what_does_not_fit_is_refused(name: str, data: dict[str, Any]) -> None:
    """It raises, and the view stays as it was."""
    view = view_of(message("m", text="a", length=1))
    before = copy.deepcopy(view)
    with pytest.raises(OutOfStep):
        apply(view, name, data)
    assert view == before


def test_only_the_last_part_is_open() -> None:
    """Text for an earlier one is not put there: the region and the reader see different parts."""
    view = view_of(message("m"))
    apply(view, "append", append(0, 1, 0, items=[{"part": {"type": "reasoning"}}]))
    apply(view, "append", append(1, 2, 1, items=[{"part": {"type": "text"}}]))
    before = copy.deepcopy(view)
    with pytest.raises(OutOfStep):
        apply(view, "append", append(2, 3, 0, text="x"))
    assert view == before


def test_what_is_set_before_any_part_belongs_to_a_text() -> None:
    """As the regions assemble it."""
    view = view_of(message("m"))
    apply(view, "append", append(0, 1, 0, items=[{"set": {"done": True}}]))
    apply(view, "append", append(1, 2, 0, text="x"))
    assert view.messages[0].parts == [{"type": "text", "text": "x", "done": True}]


def test_the_session_as_a_whole_may_be_behind() -> None:
    """``stale`` without a message is of all of them; what comes of one ends it for that one."""
    view = view_of(message("a"), message("m"))
    apply(view, "stale", {"message": None, "held": True})
    assert [m.held for m in view.messages] == [True, True]
    apply(view, "message", message("a"))
    assert [m.held for m in view.messages] == [False, True]
    apply(view, "stale", {"message": None, "held": False})
    assert [m.held for m in view.messages] == [False, False]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("append", append(7, 8, text="x")),
        ("end", {"message": "m", "status": "complete", "length": 7}),
        ("replace", {"message": "m", "to": 0, "text": "", "parts": [], "status": "streaming"}),
    ],
)
def test_a_message_older_than_the_snapshot_is_left_alone(name: str, data: dict[str, Any]) -> None:
    """A snapshot brings the newest 200; what happens to an older one is no reason to start over."""
    view = SessionView("s")
    apply(view, "snapshot", {"messages": [], "metadata": {}, "more": True})
    apply(view, name, data)
    assert view.messages == []


def run(id_: str, status: str, **fields: Any) -> dict[str, Any]:
    return {"id": id_, "message": id_, "session": "s", "status": status, "attempt": 1} | fields


def test_runs_that_are_not_over() -> None:
    """``all`` takes the place of every run; else one is noted as it is now, and dropped when it is
    over; a snapshot brings them, and a deleted session has none."""
    view = view_of()
    apply(view, "run", {"all": [run("m", "running"), run("n", "requested")]})
    apply(view, "run", {"run": run("m", "suspended")})
    apply(view, "run", {"run": run("x", "complete")})
    assert {id_: each["status"] for id_, each in view.runs.items()} == {
        "m": "suspended",
        "n": "requested",
    }
    apply(view, "run", {"run": run("n", "cancelled")})
    assert list(view.runs) == ["m"]
    snapshot = {"messages": [message("m")], "metadata": {}, "more": False}
    apply(view, "snapshot", snapshot | {"runs": [run("o", "running")]})
    assert list(view.runs) == ["o"]
    apply(view, "deleted", {})
    assert view.runs == {}


@pytest.mark.parametrize("order", [("run", "message"), ("message", "run")])
def test_a_message_is_interrupted_with_its_run(order: tuple[str, str]) -> None:
    """Whichever is told first; it is streaming again when its run is, and over when it is over,
    though nobody has told that of the run yet."""
    view = view_of()
    told = {"run": {"run": run("m", "interrupted")}, "message": message("m")}
    for name in order:
        apply(view, name, told[name])
    assert view.messages[0].status == "interrupted"
    apply(copy.deepcopy(view), "run", {"run": run("m", "running")})
    assert view.messages[0].status == "interrupted"
    apply(view, "run", {"run": run("m", "running")})
    assert view.messages[0].status == "streaming"
    apply(view, "run", {"run": run("m", "interrupted")})
    apply(view, "end", {"message": "m", "status": "complete", "length": 0})
    assert view.messages[0].status == "complete"


def test_signals_change_nothing() -> None:
    """They are for who reads the events."""
    view = view_of(message("m"))
    before = copy.deepcopy(view)
    apply(view, "signal", {"signal": "typing", "data": None, "from": "ann", "region": "eu"})
    assert view == before
