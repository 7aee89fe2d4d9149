"""The messages as a Yjs document: the same in every region, whoever carries it around."""

from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from perdure.replication.projection import ROOT, encode, newest, projected, text_of, value
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
    for client in carried:
        for replica in cluster.replicas:
            client.read(replica.session)
            assert client.view() == expected(replica.session)


def test_text_is_that_of_the_message() -> None:
    """As far as parts do not change what they are."""
    replica = Replica("eu")
    assert text_of([]) == ""
    assert expected(replica.session) == []
