"""A region that dies at each point of a write: what its client hears, and what is there then."""

import shutil
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from perdure.regions.checkpoint import Limits
from perdure.regions.clock import SystemEntropy
from perdure.regions.node import Node
from perdure.regions.storage import SqliteStorage
from perdure.replication.records import Origin, seal
from sqlalchemy import Connection

from tests.regions.conftest import ManualClock
from tests.regions.faulty_disk import compiled
from tests.regions.linked import linked
from tests.regions.processes import SECRET, Served

# Ends the process at once where a write or a sync begins, or where a sync is over.
SHIM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>
static void die_at(const char *point) {
    const char *path = getenv(point);
    if (path && access(path, F_OK) == 0) { kill(getpid(), SIGKILL); pause(); }
}
#define NEXT(type, name) ((type) dlsym(RTLD_NEXT, name))
ssize_t pwrite(int fd, const void *b, size_t n, off_t at) {
    die_at("DIE_BEFORE_WRITE");
    return NEXT(ssize_t (*)(int, const void *, size_t, off_t), "pwrite")(fd, b, n, at);
}
ssize_t pwrite64(int fd, const void *b, size_t n, off64_t at) {
    die_at("DIE_BEFORE_WRITE");
    return NEXT(ssize_t (*)(int, const void *, size_t, off64_t), "pwrite64")(fd, b, n, at);
}
static int synced(const char *name, int fd) {
    die_at("DIE_BEFORE_SYNC");
    int code = NEXT(int (*)(int), name)(fd);
    die_at("DIE_AFTER_SYNC");
    return code;
}
int fsync(int fd) { return synced("fsync", fd); }
int fdatasync(int fd) { return synced("fdatasync", fd); }
"""

needs_compiler = pytest.mark.skipif(
    shutil.which("cc") is None,
    reason="no C compiler for a death within a system call; test_serving.py kills as well",
)


@pytest.fixture
def shim(tmp_path: Path) -> Path:
    """The compiled shim."""
    return compiled(SHIM, tmp_path)


@needs_compiler
@pytest.mark.failure("P1", "P2", "P3")
@pytest.mark.parametrize(
    ("point", "found"),
    [("DIE_BEFORE_WRITE", {"a"}), ("DIE_BEFORE_SYNC", {"a", "ab"}), ("DIE_AFTER_SYNC", {"ab"})],
)
async def test_a_region_dies_within_a_write(
    tmp_path: Path, shim: Path, point: str, found: set[str]
) -> None:
    """Before the write, before its sync, before its answer: the client is cut off without an
    acknowledgement. After the start the token is not there, or whole, and its repetition is the
    same item in the same epoch; repeated elsewhere too, it is there once in both."""
    served, trigger = Served(tmp_path / "eu"), tmp_path / "die"
    environment = {"LD_PRELOAD": str(shim), point: str(trigger)}
    async with served.serve(environment=environment) as running:
        opened = await served.open()
        epoch, header = opened["epoch"], opened["header"]
        await served.append(epoch, 0, "a")
        trigger.touch()
        with pytest.raises(httpx2.RequestError):
            await served.append(epoch, 1, "b")
        assert (await running.end()).code == -signal.SIGKILL
    async with linked(tmp_path, {"eu": ["us"], "us": ["eu"]}, start=False) as regions:
        us = await regions.start("us", secret=SECRET.encode())
        # The agent goes on elsewhere, with all that was not stable.
        assert (await us.reopen("s", header)).epoch == epoch
        assert (await us.append("s", "m", "p", epoch, 0, ["a", "b", "c"], None)).next == 3
        eu = await regions.start("eu", secret=SECRET.encode())
        held = eu.message("s", "m")["text"]
        assert held in found
        again = await eu.append("s", "m", "p", epoch, 0, ["a", "b"], None)
        assert (again.duplicates, again.next) == (len(held), 2)
        await regions.until(regions.same)
        assert [node.message("s", "m")["text"] for node in (eu, us)] == ["abc", "abc"]


class Watched(SqliteStorage):
    """A disk of which a copy is taken before, within and after each transaction."""

    def __init__(self, directory: Path, copies: Path) -> None:
        super().__init__(directory)
        self.copies = copies
        self.taken: list[Path] = []

    def take(self) -> None:
        self.taken.append(self.copies / str(len(self.taken)))
        shutil.copytree(self.directory, self.taken[-1])

    def _in_transaction(self, work: Callable[[Connection], Any]) -> Any:
        def within(connection: Connection) -> Any:
            result = work(connection)
            self.take()
            return result

        self.take()
        result = super()._in_transaction(within)
        self.take()
        return result


class Dying:
    """A region whose process could have ended at any of its transactions."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = ManualClock()
        self.disk = Watched(path / "eu", path)
        self.node = self.made(self.disk)
        self.node.checkpoint._limits = Limits(log_bytes_max=-1)
        self.node.start(None)

    def made(self, disk: SqliteStorage) -> Node:
        peers = ["us"]
        secret = b"s" * 32
        entropy = SystemEntropy()
        node = Node("eu", disk, self.clock, entropy, secret=secret, peers=peers, bootstrap=True)
        node.recover()
        return node

    @staticmethod
    def holds(node: Node) -> tuple[list[str], dict[str, str], Any]:
        """Everything that is known: digests of all sessions, and which records."""
        vector = {str(origin): lsn for origin, lsn in node.gossip.vector.items()}
        return node.holdings.buckets(), node.holdings.in_buckets(range(4_096)), vector

    async def died(self, *, between: tuple[Any, Any]) -> None:
        """At each copy taken: what it holds is one of the two. No copy is left."""
        assert len(self.disk.taken) >= 3
        for copy in self.disk.taken:
            disk = SqliteStorage(copy)
            node = self.made(disk)
            try:
                assert self.holds(node) in between, copy
                assert disk.damaged == 0
            finally:
                await node.stop()
            shutil.rmtree(copy)
        self.disk.taken.clear()


@pytest.fixture
async def dying(tmp_path: Path) -> AsyncIterator[Dying]:
    found = Dying(tmp_path)
    yield found
    await found.node.stop()


@pytest.mark.failure("P5")
async def test_a_region_dies_within_what_it_does_beside_writing(dying: Dying) -> None:
    """While it applies gossip, stores sessions, lets go of a log, absorbs sessions of a peer or
    jumps: a process that ended at any of its transactions finds the old or the new, never half."""
    node, us = dying.node, Origin("us", 7)
    before = dying.holds(node)
    bodies = [b'["create","%c",1,"us",{"a":1}]' % name for name in b"abcd"]
    await node.receive([seal(us, lsn + 1, body) for lsn, body in enumerate(bodies)])
    after = dying.holds(node)
    assert after != before
    await dying.died(between=(before, after))
    # Stored, and the log let go of: several transactions that change nothing of what is held.
    await node.checkpoint.all()
    await node.checkpoint._truncate()
    assert node.gossip.floors
    await dying.died(between=(after, after))
    piece = b'["absorb","e",[["create","e",1,"us",{"b":2}]],[]]'
    await node._writer.absorb([piece])
    absorbed = dying.holds(node)
    assert absorbed != after
    await dying.died(between=(after, absorbed))
    await node._writer.jump({us: 9})
    jumped = dying.holds(node)
    await dying.died(between=(absorbed, jumped))
