"""Erasing a subject: every message that somebody has written, in all sessions of a tenant.

A request is a record of all regions (:class:`~perdure.regions.ledger.Ledger`). Each region looks
through what it holds itself, so one that was away, or was cut off, deletes what it alone has when
it hears of it. It says that it is done when what it has deleted is gone from its disk.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

from perdure.regions.ledger import Ledger
from perdure.regions.newest_first import newest_first
from perdure.regions.node import Node
from perdure.regions.ports import StorageError
from perdure.replication.errors import Refusal
from perdure.replication.hlc import to_wall_ms, wall_time
from perdure.replication.ids import digest
from perdure.replication.limits import FORGET_SESSIONS_PER_S_MAX, PAGE_ITEMS_MAX
from perdure.replication.message import Message
from perdure.replication.tenants import Range, range_of

log = logging.getLogger("perdure")

_ID_BYTES = 12
# Between a request and the region that has done it.
_DONE_BY = "~"


class Forgetter:
    """The subjects that are to be erased, and how far that is."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._ledger = Ledger(node, "erasures")
        self._work: set[str] = set()
        # How much was deleted for those that are not gone from the disk yet.
        self._deleted: dict[str, int] = {}
        self._is_running = False
        for id_, _ in list(self._ledger.all()):
            self._note(id_)
        self._ledger.watch(self._note)
        node.each_second.append(self.look)

    def _note(self, id_: str) -> None:
        request = id_.partition(_DONE_BY)[0]
        if self._ledger.get(self._done_id(request, self._node.region)) is not None:
            self._work.discard(request)
        elif _DONE_BY not in id_:
            self._work.add(request)

    @staticmethod
    def _done_id(request: str, region: str) -> str:
        # Names of regions are ids, which may be as long as ids may be.
        return f"{request}{_DONE_BY}{digest(_ID_BYTES, region).hex()}"

    async def ask(self, tenant: str, subject: str, by: str) -> dict[str, Any]:
        """Erase what a subject has written until now; the request, as :meth:`told` tells it."""
        at_ms = self._node.clock.wall_ms()
        id_ = "e-" + digest(_ID_BYTES, tenant, subject, str(at_ms)).hex()
        value = {"tenant": tenant, "subject": subject, "at_ms": at_ms, "by": by}
        await self._ledger.put(id_, value)
        return self.told(tenant, id_)

    def told(self, tenant: str, id_: str) -> dict[str, Any]:
        """How far a request is. Raises ``Refusal`` ``not_found``."""
        value = None if _DONE_BY in id_ else self._ledger.get(id_)
        if value is None or value["tenant"] != tenant:
            raise Refusal("not_found", f"there is no erasure {id_[:128]}")
        names = sorted([self._node.region, *self._node.gossip.peers])
        done = {name: self._ledger.get(self._done_id(id_, name)) for name in names}
        return {
            "id": id_,
            "subject": value["subject"],
            "state": "under_way" if None in done.values() else "done",
            "regions": {name: "waiting" if said is None else "done" for name, said in done.items()},
            "messages": sum(said["messages"] for said in done.values() if said is not None),
            "requested": wall_time(value["at_ms"]),
            "by": value["by"],
        }

    def look(self) -> None:
        """A second has passed."""
        if self._work and not self._is_running and self._node.readiness() is None:
            self._is_running = True
            self._node.beside(self._run(), "perdure-forgetting")

    async def _run(self) -> None:
        try:
            for id_ in sorted(self._work):
                await self._carry_out(id_)
        except (Refusal, StorageError) as error:
            # A second later it is tried again; what is deleted by then stays so.
            log.warning("erasing a subject has to wait: %s", error)
        finally:
            self._is_running = False

    async def _carry_out(self, id_: str) -> None:
        value = self._ledger.get(id_)
        if value is None:
            self._work.discard(id_)
            return
        if id_ not in self._deleted:
            count = 0
            async for session in self._sessions(value["tenant"]):
                for message in list(self._written(session, value["subject"], value["at_ms"])):
                    count += await self._delete(session, message)
            self._deleted[id_] = count
        # Also what another region has deleted for this request: else it is looked at again.
        if self._node.is_erased():
            said = {"of": id_, "messages": self._deleted[id_]}
            await self._ledger.put(self._done_id(id_, self._node.region), said)
            self._work.discard(id_)
            del self._deleted[id_]

    async def _delete(self, session: str, message: str) -> bool:
        """Whether it was there to be deleted: others look for the same, and may be first."""
        try:
            await self._node.delete(session, message)
        except Refusal as refusal:
            if refusal.code != "deleted":
                raise
            return False
        return True

    async def _sessions(self, tenant: str) -> AsyncIterator[str]:
        """All sessions of a tenant, so many a second: each is loaded, and leaves memory again."""
        first, past = range_of(tenant, "*")
        while page := self._node.state.page(Range(first, past), FORGET_SESSIONS_PER_S_MAX):
            for name, _ in page:
                yield name
                await asyncio.sleep(0)
            first = page[-1][0] + "\x01"
            await asyncio.sleep(1 if len(page) == FORGET_SESSIONS_PER_S_MAX else 0)

    def _written(self, name: str, subject: str, until_ms: int) -> Iterator[str]:
        """The messages of a session that the subject has written until then."""
        for message in newest_first(self._node.state.find(name), PAGE_ITEMS_MAX):
            if _is_of(message, subject, until_ms):
                yield message.id


def _is_of(message: Message, subject: str, until_ms: int) -> bool:
    header = message.header
    if header is None or to_wall_ms(header.created) > until_ms:
        return False
    names = {header.author, header.lane.producer, *(c.lane.producer for c in message.claims.all())}
    begin = f"{subject}~"
    return any(name is not None and (name == subject or name.startswith(begin)) for name in names)
