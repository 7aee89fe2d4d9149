"""Presence over real links: who moves, who is lost, who starts anew, and what it costs."""

from pathlib import Path
from typing import Any

import pytest
from perdure.replication.limits import PRESENCE_GRACE_S, PRESENCE_HIDE_MS

from tests.regions.linked import Linked, linked

ALL = {"eu": ["us", "ap"], "us": ["eu", "ap"], "ap": ["eu", "us"]}


def here(regions: Linked, name: str, session: str = "s") -> dict[str, Any]:
    return {v["member"]: v for v in regions.nodes[name].desk.values(session)}


def everywhere(regions: Linked, *members: str) -> bool:
    return all(sorted(here(regions, name)) == sorted(members) for name in regions.nodes)


def pass_time(regions: Linked, ms: int) -> None:
    """Time passes for every region; what the next second brings is done at once."""
    regions.clock.shift_ms += ms
    for node in regions.nodes.values():
        node.desk.tick()


def waiting(regions: Linked, name: str) -> list[int]:
    """How many changes are to be pushed to each peer."""
    return [len(side.pending) for side in regions.nodes[name].desk.gossip._peers.values()]


async def known_to_each_other(regions: Linked) -> None:
    await regions.until(
        lambda: all(
            regions.state(name, peer) == "up" for name in regions.nodes for peer in ALL[name]
        )
    )


async def test_a_join_and_a_leave_are_seen_everywhere(tmp_path: Path) -> None:
    """Pushed over the links, without anybody asking; a renewal that changes nothing is not."""
    async with linked(tmp_path, ALL) as regions:
        await known_to_each_other(regions)
        regions.nodes["eu"].put_member("s", "ana", {"name": "Ana"})
        await regions.until(lambda: everywhere(regions, "ana"))
        assert here(regions, "ap") == here(regions, "eu") == here(regions, "us")
        vectors = [dict(node.gossip.vector) for node in regions.nodes.values()]
        for _ in range(100):
            regions.nodes["eu"].put_member("s", "ana")
        regions.nodes["us"].put_member("other", "ben")
        # Before any link has had its turn: what digests made somebody ask for is no push.
        assert (waiting(regions, "eu"), waiting(regions, "us")) == ([0, 0], [1, 1])
        await regions.until(lambda: list(here(regions, "ap", "other")) == ["ben"])
        assert [dict(node.gossip.vector) for node in regions.nodes.values()] == vectors
        regions.nodes["ap"].remove_member("s", "ana")
        await regions.until(lambda: everywhere(regions))


async def test_a_member_that_moves_is_never_seen_to_leave(tmp_path: Path) -> None:
    """Its connection drops here and another opens there, within the grace."""
    async with linked(tmp_path, ALL) as regions:
        await known_to_each_other(regions)
        watching = regions.nodes["ap"].subscribe("s", None)
        at_eu = regions.nodes["eu"].subscribe("s", None, "ana", {"n": 1})
        await regions.until(lambda: everywhere(regions, "ana"))
        since = here(regions, "ap")["ana"]["since"]
        at_eu.close()
        pass_time(regions, 1_000 * (PRESENCE_GRACE_S - 1))
        at_us = regions.nodes["us"].subscribe("s", None, "ana", {"n": 2})
        await regions.until(lambda: here(regions, "ap")["ana"]["data"] == {"n": 2})
        pass_time(regions, 2_000)
        await regions.until(lambda: here(regions, "ap")["ana"]["connections"] == 1)
        told = here(regions, "ap")["ana"]
        assert (told["region"], told["since"]) == ("us", since)
        events = "".join(event.data for event in await watching.next() or ())
        assert '"left":[{' not in events
        for reader in (at_us, watching):
            reader.close()


@pytest.mark.failure("C12")
async def test_a_lost_region_is_hidden_and_shown_again(tmp_path: Path) -> None:
    """Nothing of its members is removed: when the same region comes back they are here at once."""
    async with linked(tmp_path, ALL) as regions:
        await known_to_each_other(regions)
        regions.nodes["eu"].put_member("s", "ana", None, 3_600)
        regions.nodes["us"].put_member("s", "ben", None, 3_600)
        await regions.until(lambda: everywhere(regions, "ana", "ben"))
        await regions.peers["eu"].stop()
        pass_time(regions, PRESENCE_HIDE_MS + 1_000)
        await regions.until(lambda: all(list(here(regions, n)) == ["ben"] for n in ("us", "ap")))
        assert list(here(regions, "eu")) == ["ana"]
        assert len(regions.nodes["us"].desk.presence) == 2
        regions.nodes["us"].put_member("s", "cy", None, 3_600)
        await regions.link_again("eu")
        await regions.until(lambda: everywhere(regions, "ana", "ben", "cy"))


