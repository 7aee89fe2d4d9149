"""What a connection may do, and until when: its authority, looked at again while it goes on.

Requests are over soon. What goes on - event streams, sockets, feeds, long requests - is *held* here
with a way to end it: within a second of the end of its grant, of a revocation, or of the key that
signed it being taken out, it is told why and ended. A grant that is renewed carries on what stood
on the old one.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from perdure.api.authority import ANYBODY, Authority
from perdure.api.bodies import Scope
from perdure.replication.errors import Refusal
from perdure.replication.tenants import name_of

EXPIRED, REVOKED = "expired", "revoked"
# Ends what goes on, and tells its client why.
End = Callable[[str], None]
_IN_SCOPE = "perdure.standing"


class Revoked(Protocol):
    """What is known to be revoked."""

    # Grows with each revocation that becomes known.
    version: int

    @property
    def is_restless(self) -> bool:
        """Whether time alone may end what goes on."""

    def names(self, authority: Authority, session: str | None, /) -> bool:
        """Whether the grant is revoked, or is for this session (its name inside)."""


class Signers(Protocol):
    """The keys that are good."""

    version: int

    @property
    def leeway_s(self) -> int:
        """How long after its end a grant is still good."""

    def knows(self, signer: str | None, /) -> bool:
        """Whether what this key signed is still good."""


class Needs(NamedTuple):
    """What something needs that goes on: verbs on its session, or on all where it is of none, and
    names that it goes under."""

    verbs: frozenset[str] = frozenset()
    names: tuple[str | None, ...] = ()

    def allowed(self, authority: Authority, session: str | None) -> bool:
        """Whether a grant allows this on a session (its name inside)."""
        try:
            for verb in self.verbs:
                if session is None:
                    authority.check_everywhere(verb)
                else:
                    authority.check(name_of(session), verb)
            for name in self.names:
                if name is not None:
                    authority.check_name(name, "name")
        except Refusal:
            return False
        return True


READS = Needs(frozenset({"read"}))


def reads(member: str | None) -> Needs:
    """What reading a session needs, and being present in it meanwhile."""
    return READS if member is None else Needs(READS.verbs | {"presence"}, (member,))


class Standing:
    """The authority of one connection."""

    def __init__(self, authority: Authority, among: "Standings") -> None:
        self.authority = authority
        self._among = among

    def check(self, session: str, verb: str | None) -> str:
        """The name inside of a session with which this may be done now.

        Raises ``Refusal``: ``not_found``, ``forbidden``, ``unauthorized``.
        """
        key = self.authority.check(session, verb)
        if self._among.ends(self.authority, key) is not None:
            raise Refusal("unauthorized", "the grant has expired or was revoked")
        return key

    def check_member(self, session: str, member: str) -> None:
        """Raises ``Refusal`` ``forbidden`` for a member that this may not bring to a session (its
        name inside)."""
        self.authority.check(name_of(session), "presence")
        self.authority.check_name(member, "presence")

    def hold(self, session: str | None, end: End, needs: Needs = READS) -> Callable[[], None]:
        """Something goes on from now, for a session (its name inside) or for none, until what is
        given back is called. A renewal by a grant that does not allow what it ``needs`` ends it."""
        if self.authority is ANYBODY:
            return _nothing
        held = Held(self, session, end, needs)
        self._among.hold(held)
        return lambda: self._among.let_go(held)

    @contextlib.contextmanager
    def held(self, session: str | None, end: End, needs: Needs = READS) -> Iterator[None]:
        """What goes on within."""
        let_go = self.hold(session, end, needs)
        try:
            yield
        finally:
            let_go()


def _nothing() -> None:
    return


class Held:
    """Something that goes on under a standing."""

    def __init__(self, standing: Standing, session: str | None, end: End, needs: Needs) -> None:
        self.standing = standing
        self.session = session
        self.end = end
        self.needs = needs


class Standings:
    """All that goes on in a region under grants. ``look`` once a second."""

    def __init__(self, signers: Signers, revoked: Revoked, now_s: Callable[[], float]) -> None:
        self._signers = signers
        self._revoked = revoked
        self._now_s = now_s
        self._held: dict[Held, None] = {}
        self._seen = (signers.version, revoked.version)

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, held: Held) -> None:
        """One more. What ended while it was on its way here is seen by the next look."""
        self._held[held] = None
        if self.ends(held.standing.authority, held.session) is not None:
            self._seen = (-1, -1)

    def let_go(self, held: Held) -> None:
        """It is over; idempotent."""
        self._held.pop(held, None)

    def ends(self, authority: Authority, session: str | None) -> str | None:
        """Why what is done under a grant ends now; None where it goes on."""
        if self._revoked.names(authority, session) or not self._signers.knows(authority.signer):
            return REVOKED
        late_s = self._signers.leeway_s
        if authority.expires is not None and self._now_s() >= authority.expires + late_s:
            return EXPIRED
        return None

    def look(self) -> None:
        """End what is over."""
        now_s, seen = self._now_s(), (self._signers.version, self._revoked.version)
        has_changed, self._seen = seen != self._seen or self._revoked.is_restless, seen
        late_s = self._signers.leeway_s
        for held in list(self._held):
            authority = held.standing.authority
            is_late = authority.expires is not None and now_s >= authority.expires + late_s
            if is_late or has_changed:
                why = self.ends(authority, held.session)
                if why is not None and held in self._held:
                    self.let_go(held)
                    held.end(why)

    def renew(self, token: str, authority: Authority) -> int:
        """Let what stands on a grant (by its hash) stand on another of the same subject, as far as
        that goes; how many things do now. What it does not reach is ended."""
        meant = [held for held in self._held if _stands_on(held, token, authority)]
        for held in meant:
            held.standing.authority = authority
            if not held.needs.allowed(authority, held.session):
                self.let_go(held)
                held.end(REVOKED)
        return len(meant)


def _stands_on(held: Held, token: str, authority: Authority) -> bool:
    before = held.standing.authority
    is_same = (before.tenant, before.subject) == (authority.tenant, authority.subject)
    return before.token == token and is_same


def standing_of(scope: Scope) -> Standing:
    """The standing that the edge gave to a request."""
    standing: Standing = scope[_IN_SCOPE]
    return standing


def give(scope: Scope, standing: Standing) -> None:
    """Note who a request comes from."""
    scope[_IN_SCOPE] = standing
