"""What is deleted is gone from every file of every region, and each says so when it is."""

import base64
import shutil
import sqlite3
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path

import pytest
from perdure.regions import free_space, repair, storage_erasing, writer
from perdure.regions.node import Node
from perdure.regions.ports import StorageFull
from perdure.replication.admission import Draft
from perdure.replication.coding import encode
from perdure.replication.errors import Refusal
from perdure.replication.frames import Kind, encode_json
from perdure.replication.ids import LaneKey, parse_epoch
from perdure.replication.limits import ERASE_EVERY_S
from perdure.replication.operations import Absorb, Delete, Erased, Items, Operation
from perdure.replication.records import Record
from perdure.replication.rows import Image
from perdure.replication.subjects import Subject

from tests.regions.linked import Linked, dialer, ended, linked

MARKER = "xyzzy-4711-xyzzy"
FULL = {"eu": ["us", "ap"], "us": ["eu", "ap"], "ap": ["eu", "us"]}


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for what is under way: here nothing is."""
    monkeypatch.setattr(repair, "SETTLE_S", 0)
    monkeypatch.setattr(repair, "SECOND_LOOK_S", 0)


@pytest.fixture
async def regions(tmp_path: Path) -> AsyncIterator[Linked]:
    async with linked(tmp_path, FULL, start=False) as made:
        yield made


def forms(marker: str) -> list[bytes]:
    """A text as it is stored: plain, or within base64, at each of its three places."""
    cut = [base64.b64encode(b"-" * at + marker.encode())[4:-4] for at in range(3)]
    return [marker.encode(), *cut]


def holds(path: Path, marker: str = MARKER) -> list[str]:
    """The files below a directory that hold the text."""
    files = [file for file in path.rglob("*") if file.is_file()]
    data = {file: file.read_bytes() for file in files}
    return [file.name for file in files if any(form in data[file] for form in forms(marker))]


async def fill(node: Node, session: str = "s", marker: str = MARKER) -> str:
    """A session with the text wherever content may be; the epoch of its stream ``m``."""
    await node.create(session, {"title": marker})
    await node.send(session, Draft("user", id="asks", text=f"{marker} asks"))
    draft = Draft(
        "assistant", id="m", producer="agent", claim_id="claim-01", metadata={"k": marker}
    )
    opened = await node.open(session, draft)
    for seq in range(20):
        await node.append(session, "m", "agent", opened.epoch, seq, [f" {marker} {seq}"])
    await node.append_document(session, "notes", f"{marker} notes")
    node.put_member(session, "ann", {"says": marker}, 60)
    return opened.epoch


def done(
    node: Node, session: str = "s", message: str | None = None, document: str | None = None
) -> bool:
    try:
        return bool(node.erasure(session, message, document)["state"] == "done")
    except Refusal:
        return False


async def started(regions: Linked) -> list[Node]:
    return [await regions.start(name) for name in FULL]


async def test_a_deleted_session_is_in_no_file_of_any_region(regions: Linked) -> None:
    """Streamed tokens, metadata, documents, presence: where that is stored already, and where it is
    in the logs only."""
    eu, us, ap = await started(regions)
    await fill(eu)
    await fill(eu, "other", "a-text-that-stays")
    await regions.until(regions.same)
    await us.checkpoint.all()
    assert all(holds(regions.path / name) for name in FULL)
    with pytest.raises(Refusal):
        eu.erasure("s")
    await us.delete("s")
    await regions.until(lambda: all(done(node) for node in (eu, us, ap)))
    assert holds(regions.path) == []
    assert eu.erasure("s")["regions"] == {"ap": "done", "eu": "done", "us": "done"}
    assert eu.holdings.buckets() == us.holdings.buckets() == ap.holdings.buckets()
    assert all(holds(regions.path / name, "a-text-that-stays") for name in FULL)
    assert ap.document("other", "notes")["text"] == "a-text-that-stays notes"


async def test_a_deleted_message_is_gone_and_the_others_stay(regions: Linked) -> None:
    """Also while the session goes on to be written to, and after its region has started anew."""
    eu, us, _ = await started(regions)
    epoch = await fill(eu)
    await us.send("s", Draft("user", id="gone", text="only-in-this-one"))
    await regions.until(regions.same)
    await us.checkpoint.all()
    await eu.delete("s", "gone")
    seq = 20
    while not all(done(node, "s", "gone") for node in regions.nodes.values()):
        await eu.append("s", "m", "agent", epoch, seq, ["on"])
        seq += 1
    assert holds(regions.path, "only-in-this-one") == []
    with pytest.raises(Refusal):
        eu.erasure("s", "m")
    await regions.until(regions.same)
    await regions.stop("us")
    us = await regions.start("us")
    assert us.message("s", "m")["length"] == seq and holds(regions.path / "us")
    assert us.erasure("s", "gone")["regions"] == {"ap": "done", "eu": "done", "us": "done"}
    assert us.holdings.buckets() == eu.holdings.buckets()


async def test_a_discarded_document_is_gone(regions: Linked) -> None:
    """Its updates in the logs, and its text in the stored session."""
    eu, us, ap = await started(regions)
    await fill(eu)
    await eu.append_document("s", "plan", "only-in-this-document")
    await regions.until(regions.same)
    await ap.checkpoint.all()
    assert len(set(holds(regions.path, "only-in-this-document"))) > 0
    await ap.discard_document("s", "plan")
    await regions.until(lambda: all(done(node, "s", None, "plan") for node in (eu, us, ap)))
    assert holds(regions.path, "only-in-this-document") == []
    assert eu.document("s", "notes")["text"] == f"{MARKER} notes"


async def test_what_is_not_shown_is_gone_as_well(regions: Linked) -> None:
    """Items of a fenced epoch, and items that wait for a header that never came."""
    eu, us, ap = await started(regions)
    await fill(eu)
    await eu.claim("s", "m", "rival", "claim-02", "restart")
    lane = LaneKey("lost", parse_epoch("1-0123456789abcdef"))
    items = Items("s", "unknown", lane, 3, bytes(16), (f"{MARKER} waits",))
    await us._writer.write("s", lambda *_: [items])
    await regions.until(regions.same)
    await ap.checkpoint.all()
    assert ap.state.find("s").messages["unknown"].lane(lane).parked == 1  # type: ignore[union-attr]
    await eu.delete("s", "unknown")
    await regions.until(lambda: all(done(node, "s", "unknown") for node in (eu, us, ap)))
    assert holds(regions.path, f"{MARKER} waits") == [] and holds(regions.path)
    await ap.delete("s")
    await regions.until(lambda: all(done(node) for node in (eu, us, ap)))
    assert holds(regions.path) == []


async def test_what_was_put_aside_as_damaged_is_gone_as_well(regions: Linked) -> None:
    """A damaged body in quarantine, and a damaged record that is still in the log."""
    eu, us, ap = await started(regions)
    await fill(eu)
    await regions.until(regions.same)
    await us.checkpoint.all()
    with sqlite3.connect(regions.path / "us" / "perdure.sqlite") as database:
        database.execute("UPDATE message SET body_crc = body_crc + 1 WHERE id = 'asks'")
        database.execute("UPDATE log SET crc = crc + 1 WHERE lsn = 5")
    await us._storage.scrub(0, 100)
    await us.work()
    with sqlite3.connect(regions.path / "us" / "perdure.sqlite") as database:
        assert database.execute("SELECT COUNT(*) FROM quarantine").fetchone() == (1,)
    await eu.delete("s")
    await regions.until(lambda: all(done(node) for node in (eu, us, ap)))
    assert holds(regions.path) == []


@pytest.mark.parametrize("keys", [(), (b"k" * 32,)], ids=["clear", "encrypted"])
async def test_a_record_that_was_put_aside_is_gone_as_well(
    regions: Linked, keys: tuple[bytes, ...]
) -> None:
    """A record that was damaged when its region started, also where the name in it was."""
    regions.storage_keys = keys
    eu = await regions.start("eu")
    opened = await eu.open("s", Draft("a", id="m", producer="agent", claim_id="claim-01"))
    for seq in range(2):
        await eu.append("s", "m", "agent", opened.epoch, seq, [MARKER])
    eu.checkpoint.close = eu.eraser.remember  # type: ignore[method-assign]
    await regions.stop("eu")
    with sqlite3.connect(regions.path / "eu" / "perdure.sqlite") as database:
        (body,) = database.execute("SELECT body FROM log WHERE lsn = 3").fetchone()
        at = len(body) - 1 if keys else body.index(b'"s"') + 1
        spoilt = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
        database.execute("UPDATE log SET body = ? WHERE lsn = 3", (spoilt,))
    database.close()
    eu = await regions.start("eu")
    await eu.checkpoint.all()
    with sqlite3.connect(regions.path / "eu" / "perdure.sqlite") as database:
        assert database.execute("SELECT what FROM quarantine").fetchall() == [("record",)]
    await eu.delete("s")
    await regions.until(lambda: eu.erasure("s")["regions"]["eu"] == "done")
    with sqlite3.connect(regions.path / "eu" / "perdure.sqlite") as database:
        assert database.execute("SELECT what FROM quarantine").fetchall() == []
        assert database.execute("SELECT 1 FROM log WHERE lsn = 3 AND LENGTH(body)").fetchall() == []
    database.close()


async def test_a_backup_is_erased_when_it_is_restored(regions: Linked) -> None:
    """The others take back that this region was done, until it is again."""
    eu, us, ap = await started(regions)
    await fill(eu)
    await regions.until(regions.same)
    await regions.stop("us")
    shutil.copytree(regions.path / "us", regions.path / "backup")
    us = await regions.start("us")
    await eu.delete("s")
    await regions.until(lambda: all(done(node) for node in (eu, us, ap)))
    # Nothing more is in the logs that would say so.
    for node in (eu, ap):
        await node.checkpoint.all()
        await node.checkpoint._truncate()
    await regions.stop("us")
    us = await regions.start("us", directory="backup")
    assert holds(regions.path / "backup") and not done(us)
    await regions.until(lambda: eu.erasure("s")["regions"]["us"] == "waiting" or done(us))
    await regions.until(lambda: all(done(node) for node in (eu, us, ap)))
    assert holds(regions.path) == []


async def test_a_region_that_learned_of_it_by_a_round_says_so_too(regions: Linked) -> None:
    """Its logs begin after the delete: it knows it by the sessions alone, and so does what it had
    absorbed before; all come to be done everywhere, and agree."""
    eu, us = [await regions.start(name) for name in ("eu", "us")]
    await fill(eu)
    await eu.delete("s", "m")
    await regions.until(regions.same)
    vector = {"ap": "waiting", "eu": "done", "us": "done"}
    await regions.until(lambda: eu.erasure("s", "m")["regions"] == vector)
    for node in (eu, us):
        await node.checkpoint.all()
        await node._storage.truncate(node.gossip.vector)
        node.gossip.floors = node._storage.floors()
    ap = await regions.start("ap", bootstrap=False)
    await regions.until(lambda: all(done(node, "s", "m") for node in (eu, us, ap)))
    assert ap.message("s", "asks")["text"] == f"{MARKER} asks"
    assert ap.holdings.buckets() == eu.holdings.buckets()


async def test_an_older_region_hands_it_on_and_is_waited_for(
    regions: Linked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It knows neither what stands in the place of what was deleted nor the word: it carries out
    the delete, is never said to be done, and is as the others after a round."""
    eu, us, ap = await started(regions)
    real = us.state.decode

    def older(record: Record) -> Operation | None:
        operation = real(record)
        return None if isinstance(operation, Erased) else operation

    us.state.decode = us._writer._decode = older  # type: ignore[method-assign]
    us._writer.screen = lambda applied: applied
    us._writer.deletions = lambda _: ()
    us.eraser.erase = us.eraser.remember  # type: ignore[method-assign,assignment]
    us.gossip.erased = {}
    await regions.stop("ap")
    await fill(eu)
    await eu.delete("s", "asks")
    await regions.until(lambda: us.gossip.vector.get(eu.origin) == eu.gossip.vector[eu.origin])
    vector = {"ap": "waiting", "eu": "done", "us": "waiting"}
    await regions.until(lambda: eu.erasure("s", "asks")["regions"] == vector)
    ap = await regions.start("ap")
    await regions.until(lambda: ap.gossip.vector.get(eu.origin) == eu.gossip.vector[eu.origin])
    await regions.until(lambda: eu.holdings.buckets() == ap.holdings.buckets())
    assert eu.holdings.buckets() == us.holdings.buckets()


