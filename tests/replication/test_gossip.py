"""Gossip as a machine: everything arrives everywhere, nothing twice, memory is bounded."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from perdure.replication import gossip as gossip_module
from perdure.replication.gossip import (
    RECENT_BYTES_MAX,
    RECORD_OVERHEAD_BYTES,
    Batch,
    Gossip,
    ReadLog,
)
from perdure.replication.peers import (
    BATCH_BYTES_MAX,
    BATCH_BYTES_START,
    BATCHES_IN_FLIGHT_MAX,
    DOWN_MS,
    FORWARD_DELAY_MS,
    PROMPT_MS,
    SUSPECT_MS,
)
from perdure.replication.records import Origin, Record, Vector, bytes_of, intact, seal

NAMES = ("eu", "us", "ap")


def len_of(record: Record) -> int:
    return len(record.body)


@dataclass
class Region:
    """A region with a disk, and the machine that decides what it sends."""

    name: str
    peers: Iterable[str]
    incarnation: int = 1
    disk: dict[Origin, list[Record]] = field(default_factory=dict)
    sent: int = 0
    # The greatest lsns that were ever on this disk: a disk may be lost.
    ever: Vector = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """A new process on the same disk."""
        self.gossip = Gossip(Origin(self.name, self.incarnation), self.peers)
        self.gossip.recovered({origin: len(records) for origin, records in self.disk.items()}, {})

    def restart(self) -> None:
        self.incarnation += 1
        self.start()

    def write(self, now_ms: int, size: int = 1) -> None:
        origin = self.gossip.me
        lsn = self.gossip.vector.get(origin, 0) + 1
        self.store([seal(origin, lsn, b"x" * size)], now_ms)

    def store(self, records: list[Record], now_ms: int) -> None:
        for record in records:
            self.disk.setdefault(record.origin, []).append(record)
            self.ever[record.origin] = max(record.lsn, self.ever.get(record.origin, 0))
        self.gossip.stored(records, now_ms)

    def next(self, peer: str, now_ms: int) -> list[Record]:
        """What the shell would put on the link now."""
        step = self.gossip.next_batch(peer, now_ms)
        records: list[Record] = []
        if isinstance(step, Batch):
            records = step.records
        elif isinstance(step, ReadLog):
            for record in self.disk.get(step.origin, [])[step.after_lsn :]:
                if records and bytes_of(records) >= step.bytes_max:
                    break
                records.append(record)
        if records:
            self.gossip.sent(peer, records)
            self.sent += len(records)
        known = self.gossip.peers[peer]
        most = known.window_bytes + known.batch_bytes + max(map(len_of, records), default=0)
        assert known.in_flight_bytes <= most, "a window and a batch"
        return records

    def take(self, sender: str, records: list[Record], now_ms: int) -> bool:
        """What arrives from a peer; True when the peer must be told of a gap."""
        self.gossip.heard(sender, None, False, now_ms)
        fresh, beyond = self.gossip.admit(records)
        self.store(fresh, now_ms)
        return beyond


class Net:
    """Regions and the links between them, one for each direction."""

    def __init__(self, names: Iterable[str] = NAMES) -> None:
        names = list(names)
        self.regions = {n: Region(n, [p for p in names if p != n]) for n in names}
        self.up: set[tuple[str, str]] = set()
        self.now_ms = 0
        # Batches and whole vectors that are under way.
        self.late: list[tuple[str, str, list[Record]]] = []
        self.told: list[tuple[str, str, Vector]] = []

    def connect(self, source: str, target: str) -> None:
        one, other = self.regions[source], self.regions[target]
        vector = dict(other.gossip.vector)
        one.gossip.connected(target, other.gossip.me, vector, self.now_ms)
        self.up.add((source, target))

    def lose(self, source: str, target: str) -> None:
        self.up.discard((source, target))
        self.regions[source].gossip.lost(target)

    def connect_all(self) -> None:
        for source, target in permutations(self.regions, 2):
            self.connect(source, target)

    def push(self, source: str, target: str, *, keep: bool = True, ack: bool = True) -> int:
        """One batch over one link; it may be lost on the way, and so may its acknowledgement."""
        one, other = self.regions[source], self.regions[target]
        if (source, target) not in self.up:
            return 0
        records = one.next(target, self.now_ms)
        if records and keep:
            gap = other.take(source, records, self.now_ms)
            if ack:
                one.gossip.heard(target, dict(other.gossip.vector), True, self.now_ms)
                if gap:
                    one.gossip.resend(target)
        return len(records)

    def report(self, source: str, target: str) -> None:
        """The whole vector, as every second."""
        one, other = self.regions[source], self.regions[target]
        other.gossip.heard(source, dict(one.gossip.vector), True, self.now_ms)

    def restart(self, name: str) -> None:
        self.regions[name].restart()
        for other in self.regions:
            if other != name:
                self.lose(name, other)
                self.lose(other, name)

    def assert_truthful(self) -> None:
        """Nothing counts as stable or settled that never was on those disks."""
        for region in self.regions.values():
            gossip = region.gossip
            others = [other for other in self.regions.values() if other is not region]
            for origin, lsn in gossip.stable_vector().items():
                assert origin.region == region.name
                assert max(other.ever.get(origin, 0) for other in others) >= lsn
            for origin in gossip.vector:
                reached = gossip.settled_lsn(origin)
                assert min(other.ever.get(origin, 0) for other in others) >= reached

    def settle(self) -> None:
        """Links as they are, nothing lost any more, until there is nothing to send."""
        for _ in range(6):
            self.now_ms += FORWARD_DELAY_MS
            for source, target in sorted(self.up):
                self.report(target, source)
                while self.push(source, target):
                    pass

    def assert_equal(self) -> None:
        first, *others = self.regions.values()
        for other in others:
            assert other.disk == first.disk
            assert other.gossip.vector == first.gossip.vector


def step(net: Net, data: st.DataObject) -> None:
    """Something happens, somewhere."""
    region = net.regions[data.draw(st.sampled_from(NAMES))]
    source, target = data.draw(st.sampled_from(list(permutations(NAMES, 2))))
    match data.draw(st.sampled_from(STEPS)):
        case "write":
            region.write(net.now_ms, data.draw(st.sampled_from([1, 3_000])))
        case "push":
            net.push(source, target, ack=data.draw(st.booleans()))
        case "lost":
            net.push(source, target, keep=False)
        case "late" if (source, target) in net.up:
            net.late.append((source, target, net.regions[source].next(target, net.now_ms)))
        case "again" if net.late:
            sender, receiver, records = data.draw(st.sampled_from(net.late))
            net.regions[receiver].take(sender, records, net.now_ms)
        case "tell":
            net.told.append((source, target, dict(net.regions[source].gossip.vector)))
        case "told" if net.told:
            sender, receiver, vector = data.draw(st.sampled_from(net.told))
            net.regions[receiver].gossip.heard(sender, vector, True, net.now_ms)
        case "cut":
            net.lose(source, target)
        case "link":
            net.connect(source, target)
        case "report":
            net.report(source, target)
        case "restart":
            net.restart(region.name)
        case "wipe":
            region.disk.clear()
            net.restart(region.name)


STEPS = [
    *("write", "write", "push", "push", "lost", "late", "again", "tell", "told"),
    *("cut", "link", "report", "restart", "wipe"),
]


@pytest.mark.failure("N7")
@settings(max_examples=150, deadline=None)
@given(st.data(), st.integers(1, 60), st.sampled_from([400, 10_000, RECENT_BYTES_MAX]))
def test_everything_arrives_everywhere(data: st.DataObject, steps: int, memory: int) -> None:
    """Whatever is lost, comes late, twice or in another order, whichever links, processes and disks
    die, however little is kept in memory: no vector ever passes a gap, nothing is called stable or
    settled that is not, and once all can talk, all disks hold the same records, each once."""
    net = Net()
    net.connect_all()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gossip_module, "RECENT_BYTES_MAX", memory)
        for _ in range(steps):
            net.now_ms += data.draw(st.sampled_from([0, 1, 400, FORWARD_DELAY_MS]))
            step(net, data)
            net.assert_truthful()
        net.connect_all()
        net.settle()
    net.assert_truthful()
    net.assert_equal()
    for records in net.regions["eu"].disk.values():
        assert [record.lsn for record in records] == list(range(1, len(records) + 1))
        assert all(map(intact, records))


def test_in_a_full_mesh_nothing_is_sent_twice() -> None:
    """Each record goes over one link to each peer, and nobody forwards what all have."""
    net = Net()
    net.connect_all()
    for _ in range(10):
        for region in net.regions.values():
            region.write(net.now_ms)
        for source, target in permutations(NAMES, 2):
            while net.push(source, target):
                pass
        for source, target in permutations(NAMES, 2):
            net.report(source, target)
        net.now_ms += 2 * FORWARD_DELAY_MS
    for source, target in permutations(NAMES, 2):
        assert net.push(source, target) == 0
    net.assert_equal()
    assert [region.sent for region in net.regions.values()] == [20, 20, 20]


@pytest.mark.failure("N3")
def test_a_third_region_carries_what_two_cannot_tell_each_other() -> None:
    """Eu and ap are cut off from each other; us forwards, but not before it had time to be
    unnecessary."""
    net = Net()
    for source, target in permutations(NAMES, 2):
        if {source, target} != {"eu", "ap"}:
            net.connect(source, target)
    net.regions["eu"].write(net.now_ms)
    assert net.push("eu", "us") == 1
    net.now_ms += FORWARD_DELAY_MS - 1
    assert net.push("us", "ap") == 0
    net.now_ms += 1
    assert net.push("us", "ap") == 1
    net.assert_equal()


@pytest.mark.failure("C2")
def test_a_peer_that_was_restarted_is_given_what_its_former_process_accepted() -> None:
    """Nobody else would: the new process has a new incarnation; its disk may be empty."""
    net = Net(("eu", "us"))
    net.connect_all()
    net.regions["us"].write(net.now_ms)
    net.push("us", "eu")
    net.regions["us"].disk.clear()
    net.regions["us"].restart()
    net.connect_all()
    net.now_ms += FORWARD_DELAY_MS
    net.settle()
    net.assert_equal()
    assert Origin("us", 1) in net.regions["us"].gossip.vector


@pytest.mark.failure("C2", "P14")
def test_a_peer_that_lost_its_disk_gets_everything_again() -> None:
    """It reports less than before, and is believed; what was stable stays so."""
    net = Net(("eu", "us"))
    net.connect_all()
    eu, us = net.regions["eu"], net.regions["us"]
    for _ in range(5):
        eu.write(net.now_ms)
        net.push("eu", "us")
    assert eu.gossip.behind("us") == 0
    us.disk.clear()
    net.restart("us")
    net.connect_all()
    assert eu.gossip.behind("us") == 5
    assert eu.gossip.is_stable(eu.gossip.me, 5)
    while net.push("eu", "us"):
        pass
    net.assert_equal()


@pytest.mark.failure("C2")
def test_nobody_else_accepts_for_a_running_incarnation() -> None:
    """A record of this very process that this process has not written is a forgery or a fault."""
    region = Region("eu", ["us"])
    assert region.gossip.admit([seal(Origin("eu", 1), 1, b"x")]) == ([], False)


def test_a_gap_is_dropped_and_told() -> None:
    """What lies beyond it is not stored; what comes before it is."""
    region, origin = Region("eu", ["us"]), Origin("us", 9)
    first, third = seal(origin, 1, b"a"), seal(origin, 3, b"c")
    assert region.gossip.admit([first, third]) == ([first], True)
    assert region.gossip.admit([third]) == ([], True)


# Windows and memory


@pytest.mark.failure("N5")
def test_a_peer_that_never_acknowledges_gets_a_bounded_amount() -> None:
    """A window of small batches at first; the rest stays in the log."""
    net = Net(("eu", "us"))
    net.connect_all()
    eu = net.regions["eu"]
    for _ in range(400):
        eu.write(net.now_ms, 1_000)
    while net.push("eu", "us", ack=False):
        pass
    peer = eu.gossip.peers["us"]
    window = BATCH_BYTES_START * BATCHES_IN_FLIGHT_MAX
    assert window <= peer.in_flight_bytes <= window + BATCH_BYTES_START + 1_000


def test_batches_grow_while_they_are_acknowledged_in_time() -> None:
    """Doubling, up to the limit; a late acknowledgement lets them be."""
    net = Net(("eu", "us"))
    net.connect_all()
    eu = net.regions["eu"]
    peer = eu.gossip.peers["us"]

    def exchange(delay_ms: int) -> None:
        eu.write(net.now_ms)
        records = eu.next("us", net.now_ms)
        net.now_ms += delay_ms
        net.regions["us"].take("eu", records, net.now_ms)
        net.report("us", "eu")

    exchange(PROMPT_MS)
    assert peer.batch_bytes == BATCH_BYTES_START
    for _ in range(20):
        exchange(PROMPT_MS - 1)
    assert peer.batch_bytes == BATCH_BYTES_MAX
    net.connect("eu", "us")
    assert peer.batch_bytes == BATCH_BYTES_START


def test_a_record_larger_than_a_batch_goes_alone() -> None:
    """Limits never stop anything."""
    net = Net(("eu", "us"))
    net.connect_all()
    for size in (10, 2 * BATCH_BYTES_MAX, 10):
        net.regions["eu"].write(net.now_ms, size)
    sizes = []
    while count := net.push("eu", "us"):
        sizes.append(count)
    assert sizes == [1, 1, 1]
    net.assert_equal()


@pytest.mark.failure("N5")
def test_memory_is_bounded_and_the_log_serves_the_rest() -> None:
    """A slow peer's backlog is read from disk; the newest records are kept for the quick ones."""
    net = Net(("eu", "us"))
    eu = net.regions["eu"]
    count = RECENT_BYTES_MAX // 50_000 + 40
    for _ in range(count):
        eu.write(net.now_ms, 50_000 - RECORD_OVERHEAD_BYTES)
    net.connect_all()
    step = eu.gossip.next_batch("us", net.now_ms)
    assert step == ReadLog(eu.gossip.me, 0, BATCH_BYTES_START)
    kept = sum(len(recent.records) for recent in eu.gossip._recent.values())
    assert kept * 50_000 <= RECENT_BYTES_MAX
    net.settle()
    net.assert_equal()


