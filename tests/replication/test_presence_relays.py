"""The gossip of presence where not everybody hears everybody, and where frames are full."""

import time

from perdure.replication.limits import PRESENCE_HIDE_MS
from perdure.replication.presence import Delta, Presence
from perdure.replication.presence_gossip import FRAME_DOTS_MAX, PresenceGossip
from perdure.replication.presence_view import Key
from perdure.replication.records import Origin

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


def test_nobody_is_seen_to_leave_between_two_frames() -> None:
    """Members are put anew twice before a link takes anything."""
    us = Presence(Origin("us", 1))
    gossip = PresenceGossip(us, ["eu"])
    gossip.linked("eu")
    eu = Presence(Origin("eu", 1))
    count = FRAME_DOTS_MAX
    for turn in range(3):
        for number in range(count):
            _, dots = us.add(Key("s", f"m{number}", ""), str(turn), turn + 1, 1, 60)
            if turn == 0:
                continue
            gossip.changed(dots)
        if turn == 0:
            eu.merge(us.delta(entry.dot for entry in us.entries_by(us.me)))
    while (delta := gossip.next("eu")) is not None:
        eu.merge(delta)
        assert eu.count_in("s") == count
    assert {entry.data for entry in eu.entries_by(us.me)} == {"2"}


def test_what_is_told_twice_costs_no_more_than_once() -> None:
    """A frame of thousands whose entries are all known."""
    us = Presence(Origin("us", 1))
    for number in range(FRAME_DOTS_MAX):
        us.add(Key("s", f"m{number}", ""), None, 1, 1, 60)
    gossip = PresenceGossip(Presence(Origin("eu", 1)), ["us"])
    delta = us.delta(entry.dot for entry in us.entries_by(us.me))

    def cost() -> float:
        began = time.process_time()
        assert gossip.received("us", Delta(delta.entries, delta.cloud)) is not None
        return time.process_time() - began

    first = cost()
    assert cost() < 10 * first
