"""The messages as a Yjs document: the same in every region, whoever carries it around."""

from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from perdure.replication import admission
from perdure.replication.admission import Draft
from perdure.replication.ids import LaneKey
from perdure.replication.items import make_items
from perdure.replication.lane import root_digest
from perdure.replication.operations import Items
from perdure.replication.projection import ROOT, encode, newest, projected, reading, text_of, value
from perdure.replication.session import Session
from perdure.replication.yjs_parser import parse_update, parse_vector
from pycrdt import Array, Doc

from tests.replication.test_convergence import Cluster, Replica


@dataclass
class Carried:
    """A client's document, which it brings to whichever region it reads at."""

    doc: Doc[Any] = field(default_factory=lambda: Doc(client_id=1))

    def read(self, session: Session) -> None:
        update = encode(projected(session, newest(session)), parse_vector(self.doc.get_state()))
        parse_update(update)
        self.doc.apply_update(update)

    def view(self) -> list[dict[str, Any]]:
        found = []
        for outer in self.doc.get(ROOT, type=Array):
            (shown,) = list(outer["shown"])
            found.append(
                {
                    "id": outer["id"],
                    **{name: shown[name] for name in ("role", "author", "serial")},
                    "status": next(iter(shown["status"]), "streaming"),
                    "text": str(shown["text"]),
                }
            )
        return sorted(found, key=lambda message: message["serial"])


def expected(session: Session) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = value(session)["json"]["messages"]
    return found


@settings(max_examples=200, deadline=None)
@given(st.data(), st.integers(1, 25))
def test_who_carries_it_around_reads_what_is_shown(data: st.DataObject, steps: int) -> None:
    """Through rival headers, claims, cancels, ends and deletes: at each region a new client reads
    what that shows, and in the end so does one that has read at all of them all the time."""
    cluster = Cluster(data)
    carried = [Carried(), Carried()]
    for _ in range(steps):
        cluster.act()
        replica: Replica = data.draw(st.sampled_from(cluster.replicas))
        data.draw(st.sampled_from(carried)).read(replica.session)
        fresh = Carried()
        fresh.read(replica.session)
        assert fresh.view() == expected(replica.session)
    cluster.heal()
    for message in cluster.replicas[0].session.messages.items():
        tip = message[1].tip
        if tip is not None and message[1].shown is not None and message[1].lane(tip).entries:
            assert reading(message[1]).items == message[1].items(0)
            assert reading(message[1]).status == message[1].shown.status
    for client in carried:
        for replica in cluster.replicas:
            client.read(replica.session)
            assert client.view() == expected(replica.session)


def test_only_tokens_of_parts_that_are_text_are_text() -> None:
    """The first token opens one."""
    part, other = {"part": {"type": "text"}}, {"part": {"type": "reasoning"}}
    assert text_of(make_items(["a", other, "b", {"set": {"x": 1}}, "c", part, "d"])) == "ad"


def test_a_claim_that_was_carried_out_twice() -> None:
    """Of its two lanes the one that is not written gives way, and comes back when it is written
    too; meanwhile a rival may win. Who reads all the time ends with what is shown."""
    eu, us = Replica("eu"), Replica("us")
    draft = Draft("assistant", id="m", producer="p0", claim_id="claim-0000")
    opened = admission.admit_message(eu.session, draft, eu.site())
    eu.accept(list(opened.operations))
    append(eu, opened.lane, 0, "xy")
    for body in eu.log:
        us.take(body)
    # Something that only one of them knows makes its epoch greater.
    rival = claim(us, "p2", "claim-rival")
    twins = sorted((claim(eu, "p1", "claim-twin0"), claim(us, "p1", "claim-twin0")), key=epoch)
    for replica, other in ((eu, us), (us, eu)):
        for body in list(other.log):
            replica.take(body)
    client = Carried()
    client.read(eu.session)
    for lane, text in ((twins[0], "B"), (rival, "R"), (twins[1], "A")):
        append(eu, lane, 0, text)
        client.read(eu.session)
        assert client.view() == expected(eu.session)
    assert client.view()[0]["text"] == eu.session.messages["m"].assembly.text() == "xyA"


def epoch(lane: LaneKey) -> Any:
    return lane.epoch


def claim(replica: Replica, producer: str, claim_id: str) -> LaneKey:
    admitted = admission.admit_claim(replica.session, "m", producer, claim_id, "continue")
    replica.accept(list(admitted.operations))
    return admitted.lane


def append(replica: Replica, lane: LaneKey, seq: int, text: str) -> None:
    before = root_digest("s", "m", lane)
    held = replica.session.messages.get("m")
    if held is not None and lane in held.lanes:
        before = held.lanes[lane].digest_at(seq)
    replica.accept([Items("s", "m", lane, seq, before, tuple(make_items(list(text))))])