@pytest.mark.failure("C12")
async def test_a_region_that_starts_anew_brings_no_ghosts(tmp_path: Path) -> None:
    """Connections of before are gone after the grace; leases go on, for nobody ended them; and a
    member that comes back in time was never away."""
    async with linked(tmp_path, ALL) as regions:
        await known_to_each_other(regions)
        eu = regions.nodes["eu"]
        readers = [eu.subscribe("s", None, member) for member in ("ana", "ben")]
        eu.put_member("s", "lea", {"n": 1}, 60)
        await regions.until(lambda: everywhere(regions, "ana", "ben", "lea"))
        since = here(regions, "us")["ana"]["since"]
        await regions.stop("eu")
        assert sorted(here(regions, "us")) == ["ana", "ben", "lea"]
        eu = await regions.start("eu")
        back = eu.subscribe("s", None, "ana")
        await regions.until(lambda: everywhere(regions, "ana", "ben", "lea"))
        eu.desk.tick()
        pass_time(regions, 1_000 * PRESENCE_GRACE_S)
        await regions.until(lambda: everywhere(regions, "ana", "lea"))
        assert here(regions, "us")["ana"]["since"] == since
        assert here(regions, "us")["lea"]["data"] == {"n": 1}
        await regions.until(lambda: here(regions, "us")["ana"]["connections"] == 1)
        assert all(len(node.desk.presence.origins()) == 1 for node in regions.nodes.values())
        for reader in (*readers, back):
            reader.close()


async def test_an_origin_that_was_declared_dead_begins_anew(tmp_path: Path) -> None:
    """Its members are back at once, born at another origin."""
    async with linked(tmp_path, ALL) as regions:
        await known_to_each_other(regions)
        regions.nodes["eu"].put_member("s", "ana")
        await regions.until(lambda: everywhere(regions, "ana"))
        desk, dead = regions.nodes["us"].desk, regions.nodes["eu"].desk.presence.me
        desk.presence.bury(dead)
        desk.gossip.buried(dead)
        assert list(here(regions, "us")) == []
        regions.peers["us"].wake()
        await regions.until(lambda: regions.nodes["eu"].desk.presence.me != dead)
        await regions.until(lambda: everywhere(regions, "ana"))


async def test_five_thousand_members_of_one_session(tmp_path: Path) -> None:
    """They converge, also at a region that comes later, and staying costs nothing."""
    async with linked(tmp_path, ALL, start=False) as regions:
        for name in ("eu", "us"):
            await regions.start(name)
        for number in range(5_000):
            node = regions.nodes["eu" if number % 2 else "us"]
            node.put_member("s", f"m{number}", {"n": number})
        await regions.start("ap")
        await regions.until(lambda: len(here(regions, "ap")) == 5_000)
        await regions.until(lambda: len(here(regions, "eu")) == len(here(regions, "us")) == 5_000)
        before = [waiting(regions, name) for name in regions.nodes]
        for number in range(5_000):
            node = regions.nodes["eu" if number % 2 else "us"]
            node.put_member("s", f"m{number}")
        pass_time(regions, 0)
        assert [waiting(regions, name) for name in regions.nodes] == before
        assert here(regions, "ap") == here(regions, "eu")


@pytest.mark.failure("C12")
async def test_who_was_hidden_is_not_shown_by_a_later_start(tmp_path: Path) -> None:
    """Not even with a lease: for everybody else it was over."""
    async with linked(tmp_path, ALL) as regions:
        await known_to_each_other(regions)
        regions.nodes["eu"].put_member("s", "lea", None, 3_600)
        await regions.until(lambda: everywhere(regions, "lea"))
        await regions.stop("eu")
        pass_time(regions, PRESENCE_HIDE_MS + 1_000)
        assert list(here(regions, "us")) == []
        eu = await regions.start("eu")
        old = next(o for o in regions.nodes["us"].desk.presence.origins())
        await regions.until(lambda: old in eu.desk.presence.origins())
        for _ in range(PRESENCE_GRACE_S + 1):
            pass_time(regions, 1_000)
            assert everywhere(regions)
        await regions.until(lambda: all(not len(n.desk.presence) for n in regions.nodes.values()))
