"""Long poll: what a poll waits for, what it goes on with, and what it never loses."""

import asyncio
from types import SimpleNamespace

import pytest
from perdure.api import poll
from perdure.regions import event_log, fanout
from perdure.replication.limits import HOLD_MS

from .followers import PollFollower


def names(answer):
    return [event["event"] for event in answer["events"]]


async def waiting(region, follower, **options):
    """A poll that has arrived and waits."""
    asked = asyncio.create_task(follower.poll(**options))
    before = region.node.fanout.count
    while not any(feed._crowd._waiting for feed in region.node.fanout._feeds.values()):
        assert not asked.done(), asked.result()
        await asyncio.sleep(0)
    assert region.node.fanout.count >= before
    return asked


# What every resume says last.
RESUMED = ["metadata", "presence", "run", "document", "ready"]


async def caught_up(region, lane=None):
    """A follower that has had its snapshot."""
    follower = PollFollower(region)
    answer = await follower.poll()
    assert names(answer) == ["snapshot", "ready"]
    return follower


async def test_first_poll(region):
    """Without a cursor: the session and ``ready``, at once, and nothing may be stored of it."""
    await region.json("PUT", "/v1/sessions/s", {"metadata": {"a": 1}})
    reply = await region.request("GET", "/v1/sessions/s/poll")
    snapshot, ready = reply.json["events"]
    assert snapshot["data"]["metadata"] == {"a": 1}
    assert ready == {"event": "ready", "id": snapshot["id"], "data": {}}
    assert reply.json["cursor"] == ready["id"]
    assert reply.header("cache-control") == "no-store"
    assert reply.header("perdure-region") == "eu"


async def test_unknown_session(region):
    """A session that nobody has made is an empty one, and is not made by asking."""
    await caught_up(region)
    (await region.request("GET", "/v1/sessions/s")).assert_problem(404, "not_found")


async def test_waits_for_something(region, lane):
    """A poll that misses nothing is answered when something happens, with no resume between."""
    follower = await caught_up(region)
    resumes = region.node.resumes
    for seq, token in enumerate(["a", "b", "c"]):
        asked = await waiting(region, follower)
        await region.append(lane, seq, [token])
        answer = await asked
        assert names(answer) == ["append"]
        assert answer["events"][0]["data"]["text"] == token
        assert answer["cursor"] == answer["events"][-1]["id"]
    assert region.node.resumes == resumes
    assert region.node.fanout.count == 1


async def test_what_gathers_between_polls_comes_at_once(region, lane):
    """Nobody polls for a moment: the next poll brings it, also with no time to wait."""
    follower = await caught_up(region)
    for seq in range(3):
        await region.append(lane, seq, ["x"])
    assert names(await follower.poll(0)) == ["append"] * 3


async def test_time_is_over(region):
    """No event, the same cursor; and the next poll goes on."""
    follower = await caught_up(region)
    cursor = follower.cursor
    for _ in range(3):
        answer = await follower.poll(1)
        assert (answer["events"], answer["cursor"]) == ([], cursor)
    assert region.node.fanout.count == 1


async def test_keep_alives_end_no_poll(region, lane):
    """What keeps streams awake is nothing to a poll."""
    follower = await caught_up(region)
    asked = await waiting(region, follower)
    for _ in range(3):
        region.node.fanout.keep_alive()
        await asyncio.sleep(0)
    assert not asked.done()
    await region.append(lane, 0, ["a"])
    assert names(await asked) == ["append"]


async def test_an_answer_that_was_lost(region, lane):
    """The same poll again, its handle used up: what the lost answer said comes by resume."""
    follower = await caught_up(region)
    cursor, handle = follower.cursor, follower.handle
    await region.append(lane, 0, ["a"])
    assert names(await follower.poll()) == ["append"]
    follower.cursor, follower.handle = cursor, handle
    again = await follower.poll()
    assert names(again) == ["append", *RESUMED]
    assert again["events"][0]["data"]["text"] == "a"


async def test_metadata_that_was_lost(region):
    """Metadata has no cursor of its own: a lost answer that said it is said again, at once."""
    await region.request("PUT", "/v1/sessions/s")
    follower = await caught_up(region)
    cursor, handle = follower.cursor, follower.handle
    await region.json("PATCH", "/v1/sessions/s/metadata", {"a": 1})
    assert names(await follower.poll()) == ["metadata"]
    assert follower.cursor == cursor
    follower.handle = handle
    again = await follower.poll()
    assert names(again) == RESUMED
    assert again["events"][0]["data"] == {"metadata": {"a": 1}}


async def test_a_handle_that_has_gone_spins_not(region, lane):
    """Nothing is new: the resume's own words are left out, and the poll waits."""
    follower = await caught_up(region)
    follower.handle = "0" * 16 + "-7-" + follower.handle[-10:]
    assert (await follower.poll(0))["events"] == []
    asked = await waiting(region, follower)
    await region.append(lane, 0, ["a"])
    assert names(await asked) == ["append"]


