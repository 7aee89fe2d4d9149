"""The one order of effects, on a storage whose commits end when the test says so."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
from perdure.regions import writer as writing
from perdure.regions.ports import StorageFailed, StorageFull
from perdure.regions.state import State
from perdure.regions.writer import Applied, Writer
from perdure.replication.admission import Pending
from perdure.replication.coding import encode
from perdure.replication.errors import Refusal
from perdure.replication.gossip import Gossip
from perdure.replication.operations import Create, Operation
from perdure.replication.records import Origin, Record, seal
from perdure.replication.session import Session

from tests.regions.conftest import ManualClock
from tests.regions.memory_storage import MemoryStorage

EU, US = Origin("eu", 1), Origin("us", 2)


def create(session: str, region: str = "eu") -> Create:
    return Create(session, 1, region, "{}")


class Bench:
    """A writer, what it stands on, and what it did."""

    def __init__(self) -> None:
        self.storage = MemoryStorage()
        self.storage.open()
        self.gossip = Gossip(EU, ["us"])
        self.state = State("eu", self.gossip, self.storage)
        self.told = 0
        self.admitted: list[str] = []
        self.writer = Writer(
            EU,
            self.storage,
            self.gossip,
            ManualClock(),
            self.state.session,
            self.apply,
            self.tell,
            self.state.decode,
        )
        self.running = asyncio.create_task(self.writer.run())

    def apply(self, applied: Any, before: int) -> None:
        """Only what is on disk is applied."""
        applied = list(applied)
        assert self.storage.commits[-1] == [one.record for one in applied]
        self.state.apply(applied, before)

    def tell(self) -> None:
        self.told += 1

    def write(self, name: str, session: str = "s", **options: Any) -> asyncio.Task[bool]:
        """A write that begins now: an operation on the session, whose admission is noted."""

        def admit(_: Session, pending: Pending) -> Sequence[Operation]:
            self.admitted.append(name)
            return [create(session)]

        return self.intend(admit, session, **options)

    def intend(self, admit: Any, session: str = "s", **options: Any) -> asyncio.Task[bool]:
        return asyncio.create_task(self.writer.write(session, admit, **options))

    async def held(self, *names: str) -> list[asyncio.Task[bool]]:
        """Stop the disk in the middle of a commit, and let writes gather behind it. The first that
        is given back is the one in the commit."""
        self.storage.hold()
        first = self.write("first", "other")
        await self.storage.reached.wait()
        return [first, *(self.write(name) for name in names)]

    async def close(self) -> None:
        self.storage.release()
        self.writer.close()
        await asyncio.gather(self.running, return_exceptions=True)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    await bench.close()


async def turns() -> None:
    """Let the loop do all that it can do."""
    for _ in range(20):
        await asyncio.sleep(0)


def sizes(bench: Bench) -> list[int]:
    return [len(commit) for commit in bench.storage.commits]


# The order


async def test_what_gathers_behind_a_commit_is_one_commit(bench: Bench) -> None:
    """However many they are; their lsns are dense, in the order in which they were asked for."""
    await bench.held()
    writes = [bench.write(f"w{n}", f"s{n}") for n in range(100)]
    await turns()
    assert bench.admitted == ["first"]
    bench.storage.release()
    assert all(await asyncio.gather(*writes))
    assert sizes(bench) == [1, 100]
    assert bench.admitted[1:] == [f"w{n}" for n in range(100)]
    assert [record.lsn for record in bench.storage.commits[1]] == list(range(2, 102))
    assert bench.gossip.vector == {EU: 101}


async def test_nothing_happens_before_the_disk_has_it(bench: Bench) -> None:
    """Not applied, not in the vector that peers are told, not answered, nobody told."""
    (write,) = await bench.held()
    await turns()
    assert not write.done()
    assert (bench.state.sessions["other"].exists, bench.gossip.vector, bench.told) == (False, {}, 0)
    bench.storage.release()
    assert await write is True
    assert (bench.state.sessions["other"].exists, bench.gossip.vector) == (True, {EU: 1})
    assert bench.told == 1


async def test_replies_go_before_readers_and_peers(bench: Bench) -> None:
    """Whoever wrote hears of it before anybody who follows is woken."""
    order: list[str] = []
    followers = asyncio.Event()
    bench.writer._told = followers.set

    async def follow() -> None:
        await followers.wait()
        order.append("follower")

    async def ask() -> None:
        await bench.writer.write("s", lambda *_: [create("s")])
        order.append("writer")

    following = asyncio.create_task(follow())
    bench.storage.hold()
    asking = asyncio.create_task(ask())
    await bench.storage.reached.wait()
    bench.storage.release()
    await asyncio.gather(asking, following)
    assert order == ["writer", "follower"]


async def test_a_retry_costs_no_commit(bench: Bench) -> None:
    """An intent with nothing to log is answered False, and nobody is told anything."""
    assert await bench.intend(lambda *_: []) is False
    assert (bench.storage.commits, bench.told) == ([], 0)


async def test_a_refusal_is_one_writers_alone(bench: Bench) -> None:
    """The others of its batch are committed."""

    def refuse(*_: Any) -> Sequence[Operation]:
        raise Refusal("conflict", "no")

    await bench.held()
    good, refused, also = bench.write("a"), bench.intend(refuse, "x"), bench.write("b", "t")
    bench.storage.release()
    results = await asyncio.gather(good, refused, also, return_exceptions=True)
    assert (results[0], results[2]) == (True, True)
    assert isinstance(results[1], Refusal)
    assert sizes(bench) == [1, 2]


async def test_a_batch_sees_what_it_has_admitted(bench: Bench) -> None:
    """Shared intents of one session are handed the same notes, another session others."""
    seen: list[tuple[str, list[str]]] = []

    def noting(session: str, name: str) -> Callable[[Session, Any], Sequence[Operation]]:
        def admit(_: Session, pending: Any) -> Sequence[Operation]:
            seen.append((name, list(pending)))
            pending[name] = name
            return [create(session)]

        return admit

    await bench.held()
    writes = [
        bench.intend(noting(session, name), session, exclusive=False)
        for session, name in (("s", "a"), ("s", "b"), ("t", "c"))
    ]
    bench.storage.release()
    await asyncio.gather(*writes)
    assert seen == [("a", []), ("c", []), ("b", ["a"])]
    assert sizes(bench) == [1, 3]


async def test_an_exclusive_write_has_the_session_to_itself(bench: Bench) -> None:
    """It waits for what its batch has changed there, and everything later for that session waits
    behind it; other sessions do not."""
    await bench.held()
    writes = [
        bench.write("shared", exclusive=False),
        bench.write("alone"),
        bench.write("later", exclusive=False),
        bench.write("elsewhere", "t"),
    ]
    bench.storage.release()
    await asyncio.gather(*writes)
    assert bench.admitted == ["first", "shared", "elsewhere", "alone", "later"]
    assert sizes(bench) == [1, 2, 1, 1]


async def test_an_exclusive_retry_holds_nobody_up(bench: Bench) -> None:
    """It has changed nothing, so what comes after it shares the commit."""
    await bench.held()
    retry, later = bench.intend(lambda *_: []), bench.write("later")
    bench.storage.release()
    assert await asyncio.gather(retry, later) == [False, True]
    assert sizes(bench) == [1, 1]


async def test_a_batch_is_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bytes; the rest goes with the next one, in order."""
    body = len(encode(create("s0")))
    monkeypatch.setattr(writing, "COMMIT_BYTES_MAX", 2 * body)
    await bench.held()
    writes = [bench.write(f"w{n}", f"s{n}") for n in range(5)]
    bench.storage.release()
    await asyncio.gather(*writes)
    assert sizes(bench) == [1, 2, 2, 1]
    assert bench.admitted[1:] == [f"w{n}" for n in range(5)]


