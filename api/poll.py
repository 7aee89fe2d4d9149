"""Long poll: the events of a session, one answer at a time (``docs/PROTOCOL.md`` A.7).

Between two polls the subscription is kept, so that the second goes on where the first ended: it
costs no resume, and what a resume begins anew, a hold, goes on. The client names it by a handle
that is good once; a handle that is not known here any more still says which metadata it was told.
"""

import asyncio
import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from perdure.api.bodies import Receive, Scope, Send, until_gone
from perdure.api.connecting import follow
from perdure.api.fields import member_of, poll_wait_ms, query
from perdure.api.hot import JSON, WRITE_S_MAX, respond
from perdure.api.patience import within
from perdure.api.standing import reads, standing_of
from perdure.regions.fanout import Reader
from perdure.regions.node import Node
from perdure.replication.errors import Refusal
from perdure.replication.feed import Event
from perdure.replication.limits import CURSOR_CHARS_MAX, POLL_KEEP_S, POLLS_KEPT_MAX

Headers = list[tuple[bytes, bytes]]
# What a resume says also when nothing is missing: whatever else comes to be said so belongs here.
# With one of these alone a poll that is a resume would be answered at once, for ever.
_OF_EVERY_RESUME = frozenset({"metadata", "presence", "run", "document", "ready", "stale"})
# Of those, what a client that was told the same before need not be told.
_KNOWN = frozenset({"metadata", "presence", "run", "document", "ready"})
_UNKNOWN = "0" * 10
_NAME_BITS = 64
_HANDLE = re.compile(r"([0-9a-f]{16}-[0-9]{1,16})-([0-9a-f]{10})\Z")
# A handle is good for ``POLL_KEEP_S``, give or take this.
_SWEEP_S = 5


class Kept(NamedTuple):
    """A subscription that waits for its next poll."""

    reader: Reader
    session: str
    cursor: str
    until: float
    # The member that it brings, and its data.
    bound: tuple[str | None, Any] = (None, None)


class Asked(NamedTuple):
    """A poll as it was asked. ``tag``: of what the client was told beside messages, "" where that
    is not known."""

    session: str
    cursor: str
    wait_s: float
    name: str
    tag: str
    member: str | None
    data: Any


