"""What sessions weigh in memory, in a process that does nothing else: ``python -m
tests.bench.weigh COUNT`` prints KiB a session of 10 messages of 500 tokens, by private memory.

In a region that has worked for a while, new sessions take the place of old ones and its memory does
not grow, so there it cannot be seen.
"""

import json
import os
import sys

from perdure.replication import admission
from perdure.replication.admission import Draft, Site
from perdure.replication.hlc import HybridClock
from perdure.replication.items import End
from perdure.replication.lane import Place
from perdure.replication.operations import Operation
from perdure.replication.records import Origin
from perdure.replication.session import Session

from tests.bench.accounting import memory_bytes
from tests.replication.memory_archive import MemoryArchive, store, unload

MESSAGES, TOKENS, BATCH = 10, 500, 20


class Region:
    """Applies what it admits, as a region does; to no disk."""

    def __init__(self) -> None:
        self.clock = HybridClock()
        self.lsn = 0

    def apply(self, session: Session, operations: list[Operation]) -> None:
        for operation in operations:
            self.lsn += 1
            session.apply(operation, Place(Origin("eu", 1), self.lsn), own=True)
        for _ in session.refresh():
            pass

    def session(self, name: str, *, ended: bool) -> Session:
        session = Session(name)
        for number in range(MESSAGES):
            draft = Draft("assistant", id=f"m{number}", producer="p", claim_id="claim-0001")
            opened = admission.admit_message(session, draft, Site("eu", self.clock, 10**12))
            self.apply(session, opened.operations)
            for seq in range(0, TOKENS, BATCH):
                tokens = tuple(f" w{seq + n}" for n in range(BATCH))
                admitted = admission.admit_append(
                    session, f"m{number}", opened.lane, seq, tokens, {}
                )
                self.apply(session, admitted.operations)
            if ended:
                end = (End("complete"),)
                admitted = admission.admit_append(
                    session, f"m{number}", opened.lane, TOKENS, end, {}
                )
                self.apply(session, admitted.operations)
        return session


def grown(before: int, count: int) -> float:
    """KiB for each since then."""
    return (memory_bytes(os.getpid()) - before) / count / 1024


def main(count: int) -> None:
    region = Region()
    region.session("warm", ended=True)
    before = memory_bytes(os.getpid())
    live = [region.session(f"live-{number}", ended=False) for number in range(count)]
    figures = {"live": grown(before, len(live))}
    # Kept: what comes next must not take their place.
    before = memory_bytes(os.getpid())
    finished = [region.session(f"finished-{number}", ended=True) for number in range(count)]
    figures["finished"] = grown(before, len(finished))
    print(json.dumps(figures | {"at_rest": at_rest(region, 20 * count), "kept": len(live)}))


def at_rest(region: Region, count: int) -> float:
    """Sessions that somebody reads, whose messages are stored and have left memory. (What is stored
    is not counted: a region has it on disk.)"""
    archive = MemoryArchive()
    model = region.session("model", ended=True)
    store(model, archive)
    unload(model)
    before = memory_bytes(os.getpid())
    resting = [Session("model", archive, archive.head) for _ in range(count)]
    return grown(before, len(resting))


if __name__ == "__main__":
    main(int(sys.argv[1]))
