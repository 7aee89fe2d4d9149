"""Runs: what is shown of one, and what a region accepts for one (``docs/PROTOCOL.md`` A.4, B.5).

Rule of this file: who holds a run is who holds its message, so nothing here decides between two
agents. Whether an agent's lease is seen is told by who can see: it changes what is shown, and what
a region accepts from others, and nothing that is replicated.
"""

import json
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from perdure.replication.admission import (
    Admission,
    Site,
    admit_claim,
    check_live,
    check_metadata,
    named,
)
from perdure.replication.coding import STATES
from perdure.replication.errors import Refusal
from perdure.replication.hlc import check_after, to_time
from perdure.replication.ids import (
    Epoch,
    LaneKey,
    canonical,
    check_id,
    check_role,
    hash64,
)
from perdure.replication.limits import RUN_DETAIL_BYTES_MAX, RUN_INPUTS_MAX
from perdure.replication.message import Message
from perdure.replication.operations import (
    Header,
    Input,
    Lapse,
    Open,
    Operation,
    Request,
    Step,
    stamped,
)
from perdure.replication.session import Session
from perdure.replication.tenants import name_of

# Whose the first lane of every run is; it stays empty.
RUN_PRODUCER = "~run"


@dataclass(frozen=True)
class RunDraft:
    """A run as a client asks for it."""

    agent: str
    id: str | None = None
    by: str | None = None
    input: str | None = None
    role: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    after: str | None = None
    # The message that this answer stands for.
    replaces: str | None = None
    idempotency_key: str | None = None


# What is shown


def holder_of(message: Message) -> LaneKey | None:
    """The lane of the agent that holds the run; None before the first claim."""
    tip = message.tip
    return None if message.header is None or tip == message.header.lane else tip


class Sight(Enum):
    """What a region sees of a lease: the lease; nothing, for a moment only; nothing."""

    SEEN = 2
    MISSED = 1
    UNSEEN = 0


def status_of(message: Message, sight: Sight) -> str:
    """The status of a run, where so much is seen of its agent's lease."""
    shown, holder = message.shown, holder_of(message)
    assert shown is not None
    if shown.status != "streaming":
        return shown.status
    if holder is None:
        return "requested"
    said = message.turn.said(holder)
    if said is not None and said.state == "suspended":
        return "suspended"
    if sight is not Sight.MISSED:
        return "running" if sight is Sight.SEEN else "interrupted"
    lapsed = message.turn.has_lapsed(holder, message.lane(holder).count)
    return "interrupted" if lapsed else "running"


def run_value(message: Message, sight: Sight) -> dict[str, Any]:
    """The run as PROTOCOL A.3 shows it."""
    header, holder = message.header, holder_of(message)
    assert header is not None and header.run is not None
    said = None if holder is None else message.turn.said(holder)
    return {
        "id": message.id,
        "session": name_of(message.session),
        "status": status_of(message, sight),
        "agent": header.run.agent,
        "by": header.run.by,
        "input": header.run.input,
        "message": message.id,
        "attempt": attempt_of(holder),
        "producer": None if holder is None else holder.producer,
        "epoch": None if holder is None else str(holder.epoch),
        "created": to_time(header.created),
        "detail": None if said is None else json.loads(said.detail),
        "inputs": message.turn.ordered_inputs(),
    }


def attempt_of(holder: LaneKey | None) -> int:
    """Which claim it is; the first lane is nobody's."""
    return 0 if holder is None else holder.epoch.counter - 1


def run_of(session: Session, id_: str) -> Message:
    """The message of a run. Raises ``Refusal``: ``not_found``, ``deleted``."""
    check_live(session, id_)
    message = session.visible(id_)
    if message is None or message.header is None or message.header.run is None:
        raise Refusal("not_found", f"this region knows no run {id_}")
    return message


# What is accepted


