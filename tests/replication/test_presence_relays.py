"""The gossip of presence where not everybody hears everybody, and where frames are full."""


from perdure.replication.limits import PRESENCE_HIDE_MS

from tests.replication.test_presence_gossip import World


def test_a_lost_region_is_not_shown_for_longer_to_whoever_asks_late() -> None:
    """What a peer tells of its members says nothing of when it was heard."""
    world = World("ap", "eu", "us")
    world.cut("ap", "eu")
    world.cut("ap", "us")
    world.add("eu", "ana")
    world.second()
    lost_ms = world.now_ms
    world.cut("eu", "us")
    world.now_ms += PRESENCE_HIDE_MS - 1_500
    world.connect("us", "ap")
    world.connect("ap", "us")
    gossip, eu = world.regions["ap"].gossip, world.regions["eu"].presence.me
    shown_ms = 0
    for _ in range(12):
        world.second()
        gossip.look(world.now_ms)
        if not gossip.is_hidden(eu):
            shown_ms = world.now_ms
    assert shown_ms - lost_ms < PRESENCE_HIDE_MS


def test_a_leave_reaches_who_does_not_hear_where_it_was_carried_out() -> None:
    """Without a question: the entry's own region, and others that hear that one."""
    world = World("ap", "eu", "sa", "us")
    world.cut("ap", "eu")
    world.cut("ap", "sa")
    world.add("eu", "ana")
    # Until nobody claims any more to hear across the links that are cut.
    for _ in range(12):
        world.second()
    assert [len(r.presence) for r in world.regions.values()] == [1, 1, 1, 1]
    world.leave("ap", "ana")
    world.push()
    world.deliver()
    world.push()
    world.deliver()
    assert [len(r.presence) for r in world.regions.values()] == [0, 0, 0, 0]
