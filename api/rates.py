"""What a request costs, and which buckets it draws from (``docs/PROTOCOL.md`` A.10).

A request is let in for one unit, by all the buckets that it has or by none. What it brings is known
later, when its body has been read: that is owed, and the next one waits for it. Long requests and
sockets are never refused in their middle: they are read on when nothing is owed.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Protocol

from perdure.api.bodies import Scope
from perdure.api.callers import Callers
from perdure.api.pace import Pace, give_pace
from perdure.regions.allowances import NOTHING, Allowances
from perdure.regions.ports import Clock
from perdure.replication.buckets import Buckets, Draw, Taken
from perdure.replication.errors import Refusal

Fields = list[tuple[bytes, bytes]]
# Callers whose buckets are at hand.
_CALLERS_KNOWN_MAX = 10_000


class Caller(Protocol):
    """Who calls, as far as it is counted."""

    @property
    def tenant(self) -> str:
        """Whose regions' guest it is; "" for nobody's."""
        ...

    @property
    def subject(self) -> str:
        """Who it is; "" where nobody asks."""
        ...

    @property
    def key(self) -> str | None:
        """What its grant is called; None where it has no name."""
        ...

    @property
    def token(self) -> str:
        """A name of the grant as it was sent."""
        ...


class Rates:
    """The buckets of a region's callers, and their connections. Each region has its own: who
    spreads over several regions has that many times as much."""

    def __init__(self, clock: Clock, allowed: Allowances = NOTHING) -> None:
        self._now_ms: Callable[[], float] = clock.monotonic_ms
        self._buckets = Buckets(allowed.rates)
        self.is_off = not allowed.rates
        self._known: dict[tuple[str, str, str, str], tuple[Draw, ...]] = {}
        self._streams: dict[Draw, int] = {}
        self._streams_max = {
            kind: allowed.counts[f"{kind}-streams"]
            for kind in ("address", "subject")
            if f"{kind}-streams" in allowed.counts
        }
        # Structured fields (RFC 9651), as draft-ietf-httpapi-ratelimit-headers-10 has them.
        self._names = {kind: b'"%b"' % kind.encode() for kind in allowed.rates}
        self._policies = {
            kind: (
                b"ratelimit-policy",
                b"%b;q=%d;w=%d"
                % (self._names[kind], rate.burst, math.ceil(rate.burst / rate.per_s)),
            )
            for kind, rate in allowed.rates.items()
        }

    def check(
        self, address: str, authority: Caller | None, session: str | None = None, cost: float = 1
    ) -> Fields:
        """Let a request in, for what it costs at once; the header fields of its answer.

        ``session``: the one that it writes to, by its name inside. Raises ``Refusal`` ``too_many``;
        then nothing has been taken.
        """
        if self.is_off:
            return []
        draws = self._draws(address, authority)
        if session is not None:
            draws += (("session", session),)
        taken = self._buckets.take(self._now_ms(), draws, cost)
        if taken is None:
            return []
        kind, left, wait_s = taken
        if wait_s:
            raise self._refusal(taken, f"too much was asked for by this {kind}")
        return [self._policies[kind], (b"ratelimit", b"%b;r=%d" % (self._names[kind], left))]

    def _draws(self, address: str, authority: Caller | None) -> tuple[Draw, ...]:
        """Made once for each caller at each address: most come again and again."""
        if authority is None:
            return (("address", address),)
        known = (address, authority.tenant, authority.subject, authority.key or authority.token)
        draws = self._known.get(known)
        if draws is None:
            if len(self._known) >= _CALLERS_KNOWN_MAX:
                self._known.clear()
            draws = self._known[known] = draws_of(address, authority)
        return draws

    def _refusal(self, wait: Taken, detail: str) -> Refusal:
        seconds = max(1, math.ceil(wait.wait_s))
        left = (b"ratelimit", b"%b;r=0;t=%d" % (self._names[wait.kind], seconds))
        return Refusal(
            "too_many",
            detail,
            limit=wait.kind,
            retry_after_s=seconds,
            fields=[self._policies[wait.kind], left],
        )

    def pace(self, address: str, authority: Caller | None, session: str | None) -> Pace | None:
        """What an admitted request goes on drawing from; None: there are no limits."""
        if self.is_off:
            return None
        pace = Pace(self.owe, self._draws(address, authority))
        return pace if session is None else pace.of(session)

    def owe(self, draws: tuple[Draw, ...], cost: float) -> float:
        """See :meth:`~perdure.api.pace.Pace.owe`."""
        return self._buckets.owe(self._now_ms(), draws, cost)

    # Grants

    def check_guess(self, address: str) -> None:
        """Before a grant is looked at that has not been seen lately. Raises ``Refusal``
        ``too_many`` where too many were wrong: the next is not even looked at."""
        wait = self._buckets.take(self._now_ms(), (("guess", address),), 0)
        if wait is not None and wait.wait_s:
            raise self._refusal(wait, "too many grants from this address were not valid")

    def guessed(self, address: str) -> None:
        """A grant was not valid."""
        self._buckets.owe(self._now_ms(), (("guess", address), ("address", address)), 1)

    # Connections

    @contextlib.contextmanager
    def connected(self, address: str, authority: Caller | None) -> Iterator[None]:
        """One stream or socket more, while it lasts. Raises ``Refusal`` ``too_many``."""
        draws = [d for d in self._draws(address, authority) if d[0] in self._streams_max]
        for draw in draws:
            if self._streams.get(draw, 0) >= self._streams_max[draw[0]]:
                detail = f"this {draw[0]} has too many streams and sockets open"
                raise Refusal("too_many", detail, limit=f"{draw[0]}-streams", retry_after_s=1)
        for draw in draws:
            self._streams[draw] = self._streams.get(draw, 0) + 1
        try:
            yield
        finally:
            for draw in draws:
                self._streams[draw] -= 1
                if not self._streams[draw]:
                    del self._streams[draw]


def draws_of(address: str, authority: Caller) -> tuple[Draw, ...]:
    """The buckets of a caller. Subjects of two tenants are two; the tenant without a name is the
    whole region, and no bucket."""
    draws: tuple[Draw, ...] = (("address", address),)
    if authority.subject:
        tenant = authority.tenant
        draws += (("subject", f"{tenant}:{authority.subject}"),)
        draws += (("key", f"{tenant}:{authority.key or authority.token}"),)
        if tenant:
            draws += (("tenant", tenant),)
    return draws


class Meter:
    """Counts requests: what the edge asks, with what it has at hand."""

    def __init__(self, rates: Rates, callers: Callers) -> None:
        self.rates = rates
        self._callers = callers

    def admit(self, scope: Scope, authority: Caller | None, session: str | None) -> Fields:
        """Let a request in, and have what it brings counted; the header fields of its answer.
        ``session``: what it writes to. Raises ``Refusal`` ``too_many``."""
        if self.rates.is_off:
            return []
        address = self._callers.address(scope)
        fields = self.rates.check(address, authority, session)
        give_pace(scope, self.rates.pace(address, authority, session))
        return fields

    def address(self, scope: Scope) -> str:
        """Where a request comes from."""
        return self._callers.address(scope)

    def row(self, scope: Scope, authority: Caller | None) -> str:
        """With whom a request takes its turns: its tenant's others, or its address's."""
        tenant = "" if authority is None else authority.tenant
        return f":{tenant}" if tenant else self._callers.address(scope)

    def connected(
        self, scope: Scope, authority: Caller | None
    ) -> contextlib.AbstractContextManager[None]:
        """See :meth:`Rates.connected`."""
        return self.rates.connected(self._callers.address(scope), authority)

    def check_guess(self, scope: Scope) -> None:
        """See :meth:`Rates.check_guess`."""
        self.rates.check_guess(self._callers.address(scope))

    def guessed(self, scope: Scope) -> None:
        """See :meth:`Rates.guessed`."""
        self.rates.guessed(self._callers.address(scope))
