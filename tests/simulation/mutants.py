"""Deliberate bugs, switched on one at a time: the simulator must catch every one.

Each is a slip that somebody could make, as small as it can be; what it breaks is in its docstring.
"""

import asyncio
import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any
from unittest import mock
from zlib import crc32

from perdure.regions import catch_up, checkpoint, fanout, node, repair, state
from perdure.regions.transport_accepting import Acceptor
from perdure.regions.transport_wire import vector_payload
from perdure.replication import (
    admission,
    claims,
    gossip,
    lane,
    message,
    peers,
    resume,
    session,
    shelf,
)
from perdure.replication.belief import Belief
from perdure.replication.errors import Refusal
from perdure.replication.feed import finish, snapshot_event
from perdure.replication.frames import Kind
from perdure.replication.ids import claim_epoch
from perdure.replication.items import End
from perdure.replication.judge import Verdict, judge
from perdure.replication.operations import Items
from perdure.replication.records import Origin

from tests.simulation.disk import SimStorage
from tests.simulation.mutation import registry

MUTANTS, mutant = registry()

# Acknowledging and disks

_commit = SimStorage.commit


@mutant(SimStorage, "commit")
async def ack_before_fsync(self: Any, records: Any, deletions: Any = ()) -> None:
    """A commit says that it is done before it is on disk."""
    await self._pass()

    async def later() -> None:
        await asyncio.sleep(0.3)
        if not self.is_cut:
            for record in records:
                self._log[(record.origin, record.lsn)] = (position[record], record)

    position = {}
    for record in records:
        self.position += 1
        self.log_bytes += len(record.body)
        position[record] = self.position
    self.later = asyncio.create_task(later())


_sent = gossip.Gossip.sent


@mutant(gossip.Gossip, "sent")
def stable_when_sent(self: Any, name: str, records: Any) -> None:
    """What was sent counts as being on the peer's disk."""
    _sent(self, name, records)
    for record in records:
        if record.origin == self.me:
            self._stable[record.origin] = max(record.lsn, self._stable.get(record.origin, 0))


@mutant(gossip.Gossip, "is_stable")
def message_stable_at_once(self: Any, origin: Any, lsn: int) -> bool:
    """A whole message is called stable when it is accepted."""
    return True


_lane_stable = lane.Lane.stable_entries


@mutant(lane.Lane, "stable_entries")
def tokens_stable_at_once(self: Any, stable_lsn: Any) -> int:
    """Tokens are called stable when they are accepted."""
    _lane_stable(self, stable_lsn)
    return len(self.entries)


@mutant(Acceptor, "_store")
async def reports_before_storing(self: Any, link: Any, records: Any) -> None:
    """The vector that peers compute ``stable`` from tells of records that are not synced."""
    fresh, beyond = self._gossip.admit(records)
    vector = dict(self._gossip.vector)
    for record in fresh:
        vector[record.origin] = record.lsn
    await self._send(link, Kind.VECTOR, vector_payload(vector, full=beyond, gap=beyond))
    if fresh:
        await self._around.host.receive(fresh)


MUTANTS["no_incarnation"] = lambda: mock.patch.object(
    node, "Origin", lambda region, _: Origin(region, 7)
)


_recovered = gossip.Gossip.recovered


def _lose_the_last_lsn(self: Any, vector: Any, floors: Any) -> None:
    _recovered(self, vector, floors)
    if self.me in self.vector:
        self.vector[self.me] -= 1


@contextlib.contextmanager
def _lsn_reused() -> Iterator[None]:
    """A region that starts again numbers its records on from the last but one."""
    with (
        MUTANTS["no_incarnation"](),
        mock.patch.object(gossip.Gossip, "recovered", _lose_the_last_lsn),
    ):
        yield


MUTANTS["lsn_reused"] = _lsn_reused

_replay = SimStorage.replay


@mutant(SimStorage, "replay")
def forgets_on_restart(self: Any) -> Any:
    """The newest record of the log is not applied when a region starts again."""
    records = list(_replay(self))
    yield from records[:-1]


# Gossip


@mutant(gossip.Gossip, "admit")
def vector_past_a_gap(self: Any, records: Any) -> Any:
    """Records beyond a gap are taken, and the vector moves past what is missing."""
    fresh = []
    reached: dict[Any, int] = {}
    for record in records:
        held = reached.get(record.origin, self.vector.get(record.origin, 0))
        if record.origin != self.me and record.lsn > held:
            fresh.append(record)
            reached[record.origin] = record.lsn
            self.vector[record.origin] = record.lsn - 1
    return fresh, False


