"""What a region takes from its clients: each write is an intent for the :class:`Writer`."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from perdure.regions.answers import Ack, Opened, Sent
from perdure.regions.headers import Headers
from perdure.regions.ports import Clock
from perdure.regions.reading import Reading
from perdure.regions.state import State
from perdure.regions.tracing import CURRENT, Tracing
from perdure.regions.writer import Writer
from perdure.replication import admission
from perdure.replication.admission import Draft, Pending, Site
from perdure.replication.errors import Refusal
from perdure.replication.gossip import Gossip
from perdure.replication.ids import LaneKey, check_id
from perdure.replication.items import End, Entry, make_items
from perdure.replication.message import Message
from perdure.replication.operations import Claim, Open, Operation
from perdure.replication.session import Session
from perdure.replication.tenants import check_session, is_own


class Writing(Reading):
    """The writing side of a :class:`~perdure.regions.node.Node`, which brings the writer."""

    _writer: Writer

    def __init__(
        self, region: str, state: State, gossip: Gossip, clock: Clock, headers: Headers
    ) -> None:
        super().__init__(state, gossip, clock)
        self.region = region
        self.counters = dict.fromkeys(("appends", "duplicates", "readers_cut"), 0)
        self._headers = headers
        self.tracing = Tracing()
        self._progress: asyncio.Future[None] | None = None

    def _refuses(self) -> str | None:
        """Why no client is served; None where they are."""
        raise NotImplementedError

    def _progressed(self) -> None:
        """Let those look who wait for something to be stable."""
        progress, self._progress = self._progress, None
        if progress is not None and not progress.done():
            progress.set_result(None)

    def _site(self) -> Site:
        return Site(self.region, self.state.clock, self._clock.wall_ms())

    def _check_open(self, session: str = "") -> None:
        reason = self._refuses()
        # What the regions keep themselves (who drains a region, and who takes that back, is noted)
        # is taken until the end.
        if reason is not None and not (reason == "draining" and is_own(session)):
            raise Refusal(reason, "this region takes no writes now", retry_after_s=1)

    async def create(self, session: str, metadata: dict[str, Any]) -> tuple[bool, dict[str, Any]]:
        """Create a session; True when it is new."""
        self._check_open()
        check_session(session)

        def admit(state: Session, _: Pending) -> list[Operation]:
            return admission.admit_create(state, metadata, self._site())

        created = await self._writer.write(session, admit)
        return created, self.snapshot(session)

    async def send(self, session: str, draft: Draft, ack_wait_ms: int | None = None) -> Sent:
        """A complete message; with ``ack_wait_ms`` waits for stable at most so long."""
        with self.tracing.request("perdure.send", session, draft.id) as trace:
            created, id_, _ = await self._admit_message(session, draft, trace)
        message = self._message(session, id_)
        if ack_wait_ms is not None:
            await self._wait(lambda: self._is_stable(message) is not False, ack_wait_ms)
        return Sent(created, self.message(session, id_), self._is_stable(message))

    async def open(self, session: str, draft: Draft) -> Opened:
        """Open a streaming message, or find it opened by the same claim."""
        with self.tracing.request("perdure.open", session, draft.id) as trace:
            created, id_, lane = await self._admit_message(session, draft, trace)
        return self._opened(created, session, id_, lane)

    async def _admit_message(
        self, session: str, draft: Draft, trace: str | None
    ) -> tuple[bool, str, LaneKey]:
        self._check_open(session)
        check_session(session)
        admitted: list[admission.Admission] = []

        def admit(state: Session, _: Pending) -> list[Operation]:
            admitted.append(admission.admit_message(state, draft, self._site()))
            opened = traced(admitted[-1].operations, trace)
            return [*opened, *self._addressed(state, draft, admitted[-1])]

        created = await self._writer.write(session, admit)
        return created, admitted[-1].message, admitted[-1].lane

    def _addressed(
        self, state: Session, draft: Draft, admitted: admission.Admission
    ) -> list[Operation]:
        """What a message that is addressed to a run does to that."""
        raise NotImplementedError

    async def reopen(self, session: str, header: str) -> Opened:
        """Make this region know a message and an epoch that another region opened or claimed."""
        self._check_open()
        operations = self._headers.unseal(session, header)
        opened = [op for op in operations if isinstance(op, Open | Claim)]
        last = opened[-1]
        lane = last.header.lane if isinstance(last, Open) else last.lane

        def admit(state: Session, _: Pending) -> Sequence[Operation]:
            return admission.admit_reopening(state, operations)

        created = await self._writer.write(session, admit, counted=False)
        return self._opened(created, session, last.message, lane)

    def _opened(self, created: bool, session: str, id_: str, lane: LaneKey) -> Opened:
        message = self._message(session, id_)
        if message.lost_header(lane):
            raise Refusal("conflict", f"message {id_} exists with another body")
        header = self._header(message, lane)
        return Opened(
            created, id_, message.serial, str(lane.epoch), header, message.lane(lane).count
        )

    def _header(self, message: Message, lane: LaneKey) -> str:
        return self._headers.seal(message.reopening(lane, self.gossip.stable_vector()))

    async def claim(
        self, session: str, message: str, producer: str, claim_id: str, mode: str
    ) -> dict[str, Any]:
        """Take a message over; the answer of PROTOCOL A.4."""
        self._check_open()
        self._existing(session)
        check_id(message, "message")
        admitted: list[admission.Admission] = []

        def admit(state: Session, _: Pending) -> list[Operation]:
            admitted.append(admission.admit_claim(state, message, producer, claim_id, mode))
            return admitted[-1].operations

        await self._writer.write(session, admit)
        found = self._message(session, message)
        claim = found.claims[admitted[-1].lane]
        shown = found.shown
        assert shown is not None
        return {
            "epoch": str(claim.lane.epoch),
            "header": self._header(found, claim.lane),
            "base": claim.base,
            "next": found.lane(claim.lane).count,
            "length": shown.length,
            "text": found.assembly.text(),
            "parts": found.assembly.parts(),
        }

    async def append(
        self,
        session: str,
        message: str,
        producer: str,
        epoch: str,
        seq: int,
        items: Sequence[Any],
        end: str | None = None,
    ) -> Ack:
        """Items, and perhaps the end, of a lane. On disk when this returns."""
        if CURRENT.get() is None:
            return await self._append(session, message, producer, epoch, seq, items, end)
        with self.tracing.request("perdure.append", session, message):
            return await self._append(session, message, producer, epoch, seq, items, end)

    async def _append(
        self,
        session: str,
        message: str,
        producer: str,
        epoch: str,
        seq: int,
        items: Sequence[Any],
        end: str | None,
    ) -> Ack:
        self._check_open(session)
        lane = self._lane_key(producer, epoch)
        entries: tuple[Entry, ...] = tuple(make_items(list(items)))
        if end is not None:
            entries += (End(end),)
        duplicates = 0

        def admit(state: Session, pending: Pending) -> list[Operation]:
            nonlocal duplicates
            admitted = admission.admit_append(state, message, lane, seq, entries, pending)
            duplicates = admitted.duplicates
            return admitted.operations

        meters = self.meters
        began_s = meters.now()
        try:
            await self._writer.write(session, admit, exclusive=False)
        except Refusal as refusal:
            if refusal.code == "fenced":
                meters.fenced.add()
                self.journal.note(session, "fenced", message, producer, epoch)
            raise
        self._appended(session, message, lane)
        self.counters["appends"] += 1
        if not is_own(session):
            # What the regions note for themselves is nobody's text.
            meters.append_seconds.observe(meters.now() - began_s)
            meters.tokens.add(max(0, len(items) - duplicates))
        if duplicates:
            self.counters["duplicates"] += duplicates
            meters.duplicates.add(duplicates)
            self.journal.note(session, "retry", message, producer, epoch, items=duplicates)
        return self._ack(session, message, lane, duplicates)

    def _appended(self, session: str, message: str, lane: LaneKey) -> None:
        """Something of a lane was accepted here."""
        raise NotImplementedError

    async def until_stable(
        self, session: str, message: str, producer: str, epoch: str, ack: Ack, wait_ms: int
    ) -> Ack:
        """Wait until the lane is stable, at most ``wait_ms``; the true state either way."""
        lane = self._lane_key(producer, epoch)
        latest = ack

        def done() -> bool:
            nonlocal latest
            latest = self._ack(session, message, lane, ack.duplicates)
            return latest.is_stable

        await self._wait(done, wait_ms)
        return latest

    async def progress(self) -> None:
        """Until something may have become stable."""
        if self._progress is None:
            self._progress = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._progress)

    async def _wait(self, done: Callable[[], bool], wait_ms: int) -> None:
        deadline = asyncio.get_running_loop().time() + wait_ms / 1000
        try:
            async with asyncio.timeout_at(deadline):
                while not done():
                    await self.progress()
        except TimeoutError:
            done()

    async def cancel(self, session: str, message: str) -> str:
        """Mark the message's epoch cancelled; the status it has now."""
        self._check_open()
        self._existing(session)
        check_id(message, "message")
        await self._writer.write(session, lambda s, _: admission.admit_cancel(s, message))
        shown = self._message(session, message).shown
        assert shown is not None
        return shown.status

    async def delete(self, session: str, message: str | None = None) -> None:
        """Delete a message or the session, for ever, in every region."""
        self._check_open()
        check_session(session)
        if message is not None:
            check_id(message, "message")
        await self._writer.write(session, lambda s, _: admission.admit_delete(s, message))

    async def patch_metadata(self, session: str, patch: dict[str, Any]) -> dict[str, Any]:
        """Set top-level keys of the metadata; the metadata as it is then."""
        self._check_open()
        check_session(session)

        def admit(state: Session, _: Pending) -> list[Operation]:
            return admission.admit_metadata(state, patch, self._site())

        await self._writer.write(session, admit)
        return self.metadata(session)


def traced(operations: Sequence[Operation], trace: str | None) -> list[Operation]:
    """The same; what opens a message carries its trace."""
    if trace is None:
        return list(operations)
    return [replace(op, trace=trace) if isinstance(op, Open) else op for op in operations]
