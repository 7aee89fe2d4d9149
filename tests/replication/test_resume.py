"""Readers that hop between regions with their cursor end with exactly what the regions show.

The readers are the ones that users get: the Python client's reducer, which refuses an ``append``
that does not start where it holds. Regions lag, producers retry elsewhere, readers are cut between
any two events, holds end by arrival or by time, messages settle as soon as they may.
"""

import json
import os
from dataclasses import dataclass, field

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from perdure.replication import admission
from perdure.replication.admission import Draft
from perdure.replication.coding import decode as decode_operation
from perdure.replication.cursor import Position, decode, encode
from perdure.replication.errors import Refusal
from perdure.replication.feed import Draft as EventDraft
from perdure.replication.feed import Event, change_drafts, finish
from perdure.replication.ids import LaneKey
from perdure.replication.items import End
from perdure.replication.lane import Place
from perdure.replication.limits import HOLD_MS
from perdure.replication.records import Origin
from perdure.replication.resume import Returning, resume

from perdure_client.reducer import SessionView, apply
from tests.replication.memory_archive import unload
from tests.replication.test_convergence import ACTIONS, Cluster, Replica, small_windows


class Nobody:
    """Nobody is present, and nothing runs."""

    def fields(self) -> str:
        return '"presence":[],"runs":[]'

    def drafts(self) -> list[EventDraft]:
        return []


NOBODY = Nobody()


@dataclass(eq=False)
class Reader:
    """A reader as the client library is one: a view, the last event id, a connection."""

    view: SessionView = field(default_factory=lambda: SessionView("s"))
    replica: "ServingReplica | None" = None
    returning: Returning | None = None
    queue: list[Event] = field(default_factory=list)
    snapshots: int = 0

    def connect(self, replica: "ServingReplica", now_ms: int) -> None:
        self.leave()
        position = decode(self.view.cursor) if self.view.cursor else None
        first, returning = resume(replica.session, position, now_ms, NOBODY)
        self.queue = list(first)
        self.returning = returning if returning.differs else None
        self.replica = replica
        replica.readers.append(self)

    def leave(self) -> None:
        """Cut: what was not yet received is lost."""
        if self.replica is not None:
            self.replica.readers.remove(self)
        self.replica, self.returning, self.queue = None, None, []

    def receive(self, count: int | None = None) -> None:
        taken, self.queue = self.queue[:count], self.queue[count:] if count is not None else []
        for event in taken:
            apply(self.view, event.name, json.loads(event.data))
            self.view.cursor = event.cursor
            self.snapshots += event.name == "snapshot"

    def expire(self, now_ms: int) -> None:
        if self.returning is not None:
            self.queue += self.returning.on_time(now_ms)
            if not self.returning.differs:
                self.returning = None


@dataclass
class ServingReplica(Replica):
    """A replica with readers, told change by change as the fan-out does it."""

    readers: list[Reader] = field(default_factory=list)

    def take(self, body: bytes, *, own: bool = False) -> None:
        self.log.append(body)
        self.seen.add(body)
        place = Place(Origin(self.region, 1), len(self.log))
        self.session.apply(decode_operation(body), place, own=own)
        for change in self.session.refresh():
            drafts = list(change_drafts(self.session, change))
            for draft in drafts:
                event = finish(self.session, draft)
                for reader in self.readers:
                    if reader.returning is None:
                        reader.queue.append(event)
            for reader in self.readers:
                if reader.returning is not None:
                    reader.queue += reader.returning.on_change(change, drafts)
                    if not reader.returning.differs:
                        reader.returning = None
        for reader in self.readers:
            if reader.returning is not None:
                reader.queue += reader.returning.on_refreshed()
                if not reader.returning.differs:
                    reader.returning = None

    def sleep(self) -> None:
        """What may leave memory does: everything, where nobody reads here."""
        if not self.readers:
            super().sleep()
        else:
            self.store()
            unload(self.session)