def test_what_is_new_does_not_keep_a_backlog_waiting() -> None:
    """However steadily it comes."""
    net = Net(("eu", "us"))
    eu, old = net.regions["eu"], Origin("eu", 0)
    eu.disk[old] = [seal(old, lsn, b"x" * 1_000) for lsn in range(1, 20)]
    eu.restart()
    net.connect("eu", "us")
    for _ in range(8):
        eu.write(net.now_ms)
        net.push("eu", "us")
    assert net.regions["us"].disk[old] == eu.disk[old]


def test_nothing_is_sent_again_while_it_is_on_its_way() -> None:
    """An acknowledgement that takes its time costs nothing."""
    net = Net(("eu", "us"))
    net.connect("eu", "us")
    eu = net.regions["eu"]
    eu.write(net.now_ms)
    assert net.push("eu", "us", ack=False) == 1
    assert net.push("eu", "us", ack=False) == 0
    eu.write(net.now_ms)
    assert net.push("eu", "us", ack=False) == 1


def test_after_a_gap_the_peer_is_sent_what_it_lacks() -> None:
    """Over the same link, from what it has."""
    net = Net(("eu", "us"))
    net.connect("eu", "us")
    for keep in (True, False, True):
        net.regions["eu"].write(net.now_ms)
        net.push("eu", "us", keep=keep)
    assert len(net.regions["us"].disk[Origin("eu", 1)]) == 1
    assert net.push("eu", "us") == 2
    net.assert_equal()


