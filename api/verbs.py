"""What a client can do over a socket (``docs/PROTOCOL.md`` A.7): one function a verb, one table.

To add a verb: a coroutine that takes a :class:`Call` and gives an :class:`Answer`, and a line in
``VERBS`` with the fields that it takes beside ``do``, ``number`` and ``session``.
"""

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, Protocol

from perdure.api.auditing import note
from perdure.api.door import Door
from perdure.api.drafts import DRAFT_FIELDS, draft_of, only_header
from perdure.api.fields import Fields, ack_wait_ms, check_ttl_s
from perdure.api.hot import check_count, check_end
from perdure.api.needs import NAMES, WITHOUT_SESSION, audited_frame, of_frame
from perdure.api.owners import check_own
from perdure.api.runs import (
    CLAIM_FIELDS,
    LEASE_FIELDS,
    RUN_FIELDS,
    SIGNAL_FIELDS,
    STATE_FIELDS,
    claim_run,
    run_draft,
    say_state,
    send_signal,
)
from perdure.api.standing import Standing
from perdure.regions.answers import Ack, Opened
from perdure.regions.node import Node
from perdure.regions.tracing import CURRENT
from perdure.replication.errors import Refusal
from perdure.replication.ids import check_id, is_id, parse_epoch
from perdure.replication.limits import ACK_WAIT_MS_MAX, SEQ_MAX
from perdure.replication.tenants import session_key
from perdure.replication.traces import sampled

# Session, message, producer, epoch: whose acknowledgements a socket is told.
Lane = tuple[str, str, str, str]


class Answer(NamedTuple):
    """The answer to a frame; ``then`` is awaited when it has been sent."""

    status: int
    body: Any = None
    then: Callable[[], Awaitable[None]] | None = None


class Watching(Protocol):
    """The lanes whose acknowledgements a socket is told."""

    def check(self, lane: Lane) -> None:
        """Raises ``Refusal`` ``too_many``."""

    async def watch(self, lane: Lane, ack: Ack) -> None:
        """Tell the client, from this acknowledgement on, when more is stable."""


class Following(Protocol):
    """What verbs ask of the socket that they came over."""

    def follow(
        self, session: str, cursor: str | None, member: str | None, data: Any
    ) -> Callable[[], Awaitable[None]]:
        """Subscribe; what is given back begins to send the events."""

    async def unfollow(self, session: str) -> None:
        """Send no more events of a session."""

    def work(self, agent: str, worker: str | None) -> Callable[[], Awaitable[None]]:
        """Follow an agent's feed; what is given back begins to send it."""

    async def rest(self, agent: str) -> None:
        """Send no more of an agent's feed."""

    def owe(self, session: str, items: int) -> None:
        """A frame writes to a session (its name inside), so many items."""

    @property
    def acknowledging(self) -> Watching:
        """Whose acknowledgements it is told."""


class Whose(NamedTuple):
    """Whose socket it is, and who knows other grants."""

    standing: Standing
    door: Door


class Call(NamedTuple):
    """One frame, and what it is to be carried out with; ``session`` as the regions call it."""

    node: Node
    socket: Following
    whose: Whose
    session: str
    frame: dict[str, Any]
    fields: Fields

    def message(self) -> str:
        """The message that the frame is about."""
        return check_id(self.fields.needed("message"), "message")

    def run(self) -> str:
        """The run that the frame is about."""
        return check_id(self.fields.needed("run"), "run")


class Verb(NamedTuple):
    """A verb: its fields, and what it does."""

    fields: frozenset[str]
    run: Callable[[Call], Awaitable[Answer]]


async def _subscribe(call: Call) -> Answer:
    fields = call.fields
    member, data = fields.text("presence"), call.frame.get("presence_data")
    if data is not None and member is None:
        raise Refusal(
            "invalid_body", "presence_data needs presence, a member", field="presence_data"
        )
    start = call.socket.follow(call.session, fields.text("cursor") or None, member, data)
    return Answer(200, {}, start)


async def _unsubscribe(call: Call) -> Answer:
    await call.socket.unfollow(call.session)
    return Answer(200, {})


async def _create(call: Call) -> Answer:
    created, value = await call.node.create(call.session, call.fields.object("metadata"))
    return Answer(201 if created else 200, value)


async def _send(call: Call) -> Answer:
    fields = call.fields
    call.fields.needed("text")
    draft = draft_of(fields, fields.text("idempotency_key"))
    sent = await call.node.send(call.session, draft, _ack_wait_ms(call))
    return Answer(201 if sent.created else 200, {**sent.message, "stable": sent.stable})