async def test_a_client_that_gives_no_handle_spins_not(region, lane):
    """Its polls end with the first other event, or with their time, and then say it all."""
    follower = await caught_up(region)
    follower.handle = ""
    asked = await waiting(region, follower)
    await region.append(lane, 0, ["a"])
    assert names(await asked) == [*RESUMED, "append"]
    follower.handle = ""
    assert names(await follower.poll(0)) == RESUMED


async def test_a_poll_that_brings_somebody_else(region):
    """Who is named by this poll is here; who was named by the last one has dropped."""
    follower = await caught_up(region)
    await follower.poll(0, presence="ana")
    assert [m["member"] for m in region.node.members("s")] == ["ana"]
    await follower.poll(0, presence="ana", presence_data="1")
    assert region.node.members("s")[0]["data"] == 1


async def test_presence_that_was_lost(region):
    """A member that a connection brings is here from poll to poll; what a lost answer said of
    others is said again."""
    ana = PollFollower(region, presence="ana", presence_data="1")
    await ana.poll()
    follower = await caught_up(region)
    region.node.put_member("s", "ben")
    assert names(await follower.poll()) == ["presence"]
    cursor, handle = follower.cursor, follower.handle
    region.node.remove_member("s", "ben")
    assert names(await follower.poll()) == ["presence"]
    follower.cursor, follower.handle = cursor, handle
    again = await follower.poll()
    assert names(again) == RESUMED
    assert [m["member"] for m in again["events"][1]["data"]["all"]] == ["ana"]
    assert [m["member"] for m in region.node.members("s")] == ["ana"]


async def test_runs_that_were_lost(region):
    """What a lost answer said of a run is said again, though nothing else has changed."""
    run = "/v1/sessions/s/runs/r"
    await region.json("POST", "/v1/sessions/s/runs", {"id": "r", "agent": "bot"})
    claim = {"producer": "w", "claim_id": "c" * 8}
    claimed = (await region.json("POST", f"{run}/claim", claim)).json
    follower = await caught_up(region)
    cursor, handle = follower.cursor, follower.handle
    word = {"producer": "w", "epoch": claimed["epoch"], "n": 1, "state": "suspended"}
    await region.json("POST", f"{run}/state", word)
    assert names(await follower.poll()) == ["run"]
    follower.cursor, follower.handle = cursor, handle
    told = [event for event in (await follower.poll())["events"] if event["event"] == "run"]
    assert [run["status"] for run in told[-1]["data"]["all"]] == ["suspended"]


@pytest.mark.parametrize("wait_ms", [0, 5])
async def test_metadata_that_changes_wakes(region, wait_ms):
    """Whether it changes while the client waits, or between, with a handle or without."""
    await region.request("PUT", "/v1/sessions/s")
    follower = await caught_up(region)
    await region.json("PATCH", "/v1/sessions/s/metadata", {"a": 1})
    assert names(await follower.poll(wait_ms)) == ["metadata"]
    follower.handle = "0" * 16 + "-7-" + follower.handle[-10:]
    await region.json("PATCH", "/v1/sessions/s/metadata", {"a": 2})
    assert names(await follower.poll()) == RESUMED
    assert (await follower.poll(wait_ms))["events"] == []


async def test_a_client_that_leaves_in_its_poll(region, lane):
    """Nothing was taken: the same poll again goes on with the same subscription."""
    follower = await caught_up(region)
    resumes = region.node.resumes
    connection = await region.connect()
    target = f"/v1/sessions/s/poll?cursor={follower.cursor}&poll={follower.handle}"
    await connection.start("GET", target)
    while not any(feed._crowd._waiting for feed in region.node.fanout._feeds.values()):
        await asyncio.sleep(0)
    connection.close()
    await connection.writer.wait_closed()
    await region.append(lane, 0, ["a"])
    for _ in range(100):
        await asyncio.sleep(0)
    assert names(await follower.poll()) == ["append"]
    assert region.node.fanout.count == 1
    assert region.node.resumes <= resumes + 1


async def test_a_hold_goes_on_over_polls(region, serve):
    """This region is behind the reader: it says so once, and the hold ends 30 s after the first
    poll, not after the last."""
    async with serve(name="us") as other:
        lane = await other.open()
        await other.append(lane, 0, ["a", "b"])
        ahead = PollFollower(other)
        await ahead.poll()
    follower = PollFollower(region, ahead.cursor)
    first = await follower.poll(0)
    assert names(first) == ["stale", *RESUMED] or names(first) == ["stale"]
    assert first["cursor"] == ahead.cursor
    for _ in range(3):
        assert (await follower.poll(0))["events"] == []
    now_ms = region.node._clock.monotonic_ms()
    region.node.fanout.expire(now_ms + HOLD_MS + 1)
    assert "snapshot" in names(await follower.poll())