def test_what_a_peer_accepts_itself_is_not_sent_back_to_it() -> None:
    """Though its own report of it is late: nobody else has it first."""
    net = Net(("eu", "us"))
    net.connect_all()
    net.regions["us"].write(net.now_ms)
    net.push("us", "eu")
    net.now_ms += 2 * FORWARD_DELAY_MS
    assert net.regions["eu"].gossip.behind("us") == 1
    assert net.push("eu", "us") == 0


def test_what_was_there_before_the_start_is_forwarded_at_once() -> None:
    """It is old, also where its origin has something new that is not."""
    gossip, origin = Gossip(Origin("us", 1), ["ap"]), Origin("eu", 1)
    gossip.recovered({origin: 5}, {})
    gossip.stored([seal(origin, 6, b"x")], 0)
    gossip.connected("ap", Origin("ap", 1), {}, 0)
    assert gossip.next_batch("ap", 0) == ReadLog(origin, 0, BATCH_BYTES_START)
    gossip.heard("ap", {origin: 5}, False, 0)
    assert gossip.next_batch("ap", 0) is None


def test_a_long_backlog_does_not_keep_what_is_new_waiting() -> None:
    """The log and the memory take turns."""
    net = Net(("eu", "us"))
    eu, old = net.regions["eu"], Origin("eu", 0)
    eu.disk[old] = [seal(old, lsn, b"x" * 1_000) for lsn in range(1, 200)]
    eu.restart()
    net.connect("eu", "us")
    for _ in range(3):
        eu.write(net.now_ms)
        held = net.regions["us"].gossip.vector
        before = held.get(old, 0)
        net.push("eu", "us")
        net.push("eu", "us")
        assert held[old] > before
        assert held[eu.gossip.me] == eu.gossip.vector[eu.gossip.me]


