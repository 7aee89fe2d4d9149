"""Tickets: what a browser opens a stream with where it can send no header. Good once, and soon."""

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from perdure.api.authority import Authority
from perdure.regions.ports import Entropy
from perdure.replication.errors import Refusal
from perdure.replication.limits import TICKET_S_MAX, TICKETS_MAX
from perdure.replication.tenants import session_key

_BITS = 192
# Of a subject that is not the only one.
TICKETS_OF_SUBJECT_MAX = TICKETS_MAX // 10


class Ticket(NamedTuple):
    """Whom it stands for, for which session (its name inside), and until when."""

    authority: Authority
    session: str
    until_s: float


class Tickets:
    """The tickets of a region that are not used yet; ``now_s``: seconds that never go back."""

    def __init__(self, entropy: Entropy, now_s: Callable[[], float]) -> None:
        self._entropy = entropy
        self._now_s = now_s
        self._open: dict[str, Ticket] = {}
        self._of: Counter[tuple[str, str]] = Counter()

    def give(self, authority: Authority, session: str) -> str:
        """A ticket for a session. Raises ``Refusal`` ``too_many``."""
        now_s = self._now_s()
        # In the order in which they were given, which is that of their ends.
        while self._open and (first := next(iter(self._open.items())))[1].until_s <= now_s:
            self._take(first[0])
        whose = (authority.tenant, authority.subject)
        if len(self._open) >= TICKETS_MAX or self._of[whose] >= TICKETS_OF_SUBJECT_MAX:
            raise Refusal("too_many", "too many tickets are not used yet", retry_after_s=1)
        name = f"{self._entropy.token(_BITS):048x}"
        self._open[name] = Ticket(authority, session, now_s + TICKET_S_MAX)
        self._of[whose] += 1
        return name

    def _take(self, name: str) -> Ticket | None:
        ticket = self._open.pop(name, None)
        if ticket is not None:
            whose = (ticket.authority.tenant, ticket.authority.subject)
            self._of[whose] -= 1
            if not self._of[whose]:
                del self._of[whose]
        return ticket

    def use(self, name: str, session: str) -> Authority:
        """Whom a ticket stands for at a session, by its id; it is gone then, whatever it was for.
        Raises ``Refusal`` ``unauthorized``."""
        ticket = self._take(name)
        if (
            ticket is not None
            and ticket.until_s > self._now_s()
            and ticket.session == session_key(ticket.authority.tenant, session)
        ):
            return ticket.authority
        raise Refusal("unauthorized", "the ticket is unknown, used, late or for another session")
