"""Do all regions hold the same? The question is cheap when they do, and names what differs."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from perdure.regions import transport_accepting, verify
from perdure.regions.links import Digests, Links, PeerUnreachable
from perdure.regions.node import Node
from perdure.replication.admission import Draft
from perdure.replication.coding import encode
from perdure.replication.operations import Create
from perdure.replication.records import Origin, seal

from tests.regions.linked import Linked, linked

MESH = {"eu": ["us", "ap"], "us": ["eu", "ap"], "ap": ["eu", "us"]}
PAIR = {"eu": ["us"], "us": ["eu"]}
ELSEWHERE = Origin("elsewhere", 1)


async def send(node: Node, session: str) -> None:
    await node.send(session, Draft("user", id="m", text="hello"))


async def smuggle(node: Node, sessions: Sequence[str]) -> None:
    """Sessions that only this region has, and will not hand on before its time."""
    held = node.gossip.vector.get(ELSEWHERE, 0)
    operations = [Create(session, 1, "elsewhere", "{}") for session in sessions]
    bodies = enumerate(map(encode, operations), held + 1)
    await node.receive([seal(ELSEWHERE, lsn, body) for lsn, body in bodies])


async def connected(regions: Linked) -> None:
    await regions.until(
        lambda: all(
            peer.connected for node in regions.nodes.values() for peer in node.gossip.peers.values()
        )
    )


async def test_regions_that_hold_the_same_are_equal(tmp_path: Path) -> None:
    """Every region, asked anywhere, as a whole and for one session, also an unknown one."""
    async with linked(tmp_path, MESH) as regions:
        await connected(regions)
        await send(regions.nodes["eu"], "s")
        await send(regions.nodes["us"], "t")
        await regions.until(regions.same)
        for name, node in regions.nodes.items():
            others = dict.fromkeys(sorted(set(MESH) - {name}), "equal")
            whole = await node.verify()
            assert whole == {"equal": True, "regions": others, "sessions": 2, "different": []}
            one = await node.verify("s")
            assert (one["equal"], one["sessions"]) == (True, 1)
            assert (await node.verify("nobody-wrote-here"))["equal"]
        digests = {(await node.verify("s"))["digest"] for node in regions.nodes.values()}
        assert len(digests) == 1


async def test_what_differs_is_named(tmp_path: Path) -> None:
    """Whichever side has it; the sessions that are equal are not named."""
    async with linked(tmp_path, PAIR) as regions:
        await connected(regions)
        eu, us = regions.nodes["eu"], regions.nodes["us"]
        await send(eu, "s")
        await regions.until(regions.same)
        await smuggle(us, ["x"])
        for node, other in ((eu, "us"), (us, "eu")):
            found = await node.verify()
            assert found["equal"] is False
            assert found["regions"] == {other: "different"}
            assert found["different"] == ["x"]
            assert (await node.verify("x"))["regions"] == {other: "different"}
            assert (await node.verify("x"))["different"] == ["x"]
            assert (await node.verify("s"))["equal"] is True


async def test_a_region_that_is_away_is_not_taken_for_equal(tmp_path: Path) -> None:
    """The others are compared all the same."""
    async with linked(tmp_path, MESH) as regions:
        await connected(regions)
        eu = regions.nodes["eu"]
        await send(eu, "s")
        await regions.until(regions.same)
        await regions.stop("ap")
        await regions.until(lambda: not eu.gossip.peers["ap"].connected)
        for session in (None, "s"):
            found = await eu.verify(session)
            assert found["equal"] is False
            assert found["regions"] == {"ap": "unreachable", "us": "equal"}
            assert found["different"] == []


async def test_without_links_nobody_can_be_asked(tmp_path: Path) -> None:
    """As before the start; a region alone is equal to all the others."""
    async with linked(tmp_path, {"eu": []}) as regions:
        node = regions.nodes["eu"]
        assert (await node.verify())["equal"] is True
        found = await verify.verify(node.holdings, regions.nodes["eu"].gossip, None, None)
        assert found["regions"] == {}
    async with linked(tmp_path / "2", PAIR, start=False) as regions:
        node = await regions.start("eu")
        found = await verify.verify(node.holdings, node.gossip, None, None)
        assert (found["equal"], found["regions"]) == (False, {"us": "unreachable"})


async def test_more_sessions_than_an_answer_has_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A region that lacks very many asks for fewer at a time; the link does not suffer."""
    async with linked(tmp_path, PAIR) as regions:
        await connected(regions)
        eu, us = regions.nodes["eu"], regions.nodes["us"]
        names = [f"s{number}" for number in range(60)]
        await smuggle(us, names)
        opened = regions.counters("eu")["links_opened"]
        # Room for the buckets, whose size is fixed, and for a handful of sessions.
        monkeypatch.setattr(transport_accepting, "PAYLOAD_BYTES_MAX", 500)
        real, asked = regions.peers["eu"].ask_digests, []

        async def ask(peer: str, session: str | None, buckets: Sequence[int] | None) -> Digests:
            if buckets is None:
                return Digests(us.holdings.buckets(), None)
            asked.append(len(buckets))
            return await real(peer, session, buckets)

        monkeypatch.setattr(regions.peers["eu"], "ask_digests", ask)
        found = await eu.verify()
        assert found["different"] == sorted(names)
        assert max(asked) > 50
        assert min(asked) < 10
        assert regions.counters("eu")["links_opened"] == opened
        assert regions.counters("us").get("frames_refused", 0) == 0


class Answers:
    """Links whose peer says what it is told to say."""

    def __init__(self, buckets: object, sessions: dict[str, str] | None) -> None:
        self.buckets, self.sessions = buckets, sessions
        self.asked = 0

    async def ask_digests(
        self, peer: str, session: str | None, buckets: Sequence[int] | None
    ) -> Digests:
        self.asked += 1
        if buckets is None:
            return Digests(self.buckets, None)  # type: ignore[arg-type]
        return Digests(None, self.sessions)


@pytest.mark.parametrize("buckets", [None, [], ["x"], [None] * 4096, [{}] * 5000])
async def test_a_peer_whose_answers_make_no_sense_is_different(
    tmp_path: Path, buckets: object
) -> None:
    """It never names its sessions: the question ends, and does not end well."""
    async with linked(tmp_path, PAIR, start=False) as regions:
        node = await regions.start("eu")
        links = Answers(buckets, None)
        as_links: Links = links  # type: ignore[assignment]
        found = await verify.verify(node.holdings, node.gossip, as_links, None)
        assert (found["regions"], found["different"]) == ({"us": "different"}, [])
        assert links.asked <= 2 * 4096


async def test_the_list_of_what_differs_is_bounded(tmp_path: Path) -> None:
    """A thousand ids are enough to begin with."""
    async with linked(tmp_path, PAIR, start=False) as regions:
        node = await regions.start("eu")
        theirs = {f"s{number:05}": "aa" for number in range(3 * verify.DIFFERENT_IDS_MAX)}
        links: Links = Answers([], theirs)  # type: ignore[assignment]
        found = await verify.verify(node.holdings, node.gossip, links, None)
        assert found["different"] == sorted(theirs)[: verify.DIFFERENT_IDS_MAX]
        assert found["regions"] == {"us": "different"}


async def test_an_unknown_peer_state_raises_what_it_says(tmp_path: Path) -> None:
    """Asking a peer without a link is refused at once, by the documented error."""
    async with linked(tmp_path, PAIR, start=False) as regions:
        await regions.start("eu")
        with pytest.raises(PeerUnreachable):
            await regions.peers["eu"].ask_digests("us", None, None)