_rewind = peers.Peer.rewind


@mutant(peers.Peer, "rewind")
def window_dropped(self: Any, vector: Any) -> None:
    """What was on the way when a link broke is not sent again."""
    sent = dict(self.sent)
    _rewind(self, vector)
    for origin, lsn in sent.items():
        self.sent[origin] = max(lsn, self.sent.get(origin, 0))


_apply_to_message = session.Session._apply_to_message


@mutant(session.Session, "_apply_to_message")
def drops_what_comes_early(self: Any, op: Any, place: Any, own: bool) -> None:
    """Items that arrive before their header, or before what they follow, are dropped."""
    if isinstance(op, Items):
        known = self.messages.get(op.message)
        if known is None or not known.knows_lane(op.lane):
            return
        held = known.lane(op.lane)
        if op.seq > len(held.entries):
            return
    _apply_to_message(self, op, place, own)


@mutant(gossip.Gossip, "is_below")
def never_below(self: Any, name: str) -> bool:
    """A peer that the logs no longer reach is not told so."""
    return False


_truncate = SimStorage.truncate


@mutant(SimStorage, "truncate")
async def truncates_what_is_in_no_image(self: Any, upto: Any) -> int:
    """The log is let go of to its end, though a start would have to replay it."""
    ends = dict.fromkeys(upto, 0)
    for origin, lsn in self._log:
        if origin in ends:
            ends[origin] = max(lsn, ends[origin])
    return int(await _truncate(self, ends))


_round = repair.Repair.round


@mutant(repair.Repair, "round")
async def jumps_without_absorbing(self: Any, name: str) -> int:
    """A region that the logs no longer reach goes on from the peer's vector at once."""
    if name in self.below:
        await self._jump(dict(self._gossip.peers[name].vector))
        self.below.discard(name)
        return 0
    return int(await _round(self, name))


# Lanes and messages


def _attach_any(self: Any, piece: Any) -> bool:
    if piece.seq > len(self.entries):
        return False
    fresh = piece.entries[max(0, len(self.entries) - piece.seq) :]
    self._extend(fresh)
    return True


MUTANTS["forks_settled_item_by_item"] = lambda: mock.patch.object(lane.Lane, "_attach", _attach_any)


_merge = lane.Lane.merge


@mutant(lane.Lane, "merge")
def merge_is_not_idempotent(self: Any, piece: Any) -> None:
    """A piece that is there already is added once more."""
    if piece.seq < len(self.entries) and self.end is None:
        self._extend(piece.entries)
    else:
        _merge(self, piece)


_admit = lane.Lane.admit


@mutant(lane.Lane, "admit")
def retries_are_new(self: Any, seq: int, entries: Any, pending: Any = ()) -> Any:
    """A producer's repeated items are taken for new ones."""
    next_ = len(self.entries) + len(pending)
    ended = self.end or any(isinstance(entry, End) for entry in pending)
    return _admit(self, seq if seq > next_ or ended else next_, entries, pending)


@mutant(lane.Lane, "_check_fresh")
def gaps_are_taken(self: Any, at: int, next_: int, fresh: Any, pending: Any) -> None:
    """Items beyond what is held are taken and put at the end."""


@mutant(message.Message, "is_fenced")
def fence_forgotten(self: Any, lane: Any) -> bool:
    """A producer whose message was taken over goes on undisturbed."""
    return False


_make_claim = admission._make_claim


def _from_zero(session: Any, message: Any, producer: str, claim_id: str, _: str) -> Any:
    return _make_claim(session, message, producer, claim_id, "restart")


MUTANTS["continues_from_nothing"] = lambda: mock.patch.object(admission, "_make_claim", _from_zero)


def _continues(session: Any, message: Any, producer: str, claim_id: str, _: str) -> Any:
    return _make_claim(session, message, producer, claim_id, "continue")


MUTANTS["restarts_continue"] = lambda: mock.patch.object(admission, "_make_claim", _continues)


@mutant(admission, "_make_claim")
def continues_after_the_first_run(session: Any, message: Any, *who: Any) -> Any:
    """A second takeover goes on where the first one did, and drops what that one wrote."""
    shown = dataclasses.replace(message.shown, runs=message.shown.runs[:1])
    with mock.patch.object(message, "shown", shown):
        return _make_claim(session, message, *who)


