"""What commits tell the meters."""

from collections.abc import Sequence

from perdure.regions.meters import Meters
from perdure.regions.ports import Clock
from perdure.regions.writer import Applied
from perdure.replication.hlc import to_wall_ms
from perdure.replication.operations import Create, Input, Metadata, Open, Operation


def born(operation: Operation | None) -> int | None:
    """The reading of the hybrid clock with which an operation was made; None for those that carry
    none, and for what has none of its own."""
    match operation:
        case Open():
            return operation.header.created
        case Create() | Metadata() | Input():
            return operation.hlc
    return None


class Measuring:
    """Of one region's commits."""

    def __init__(self, meters: Meters, region: str, clock: Clock) -> None:
        self._meters = meters
        self._region = region
        self._clock = clock

    def committed(self, applied: Sequence[Applied], writes: int, seconds: float) -> None:
        """One commit: what it applied, how many it answers, how long the disk took."""
        meters = self._meters
        meters.commits.add()
        meters.commit_seconds.observe(seconds)
        meters.commit_writes.observe(writes)
        for operation, record in applied:
            if record.origin.region != self._region and (hlc := born(operation)) is not None:
                late_ms = self._clock.wall_ms() - to_wall_ms(hlc)
                meters.gossip_seconds.observe(max(0, late_ms) / 1000)