def test_a_loud_origin_does_not_keep_the_others_waiting() -> None:
    """Origins take turns where there is more than a batch."""
    gossip = Gossip(Origin("us", 1), ["ap"])
    loud, quiet = Origin("eu", 1), Origin("eu", 2)
    gossip.stored([seal(loud, lsn, b"x" * 1_000) for lsn in range(1, 60)], 0)
    gossip.stored([seal(quiet, 1, b"x")], 0)
    gossip.connected("ap", Origin("ap", 1), {}, FORWARD_DELAY_MS)
    found = []
    for _ in range(2):
        batch = gossip.next_batch("ap", FORWARD_DELAY_MS)
        assert isinstance(batch, Batch)
        gossip.sent("ap", batch.records)
        found += [record.origin for record in batch.records]
    assert quiet in found
    assert loud in found


def test_a_log_that_cannot_be_read_does_not_stop_the_others() -> None:
    """A damaged record holds up its own origin alone, and is not asked for again and again."""
    net = Net(("eu", "us"))
    eu = net.regions["eu"]
    eu.disk[Origin("eu", 0)] = [seal(Origin("eu", 0), 1, b"old")]
    eu.restart()
    net.connect_all()
    step = eu.gossip.next_batch("us", net.now_ms)
    assert isinstance(step, ReadLog) and step.origin == Origin("eu", 0)
    eu.gossip.unreadable("us", step)
    assert eu.gossip.next_batch("us", net.now_ms) is None
    eu.write(net.now_ms)
    assert net.push("eu", "us") == 1
    eu.write(net.now_ms)
    eu.gossip.unreadable("us", ReadLog(eu.gossip.me, 1, 0))
    assert eu.gossip.next_batch("us", net.now_ms) is None, "too large a record is in memory"
    net.connect("eu", "us")
    assert net.push("eu", "us") == 1
    again = eu.gossip.next_batch("us", net.now_ms)
    assert isinstance(again, ReadLog) and again[:2] == step[:2]


