"""What a region keeps for those who run it: lag, clocks, journals, rates, connections; bounded."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from perdure.regions import journal as journal_module
from perdure.regions.activity import Activity
from perdure.regions.connections import Connections, Progress
from perdure.regions.disk_usage import disk_usage
from perdure.regions.history import NAMES, History
from perdure.regions.journal import REPEATED_MS, Journal
from perdure.regions.lag import Lag
from perdure.regions.peer_views import DIGEST_MS_MAX, PeerView
from perdure.regions.ports import StorageFull
from perdure.regions.refusals import TEXT_CHARS_MAX, Refusals
from perdure.regions.searching import Asked, Searching
from perdure.regions.storage import SqliteStorage
from perdure.regions.timeline import checked
from perdure.replication import limits
from perdure.replication.admission import Draft
from perdure.replication.errors import Refusal
from perdure.replication.gossip import Gossip
from perdure.replication.records import Origin, seal
from perdure.replication.tenants import is_own

from tests.regions.conftest import Regions

EU, US = Origin("eu", 1), Origin("us", 2)


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.ms = 1_000_000

    def wall_ms(self) -> int:
        return self.ms + 500

    def monotonic_ms(self) -> int:
        return self.ms


# Lag


def stored(gossip: Gossip, lsns: range, size: int = 10) -> None:
    gossip.stored([seal(EU, lsn, b"x" * size) for lsn in lsns], 0)


def test_lag_is_as_old_as_the_oldest_that_is_not_confirmed() -> None:
    """In records exactly, in bytes by their average, in seconds to within the mark of a second."""
    gossip = Gossip(EU, ["us"])
    gossip.connected("us", US, {}, 0)
    lag = Lag(gossip)
    lag.mark(0, 0)
    stored(gossip, range(1, 11))
    lag.mark(1_000, 100)
    gossip.heard("us", {EU: 10}, True, 1_500)
    lag.mark(2_000, 100)
    assert lag.of("us", 2_500, 100) == (0, 0, 0.0)
    stored(gossip, range(11, 16), 20)
    lag.mark(3_000, 200)
    lag.mark(4_000, 200)
    assert lag.of("us", 7_250, 200) == (5, 100, 4.25)
    gossip.heard("us", {EU: 13}, True, 7_300)
    assert lag.of("us", 8_000, 200) == (2, 40, 5.0)


def test_lag_since_before_the_start_is_at_least_as_old_as_that() -> None:
    """How many bytes those are is not known then, and not invented."""
    gossip = Gossip(EU, ["us"])
    gossip.recovered({EU: 7}, {})
    lag = Lag(gossip)
    lag.mark(1_000, 900)
    assert lag.of("us", 5_000, 900) == (7, None, 4.0)


def test_marks_of_lag_are_bounded(monkeypatch) -> None:
    """However long a peer is away, there are so many; the oldest is still the oldest."""
    monkeypatch.setattr("perdure.regions.lag.LAG_MARKS_MAX", 16)
    gossip = Gossip(EU, ["us"])
    lag = Lag(gossip)
    for second in range(1, 500):
        stored(gossip, range(second, second + 1))
        lag.mark(second * 1_000, second * 10)
        assert len(lag._marks) <= 16
    assert lag.of("us", 500_000, 5_000) == (499, None, 499.0)


# Clocks and digests


def test_the_shortest_round_trip_tells_the_time() -> None:
    """An answer that was held up on one way only does not make a clock wrong."""
    view = PeerView()
    assert view.clock_offset_ms is None and view.rtt_ms is None
    view.timed(10.0, 5_005, 5_010)
    assert view.clock_offset_ms == 0.0
    view.timed(900.0, 6_005, 6_905)
    assert view.clock_offset_ms == 0.0 and view.rtt_ms == 277.0
    for _ in range(8):
        view.timed(20.0, 9_010, 7_020)
    assert view.clock_offset_ms == 2_000.0


def test_a_clock_that_was_set_is_told_at_once() -> None:
    """Two answers that cannot both be of one clock: what was found before counts no more, however
    short its trip was. What a slow trip may say is no such sign."""
    view = PeerView()
    view.timed(10.0, 5_005, 5_010)
    view.timed(900.0, 6_005, 6_905)
    assert view.clock_offset_ms == 0.0
    view.timed(300.0, 10_800_000 + 7_000, 7_150)
    assert view.clock_offset_ms == 10_800_000.0
    view.timed(20.0, 8_000, 8_010)
    assert view.clock_offset_ms == 0.0


def test_what_was_compared_long_ago_is_unknown() -> None:
    """Equal, or different, is said of what was found lately."""
    view = PeerView()
    assert view.digests(0) == "unknown"
    view.compared(True, 1_000)
    assert view.digests(2_000) == "equal"
    view.compared(False, 3_000)
    assert view.digests(DIGEST_MS_MAX + 3_000) == "different"
    assert view.digests(DIGEST_MS_MAX + 3_001) == "unknown"


async def test_what_a_region_tells_of_itself_need_not_fit(regions: Regions) -> None:
    """A build that means something else by a name is shown by the rest of what it says."""
    node, _ = regions.node(peers=["us"])
    node.start(None)
    view = node.oversight.peers.of("us")
    view.value = {"readers": "many", "sees": None, "wire": 3, "version": "9", "sessions": 4}
    view.came_ms = node.clock.monotonic_ms()
    value = node.oversight.overview.value()
    us = value["regions"][1]
    assert (us["readers"], us["sees"], us["wire"]) == (None, [], [])
    assert (us["version"], us["sessions"], us["region"]) == ("9", 4, "us")
    await node.stop()


# Journals, rates, refusals, the last minutes


def test_a_journal_is_bounded_and_counts_what_repeats(monkeypatch) -> None:
    """The same again is one entry; what is longest ago goes first; so many of one session."""
    monkeypatch.setattr(journal_module, "JOURNAL_ENTRIES_MAX", 10)
    clock = Clock()
    journal = Journal(clock.wall_ms)
    for _ in range(3):
        clock.ms += 1_000
        journal.note("s", "retry", "m", "p", "1-0", items=2)
    (entry,) = journal.of("s")
    assert (entry.times, entry.detail, entry.at_ms) == (3, {"items": 6}, clock.wall_ms())
    assert entry.value("eu")["detail"] == {"items": 6, "times": 3}
    clock.ms += REPEATED_MS
    journal.note("s", "retry", "m", "p", "1-0", items=1)
    assert [one.times for one in journal.of("s")] == [3, 1]
    for number in range(30):
        journal.note(f"t{number}", "resumed")
        assert len(journal) <= 10
    assert journal.of("s") == [] and len(journal.of("t29")) == 1
    monkeypatch.setattr(journal_module, "JOURNAL_ENTRIES_MAX", 10_000)
    for number in range(limits.JOURNAL_SESSION_ENTRIES_MAX + 5):
        journal.note("busy", "claimed", f"m{number}")
    assert len(journal.of("busy")) == limits.JOURNAL_SESSION_ENTRIES_MAX
    assert journal.of("busy")[-1].message == f"m{number}"


def test_what_a_peer_tells_is_checked() -> None:
    """Of a peer's journal what is no entry is left out, and what it lacks is null."""
    good = {"at_ms": 5, "kind": "retry", "detail": {}, "more": 1}
    bad = [None, 1, {}, {**good, "at_ms": "5"}, {**good, "detail": None}, {**good, "kind": 1}]
    (found,) = checked([*bad, good])
    assert found["message"] is None and found["kind"] == "retry"
    assert checked("nothing") == []


