"""Encryption at rest: nothing that was said stands on the disk, and nothing is taken for damage
that is only another key's."""

import threading
from pathlib import Path

import pytest
from perdure.regions import cipher as ciphers
from perdure.regions.cipher import NO_CRC, OVERHEAD_BYTES, Cipher, Clear
from perdure.regions.clock import SystemEntropy
from perdure.regions.config import ConfigError
from perdure.regions.ports import Storage, StorageError, StorageFailed, StorageKeyWrong
from perdure.regions.storage import SqliteStorage
from perdure.replication.tenants import range_of

from tests.regions.encrypted import (
    KEY,
    MARKER,
    NEXT,
    OTHER,
    cipher,
    dump,
    fill,
    head_of,
    heads,
    holding,
    killed,
    made,
    opened,
    query,
    rekey,
    seen,
    shown,
    started,
)
from tests.regions.linked import linked
from tests.regions.storage_contract import EU, StorageContract, batch
from tests.regions.test_repair import PAIR, change, database, equal, send

PLACE = ("message", "s", "m", "body")


class TestEncrypted(StorageContract):
    """The storage of a region, with a key."""

    def make(self, path: Path) -> Storage:
        return SqliteStorage(path / "data", cipher(KEY))

    def again(self, storage: Storage) -> Storage:
        assert isinstance(storage, SqliteStorage)
        storage.close()
        return opened(storage.directory, KEY)


# One blob


def test_a_blob_comes_back_at_its_place_alone() -> None:
    """With its checksum; elsewhere, changed in any byte, cut, or under another key it is damaged,
    whatever was made of it."""
    own = cipher(KEY)
    blob, column = own.put(PLACE, b"content", 7)
    assert (own.get(PLACE, blob, column), column) == ((b"content", 7), 0)
    assert len(blob) == len(b"content") + OVERHEAD_BYTES
    lost = (b"", NO_CRC)
    assert own.get(("message", "s", "n", "body"), blob) == lost
    assert own.get(("message", "s", "m", "facts"), blob) == lost
    assert cipher(NEXT).get(PLACE, blob) == lost
    for at in range(len(blob)):
        spoilt = bytearray(blob)
        spoilt[at] ^= 1
        assert own.get(PLACE, bytes(spoilt)) == lost, at
        assert own.get(PLACE, blob[:at]) == lost, at
    for other in ("text", None, 7):
        assert own.get(PLACE, other) == lost  # type: ignore[arg-type]


def test_the_same_content_is_never_the_same_blob() -> None:
    """Nobody can see that something was said again, nor guess it by its checksum."""
    own = cipher(KEY)
    blobs = {own.put(PLACE, b"yes", 5) for _ in range(1_000)}
    assert len(blobs) == 1_000 and {crc for _, crc in blobs} == {0}


def test_the_first_key_encrypts_and_all_decrypt() -> None:
    """In whatever order they are given."""
    blob, _ = cipher(KEY).put(PLACE, b"x")
    both = cipher(NEXT, KEY)
    assert both.get(PLACE, blob)[0] == b"x"
    assert cipher(NEXT).get(PLACE, both.put(PLACE, b"y")[0])[0] == b"y"


def test_keys_that_are_no_keys_are_refused() -> None:
    """Too short, or twice the same."""
    for keys in ([b"short"], [KEY, KEY]):
        with pytest.raises(StorageKeyWrong):
            Cipher(keys, SystemEntropy())


def test_a_series_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """After so many blobs another derived key is taken, long before nonces could meet; a start
    takes another too; what is read may be of more series than are kept at hand."""
    monkeypatch.setattr(ciphers, "SERIES_BLOBS_MAX", 3)
    monkeypatch.setattr(ciphers, "SERIES_KNOWN_MAX", 2)
    own = cipher(KEY)
    blobs = [own.put(PLACE, b"%d" % number)[0] for number in range(10)]
    assert len({blob[5:13] for blob in blobs}) == 4
    for reader in (own, cipher(KEY)):
        assert [reader.get(PLACE, blob)[0] for blob in blobs] == [b"%d" % n for n in range(10)]
    assert cipher(KEY).put(PLACE, b"")[0][5:13] != cipher(KEY).put(PLACE, b"")[0][5:13]


def test_threads_may_read_while_one_writes() -> None:
    """As the storage does: the threads that commit and read, and the loop."""
    own = cipher(KEY)
    blobs = [(("log", number), own.put(("log", number), b"%d" % number)[0]) for number in range(50)]
    wrong: list[object] = []

    def read() -> None:
        for _ in range(100):
            for place, blob in blobs:
                if own.get(place, blob)[0] != b"%d" % place[1]:
                    wrong.append(place)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(5_000):
        own.put(("log", number), b"x" * 100)
    for reader in readers:
        reader.join()
    assert wrong == []