@mutant(admission, "_check_claimable")
def ended_is_claimable(message: Any) -> None:
    """What has ended may be taken over."""
    if message.is_cancelled(message.tip):
        raise Refusal("cancelled", "the message was cancelled")


_page = shelf.Shelf.page


@mutant(shelf.Shelf, "page")
def listed_by_arrival(self: Any, before: Any, limit: int) -> Any:
    """Messages are listed in the order in which they came to this region."""
    ids, more = _page(self, before, limit)
    return sorted(ids, key=lambda id_: self.arrival.get(id_, 0)), more


@mutant(admission, "_make_claim")
def visible_end_origin(session: Any, message: Any, *who: Any) -> Any:
    """A takeover goes on at the end of what is shown, counted from its beginning and not from that
    of the lane it continues."""
    admitted = _make_claim(session, message, *who)
    (claim,) = admitted.operations
    if claim.previous is None:
        return admitted
    base = message.shown.length
    epoch = claim_epoch(claim.lane.epoch.counter, claim.tag, claim.previous, base)
    lane = claim.lane._replace(epoch=epoch)
    return admitted._replace(
        operations=[dataclasses.replace(claim, lane=lane, base=base)], lane=lane
    )


@mutant(admission, "_check_writable")
def cancel_forgotten(message: Any, lane: Any) -> None:
    """A producer whose message was cancelled goes on where that is known."""
    if message.is_fenced(lane):
        raise Refusal("fenced", "another producer has taken the message over")


@mutant(claims.Claims, "chain")
def oldest_claim_wins(self: Any, root: Any) -> Any:
    """Of several claims the one that is known first here counts."""
    for claim in reversed(self.that_count(root)):
        found = self.chain_of(claim.lane)
        if found is not None:
            return found
    return (claims.Link(root, None),)


@mutant(claims.Claims, "that_count")
def claims_by_arrival(self: Any, root: Any) -> Any:
    """Of several claims the last that arrived here counts."""
    found = [claim for claim in self._claims.values() if claim.root == root]
    return found[::-1]


@mutant(claims.Claims, "_rank")
def twin_without_text_wins(self: Any, claim: Any) -> Any:
    """Of a claim that was carried out in two regions the newer epoch counts, whichever of them the
    producer was told and has written to."""
    return False, claim.lane.epoch


_apply_open = message.Message.apply_open


@mutant(message.Message, "apply_open")
def first_header_wins(self: Any, op: Any, place: Any) -> None:
    """Of two headers for one id the one that arrives first counts."""
    first = self.header
    _apply_open(self, op, place)
    self.header = first or self.header


_runs_of = message.Message.runs_of


@mutant(message.Message, "runs_of")
def cancel_takes_text_back(self: Any, chain: Any) -> Any:
    """A message that is cancelled shows one token less."""
    runs = _runs_of(self, chain)
    if self.header.lane in self.cancels and runs and runs[-1].take:
        return (*runs[:-1], runs[-1]._replace(take=runs[-1].take - 1))
    return runs


@mutant(admission, "check_live")
def deleted_ids_reused(session: Any, message: str | None = None) -> None:
    """What was deleted may be written anew, and the tombstone is forgotten for it."""
    if message is not None and session.messages.is_buried(message):
        session.messages.tombstones.discard(message)
        session.messages.graves.pop(message, None)


_admit_message = admission.admit_message
_lane_of = admission._lane_of


@mutant(admission, "admit_message")
def reopening_mints_a_lane(session: Any, draft: Any, site: Any) -> Any:
    """A message that is opened once more in another region gets a lane of its own there."""

    def lane_of(*what: Any) -> Any:
        lane = _lane_of(*what)
        nonce = lane.epoch.nonce ^ crc32(site.region.encode())
        return lane._replace(epoch=lane.epoch._replace(nonce=nonce))

    with mock.patch.object(admission, "_lane_of", lane_of):
        return _admit_message(session, draft, site)


_admit_reopening = admission.admit_reopening


@mutant(admission, "admit_reopening")
def reopening_is_forgotten(state: Any, operations: Any) -> Any:
    """A header that a producer brings makes only its message known, not a claimed epoch."""
    found = _admit_reopening(state, operations)
    return [op for op in found if type(op).__name__ == "Open"]


# Readers


_position = session.Session._entry


@mutant(session.Session, "_entry")
def cursor_off_by_one(self: Any, told: Any) -> Any:
    """A cursor says one item more than the reader was told."""
    entry = _position(self, told)
    return entry._replace(length=entry.length + 1)