def test_rates_rise_and_fall(monkeypatch) -> None:
    """A steady rate is told as it is, one that has ended goes, and nothing of it stays."""
    monkeypatch.setattr("perdure.regions.activity.RECENT_SESSIONS_MAX", 2)
    activity = Activity(Clock().wall_ms)
    for _ in range(30):
        activity.counts["a"] = 50
        activity.own += 50
        activity.tick()
    assert 49 < activity.rate_of("a") <= 50 and 49 < activity.rate <= 50
    assert activity.busiest(3) == ["a"]
    for _ in range(60):
        activity.tick()
    assert activity.rate_of("a") == activity.rate == 0 and activity.busiest(3) == []
    for name in "bcd":
        activity.counts[name] = 1
        activity.tick()
    assert activity.recent(9) == ["d", "c"] and activity.updated_ms("a") is None


def test_refusals_by_code() -> None:
    """How many of each, and the last one's words, cut; of what is unexpected no word is told."""
    refusals = Refusals(Clock())
    refusals.note(Refusal("gap", "x" * 999))
    refusals.note(Refusal("gap", "the last"))
    refusals.note(StorageFull("/data/secret"))
    refusals.note(ValueError("secret"))
    codes = {one["code"]: one for one in refusals.value()["codes"]}
    assert (codes["gap"]["count"], codes["gap"]["last_text"]) == (2, "the last")
    assert codes["internal"]["last_text"] == "ValueError" and refusals.count == 4
    assert "secret" not in str(codes)
    refusals.note(Refusal("gap", "x" * 999))
    assert len(refusals.value()["codes"][0]["last_text"]) == TEXT_CHARS_MAX


