"""Revocations: grants, subjects, sessions and API keys that are good no more, in all regions.

A record of all regions (:class:`~perdure.regions.ledger.Ledger`), and an index of it that a request
looks at for next to nothing.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from perdure.api.authority import Authority
from perdure.regions.ledger import Ledger
from perdure.regions.node import Node
from perdure.replication.errors import Refusal
from perdure.replication.ids import digest
from perdure.replication.limits import REVOCATIONS_MAX
from perdure.replication.tenants import name_of, tenant_of

KINDS = ("grant", "subject", "session", "key")
# Of which only grants are meant that were given before.
_UNTIL_NOW = ("subject", "session")
_ID_BYTES = 16
# Between the id of an API key and the rest of the id of a grant that it has minted.
OF_KEY = "~"

# Kind, tenant, name.
What = tuple[str, str, str]


class Cut(NamedTuple):
    """What holds while a region that may have revoked something cannot be heard: grants older than
    ``age_s`` are good no more. None: they are."""

    age_s: int | None
    is_cut: Callable[[], bool]
    now_s: Callable[[], float]

    def refuses(self, authority: Authority) -> bool:
        """Whether the grant is too old for now."""
        if self.age_s is None or not self.is_cut():
            return False
        return authority.issued is None or self.now_s() - authority.issued > self.age_s


class Revocations:
    """What is revoked, as this region knows it."""

    def __init__(self, node: Node, cut: Cut) -> None:
        self._ledger = Ledger(node, "revocations")
        self._cut = cut
        # Until when grants that mean this are not good, in seconds since 1970.
        self._until_s: dict[What, float] = {}
        # The records of each tenant, by id.
        self._records: dict[str, set[str]] = {}
        self.version = 0
        for id_, value in self._ledger.all():
            self._note(id_, value)
        self._ledger.watch(self._changed)

    @property
    def is_restless(self) -> bool:
        """Whether time alone may end what goes on."""
        return self._cut.age_s is not None and self._cut.is_cut()

    def _changed(self, id_: str) -> None:
        if (value := self._ledger.get(id_)) is not None:
            self._note(id_, value)

    def _note(self, id_: str, value: dict[str, Any]) -> None:
        what = (value["kind"], value["tenant"], value["name"])
        self._records.setdefault(value["tenant"], set()).add(id_)
        self._until_s[what] = max(value["at"], self._until_s.get(what, 0))
        self.version += 1

    def has(self, kind: str, tenant: str, name: str) -> bool:
        """Whether this is revoked, whatever for."""
        return (kind, tenant, name) in self._until_s

    def names(self, authority: Authority, session: str | None) -> bool:
        """Whether the grant is revoked, or is for this session (its name inside)."""
        if self._cut.refuses(authority):
            return True
        if not self._until_s:
            return False
        tenant, key = authority.tenant, authority.key or ""
        if ("grant", tenant, key) in self._until_s:
            return True
        if OF_KEY in key and ("key", tenant, key.partition(OF_KEY)[0]) in self._until_s:
            return True
        if self._is_before(authority, ("subject", tenant, authority.subject)):
            return True
        if session is None:
            return False
        return self._is_before(authority, ("session", tenant_of(session), name_of(session)))

    def _is_before(self, authority: Authority, what: What) -> bool:
        until_s = self._until_s.get(what)
        # Who says not when it was given may have been given it before.
        return until_s is not None and (authority.issued is None or authority.issued <= until_s)

    async def add(
        self, what: What, at_s: float, by: str, *, counted: bool = True
    ) -> dict[str, Any]:
        """Revoke; on disk here when this returns, and in the other regions as soon as they hear.

        Each tenant may keep so many: none takes the others' room. Raises ``Refusal`` ``too_many``.
        """
        kind, tenant, name = what
        # Whatever is revoked for ever is revoked once.
        when = repr(at_s) if kind in _UNTIL_NOW else ""
        id_ = "r-" + digest(_ID_BYTES, kind, tenant, name, when).hex()
        if (kept := self._ledger.get(id_)) is not None:
            return {"id": id_, **kept}
        if counted and len(self._records.get(tenant, ())) >= REVOCATIONS_MAX:
            raise Refusal("too_many", "too many revocations are kept", retry_after_s=60)
        value = {"kind": kind, "tenant": tenant, "name": name, "at": at_s, "by": by}
        await self._ledger.put(id_, value)
        return {"id": id_, **value}

    async def listed(self, tenant: str) -> list[dict[str, Any]]:
        """The revocations of a tenant, the newest first."""
        return [
            {"id": id_, **value}
            async for id_, value in self._ledger.each()
            if value["tenant"] == tenant
        ]
