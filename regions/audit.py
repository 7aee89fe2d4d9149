"""The audit log: who did what to which session, in a chain of hashes, in all regions.

It is a session of the regions' own: each start of a region writes token logs in it, a line of JSON
an entry, so an entry is on disk before what it tells of is answered, reaches every region, and is
repaired and verified as any text is. Nothing that a client can say changes or deletes it.
"""

import asyncio
import json
from collections.abc import Iterator, Mapping
from typing import Any

from perdure.regions.newest_first import newest_first
from perdure.regions.node import Node
from perdure.regions.ports import StorageError
from perdure.replication.admission import Draft
from perdure.replication.chain import START, linked
from perdure.replication.errors import Refusal
from perdure.replication.hlc import wall_time
from perdure.replication.ids import canonical
from perdure.replication.limits import AUDIT_ENTRIES_MAX
from perdure.replication.message import Message
from perdure.replication.tenants import own_key

SESSION = own_key("audit")
_ROLE = "audit"
_LOGS_AT_ONCE = 100


class Audit:
    """Writes the entries of this region, and reads those of all."""

    def __init__(self, node: Node) -> None:
        self._node = node
        # The lane that is being written: message, epoch, and how many entries it has.
        self._lane: tuple[str, str] | None = None
        self._count = 0
        self._logs = 0
        self._opening = asyncio.Lock()
        self._recording: set[asyncio.Task[None]] = set()
        self._n, self._hash = self._last()
        # What was last known to be on disk: where a chain goes on after a failure.
        self._kept = (self._n, self._hash)

    def _last(self) -> tuple[int, str]:
        """The number and hash of this region's last entry, before this start."""
        for message in self._newest_first():
            header = message.header
            if header is not None and header.lane.producer == self._node.region:
                lines = _lines(message)
                if lines:
                    entry = json.loads(lines[-1])
                    return entry["n"], entry["hash"]
        return 0, START

    async def record(self, action: str, **what: Any) -> None:
        """Note something: on disk when this returns. Raises ``StorageError`` and ``Refusal``."""
        # Shielded: of what is cancelled nobody knows whether the chain has it.
        recording = asyncio.create_task(self._record(action, what))
        self._recording.add(recording)
        recording.add_done_callback(self._recording.discard)
        try:
            await asyncio.shield(recording)
        except (Refusal, StorageError):
            self._node.meters.audit_failures.add()
            raise

    async def _record(self, action: str, what: Mapping[str, Any]) -> None:
        while self._lane is None or self._count >= AUDIT_ENTRIES_MAX:
            async with self._opening:
                if self._lane is None or self._count >= AUDIT_ENTRIES_MAX:
                    await self._open()
        message, epoch = self._lane
        self._n += 1
        at = wall_time(self._node.clock.wall_ms())
        said = {"n": self._n, "at": at, "region": self._node.region, "action": action, **what}
        entry = linked(said, self._hash)
        self._hash = entry["hash"]
        seq, self._count = self._count, self._count + 1
        place = (SESSION, message, self._node.region, epoch, seq)
        try:
            await self._node.append(*place, [canonical(entry) + "\n"])
        except BaseException:
            # Those after it in this log are refused as well; a new one goes on from what is kept.
            if self._lane == (message, epoch):
                self._lane = None
                self._n, self._hash = self._kept
            raise
        if entry["n"] > self._kept[0]:
            self._kept = (entry["n"], entry["hash"])

    async def _open(self) -> None:
        if self._node.catch_up.is_under_way:
            # Where the chain goes on is in what is still to come.
            raise Refusal("catching_up", "this region is not caught up yet", retry_after_s=1)
        if not self._logs:
            # It may have come since this was made: the disk was empty, or a backup's.
            self._n, self._hash = self._last()
            self._kept = (self._n, self._hash)
        self._logs += 1
        id_ = f"{self._node.origin.incarnation:016x}-{self._logs}"
        draft = Draft(_ROLE, id=id_, producer=self._node.region, claim_id=f"audit-{id_}")
        opened = await self._node.open(SESSION, draft)
        self._lane, self._count = (id_, opened.epoch), 0

    def entries(self, after: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
        """Entries of all regions after a place, in the order of their logs, each with its place."""
        serial, _, index = (after or "").rpartition("_")
        for message in self._logs_from(serial):
            lines = _lines(message)
            first = int(index) + 1 if message.serial == serial else 0
            for number in range(first, len(lines)):
                yield f"{message.serial}_{number}", json.loads(lines[number])

    def _logs_from(self, serial: str) -> list[Message]:
        """The logs from a serial on, the oldest first."""
        found: list[Message] = []
        for message in self._newest_first():
            if message.serial < serial:
                break
            found.append(message)
        return found[::-1]

    def _newest_first(self) -> Iterator[Message]:
        return newest_first(self._node.state.find(SESSION), _LOGS_AT_ONCE)


def entries_of(message: Message) -> list[dict[str, Any]]:
    """The entries of one log."""
    return [json.loads(line) for line in _lines(message)]


def _lines(message: Message) -> list[str]:
    """The entries of a log. Only a newline ends one: a name may hold U+2028, or U+0085."""
    text: str = message.value()["text"]
    return text.split("\n")[:-1]
