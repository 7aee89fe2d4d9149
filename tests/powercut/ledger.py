"""What clients were told, what they have asked for, and what of that a region must show."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from perdure.regions.node import Node
from perdure.replication.erasure import is_gone, without
from perdure.replication.errors import Refusal
from perdure.replication.records import Origin, Record, Vector
from perdure.replication.subjects import Subject


@dataclass(eq=False)
class Text:
    """One message. ``tokens`` is everything that was ever sent for it, in its order; of those
    ``acked`` are acknowledged, and ``told`` were shown to somebody. Of each step (``opened``,
    ``ended``, ``deleted``): None before it was asked for, False while there is no answer, True when
    it was acknowledged. ``reached``: how much of it was acknowledged at which lsns of another
    region, where that is its home.
    """

    session: str
    id: str
    producer: str
    claim_id: str
    streams: bool
    home: Origin | None = None
    tokens: list[str] = field(default_factory=list)
    epoch: str = ""
    acked: int = 0
    told: int = 0
    opened: bool | None = None
    ended: bool | None = None
    cancelled: bool | None = None
    deleted: bool | None = None
    reached: list[tuple[int, int]] = field(default_factory=list)
    base: int = 0
    claiming: str | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing more is written to it."""
        return True in (self.ended, self.cancelled, self.deleted)

    def required(self, vector: Vector) -> int | None:
        """How many tokens must be shown by a region that has this vector; None where it need not
        know the message."""
        if self.home is not None:
            held = vector.get(self.home, 0)
            counts = [n for lsn, n in self.reached if lsn <= held]
            return max([*counts, self.told]) if counts or self.told else None
        return max(self.acked, self.told) if self.opened else None


class Ledger:
    """Everything that was promised for one region, however often it starts again."""

    def __init__(self) -> None:
        self.texts: list[Text] = []
        # Keys of the metadata of sessions: what was acknowledged last, and was asked for since.
        self.metadata: dict[tuple[str, str], tuple[str | None, list[str]]] = {}
        # Deleted sessions: whether that was acknowledged.
        self.deleted: dict[str, bool] = {}
        # Records that another region was given, and what it was told to be on disk.
        self.given: dict[tuple[Origin, int], bytes] = {}
        self.reported: Vector = {}
        self.incarnations: set[int] = set()
        self.acked: Counter[str] = Counter()

    def gave(self, records: list[Record]) -> None:
        """Another region has these."""
        for record in records:
            self.given[record.origin, record.lsn] = record.body

    # Looking

    def breaches(self, node: Node, *, final: bool = False) -> Iterator[str]:
        """What the region shows and must not, or does not and must. ``final``: every client has
        finished, so what is there is all that was sent."""
        vector = node.gossip.vector
        for text in self.texts:
            yield from self._of_text(node, text, vector, final)
        yield from self._unknown(node)
        for (session, key), (acked, asked) in self.metadata.items():
            # What was said at the other region comes when it comes.
            if key.startswith("us") and not final:
                continue
            found = _metadata(node, session).get(key)
            if found != acked and (final or found not in asked):
                yield f"metadata {key} of {session} is {found}, not {acked}"
        for session, acknowledged in self.deleted.items():
            if acknowledged and _is_shown(node, session, None):
                yield f"session {session} was deleted, and is shown"
        for origin, lsn in self.reported.items():
            if vector.get(origin, 0) < lsn:
                yield f"{origin}/{lsn} was told to be on disk; only {vector.get(origin, 0)} is"

    def _of_text(self, node: Node, text: Text, vector: Vector, final: bool) -> Iterator[str]:
        name = f"{text.session}/{text.id}"
        required = text.required(vector)
        shown = _shown(node, text)
        if shown is None:
            if required is not None and text.deleted is None:
                yield f"{name}: not there, with {required} acknowledged tokens"
            return
        if text.deleted and (final or text.home is None):
            yield f"{name} was deleted, and is shown"
            return
        length = shown["length"]
        if length < (required or 0):
            yield f"{name}: {required} tokens were acknowledged, {length} are there"
        if shown["text"] != "".join(text.tokens[:length]):
            yield f"{name}: its {length} tokens are not those that were sent: {shown['text'][:200]}"
        if text.home is None and text.ended and shown["status"] != "complete":
            yield f"{name}: its end was acknowledged, and it is {shown['status']}"
        if (
            text.home is None
            and text.cancelled
            and shown["status"] not in ("cancelled", "complete")
        ):
            yield f"{name}: was cancelled, and it is {shown['status']}"
        if final and not text.cancelled and length != len(text.tokens):
            yield f"{name}: {len(text.tokens)} tokens were sent, {length} are there"

    def _unknown(self, node: Node) -> Iterator[str]:
        known = {(text.session, text.id) for text in self.texts}
        for summary in node.sessions(None, 1000)["sessions"]:
            ids = [m["id"] for m in node.messages(summary["id"], None, 1000)["messages"]]
            for id_ in ids:
                if (summary["id"], id_) not in known:
                    yield f"{summary['id']}/{id_} was never sent"
            if len(ids) != len(set(ids)):
                yield f"a message of {summary['id']} is there twice"

    async def rewritten(self, node: Node, storage: Any) -> list[str]:
        """Records that another region was given and that are something else here now; but what
        was deleted may have become a word that it was, and where it is said to be gone, must."""
        found = []
        for origin in {origin for origin, _ in self.given}:
            for record in await storage.read(origin, storage.floors().get(origin, 0), 2**40):
                body = self.given.get((record.origin, record.lsn))
                if body is None:
                    continue
                instead = without(body, lambda subject: _is_gone(node, subject))
                is_stub = instead is not None and record.body.startswith(b'["erased",')
                if body != record.body and not is_stub:
                    found.append(f"{origin}/{record.lsn} was given away with another content")
                if not is_stub and without(body, lambda subject: _is_erased(node, subject)):
                    found.append(f"{origin}/{record.lsn} is said to be gone")
        return found


def _is_gone(node: Node, subject: Subject) -> bool:
    session = node.state.find(subject.session)
    return session is not None and is_gone(session, subject)


def _is_erased(node: Node, subject: Subject) -> bool:
    known = node._storage.erasure(subject)
    return known is not None and known.is_done


def _is_shown(node: Node, session: str, message: str | None) -> bool:
    try:
        if message is None:
            node.snapshot(session)
        else:
            node.message(session, message)
    except Refusal:
        return False
    return True


def _shown(node: Node, text: Text) -> dict[str, Any] | None:
    if not _is_shown(node, text.session, text.id):
        return None
    return node.message(text.session, text.id)


def _metadata(node: Node, session: str) -> dict[str, Any]:
    if not _is_shown(node, session, None):
        return {}
    return node.metadata(session)
