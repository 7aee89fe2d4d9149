"""All that a region keeps for those who run it: beside its work, bounded, and never the truth.

What it costs the way of a token: for each record that is applied a look at its kind, and an
addition. The rest is done once a second, or when somebody asks.
"""

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from perdure.regions.accounts import Accounts
from perdure.regions.activity import Activity
from perdure.regions.connections import Connections
from perdure.regions.history import STEP_S, History
from perdure.regions.lag import Lag
from perdure.regions.meters import Histogram
from perdure.regions.overview import Overview
from perdure.regions.peer_views import Holding, PeerViews
from perdure.regions.refusals import Refusals
from perdure.regions.searching import Searching
from perdure.regions.storage_report import StorageReport
from perdure.regions.timeline import checked, timeline
from perdure.regions.writer import Applied
from perdure.replication.errors import Refusal
from perdure.replication.frames import vector_to_json
from perdure.replication.ids import digest
from perdure.replication.items import End
from perdure.replication.limits import STATUS_SESSIONS_MAX
from perdure.replication.operations import Items, Open
from perdure.replication.tenants import is_own, is_session

# Digests of everything are made at most so often, and not while more sessions than this are being
# written to: each of them costs some tens of microseconds.
DIGEST_FRESH_MS = 1_000
DIGEST_SESSIONS_MAX = 200
_DIGEST_BYTES = 16
# How long who asks for all regions waits for those that are asked now.
REFRESH_S_MAX = 1.0
_KEPT = 0.8