def _shared(self: Any, draft: Any) -> Any:
    return finish(self._session, draft)


MUTANTS["ids_shared_in_a_hold"] = lambda: mock.patch.object(resume.Returning, "_own", _shared)


_start = resume.Returning.start


@mutant(resume.Returning, "start")
def older_snapshot(self: Any, now_ms: int) -> Any:
    """A region that is behind a reader sends its snapshot instead of holding."""
    events = _start(self, now_ms)
    if self.differs:
        self._waiting, self._belief = False, Belief()
        return [
            snapshot_event(self._session, self._beside),
            finish(self._session, resume.ready_draft()),
        ]
    return events


def _judge_no_hold(message: Any, entry: Any) -> Verdict:
    verdict = judge(message, entry)
    return Verdict.FENCED if verdict is Verdict.HOLD and message is not None else verdict


MUTANTS["no_hold_for_a_message"] = lambda: mock.patch.object(resume, "judge", _judge_no_hold)


@mutant(resume.Returning, "on_time")
def holds_never_end(self: Any, now_ms: int) -> list[Any]:
    """A reader is held for as long as what it was told does not arrive."""
    return []


_reader_init = fanout.Reader.__init__


@mutant(fanout.Reader, "__init__")
def snapshot_before_subscription(self: Any, *args: Any) -> None:
    """What happens while a snapshot is being sent is told to nobody."""
    _reader_init(self, *args)
    following, asked = self.next, []

    async def next_() -> Any:
        asked.append(1)
        if len(asked) == 2:
            self.index = self.feed.end
        return await following()

    self.next = next_


@mutant(fanout.Feed, "publish")
def batch_lost_with_its_hold(self: Any) -> None:
    """A reader that joins the others at one change of a batch is put behind the later ones."""
    held = [reader for reader in self.readers if reader.returning is not None]
    for change in self.session.refresh():
        drafts = list(fanout.change_drafts(self.session, change))
        for draft in drafts:
            self._add(finish(self.session, draft))
        for reader in held:
            reader.offer(reader.returning.on_change(change, drafts) if reader.returning else [])
    for reader in held:
        reader.offer(reader.returning.on_refreshed() if reader.returning else [])
    if self.session.deleted:
        self.closing = True
    self.wake()


_since = fanout.Feed.since


@mutant(fanout.Feed, "since")
def gathered_events_told_twice(self: Any, index: int) -> Any:
    """A reader that waited gets the event before once more."""
    return _since(self, max(self._first, index - 1) if index < self.end else index)


_find_missing = resume.find_missing


@mutant(resume, "find_missing")
def new_messages_not_told(current: Any, position: Any) -> Any:
    """A returning reader is not told of messages that came while it was away."""
    missing = _find_missing(current, position)
    return None if missing is None else missing._replace(messages=[])


# Memory

_evict = state.State.evict


@mutant(state.State, "evict")
def dirty_sessions_leave(self: Any, idle_s: int) -> None:
    """A session leaves memory though what was written to it is in no image."""
    for id_ in list(self._used):
        if id_ not in self._pinned and self._used[id_] <= self.now - idle_s:
            self._drop(id_)
            self.dirty.pop(id_, None)


@mutant(checkpoint.Checkpoint, "_reached")
def watermark_past_dirty(self: Any) -> Any:
    """The place from which a start replays passes what is in no image."""
    return self._marks[-1] if self._marks else None


_images = state.State.images


@mutant(state.State, "images")
def images_lack_the_last_message(self: Any, ids: Any) -> Any:
    """What was written to one of several messages is not stored with the others."""
    return [image._replace(messages=image.messages[:-1]) for image in _images(self, ids)]


_settle_or_wait = state.State._settle_or_wait


@mutant(state.State, "_settle_or_wait")
def settled_when_over(self: Any, current: Any, id_: str) -> None:
    """A message that has ended counts as settled before it is on disk everywhere."""
    found = current.messages.reach_of(id_)
    if found is not None and found[0]:
        current.settle(id_)
        self.dirty.setdefault(current.id, self._storage.position)


@mutant(node.Node, "_check_readable")
def serves_before_caught_up(self: Any) -> None:
    """A region that does not know yet what there is answers as if it knew."""


_caught_up = catch_up.CatchUp.recovered


@mutant(catch_up.CatchUp, "recovered")
def every_start_catches_up(self: Any) -> None:
    """A region that starts with all that it had serves nothing until it has met its peers."""
    _caught_up(self)
    self.is_under_way = True
