"""What a region has seen happen to each session since it started, in bounded memory.

Rule of this file: nothing here is the truth. What was decided is in the replicated state; this adds
what that does not keep: when this region admitted it, which retries it recognised, whom it fenced,
and which readers came back here.
"""

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from perdure.replication.items import End
from perdure.replication.limits import JOURNAL_ENTRIES_MAX, JOURNAL_SESSION_ENTRIES_MAX
from perdure.replication.operations import (
    Cancel,
    Claim,
    Delete,
    Discard,
    Items,
    Lapse,
    Operation,
    Step,
)

# The same thing again within so long is one entry, with how many times it was.
REPEATED_MS = 10_000
_REPEATED = frozenset({"retry", "fenced", "resumed"})


@dataclass
class Entry:
    """Something that happened. ``at_ms``: wall time here, of the last time that it did."""

    at_ms: int
    kind: str
    message: str | None
    producer: str | None
    epoch: str | None
    detail: dict[str, Any] = field(default_factory=dict)
    times: int = 1

    def value(self, region: str) -> dict[str, Any]:
        """As the timeline shows it."""
        detail = {**self.detail, "times": self.times} if self.times > 1 else self.detail
        return {
            "at_ms": self.at_ms,
            "region": region,
            "kind": self.kind,
            "message": self.message,
            "run": None,
            "epoch": self.epoch,
            "producer": self.producer,
            "detail": detail,
        }


class Journal:
    """The journal of one region."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        # Of each session, the one that something happened to the longest ago first.
        self._sessions: OrderedDict[str, deque[Entry]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def note(
        self,
        session: str,
        kind: str,
        message: str | None = None,
        producer: str | None = None,
        epoch: str | None = None,
        **detail: Any,
    ) -> None:
        """Something happened now. Numbers in ``detail`` add up where it is the same again."""
        entries = self._sessions.get(session)
        if entries is None:
            entries = self._sessions[session] = deque(maxlen=JOURNAL_SESSION_ENTRIES_MAX)
        else:
            self._sessions.move_to_end(session)
        now_ms = self._now_ms()
        if entries and kind in _REPEATED:
            last = entries[-1]
            same = (last.kind, last.message, last.producer, last.epoch)
            if same == (kind, message, producer, epoch) and now_ms - last.at_ms < REPEATED_MS:
                _repeat(last, now_ms, detail)
                return
        self._count += len(entries) < JOURNAL_SESSION_ENTRIES_MAX
        entries.append(Entry(now_ms, kind, message, producer, epoch, detail))
        while self._count > JOURNAL_ENTRIES_MAX:
            _, gone = self._sessions.popitem(last=False)
            self._count -= len(gone)

    def admitted(self, operation: Operation) -> None:
        """This region was the first to admit this, and it is on disk now. (When messages were made
        is in their headers.)"""
        session = operation.session
        match operation:
            case Items(message=message, lane=lane, entries=entries):
                if isinstance(end := entries[-1], End):
                    who = (lane.producer, str(lane.epoch))
                    self.note(session, "ended", message, *who, status=end.status)
            case Claim(message=message, lane=lane, base=base):
                self.note(session, "claimed", message, lane.producer, str(lane.epoch), base=base)
            case Cancel(message=message):
                self.note(session, "cancelled", message)
            case Step(message=message, lane=lane, state=state):
                self.note(session, "step", message, lane.producer, str(lane.epoch), state=state)
            case Lapse(message=message, lane=lane):
                self.note(session, "lapsed", message, lane.producer, str(lane.epoch))
            case Delete(message=message):
                self.note(session, "deleted", message)
            case Discard(document=document):
                self.note(session, "deleted", None, document=document)

    def of(self, session: str) -> list[Entry]:
        """What happened to a session, the oldest first."""
        return list(self._sessions.get(session, ()))


def _repeat(last: Entry, now_ms: int, detail: dict[str, Any]) -> None:
    last.at_ms = now_ms
    last.times += 1
    for name, value in detail.items():
        known = last.detail.get(name)
        adds = isinstance(value, int) and isinstance(known, int)
        last.detail[name] = known + value if adds else value