async def test_a_region_that_was_away_erases_what_it_brings(regions: Linked) -> None:
    """It holds what nobody else had, and what all had; it is waited for, tells nobody the content
    of its own log, and says when it is done."""
    eu, us, ap = await started(regions)
    await fill(eu)
    await regions.until(regions.same)
    for name in ("us", "eu"):
        await regions.stop(name)
    # Only here, and for nobody to hear yet.
    await ap.send("s", Draft("user", id="late", text=f"{MARKER} late"))
    await regions.stop("ap")
    eu, us = [await regions.start(name) for name in ("eu", "us")]
    await eu.delete("s")
    state = {"eu": "done", "us": "done", "ap": "waiting"}
    await regions.until(lambda: us.regions() is not None and bool(us.state.find("s")))
    await regions.until(lambda: done(us) or us.state.find("s").deleted)  # type: ignore[union-attr]
    await regions.until(lambda: us.erasure("s")["regions"] == state)
    assert us.erasure("s")["state"] == "under_way"
    assert not holds(regions.path / "eu") and not holds(regions.path / "us")
    assert holds(regions.path / "ap")
    ap = await regions.start("ap")
    await regions.until(lambda: done(eu) and done(us) and done(ap))
    await regions.until(regions.same)
    assert holds(regions.path) == []
    assert eu.holdings.buckets() == us.holdings.buckets() == ap.holdings.buckets()


