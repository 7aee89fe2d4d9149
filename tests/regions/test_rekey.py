"""Another key for a whole database: all of it or in the end all of it, and nothing is left of what
was before."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from perdure.regions import rewriting
from perdure.regions.config import ConfigError
from perdure.regions.main import main
from perdure.regions.ports import StorageFull, StorageKeyWrong, StorageLocked
from perdure.regions.rekey import Report
from perdure.regions.storage_engine import DirectoryLock, engine_for
from sqlalchemy import Engine

from tests.regions.encrypted import (
    KEY,
    MARKER,
    NEXT,
    OTHER,
    cipher,
    dump,
    freed,
    head_of,
    heads,
    holding,
    made,
    opened,
    query,
    rekey,
    seen,
)
from tests.regions.processes import ENVIRONMENT, SECRET, Served, perdure

Keys = Sequence[bytes]
# What it is encrypted with, with which keys it is rewritten, and what it is encrypted with then.
CHANGES: dict[str, tuple[Keys, Keys, Keys]] = {
    "encrypt": ([], [KEY], [KEY]),
    "rotate": ([KEY], [NEXT, KEY], [NEXT]),
    "decrypt": ([KEY], [KEY], []),
}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many transactions, though there is little to rewrite."""
    monkeypatch.setattr(rewriting, "REKEY_BYTES_MAX", 2_000)
    monkeypatch.setattr(rewriting, "REKEY_ROWS_MAX", 3)


@pytest.mark.parametrize("change", CHANGES)
def test_everything_is_rewritten_and_nothing_is_left(
    tmp_path: Path, small: None, change: str
) -> None:
    """Encrypted at first, with another key, and not any more: what readers see is the same, every
    blob is as it should be, and once it is encrypted no file holds a word of what was in the clear,
    also not what had been deleted."""
    before, given, after = CHANGES[change]
    directory = tmp_path / "eu"
    shows = made(directory, *before)
    assert bool(holding(directory)) == (not before)
    report = rekey(directory, *given, decrypt=not after)
    name = cipher(*after).keys[0] if after else None
    state = "encrypted" if after else "clear"
    assert (report.state, report.key, report.damaged) == (state, name, 0)
    assert report.rewritten > 30
    if after:
        assert heads(directory) == {head_of(after[0])}
        assert holding(directory) == []
    assert seen(directory, *after) == shows
    for wrong in {(), (KEY,), (NEXT,)} - {tuple(after)}:
        with pytest.raises(StorageKeyWrong):
            opened(directory, *wrong)


@pytest.mark.parametrize("change", ["encrypt", "rotate"])
def test_what_was_let_go_of_before_is_gone_as_well(tmp_path: Path, change: str) -> None:
    """Pages that hold nothing any more still have what they held: none of it is left."""
    before, given, _ = CHANGES[change]
    directory = tmp_path / "eu"
    made(directory, *before, sessions=20)
    blob: bytes
    ((blob,),) = query(directory, "SELECT body FROM log WHERE lsn = 1")
    freed(directory, "DELETE FROM message", "DELETE FROM log")
    assert holding(directory, blob[-40:]) == ["perdure.sqlite"]
    rekey(directory, *given)
    assert holding(directory, blob[-40:]) == holding(directory, MARKER) == []


def test_a_second_time_changes_nothing(tmp_path: Path) -> None:
    """Neither what is encrypted already, nor what is not."""
    made(tmp_path / "eu", KEY)
    assert rekey(tmp_path / "eu", KEY, NEXT) == Report("encrypted", cipher(KEY).keys[0], 0, 0)
    rekey(tmp_path / "eu", KEY, decrypt=True)
    before = dump(tmp_path / "eu")
    for keys in ((), (KEY,)):
        assert rekey(tmp_path / "eu", *keys, decrypt=True) == Report("clear", None, 0, 0)
    assert dump(tmp_path / "eu") == before


