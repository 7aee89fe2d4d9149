"""Three replicas of a session converge under any order, duplication and delay of operations."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from perdure.replication import admission, shelf
from perdure.replication.admission import Draft, Pending, Site
from perdure.replication.coding import decode, encode
from perdure.replication.errors import Refusal
from perdure.replication.hlc import HybridClock
from perdure.replication.ids import LaneKey
from perdure.replication.items import End, make_items
from perdure.replication.lane import Place
from perdure.replication.operations import Operation
from perdure.replication.records import Origin
from perdure.replication.retelling import tell
from perdure.replication.session import Session

from tests.replication.memory_archive import MemoryArchive, store, wake
from tests.replication.strategies import values

NOW_MS = 1_800_000_000_000
REGIONS = ("eu", "us", "ap")


@dataclass
class Replica:
    """A session in one region, with the operations that it has."""

    region: str
    session: Session = field(default_factory=lambda: Session("s"))
    clock: HybridClock = field(default_factory=HybridClock)
    log: list[bytes] = field(default_factory=list)
    seen: set[bytes] = field(default_factory=set)
    archive: MemoryArchive = field(default_factory=MemoryArchive)

    def store(self) -> None:
        store(self.session, self.archive)

    def sleep(self) -> None:
        """Leave memory, and come back."""
        self.store()
        whole, view = self.session.whole(), self.view()
        self.session = wake(self.session, self.archive)
        assert (self.session.whole(), self.view()) == (whole, view)

    def learn(self, other: "Replica") -> None:
        """Absorb all of the other's session, as an empty or long-absent region does."""
        if not other.session.is_blank:
            other.store()
            for piece in tell(other.session, other.region):
                self.take(encode(piece))
            self.seen |= other.seen

    def site(self, skew_ms: int = 0) -> Site:
        return Site(self.region, self.clock, NOW_MS + skew_ms)

    def accept(self, operations: list[Operation]) -> None:
        for operation in operations:
            self.take(encode(operation), own=True)

    def take(self, body: bytes, *, own: bool = False) -> None:
        self.log.append(body)
        self.seen.add(body)
        place = Place(Origin(self.region, 1), len(self.log))
        self.session.apply(decode(body), place, own=own)
        for _ in self.session.refresh():
            pass

    def view(self) -> dict[str, Any]:
        return {**self.session.value("-"), "cursor": None}