async def test_a_region_that_is_killed_before_it_erases_goes_on_with_it(regions: Linked) -> None:
    """The delete is on disk, and nothing else was done: its next start does that, and only then
    says so; what it had said before stays said."""
    eu, us, ap = await started(regions)
    await fill(eu, "before")
    await fill(eu)
    await eu.delete("before")
    await regions.until(lambda: done(us, "before"))

    async def never() -> bool:
        return False

    us.eraser.erase = never  # type: ignore[method-assign]
    us.checkpoint.close = us.catch_up.step  # type: ignore[method-assign]
    await eu.delete("s")
    await regions.until(lambda: done(eu, "before") and us.gossip.vector == eu.gossip.vector)
    await regions.until(lambda: eu.erasure("s")["regions"]["ap"] == "done")
    assert us.erasure("s")["regions"]["us"] == "waiting"
    assert eu.erasure("s")["regions"]["us"] == "waiting" and holds(regions.path / "us")
    await regions.stop("us")
    us = await regions.start("us")
    assert us.erasure("before")["regions"]["us"] == "done"
    await regions.until(lambda: done(us) and done(eu) and done(ap))
    assert holds(regions.path) == []
    assert eu.holdings.buckets() == us.holdings.buckets()


async def test_what_an_older_program_has_deleted_is_gone_after_the_upgrade(regions: Linked) -> None:
    """Its free pages too; it was never noted when that was, and what was stored stays."""
    eu = await regions.start("eu")
    for session in ("s", "stored"):
        await fill(eu, session)
        await eu.send(session, Draft("user", id="gone", text="only-in-this-one"))
    eu.eraser.erase = eu.eraser.remember  # type: ignore[method-assign,assignment]
    await eu.delete("stored", "gone")
    await eu.delete("stored", "asks")
    await eu.checkpoint.all()
    await eu.delete("s")
    await eu.discard_document("stored", "notes")
    eu.checkpoint.close = eu.catch_up.step  # type: ignore[method-assign]
    await regions.stop("eu")
    with sqlite3.connect(regions.path / "eu" / "perdure.sqlite") as database:
        database.executescript("DROP TABLE erasure; PRAGMA user_version = 3;")
        database.execute("DELETE FROM meta WHERE key LIKE 'erasure%'")
    database.close()
    assert holds(regions.path, "only-in-this-one")
    eu = await regions.start("eu")
    await regions.until(lambda: not eu._storage.waiting(1))
    assert holds(regions.path, "only-in-this-one") == []
    assert holds(regions.path, f"{MARKER} notes") == []
    for subject in (("s", None), ("stored", "gone"), ("stored", "asks")):
        told = eu.erasure(*subject)
        assert told["regions"]["eu"] == "done" and told["requested"] is None
    assert eu.message("stored", "m")["length"] == 20
    assert eu._storage.erasure(Subject("stored", "gone")).places  # type: ignore[union-attr]