async def test_deleted(region):
    """A reader of a deleted session is told, and gets no handle; after that 410."""
    await region.request("PUT", "/v1/sessions/s")
    follower = await caught_up(region)
    asked = await waiting(region, follower)
    await region.request("DELETE", "/v1/sessions/s")
    answer = await asked
    assert names(answer)[-1] == "deleted"
    if "poll" in answer:
        answer = await follower.poll()
        assert (answer["events"], "poll" in answer) == ([], False)
    reply = await region.request("GET", f"/v1/sessions/s/poll?cursor={follower.cursor}")
    reply.assert_problem(410, "deleted")
    assert region.node.fanout.count == 0


@pytest.mark.failure("P13")
async def test_drain(region):
    """A poll that waits is sent elsewhere at once."""
    follower = await caught_up(region)
    asked = await waiting(region, follower)
    await region.node.drain(0)
    assert names(await asked) == ["reconnect"]
    reply = await region.request("GET", f"/v1/sessions/s/poll?cursor={follower.cursor}")
    reply.assert_problem(503, "draining")


async def test_too_far_behind(region, lane, monkeypatch):
    """A subscription that was cut between two polls ends; the next poll is a resume, complete."""
    for module in (event_log, fanout):
        monkeypatch.setattr(module, "FEED_BYTES_MAX", 1_000)
    follower = await caught_up(region)
    for seq in range(4):
        await region.append(lane, seq, ["x" * 900])
    answer = await follower.poll()
    assert (answer["events"], "poll" in answer) == ([], False)
    answer = await follower.poll()
    assert answer["events"][0]["data"]["to"] == 4


async def test_kept_for_a_time(region, monkeypatch):
    """Who does not come back is forgotten, by one timer for all; the oldest gives way."""
    monkeypatch.setattr(poll, "POLLS_KEPT_MAX", 2)
    for _ in range(4):
        await caught_up(region)
    assert region.node.fanout.count == 2
    polls = poll.Polls(region.node)
    loop = SimpleNamespace(time=lambda: 1e9, call_later=lambda *_: None)
    reader = region.node.subscribe("s", None)
    polls._kept["a"] = poll.Kept(reader, "s", "", 1e9 - 1)
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: loop)
    polls._sweep()
    monkeypatch.undo()
    assert not polls._kept
    assert region.node.fanout.count == 2


async def test_readers_are_counted(region, monkeypatch):
    """A subscription between two polls is a reader like any other."""
    monkeypatch.setattr(fanout, "READERS_MAX", 1)
    follower = await caught_up(region)
    (await region.request("GET", "/v1/sessions/t/poll")).assert_problem(429, "too_many")
    assert (await follower.poll(0))["events"] == []


async def test_a_handle_of_another_session(region):
    """It is good for nothing there, and what it named is let go of."""
    follower = await caught_up(region)
    target = f"/v1/sessions/t/poll?cursor={follower.cursor}&poll={follower.handle}"
    reply = await region.request("GET", target)
    assert names(reply.json) == ["snapshot", "ready"]
    assert region.node.fanout.get("s") is None


@pytest.mark.parametrize(
    ("query", "code", "field"),
    [
        ("cursor=%00", "invalid_cursor", None),
        ("cursor=" + "A" * 513, "invalid_cursor", None),
        ("wait_ms=-1", "invalid_query", "wait_ms"),
        ("wait_ms=25001", "invalid_query", "wait_ms"),
        ("wait_ms=1.5", "invalid_query", "wait_ms"),
        ("wait_ms=", "invalid_query", "wait_ms"),
        ("poll=x", "invalid_query", "poll"),
        ("poll=" + "0" * 16 + "-1-" + "g" * 10, "invalid_query", "poll"),
        ("cursor=a&cursor=a", "invalid_query", "cursor"),
        ("colour=red", "invalid_query", "colour"),
    ],
)
async def test_bad_queries(region, query, code, field):
    """Each is refused in the caller's words, and leaves no reader behind."""
    reply = await region.request("GET", f"/v1/sessions/s/poll?{query}")
    assert reply.assert_problem(400, code).get("field") == field
    assert region.node.fanout.count == 0


async def test_other_bad_requests(region):
    """A bad id, and another method."""
    (await region.request("GET", "/v1/sessions/a%2Fb/poll")).assert_problem(400, "invalid_id")
    reply = await region.request("POST", "/v1/sessions/s/poll")
    reply.assert_problem(405, "method_not_allowed")
    assert reply.header("allow") == "GET"


async def test_nobody_finds_out_the_handles_of_others(region):
    """A handle does not follow from what a region tells everybody and a number."""
    first = (await region.request("GET", "/v1/sessions/s/poll")).json
    incarnation = (await region.request("GET", "/version")).json["incarnation"]
    guess = f"{incarnation}-1-{'0' * 10}"
    reply = await region.request("GET", f"/v1/sessions/t/poll?wait_ms=0&poll={guess}")
    assert reply.status == 200
    assert region.node.fanout.get("s") is not None, first