# What is on whose disk


def test_stable_is_what_another_region_has_fsynced() -> None:
    """Only by its report, only of own operations, and for ever."""
    net = Net()
    net.connect_all()
    eu, me = net.regions["eu"], Origin("eu", 1)
    eu.write(net.now_ms)
    eu.next("us", net.now_ms)
    assert not eu.gossip.is_stable(me, 1), "it was only sent"
    eu.gossip.heard("us", {me: 1}, False, net.now_ms)
    assert eu.gossip.is_stable(me, 1)
    assert eu.gossip.stable_vector() == {me: 1}
    eu.gossip.heard("us", {}, True, net.now_ms)
    assert eu.gossip.is_stable(me, 1), "what was told to a producer is not taken back"
    assert eu.gossip.is_stable(Origin("us", 5), 9), "it had it on disk before it sent it"


def test_settled_needs_every_peer_and_what_each_had_accepted() -> None:
    """A report counts once this region has all that its sender had accepted by then."""
    gossip = Gossip(Origin("eu", 1), ["us", "ap"])
    me, theirs = Origin("eu", 1), Origin("us", 2)
    gossip.stored([seal(me, 1, b"x")], 0)
    assert gossip.settled_lsn(me) == 0
    gossip.heard("us", {me: 1}, True, 0)
    assert gossip.settled_lsn(me) == 0, "ap has not said so"
    gossip.heard("ap", {me: 1, theirs: 3}, True, 0)
    assert gossip.settled_lsn(me) == 1, "us vouches for its own records, not ap"
    gossip.stored([seal(me, 2, b"y")], 0)
    gossip.heard("ap", {me: 2}, True, 0)
    gossip.heard("us", {me: 2, theirs: 1}, True, 0)
    assert gossip.settled_lsn(me) == 1, "what us had accepted is still on its way"
    gossip.stored([seal(theirs, 1, b"z")], 0)
    assert gossip.settled_lsn(me) == 2
    gossip.connected("ap", Origin("ap", 2), {me: 1}, 0)
    assert gossip.settled_lsn(me) == 1, "ap has lost its disk"