async def test_what_an_upgrade_has_made_shorter_is_not_taken_for_cut_off(regions: Linked) -> None:
    """Writing an older database anew frees pages; the file has its length before it is watched."""
    eu = await regions.start("eu")
    await fill(eu, "stays", "some-text")
    await regions.stop("eu")
    path = regions.path / "eu" / "perdure.sqlite"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE more AS SELECT randomblob(100000) AS more")
        database.execute("DROP TABLE more")
        database.executescript("DROP TABLE erasure; PRAGMA user_version = 3;")
    database.close()
    size = path.stat().st_size
    eu = await regions.start("eu")
    await eu.delete("stays")
    await regions.until(lambda: eu.erasure("stays")["regions"]["eu"] == "done")
    await eu.work()
    assert path.stat().st_size < size
    # Before that its peers have to have been tried.
    await regions.until(lambda: eu.readiness() is None)


async def test_a_full_disk_puts_it_off(regions: Linked) -> None:
    """The word is given when there is room again, and not before; nothing else is lost."""
    eu = await regions.start("eu")
    await fill(eu)
    pauses: list[float] = []
    real, failing = eu._storage.erase, [StorageFull("no room"), StorageFull("no room")]

    async def erase(subjects: Sequence[Subject]) -> bool:
        if failing:
            raise failing.pop()
        return await real(subjects)

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        assert eu.erasure("s")["regions"]["eu"] == ("done" if len(pauses) == 3 else "waiting")

    eu._storage.erase = erase  # type: ignore[method-assign]
    eu.eraser._pause = pause
    await eu.delete("s")
    await regions.until(lambda: len(pauses) == 3)
    assert pauses[:2] == [ERASE_EVERY_S] * 2 and holds(regions.path) == []
    assert eu.gossip.erased is None