def test_what_is_in_quarantine_goes_along(tmp_path: Path) -> None:
    """It was found damaged, and holds what was said nevertheless."""
    directory = tmp_path / "eu"
    made(directory)
    values = (MARKER, -5)
    query(
        directory, "INSERT INTO quarantine (what, name, body, crc) VALUES ('b', 's', ?, ?)", *values
    )
    query(directory, "INSERT INTO quarantine (what, name) VALUES ('record', 'nothing')")
    rekey(directory, KEY)
    assert holding(directory) == []
    rekey(directory, NEXT, KEY)
    rekey(directory, NEXT, decrypt=True)
    found = query(directory, "SELECT body, crc FROM quarantine")
    assert found == [(MARKER, -5 & 0xFFFFFFFF), (None, None)]


# Interruptions


class Interrupted(Exception):
    """The process ends here."""


def interrupted_after(directory: Path, steps: int, *keys: bytes, decrypt: bool = False) -> str:
    """Begin, and end in the middle after so many transactions; in which stage, if it did."""
    left = steps

    def tell(stage: str, done: int, total: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Interrupted(stage)

    try:
        rekey(directory, *keys, decrypt=decrypt, tell=tell)
    except Interrupted as error:
        return str(error)
    return ""


@pytest.mark.parametrize("change", CHANGES)
def test_an_interruption_anywhere_is_mended_by_the_same_command(
    tmp_path: Path, small: None, change: str
) -> None:
    """After any of its transactions: a start either shows all that was there, or refuses and says
    what to do; the same command goes on, rewrites the rest alone, and ends as if nothing had been;
    the opposite command brings back what was."""
    before, given, after = CHANGES[change]
    source = tmp_path / "source"
    shows = made(source, *before)
    insert = "INSERT INTO quarantine (what, name, body) VALUES ('x', 'x', ?)"
    query(source, insert, MARKER * 2_000 if not before else bytes(20_000))
    freed(source, "DELETE FROM quarantine")
    rewritten = []
    for steps in range(1_000):
        directory = tmp_path / str(steps)
        shutil.copytree(source, directory)
        stage = interrupted_after(directory, steps, *given, decrypt=not after)
        if not stage:
            break
        back = tmp_path / f"{steps} back"
        shutil.copytree(directory, back)
        with pytest.raises(StorageKeyWrong):
            opened(directory, *before)
        if stage in ("encrypting", "decrypting"):
            with pytest.raises(StorageKeyWrong, match=f"in the middle of {stage}: let"):
                opened(directory, *given)
        else:
            assert seen(directory, *given) == shows
        report = rekey(directory, *given, decrypt=not after)
        rewritten.append(report.rewritten)
        assert report.damaged == 0
        assert not after or (heads(directory), holding(directory)) == ({head_of(after[0])}, [])
        assert seen(directory, *after) == shows
        if change != "rotate":
            rekey(back, KEY, decrypt=not before)
            assert seen(back, *before) == shows
    assert steps > 10 and rewritten == sorted(rewritten, reverse=True)
    assert rewritten[0] > 30 > rewritten[-1]


def test_another_key_may_end_what_one_began(tmp_path: Path, small: None) -> None:
    """Everything is encrypted with the first in the end, and the other is not needed any more."""
    shows = made(tmp_path / "eu")
    assert interrupted_after(tmp_path / "eu", 5, KEY)
    with pytest.raises(StorageKeyWrong, match="in the middle of encrypting: let `perdure rekey"):
        opened(tmp_path / "eu", KEY)
    with pytest.raises(StorageKeyWrong, match="add the one that is missing"):
        rekey(tmp_path / "eu", NEXT)
    rekey(tmp_path / "eu", NEXT, KEY)
    assert heads(tmp_path / "eu") == {head_of(NEXT)}
    assert seen(tmp_path / "eu", NEXT) == shows


# Damage


@pytest.mark.parametrize("change", ["rotate", "decrypt"])
def test_what_cannot_be_decrypted_stays_damaged(tmp_path: Path, change: str) -> None:
    """It does not stop the rest; quarantine has it as it was, and nothing is left in its place that
    somebody with the old key could read."""
    _, given, after = CHANGES[change]
    directory = tmp_path / "eu"
    made(directory, KEY)
    ((blob,),) = query(directory, "SELECT body FROM message WHERE id = 'm' LIMIT 1")
    spoilt = bytes([*blob[:-1], blob[-1] ^ 1])
    query(directory, "UPDATE message SET body = ? WHERE body = ?", spoilt, blob)
    query(directory, "UPDATE log SET body = x'00' WHERE position = (SELECT MAX(position) FROM log)")
    query(
        directory,
        "INSERT INTO message (session, slot, id, serial, facts, facts_crc, body,"
        " body_crc) SELECT 99, slot, id, serial, facts, 0, body, 0 FROM message LIMIT 1",
    )
    report = rekey(directory, *given, decrypt=not after)
    assert report.damaged == 4
    assert query(directory, "SELECT what FROM quarantine ORDER BY what") == [
        *[("body",)] * 2,
        ("record",),
        ("row",),
    ]
    if after:
        assert holding(directory, spoilt[20:60]) == []
    assert rekey(directory, *(after or given), decrypt=not after).damaged == 0
    storage = opened(directory, *after)
    list(storage.replay())
    assert storage.damaged == 1
    found = storage.session("s0")
    assert found is not None and found.archive.body("m") is None
    assert storage.damaged == 2
    storage.close()


@pytest.mark.parametrize("after", [(), (KEY,)])
def test_damage_from_before_is_still_found(tmp_path: Path, after: Keys) -> None:
    """What was damaged in the clear is encrypted as it is, and found as before."""
    made(tmp_path / "eu")
    query(tmp_path / "eu", "UPDATE message SET body = ? WHERE id = 'm'", MARKER)
    query(tmp_path / "eu", "UPDATE log SET crc = crc - 1 WHERE lsn = 2")
    assert rekey(tmp_path / "eu", KEY).damaged == 0
    assert holding(tmp_path / "eu") == []
    if not after:
        rekey(tmp_path / "eu", KEY, decrypt=True)
    storage = opened(tmp_path / "eu", *after)
    found = storage.session("s1")
    assert found is not None and found.archive.body("m") is None
    assert found.archive.body("open") is not None
    storage.close()


# Refusals


def test_what_does_not_fit_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    """No database, no key, a wrong key, a node that runs, a file that is no database."""
    with pytest.raises(ConfigError, match="no database is there"):
        rekey(tmp_path, KEY)
    assert list(tmp_path.iterdir()) == []
    directory = tmp_path / "eu"
    made(directory, KEY)
    before = dump(directory)
    with pytest.raises(ConfigError, match="set PERDURE_STORAGE_KEY"):
        rekey(directory)
    with pytest.raises(StorageKeyWrong, match="set PERDURE_STORAGE_KEY"):
        rekey(directory, decrypt=True)
    for decrypt in (False, True):
        with pytest.raises(StorageKeyWrong, match="add the one that is missing"):
            rekey(directory, OTHER, decrypt=decrypt)
    lock = DirectoryLock(directory)
    lock.take()
    with pytest.raises(StorageLocked, match="in use by process"):
        rekey(directory, NEXT, KEY)
    lock.release()
    assert dump(directory) == before


def test_a_full_disk_can_be_tried_again(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is done is done, and the rest waits for room."""
    shows = made(tmp_path / "eu")
    pages = query(tmp_path / "eu", "PRAGMA page_count")[0][0]

    def narrow(path: Path, begin: str | None) -> Engine:
        engine = engine_for(path, begin)
        with engine.connect() as connection:
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        return engine

    monkeypatch.setattr("perdure.regions.rekey.engine_for", narrow)
    with pytest.raises(StorageFull, match="no room for"):
        rekey(tmp_path / "eu", KEY)
    monkeypatch.undo()
    rekey(tmp_path / "eu", KEY)
    assert seen(tmp_path / "eu", KEY) == shows
    assert holding(tmp_path / "eu") == []


# The command


def test_the_command_tells(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it did, as text or JSON, how far it is on standard error; exit codes for each end."""
    directory = tmp_path / "eu"
    command = ["rekey", "--data", str(directory)]
    monkeypatch.delenv("PERDURE_STORAGE_KEY_FILE", raising=False)
    monkeypatch.setenv("PERDURE_STORAGE_KEY", KEY.hex())
    assert main(command) == 2
    assert "no database is there" in capsys.readouterr().err
    made(directory)
    assert main([*command, "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out) == {
        "data": str(directory),
        "state": "encrypted",
        "key": cipher(KEY).keys[0],
        "rewritten": json.loads(told.out)["rewritten"],
        "damaged": 0,
    }
    assert told.err.startswith("encrypting: 0 %\n") and "cleaning: 100 %\n" in told.err
    monkeypatch.setenv("PERDURE_STORAGE_KEY", OTHER.hex())
    assert main(command) == 2
    monkeypatch.setenv("PERDURE_STORAGE_KEY", KEY.hex())
    lock = DirectoryLock(directory)
    lock.take()
    assert main(command) == 3
    lock.release()
    capsys.readouterr()
    query(directory, "UPDATE log SET body = x'00' WHERE lsn = 2")
    assert main([*command, "--decrypt"]) == 0
    told = capsys.readouterr()
    assert f"{directory} is not encrypted; " in told.out
    assert "1 could not be decrypted: the region gets them from its peers" in told.out
    assert "decrypting: 100 %" in told.err


async def test_a_region_as_a_process(tmp_path: Path) -> None:
    """Served in the clear, encrypted, served again, killed, given another key: whatever does not
    fit ends with exit code 2 and the words that help, and what was said is there each time."""
    served = Served(tmp_path / "eu")
    keys = tmp_path / "keys"
    keys.write_text(KEY.hex())
    with_key = {"PERDURE_STORAGE_KEY_FILE": str(keys)}
    own = {"PERDURE_PEER_SECRET": SECRET}
    async with served.serve():
        epoch = (await served.open())["epoch"]
        await served.append(epoch, 0, MARKER.decode())
        command = ("rekey", "--data", served.data)
        assert (await perdure(*command, environment=with_key)).code == 3
    ended = await perdure(*served.arguments(), environment={**own, **with_key})
    assert (ended.code, "encrypt it with `perdure rekey" in ended.err) == (2, True)
    assert (await perdure(*command, environment=with_key)).code == 0
    ended = await perdure(*served.arguments(), environment=own)
    assert (ended.code, "set PERDURE_STORAGE_KEY" in ended.err) == (2, True)
    async with served.serve(environment=with_key):
        await served.append(epoch, 1, MARKER.decode())
        assert holding(served.data) == []
    keys.write_text(f"{NEXT.hex()}\n{KEY.hex()}\n")
    assert (await perdure(*command, environment=with_key)).code == 0
    keys.write_text(NEXT.hex())
    async with served.serve(environment=with_key):
        message = await served.ask("GET", "/v1/sessions/s/messages/m")
        assert message["text"] == MARKER.decode() * 2
    assert holding(served.data) == []
    assert "PERDURE_STORAGE_KEY" not in ENVIRONMENT


@pytest.mark.parametrize("keys", [(), (KEY,)], ids=["clear", "encrypted"])
def test_what_an_older_program_has_deleted_is_gone_too(
    tmp_path: Path, keys: tuple[bytes, ...]
) -> None:
    """Where there was nothing else to do: the next start takes the database for a new one."""
    made(tmp_path, *keys)
    freed(tmp_path, "CREATE TABLE more AS SELECT 'NOUGAT' || hex(randomblob(9000))")
    freed(tmp_path, "DROP TABLE more", "DROP TABLE erasure")
    query(tmp_path, f"PRAGMA user_version = {1_003 if keys else 3}")
    assert holding(tmp_path, b"NOUGAT")
    rekey(tmp_path, *keys, decrypt=not keys)
    opened(tmp_path, *keys).close()
    assert holding(tmp_path, b"NOUGAT") == []
