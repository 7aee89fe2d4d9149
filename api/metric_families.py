"""Every metric of a region: its name, kind, labels and meaning, and where its values come from.

``docs/operating/metrics.md`` lists the same; a test compares the two. All are there from the start,
also without traffic, and no label takes its values from clients.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from platform import python_version
from typing import NamedTuple

from perdure.api.problems import STATUS
from perdure.regions.disk_usage import disk_usage
from perdure.regions.identity import last_backup_ms
from perdure.regions.meters import Counter, Gauge, Histogram, Queue
from perdure.regions.node import Node
from perdure.regions.storage import SqliteStorage
from perdure.replication.handshake import REFUSALS
from perdure.replication.hlc import to_wall_ms
from perdure.replication.limits import READERS_MAX, RUNS_OPEN_MAX, WRITE_QUEUE_ITEMS_MAX

PREFIX = "perdure_"
STATES = ("starting", "catching_up", "draining", "storage_failed", "name_in_use")
PEER_STATES = ("up", "suspect", "down")
# The values of labels that are there from the start: what has not happened yet is 0, and its
# first time is seen as a growth.
KNOWN: Mapping[str, tuple[str, ...]] = {
    "errors": tuple(STATUS),
    "limited": (
        *("address", "key", "subject", "tenant", "session", "guess"),
        *("address-streams", "subject-streams", "region"),
    ),
    "resumes": ("continued", "replaced", "held", "snapshot"),
    "connections": ("sse", "websocket", "poll", "stream", "work", "document"),
}

# Why links and frames of peers are refused; there from the start as well.
LINK_CODES = (*sorted(REFUSALS), "not_a_peer", "busy", "other")
FRAME_CODES = (
    *("crc", "foreign", "kind", "length", "mac", "not_a_frame", "not_binary", "number", "payload"),
    *("record", "too_early", "too_long", "too_short", "unauthenticated", "unexpected", "version"),
)

Series = Iterable[tuple[tuple[str, ...], float]]


class Family(NamedTuple):
    """One metric as it is now. ``name`` is without prefix, and without ``_total``; a histogram
    brings its bounds, counts and sum in ``histogram``."""

    name: str
    kind: str
    text: str
    labels: tuple[str, ...] = ()
    series: Series = ()
    histogram: Histogram | None = None


def families(node: Node, version: str) -> Iterator[Family]:
    """All metrics of a region, as they are now."""
    yield from _of_meters(node)
    yield from _of_region(node, version)
    yield from _of_peers(node)
    yield from _of_sessions(node)
    yield from _of_storage(node)
    yield from _of_counters(node)
    others = [queue for more in node.meters.queues for queue in more()]
    yield from _of_queues([*_own_queues(node), *others])


def _of_meters(node: Node) -> Iterator[Family]:
    for meter in node.meters.all():
        if isinstance(meter, Histogram):
            yield Family(meter.name, "histogram", meter.text, (), (), meter)
            continue
        kind = "gauge" if isinstance(meter, Gauge) else "counter"
        yield Family(meter.name, kind, meter.text, meter.labels, _with_known(meter))


def _with_known(meter: Counter) -> Series:
    found: dict[tuple[str, ...], float] = {(value,): 0.0 for value in KNOWN.get(meter.name, ())}
    found.update(meter.series())
    return sorted(found.items())


def gauge(name: str, text: str, value: float | None) -> Family:
    """A number as it is now; None: it is not known."""
    return Family(name, "gauge", text, (), () if value is None else (((), value),))


def counter(name: str, text: str, value: float) -> Family:
    """A number that only grows."""
    return Family(name, "counter", text, (), (((), value),))


def _one_of(name: str, text: str, label: str, values: Iterable[str], now: str | None) -> Family:
    series = [((value,), float(value == now)) for value in values]
    return Family(name, "gauge", text, (label,), series)


def _of_region(node: Node, version: str) -> Iterator[Family]:
    reason = node.readiness()
    wire = ",".join(map(str, node.version()["wire"]))
    yield Family(
        "build_info",
        "gauge",
        "Always 1; says with which versions this region runs",
        ("version", "python", "wire"),
        (((version, python_version(), wire), 1.0),),
    )
    yield gauge("ready", "1 while this region takes requests, else 0", float(reason is None))
    yield Family(
        "certificate_end_timestamp_seconds",
        "gauge",
        "When the certificate of a port (clients, peers) ends, in seconds since 1970; none where"
        " there is none, or it cannot be read",
        ("port",),
        [((port,), end) for port, end in node.expiry.ends_s().items() if end is not None],
    )
    text = "1 for the reason why this region is not ready, else 0"
    yield _one_of("unready", text, "reason", STATES, reason)
    yield gauge(
        "hybrid_clock_ahead_seconds",
        "How far the greatest time this region has seen of any region is ahead of its own clock;"
        " 0 where it is not",
        max(0, to_wall_ms(node.state.clock.last) - node.clock.wall_ms()) / 1000,
    )


def _of_peers(node: Node) -> Iterator[Family]:
    now_ms = node.clock.monotonic_ms()
    peers = sorted(node.gossip.peers.items())
    yield Family(
        "peer_state",
        "gauge",
        "1 for the state in which this region sees a peer (up, suspect, down), else 0",
        ("peer", "state"),
        [((n, s), float(p.state(now_ms) == s)) for n, p in peers for s in PEER_STATES],
    )
    per_peer: tuple[tuple[str, str, Callable[[str], float | None]], ...] = (
        (
            "peer_behind_operations",
            "Operations on this region's disk that the peer has not reported on its own yet",
            lambda name: node.gossip.behind(name),
        ),
        (
            "peer_in_flight_bytes",
            "Sent to the peer and not acknowledged yet",
            lambda name: node.gossip.peers[name].in_flight_bytes,
        ),
        (
            "peer_last_heard_seconds",
            "Since the peer's last sign of life; absent where there was none",
            lambda name: _seconds_since(node.gossip.peers[name].heard_ms, now_ms),
        ),
        (
            "peer_acknowledgement_seconds",
            "From sending the last acknowledged batch to the peer having it on its disk",
            lambda name: _seconds(node.gossip.peers[name].acknowledged_in_ms),
        ),
    )
    for name, text, value in per_peer:
        found = [((peer,), value(peer)) for peer, _ in peers]
        known = [(labels, number) for labels, number in found if number is not None]
        yield Family(name, "gauge", text, ("peer",), known)
    yield from _seen(node)
    text = "1 while some peer's logs no longer hold what this region lacks: it takes the sessions"
    yield gauge("below_a_peer", text, float(node.repair.is_below_anybody()))


# What a region has found out about its peers: the metric, its field, and what makes it base units.
_SEEN: tuple[tuple[str, str, float, str], ...] = (
    ("peer_behind_bytes", "behind_bytes", 1, "As peer_behind_operations, in bytes"),
    (
        "peer_behind_seconds",
        "behind_s",
        1,
        "How old the oldest of what the peer has not reported on its disk is",
    ),
    ("peer_round_trip_seconds", "rtt_ms", 0.001, "A question to the peer and its answer, smoothed"),
    (
        "peer_clock_offset_seconds",
        "clock_offset_ms",
        0.001,
        "How far the peer's clock is ahead, at most half of a round trip wrong; below 0: behind",
    ),
    ("peer_wire_version", "wire", 1, "The version that the link to the peer speaks"),
)


def _seen(node: Node) -> Iterator[Family]:
    """What is not known, or not while the link is down, is absent."""
    seen = node.oversight.overview.seen()
    for name, field, unit, text in _SEEN:
        known = [(one["region"], one[field]) for one in seen if one[field] is not None]
        yield Family(name, "gauge", text, ("peer",), [((n,), v * unit) for n, v in known])
    compared = [one for one in seen if one["digests"] != "unknown"]
    text = "1 where the last comparison found the same here and at the peer, 0 where it did not"
    series = [((one["region"],), float(one["digests"] == "equal")) for one in compared]
    yield Family("peer_digests_equal", "gauge", text, ("peer",), series)


def _seconds(ms: int | None) -> float | None:
    return None if ms is None else ms / 1000


def _seconds_since(then_ms: int | None, now_ms: int) -> float | None:
    return None if then_ms is None else max(0, now_ms - then_ms) / 1000


def _of_sessions(node: Node) -> Iterator[Family]:
    state = node.state
    yield gauge("sessions", "Sessions that exist, without the regions' own", len(state))
    yield gauge("sessions_in_memory", "Sessions that are in memory", len(state.sessions))
    yield gauge(
        "sessions_dirty", "Sessions of which something is in the log alone", len(state.dirty)
    )
    yield gauge("readers", "Subscriptions to sessions here", node.fanout.count)
    yield gauge(
        "readers_held",
        "Readers that are ahead of this region, or otherwise hold what it does not show",
        node.fanout.held(),
    )
    yield gauge(
        "presence_entries",
        "Connections and leases of members, of all regions",
        len(node.desk.presence),
    )
    yield gauge("open_runs", "Runs that are not over", len(node.turns))
    yield counter("session_loads", "Sessions that were read from the disk", state.loads)
    yield counter("session_evictions", "Sessions that have left memory", state.evictions)


def _of_storage(node: Node) -> Iterator[Family]:
    storage = node.storage
    usage = made_ms = None
    if isinstance(storage, SqliteStorage):
        usage, made_ms = disk_usage(storage.path), last_backup_ms(storage.directory)
    text = "When the last backup was made, in seconds since 1970; none where none is known of"
    yield gauge("last_backup_timestamp_seconds", text, None if made_ms is None else made_ms / 1000)
    yield counter(
        "logged_bytes", "Logged by this region, ever, in bytes of operations", storage.log_bytes
    )
    for name, text in (
        ("database_bytes", "The size of the database file"),
        ("wal_bytes", "The size of the file that commits go to first"),
        ("disk_free_bytes", "Free on the file system of the data directory"),
        ("disk_bytes", "The size of the file system of the data directory"),
    ):
        field = {"disk_free_bytes": "free_bytes", "disk_bytes": "total_bytes"}.get(name, name)
        yield gauge(name, text, None if usage is None else getattr(usage, field))
    text = "Records and images that were not what was written; a peer is asked for them"
    yield counter("damaged", text, storage.damaged)
    yield counter(
        "undecodable", "Operations that this version does not know", node.state.undecodable
    )
    text = "Operations that could not be applied: a mistake of this program"
    yield counter("unapplied", text, node.state.unapplied)
    yield counter("checkpointed", "Images of sessions that were stored", node.checkpoint.saved)
    yield counter("truncated", "Records that the logs have let go of", node.checkpoint.truncated)
    yield counter("erased", "Deleted things that were made gone from the disk", node.eraser.erased)
    text = "1 while something that was deleted is not gone from this disk yet"
    yield gauge("erasure_pending", text, float(not node.is_erased()))


def _of_counters(node: Node) -> Iterator[Family]:
    yield counter("readers_cut", "Readers that took nothing any more", node.counters["readers_cut"])
    yield counter(
        "signals_dropped", "Signals for which there was no room", node.desk.signals.dropped
    )
    plain = {name: n for name, n in node.link_counters.items() if "." not in name}
    text = "What happened on links to peers, by what it was"
    yield Family("link_events", "counter", text, ("event",), _series(plain))
    refused: dict[tuple[str, ...], int] = {("links_refused", code): 0 for code in LINK_CODES}
    refused |= {("frames_refused", code): 0 for code in FRAME_CODES}
    refused |= {tuple(k.split(".", 1)): n for k, n in node.link_counters.items() if "." in k}
    yield Family(
        "link_refusals",
        "counter",
        "Links and frames of peers that were refused, by what was and its code",
        ("what", "code"),
        sorted((labels, float(number)) for labels, number in refused.items()),
    )
    text = "What rounds of repair between regions did, by what it was"
    yield Family("repair_events", "counter", text, ("event",), _series(node.repair.counters))


def _series(counts: Mapping[str, int]) -> Series:
    return [((name,), float(count)) for name, count in sorted(counts.items())]


def _own_queues(node: Node) -> Iterator[Queue]:
    yield Queue("writes", node.waiting_writes, WRITE_QUEUE_ITEMS_MAX)
    yield Queue("readers", node.fanout.count, READERS_MAX)
    yield Queue("runs", len(node.turns), RUNS_OPEN_MAX)


def _of_queues(queues: list[Queue]) -> Iterator[Family]:
    items = [((queue.name,), float(queue.items)) for queue in queues]
    text = "What waits, or is open, where only so much may"
    yield Family("queue_items", "gauge", text, ("queue",), items)
    limits = [((queue.name,), float(queue.limit)) for queue in queues]
    yield Family(
        "queue_limit_items", "gauge", "How much may; beyond it is refused", ("queue",), limits
    )
