"""The regions' secret is replaced while they serve: one region after the other, three times."""

from pathlib import Path

import pytest
from perdure.regions.headers import Headers
from perdure.replication.admission import Draft
from perdure.replication.errors import Refusal
from perdure.replication.frames import Channel, FrameError, Kind
from perdure.replication.handshake import Identity, answer, challenge, check_hello, establish
from perdure.replication.ids import LaneKey, open_epoch
from perdure.replication.operations import Header, Open
from perdure.replication.records import Origin

from tests.regions.linked import Linked, linked

MESH = {"eu": ["us", "ap"], "us": ["eu", "ap"], "ap": ["eu", "us"]}
OLD, NEW = b"o" * 32, b"n" * 32
# What a region is given: the secret that it proves itself with, and those that it accepts besides.
STEPS = [(OLD, ()), (OLD, (NEW,)), (NEW, (OLD,)), (NEW, ())]
EU = Identity(Origin("eu", 1), 1_000, "e" * 64)
US = Identity(Origin("us", 2), 2_000, "a" * 64)


def refusals(regions: Linked, name: str) -> dict[str, int]:
    return {key: n for key, n in regions.counters(name).items() if "refused" in key}


@pytest.mark.failure("S8")
async def test_a_secret_is_replaced_without_a_link_refused(tmp_path: Path) -> None:
    """Old; old and new; new and old; new: each step region by region, with writes and a producer's
    header in between. Every link comes to be, in both directions, and nothing is refused."""
    async with linked(tmp_path, MESH, start=False) as regions:
        for name in MESH:
            await regions.start(name, secret=OLD)
        await until_all_linked(regions)
        eu = regions.nodes["eu"]
        draft = Draft("assistant", id="m", producer="p", claim_id="claim-0001")
        header = (await eu.open("s", draft)).header
        sent = 0
        for secret, accepted in STEPS[1:]:
            for name in MESH:
                assert refusals(regions, name) == {}
                await regions.stop(name)
                node = await regions.start(name, secret=secret, accepted=accepted)
                await until_all_linked(regions)
                sent += 1
                await node.send("s", Draft("user", id=f"m{sent}", text="hello"))
                await regions.until(regions.same)
                if (secret, accepted) != STEPS[-1]:
                    assert (await node.reopen("s", header)).id == "m"
        assert [refusals(regions, name) for name in MESH] == [{}] * 3
        # Now nobody believes the old one any more.
        for node in regions.nodes.values():
            with pytest.raises(Refusal, match="invalid_header"):
                await node.reopen("s", header)


async def until_all_linked(regions: Linked) -> None:
    """Each with each, in both directions."""

    def done() -> bool:
        return all(
            peer.connected and name in regions.peers[peer.name]._acceptor._links
            for name, node in regions.nodes.items()
            for peer in node.gossip.peers.values()
        )

    await regions.until(done)


def shake_hands(dialer: int, acceptor: int) -> tuple[Channel, Channel]:
    """The handshake of two regions that are at these steps; raises ``FrameError``."""
    there, here = Channel("d", *STEPS[dialer]), Channel("a", *STEPS[acceptor])
    opening = there.decode(here.encode(Kind.CHALLENGE, challenge(US))).payload
    met, hello = answer(EU, opening, "us", {})
    heard = here.decode(there.encode(Kind.HELLO, hello)).payload
    them, _ = check_hello(US, heard)
    establish(there, STEPS[dialer][0], EU, met)
    establish(here, here.proven, them, US)
    return there, here


@pytest.mark.failure("S8")
@pytest.mark.parametrize("dialer", range(4))
@pytest.mark.parametrize("acceptor", range(4))
def test_which_steps_can_meet(dialer: int, acceptor: int) -> None:
    """Those that are next to each other, whoever dials; and none that are two apart, for the one
    cannot know, or must no longer believe, what the other proves itself with."""
    if abs(dialer - acceptor) > 1:
        with pytest.raises(FrameError, match="mac"):
            shake_hands(dialer, acceptor)
        return
    there, here = shake_hands(dialer, acceptor)
    assert here.decode(there.encode(Kind.VECTOR, b"{}")).payload == b"{}"
    assert there.decode(here.encode(Kind.WELCOME, b"x")).payload == b"x"


def test_headers_are_sealed_with_the_first_and_opened_with_any() -> None:
    """And with no other."""
    lane = LaneKey("p", open_epoch("s", "m", "p", "claim-0001"))
    carried = [Open("s", "m", Header("user", None, 1, lane, "{}", None, ()))]
    sealed = [Headers(*step).seal(carried) for step in STEPS]
    assert sealed[0] == sealed[1] != sealed[2] == sealed[3]
    for step, opens in ((0, [0, 1]), (1, [0, 1, 2, 3]), (2, [0, 1, 2, 3]), (3, [2, 3])):
        for number, header in enumerate(sealed):
            if number in opens:
                assert Headers(*STEPS[step]).unseal("s", header) == carried
            else:
                with pytest.raises(Refusal, match="invalid_header"):
                    Headers(*STEPS[step]).unseal("s", header)
