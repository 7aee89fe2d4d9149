"""Which sessions there are: searched and sorted without bringing any into memory.

In slices, with others having their turn between them; one search looks at
``SEARCH_SESSIONS_MAX`` at most, and says when there were more.
"""

import asyncio
import heapq
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

from perdure.regions.accounts import Accounts
from perdure.regions.activity import Activity
from perdure.regions.image_tables import term_of
from perdure.replication.errors import Refusal
from perdure.replication.hlc import to_wall_ms, wall_time
from perdure.replication.limits import SEARCH_SESSIONS_MAX
from perdure.replication.tenants import Range, is_own, tenant_of

SORTS = ("recent", "id", "size", "readers")
_SLICE = 250
# Beyond so many digits nobody pages on in what is not sorted by name.
_SKIP_DIGITS = 6

Summary = dict[str, Any]


class Asked(NamedTuple):
    """What is looked for."""

    search: str = ""
    prefix: str = ""
    sort: str = "recent"
    after: str | None = None
    limit: int = 100
    own: bool = False

    @property
    def skip(self) -> int:
        """How many of the first were on earlier pages, where they are not sorted by name. Raises
        ``Refusal`` ``invalid_query``."""
        text = self.after or "0"
        if not (text.isascii() and text.isdigit() and len(text) < _SKIP_DIGITS):
            raise Refusal("invalid_query", "after must be as the last page gave it", field="after")
        return int(text)

    def fits(self, id_: str) -> bool:
        """Whether a session is meant."""
        return id_.startswith(self.prefix) and self.search in id_ and (self.own or not is_own(id_))


def _start(first: str, *, with_tenant: bool) -> str:
    """Where the range of all sessions from ``first`` on begins, of those with a tenant or of those
    without: which of them a range means, it says by a colon in its beginning."""
    if with_tenant == (":" in first):
        return first
    return f"{first}\x01:" if with_tenant else f"{first.partition(':')[0]};"


class Found(NamedTuple):
    """The names that were found; where to go on, and whether all were looked at."""

    ids: list[str]
    next: str | None
    complete: bool


def _page(asked: Asked, found: Sequence[tuple[int | str, str]], *, complete: bool) -> Found:
    """The page of the greatest that was asked for."""
    first, past = asked.skip, asked.skip + asked.limit
    ids = [id_ for _, id_ in heapq.nlargest(past + 1, found)]
    return Found(ids[first:past], str(past) if len(ids) > past else None, complete)


class Searching:
    """Searches in one region."""

    def __init__(self, node: Accounts, activity: Activity) -> None:
        self._node = node
        self._activity = activity

    async def search(self, asked: Asked) -> Found:
        """A page of what is looked for."""
        if asked.sort == "id":
            return await self._by_id(asked)
        if asked.sort == "readers":
            return self._by_readers(asked)
        return await self._best(asked)

    async def _all(self, after: str | None, prefix: str) -> AsyncIterator[tuple[str, Summary]]:
        """All sessions after a name, by name."""
        first = max(prefix, after + "\x01" if after is not None else "")
        past = prefix + "\x7f"
        starts: list[str | None] = [_start(first, with_tenant=kind) for kind in (False, True)]
        waiting: list[list[tuple[str, Summary]]] = [[], []]
        while True:
            for at, start in enumerate(starts):
                if not waiting[at] and start is not None:
                    page = self._node.state.page(Range(start, past), _SLICE)
                    waiting[at] = page[::-1]
                    is_last = len(page) < _SLICE
                    starts[at] = (
                        None if is_last else _start(page[-1][0] + "\x01", with_tenant=at > 0)
                    )
                    await asyncio.sleep(0)
            heads = [rows for rows in waiting if rows]
            if not heads:
                return
            yield min(heads, key=lambda rows: rows[-1][0]).pop()

    async def _by_id(self, asked: Asked) -> Found:
        ids: list[str] = []
        looked, last = 0, None
        async for id_, _ in self._all(asked.after, asked.prefix):
            if len(ids) == asked.limit:
                return Found(ids, ids[-1], True)
            if looked == SEARCH_SESSIONS_MAX:
                return Found(ids, last, False)
            looked, last = looked + 1, id_
            if asked.fits(id_):
                ids.append(id_)
        return Found(ids, None, True)

    def _by_readers(self, asked: Asked) -> Found:
        counts = ((id_, self.readers_of(id_)) for id_ in list(self._node.state.sessions))
        read = [(count, id_) for id_, count in counts if count and asked.fits(id_)]
        return _page(asked, read, complete=True)

    async def _best(self, asked: Asked) -> Found:
        """The greatest of all by a measure; what was written to last is found wherever it is."""
        best: list[tuple[int | str, str]] = []
        known: set[str] = set()
        if asked.sort == "recent":
            recent = self._activity.recent(SEARCH_SESSIONS_MAX)
            known = set(filter(asked.fits, recent))
            exists = (id_ for id_ in known if self.exists(id_))
            best = [(wall_time(self._activity.updated_ms(id_) or 0), id_) for id_ in exists]
        looked, complete, most = 0, True, asked.skip + asked.limit + 1
        async for id_, summary in self._all(None, asked.prefix):
            if looked == SEARCH_SESSIONS_MAX:
                complete = False
                break
            looked += 1
            if id_ not in known and asked.fits(id_):
                measure = (
                    summary["created"] or "" if asked.sort == "recent" else summary["messages"]
                )
                best.append((measure, id_))
                if len(best) > 4 * most:
                    best = heapq.nlargest(most, best)
        return _page(asked, best, complete=complete)

    # One session

    def exists(self, id_: str) -> bool:
        """Whether there is such a session, without bringing it into memory."""
        session = self._node.state.sessions.get(id_)
        if session is not None:
            return session.exists
        stored = self._node.storage.session(id_)
        return stored is not None and stored.present

    def readers_of(self, id_: str) -> int:
        """How many read it here."""
        feed = self._node.fanout.get(id_)
        return 0 if feed is None else len(feed.readers)

    def term(self, id_: str) -> str | None:
        """A digest of all that is known of a session, as it stands in the sum of its bucket."""
        session = self._node.state.sessions.get(id_)
        if session is not None:
            return f"{term_of(session.whole()):016x}"
        stored = self._node.storage.session(id_)
        return None if stored is None else f"{stored.term:016x}"

    def row(self, id_: str, size: int | None) -> dict[str, Any]:
        """What a list shows of a session."""
        node = self._node
        session = node.state.sessions.get(id_)
        if session is not None:
            count = session.messages.count
            newest = session.messages.page(None, 1)[0]
            shown = session.messages.look(newest[0]) if newest else None
            created = shown.header.created if shown is not None and shown.header else None
        else:
            stored = node.storage.session(id_)
            rows = [] if stored is None else stored.archive.newest(None, 1)
            created = int(rows[0].serial[:16], 16) if rows else None
            page = node.state.page(Range(id_, id_ + "\x01"), 1)
            count = page[0][1]["messages"] if page else 0
        updated = self._activity.updated_ms(id_)
        if updated is None and created is not None:
            updated = to_wall_ms(created)
        return {
            "session": id_,
            "tenant": tenant_of(id_),
            "messages": count,
            "bytes": size,
            "members": node.desk.presence.count_in(id_),
            "readers": self.readers_of(id_),
            "active_runs": len(node.turns.texts(id_)),
            "tokens_per_s": self._activity.rate_of(id_),
            "updated": updated,
            "positions": {},
        }