# A whole region


async def test_nothing_that_was_said_is_in_any_file(tmp_path: Path) -> None:
    """Messages, metadata and documents, in the log and in images: not in the database, its WAL or
    its index while the region runs, nor afterwards; all of it is there at the next start. Without
    a key it all is, so the search finds."""
    node, storage = started(tmp_path / "eu", KEY)
    await fill(node)
    before = shown(node)
    assert MARKER in repr(before).encode()
    names = {path.name for path in (tmp_path / "eu").iterdir()}
    assert {"perdure.sqlite", "perdure.sqlite-wal", "perdure.sqlite-shm"} <= names
    assert holding(tmp_path / "eu") == []
    await node.stop()
    assert holding(tmp_path / "eu") == []
    node, storage = started(tmp_path / "eu", KEY)
    assert shown(node) == before
    await killed(node, storage)
    assert heads(tmp_path / "eu") == {head_of(KEY)}
    assert query(tmp_path / "eu", "SELECT DISTINCT crc FROM log UNION SELECT crc FROM session") == [
        (0,)
    ]
    clear, _ = started(tmp_path / "us")
    await fill(clear)
    assert "perdure.sqlite-wal" in holding(tmp_path / "us")
    await clear.stop()
    assert "perdure.sqlite" in holding(tmp_path / "us")


def test_what_is_written_without_a_key_is_as_it_was(tmp_path: Path) -> None:
    """The schema, its number and its columns; a program that knows no keys can open it."""
    made(tmp_path / "clear")
    assert query(tmp_path / "clear", "PRAGMA user_version") == [(4,)]
    assert query(tmp_path / "clear", "SELECT * FROM meta WHERE key = 'encryption'") == []
    (crc,) = query(tmp_path / "clear", "SELECT MIN(crc) FROM log")[0]
    assert crc > 0


def test_an_older_program_keeps_its_hands_off(tmp_path: Path) -> None:
    """It takes what is encrypted for the schema of a newer one; else it would put all of it into
    quarantine."""
    made(tmp_path / "eu", KEY)
    assert query(tmp_path / "eu", "PRAGMA user_version") == [(1_004,)]
    query(tmp_path / "eu", "PRAGMA user_version = 1005")
    with pytest.raises(StorageFailed, match="written by a newer perdure"):
        opened(tmp_path / "eu", KEY)


# Keys that do not fit


@pytest.mark.parametrize(
    ("written", "given", "message"),
    [
        ([KEY], [], r"encrypted with key [0-9a-f]{8}: set PERDURE_STORAGE_KEY"),
        ([KEY], [OTHER], r"encrypted with key [0-9a-f]{8}, and the storage keys that are set"),
        ([NEXT, KEY], [NEXT], r"encrypted with key [0-9a-f]{8}, and"),
        ([], [KEY], "is not encrypted, and a storage key is set: encrypt it with `perdure rekey"),
    ],
)
def test_other_keys_are_refused_and_nothing_is_changed(
    tmp_path: Path, written: list[bytes], given: list[bytes], message: str
) -> None:
    """Without a key, with a wrong one, with one too few, and with one for what is in the clear: a
    start says what is lacking, and leaves everything as it is."""
    directory = tmp_path / "eu"
    for keys in [written[1:], written] if written else [[]]:
        if keys or not written:
            made(directory, *keys)
    before = dump(directory)
    with pytest.raises(StorageKeyWrong, match=message):
        opened(directory, *given)
    assert dump(directory) == before
    assert seen(directory, *written)


def test_a_key_before_the_old_one_is_taken_at_a_start(tmp_path: Path) -> None:
    """What is new is encrypted with it; from then on both are needed."""
    before = made(tmp_path / "eu", KEY)
    assert seen(tmp_path / "eu", NEXT, KEY) == before
    for too_few in (KEY, NEXT):
        with pytest.raises(StorageKeyWrong):
            opened(tmp_path / "eu", too_few)
    assert seen(tmp_path / "eu", KEY, NEXT) == before


def test_an_interrupted_first_start_can_be_repeated_with_a_key(tmp_path: Path) -> None:
    """A database that is empty becomes encrypted; so does an empty file."""
    opened(tmp_path / "eu").close()
    opened(tmp_path / "eu", KEY).close()
    with pytest.raises(StorageKeyWrong):
        opened(tmp_path / "eu")