class Oversight:
    """The oversight of one region. ``tick`` every second."""

    def __init__(
        self, node: Accounts, start: Callable[[Coroutine[Any, Any, None], str], object]
    ) -> None:
        clock = node.clock
        self.journal = node.journal
        self.activity = Activity(clock.wall_ms)
        self.connections = Connections(clock)
        self.refusals = Refusals(clock)
        self.history = History()
        self.searching = Searching(node, self.activity)
        self.storage = StorageReport(node)
        self.peers = PeerViews(lambda: list(node.gossip.peers), clock, start, self._holding)
        lag = Lag(node.gossip)
        self.overview = Overview(node, self.peers, lag, self.activity, self.connections)
        # Whether peers are asked for their clocks: where somebody may come and look.
        self.is_watched = False
        self._node = node
        self._lag = lag
        self._clock = clock
        self._held: tuple[int, Holding] | None = None
        self._seconds = 0
        # What had been counted by the last second, and by the last sample of the history.
        self._events = self._commits = self._refused = 0.0
        self._counts: dict[str, list[int]] = {}

    # What happens

    def applied(self, applied: Sequence[Applied]) -> None:
        """Operations are on disk and in the state."""
        me, counts = self._node.region, self.activity.counts
        for one in applied:
            operation = one.operation
            if operation is None:
                continue
            is_mine = one.record.origin.region == me
            session = operation.session
            items = 0
            if isinstance(operation, Items):
                entries = operation.entries
                items = len(entries)
                if is_mine and isinstance(entries[-1], End):
                    items -= 1
                    self.journal.admitted(operation)
            elif is_mine:
                items = len(operation.header.entries) if isinstance(operation, Open) else 0
                self.journal.admitted(operation)
            if is_own(session):
                items = 0
            counts[session] = counts.get(session, 0) + items
            if is_mine:
                self.activity.own += items

    def tick(self) -> None:
        """A second has passed."""
        self.activity.tick()
        self._lag.mark(self._clock.monotonic_ms(), self._node.state.log_bytes)
        events = self._node.meters.events.value()
        rate = _KEPT * self.overview.events_per_s + (1 - _KEPT) * (events - self._events)
        self.overview.events_per_s, self._events = rate, events
        if self.is_watched:
            self.peers.tick()
        self._seconds += 1
        if self._seconds % STEP_S == 0:
            self._sample()

    def _sample(self) -> None:
        meters, node = self._node.meters, self._node
        commits, refused = meters.commits.value(), self.refusals.count
        values: dict[str, float | int | None] = {
            "tokens_per_s": self.activity.rate,
            "events_per_s": round(self.overview.events_per_s, 1),
            "commits_per_s": round((commits - self._commits) / STEP_S, 1),
            **self._quantiles("commit", meters.commit_seconds),
            **self._quantiles("append", meters.append_seconds),
            **self._quantiles("delivery", meters.delivery_seconds),
            "gossip_lag_ms": self.overview.lag_ms(),
            "readers": node.fanout.count,
            "connections": len(self.connections),
            "errors_per_s": round((refused - self._refused) / STEP_S, 1),
        }
        self._commits, self._refused = commits, refused
        self.history.add(self._clock.wall_ms(), values)

    def _quantiles(self, what: str, histogram: Histogram) -> dict[str, float | int | None]:
        """Of what was observed since the last sample; beyond all bounds, the greatest of them."""
        before = self._counts.get(histogram.name)
        self._counts[histogram.name] = list(histogram.counts)
        values: dict[str, float | int | None] = {}
        for name, part in (("p50", 0.5), ("p99", 0.99)):
            found = histogram.quantile(part, before)
            limited = None if found is None else min(found, histogram.bounds[-1])
            values[f"{what}_{name}_ms"] = None if limited is None else round(limited * 1000, 3)
        return values

    # What peers ask

    async def answer(self, what: dict[str, Any]) -> dict[str, Any]:
        """What a peer asks for (PROTOCOL B.9); what is not known is left out. Raises
        ``Refusal``."""
        answer: dict[str, Any] = {**self._node.version(), "state": self._node.readiness()}
        if what.get("view") is True:
            self.peers.compare()
            answer["view"] = self.overview.own()
        if what.get("digest") is True and (holding := self._holding()) is not None:
            answer |= holding._asdict()
        if what.get("held") is True:
            answer["held"] = vector_to_json(self._node.gossip.vector)
        if what.get("peers") is True:
            peers, now_ms = self._node.gossip.peers.items(), self._clock.monotonic_ms()
            answer["peers"] = {name: peer.state(now_ms) for name, peer in peers}
        session = what.get("timeline")
        if isinstance(session, str) and is_session(session):
            answer["timeline"] = self.seen_of(session)
        if isinstance(sessions := what.get("sessions"), list):
            if len(sessions) > STATUS_SESSIONS_MAX or not all(map(is_session, sessions)):
                raise Refusal("invalid_body", "sessions are no ids, or too many", field="sessions")
            answer["sessions"] = {id_: self.searching.term(id_) for id_ in sessions}
        # Last: as near to its leaving as it can be.
        return {**answer, "now_ms": self._clock.wall_ms()}

    def _holding(self) -> Holding | None:
        """What is held here; None while that would cost too much."""
        now_ms = self._clock.monotonic_ms()
        if self._held is not None and now_ms - self._held[0] < DIGEST_FRESH_MS:
            return self._held[1]
        if len(self._node.state.dirty) + len(self._node.state.saving) > DIGEST_SESSIONS_MAX:
            return None
        vector = sorted(f"{origin} {lsn}" for origin, lsn in self._node.gossip.vector.items())
        holding = Holding(
            digest(_DIGEST_BYTES, *self._node.holdings.buckets()).hex(),
            digest(_DIGEST_BYTES, *vector).hex(),
        )
        self._held = (now_ms, holding)
        return holding

    # What operators ask

    async def refreshed(self) -> None:
        """Views of the peers are asked for where it is time, and waited for a little."""
        await self.peers.refresh(REFRESH_S_MAX)

    def busy(self, id_: str) -> dict[str, Any]:
        """What is told again and again of a session that tokens come to."""
        return {
            "session": id_,
            "tokens_per_s": self.activity.rate_of(id_),
            "readers": self.searching.readers_of(id_),
            "active_runs": len(self._node.turns.texts(id_)),
        }

    def present(self, session: str) -> list[dict[str, Any]]:
        """Who is present in a session, and through how many connections at which regions."""
        found = []
        presence, is_hidden = self._node.desk.presence, self._node.desk.gossip.is_hidden
        for member in sorted(presence.members_in(session)):
            entries = presence.entries_in(session, member)
            regions = [e.dot.origin.region for e in entries if not is_hidden(e.dot.origin)]
            if regions:
                there = {"regions": sorted({*regions}), "connections": len(regions)}
                found.append({"member": member, **there})
        return found

    def errors(self) -> dict[str, Any]:
        """What was refused or failed, by code, also on links with peers."""
        links = self.peers.links
        counters = {} if links is None else links.counters
        on_links = [
            {"code": name, "count": count, "last_ms": None, "last_text": None}
            for name, count in sorted(counters.items())
            if "refused." in name or name == "links_broken"
        ]
        return {**self.refusals.value(), "links": on_links}

    def seen_of(self, session: str) -> list[dict[str, Any]]:
        """What this region has seen happen to a session."""
        return [entry.value(self._node.region) for entry in self.journal.of(session)]

    async def _of_peers(self, question: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """The answers of all peers that can be asked."""
        names = [name for name in self._node.gossip.peers if self.peers.can_ask(name)]
        answers = await self.peers.ask_all(names, question)
        return {name: answer for name, answer in answers.items() if answer is not None}

    async def timeline(self, session: str, before: str | None, limit: int) -> dict[str, Any]:
        """What happened to a session, as all regions that can be asked saw it."""
        answers = await self._of_peers({"timeline": session})
        seen = self.seen_of(session)
        for answer in answers.values():
            seen += checked(answer.get("timeline"))
        page = timeline(self._node.state.find(session), seen, before, limit)
        return {**page, "asked": sorted([self._node.region, *answers])}

    async def positions(self, ids: list[str]) -> dict[str, dict[str, str]]:
        """Of each of these sessions, whether each peer holds the same as this region: ``equal``,
        ``behind`` (it differs) or ``unknown`` (it did not say)."""
        found: dict[str, dict[str, str]] = {
            id_: dict.fromkeys(self._node.gossip.peers, "unknown") for id_ in ids
        }
        for start in range(0, len(ids), STATUS_SESSIONS_MAX):
            asked = ids[start : start + STATUS_SESSIONS_MAX]
            for name, answer in (await self._of_peers({"sessions": asked})).items():
                theirs = answer.get("sessions")
                if not isinstance(theirs, dict):
                    continue
                for id_ in asked:
                    is_equal = theirs.get(id_) == self.searching.term(id_)
                    found[id_][name] = "equal" if is_equal else "behind"
        return found

    async def rows(self, ids: list[str]) -> list[dict[str, Any]]:
        """What a list shows of these sessions."""
        sizes = await self._node.storage.sizes(ids)
        positions = await self.positions(ids)
        rows = []
        for id_ in ids:
            rows.append(
                {
                    **self.searching.row(id_, sizes[id_][0] if id_ in sizes else 0),
                    "positions": positions[id_],
                }
            )
        return rows

    async def verified(self, session: str | None) -> dict[str, Any]:
        """Compare with every peer now."""
        outcome = await self._node.verify(session)
        if session is None:
            now_ms = self._clock.monotonic_ms()
            for name, found in outcome["regions"].items():
                if found != "unreachable":
                    self.peers.of(name).compared(found == "equal", now_ms)
        return outcome
