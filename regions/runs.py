"""The runs of a region that are not over: whose leases are seen, and who is told of what changes.

Rule of this file: what is replicated of a run is in its message. Here is only what this region sees
of it, and the index by agents that a feed needs; both are made anew at a start.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

from perdure.regions.fanout import Fanout
from perdure.regions.ports import Clock
from perdure.regions.presence import PresenceDesk
from perdure.regions.state import State
from perdure.regions.work_readers import WorkReader
from perdure.replication.errors import Refusal
from perdure.replication.feed import Draft
from perdure.replication.ids import LaneKey, digest
from perdure.replication.limits import LEASE_S_DEFAULT, LEASE_UNSEEN_S, READERS_MAX, RUNS_OPEN_MAX
from perdure.replication.message import Message
from perdure.replication.presence_view import LEASE, Key
from perdure.replication.runs import Sight, attempt_of, holder_of, run_value
from perdure.replication.session import Session
from perdure.replication.tenants import name_of, session_key, tenant_of

UNSEEN_MS = LEASE_UNSEEN_S * 1000
_TAG_BYTES = 8

K = TypeVar("K")
N = TypeVar("N")
Run = tuple[str, str]


class Signs(NamedTuple):
    """What a run shows of its agent: who it is, how many items it wrote, its last word."""

    holder: LaneKey | None
    items: int
    n: int


class Open(NamedTuple):
    """A run that is not over, as it was told last. ``is_seen``: whether its agent's lease is;
    ``seen_ms``: when its agent last gave a sign of life, as far as this region sees."""

    agent: str
    created: int
    text: str
    is_seen: bool
    seen_ms: int
    # The presence of the agent that holds it; None before the first claim.
    key: Key | None
    signs: Signs


class RunDesk:
    """The open runs of a region."""

    def __init__(self, state: State, presence: PresenceDesk, fanout: Fanout, clock: Clock) -> None:
        self._state = state
        self._presence = presence
        self._fanout = fanout
        self._clock = clock
        self._open: dict[Run, Open] = {}
        self._by_session: dict[str, dict[str, None]] = {}
        self._by_agent: dict[str, dict[Run, None]] = {}
        # Runs that were won just now, with how long their leases will be.
        self.winning: dict[Run, int] = {}
        # By the agent and the producer that holds them.
        self._by_worker: dict[tuple[str, str], dict[Run, None]] = {}
        # When runs whose lease is not seen are to be looked at again.
        self._later: dict[Run, int] = {}
        # How long the leases are that were last renewed here.
        self._leases_s: dict[Run, int] = {}
        self._readers: dict[str, set[WorkReader]] = {}
        self._workers: Counter[tuple[str, str]] = Counter()
        self.draining = False
        presence.on_touched = self.members_touched

    def __len__(self) -> int:
        return len(self._open)

    # What is shown

    def value(self, message: Message) -> dict[str, Any]:
        """The run that a message is."""
        return run_value(message, self._sight(message))

    def _sight(self, message: Message) -> Sight:
        if self.lease_s(message):
            return Sight.SEEN
        known = self._open.get((message.session, message.id))
        seen_ms = None if known is None else known.seen_ms
        now_ms = self._clock.monotonic_ms()
        is_moment = seen_ms is not None and now_ms - seen_ms < UNSEEN_MS
        return Sight.MISSED if is_moment else Sight.UNSEEN

    def lease_s(self, message: Message) -> int:
        """How long the lease of who holds the run is, where it is seen; else 0."""
        key = self.key_of(message)
        if key is None:
            return 0
        entries = self._presence.presence.entries_of(key)
        is_hidden = self._presence.gossip.is_hidden
        return max((e.ttl_s for e in entries if not is_hidden(e.dot.origin)), default=0)

    @staticmethod
    def key_of(message: Message) -> Key | None:
        """The presence of the agent that holds the run; None where nobody does."""
        holder, header = holder_of(message), message.header
        if holder is None or header is None or header.run is None:
            return None
        return Key(message.session, header.run.agent, f"{LEASE}{message.id}/{holder.epoch}")

    def texts(self, session: str) -> list[str]:
        """The open runs of a session, the oldest first, as they were told."""
        return [self._open[session, id_].text for id_ in self._by_session.get(session, ())]

    # What changes

    def recovered(self, sessions: Iterable[str]) -> None:
        """Find the open runs of these sessions, at a start."""
        for id_ in sessions:
            session = self._state.find(id_)
            for run in session.messages.open_runs.ids() if session is not None else ():
                assert session is not None
                self.check(session, run)

    def check(self, session: Session, id_: str) -> None:
        """Something of a message has changed, or of who is seen."""
        run = (session.id, id_)
        message = None if session.deleted else session.visible(id_)
        if message is None or message.header is None or message.header.run is None:
            if run in self._open:
                self._end(run, None)
            return
        known = self._open.get(run)
        if not message.is_open_run:
            if known is not None:
                self._end(run, self._text(message))
            return
        if known is not None and known.agent != message.header.run.agent:
            # Two had asked for this id apart, and the other one's header wins.
            self._end(run, None)
            known = None
        now_ms = self._clock.monotonic_ms()
        is_seen = bool(self.lease_s(message))
        signs = _signs(message)
        is_fresh = known is None or is_seen or known.is_seen or known.signs != signs
        seen_ms = now_ms if is_fresh or known is None else known.seen_ms
        before = "" if known is None else known.text
        agent, created = message.header.run.agent, message.header.created
        desk = _desk(run, agent)
        key = self.key_of(message)
        self._open[run] = entry = Open(agent, created, before, is_seen, seen_ms, key, signs)
        if not is_seen and now_ms - seen_ms < UNSEEN_MS:
            self._later[run] = seen_ms + UNSEEN_MS
        text = self._text(message)
        self._by_session.setdefault(session.id, {})[id_] = None
        self._by_agent.setdefault(desk, {})[run] = None
        self._attach(run, desk, signs.holder, known)
        if text != before:
            self._open[run] = entry._replace(text=text)
            self._tell(run, desk, text)
        if known is not None and known.key is not None and known.key != key:
            # Who held it before is not here for it any more.
            self._presence.attendance.release(*known.key)

    def _attach(self, run: Run, agent: str, holder: LaneKey | None, known: Open | None) -> None:
        """Note whose run it is, where that has changed."""
        before = None if known is None else known.signs.holder
        if before != holder:
            if before is not None:
                _drop(self._by_worker, (agent, before.producer), run)
            if holder is not None:
                self._by_worker.setdefault((agent, holder.producer), {})[run] = None

    def session_deleted(self, session: Session) -> None:
        """All its runs are over."""
        for id_ in list(self._by_session.get(session.id, ())):
            self.check(session, id_)

    def _text(self, message: Message) -> str:
        return json.dumps(self.value(message), ensure_ascii=False, separators=(",", ":"))

    def _end(self, run: Run, text: str | None) -> None:
        """A run is over; None: it was deleted, and readers are told so otherwise."""
        known = self._open.pop(run)
        desk = _desk(run, known.agent)
        self._later.pop(run, None)
        _drop(self._by_session, run[0], run[1])
        _drop(self._by_agent, desk, run)
        self._attach(run, desk, None, known)
        self._leases_s.pop(run, None)
        self._presence.attendance.release(run[0], known.agent, f"{LEASE}{run[1]}/")
        if text is None:
            for reader in self._readers.get(desk, ()):
                reader.begin_anew()
        else:
            self._tell(run, desk, text)

    def _tell(self, run: Run, agent: str, text: str) -> None:
        feed = self._fanout.get(run[0])
        if feed is not None:
            feed.announce(Draft("run", f'{{"run":{text}}}'))
        for reader in self._readers.get(agent, ()):
            reader.tell(("run", f'{{"run":{text}}}'))

    def members_touched(self, session: str, members: Iterable[str]) -> None:
        """Who is present has changed: a lease may be seen that was not, or the other way round."""
        runs = self._by_session.get(session)
        if runs is None:
            return
        names = set(members)
        # Before the first claim there is no lease.
        held = [
            id_ for id_ in runs if (key := self._open[session, id_].key) and key.member in names
        ]
        found = self._state.find(session) if held else None
        for id_ in held:
            if found is not None and (session, id_) in self._open:
                self.check(found, id_)

    def tick(self) -> None:
        """A second has passed: agents whose leases are not seen for a while are shown so, and those
        who are on their feed stay at work."""
        now_ms = self._clock.monotonic_ms()
        for run in [run for run, due_ms in self._later.items() if due_ms <= now_ms]:
            del self._later[run]
            session = self._state.find(run[0])
            if session is not None and run in self._open:
                self.check(session, run[1])
        for worker in self._workers:
            for run in self._by_worker.get(worker, ()):
                key = self._open[run].key
                if key is not None:
                    self._presence.attendance.renew(key)

    # Leases

    def renew(self, message: Message, lease_s: int | None = None) -> None:
        """The agent that holds the run gives a sign of life in this region; ``lease_s`` None: as
        long as before."""
        key = self.key_of(message)
        if key is None or not message.is_open_run:
            return
        earlier = self._presence.presence.entries_of(key)
        if lease_s is None:
            known = self._leases_s.get((message.session, message.id), LEASE_S_DEFAULT)
            lease_s = max((e.ttl_s for e in earlier), default=known)
        self._leases_s[message.session, message.id] = lease_s
        data = f'{{"attempt":{attempt_of(holder_of(message))},"run":"{message.id}"}}'
        try:
            self._presence.attendance.hold(key, data, lease_s)
        except Refusal:
            # Too many are here: it goes on without a lease, as one that this region cannot see.
            return

    def is_open(self, session: str, id_: str) -> bool:
        """Whether a message is a run that is not over."""
        return (session, id_) in self._open

    # Feeds

    def check_room(self, agent: str) -> None:
        """Raises ``Refusal`` ``too_many`` for one run more than an agent may have."""
        if len(self._by_agent.get(agent, ())) >= RUNS_OPEN_MAX:
            raise Refusal("too_many", f"too many runs wait for {name_of(agent)}", retry_after_s=5)

    def everything(self, agent: str) -> str:
        """All open runs of an agent, as JSON."""
        return f'{{"all":{self._list(agent)}}}'

    def _list(self, agent: str) -> str:
        runs = self._by_agent.get(agent, ())
        ordered = sorted(runs, key=lambda run: (self._open[run].created, run))
        return f"[{','.join(self._open[run].text for run in ordered)}]"

    def listed(self, agent: str) -> tuple[str, str]:
        """All open runs of an agent, as a JSON list, and the cursor that names them."""
        text = self._list(agent)
        return text, digest(_TAG_BYTES, text).hex()

    def follow(self, agent: str, worker: str | None) -> WorkReader:
        """Follow an agent's feed; ``worker``: a producer that is at work as long as this lasts.

        Raises ``Refusal``: ``draining``, ``too_many``.
        """
        if self.draining:
            raise Refusal("draining", "this region is shutting down", retry_after_s=1)
        if sum(map(len, self._readers.values())) >= READERS_MAX:
            raise Refusal("too_many", "this region has too many readers", retry_after_s=1)
        reader = WorkReader(self, agent, worker)
        self._readers.setdefault(agent, set()).add(reader)
        if worker is not None:
            self._workers[agent, worker] += 1
        return reader

    def left(self, reader: WorkReader) -> None:
        """A reader has gone."""
        readers = self._readers.get(reader.agent, set())
        if reader in readers:
            readers.discard(reader)
            if reader.worker is not None:
                self._workers[reader.agent, reader.worker] -= 1
                self._workers += Counter()
            if not readers:
                del self._readers[reader.agent]

    def _each_reader(self, act: Callable[[WorkReader], None]) -> None:
        for readers in list(self._readers.values()):
            for reader in list(readers):
                act(reader)

    def keep_alive(self) -> None:
        """Wake every reader."""
        self._each_reader(WorkReader.wake)

    def drain(self) -> None:
        """End every feed; workers go on elsewhere."""
        self.draining = True

        def end(reader: WorkReader) -> None:
            reader.is_over = True
            reader.wake()

        self._each_reader(end)


def _desk(run: Run, agent: str) -> str:
    """What an agent of the session's tenant is called here."""
    return session_key(tenant_of(run[0]), agent)


def _signs(message: Message) -> Signs:
    holder = holder_of(message)
    if holder is None:
        return Signs(None, 0, 0)
    said = message.turn.said(holder)
    return Signs(holder, message.lane(holder).count, 0 if said is None else said.n)


def _drop(index: dict[N, dict[K, None]], name: N, key: K) -> None:
    del index[name][key]
    if not index[name]:
        del index[name]
