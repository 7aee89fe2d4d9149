"""Regions without sockets: real nodes and real disks, on a clock that the test moves."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from perdure.regions.clock import SystemEntropy
from perdure.regions.node import Node
from perdure.regions.ports import StorageError
from perdure.regions.storage import SqliteStorage
from perdure.replication.records import Record
from perdure.replication.subjects import Deletion


class ManualClock:
    """Time that stands still until the test moves it."""

    def __init__(self) -> None:
        self.wall = 1_800_000_000_000
        self.monotonic = 0

    def wall_ms(self) -> int:
        return self.wall

    def monotonic_ms(self) -> int:
        return self.monotonic

    def pass_ms(self, ms: int) -> None:
        self.wall += ms
        self.monotonic += ms


class WatchedStorage(SqliteStorage):
    """A disk that counts its commits, and fails or waits when it is told to."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.commits: list[list[Record]] = []
        self.failure: StorageError | None = None
        self.before_commit: Callable[[], None] = lambda: None

    async def commit(self, records: Sequence[Record], deletions: Sequence[Deletion] = ()) -> None:
        self.before_commit()
        if self.failure is not None:
            raise self.failure
        await super().commit(records, deletions)
        self.commits.append(list(records))


class Regions:
    """Makes nodes; a node of a name has its directory, however often it is made."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = ManualClock()
        self.disks: list[WatchedStorage] = []

    def node(self, name: str = "eu", peers: Sequence[str] = ()) -> tuple[Node, WatchedStorage]:
        """A recovered node that has not been started."""
        storage = WatchedStorage(self.path / name)
        self.disks.append(storage)
        node = Node(
            name,
            storage,
            self.clock,
            SystemEntropy(),
            secret=b"s" * 32,
            peers=peers,
            bootstrap=True,
        )
        node.recover()
        return node, storage


@pytest.fixture
def regions(tmp_path: Path) -> Iterator[Regions]:
    made = Regions(tmp_path)
    yield made
    for disk in made.disks:
        disk.close()
