"""The regions as one sees them: what each says of itself, what it sees of each other one.

A view is made at most once a second, whoever asks. It costs what its lists are long, and no walk
over sessions or readers.
"""

from typing import Any

from perdure.regions import findings
from perdure.regions.accounts import Accounts
from perdure.regions.activity import Activity
from perdure.regions.connections import Connections
from perdure.regions.lag import Lag
from perdure.regions.peer_views import ASKED_FROM, PeerView, PeerViews
from perdure.replication.peers import Peer

# How long a view is good for.
FRESH_MS = 500
# What is not known of a region that has never answered.
_NUMBERS = (
    *("sessions", "in_memory", "readers", "connections", "open_runs", "present"),
    *("tokens_per_s", "events_per_s", "log_bytes", "disk_free_bytes"),
)
_BLANK: dict[str, Any] = {
    **dict.fromkeys(("state", "version", "incarnation", "uptime_s", "now_ms", "url")),
    "wire": [],
    "sees": [],
    **dict.fromkeys(_NUMBERS),
    "problems": [],
}


def _believed(told: dict[str, Any]) -> dict[str, Any]:
    """What a region told of itself, without what is not as this build knows it: another build may
    mean something else by a name."""
    lists = ("wire", "sees", "problems")
    return {
        name: value
        for name, value in told.items()
        if (name not in _NUMBERS or (isinstance(value, int | float) and value is not True))
        and (name not in lists or isinstance(value, list))
    }


class Overview:
    """What one region shows of all."""

    def __init__(
        self,
        node: Accounts,
        peers: PeerViews,
        lag: Lag,
        activity: Activity,
        connections: Connections,
    ) -> None:
        # Which build this is, and where clients find this region, where that is known.
        self.build = ""
        self.url: str | None = None
        self.events_per_s = 0.0
        self._node = node
        self._peers = peers
        self._lag = lag
        self._activity = activity
        self._connections = connections
        self.started_ms = node.clock.wall_ms()
        self._started_ms = node.clock.monotonic_ms()
        self._own: tuple[int, dict[str, Any]] | None = None

    def own(self) -> dict[str, Any]:
        """This region's view of itself and of the others."""
        now_ms, state = self._node.clock.monotonic_ms(), self._node.readiness()
        known = self._own
        # Who drains a region is told so at once.
        if known is None or now_ms - known[0] >= FRESH_MS or known[1]["state"] != state:
            self._own = known = (now_ms, self._made(now_ms))
        return known[1]

    def _made(self, now_ms: int) -> dict[str, Any]:
        node = self._node
        about = node.version()
        sees = self.seen()
        view: dict[str, Any] = {
            "region": node.region,
            "reachable": True,
            "state": node.readiness(),
            "version": self.build,
            "incarnation": about["incarnation"],
            "wire": about["wire"],
            "uptime_s": (now_ms - self._started_ms) // 1000,
            "now_ms": node.clock.wall_ms(),
            "url": self.url,
            "is_gone": False,
            "sees": sees,
            "sessions": len(node.state),
            "in_memory": len(node.state.sessions),
            "readers": node.fanout.count,
            "connections": len(self._connections),
            "open_runs": len(node.turns),
            "present": len(node.desk.presence),
            "tokens_per_s": self._activity.rate,
            "events_per_s": round(self.events_per_s, 1),
            "log_bytes": node.state.log_bytes,
            "disk_free_bytes": node.storage.free_bytes(),
        }
        not_erased = int(not node.is_erased())
        found = findings.of_region(view, not_erased=not_erased, damaged=node.storage.damaged)
        view["problems"] = [finding.value() for finding in found]
        return view

    def seen(self) -> list[dict[str, Any]]:
        """The other regions, as this one sees them now, by name."""
        now_ms = self._node.clock.monotonic_ms()
        return [self._sees(peer, now_ms) for _, peer in sorted(self._node.gossip.peers.items())]

    def _sees(self, peer: Peer, now_ms: int) -> dict[str, Any]:
        node, view = self._node, self._peers.of(peer.name)
        behind = self._lag.of(peer.name, now_ms, node.state.log_bytes)
        round_ms = node.repair.rounds_ms.get(peer.name)
        return {
            "region": peer.name,
            "state": peer.state(now_ms),
            "rtt_ms": view.rtt_ms if peer.connected else None,
            "behind_operations": behind.operations,
            "behind_bytes": behind.bytes,
            "behind_s": behind.seconds,
            "clock_offset_ms": view.clock_offset_ms if peer.connected else None,
            "last_seen_ms": None if peer.heard_ms is None else now_ms - peer.heard_ms,
            "last_anti_entropy_ms": None if round_ms is None else now_ms - round_ms,
            "digests": "unknown" if peer.state(now_ms) == "down" else view.digests(now_ms),
            "wire": self._peers.wire(peer.name),
        }

    def lag_ms(self) -> int:
        """How old the oldest record is that a connected peer has not confirmed."""
        now_ms, log_bytes = self._node.clock.monotonic_ms(), self._node.state.log_bytes
        peers = self._node.gossip.peers.values()
        connected = (peer.name for peer in peers if peer.connected)
        return max(
            (int(self._lag.of(n, now_ms, log_bytes).seconds * 1000) for n in connected), default=0
        )

    def _other(self, peer: Peer, view: PeerView, now_ms: int) -> dict[str, Any]:
        """A peer as it described itself last; ``age_ms``: how long ago that was."""
        age_ms = None if view.came_ms is None else now_ms - view.came_ms
        state = peer.state(now_ms)
        wire = self._peers.wire(peer.name)
        is_older = wire is not None and wire < ASKED_FROM
        value = {**_BLANK, **_believed(view.value or {})}
        value |= {"region": peer.name, "is_gone": False, "age_ms": age_ms}
        value["reachable"] = state != "down" and (view.answers or is_older)
        if is_older and view.value is None:
            text = f"{peer.name} speaks version 1 of the wire, and cannot say how it is"
            value |= {"wire": [wire], "problems": [findings.Finding("old_wire", text).value()]}
            if peer.incarnation is not None:
                value["incarnation"] = f"{peer.incarnation:016x}"
        if not value["reachable"]:
            value["problems"] = [findings.of_silence(peer.name, state, age_ms).value()]
        return value

    def regions(self) -> list[dict[str, Any]]:
        """Every region that is known, this one first."""
        now_ms = self._node.clock.monotonic_ms()
        peers = sorted(self._node.gossip.peers.items())
        others = [self._other(peer, self._peers.of(name), now_ms) for name, peer in peers]
        about = {"is_gone": True, "reachable": False, "age_ms": None}
        gone = [{**_BLANK, "region": name, **about} for name in sorted(self._node.gossip.gone)]
        return [{**self.own(), "age_ms": 0}, *others, *gone]

    def value(self) -> dict[str, Any]:
        """Everything, for ``GET /admin/api/overview``."""
        own, regions = self.own(), self.regions()
        reachable = [view for view in regions if view["reachable"]]
        summary: dict[str, Any] = {
            "regions": sum(not view["is_gone"] for view in regions),
            "reachable": len(reachable),
            "sessions": own["sessions"],
            "problems": sum(len(view["problems"]) for view in regions),
        }
        for name in ("readers", "connections", "tokens_per_s", "events_per_s"):
            summary[name] = round(sum(view[name] or 0 for view in reachable), 1)
        summary["open_runs"] = own["open_runs"]
        about = ("region", "version", "incarnation", "wire", "state", "now_ms")
        return {
            **{name: own[name] for name in about},
            "started_ms": self.started_ms,
            "regions": regions,
            "summary": summary,
        }
