"""A region is copied while it runs; what comes back from the copy loses and revives nothing."""

import asyncio
import fcntl
import json
import shutil
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from perdure.regions import backup, repair, restoring
from perdure.regions.audit import Audit
from perdure.regions.backup_file import BackupDamaged, Manifest
from perdure.regions.config import ConfigError
from perdure.regions.identity import last_backup_ms
from perdure.regions.main import main
from perdure.regions.node import Node
from perdure.regions.ports import StorageFull, StorageKeyWrong, StorageLocked
from perdure.replication.admission import Draft
from perdure.replication.chain import faults
from perdure.replication.errors import Refusal

from tests.regions.linked import Linked, linked
from tests.regions.processes import Served
from tests.regions.test_erasing import FULL, MARKER, done, fill, holds


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for what is under way: here nothing is."""
    monkeypatch.setattr(repair, "SETTLE_S", 0)
    monkeypatch.setattr(repair, "SECOND_LOOK_S", 0)


@pytest.fixture
async def regions(tmp_path: Path) -> AsyncIterator[Linked]:
    async with linked(tmp_path / "regions", FULL, start=False) as made:
        yield made


def quiet(_: int, __: int) -> None:
    """Nobody watches."""


def make(data: Path, to: Path) -> Manifest:
    return backup.make(data, to, "0.9", 1_800_000_000_000, quiet)


async def say(node: Node, text: str, session: str = "kept") -> None:
    await node.send(session, Draft("user", id=text, text=text))


def texts(node: Node, session: str = "kept") -> list[str]:
    return [message["text"] for message in node.snapshot(session)["messages"]]


async def test_a_restored_region_gets_what_came_after_and_revives_nothing(
    regions: Linked, tmp_path: Path
) -> None:
    """Backup while it runs; then writes, a delete and an erasure; the disk is lost; restored, it
    has all of it, under another incarnation, and no file of it holds what was erased."""
    eu, us, ap = [await regions.start(name) for name in FULL]
    await say(eu, "before")
    await fill(eu, "erased-later")
    await say(us, "a-message-deleted-later")
    await regions.until(regions.same)
    await eu.checkpoint.all()
    await say(eu, "in-the-log-only")
    manifest = await asyncio.to_thread(make, regions.path / "eu", tmp_path / "b")
    assert (manifest.region, manifest.encrypted) == ("eu", False)
    assert manifest.incarnation == f"{eu.origin.incarnation:016x}"
    assert manifest.vector[str(eu.origin)] == eu.gossip.vector[eu.origin]
    assert last_backup_ms(regions.path / "eu") == manifest.made_ms
    await say(eu, "acknowledged-after-the-backup")
    await say(ap, "written-elsewhere")
    await us.delete("erased-later")
    await us.delete("kept", "a-message-deleted-later")
    await regions.until(lambda: all(done(node, "erased-later") for node in (eu, us, ap)))
    await regions.until(regions.same)
    origin, lsn = eu.origin, eu.gossip.vector[eu.origin]
    await regions.stop("eu")
    shutil.rmtree(regions.path / "eu")
    await say(us, "while-it-was-away")
    restoring.restore(tmp_path / "b", regions.path / "eu", quiet)
    assert holds(regions.path / "eu")
    eu = await regions.start("eu", bootstrap=False)
    assert eu.readiness() == "catching_up"
    with pytest.raises(Refusal) as refused:
        eu.snapshot("kept")
    assert refused.value.code == "catching_up"
    await regions.until(lambda: eu.readiness() is None and regions.same())
    await say(eu, "after")
    assert eu.origin.incarnation != origin.incarnation
    assert eu.gossip.vector[origin] == lsn
    await regions.until(regions.same)
    assert (
        texts(eu)
        == texts(us)
        == texts(ap)
        == [
            *("before", "in-the-log-only", "acknowledged-after-the-backup", "written-elsewhere"),
            *("while-it-was-away", "after"),
        ]
    )
    await regions.until(lambda: all(done(n, "erased-later") for n in (eu, us, ap)))
    assert eu.holdings.buckets() == us.holdings.buckets() == ap.holdings.buckets()
    assert holds(regions.path) == []


async def test_when_all_regions_are_lost_their_backups_bring_them_back(
    regions: Linked, tmp_path: Path
) -> None:
    """Each has something that the others have not; together they have all of it, without
    ``--bootstrap``, for they catch up with one another."""
    for name in FULL:
        node = await regions.start(name)
        await say(node, f"of-{name}")
        # Each alone: nobody has told anybody.
        await asyncio.to_thread(make, regions.path / name, tmp_path / name)
        await regions.stop(name)
        shutil.rmtree(regions.path / name)
    for name in FULL:
        restoring.restore(tmp_path / name, regions.path / name, quiet)
        await regions.start(name, bootstrap=False)
    nodes = list(regions.nodes.values())
    await regions.until(lambda: all(node.readiness() is None for node in nodes) and regions.same())
    assert all(sorted(texts(node)) == ["of-ap", "of-eu", "of-us"] for node in nodes)


async def test_the_last_region_comes_back_alone_when_it_is_told_to(
    regions: Linked, tmp_path: Path
) -> None:
    """Without peers in reach it waits, for they may have more; ``--bootstrap`` says that nobody
    has."""
    eu = await regions.start("eu")
    await say(eu, "kept")
    make(regions.path / "eu", tmp_path / "b")
    await regions.stop("eu")
    shutil.rmtree(regions.path / "eu")
    restoring.restore(tmp_path / "b", regions.path / "eu", quiet)
    eu = await regions.start("eu", bootstrap=False)
    assert eu.readiness() == "catching_up"
    await regions.stop("eu")
    eu = await regions.start("eu", bootstrap=True)
    assert eu.readiness() is None
    assert texts(eu) == ["kept"]


async def test_a_new_region_may_begin_with_a_backup_of_another(
    regions: Linked, tmp_path: Path
) -> None:
    """A backup is no region: what starts from it under another name, while the first one runs, is
    another region that has less to fetch."""
    eu = await regions.start("eu")
    await fill(eu)
    await asyncio.to_thread(make, regions.path / "eu", tmp_path / "b")
    restoring.restore(tmp_path / "b", regions.path / "us", quiet)
    await say(eu, "later")
    us = await regions.start("us", bootstrap=False)
    ap = await regions.start("ap", bootstrap=False)
    await regions.until(lambda: us.readiness() is None and ap.readiness() is None)
    await say(us, "of-us")
    await regions.until(regions.same)
    assert eu.holdings.buckets() == us.holdings.buckets() == ap.holdings.buckets()
    assert texts(eu) == texts(us) == ["later", "of-us"]
    await us.delete("s")
    await regions.until(lambda: all(done(node) for node in (eu, us, ap)))
    assert holds(regions.path) == []


async def test_a_restored_region_goes_on_with_its_chain(regions: Linked, tmp_path: Path) -> None:
    """Its audit log goes on after what its peers have of it, and not after what the backup has;
    until it knows, nothing is noted."""
    eu = await regions.start("eu")
    audit = Audit(eu)
    await audit.record("before")
    await asyncio.to_thread(make, regions.path / "eu", tmp_path / "b")
    await audit.record("after")
    us = await regions.start("us")
    await regions.until(lambda: regions.same("eu", "us"))
    await regions.stop("eu")
    shutil.rmtree(regions.path / "eu")
    restoring.restore(tmp_path / "b", regions.path / "eu", quiet)
    eu = await regions.start("eu", bootstrap=False)
    audit = Audit(eu)
    with pytest.raises(Refusal) as refused:
        await audit.record("too early")
    assert refused.value.code == "catching_up"
    await regions.start("ap")
    await regions.until(lambda: eu.readiness() is None)
    await audit.record("again")
    await regions.until(regions.same)
    told = [entry for _, entry in Audit(us).entries(None)]
    assert [(entry["n"], entry["action"]) for entry in told] == [
        *((1, "before"), (2, "after"), (3, "again")),
    ]
    assert faults(told) == []


def test_what_was_broken_off_is_begun_anew(tmp_path: Path) -> None:
    """Files that a killed backup, or a killed restore, has left behind."""
    seed(tmp_path / "data")
    (tmp_path / "b.partial").write_bytes(b"half of it")
    make(tmp_path / "data", tmp_path / "b")
    assert not (tmp_path / "b.partial").exists()
    (tmp_path / "to").mkdir()
    for name in ("lock", "perdure.sqlite.restoring", "perdure.sqlite.restoring-journal"):
        (tmp_path / "to" / name).write_bytes(b"half of it")
    restoring.restore(tmp_path / "b", tmp_path / "to", quiet)
    seed(tmp_path / "to")


async def test_a_backup_of_an_encrypted_region_stays_encrypted(
    regions: Linked, tmp_path: Path
) -> None:
    """Neither the file nor what is restored of it holds a word, and it opens with the key alone."""
    regions.storage_keys = (b"k" * 32,)
    eu = await regions.start("eu")
    await fill(eu)
    manifest = await asyncio.to_thread(make, regions.path / "eu", tmp_path / "b")
    assert manifest.encrypted
    assert holds(tmp_path) == []
    await regions.stop("eu")
    shutil.rmtree(regions.path / "eu")
    restoring.restore(tmp_path / "b", regions.path / "eu", quiet)
    regions.storage_keys = (b"x" * 32,)
    with pytest.raises(StorageKeyWrong):
        await regions.start("eu")
    regions.storage_keys = (b"k" * 32,)
    eu = await regions.start("eu")
    assert MARKER in texts(eu, "s")[0]


def seed(data: Path) -> None:
    """A database as a region leaves it."""
    from perdure.regions.storage import SqliteStorage

    storage = SqliteStorage(data)
    storage.open()
    storage.close()


def test_what_is_damaged_is_not_restored(tmp_path: Path) -> None:
    """A byte in the database, in the manifest, an end that is cut off, another file: each is told
    of, and the directory stays empty; it can be restored into afterwards."""
    seed(tmp_path / "data")
    good = tmp_path / "good"
    make(tmp_path / "data", good)
    whole = good.read_bytes()
    cases = {
        "database": whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:],
        "manifest": whole[:-100] + bytes([whole[-100] ^ 1]) + whole[-99:],
        "cut off": whole[:-3],
        "not as long": whole[1:],
        "no backup": b"hello",
    }
    for words, data in cases.items():
        bad = tmp_path / "bad"
        bad.write_bytes(data)
        with pytest.raises(BackupDamaged, match=words):
            backup.check(bad, quiet)
        with pytest.raises(BackupDamaged, match=words):
            restoring.restore(bad, tmp_path / "to", quiet)
        assert not (tmp_path / "to" / "perdure.sqlite").exists()
    restoring.restore(good, tmp_path / "to", quiet)
    assert backup.check(good, quiet).schema == 4


def test_a_newer_backup_is_left_alone(tmp_path: Path) -> None:
    """What a newer perdure has made is named as that, before anything is written."""
    seed(tmp_path / "data")
    with sqlite3.connect(tmp_path / "data" / "perdure.sqlite") as database:
        database.execute("PRAGMA user_version = 999")
    with pytest.raises(Exception, match="newer"):
        make(tmp_path / "data", tmp_path / "b")
    assert not list(tmp_path.glob("b*"))


def test_nothing_is_overwritten_and_nothing_is_left_half_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is there, a directory that is not empty, one that a region has, a disk that is
    full: refused, with nothing left behind."""
    seed(tmp_path / "data")
    make(tmp_path / "data", tmp_path / "b")
    with pytest.raises(ConfigError, match="overwrites nothing"):
        make(tmp_path / "data", tmp_path / "b")
    with pytest.raises(ConfigError, match="not empty"):
        restoring.restore(tmp_path / "b", tmp_path / "data", quiet)
    with pytest.raises(ConfigError, match="no database"):
        make(tmp_path, tmp_path / "c")
    with pytest.raises(ConfigError, match="no directory"):
        make(tmp_path / "data", tmp_path / "none" / "c")
    (tmp_path / "held").mkdir()
    lock = restoring.DirectoryLock(tmp_path / "held")
    lock.take()
    with pytest.raises(StorageLocked):
        restoring.restore(tmp_path / "b", tmp_path / "held", quiet)
    lock.release()
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10))
    with pytest.raises(StorageFull, match="bytes free"):
        make(tmp_path / "data", tmp_path / "c")
    # Room for the copy, and then none for the region, which goes on writing on the same disk.
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100_000_000))
    with pytest.raises(StorageFull, match="268,435,456 of them for the region itself"):
        make(tmp_path / "data", tmp_path / "c")
    assert not list(tmp_path.glob("c*"))