@dataclass
class ReadCluster(Cluster):
    """Replicas that serve readers."""

    readers: list[Reader] = field(default_factory=lambda: [Reader(), Reader()])
    now_ms: int = 0

    def step(self) -> None:
        action = self.draw(st.sampled_from([*ACTIONS, "hop", "hop", "read", "settle", "wait"]))
        replica = self.draw(st.sampled_from(self.replicas))
        try:
            getattr(self, action)(replica)
        except Refusal:
            return

    def hop(self, replica: ServingReplica) -> None:
        reader = self.draw(st.sampled_from(self.readers))
        reader.receive(self.draw(st.integers(0, len(reader.queue))))
        reader.connect(replica, self.now_ms)

    def read(self, _: ServingReplica) -> None:
        for reader in self.readers:
            reader.receive(self.draw(st.integers(0, len(reader.queue))))

    def wait(self, _: ServingReplica) -> None:
        self.now_ms += self.draw(st.sampled_from([HOLD_MS // 3, HOLD_MS]))
        for reader in self.readers:
            reader.expire(self.now_ms)

    def settle(self, replica: ServingReplica) -> None:
        """What ended, and stands the same in every region with all that was ever logged of it."""
        for id_, message in list(replica.session.messages.items()):
            ended = message.shown is not None and message.shown.status != "streaming"
            everywhere = all(
                all(body in other.seen for body in one.log)
                for one in self.replicas
                for other in self.replicas
            )
            if ended and everywhere:
                replica.session.settle(id_)

    def finish_reading(self) -> None:
        for number, reader in enumerate(self.readers):
            if self.draw(st.booleans()) or reader.replica is None:
                reader.receive(self.draw(st.integers(0, len(reader.queue))))
                reader.connect(self.replicas[number], self.now_ms)
            reader.expire(self.now_ms + 2 * HOLD_MS)
            reader.receive()


# PERDURE_SHRINK=1 finds the smallest failing schedule; that takes minutes.
PHASES = [Phase.explicit, Phase.reuse, Phase.generate]
if os.environ.get("PERDURE_SHRINK"):
    PHASES.append(Phase.shrink)


def seen(view: SessionView) -> list[tuple[object, ...]]:
    return [(m.id, m.serial, m.role, m.status, m.length, m.text, m.parts) for m in view.messages]


def held(replica: Replica) -> list[tuple[object, ...]]:
    return [
        (m["id"], m["serial"], m["role"], m["status"], m["length"], m["text"], m["parts"])
        for m in replica.view()["messages"]
    ]


@settings(max_examples=250, deadline=None, phases=PHASES)
@given(st.data(), st.integers(1, 40), st.sampled_from([0, 1, 32]))
def test_hopping_readers_end_with_the_text(data: st.DataObject, steps: int, rows: int) -> None:
    """No gap, no duplicate, no reordering on the way; in the end the view is the region's. Whatever
    of the session is in memory, and however a region came by what it holds."""
    with small_windows(rows):
        _read_while_regions_hop(data, steps)


def _read_while_regions_hop(data: st.DataObject, steps: int) -> None:
    cluster = ReadCluster(data, replicas=[ServingReplica(n) for n in ("eu", "us", "ap")])
    for _ in range(steps):
        cluster.step()
    cluster.heal()
    for replica in cluster.replicas:
        cluster.settle(replica)
    cluster.finish_reading()
    for reader in cluster.readers:
        assert [row[:1] + row[2:] for row in seen(reader.view)] == [
            row[:1] + row[2:] for row in held(cluster.replicas[0])
        ]
        assert reader.view.metadata == cluster.replicas[0].session.metadata()


# Each case of the protocol, by hand


@dataclass
class Pair:
    """Two regions with one message ``m`` and its lane, the second possibly behind."""

    eu: ServingReplica = field(default_factory=lambda: ServingReplica("eu"))
    us: ServingReplica = field(default_factory=lambda: ServingReplica("us"))

    def __post_init__(self) -> None:
        draft = Draft("assistant", id="m", producer="p", claim_id="claim-00")
        admitted = admission.admit_message(self.eu.session, draft, self.eu.site())
        self.lane = admitted.lane
        self.eu.accept(list(admitted.operations))
        self.sync()

    def sync(self) -> None:
        for source, target in ((self.eu, self.us), (self.us, self.eu)):
            for body in source.log:
                if body not in target.seen:
                    target.take(body)

    def append(
        self, replica: ServingReplica, seq: int, *entries: str | End, lane: LaneKey | None = None
    ) -> None:
        lane = lane or self.lane
        admitted = admission.admit_append(replica.session, "m", lane, seq, entries, {})
        replica.accept(list(admitted.operations))

    def claim(self, replica: ServingReplica) -> LaneKey:
        claim = admission.admit_claim(replica.session, "m", "q", "claim-01", "continue")
        replica.accept(list(claim.operations))
        return claim.lane


def names(reader: Reader) -> list[str]:
    return [event.name for event in reader.queue]


def reader_at(replica: ServingReplica) -> Reader:
    reader = Reader()
    reader.connect(replica, 0)
    reader.receive()
    return reader


def test_case_1_goes_on_from_its_place() -> None:
    """The region holds at least what the reader has: appends from there, metadata, ready."""
    pair = Pair()
    pair.append(pair.eu, 0, "a", "b")
    reader = reader_at(pair.eu)
    reader.leave()
    pair.append(pair.eu, 2, "c", "d")
    pair.sync()
    reader.connect(pair.us, 0)
    assert names(reader) == ["append", "metadata", "ready"]
    assert '"from":2,"to":4,"text":"cd"' in reader.queue[0].data


@pytest.mark.failure("X6")
def test_case_2_holds_and_passes_on_what_arrives() -> None:
    """A region that is behind sends nothing of the message until it has more than the reader."""
    pair = Pair()
    pair.append(pair.eu, 0, "a", "b", "c")
    reader = reader_at(pair.eu)
    held_at = reader.view.cursor
    pair.append(pair.us, 0, "a")
    reader.connect(pair.us, 0)
    assert names(reader) == ["stale", "metadata", "ready"]
    assert {decode(event.cursor).entries for event in reader.queue} == {decode(held_at).entries}
    reader.receive()
    pair.append(pair.us, 1, "b")
    assert names(reader) == []
    pair.append(pair.us, 2, "c", "d")
    assert names(reader) == ["stale", "append"]
    assert '"from":3,"to":4,"text":"d"' in reader.queue[1].data
    assert decode(reader.queue[0].cursor).entries == decode(held_at).entries
    assert reader.returning is None


def test_case_3_a_hold_ends_when_a_takeover_goes_on_otherwise() -> None:
    """A claim below what the reader holds takes nothing back before it has shown an item."""
    pair = Pair()
    pair.append(pair.eu, 0, "a", "b", "c")
    reader = reader_at(pair.eu)
    pair.append(pair.us, 0, "a")
    reader.connect(pair.us, 0)
    reader.receive()
    lane = pair.claim(pair.us)
    assert names(reader) == []
    pair.append(pair.us, 0, "B", lane=lane)
    assert names(reader) == ["stale", "replace"]
    assert '"reason":"fenced"' in reader.queue[1].data
    reader.receive()
    assert reader.view.messages[0].text == "aB"


def test_case_3_a_hold_ends_when_the_lane_ended_below() -> None:
    """The same lane, ended before what the reader holds: its producer gave two contents."""
    pair = Pair()
    pair.append(pair.eu, 0, "a", "b", "c")
    reader = reader_at(pair.eu)
    pair.append(pair.us, 0, "a")
    reader.connect(pair.us, 0)
    reader.receive()
    pair.append(pair.us, 1, End("failed"))
    assert names(reader) == ["stale", "replace"]
    assert '"reason":"conflict"' in reader.queue[1].data
    reader.receive()
    assert reader.view.messages[0].text == "a"


def test_case_3_a_cancel_takes_nothing_back() -> None:
    """Cancelled here below what the reader holds: it keeps its text, and is told of the cancel when
    that text has come."""
    pair = Pair()
    pair.append(pair.eu, 0, "a", "b", "c")
    reader = reader_at(pair.eu)
    pair.append(pair.us, 0, "a")
    reader.connect(pair.us, 0)
    reader.receive()
    pair.us.accept(admission.admit_cancel(pair.us.session, "m"))
    assert names(reader) == []
    pair.sync()
    assert names(reader) == ["stale", "end"]
    reader.receive()
    message = reader.view.messages[0]
    assert (message.text, message.status) == ("abc", "cancelled")


def test_case_3_a_hold_ends_after_its_time() -> None:
    """After 30 s the region says what it holds, and the reader follows it from then on."""
    pair = Pair()
    pair.append(pair.eu, 0, "a", "b", "c")
    reader = reader_at(pair.eu)
    reader.connect(pair.us, 1_000)
    reader.receive()
    reader.expire(1_000 + HOLD_MS - 1)
    assert names(reader) == []
    reader.expire(1_000 + HOLD_MS)
    assert names(reader) == ["stale", "replace"]
    assert '"reason":"behind"' in reader.queue[1].data
    reader.receive()
    pair.sync()
    reader.receive()
    assert reader.view.messages[0].text == "abc"


def test_case_3_an_unknown_message_ends_in_a_snapshot() -> None:
    """The region does not even know the message: after 30 s a snapshot, and later the message."""
    pair = Pair()
    draft = Draft("user", id="new", text="hi")
    pair.eu.accept(list(admission.admit_message(pair.eu.session, draft, pair.eu.site()).operations))
    reader = reader_at(pair.eu)
    reader.connect(pair.us, 0)
    assert names(reader) == ["stale", "metadata", "ready"]
    reader.receive()
    reader.expire(HOLD_MS)
    assert names(reader) == ["snapshot"]
    reader.receive()
    pair.sync()
    reader.receive()
    assert {m.id for m in reader.view.messages} == {"m", "new"}


@pytest.mark.failure("C11")
def test_case_4_fenced_forked_and_deleted() -> None:
    """A claim below the reader's place, two contents, a deletion: for that message alone."""
    pair = Pair()
    pair.append(pair.eu, 0, "a", "b", "c")
    reader = reader_at(pair.eu)
    reader.leave()
    pair.append(pair.us, 0, "a")
    pair.append(pair.us, 0, "B", lane=pair.claim(pair.us))
    pair.sync()
    reader.connect(pair.us, 0)
    assert names(reader) == ["replace", "metadata", "ready"]
    assert '"reason":"fenced"' in reader.queue[0].data
    reader.receive()
    reader.leave()
    pair.us.accept(admission.admit_delete(pair.us.session, "m"))
    reader.connect(pair.us, 0)
    assert names(reader) == ["delete", "metadata", "ready"]
    reader.receive()
    assert reader.view.messages == []


@pytest.mark.failure("C8")
def test_case_4_a_fork_replaces() -> None:
    """The reader may hold either content: it is told the one that won."""
    pair = Pair()
    pair.append(pair.eu, 0, "a", "b")
    reader = reader_at(pair.eu)
    reader.leave()
    pair.append(pair.us, 0, "a", "x")
    pair.sync()
    reader.connect(pair.us, 0)
    assert names(reader) == ["replace", "metadata", "ready"]
    assert '"reason":"conflict"' in reader.queue[0].data


def test_case_5_missing_messages_come_assembled() -> None:
    """What came, ended and settled while the reader was away is sent whole; deletions are told."""
    pair = Pair()
    pair.append(pair.eu, 0, "a", End("complete"))
    pair.sync()
    pair.eu.session.settle("m")
    reader = reader_at(pair.eu)
    reader.leave()
    for id_ in ("x", "y"):
        draft = Draft("user", id=id_, text=id_ * 3)
        new = admission.admit_message(pair.eu.session, draft, pair.eu.site())
        pair.eu.accept(list(new.operations))
    pair.sync()
    for id_ in ("m", "x", "y"):
        pair.us.session.settle(id_)
    reader.connect(pair.us, 0)
    assert names(reader) == ["message", "message", "metadata", "ready"]
    reader.receive(1)
    reader.connect(pair.us, 0)
    assert names(reader) == ["message", "metadata", "ready"]
    reader.receive()
    reader.leave()
    pair.us.accept(admission.admit_delete(pair.us.session, "x"))
    reader.connect(pair.us, 0)
    assert names(reader) == ["delete", "metadata", "ready"]
    reader.receive()
    assert [m.text for m in reader.view.messages] == ["a", "yyy"]


def test_case_5_a_region_that_cannot_show_it_is_ahead_waits() -> None:
    """The rest differs: nothing is sent for 30 s, then a snapshot; or at once when it fits."""
    pair = Pair()
    draft = Draft("user", id="x", text="x")
    pair.eu.accept(list(admission.admit_message(pair.eu.session, draft, pair.eu.site()).operations))
    pair.eu.session.settle("x")
    reader = reader_at(pair.eu)
    reader.connect(pair.us, 0)
    assert names(reader) == ["stale"]
    reader.receive()
    pair.append(pair.us, 0, "a")
    assert names(reader) == []
    pair.sync()
    assert names(reader)[0] == "stale"
    assert names(reader)[-2:] == ["metadata", "ready"]
    reader.receive()
    assert seen(reader.view) == held(pair.us)
    fresh = Reader(view=SessionView("s", cursor=encode(Position(
        decode(reader.view.cursor or "").session, (), 99, 1))))  # fmt: skip
    fresh.connect(pair.us, 0)
    assert names(fresh) == ["stale"]
    fresh.expire(HOLD_MS)
    assert names(fresh) == ["stale", "snapshot", "ready"]


@pytest.mark.failure("X6", "S6")
def test_foreign_cursors_get_a_snapshot() -> None:
    """A well-formed cursor of another session is answered with what is here."""
    pair = Pair()
    other = encode(Position(0x1234, (), 0, 0))
    reader = Reader(view=SessionView("s", cursor=other))
    reader.connect(pair.eu, 0)
    assert names(reader) == ["snapshot", "ready"]


def test_a_reader_that_holds_more_waits_also_where_little_is_at_hand() -> None:
    """To look for what the reader lacks fetches older messages, while that is under way."""
    with small_windows(0):
        pair = Pair()
        for replica, ids in ((pair.eu, "abc"), (pair.us, "x")):
            for id_ in ids:
                draft = Draft("user", id=id_, text=id_)
                admitted = admission.admit_message(replica.session, draft, replica.site())
                replica.accept(list(admitted.operations))
                replica.session.settle(id_)
        reader = reader_at(pair.us)
        pair.eu.sleep()
        reader.connect(pair.eu, 0)
        assert names(reader) == ["stale"]
        pair.sync()
        reader.receive()
        assert {message.id for message in reader.view.messages} == set("abcmx")
