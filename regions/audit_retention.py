"""Ends the audit log at its old end, so that what is left can still be checked.

Rule of this file: whole logs go, of each region the oldest first, and never the newest. Before any
goes, an entry says for each region which entry its chain now begins after, with that one's hash: an
anchor. How old a log is says the clock of the region that decides: it counts from when that first
saw that the log has a successor, and so gets no more entries.
"""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from perdure.regions.audit import SESSION, Audit, entries_of
from perdure.regions.node import Node
from perdure.replication.chain import CUT
from perdure.replication.errors import Refusal
from perdure.replication.session import Session

_NOTE = "audit_seen"
_LOGS_AT_ONCE = 100
# Logs that one walk deletes; the next goes on.
LOGS_CUT_MAX = 1_000
EVERY_S = 3_600
# What a note says of a log: its region, and when it was first seen to be full (None: it is not).
_Seen = dict[str, tuple[str, int | None]]


class AuditRetention:
    """The part of the region that decides."""

    def __init__(self, node: Node, audit: Audit) -> None:
        self._node = node
        self._audit = audit
        self._next_ms = 0

    async def cut(self, age_s: int) -> int:
        """Delete the logs that were full for so long, once in ``EVERY_S``; how many. Raises
        ``Refusal`` and ``StorageError``."""
        session = self._node.state.find(SESSION)
        if session is None or self._node.clock.monotonic_ms() < self._next_ms:
            return 0
        self._next_ms = self._node.clock.monotonic_ms() + EVERY_S * 1000
        now_ms = self._node.clock.wall_ms()
        seen = await self._look(session, now_ms)
        by_region: dict[str, list[str]] = {}
        for id_, (region, _) in seen.items():
            by_region.setdefault(region, []).append(id_)
        going: list[str] = []
        anchors: dict[str, Any] = {}
        for region, logs in by_region.items():
            old = 0
            while old < len(logs) - 1 and len(going) < LOGS_CUT_MAX:
                full_ms = seen[logs[old]][1]
                if full_ms is None or full_ms > now_ms - age_s * 1000:
                    break
                going.append(logs[old])
                old += 1
            if (anchor := _anchor(session, logs[old:])) is not None:
                anchors[region] = anchor
        if going:
            said = {"logs": len(going), "anchors": anchors}
            await self._audit.record(CUT, tenant="", actor="~retention", **said)
            for id_ in going:
                with contextlib.suppress(Refusal):
                    await self._node.delete(SESSION, id_)
        return len(going)

    async def _look(self, session: Session, now_ms: int) -> _Seen:
        """All logs, the oldest first, as they are noted from now on."""
        storage = self._node.storage
        before: _Seen = json.loads(storage.notes().get(_NOTE, "{}"))
        newest: set[str] = set()
        found: _Seen = {}
        for id_ in list(_newest_first(session)):
            region, full_ms = before.get(id_) or (_region(session, id_), None)
            if region is None:
                continue
            # The newest of its region may still be written to.
            if region in newest and full_ms is None:
                full_ms = now_ms
            newest.add(region)
            found[id_] = (region, full_ms)
        seen = dict(reversed(found.items()))
        text = json.dumps(seen) if seen else ""
        if text != storage.notes().get(_NOTE, ""):
            await storage.note(_NOTE, text)
        return seen


def _newest_first(session: Session) -> Iterator[str]:
    """The ids of the logs; none is brought to memory for that."""
    before: str | None = None
    more = True
    while more:
        ids, more = session.messages.page(before, _LOGS_AT_ONCE)
        yield from reversed(ids)
        row = session.messages.row(ids[0]) if ids else None
        more = more and row is not None and row.serial != before
        before = None if row is None else row.serial


def _region(session: Session, id_: str) -> str | None:
    """Whose log it is; None where it is damaged, until that is mended."""
    message = session.messages.peek(id_)
    header = None if message is None else message.header
    return None if header is None else header.lane.producer


def _anchor(session: Session, logs: list[str]) -> list[Any] | None:
    """Where a chain begins that begins with these logs: the entry before, and its hash; None where
    it begins at its beginning."""
    for id_ in logs:
        message = session.messages.peek(id_)
        for entry in () if message is None else entries_of(message):
            return None if entry["n"] == 1 else [entry["n"] - 1, entry["prev"]]
    return None