def test_a_region_alone_settles_by_itself() -> None:
    """No peers are configured: what is on disk here is everywhere."""
    gossip = Gossip(Origin("eu", 1), [])
    gossip.stored([seal(gossip.me, 1, b"x")], 0)
    assert gossip.settled_lsn(gossip.me) == 1


@pytest.mark.failure("N6", "C5")
def test_liveness_is_by_local_timers() -> None:
    """Up, suspect after 3 s, down after 10 s of silence; never heard of is down."""
    gossip = Gossip(Origin("eu", 1), ["us"])
    peer = gossip.peers["us"]
    assert peer.state(0) == "down"
    gossip.connected("us", Origin("us", 1), {}, 1_000)
    assert peer.state(1_000 + SUSPECT_MS - 1) == "up"
    assert peer.state(1_000 + SUSPECT_MS) == "suspect"
    assert peer.state(1_000 + DOWN_MS) == "down"
    gossip.heard("us", None, False, 20_000)
    gossip.lost("us")
    assert peer.state(20_000) == "suspect", "it was heard, but nothing can be sent to it"


def test_what_a_peer_lacks() -> None:
    """For a drain, and for people."""
    net = Net(("eu", "us"))
    net.connect_all()
    eu = net.regions["eu"]
    eu.write(net.now_ms)
    assert eu.gossip.lacks_own("us") and eu.gossip.behind("us") == 1
    net.push("eu", "us")
    assert not eu.gossip.lacks_own("us") and eu.gossip.behind("us") == 0


def test_strangers_are_not_remembered() -> None:
    """A report of a region that is not configured changes nothing."""
    gossip = Gossip(Origin("eu", 1), ["us"])
    gossip.heard("xx", {Origin("eu", 1): 1}, True, 0)
    gossip.resend("xx")
    assert list(gossip.peers) == ["us"] and gossip.stable_vector() == {}


def test_a_vector_never_passes_a_gap() -> None:
    """The shell's mistake is an assertion, not a silent hole."""
    gossip = Gossip(Origin("eu", 1), [])
    with pytest.raises(AssertionError, match="without a gap"):
        gossip.stored([seal(gossip.me, 2, b"x")], 0)
    vector: Vector = {gossip.me: 5}
    gossip.recovered(vector, {})
    vector[gossip.me] = 9
    assert gossip.vector == {gossip.me: 5}