def admit_run(session: Session, draft: RunDraft, site: Site) -> Admission:
    """Ask for a turn: the open of a message that says so."""
    id_ = named(session, draft.id, draft.idempotency_key, "run")
    check_live(session, id_)
    metadata = check_metadata(draft.metadata)
    after = 0 if draft.after is None else check_after(draft.after, site.now_ms)
    agent = check_id(draft.agent, "agent")
    request = Request(
        agent,
        None if draft.by is None else check_id(draft.by, "by"),
        None if draft.input is None else check_id(draft.input, "input"),
    )
    role = check_role("assistant" if draft.role is None else draft.role)
    replaces = None if draft.replaces is None else check_id(draft.replaces, "replaces")
    # Runs that replace nothing have the epochs that they had before there was this field.
    body = canonical([role, metadata, *request, *([] if replaces is None else [replaces])])
    lane = LaneKey(RUN_PRODUCER, Epoch(1, hash64("run", session.id, id_, body)))
    header = Header(role, agent, 0, lane, metadata, replaces, (), request)
    known = session.messages.get(id_)
    if known is not None and known.header is not None:
        if known.header.identity != header.identity:
            raise Refusal("conflict", f"{id_} exists with another body")
        return Admission([], id_, lane)
    header = stamped(header, site.clock.tick(site.now_ms, after))
    return Admission([Open(session.id, id_, header)], id_, lane)


def admit_run_claim(
    session: Session, id_: str, producer: str, claim_id: str, mode: str, held_for_s: int
) -> Admission:
    """An agent takes a run. ``held_for_s``: how long the lease of who has it may still last, 0 when
    it is not seen. A producer that claims anew has forgotten what it held: it keeps itself from
    nothing. Raises ``Refusal`` ``held``, and as a claim of a message does."""
    message = run_of(session, id_)
    admitted = admit_claim(session, id_, producer, claim_id, mode)
    holder = holder_of(message)
    is_others = holder is not None and holder.producer != producer
    if admitted.operations and is_others and held_for_s:
        raise Refusal("held", f"an agent is at work on run {id_}", retry_after_s=held_for_s)
    return admitted


def check_holder(message: Message, lane: LaneKey) -> None:
    """``Refusal``: ``ended``, ``cancelled``, ``unknown_epoch``, ``fenced``, when this lane's agent
    does not hold the run."""
    assert message.shown is not None
    if message.has_end:
        raise Refusal("ended", f"the run is over ({message.shown.status})")
    if not message.knows_lane(lane) or lane.producer == RUN_PRODUCER:
        raise Refusal("unknown_epoch", "this region does not know the epoch")
    if message.is_fenced(lane):
        raise Refusal("fenced", "a later claim took this run over")
    if message.is_cancelled(lane):
        raise Refusal("cancelled", "the run was cancelled")


def admit_step(
    session: Session, id_: str, lane: LaneKey, n: int, state: str, detail: Any
) -> list[Operation]:
    """An agent's word on the state of its run."""
    if state not in STATES:
        raise Refusal("invalid_body", f"state must be {' or '.join(STATES)}", field="state")
    text = canonical(detail)
    if len(text.encode()) > RUN_DETAIL_BYTES_MAX:
        raise Refusal(
            "too_large", "detail is too large", field="detail", limit_bytes=RUN_DETAIL_BYTES_MAX
        )
    message = run_of(session, id_)
    check_holder(message, lane)
    said = message.turn.said(lane)
    last = 0 if said is None else said.n
    if said is not None and n == last and (state, text) != said[1:]:
        raise Refusal("conflict", f"word {n} of this agent is another one")
    if n <= last:
        return []
    if n > last + 1:
        raise Refusal("gap", f"word {last + 1} comes next", expected=last + 1)
    return [Step(session.id, id_, lane, n, state, text)]


def admit_lapse(session: Session, id_: str, epoch: str) -> list[Operation]:
    """The lease of an epoch, which this region held, is over."""
    message = session.visible(id_)
    holder = None if message is None else holder_of(message)
    if message is None or holder is None or str(holder.epoch) != epoch:
        return []
    if status_of(message, Sight.MISSED) != "running":
        return []
    said = message.turn.said(holder)
    n = 0 if said is None else said.n
    return [Lapse(session.id, id_, holder, message.lane(holder).count, n)]


def admit_input(session: Session, id_: str, message: str, hlc: int) -> list[Operation]:
    """A message is addressed to a run that is not over."""
    run = run_of(session, id_)
    if message in run.turn.inputs:
        return []
    assert run.shown is not None
    if run.shown.status != "streaming":
        raise Refusal("ended", f"the run is over ({run.shown.status})")
    if len(run.turn.inputs) >= RUN_INPUTS_MAX:
        raise Refusal("too_large", "the run has too many inputs", limit_items=RUN_INPUTS_MAX)
    return [Input(session.id, id_, hlc, message)]