def _ack_wait_ms(call: Call) -> int | None:
    values = {"ack": call.fields.text("ack") or "accepted"}
    wait_ms = call.frame.get("wait_ms", ACK_WAIT_MS_MAX)
    # As the text that it is in a query: a number that is not whole is refused there.
    return ack_wait_ms({**values, "wait_ms": str(wait_ms)})


async def _open(call: Call) -> Answer:
    fields = call.fields
    if fields.has("header"):
        if fields.has("idempotency_key"):
            raise Refusal("invalid_body", "header stands alone", field="idempotency_key")
        return _opened(await call.node.reopen(call.session, only_header(fields)))
    draft = draft_of(fields, fields.text("idempotency_key"))
    return _opened(await call.node.open(call.session, draft))


def _opened(opened: Opened) -> Answer:
    value = opened._asdict()
    return Answer(201 if value.pop("created") else 200, value)


async def _claim(call: Call) -> Answer:
    names = (call.fields.needed(name) for name in ("producer", "claim_id", "mode"))
    return Answer(200, await call.node.claim(call.session, call.message(), *names))


async def _append(call: Call) -> Answer:
    message, producer, epoch, seq = _position(call)
    end = check_end(call.frame.get("end"))
    tokens = call.frame.get("tokens", [] if end else None)
    if not isinstance(tokens, list):
        raise Refusal("invalid_body", "tokens must be a list", field="tokens")
    check_count(tokens)
    lane = (call.session, message, producer, epoch)
    call.socket.acknowledging.check(lane)
    ack = await call.node.append(*lane, seq, tokens, end)

    async def watch() -> None:
        await call.socket.acknowledging.watch(lane, ack)

    return Answer(200, ack_value(ack), watch)


def _position(call: Call) -> tuple[str, str, str, int]:
    """Where items are to be appended; ``Refusal`` ``invalid_producer`` names what is wrong."""
    message = call.message()
    producer, epoch, seq = (call.frame.get(name) for name in ("producer", "epoch", "seq"))
    if not isinstance(producer, str) or not is_id(producer):
        raise Refusal("invalid_producer", "producer must be the producer's id", field="producer")
    try:
        parse_epoch(epoch if isinstance(epoch, str) else "")
    except ValueError as error:
        raise Refusal(
            "invalid_producer", "epoch must be the epoch as it was given", field="epoch"
        ) from error
    if type(seq) is not int or not 0 <= seq <= SEQ_MAX:
        raise Refusal(
            "invalid_producer", "seq must be a whole number from 0 to 2^53-1", field="seq"
        )
    return message, producer, str(epoch), seq


def ack_value(ack: Ack) -> dict[str, Any]:
    """An acknowledgement as clients see it."""
    return {
        "next": ack.next,
        "accepted": ack.accepted,
        "stable": ack.stable,
        "duplicates": ack.duplicates,
        "ended": ack.ended,
    }


async def _cancel(call: Call) -> Answer:
    return Answer(200, {"status": await call.node.cancel(call.session, call.message())})


async def _metadata(call: Call) -> Answer:
    if not call.fields.has("patch"):
        return Answer(200, {"metadata": call.node.metadata(call.session)})
    patch = call.fields.object("patch")
    return Answer(200, {"metadata": await call.node.patch_metadata(call.session, patch)})


async def _delete(call: Call) -> Answer:
    if call.fields.has("document"):
        if call.fields.has("message"):
            raise Refusal("invalid_body", "a message or a document, not both", field="document")
        document = check_id(call.frame["document"], "document")
        await call.node.discard_document(call.session, document)
        return Answer(204)
    message = call.message() if call.fields.has("message") else None
    if message is not None:
        check_own(call.node, call.whose.standing.authority, call.session, message)
    await call.node.delete(call.session, message)
    return Answer(204)


async def _join(call: Call) -> Answer:
    member, ttl_s = call.fields.needed("member"), check_ttl_s(call.frame.get("ttl_s"))
    return Answer(200, call.node.put_member(call.session, member, call.frame.get("data"), ttl_s))


async def _leave(call: Call) -> Answer:
    call.node.remove_member(call.session, call.fields.needed("member"))
    return Answer(204)


async def _run(call: Call) -> Answer:
    draft = run_draft(call.fields, call.fields.text("idempotency_key"))
    created, value = await call.node.request_run(call.session, draft)
    return Answer(201 if created else 200, value)


async def _claim_run(call: Call) -> Answer:
    return Answer(200, await claim_run(call.node, call.session, call.run(), call.fields))


async def _lease(call: Call) -> Answer:
    names = call.fields.needed("producer"), call.fields.needed("epoch")
    return Answer(200, call.node.renew_run(call.session, call.run(), *names))