def test_a_damaged_record_of_the_keys_is_told_and_made_anew(tmp_path: Path) -> None:
    """Nobody reads on without knowing with what; `rekey` makes it again, if the keys fit
    everything."""
    before = made(tmp_path / "eu", KEY)
    query(tmp_path / "eu", "UPDATE meta SET value = x'00' WHERE key = 'encryption'")
    with pytest.raises(StorageFailed, match="the record of its keys is damaged: `perdure rekey"):
        opened(tmp_path / "eu", KEY)
    for keys in ((), (OTHER,)):
        with pytest.raises((StorageKeyWrong, ConfigError)):
            rekey(tmp_path / "eu", *keys)
    rekey(tmp_path / "eu", NEXT, KEY)
    assert seen(tmp_path / "eu", NEXT) == before


# Damage

DAMAGE = {
    "record": "UPDATE log SET body = {} WHERE lsn = 2",
    "head": "UPDATE session SET head = {}",
    "digest": "UPDATE session SET digest = {}",
    "summary": "UPDATE session SET summary = {}",
    "facts": "UPDATE message SET facts = {} WHERE id = 'm'",
    "body": "UPDATE message SET body = {} WHERE id = 'm'",
    "sums": "UPDATE meta SET value = {} WHERE key = 'sums'",
    "watermark": "UPDATE meta SET value = {} WHERE key = 'watermark'",
}


@pytest.mark.failure("P9")
async def test_a_damaged_record_is_found_and_mended_by_the_peers(tmp_path: Path) -> None:
    """It is counted and left out, never handed on; and then it is whole."""
    storage = opened(tmp_path / "eu", KEY)
    records = batch(EU, 1, 2, 3)
    await storage.commit(records)
    storage.close()
    for change_ in ("SUBSTR(body, 1, 49)", "'text'", "x''", "(SELECT body FROM log WHERE lsn = 1)"):
        query(tmp_path / "eu", f"UPDATE log SET body = {change_} WHERE lsn = 2")
        storage = opened(tmp_path / "eu", KEY)
        assert [record.lsn for record in storage.replay()] == [1, 3], change_
        assert (storage.damaged, storage.vector()) == (1, {EU: 1})
        assert await storage.read(EU, 1, 10**6) == []
        await storage.commit(records[1:])
        storage.close()
    storage = opened(tmp_path / "eu", KEY)
    assert len(list(storage.replay())) == 3
    storage.close()


@pytest.mark.failure("P9")
@pytest.mark.parametrize("what", [name for name in DAMAGE if name != "record"])
@pytest.mark.parametrize("value", ["zeroblob(200)", "'text'"])
async def test_a_damaged_blob_is_found_and_mended(tmp_path: Path, what: str, value: str) -> None:
    """As in the clear: found when somebody reads it or by its digest, fetched from the peer, and
    equal again; quarantine keeps it, encrypted."""
    async with linked(tmp_path, PAIR, start=False) as regions:
        regions.storage_keys = (KEY,)
        eu = await regions.start("eu")
        await regions.start("us")
        await send(eu, "s", text=MARKER.decode())
        await eu.patch_metadata("s", {"k": 1})
        await regions.until(regions.same)
        await regions.until(lambda: regions.nodes["us"].metadata("s") == {"k": 1})
        whole = regions.nodes["us"].snapshot("s")
        await regions.stop("eu")
        assert change(database(regions, "eu"), DAMAGE[what].format(value)) == 1
        eu = await regions.start("eu")
        await eu.work()
        await eu._storage.scrub(0, 100)
        await regions.until(lambda: eu.snapshot("s")["messages"] == whole["messages"])
        await regions.until(lambda: eu.metadata("s") == {"k": 1})
        await equal(regions)
        assert [id_ for id_, _ in eu.state.page(range_of("", "*"), 10)] == ["s"]
        await eu.checkpoint.all()
        assert holding(tmp_path / "eu") == []
        if what in ("head", "facts", "body", "digest", "summary"):
            assert query(tmp_path / "eu", "SELECT crc FROM quarantine")[0] == (0,)


async def test_a_note_that_cannot_be_decrypted_is_forgotten(tmp_path: Path) -> None:
    """It is not taken for another."""
    storage = opened(tmp_path / "eu", KEY)
    await storage.note("a", "1")
    await storage.note("b", "2")
    storage.close()
    query(
        tmp_path / "eu",
        "UPDATE meta SET value = (SELECT value FROM meta WHERE key = 'note:b')"
        " WHERE key = 'note:a'",
    )
    storage = opened(tmp_path / "eu", KEY)
    assert storage.notes() == {"b": "2"}
    await storage.note("b", "")
    assert storage.notes() == {}
    storage.close()


def test_clear_is_as_it_is() -> None:
    """Content and checksum, untouched."""
    assert Clear().put(PLACE, b"x", 7) == Clear().get(PLACE, b"x", 7) == (b"x", 7)
    assert issubclass(StorageKeyWrong, StorageError)