async def test_a_backlog_holds_up_its_own_session_only(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much one session has waiting, another's write is in the next batch; and the order
    within each is kept."""
    monkeypatch.setattr(writing, "COMMIT_WRITES_MAX", 4)
    await bench.held()
    writes = [bench.write(f"hot{n}", "hot", exclusive=False) for n in range(10)]
    writes += [bench.write(f"quiet{n}", f"q{n}") for n in range(2)]
    bench.storage.release()
    await asyncio.gather(*writes)
    assert bench.admitted[1:5] == ["hot0", "quiet0", "quiet1", "hot1"]
    assert bench.admitted[5:] == [f"hot{n}" for n in range(2, 10)]
    assert sizes(bench) == [1, 4, 4, 4]


async def test_tenants_take_turns_and_their_sessions_do(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tenant with a hundred busy sessions has no more turns than one with a single session."""
    monkeypatch.setattr(writing, "COMMIT_WRITES_MAX", 6)
    await bench.held()
    writes = [bench.write(f"a{n}", f"a:s{n}") for n in range(100)]
    writes += [bench.write(f"b{n}", "b:s", exclusive=False) for n in range(3)]
    bench.storage.release()
    await asyncio.gather(*writes)
    # One of the tenant without a name went first: its row begins again behind them.
    assert bench.admitted[1:7] == ["a0", "b0", "a1", "b1", "a2", "b2"]


async def test_peers_leave_room_for_clients(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much a peer has to tell, a client's write is in the next batch."""
    body = len(encode(create("u1", "us")))
    monkeypatch.setattr(writing, "COMMIT_BYTES_MAX", 2 * body)
    await bench.held()
    links = [asyncio.create_task(bench.writer.receive(arrived(n))) for n in range(1, 9)]
    write = bench.write("own", "s")
    bench.storage.release()
    await asyncio.gather(write, *links)
    assert sizes(bench) == [1, 3, 2, 2, 2]
    assert EU in {record.origin for record in bench.storage.commits[1]}


@pytest.mark.failure("C4")
async def test_what_waits_of_a_region_that_was_removed_is_left_out(bench: Bench) -> None:
    """Once that is known nothing more is taken of its link; another may still bring the same."""
    await bench.held()
    late = asyncio.create_task(bench.writer.receive(arrived(1), "us"))
    await turns()
    bench.gossip.forgotten("us", None)
    bench.storage.release()
    await late
    assert US not in bench.gossip.vector
    await bench.writer.receive(arrived(1), "ap")
    assert bench.gossip.vector[US] == 1


async def test_waiting_writes_are_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit a write is refused at once, with when to come back; those that wait are
    not touched."""
    monkeypatch.setattr(writing, "WRITE_QUEUE_ITEMS_MAX", 2)
    _, *waiting = await bench.held("a", "b")
    await turns()
    with pytest.raises(Refusal, match="too_many") as refused:
        await bench.write("c")
    assert refused.value.extra["retry_after_s"] == 1
    bench.storage.release()
    assert await asyncio.gather(*waiting) == [True, True]


async def test_who_has_given_up_is_not_admitted(bench: Bench) -> None:
    """A write whose caller was cancelled while it waited changes nothing."""
    _, given_up, patient = await bench.held("given up", "patient")
    await turns()
    given_up.cancel()
    await turns()
    bench.storage.release()
    assert await patient is True
    assert bench.admitted == ["first", "patient"]


async def test_who_gives_up_during_the_commit_has_written(bench: Bench) -> None:
    """It is on disk, so it is applied and told like any other."""
    (write,) = await bench.held()
    write.cancel()
    await turns()
    bench.storage.release()
    assert await bench.write("later") is True
    assert write.cancelled()
    assert bench.state.sessions["other"].exists
    assert bench.gossip.vector == {EU: 2}


# Records of peers


def arrived(*lsns: int) -> list[Record]:
    return [seal(US, lsn, encode(create(f"u{lsn}", "us"))) for lsn in lsns]


async def test_records_of_peers_share_the_commit(bench: Bench) -> None:
    """Theirs keep their origin and lsn, ours stay dense; both are applied."""
    await bench.held()
    receiving = asyncio.create_task(bench.writer.receive(arrived(1, 2)))
    writes = [bench.write("a"), bench.write("b", "t")]
    bench.storage.release()
    await asyncio.gather(receiving, *writes)
    (_, commit) = bench.storage.commits
    assert [(record.origin, record.lsn) for record in commit] == [
        *((US, 1), (US, 2)),
        *((EU, 2), (EU, 3)),
    ]
    assert bench.gossip.vector == {EU: 3, US: 2}
    assert all(bench.state.sessions[id_].exists for id_ in ("u1", "u2", "s", "t"))


async def test_a_record_that_two_links_bring_is_committed_once(bench: Bench) -> None:
    """Also in one batch; both links are answered."""
    await bench.held()
    links = [
        asyncio.create_task(bench.writer.receive(records))
        for records in (arrived(1, 2), arrived(2, 3), arrived(1))
    ]
    bench.storage.release()
    await asyncio.gather(*links)
    assert [record.lsn for record in bench.storage.commits[1]] == [1, 2, 3]
    await bench.writer.receive(arrived(3))
    assert sizes(bench) == [1, 3]


async def test_a_record_beyond_a_gap_is_not_taken(bench: Bench) -> None:
    """The vector must stay true: it is dropped, and will come again."""
    await bench.writer.receive(arrived(2))
    assert (bench.storage.commits, bench.gossip.vector) == ([], {})


# A disk that fails


async def test_a_full_disk_refuses_the_batch_and_is_tried_again(bench: Bench) -> None:
    """All of the batch, of clients and peers alike; nothing of it shows, and the lsns are used
    again by what comes later."""
    await bench.held()
    writes = [bench.write("a"), bench.write("b", "t")]
    receiving = asyncio.create_task(bench.writer.receive(arrived(1)))
    await turns()
    bench.storage.release()
    bench.storage.failure = StorageFull("no room")
    outcomes = await asyncio.gather(*writes, receiving, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [StorageFull] * 3
    assert not any(session.exists for session in bench.state.sessions.values())
    assert (bench.gossip.vector, bench.told) == ({}, 0)
    bench.storage.failure = None
    await bench.writer.receive(arrived(1))
    assert await bench.write("again") is True
    assert bench.gossip.vector == {EU: 1, US: 1}


@pytest.mark.parametrize("failure", [StorageFailed("I/O error"), RuntimeError("a bug")])
@pytest.mark.failure("P8")
async def test_a_failed_disk_stops_the_writer_for_good(bench: Bench, failure: Exception) -> None:
    """The batch, what waits behind it and what comes later are refused, and the disk is not even
    asked again: nobody knows what is on it, and an lsn must not get a second meaning."""
    bench.storage.hold()
    bench.storage.failure = failure
    writes = [bench.write("a")]
    await bench.storage.reached.wait()
    writes += [bench.write("b"), bench.write("c", exclusive=False)]
    receiving = asyncio.create_task(bench.writer.receive(arrived(1)))
    await turns()
    bench.storage.release()
    outcomes = await asyncio.gather(*writes, receiving, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [StorageFailed] * 4
    assert isinstance(bench.writer.failed, StorageFailed)
    bench.storage.failure = None
    with pytest.raises(StorageFailed, match=str(failure)):
        await bench.write("later")
    assert (bench.storage.commits, bench.gossip.vector, bench.told) == ([], {}, 0)


# The end


async def test_the_end_finishes_what_waits(bench: Bench) -> None:
    """Everything that was asked for is answered, then ``run`` returns; later writes are refused
    instead of waiting for ever."""
    writes = await bench.held("a", "b")
    await turns()
    bench.writer.close()
    bench.storage.release()
    assert all(await asyncio.gather(*writes))
    await bench.running
    with pytest.raises(StorageFailed, match="stopped"):
        await bench.write("late")
    with pytest.raises(StorageFailed, match="stopped"):
        await bench.writer.receive(arrived(1))


async def test_nobody_waits_for_a_writer_that_has_died(bench: Bench) -> None:
    """Those in the commit and those behind it hear of it."""

    def broken(_: Sequence[Applied], before: int) -> None:
        raise ZeroDivisionError

    bench.writer._apply = broken  # type: ignore[assignment]
    writes = await bench.held("a", "b")
    await turns()
    bench.storage.release()
    outcomes = await asyncio.gather(*writes, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [StorageFailed] * 3
    with pytest.raises(ZeroDivisionError):
        await bench.running
    with pytest.raises(StorageFailed, match="the writer has died: ZeroDivisionError"):
        await bench.write("late")
