"""Order, metadata and pages of a session, and the clock that they rest on."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from perdure.replication import admission
from perdure.replication.admission import Draft, Site
from perdure.replication.errors import Refusal
from perdure.replication.hlc import HybridClock, check_after, serial, to_time
from perdure.replication.lane import Place
from perdure.replication.limits import (
    CLOCK_AHEAD_MS_MAX,
    METADATA_BYTES_MAX,
    METADATA_KEYS_MAX,
    SNAPSHOT_MESSAGES_MAX,
)
from perdure.replication.operations import Metadata, Operation
from perdure.replication.records import Origin
from perdure.replication.session import Session

NOW_MS = 1_800_000_000_000
ids = st.from_regex(r"[A-Za-z0-9._~-]{1,8}", fullmatch=True)


def take(session: Session, operations: list[Operation], region: str = "eu") -> None:
    for number, operation in enumerate(operations):
        session.apply(operation, Place(Origin(region, 1), number + 1))
    for _ in session.refresh():
        pass


def send(session: Session, site: Site, id_: str, after: str | None = None) -> str:
    """A complete message; its serial."""
    draft = Draft("user", id=id_, text=id_, after=after)
    take(session, list(admission.admit_message(session, draft, site).operations))
    return session.messages[id_].serial


# The clock


@pytest.mark.failure("C5")
@given(st.lists(st.tuples(st.integers(0, 10), st.integers(0, 3)), min_size=1, max_size=30))
def test_clock_never_goes_back(steps: list[tuple[int, int]]) -> None:
    """Whatever the wall clock does and whatever is seen, each reading is beyond all before it."""
    clock, last = HybridClock(), 0
    for wall_ms, ahead in steps:
        reading = clock.tick(wall_ms)
        assert reading > last
        last = reading + ahead
        clock.see(last)


@given(ids, ids, st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_serials_sort_as_strings(one: str, other: str, at: int, later: int) -> None:
    """The string order of serials is the order by (clock, id)."""
    assert (serial(at, one) < serial(later, other)) == ((at, one) < (later, other))


def test_times_are_rfc_3339() -> None:
    """UTC with milliseconds, also for a reading that no calendar knows."""
    assert to_time(NOW_MS << 16) == "2027-01-15T08:00:00.000Z"
    assert to_time(2**64 - 1).startswith("9999-12-31T23:59:59.")


# Order


@pytest.mark.failure("C5")
def test_an_answer_never_sorts_before_its_prompt() -> None:
    """``after`` is merged into the clock of a region whose wall clock is an hour late."""
    session, late = Session("s"), Site("us", HybridClock(), NOW_MS - 3_600_000)
    prompt = send(session, Site("eu", HybridClock(), NOW_MS - 3_600_000 + 1), "prompt")
    answer = send(session, late, "answer", after=prompt)
    assert session.messages.order == [prompt, answer]


@pytest.mark.failure("C5")
def test_a_clock_too_far_ahead_is_refused_from_clients_only() -> None:
    """60 s is the most a client's ``after`` may lie ahead; what gossip brings is history."""
    edge = serial((NOW_MS + CLOCK_AHEAD_MS_MAX) << 16, "m")
    assert check_after(edge, NOW_MS) == (NOW_MS + CLOCK_AHEAD_MS_MAX) << 16
    with pytest.raises(Refusal, match="clock_ahead"):
        check_after(serial((NOW_MS + CLOCK_AHEAD_MS_MAX + 1) << 16, "m"), NOW_MS)
    session = Session("s")
    ahead = send(session, Site("ap", HybridClock(), NOW_MS + 3_600_000), "ahead")
    assert session.messages.order == [ahead]


@pytest.mark.parametrize("text", ["", "m", "0" * 16, "0" * 16 + ".", "G" * 16 + ".m", "0" * 17])
def test_what_is_no_serial_is_refused(text: str) -> None:
    """A malformed ``after`` is the caller's mistake, and says so."""
    with pytest.raises(Refusal, match="after must be the serial"):
        check_after(text, NOW_MS)


