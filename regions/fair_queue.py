"""Writes that wait for the next commit, taken in turns: of each tenant, of each of its sessions.

However many a busy session has waiting, another's first one is in the next batch. What is asked for
of one session keeps its order.
"""

from collections import OrderedDict, deque
from typing import Generic, Protocol, TypeVar


class OfSession(Protocol):
    """Something that a session waits for."""

    @property
    def session(self) -> str:
        """By its name inside, which begins with its tenant's (``<tenant>:<id>``)."""
        ...


T = TypeVar("T", bound=OfSession)


class FairQueue(Generic[T]):
    """``add`` at the end of a session's own queue, ``take`` from one session after the other."""

    def __init__(self) -> None:
        self._tenants: OrderedDict[str, OrderedDict[str, deque[T]]] = OrderedDict()
        # Sessions whose first may not be taken until :meth:`release`.
        self._held: list[tuple[str, deque[T]]] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, item: T) -> None:
        """One more."""
        self._count += 1
        tenant = _tenant_of(item.session)
        if (sessions := self._tenants.get(tenant)) is None:
            sessions = self._tenants[tenant] = OrderedDict()
        if (items := sessions.get(item.session)) is None:
            items = sessions[item.session] = deque()
        items.append(item)

    def take(self) -> T | None:
        """The next one; None when nothing is left that may be taken."""
        if not self._tenants:
            return None
        tenant, sessions = self._tenants.popitem(last=False)
        session, items = sessions.popitem(last=False)
        item = items.popleft()
        self._count -= 1
        # Both go to the end of their row.
        if items:
            sessions[session] = items
        if sessions:
            self._tenants[tenant] = sessions
        return item

    def hold(self, item: T) -> None:
        """This one was just taken and cannot be used yet: it stays the first of its session, and
        nothing of that is taken until :meth:`release`."""
        self._count += 1
        tenant = _tenant_of(item.session)
        sessions = self._tenants.get(tenant, OrderedDict())
        items = sessions.pop(item.session, deque())
        if not sessions:
            self._tenants.pop(tenant, None)
        items.appendleft(item)
        self._held.append((item.session, items))

    def release(self) -> None:
        """What was held comes first now."""
        for session, items in reversed(self._held):
            sessions = self._tenants.setdefault(_tenant_of(session), OrderedDict())
            items += sessions.pop(session, ())
            sessions[session] = items
            sessions.move_to_end(session, last=False)
        self._held.clear()


def _tenant_of(session: str) -> str:
    return session.partition(":")[0] if ":" in session else ""