def test_the_last_minutes() -> None:
    """A ring: the oldest go, and who comes back gets what is new."""
    history = History()
    for number in range(limits.HISTORY_SAMPLES_MAX + 3):
        history.add(number, {"readers": number})
    value = history.value(15)
    assert len(value["samples"]) == limits.HISTORY_SAMPLES_MAX
    at = 1 + NAMES.index("readers")
    assert [sample[at] for sample in history.since(history.count - 2)] == [451, 452]
    assert history.since(history.count) == [] and value["samples"][0][0] == 3
    assert len(history.value(1)["samples"]) == 30


# Connections


class Reading:
    """Something that is read."""

    def __init__(self, *progress: Any) -> None:
        self.at = Progress(*progress)

    def progress(self) -> Progress:
        return self.at


async def test_the_slowest_first() -> None:
    """By what waits for them, then by how long they have taken nothing; more than one turn of the
    loop for many; who has left is not there."""
    connections = Connections(Clock())
    opened = []
    for number in range(5_000):
        way = connections.opened("sse", "s", f"u{number}", "::1")
        one = way.__enter__()
        waiting = 10 * (number in (77, 4_321)) + (number == 77)
        one.follow(Reading(waiting, waiting, 5, number))
        opened.append(way)
    found = await connections.listed("slowest", 3)
    assert [one["subject"] for one in found] == ["u77", "u4321", "u0"]
    assert found[0]["waiting_events"] == 11 and found[0]["last_taken_ms"] == 577
    assert [one["id"] for one in await connections.listed("recent", 2)] == ["c5000", "c4999"]
    for way in opened[1:]:
        way.__exit__(None, None, None)
    assert len(connections) == 1 and connections.find("c2") is None


def test_what_ended_readers_were_given_still_counts() -> None:
    """A socket that has unfollowed a session was given what it was given."""
    with Connections(Clock()).opened("websocket", "s", "u", "::1") as one:
        leave = one.follow(Reading(3, 9, 7, None))
        one.follow(Reading(1, 2, 3, 4))
        assert one.progress() == (4, 11, 10, 4)
        leave()
        leave()
        assert one.progress() == (1, 2, 10, 4)


# Sessions


NAMES_OF_SESSIONS = st.sets(
    st.tuples(
        st.sampled_from(["", "", "a", "a-b", "acme", "acme-x", "0", "zeta", ":"]),
        st.text("aA0z.~_-", min_size=1, max_size=4).filter(lambda t: t not in (".", "..")),
    ).map(lambda name: f"{name[0]}:{name[1]}".removeprefix("::") if name[0] else name[1]),
    max_size=25,
)