async def test_who_reads_puts_it_off(regions: Linked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody looks at the database from outside: it is done when that is over."""
    monkeypatch.setattr(storage_erasing, "STEP_TRIES_MAX", 1)
    monkeypatch.setattr(free_space, "READERS_WAIT_MS", 1)
    eu = await regions.start("eu")
    await fill(eu)
    reader = sqlite3.connect(regions.path / "eu" / "perdure.sqlite", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT COUNT(*) FROM log").fetchone()
    eu.eraser.look = lambda: None  # type: ignore[method-assign]
    await eu.delete("s")
    assert not await eu.eraser.erase()
    assert eu.erasure("s")["regions"]["eu"] == "waiting" and eu.gossip.erased is not None
    reader.close()
    assert await eu.eraser.erase() and holds(regions.path) == []


async def test_a_session_that_cannot_be_stored_waits_alone(regions: Linked) -> None:
    """Others are erased meanwhile; and of it nothing is said to be done."""
    eu = await regions.start("eu")
    await fill(eu, "a")
    await fill(eu, "b", "another-text")
    real = eu.state.images

    def images(ids: Iterable[str]) -> list[Image]:
        if "a" in (names := list(ids)):
            eu.state.saving["a"] = eu.state.dirty.pop("a")
            raise RuntimeError("an image that cannot be made")
        return real(names)

    eu.state.images = images  # type: ignore[method-assign]
    eu.eraser.look = lambda: None  # type: ignore[method-assign]
    for session in ("a", "b"):
        await eu.delete(session)
    assert not await eu.eraser.erase()
    told = [eu.erasure(session)["regions"]["eu"] for session in ("a", "b")]
    assert told == ["waiting", "done"] and holds(regions.path, "another-text") == []
    eu.state.images = real  # type: ignore[method-assign]
    assert await eu.eraser.erase() and holds(regions.path) == []


async def test_what_no_log_says_is_deleted_once_more(regions: Linked) -> None:
    """The log that had the delete was lost, and others know it by a round only: after a minute they
    log it themselves, and come to be done."""
    eu, us = [await regions.start(name) for name in ("eu", "us")]
    await fill(eu)
    await regions.until(regions.same)
    await us._writer.absorb([encode(Absorb("s", (Delete("s", "m"),), ()))])
    await regions.until(lambda: us.erasure("s", "m")["regions"]["us"] == "done")
    assert us.erasure("s", "m")["regions"]["eu"] == "waiting"
    real = us._clock.wall_ms
    us.eraser._clock.wall_ms = lambda: real() + 61_000  # type: ignore[method-assign]
    await us.eraser.step(10**6)
    vector = {"ap": "waiting", "eu": "done", "us": "done"}
    await regions.until(lambda: us.erasure("s", "m")["regions"] == vector)
    await regions.until(lambda: eu.erasure("s", "m")["regions"] == vector)


async def test_a_jump_to_where_it_is_is_no_place(regions: Linked) -> None:
    """The logs had caught up before the round was over: what that told of is deleted once more,
    and does not wait for ever for a place that nobody can name."""
    us = await regions.start("us")
    await fill(us)
    await us._writer.absorb([encode(Absorb("s", (Delete("s", "m"),), ()))])
    await us._writer.jump({})
    assert us._storage.placeless(10**15, 9) == [Subject("s", "m")]


async def test_a_region_that_is_busy_deletes_it_later(
    regions: Linked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When no more writes are taken just now, it is not the end of the region."""
    us = await regions.start("us")
    await fill(us)
    await us._writer.absorb([encode(Absorb("s", (Delete("s", "m"),), ()))])
    real = us._clock.wall_ms
    us.eraser._clock.wall_ms = lambda: real() + 61_000  # type: ignore[method-assign]
    monkeypatch.setattr(writer, "WRITE_QUEUE_ITEMS_MAX", 0)
    us.eraser._next_note_s = 0
    await us.work()
    assert us.readiness() is None and not us.failed.is_set()
    monkeypatch.undo()
    us.eraser._next_note_s = 0
    await us.work()
    assert us._storage.placeless(10**15, 9) == []


async def test_a_word_that_is_none_closes_the_link(regions: Linked) -> None:
    """Nothing of such a frame is taken."""
    eu = await regions.start("eu")
    for erased in (False, 7, {"us": 1}, {"us/0000000000000007": -1}):
        async with dialer(regions) as (socket, channel):
            payload = {"vector": {"us/0000000000000007": 9}, "full": True, "erased": erased}
            await socket.send_bytes(channel.encode(Kind.VECTOR, encode_json(payload)))
            await ended(socket)
    assert eu.gossip.peers["us"].erased == {} == eu.gossip.peers["us"].vector
    assert regions.counters("eu")["frames_refused.payload"] == 4


async def test_an_encrypted_region_erases_too(regions: Linked) -> None:
    """What nobody could read anyway: its records say so afterwards, and are whole; what it had
    deleted before anybody noted that is noted at the upgrade."""
    regions.storage_keys = (b"k" * 32,)
    eu = await regions.start("eu")
    await fill(eu)
    eu.eraser.erase = eu.eraser.remember  # type: ignore[method-assign,assignment]
    await eu.delete("s", "asks")
    await eu.checkpoint.all()
    await eu.delete("s", "m")
    await regions.stop("eu")
    with sqlite3.connect(regions.path / "eu" / "perdure.sqlite") as database:
        database.executescript("DROP TABLE erasure; PRAGMA user_version = 1003;")
    database.close()
    eu = await regions.start("eu")
    await regions.until(lambda: not eu._storage.waiting(1))
    assert [eu.erasure("s", m)["regions"]["eu"] for m in ("m", "asks")] == ["done", "done"]
    records = await eu._storage.read(next(iter(eu.gossip.vector)), 0, 10**7)
    bodies = b"".join(record.body for record in records)
    assert f"{MARKER} asks".encode() not in bodies and f" {MARKER} 7".encode() not in bodies
    assert len(records) == 26 and eu._storage.damaged == 0
    assert eu.document("s", "notes")["text"] == f"{MARKER} notes"