async def _state(call: Call) -> Answer:
    return Answer(200, await say_state(call.node, call.session, call.run(), call.fields))


async def _cancel_run(call: Call) -> Answer:
    return Answer(200, await call.node.cancel_run(call.session, call.run()))


async def _signal(call: Call) -> Answer:
    send_signal(call.node, call.session, call.fields)
    return Answer(202, {})


async def _work(call: Call) -> Answer:
    agent, worker = check_id(call.fields.needed("agent"), "agent"), call.fields.text("worker")
    authority = call.whose.standing.authority
    authority.check_everywhere("run")
    authority.check_name(agent, "agent")
    return Answer(200, {}, call.socket.work(session_key(authority.tenant, agent), worker))


async def _rest(call: Call) -> Answer:
    agent = call.fields.needed("agent")
    await call.socket.rest(session_key(call.whose.standing.authority.tenant, agent))
    return Answer(200, {})


async def _renew(call: Call) -> Answer:
    standing, guard = call.whose
    return Answer(200, await guard.renew(standing.authority, call.fields.needed("grant")))


_TRACED = frozenset({"traceparent"})
_KEYED = DRAFT_FIELDS | {"idempotency_key"} | _TRACED
VERBS: dict[str, Verb] = {
    "subscribe": Verb(frozenset({"cursor", "presence", "presence_data"}), _subscribe),
    "unsubscribe": Verb(frozenset(), _unsubscribe),
    "create": Verb(frozenset({"metadata"}), _create),
    "send": Verb((_KEYED | {"ack", "wait_ms"}) - {"header"}, _send),
    "open": Verb(_KEYED - {"text"}, _open),
    "claim": Verb(frozenset({"message", "producer", "claim_id", "mode"}), _claim),
    "append": Verb(
        frozenset({"message", "producer", "epoch", "seq", "tokens", "end"}) | _TRACED, _append
    ),
    "cancel": Verb(frozenset({"message"}), _cancel),
    "metadata": Verb(frozenset({"patch"}), _metadata),
    "run": Verb(RUN_FIELDS | {"idempotency_key"} | _TRACED, _run),
    "claim_run": Verb(CLAIM_FIELDS | {"run"}, _claim_run),
    "lease": Verb(LEASE_FIELDS | {"run"}, _lease),
    "state": Verb(STATE_FIELDS | {"run"}, _state),
    "cancel_run": Verb(frozenset({"run"}), _cancel_run),
    "signal": Verb(SIGNAL_FIELDS, _signal),
    "work": Verb(frozenset({"agent", "worker"}), _work),
    "rest": Verb(frozenset({"agent"}), _rest),
    "join": Verb(frozenset({"member", "data", "ttl_s"}), _join),
    "leave": Verb(frozenset({"member"}), _leave),
    "delete": Verb(frozenset({"message", "document"}), _delete),
    "renew": Verb(frozenset({"grant"}), _renew),
}
_OF_EVERY_FRAME = frozenset({"do", "number", "session"})


async def carry_out(
    node: Node, socket: Following, whose: Whose, session: str, frame: dict[str, Any]
) -> Answer:
    """Do what a frame says; ``session``, as its client calls it, is meant where it names none.

    Raises ``Refusal`` and ``StorageError`` as the node does.
    """
    name = frame.get("do")
    verb = VERBS.get(name) if isinstance(name, str) else None
    if verb is None:
        raise Refusal("invalid_body", f"do must be one of {', '.join(VERBS)}", field="do")
    fields = Fields(frame, verb.fields | _OF_EVERY_FRAME)
    if fields.has("session"):
        session = check_id(frame["session"], "session")
    key = session
    if name not in WITHOUT_SESSION:
        key = whose.standing.check(session, of_frame(frame))
        whose.standing.authority.check_names(frame, *NAMES)
        if fields.has("presence"):
            whose.standing.check_member(key, fields.needed("presence"))
    elif fields.has("worker"):
        whose.standing.authority.check_names(frame, "worker")
    if name not in WITHOUT_SESSION and of_frame(frame) != "read":
        tokens = frame.get("tokens")
        socket.owe(key, len(tokens) if isinstance(tokens, list) else 0)
    if fields.has("traceparent"):
        # Each frame is carried out in a task of its own.
        CURRENT.set(sampled(fields.needed("traceparent")))
    answer = await verb.run(Call(node, socket, whose, key, frame, fields))
    action, guard = audited_frame(frame), whose.door.guard
    if action is not None and guard is not None:
        target = next((frame[n] for n in ("message", "run", "document") if fields.has(n)), None)
        about = [key] if target is None else [key, target]
        about = [] if name in WITHOUT_SESSION else about
        await note(guard.audit, action, whose.standing.authority, about)
    return answer