class Names:
    """A node that knows some names."""

    def __init__(self, names: set[str]) -> None:
        self.state = self
        self._names = sorted(names)

    def page(self, among: Any, limit: int) -> list[tuple[str, dict[str, Any]]]:
        kind = ":" in among.first
        found = [n for n in self._names if among.first <= n < among.past and (":" in n) == kind]
        return [(name, {"created": None, "messages": len(name)}) for name in found[:limit]]


@given(NAMES_OF_SESSIONS, st.integers(1, 4), st.sampled_from(["", "a", "acme", "acme:", "z"]))
def test_sessions_of_all_tenants_by_name(names: set[str], limit: int, prefix: str) -> None:
    """Page after page gives each once and in order, whatever tenants there are; own ones apart."""

    async def pages(own: bool) -> list[str]:
        searching = Searching(Names(names), Activity(Clock().wall_ms))  # type: ignore[arg-type]
        found: list[str] = []
        after = None
        while True:
            asked = Asked(prefix=prefix, sort="id", after=after, limit=limit, own=own)
            page = await searching.search(asked)
            found += page.ids
            if (after := page.next) is None:
                return found

    expected = sorted(name for name in names if name.startswith(prefix))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("perdure.regions.searching._SLICE", 3)
        assert asyncio.run(pages(own=True)) == expected
        others = [name for name in expected if not is_own(name)]
        assert asyncio.run(pages(own=False)) == others


async def test_a_search_ends(regions: Regions, monkeypatch) -> None:
    """What is sorted by name goes on where a search had looked at enough; by another measure it
    says that there are more."""
    monkeypatch.setattr("perdure.regions.searching.SEARCH_SESSIONS_MAX", 4)
    node, _ = regions.node()
    node.start(None)
    for number in range(9):
        await node.create(f"s{number}", {})
    search = node.oversight.searching.search
    page = await search(Asked(search="8", sort="id"))
    assert page == ([], "s3", False)
    page = await search(Asked(search="8", sort="id", after="s7"))
    assert page == (["s8"], None, True)
    page = await search(Asked(sort="size"))
    assert not page.complete and len(page.ids) == 4
    # What was written to lately is found wherever it is.
    page = await search(Asked(search="8"))
    assert page.ids == ["s8"] and not page.complete
    with pytest.raises(Refusal, match="after"):
        await search(Asked(after="x"))
    await node.stop()


async def test_rows_of_sessions_bring_none_into_memory(regions: Regions) -> None:
    """What a list shows of a session that is stored is read from its rows alone."""
    node, _ = regions.node()
    node.start(None)
    await node.send("s", Draft("user", id="m", text="x"))
    oversight = node.oversight
    (here,) = await oversight.rows(["s"])
    await node.checkpoint.all()
    node.state.now += 1_000
    node.state.evict(0)
    assert "s" not in node.state.sessions
    (row,) = await oversight.rows(["s"])
    assert "s" not in node.state.sessions and row["bytes"] > 0
    assert {**row, "bytes": 0} == {**here, "bytes": 0} and row["messages"] == 1
    assert oversight.searching.exists("s") and not oversight.searching.exists("t")
    await node.stop()


async def test_how_much_is_stored(tmp_path) -> None:
    """Logs by origin, files, sizes of sessions, room on the disk."""
    storage = SqliteStorage(tmp_path)
    storage.open()
    list(storage.replay())
    await storage.commit([seal(EU, lsn, b"x" * 50) for lsn in range(1, 5)])
    found = await storage.measure()
    assert [(log.origin, log.records, log.bytes) for log in found.logs] == [(EU, 4, 200)]
    assert found.wal_bytes > 0 and not found.encrypted
    assert found.database_bytes == storage.path.stat().st_size
    assert await storage.sizes(["s"]) == {"s": (0, "")}
    assert (storage.free_bytes() or 0) > 0 and disk_usage(tmp_path / "gone") is None
    storage.close()
