"""Records that all regions keep together: revocations, API keys.

They are complete messages of a session of the regions' own, which no client can name. So they are
on disk before anybody is told, are gossiped, repaired and verified as any message is, and a record
that two regions make alike is one.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from perdure.regions.accounts import Accounts
from perdure.regions.newest_first import newest_first
from perdure.replication.admission import Draft
from perdure.replication.ids import canonical
from perdure.replication.limits import PAGE_ITEMS_MAX
from perdure.replication.records import Origin
from perdure.replication.tenants import own_key

_ROLE = "record"
# Each takes some 200 microseconds.
_AT_ONCE = 25


class Ledger:
    """The records of one kind."""

    def __init__(self, node: Accounts, name: str) -> None:
        self._node = node
        self.session = own_key(name)

    def all(self) -> Iterator[tuple[str, Any]]:
        """All records, by id, the newest first."""
        for message in newest_first(self._node.state.find(self.session), PAGE_ITEMS_MAX):
            if (value := _read(message.value())) is not None:
                yield message.id, value

    async def each(self) -> AsyncIterator[tuple[str, Any]]:
        """The same, with the loop free for others between some and some."""
        before: str | None = None
        more = True
        while more and (session := self._node.state.find(self.session)) is not None:
            messages, more = session.page(before, _AT_ONCE)
            for message in reversed(messages):
                if (value := _read(message)) is not None:
                    yield message["id"], value
            more = more and bool(messages)
            before = messages[0]["serial"] if messages else None
            await asyncio.sleep(0)

    def get(self, id_: str) -> Any | None:
        """One record; None where there is none."""
        session = self._node.state.find(self.session)
        message = None if session is None else session.visible(id_)
        return None if message is None else _read(message.value())

    def place(self, id_: str) -> tuple[Origin, int] | None:
        """Where a record stands in the logs, if that is known."""
        session = self._node.state.find(self.session)
        message = None if session is None else session.visible(id_)
        return None if message is None else message.opened_at

    def watch(self, changed: Callable[[str], None]) -> None:
        """Be told of each record that is new, changed or gone, by its id."""
        self._node.watchers[self.session] = changed

    async def put(self, id_: str, value: Any) -> None:
        """Keep a record, in all regions; the same again changes nothing."""
        await self._node.send(self.session, Draft(_ROLE, id=id_, text=canonical(value)))

    async def remove(self, id_: str) -> None:
        """Forget a record, in all regions, for ever."""
        await self._node.delete(self.session, id_)


def _read(message: dict[str, Any]) -> Any | None:
    try:
        return json.loads(message["text"])
    except ValueError:
        return None