def test_a_backup_that_ends_just_now_is_not_emptied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a second one to the same file, which had opened the unfinished one and waited for it."""
    seed(tmp_path / "data")
    lock = fcntl.flock

    def ends_first(file: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        make(tmp_path / "data", tmp_path / "b")
        lock(file, how)

    (tmp_path / "b.partial").touch()
    monkeypatch.setattr(fcntl, "flock", ends_first)
    with pytest.raises(ConfigError, match="another backup"):
        make(tmp_path / "data", tmp_path / "b")
    assert backup.check(tmp_path / "b", quiet).database_bytes


async def test_the_commands_at_a_region_that_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``backup`` of another process's directory, ``backup --check``, ``restore`` into a new one,
    their exit codes, and what they print."""
    served, file = Served(tmp_path / "data"), tmp_path / "b"
    message = {"id": "m", "role": "user", "text": "t"}

    def run(*arguments: object) -> tuple[int, str, str]:
        return main([str(argument) for argument in arguments]), *capsys.readouterr()

    async with served.serve():
        await served.ask("POST", "/v1/sessions/s/messages", message)
        code, out, _ = run("backup", "--data", served.data, "--to", file, "--json")
        said = json.loads(out)
        assert (code, said["region"], said["schema"], said["records"]) == (0, "eu", 4, 1)
        code, _, err = run("backup", "--data", served.data, "--to", file)
        assert (code, "overwrites nothing" in err) == (2, True)
        code, _, err = run("restore", file, "--data", served.data)
        assert (code, "not empty" in err) == (2, True)
    code, out, _ = run("backup", "--check", file)
    assert (code, "is whole: region eu" in out, "1 records of the log" in out) == (0, True, True)
    code, out, _ = run("restore", file, "--data", tmp_path / "to")
    assert (code, "is restored" in out) == (0, True)
    file.write_bytes(file.read_bytes()[:-1])
    code, _, err = run("backup", "--check", file)
    assert (code, "cut off" in err) == (1, True)
    assert run("backup", "--check", file, "--to", file)[0] == 2
    assert run("backup", "--to", file)[0] == 2
