"""Retention: one region deletes what a tenant does not keep, and all others hear of it as of any
delete.

Rules of this file: only the region that a policy names decides, by its own clock, and only while it
knows all that the others know: while one of them cannot be heard, something may be written there to
what looks quiet here. What a client has open is never deleted: a run that is not over, or somebody
who is present.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

from perdure.regions.audit import Audit
from perdure.regions.audit_retention import AuditRetention
from perdure.regions.ledger import Ledger
from perdure.regions.node import Node
from perdure.regions.ports import StorageError
from perdure.replication.errors import Refusal
from perdure.replication.hlc import to_wall_ms, wall_time
from perdure.replication.limits import (
    RETENTION_DELETES_PER_S_MAX,
    RETENTION_EVERY_S,
    RETENTION_POLICIES_MAX,
)
from perdure.replication.records import Vector
from perdure.replication.retention import Kept, Plan, Policy, policy_of
from perdure.replication.tenants import Range, name_of, range_of

log = logging.getLogger("perdure")

_ID_BITS = 64
# Since when it is noted here when something happened to a session: its first walk, at the latest.
_NOTE = "touched_since"
# Each page takes some milliseconds of the loop.
_PAGE_SESSIONS = 100
# An answer may be on its way for some seconds; ages are hours.
_AHEAD_MS_MAX = 60_000
# So many sessions are named where a few would do.
NAMES_TOLD_MAX = 20


class Retention:
    """The policies of all tenants, and the walks of this region. ``audit`` None: nothing is noted,
    for nobody needs a grant here."""

    def __init__(self, node: Node, audit: Audit | None) -> None:
        self._node = node
        self._audit = audit
        self._logs = AuditRetention(node, audit) if audit is not None else None
        self._ledger = Ledger(node, "retention")
        # The newest record of each tenant: its id, and the policy (None: there is none any more).
        self._newest: dict[str, tuple[str, Policy | None]] = {}
        self._walks: dict[str, dict[str, Any]] = {}
        self._is_running = False
        # Why the last walk did not believe this region's clock.
        self._doubt: str | None = None
        # What everybody had when the walk became due: it begins when this region has that too.
        self._horizon: Vector | None = None
        self._due_ms = 0
        self._look_again()
        self._ledger.watch(lambda _: self._look_again())
        self._pause = asyncio.sleep
        node.each_second.append(self.look)

    def _look_again(self) -> None:
        """The policies have changed: they are carried out a while later, so that one which was
        meant otherwise can be taken back."""
        newest: dict[str, tuple[str, Policy | None]] = {}
        for id_, value in self._ledger.all():
            policy = value.get("policy")
            known = None if policy is None else policy_of(policy)
            newest.setdefault(value["tenant"], (id_, known))
        self._newest = newest
        self._horizon = None
        self._due_ms = self._node.clock.monotonic_ms() + RETENTION_EVERY_S * 1000

    # Policies

    @property
    def policies(self) -> dict[str, Policy]:
        """Those that there are, by tenant."""
        return {name: p for name, (_, p) in sorted(self._newest.items()) if p is not None}

    async def set(self, policy: Policy) -> None:
        """From now on the tenant keeps this, in all regions. Raises ``Refusal``."""
        names = (self._node.region, *self._node.gossip.peers)
        if policy.region not in names:
            detail = f"region must be one of {', '.join(sorted(names))}"
            raise Refusal("invalid_body", detail, field="region")
        known = self.policies
        if policy.tenant not in known and len(known) >= RETENTION_POLICIES_MAX:
            detail = "too many tenants have a policy"
            raise Refusal("too_large", detail, limit_items=RETENTION_POLICIES_MAX)
        await self._put(policy.tenant, policy.value())

    async def remove(self, tenant: str) -> None:
        """From now on the tenant keeps everything. Raises ``Refusal`` ``not_found``."""
        if tenant not in self.policies:
            raise Refusal("not_found", f"there is no policy for {tenant or 'no tenant'}")
        await self._put(tenant, None)

    async def _put(self, tenant: str, value: dict[str, Any] | None) -> None:
        # That there is none any more is a record as well: it is newer than what a region that was
        # cut off may still bring.
        before = [id_ for id_, said in self._ledger.all() if said["tenant"] == tenant]
        fresh = f"r-{self._node.entropy.token(_ID_BITS):016x}"
        await self._ledger.put(fresh, {"tenant": tenant, "policy": value})
        for id_ in before:
            with contextlib.suppress(Refusal):
                await self._ledger.remove(id_)

    def told(self, policy: Policy) -> dict[str, Any]:
        """A policy, why nothing is deleted by it just now (None: it is), and the last walk of this
        region."""
        said = policy.value()
        return {
            "tenant": policy.tenant or "-",
            **{name: said[name] for name in ("age_s", "bytes", "audit_age_s", "by", "region")},
            "set": wall_time(policy.set_ms),
            "set_by": policy.set_by,
            "waits": self.waits(policy.region),
            "last_walk": self._walks.get(policy.tenant),
        }

    def waits(self, region: str) -> str | None:
        """Why the region that decides deletes nothing now, as far as is known here."""
        doubt = self._doubt if region == self._node.region else None
        return self._cut_off(region) or doubt

    def _cut_off(self, region: str) -> str | None:
        node, now_ms = self._node, self._node.clock.monotonic_ms()
        if region != node.region:
            decider = node.gossip.peers.get(region)
            if decider is None:
                return f"{region}, which decides, is no region any more: name another"
            is_up = decider.state(now_ms) == "up"
            return None if is_up else f"{region}, which decides, cannot be heard"
        if (reason := node.readiness()) is not None:
            return f"{region}, which decides, is {reason}"
        for name, peer in sorted(node.gossip.peers.items()):
            if peer.state(now_ms) != "up":
                return f"{name} cannot be heard: what was written there is not known"
        return None

    # Walking

    def look(self) -> None:
        """A second has passed."""
        node = self._node
        now_ms = node.clock.monotonic_ms()
        mine = [p for p in self.policies.values() if p.region == node.region]
        if not mine or self._is_running or now_ms < self._due_ms:
            return
        if self._cut_off(node.region) is not None:
            self._horizon = None
            return
        if self._horizon is None:
            self._horizon = {}
            for peer in node.gossip.peers.values():
                for origin, lsn in peer.vector.items():
                    self._horizon[origin] = max(lsn, self._horizon.get(origin, 0))
        held = node.gossip.vector
        if any(held.get(origin, 0) < lsn for origin, lsn in self._horizon.items()):
            return
        self._horizon = None
        self._is_running = True
        node.beside(self._run(mine), "perdure-retention")

    async def _run(self, policies: list[Policy]) -> None:
        try:
            if _NOTE not in self._node.storage.notes():
                await self._node.storage.note(_NOTE, str(self._node.clock.wall_ms()))
            for policy in policies:
                self._doubt = await self._doubted()
                if self._doubt is not None:
                    log.warning("retention deletes nothing: %s", self._doubt)
                    return
                await self._walk(policy)
                if policy.audit_age_s is not None and self._logs is not None:
                    await self._logs.cut(policy.audit_age_s)
        except (Refusal, StorageError) as error:
            # What is deleted by then stays so; the rest is the next walk's.
            log.warning("retention has to wait: %s", error)
        finally:
            self._is_running = False
            self._due_ms = self._node.clock.monotonic_ms() + RETENTION_EVERY_S * 1000

    async def _doubted(self) -> str | None:
        """Why no age may be told by this region's clock: no other one is nearly as late."""
        node = self._node
        if not node.gossip.peers:
            return None
        answers = await node.oversight.peers.ask_all(sorted(node.gossip.peers), {})
        times = [answer.get("now_ms") for answer in answers.values() if answer is not None]
        latest_ms = max((each for each in times if type(each) is int), default=None)
        if latest_ms is None:
            return "no other region says what time it is there"
        ahead_ms = node.clock.wall_ms() - latest_ms
        if ahead_ms <= _AHEAD_MS_MAX:
            return None
        return f"the clock of {node.region} is {ahead_ms // 1000:,} s ahead of all other regions'"

    async def plan(self, tenant: str, age_s: int | None, bytes_: int | None) -> Plan:
        """What would go now, of what this region has. Raises ``StorageError``."""
        plan = Plan(age_s, bytes_, self._node.clock.wall_ms())
        async for kept in self._sessions(tenant):
            plan.look(kept.session, kept.touched_ms, kept.bytes)
        return plan

    async def _sessions(self, tenant: str) -> AsyncIterator[Kept]:
        """All sessions of a tenant, a page at a time."""
        first, past = range_of(tenant, "*")
        while page := self._node.state.page(Range(first, past), _PAGE_SESSIONS):
            measured = await self._node.storage.sizes([name for name, _ in page])
            for name, summary in page:
                bytes_, serial = measured[name]
                touched_ms = summary.get("touched_ms") or 0
                if not touched_ms:
                    # It was stored before that was noted: the time of its newest message is all
                    # that is known; without any it may have been written to until then.
                    touched_ms = to_wall_ms(int(serial[:16], 16)) if serial else self._noted_ms()
                yield Kept(touched_ms, name, bytes_)
            first = page[-1][0] + "\x01"

    def _noted_ms(self) -> int:
        now_ms = self._node.clock.wall_ms()
        return int(self._node.storage.notes().get(_NOTE, now_ms))

    def _is_free(self, kept: Kept, age_s: int | None) -> bool:
        """Whether a session may go: nothing has happened to it since it was chosen, no run of it is
        open, nobody is present."""
        session = self._node.state.find(kept.session)
        if session is None or not session.exists or session.messages.open_runs.ids():
            return False
        if not session.touched_ms and session.documents.ever and age_s is not None:
            # Of when its documents were last written to, its messages say nothing.
            noted_s = (self._node.clock.wall_ms() - self._noted_ms()) / 1000
            if noted_s < age_s:
                return False
        is_quiet = session.touched_ms <= kept.touched_ms
        return is_quiet and next(iter(self._node.desk.values(kept.session)), None) is None

    async def _walk(self, policy: Policy) -> None:
        plan = await self.plan(policy.tenant, policy.age_s, policy.bytes)
        chosen = plan.due()
        going = [kept for kept in chosen if self._is_free(kept, policy.age_s)]
        said = {"sessions": len(going), "bytes": sum(kept.bytes for kept in going)}
        if going and self._audit is not None:
            names = [name_of(kept.session) for kept in going]
            few = {"names": names} if len(names) <= NAMES_TOLD_MAX else {}
            await self._audit.record(
                "retention.delete",
                tenant=policy.tenant,
                actor="~retention",
                session=None,
                **{"age_s": policy.age_s, "limit_bytes": policy.bytes, **said, **few},
            )
        deleted = await self._delete(policy, going)
        self._walks[policy.tenant] = {
            "at": wall_time(self._node.clock.wall_ms()),
            "seen": plan.sessions,
            "seen_bytes": plan.bytes,
            "deleted": deleted,
            "kept_open": len(chosen) - deleted,
        }

    async def _delete(self, policy: Policy, going: list[Kept]) -> int:
        deleted = 0
        for number, kept in enumerate(going):
            if number and number % RETENTION_DELETES_PER_S_MAX == 0:
                await self._pause(1)
            current = self.policies.get(policy.tenant)
            if current != policy or self._cut_off(policy.region) is not None:
                # It was taken back, or something may be written where it is not seen from here.
                return deleted
            if not self._is_free(kept, policy.age_s):
                continue
            try:
                await self._node.delete(kept.session, None)
            except Refusal as refusal:
                if refusal.code != "deleted":
                    raise
                continue
            deleted += 1
        return deleted
