"""What any storage of a region must do: derive from the class, and say how yours is made."""

import abc
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from perdure.regions.ports import Storage, StorageFailed
from perdure.replication.coding import encode
from perdure.replication.ids import LaneKey, parse_epoch
from perdure.replication.lane import Place
from perdure.replication.operations import Cancel, Delete
from perdure.replication.records import LSN_MAX, Origin, Record, intact, seal
from perdure.replication.subjects import Deletion, Erasure, Subject

EU, US = Origin("eu", 1), Origin("us", 2**64 - 1)


def batch(origin: Origin, *lsns: int, body: bytes = b"body") -> list[Record]:
    return [seal(origin, lsn, body + b"%d" % lsn) for lsn in lsns]


class StorageContract(abc.ABC):
    """The acceptance test of a storage."""

    @abc.abstractmethod
    def make(self, path: Path) -> Storage:
        """A new storage that is not open yet."""

    @abc.abstractmethod
    def again(self, storage: Storage) -> Storage:
        """The same logs after a restart, open."""

    @pytest.fixture
    def stored(self, tmp_path: Path) -> Iterator[Storage]:
        storage = self.make(tmp_path)
        storage.open()
        assert list(storage.replay()) == []
        yield storage
        storage.close()

    async def test_what_was_committed_comes_back_in_the_order_of_arrival(
        self, stored: Storage
    ) -> None:
        """With origin, lsn, body and checksum, byte for byte; the vector is that of the logs."""
        first = batch(EU, 1, 2) + batch(US, 1)
        second = [*batch(EU, 3, body=bytes(range(256))), seal(US, 2, b"")]
        await stored.commit(first)
        await stored.commit([])
        await stored.commit(second)
        reopened = self.again(stored)
        assert list(reopened.replay()) == first + second
        assert reopened.vector() == {EU: 3, US: 2}
        assert reopened.damaged == 0
        reopened.close()

    async def test_a_new_storage_is_empty(self, stored: Storage) -> None:
        """And says so to every question."""
        assert stored.vector() == {}
        assert await stored.read(EU, 0, 10**6) == []

    async def test_a_log_is_read_from_any_lsn(self, stored: Storage) -> None:
        """In lsn order, about as many bytes as asked for, at least one when there is one."""
        records = batch(EU, *range(1, 11))
        await stored.commit(records)
        await stored.commit(batch(US, 1))
        assert await stored.read(EU, 0, 10**6) == records
        assert await stored.read(EU, 7, 10**6) == records[7:]
        assert await stored.read(EU, 7, 1) == records[7:8]
        assert await stored.read(EU, 7, 0) == records[7:8]
        assert await stored.read(EU, 0, len(records[0].body) * 2) == records[:2]
        assert await stored.read(EU, 10, 10**6) == []
        assert await stored.read(Origin("xx", 1), 0, 10**6) == []

    async def test_each_start_of_a_region_has_a_log_of_its_own(self, stored: Storage) -> None:
        """The incarnation tells them apart, however large it is."""
        other = Origin("eu", 2**64 - 2)
        await stored.commit(batch(EU, 1) + batch(other, 1, body=b"other"))
        assert await stored.read(other, 0, 10**6) == batch(other, 1, body=b"other")
        reopened = self.again(stored)
        assert len(list(reopened.replay())) == 2
        assert reopened.vector() == {EU: 1, other: 1}
        reopened.close()

    async def test_the_vector_counts_what_is_dense(self, stored: Storage) -> None:
        """In whatever order it arrived; a gap ends it, and ends what is read."""
        await stored.commit(batch(EU, 2) + batch(EU, 1) + batch(EU, 4) + batch(US, LSN_MAX))
        reopened = self.again(stored)
        assert [record.lsn for record in reopened.replay()] == [2, 1, 4, LSN_MAX]
        assert reopened.vector() == {EU: 2}
        assert await reopened.read(EU, 0, 10**6) == batch(EU, 1, 2)
        reopened.close()

    async def test_a_record_that_comes_again_is_one(self, stored: Storage) -> None:
        """In a later batch or in the same."""
        await stored.commit(batch(EU, 1, 2))
        await stored.commit(batch(EU, 2, 3) + batch(EU, 3))
        reopened = self.again(stored)
        assert list(reopened.replay()) == batch(EU, 1, 2, 3)
        assert reopened.vector() == {EU: 3}
        reopened.close()

    async def test_a_record_that_was_damaged_is_mended_by_the_next(self, stored: Storage) -> None:
        """It is counted and left out; nothing behind it is counted or read; the right one comes in
        its stead, as the newest."""
        records = batch(EU, 1, 2, 3)
        await stored.commit([records[0], records[1]._replace(crc=1), records[2]])
        damaged = self.again(stored)
        assert [record.lsn for record in damaged.replay()] == [1, 3]
        assert (damaged.damaged, damaged.vector()) == (1, {EU: 1})
        assert await damaged.read(EU, 0, 10**6) == records[:1]
        await damaged.commit(records[1:2])
        mended = self.again(damaged)
        assert list(mended.replay()) == [records[0], records[2], records[1]]
        assert (mended.damaged, mended.vector()) == (0, {EU: 3})
        mended.close()

    async def test_nothing_is_taken_after_the_end(self, stored: Storage) -> None:
        """A closed storage says so; closing again is harmless."""
        stored.close()
        stored.close()
        with pytest.raises(StorageFailed, match="closed"):
            await stored.commit(batch(EU, 1))
        with pytest.raises(StorageFailed, match="closed"):
            await stored.read(EU, 0, 1)

    async def test_what_is_deleted_waits_until_it_is_gone(self, stored: Storage) -> None:
        """It is noted with the record; taken out of the logs, whose lsns and checksums hold; and
        done when that is said, also after a restart. Told again it is not done once more, but where
        its tombstone was lost."""
        about = encode(Cancel("s", "m", LaneKey("p", parse_epoch("1-0123456789abcdef"))))
        other = encode(Cancel("s", "n", LaneKey("p", parse_epoch("1-0123456789abcdef"))))
        delete = encode(Delete("s", "m"))
        bodies = [about, other, delete, about]
        records = [seal(EU, lsn, body) for lsn, body in enumerate(bodies, 1)]
        gone = Subject("s", "m")
        await stored.commit(records[:3], [Deletion(gone, Place(EU, 3), True, 7)])
        await stored.commit(records[3:])
        assert stored.waiting(9) == [gone] and stored.waiting(0) == []
        assert stored.erasure(gone) == Erasure(7, {EU: 3}, False)
        assert stored.erasure(Subject("s")) is None
        assert await stored.erase([gone])
        stub = b'["erased","s","m",null,null]'
        found = await stored.read(EU, 0, 10**6)
        assert [record.body for record in found] == [stub, other, delete, stub]
        assert all(map(intact, found)) and [record.lsn for record in found] == [1, 2, 3, 4]
        assert stored.waiting(9) == [gone]
        await stored.erased([gone], {EU: 4})
        reopened = self.again(stored)
        assert list(reopened.replay()) == found and reopened.damaged == 0
        assert reopened.waiting(9) == []
        assert reopened.notes()["erased"] == json.dumps({str(EU): 4})
        for is_news in (False, True):
            await reopened.commit([], [])
            again = [Deletion(gone, Place(US, 1), is_news, 9)]
            await reopened.commit(batch(US, 2 if is_news else 1), again)
            assert reopened.erasure(gone) == Erasure(7, {EU: 3}, not is_news)
        reopened.close()

    async def test_where_a_delete_stands_becomes_known(self, stored: Storage) -> None:
        """Of what was told by a session nothing is known until the record comes, or a jump is past
        it; what came by a record stays."""
        names = [Subject("s"), Subject("s", "m"), Subject("s", None, "d")]
        placeless = [Deletion(name, None, True, number) for number, name in enumerate(names)]
        await stored.commit(batch(EU, 1), placeless)
        assert [stored.erasure(name) for name in names] == [
            Erasure(number, {}, False) for number in range(3)
        ]
        assert stored.placeless(1, 9) == names[:2] and stored.placeless(9, 1) == names[:1]
        await stored.commit(batch(EU, 2), [Deletion(names[0], Place(EU, 2), False, 9)])
        await stored.jump({US: 50})
        await stored.jump({EU: 2, US: 60})
        places = [(stored.erasure(name) or Erasure(0, {}, True)).places for name in names]
        assert places == [{EU: 2}, {EU: 2, US: 60}, {EU: 2, US: 60}]
        assert stored.placeless(9, 9) == []
        await stored.commit(batch(EU, 3), [Deletion(names[1], Place(EU, 3), False, 9)])
        assert stored.erasure(names[1]) == Erasure(1, {EU: 3}, False)