@given(st.permutations(range(12)))
def test_one_order_whatever_arrives_first(arrival: list[int]) -> None:
    """Messages stand by (created, id) in every region, in whatever order they came."""
    source, clock = Session("s"), HybridClock()
    logged: list[Operation] = []
    for number in range(12):
        site = Site("eu", clock, NOW_MS + number // 3)
        draft = Draft("user", id=f"m{number % 5}-{number}", text="x")
        operations = list(admission.admit_message(source, draft, site).operations)
        logged += operations
        take(source, operations)
    target = Session("s")
    for number in arrival:
        take(target, [logged[number]])
    assert target.messages.order == source.messages.order == sorted(source.messages.order)
    assert target.whole() == source.whole()


# Metadata


patches = st.dictionaries(
    st.sampled_from("abc"), st.one_of(st.none(), st.integers(0, 9), st.just({"deep": [1]}))
)


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.sampled_from(["eu", "us"]), patches),
        unique_by=lambda write: write[:2],
        max_size=8,
    ),
    st.data(),
)
def test_metadata_is_last_writer_wins_by_key(
    writes: list[tuple[int, str, dict[str, Any]]], data: st.DataObject
) -> None:
    """Per top-level key the greatest (clock, region) wins, in any order and with duplicates; null
    deletes and is itself a value, so that an older write does not come back."""
    operations = [Metadata("s", hlc, region, json.dumps(patch)) for hlc, region, patch in writes]
    session = Session("s")
    order = data.draw(st.permutations(operations))
    take(session, order + order[:2])
    expected: dict[str, Any] = {}
    for _, _, patch in sorted(writes, key=lambda write: write[:2]):
        expected |= patch
    assert session.metadata() == {k: v for k, v in expected.items() if v is not None}


def test_metadata_has_limits_as_a_whole() -> None:
    """A patch that would bring the whole beyond a limit is refused, deletes make room."""
    session, site = Session("s"), Site("eu", HybridClock(), NOW_MS)
    full = {f"k{number}": 1 for number in range(METADATA_KEYS_MAX)}
    take(session, admission.admit_metadata(session, full, site))
    with pytest.raises(Refusal, match="too many metadata keys"):
        admission.admit_metadata(session, {"one": "more"}, site)
    take(session, admission.admit_metadata(session, {"k0": None, "one": "more"}, site))
    assert len(session.metadata()) == METADATA_KEYS_MAX
    with pytest.raises(Refusal, match="metadata is too large"):
        admission.admit_metadata(session, {"one": "x" * METADATA_BYTES_MAX}, site)


def test_creating_an_existing_session_changes_nothing() -> None:
    """A second create logs nothing; concurrent creates merge, the earlier time counts."""
    session, site = Session("s"), Site("eu", HybridClock(), NOW_MS)
    take(session, admission.admit_create(session, {"a": 1}, site))
    assert admission.admit_create(session, {"a": 2}, site) == []
    other = Session("s")
    take(other, admission.admit_create(other, {"b": 2}, Site("us", HybridClock(), NOW_MS - 5)))
    before = other.created
    take(session, admission.admit_create(Session("s"), {"b": 2}, Site("us", HybridClock(), NOW_MS)))
    assert session.metadata() == {"a": 1, "b": 2}
    assert before is not None and session.created is not None and before < session.created


# Pages and deletes


def test_pages_go_back_from_the_newest() -> None:
    """A snapshot holds the newest 200; pages before a serial hold the rest, each oldest first."""
    session, clock = Session("s"), HybridClock()
    for number in range(SNAPSHOT_MESSAGES_MAX + 5):
        send(session, Site("eu", clock, NOW_MS), f"m{number}")
    value = session.value("-")
    assert value["more"] is True
    assert [m["id"] for m in value["messages"]] == [f"m{n}" for n in range(5, 205)]
    older, more = session.page(value["messages"][0]["serial"], 3)
    assert ([m["id"] for m in older], more) == (["m2", "m3", "m4"], True)
    oldest, more = session.page(older[0]["serial"], 3)
    assert ([m["id"] for m in oldest], more) == (["m0", "m1"], False)


@pytest.mark.failure("C9", "N7")
def test_deletes_win_over_everything_for_ever() -> None:
    """A deleted message, and a deleted session, take nothing that comes later or again."""
    session, site = Session("s"), Site("eu", HybridClock(), NOW_MS)
    draft = Draft("user", id="m", text="x")
    opened = list(admission.admit_message(session, draft, site).operations)
    take(session, opened)
    take(session, admission.admit_delete(session, "m"))
    take(session, opened)
    assert session.messages.order == []
    for attempt in (lambda: admission.admit_message(session, draft, site),
                    lambda: admission.admit_delete(session, "m")):  # fmt: skip
        with pytest.raises(Refusal, match="deleted"):
            attempt()
    take(session, admission.admit_delete(session, None))
    take(session, opened)
    assert session.deleted and session.messages.order == [] and session.metadata() == {}
    with pytest.raises(Refusal, match="deleted"):
        admission.admit_create(session, {}, site)
