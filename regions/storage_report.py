"""What a region says of its disk: logs, files, commits, what is sealed and what is damaged."""

from typing import Any

from perdure.regions.accounts import Accounts
from perdure.regions.meters import Histogram
from perdure.replication.coding import decode
from perdure.replication.errors import Malformed
from perdure.replication.hlc import to_wall_ms
from perdure.replication.operations import Create, Metadata, Open
from perdure.replication.records import Origin

# How much of the beginning of a log is looked through for something that has a time; and how long
# what was measured is good for.
_LOOKED_AT_BYTES = 65_536
FRESH_MS = 5_000


class StorageReport:
    """Of one region. What it costs does not grow with what is stored."""

    def __init__(self, node: Accounts) -> None:
        self._node = node
        self._made: tuple[int, dict[str, Any]] | None = None

    async def value(self) -> dict[str, Any]:
        """The report of ``GET /admin/api/storage``. Raises ``StorageFailed``."""
        now_ms = self._node.clock.monotonic_ms()
        if self._made is None or now_ms - self._made[0] >= FRESH_MS:
            self._made = (now_ms, await self._make())
        return self._made[1]

    async def _make(self) -> dict[str, Any]:
        node = self._node
        storage, state, meters = node.storage, node.state, node.meters
        found = await storage.measure()
        logs = [
            {
                "origin": str(log.origin),
                "records": log.records,
                "bytes": log.bytes,
                "oldest_ms": await self._oldest_ms(log.origin),
            }
            for log in sorted(found.logs)
        ]
        commits = int(meters.commits.value())
        return {
            "log_bytes": sum(log["bytes"] for log in logs),
            "logged_bytes": state.log_bytes,
            "logs": logs,
            "database_bytes": found.database_bytes,
            "wal_bytes": found.wal_bytes,
            "free_bytes": storage.free_bytes(),
            "commits": commits,
            "commit_p50_s": _quantile(meters.commit_seconds, 0.5),
            "commit_p99_s": _quantile(meters.commit_seconds, 0.99),
            "writes_per_commit": round(meters.commit_writes.sum / commits, 2) if commits else None,
            "sealed": node.checkpoint.saved,
            "evicted": state.evictions,
            "in_memory": len(state.sessions),
            "dirty": len(state.dirty) + len(state.saving),
            "damaged": storage.damaged,
            "undecodable": state.undecodable,
            "encrypted": found.encrypted,
            "last_checkpoint_ms": node.checkpoint.saved_ms,
            "last_backup_ms": found.last_backup_ms,
        }

    async def _oldest_ms(self, origin: Origin) -> int | None:
        """When the oldest record was made that says so, near the beginning of a log."""
        storage = self._node.storage
        floor = storage.floors().get(origin, 0)
        for record in await storage.read(origin, floor, _LOOKED_AT_BYTES):
            try:
                operation = decode(record.body)
            except Malformed:
                continue
            if isinstance(operation, Open):
                return to_wall_ms(operation.header.created)
            if isinstance(operation, Create | Metadata):
                return to_wall_ms(operation.hlc)
        return None


def _quantile(histogram: Histogram, part: float) -> float | None:
    found = histogram.quantile(part)
    return None if found is None else min(found, histogram.bounds[-1])
