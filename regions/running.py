"""Runs: what clients ask of agents, and what agents do (``docs/PROTOCOL.md`` A.4)."""

import asyncio
import contextlib
import itertools
from typing import Any

from perdure.regions.meeting import Meeting
from perdure.regions.runs import RunDesk
from perdure.regions.work_readers import WorkReader
from perdure.regions.writer import Admit
from perdure.regions.writing import traced
from perdure.replication import runs
from perdure.replication.admission import Admission, Draft, Pending
from perdure.replication.errors import Refusal
from perdure.replication.hlc import check_serial
from perdure.replication.ids import LaneKey, check_id
from perdure.replication.limits import LEASE_S_DEFAULT, LEASE_S_MAX
from perdure.replication.operations import Open, Operation
from perdure.replication.presence_view import Key
from perdure.replication.runs import RunDraft
from perdure.replication.session import Session
from perdure.replication.tenants import check_session, session_key, tenant_of

# So many leases that are over are noted together.
LAPSES_MAX = 200


class Running(Meeting):
    """The side of runs of a :class:`~perdure.regions.node.Node`, which brings the desk."""

    turns: RunDesk

    def _open_runs(self, session: str) -> list[str]:
        return self.turns.texts(session)

    def _beside(self, session: str) -> dict[str, Any]:
        state = self._existing(session)
        found = (state.visible(id_) for id_ in state.messages.open_runs.ids())
        values = [self.turns.value(message) for message in found if message is not None]
        return {"presence": list(self.desk.values(session)), "runs": values}

    # What is asked for

    async def request_run(self, session: str, draft: RunDraft) -> tuple[bool, dict[str, Any]]:
        """Ask an agent for a turn; True when it is new."""
        self._check_open()
        check_session(session)
        admitted: list[Admission] = []

        def admit(state: Session, _: Pending) -> list[Operation]:
            admitted.append(runs.admit_run(state, draft, self._site()))
            if admitted[-1].operations:
                self.turns.check_room(session_key(tenant_of(session), draft.agent))
            return traced(admitted[-1].operations, trace)

        with self.tracing.request("perdure.run", session, draft.id) as trace:
            created = await self._writer.write(session, admit)
        return created, self.run(session, admitted[-1].message)

    def run(self, session: str, id_: str) -> dict[str, Any]:
        """One run. Raises ``Refusal``: ``not_found``, ``deleted``."""
        check_id(id_, "run")
        return self.turns.value(runs.run_of(self._existing(session), id_))

    def runs(self, session: str, before: str | None, limit: int) -> dict[str, Any]:
        """The runs among a page of messages, the newest before a serial."""
        state = self._existing(session)
        if before is not None:
            check_serial(before, "before")
        ids, more = state.messages.page(before, limit)
        found = map(state.messages.look, ids)
        values = [
            self.turns.value(message)
            for message in found
            if message is not None and message.header is not None and message.header.run
        ]
        return {"runs": values, "more": more}

    async def cancel_run(self, session: str, id_: str) -> dict[str, Any]:
        """Stop a run; the run as it is then."""
        self._check_open()
        check_id(id_, "run")
        runs.run_of(self._existing(session), id_)
        await self.cancel(session, id_)
        return self.run(session, id_)

    def _addressed(self, state: Session, draft: Draft, admitted: Admission) -> list[Operation]:
        if draft.run is None:
            return []
        run = check_id(draft.run, "run")
        opened = next((op for op in admitted.operations if isinstance(op, Open)), None)
        if opened is None:
            message = state.messages.get(admitted.message)
            assert message is not None and message.header is not None
            hlc = message.header.created
        else:
            hlc = opened.header.created
        return runs.admit_input(state, run, admitted.message, hlc)

    # What agents do

    async def claim_run(
        self, session: str, id_: str, producer: str, claim_id: str, mode: str, lease_s: int | None
    ) -> dict[str, Any]:
        """An agent takes a run; the answer of PROTOCOL A.4."""
        self._check_open()
        check_id(id_, "run")
        lease_s = _checked_lease(lease_s)
        self._existing(session)
        key, winning = (session, id_), self.turns.winning
        has_won = False

        def admit(state: Session, _: Pending) -> list[Operation]:
            nonlocal has_won
            # Who has just won it has no lease yet.
            held_for_s = self.turns.lease_s(runs.run_of(state, id_)) or winning.get(key, 0)
            args = (state, id_, producer, claim_id, mode, held_for_s)
            operations = runs.admit_run_claim(*args).operations
            if operations:
                has_won, winning[key] = True, lease_s
            return operations

        try:
            await self._writer.write(session, admit)
            answer = await self.claim(session, id_, producer, claim_id, mode)
            message = runs.run_of(self._existing(session), id_)
            if message.tip == self._lane_key(producer, answer["epoch"]):
                self.turns.renew(message, lease_s)
        finally:
            if has_won:
                del winning[key]
        found = (
            self._existing(session).visible(input_) for input_ in message.turn.ordered_inputs()
        )
        inputs = [each.value() for each in found if each is not None]
        return {"run": self.run(session, id_), "inputs": inputs, **answer}

    def renew_run(self, session: str, id_: str, producer: str, epoch: str) -> dict[str, Any]:
        """The agent that holds the run is at work; the run."""
        self._check_open()
        check_id(id_, "run")
        check_id(producer, "producer")
        lane = self._lane_key(producer, epoch)
        runs.check_holder(runs.run_of(self._existing(session), id_), lane)
        self._appended(session, id_, lane)
        return self.run(session, id_)

    async def say_state(
        self, session: str, id_: str, producer: str, epoch: str, n: int, state: str, detail: Any
    ) -> dict[str, Any]:
        """An agent's word on the state of its run; the run."""
        self._check_open()
        check_id(id_, "run")
        check_id(producer, "producer")
        self._existing(session)
        lane = self._lane_key(producer, epoch)
        args = (id_, lane, n, state, detail)
        await self._writer.write(session, lambda s, _: runs.admit_step(s, *args))
        self._appended(session, id_, lane)
        return self.run(session, id_)

    def _appended(self, session: str, message: str, lane: LaneKey) -> None:
        if self.turns.is_open(session, message):
            state = self.state.find(session)
            found = None if state is None else state.visible(message)
            # Also under the twin of the tip: of two epochs of one claim its agent knows only one.
            if found is not None and not found.is_fenced(lane):
                self.turns.renew(found)

    async def note_lapses(self) -> None:
        """Leases that this region held are over: for all regions. Raises ``StorageFull``."""
        while keys := list(itertools.islice(self.desk.lapsed, LAPSES_MAX)):
            noted = await asyncio.gather(*map(self._note_lapse, keys), return_exceptions=True)
            for error in noted:
                if error is not None:
                    raise error

    async def _note_lapse(self, key: Key) -> None:
        with contextlib.suppress(Refusal):
            # It may have been deleted meanwhile.
            await self._writer.write(key.session, self._lapse(key))
        self.desk.lapsed.pop(key, None)

    def _lapse(self, key: Key) -> Admit:
        _, id_, epoch = key.connection.split("/")

        def admit(state: Session, _: Pending) -> list[Operation]:
            # Its agent may have come back, here or elsewhere.
            message = runs.run_of(state, id_)
            return [] if self.turns.lease_s(message) else runs.admit_lapse(state, id_, epoch)

        return admit

    # Feeds

    def agent_runs(self, agent: str) -> tuple[str, str]:
        """An agent's open runs as a JSON list, and the cursor that names them; ``agent`` is named
        with its tenant, as sessions are."""
        check_session(agent, "agent")
        self._check_readable()
        return self.turns.listed(agent)

    def follow_agent(self, agent: str, worker: str | None) -> WorkReader:
        """Follow an agent's feed. Raises ``Refusal``."""
        check_session(agent, "agent")
        if worker is not None:
            check_id(worker, "worker")
        self._check_readable()
        return self.turns.follow(agent, worker)


def _checked_lease(lease_s: int | None) -> int:
    if lease_s is None:
        return LEASE_S_DEFAULT
    if not 1 <= lease_s <= LEASE_S_MAX:
        raise Refusal("invalid_body", f"lease_s must be 1 to {LEASE_S_MAX}", field="lease_s")
    return lease_s