class Polls:
    """The subscriptions of a region that live from poll to poll."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._kept: dict[str, Kept] = {}
        self._count = 0
        self._sweeping: asyncio.TimerHandle | None = None

    @property
    def kept(self) -> int:
        """How many wait for their next poll."""
        return len(self._kept)

    async def answer(
        self, scope: Scope, receive: Receive, send: Send, session: str, headers: Headers
    ) -> None:
        """``GET …/poll``."""
        asked = _asked(scope, session)
        standing = standing_of(scope)
        if asked.member is not None:
            standing.check_member(session, asked.member)
        turn = Turn(self._node, asked, self._take(asked))
        reader = turn.reader
        follow(scope, reader, asked.member)
        gone = asyncio.ensure_future(until_gone(receive))
        try:
            with standing.held(session, reader.expire_grant, reads(asked.member)):
                await turn.wait(gone)
        except BaseException:
            turn.reader.close()
            raise
        finally:
            gone.cancel()
        if turn.is_untouched:
            # A poll with the same handle goes on with it.
            self._keep(asked.name, turn, asked.cursor)
            return
        body = self._body(turn, asked)
        with contextlib.suppress(TimeoutError):
            content = (b"content-type", JSON.encode())
            await within(WRITE_S_MAX, respond(send, 200, body, [*headers, content]))

    def _body(self, turn: "Turn", asked: Asked) -> bytes:
        cursor = turn.events[-1].cursor if turn.events else asked.cursor
        pieces = [
            f'{{"event":"{event.name}","id":"{event.cursor}","data":{event.data}}}'
            for event in turn.events
        ]
        poll = ""
        if turn.is_over:
            turn.reader.close()
        else:
            name = self._new_name()
            self._keep(name, turn, cursor)
            poll = f',"poll":"{name}-{turn.tag or _UNKNOWN}"'
        return f'{{"events":[{",".join(pieces)}],"cursor":"{cursor}"{poll}}}'.encode()

    # What waits for its next poll

    def _new_name(self) -> str:
        # Nobody finds out another client's: whoever names it takes it.
        self._count += 1
        return f"{self._node.entropy.token(_NAME_BITS):016x}-{self._count}"

    def _take(self, asked: Asked) -> Reader | None:
        kept = self._kept.pop(asked.name, None)
        if kept is None:
            return None
        known = (kept.session, kept.cursor, kept.bound)
        if known == (asked.session, asked.cursor, (asked.member, asked.data)):
            return kept.reader
        kept.reader.close()
        return None

    def _keep(self, name: str, turn: "Turn", cursor: str) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + POLL_KEEP_S
        self._kept[name] = Kept(turn.reader, turn.session, cursor, until, turn.bound)
        if len(self._kept) > POLLS_KEPT_MAX:
            oldest = next(iter(self._kept))
            self._kept.pop(oldest).reader.close()
        if self._sweeping is None:
            self._sweeping = loop.call_later(_SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        """Let go of what nobody has come back for: one timer for all."""
        loop = asyncio.get_running_loop()
        for name in list(self._expired(loop.time())):
            self._kept.pop(name).reader.close()
        self._sweeping = loop.call_later(_SWEEP_S, self._sweep) if self._kept else None

    def _expired(self, now: float) -> Iterator[str]:
        # In the order in which they were kept, which is the order of their ends.
        for name, kept in self._kept.items():
            if kept.until > now:
                return
            yield name


class Turn:
    """One poll of one subscription."""

    def __init__(self, node: Node, asked: Asked, reader: Reader | None) -> None:
        self.session = asked.session
        self.events: list[Event] = []
        self.tag = asked.tag
        self.bound = (asked.member, asked.data)
        self.is_over = False
        # The client has left, and nothing was taken from a subscription that it may come back to.
        self.is_untouched = False
        self._asked = asked
        self._deadline = asyncio.get_running_loop().time() + asked.wait_s
        # How many of the first events are no reason to answer.
        self._quiet = 0
        self._resumes = reader is None
        self.reader = reader or node.subscribe(
            asked.session, asked.cursor or None, asked.member, asked.data
        )

    async def wait(self, gone: asyncio.Future[None]) -> None:
        """Until there is something to tell, the time is over, or the client has left."""
        if self._resumes:
            await self._begin()
        while not self.is_over and len(self.events) <= self._quiet:
            rest_s = max(0.0, self._deadline - asyncio.get_running_loop().time())
            # One that is cancelled still waits: it has taken nothing.
            waiting = asyncio.ensure_future(self.reader.next())
            both: set[asyncio.Future[Any]] = {waiting, gone}
            try:
                await asyncio.wait(both, timeout=rest_s, return_when=asyncio.FIRST_COMPLETED)
            finally:
                waiting.cancel()
            if not waiting.done():
                self.is_untouched = gone.done() and not self._resumes
                return
            self._take(waiting.result())

    async def _begin(self) -> None:
        """The first events of a resume. They are there at once."""
        self.events += await self.reader.next() or ()
        told = {event.name for event in self.events}
        self._note_tag()
        knows = self.tag != "" and self.tag == self._asked.tag
        if told <= _OF_EVERY_RESUME and (knows or not self._asked.tag):
            if knows and told <= _KNOWN:
                self.events.clear()
            self._quiet = len(self.events)

    def _take(self, gathered: Sequence[Event] | None) -> None:
        self.is_over = gathered is None
        self.events += gathered or ()
        self._note_tag()

    def _note_tag(self) -> None:
        """What the client has been told beside messages, once it has these events."""
        self.tag = self.reader.feed.tag() if self.reader.is_level else ""


def _asked(scope: Scope, session: str) -> Asked:
    values = query(scope["query_string"], "cursor", "poll", "wait_ms", "presence", "presence_data")
    cursor = values.get("cursor", "")
    if len(cursor) > CURSOR_CHARS_MAX:
        raise Refusal("invalid_cursor", "the cursor is too long")
    handle = values.get("poll", "")
    known = _HANDLE.match(handle)
    if handle and known is None:
        raise Refusal("invalid_query", "poll must be as the last answer gave it", field="poll")
    name, tag = known.groups() if known else ("", "")
    tag = "" if tag == _UNKNOWN else tag
    wait_s = poll_wait_ms(values) / 1000
    return Asked(session, cursor, wait_s, name, tag, *member_of(values))
