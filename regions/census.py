"""How many sessions each tenant has here, and whether there is room for more of anything.

Counted from the disk at a start, and kept from then on: where a session begins to exist, or ceases
to, is one place. It is what this region knows: regions that are cut off from one another may admit
more together than one of them would.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

from perdure.replication.errors import Refusal
from perdure.replication.limits import SESSION_MESSAGES_MAX, TENANT_SESSIONS_MAX
from perdure.replication.operations import Open, Operation
from perdure.replication.session import Session
from perdure.replication.tenants import is_own, tenant_of


class Census:
    """The sessions of people in a region, by tenant; "" are those of none. What the regions keep
    for themselves (the audit log, revocations) counts nowhere."""

    def __init__(self) -> None:
        self._sessions: Counter[str] = Counter()
        self.total = 0
        self.limit(TENANT_SESSIONS_MAX, SESSION_MESSAGES_MAX)

    def limit(self, sessions_max: int | None, messages_max: int | None) -> None:
        """How many sessions a tenant that has a name may have, and how many messages a session,
        deleted ones too. None: as many as it likes."""
        self._sessions_max = sessions_max
        self._messages_max = messages_max

    def begin(self, counts: Mapping[str, int]) -> None:
        """What is on disk."""
        self._sessions = Counter(counts)
        self.total = sum(counts.values())

    def of(self, tenant: str) -> int:
        """How many there are."""
        return self._sessions[tenant]

    def tenants(self) -> list[str]:
        """Those that have any."""
        return list(self._sessions)

    def moved(self, session: str, existed: bool, exists: bool) -> None:
        """A session has come to exist, or does no more, or neither."""
        if existed == exists or is_own(session):
            return
        tenant = tenant_of(session)
        self._sessions[tenant] += exists - existed
        self.total += exists - existed
        if not self._sessions[tenant]:
            del self._sessions[tenant]

    def admit(self, session: Session, operations: Iterable[Operation], fresh: set[str]) -> None:
        """Operations of a client may be logged; ``fresh``: the sessions that begin to exist with
        what was admitted before them and is not applied yet. What the regions keep themselves
        (revocations, API keys, the audit log) has limits of its own. Raises ``Refusal``
        ``too_large``."""
        if is_own(session.id):
            return
        most = self._messages_max
        # Tokens, which are most of what comes, open nothing.
        opened = [operation for operation in operations if isinstance(operation, Open)]
        if opened and most is not None:
            known = session.messages.count + session.messages.graves_count
            if known + len(opened) > most:
                raise Refusal("too_large", "the session has too many messages", limit_items=most)
        if session.exists or session.deleted or session.id in fresh:
            return
        tenant = tenant_of(session.id)
        if not tenant:
            return
        most = self._sessions_max
        if most is not None:
            waiting = sum(tenant_of(other) == tenant for other in fresh)
            if self._sessions[tenant] + waiting >= most:
                raise Refusal("too_large", "the tenant has too many sessions", limit_items=most)
        fresh.add(session.id)