@contextmanager
def small_windows(rows: int) -> Iterator[None]:
    """So little of a session is at hand that a few messages do not fit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shelf, "WINDOW_ROWS", rows)
        patch.setattr(shelf, "REVEAL_ROWS", 1)
        patch.setattr(shelf, "GRAVES_AT_HAND", 4)
        yield


ACTIONS = [
    *("open", "append", "append", "append", "end", "claim"),
    *("cancel", "delete", "send", "meta", "reopen", "gossip", "gossip", "sleep", "learn"),
]


@dataclass
class Cluster:
    """Three replicas and producers that talk to any of them."""

    data: st.DataObject
    replicas: list[Replica] = field(default_factory=lambda: [Replica(name) for name in REGIONS])
    lanes: dict[tuple[str, LaneKey], list[Any]] = field(default_factory=dict)
    claims: int = 0

    def draw(self, strategy: st.SearchStrategy[Any]) -> Any:
        return self.data.draw(strategy)

    def act(self) -> None:
        replica = self.draw(st.sampled_from(self.replicas))
        try:
            getattr(self, self.draw(st.sampled_from(ACTIONS)))(replica)
        except Refusal:
            return

    def open(self, replica: Replica) -> None:
        """Opened, perhaps a second time elsewhere, perhaps with another header for the same id."""
        number = self.draw(st.integers(0, 1))
        role = self.draw(st.sampled_from(["assistant", "assistant", "tool"]))
        draft = Draft(role, id=f"m{number}", producer="p0", claim_id=f"claim-{number}-{role}")
        skew = self.draw(st.integers(-5, 5))
        admitted = admission.admit_message(replica.session, draft, replica.site(skew))
        replica.accept(admitted.operations)
        self.lanes.setdefault((admitted.message, admitted.lane), [])

    def reopen(self, replica: Replica) -> None:
        """A producer brings the header that another replica gave it, with what it continues."""
        source = self.draw(st.sampled_from(self.replicas))
        message = source.session.visible(f"m{self.draw(st.integers(0, 1))}")
        if message is not None:
            lane = self.draw(st.sampled_from(sorted(message.lanes)))
            sealed = message.reopening(lane, {})
            replica.accept(list(admission.admit_reopening(replica.session, sealed)))

    def append(self, replica: Replica) -> None:
        if not self.lanes:
            return
        (message, lane), content = self.draw(st.sampled_from(sorted(self.lanes.items())))
        content += self.draw(st.lists(values, max_size=3))
        self.send_lane(replica, message, lane, content)

    def end(self, replica: Replica) -> None:
        if not self.lanes:
            return
        (message, lane), content = self.draw(st.sampled_from(sorted(self.lanes.items())))
        self.send_lane(replica, message, lane, content, End("complete"))

    def send_lane(
        self, replica: Replica, message: str, lane: LaneKey, content: list[Any], *end: End
    ) -> None:
        """From any seq on that the producer still has: the region takes what it lacks."""
        seq = self.draw(st.integers(0, len(content)))
        held = replica.session.messages.get(message)
        if held is not None and lane in held.lanes:
            seq = min(seq, held.lanes[lane].count)
        if content and isinstance(content[-1], End):
            return
        entries = (*make_items(content[seq:]), *end)
        pending: Pending = {}
        admitted = admission.admit_append(replica.session, message, lane, seq, entries, pending)
        replica.accept(list(admitted.operations))
        if end:
            content.append(end[0])

    def claim(self, replica: Replica) -> None:
        message = f"m{self.draw(st.integers(0, 1))}"
        self.claims += self.draw(st.integers(0, 1))
        mode = self.draw(st.sampled_from(["continue", "restart"]))
        admitted = admission.admit_claim(
            replica.session, message, "p1", f"claim-{self.claims:04}", mode
        )
        replica.accept(list(admitted.operations))
        self.lanes.setdefault((message, admitted.lane), [])

    def cancel(self, replica: Replica) -> None:
        replica.accept(admission.admit_cancel(replica.session, f"m{self.draw(st.integers(0, 1))}"))

    def delete(self, replica: Replica) -> None:
        if self.draw(st.integers(0, 5)) == 0:
            message = f"m{self.draw(st.integers(0, 1))}"
            replica.accept(admission.admit_delete(replica.session, message))

    def send(self, replica: Replica) -> None:
        text = self.draw(st.sampled_from(["hello", "other"]))
        draft = Draft("user", id="u", text=text)
        replica.accept(
            list(admission.admit_message(replica.session, draft, replica.site()).operations)
        )

    def meta(self, replica: Replica) -> None:
        patch = {self.draw(st.sampled_from(["a", "b"])): self.draw(st.sampled_from([1, "x", None]))}
        skew = self.draw(st.integers(-5, 5))
        replica.accept(admission.admit_metadata(replica.session, patch, replica.site(skew)))

    def gossip(self, replica: Replica) -> None:
        source = self.draw(st.sampled_from(self.replicas))
        lacking = [body for body in source.log if body not in replica.seen]
        for body in self.draw(st.permutations(lacking))[: self.draw(st.integers(0, len(lacking)))]:
            replica.take(body)

    def sleep(self, replica: Replica) -> None:
        replica.sleep()

    def learn(self, replica: Replica) -> None:
        replica.learn(self.draw(st.sampled_from(self.replicas)))

    def heal(self) -> None:
        """Everything reaches everybody, each time in an order of its own, some of it twice."""
        everything = sorted({body for replica in self.replicas for body in replica.log})
        for replica in self.replicas:
            lacking = [body for body in everything if body not in replica.seen]
            repeated = self.draw(st.lists(st.sampled_from(everything or [b""]), max_size=3))
            for body in self.draw(st.permutations(lacking)) + [b for b in repeated if b]:
                replica.take(body)


@pytest.mark.failure("N7", "C9")
@settings(max_examples=150, deadline=None)
@given(st.data(), st.integers(1, 25), st.sampled_from([0, 1, 32]))
def test_replicas_converge(data: st.DataObject, steps: int, rows: int) -> None:
    """Opens, retries, claims, forks of headers, cancels, ends, deletes: in the end all are equal,
    by what they show, by their digests, and to a replica that is built from the log anew."""
    with small_windows(rows):
        _converge(data, steps)


def _converge(data: st.DataObject, steps: int) -> None:
    cluster = Cluster(data)
    for _ in range(steps):
        cluster.act()
    cluster.heal()
    first, *others = cluster.replicas
    for other in others:
        assert other.view() == first.view()
        assert other.session.whole() == first.session.whole()
        assert other.session.messages.sums.contents_without(
            ()
        ) == first.session.messages.sums.contents_without(())
    rebuilt = Replica("new")
    for body in first.log:
        rebuilt.take(body)
    assert rebuilt.view() == first.view()
    for id_, message in first.session.messages.items():
        if message.shown is not None:
            again = rebuilt.session.messages[id_].document().entries()
            assert message.document().entries() == again
