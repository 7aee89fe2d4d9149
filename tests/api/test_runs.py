"""Runs as clients and agents see them: requests, claims, leases, states, stops, feeds, signals."""

import asyncio
import json
from typing import Any

import pytest
from perdure.api import hot
from perdure.replication import limits

from tests.api.test_presence import pass_time

S = "/v1/sessions/s"
RUNS = f"{S}/runs"


async def ask(region: Any, id_: str = "r", agent: str = "bot", **more: Any) -> Any:
    reply = await region.json("POST", RUNS, {"id": id_, "agent": agent, **more})
    assert reply.status in (200, 201), reply
    return reply.json


async def take(region: Any, id_: str = "r", producer: str = "w1", **more: Any) -> Any:
    body = {"producer": producer, "claim_id": f"claim-{producer}", **more}
    return await region.json("POST", f"{RUNS}/{id_}/claim", body)


async def taken(region: Any, id_: str = "r", producer: str = "w1", **more: Any) -> Any:
    reply = await take(region, id_, producer, **more)
    assert reply.status == 200, reply
    return reply.json


async def write(
    region: Any, claimed: Any, seq: int, *tokens: str, id_: str = "r", **more: Any
) -> Any:
    headers = [
        ("producer-id", claimed["run"]["producer"]),
        ("producer-epoch", claimed["epoch"]),
        ("producer-seq", str(seq)),
    ]
    body = {"tokens": list(tokens), **more}
    return await region.json("POST", f"{S}/messages/{id_}/tokens", body, headers)


async def say(region: Any, claimed: Any, n: int, state: str, detail: Any = None) -> Any:
    who = {"producer": claimed["run"]["producer"], "epoch": claimed["epoch"]}
    body = {**who, "n": n, "state": state, "detail": detail}
    return await region.json("POST", f"{RUNS}/r/state", body)


async def run(region: Any, id_: str = "r") -> Any:
    return (await region.json("GET", f"{RUNS}/{id_}")).json


async def test_a_run_may_replace_an_earlier_answer(region: Any) -> None:
    """Its message says so; asked for again it is the same run, and one that replaces something else
    is another."""
    await ask(region, replaces="a1")
    message = await region.json("GET", f"{S}/messages/r")
    assert message.json["replaces"] == "a1"
    assert (await ask(region, replaces="a1"))["id"] == "r"
    for others in ({}, {"replaces": "a2"}):
        reply = await region.json("POST", RUNS, {"id": "r", "agent": "bot", **others})
        reply.assert_problem(409, "conflict")
    reply = await region.json("POST", RUNS, {"id": "r2", "agent": "bot", "replaces": "no id!"})
    reply.assert_problem(400, "invalid_id")


async def until_run(follower: Any, status: str) -> Any:
    """The next ``run`` event with this status."""
    while True:
        event = await follower.event()
        if event["event"] == "run" and json.loads(event["data"])["run"]["status"] == status:
            return json.loads(event["data"])["run"]


async def settle(region: Any, seconds: float = 0) -> None:
    """Time passes, and what the second brings to the disk is done."""
    pass_time(region, seconds)
    region.node.turns._clock = region.node.desk._clock
    region.node.turns.tick()
    await region.node.work()


async def test_a_turn_from_its_request_to_its_end(region):
    """The message stands in its place from the request on; who follows is told of every step."""
    follower = await region.follow()
    await follower.events()
    asked = await ask(region, by="ana", input="m1", metadata={"model": "x"})
    assert asked == {
        "id": "r",
        "session": "s",
        "status": "requested",
        "agent": "bot",
        "by": "ana",
        "input": "m1",
        "message": "r",
        "attempt": 0,
        "producer": None,
        "epoch": None,
        "created": asked["created"],
        "detail": None,
        "inputs": [],
    }
    assert await ask(region, by="ana", input="m1", metadata={"model": "x"}) == asked
    message = await follower.event()
    assert (message["event"], json.loads(message["data"])["author"]) == ("message", "bot")
    assert (await until_run(follower, "requested")) == asked
    claimed = await taken(region)
    assert claimed["run"]["status"] == "running"
    assert (claimed["run"]["attempt"], claimed["run"]["producer"]) == (1, "w1")
    assert (claimed["text"], claimed["base"], claimed["inputs"]) == ("", 0, [])
    assert (await until_run(follower, "running"))["epoch"] == claimed["epoch"]
    assert (await write(region, claimed, 0, "Hel", "lo", end="complete")).status == 200
    assert (await until_run(follower, "complete"))["attempt"] == 1
    assert (await run(region))["status"] == "complete"
    assert (await region.json("GET", f"{S}/messages/r")).json["text"] == "Hello"
    assert (await region.json("GET", S)).json["runs"] == []
    assert [r["id"] for r in (await region.json("GET", RUNS)).json["runs"]] == ["r"]
    (await take(region, producer="w2")).assert_problem(409, "ended")


async def test_a_request_is_known_by_its_id(region):
    """Another body is a conflict; a message's id is taken; a key stands for an id."""
    await ask(region)
    again = await region.json("POST", RUNS, {"id": "r", "agent": "other"})
    again.assert_problem(409, "conflict")
    await region.json("POST", f"{S}/messages", {"id": "m", "role": "user", "text": "x"})
    (await region.json("POST", RUNS, {"id": "m", "agent": "bot"})).assert_problem(409, "conflict")
    (await region.json("GET", f"{RUNS}/m")).assert_problem(404, "not_found")
    refused = await region.json("POST", RUNS, {"agent": "bot"})
    refused.assert_problem(400, "idempotency_key_required")
    keyed = [
        await region.json("POST", RUNS, {"agent": "bot"}, [("idempotency-key", "key-00001")])
        for _ in range(2)
    ]
    assert [reply.status for reply in keyed] == [201, 200]
    assert keyed[0].json == keyed[1].json


async def test_the_lease_keeps_others_away_until_it_is_over(region):
    """Then the run is interrupted, for all and on disk; another goes on where it stopped, and the
    late one is fenced."""
    await ask(region)
    follower = await region.follow()
    await follower.events()
    first = await taken(region)
    await write(region, first, 0, "one ", "two ")
    held = await take(region, producer="w2")
    held.assert_problem(409, "held")
    assert held.header("retry-after") == str(limits.LEASE_S_DEFAULT)
    await settle(region, limits.LEASE_S_DEFAULT - 1)
    assert (await run(region))["status"] == "running"
    await settle(region, 2)
    assert (await until_run(follower, "interrupted"))["attempt"] == 1
    assert (await run(region))["status"] == "interrupted"
    second = await taken(region, producer="w2")
    assert (second["text"], second["base"], second["run"]["attempt"]) == ("one two ", 2, 2)
    late = await write(region, first, 2, "three ")
    late.assert_problem(403, "fenced")
    lease = {"producer": "w1", "epoch": first["epoch"]}
    (await region.json("POST", f"{RUNS}/r/lease", lease)).assert_problem(403, "fenced")
    (await say(region, first, 1, "suspended")).assert_problem(403, "fenced")
    await write(region, second, 0, "three", end="complete")
    assert (await region.json("GET", f"{S}/messages/r")).json["text"] == "one two three"


async def test_an_agent_that_was_only_slow_goes_on(region):
    """Its next append makes the run ``running`` again, and its lease is seen."""
    await ask(region)
    claimed = await taken(region, lease_s=5)
    await write(region, claimed, 0, "a")
    await settle(region, 6)
    assert (await run(region))["status"] == "interrupted"
    await write(region, claimed, 1, "b")
    assert (await run(region))["status"] == "running"
    await settle(region, 4)
    assert (await run(region))["status"] == "running"
    await settle(region, 2)
    assert (await run(region))["status"] == "interrupted"


@pytest.mark.failure("C5")
async def test_a_wall_clock_that_jumps_ends_no_lease(region, monkeypatch):
    """An hour forth or back: leases are by the clock that never jumps."""
    await ask(region)
    await taken(region)
    await settle(region)
    clock = region.node.desk._clock
    now_ms = clock.wall_ms()
    for jump_ms in (3_600_000, -3_600_000):
        monkeypatch.setattr(clock, "wall_ms", lambda ms=now_ms + jump_ms: ms)
        await settle(region, 1)
        assert (await run(region))["status"] == "running"
        assert (await region.json("PUT", f"{S}/presence/ana")).status == 200
    assert len((await region.json("GET", f"{S}/presence")).json["presence"]) == 2


@pytest.mark.parametrize("sign", ["append", "lease", "state", "feed"])
async def test_what_renews_a_lease(region, sign):
    """Each of them for as long as the claim said."""
    await ask(region)
    claimed = await taken(region, lease_s=10)
    reader = region.node.follow_agent("bot", "w1") if sign == "feed" else None
    for turn in range(3):
        await settle(region, 8)
        match sign:
            case "append":
                await write(region, claimed, turn, "x")
            case "lease":
                lease = {"producer": "w1", "epoch": claimed["epoch"]}
                assert (await region.json("POST", f"{RUNS}/r/lease", lease)).status == 200
            case "state":
                assert (await say(region, claimed, turn + 1, "running", turn)).status == 200
        assert (await run(region))["status"] == "running"
    if reader is not None:
        reader.close()
    await settle(region, 11)
    assert (await run(region))["status"] == "interrupted"


async def test_a_lease_is_the_agents_presence(region):
    """As a member, with the run that it works on; gone when the run is over."""
    await ask(region)
    claimed = await taken(region)
    (member,) = (await region.json("GET", f"{S}/presence")).json["presence"]
    assert (member["member"], member["data"]) == ("bot", {"run": "r", "attempt": 1})
    await write(region, claimed, 0, "x", end="complete")
    assert (await region.json("GET", f"{S}/presence")).json["presence"] == []


async def test_a_suspended_run_waits_without_a_lease(region):
    """For a person, for as long as it takes; an input wakes who is on the feed."""
    await ask(region)
    claimed = await taken(region)
    reply = await say(region, claimed, 1, "suspended", {"waits_for": "approval"})
    assert (reply.json["status"], reply.json["detail"]) == ("suspended", {"waits_for": "approval"})
    assert (await say(region, claimed, 1, "suspended", {"waits_for": "approval"})).status == 200
    (await say(region, claimed, 1, "running")).assert_problem(409, "conflict")
    gap = (await say(region, claimed, 3, "running")).assert_problem(409, "gap")
    assert gap["expected"] == 2
    (await take(region, producer="w2")).assert_problem(409, "held")
    await settle(region, 3_600)
    assert (await run(region))["status"] == "suspended"
    work = region.node.follow_agent("bot", None)
    await work.next()
    yes = {"id": "yes", "role": "user", "text": "yes", "run": "r"}
    assert (await region.json("POST", f"{S}/messages", yes)).status == 201
    assert (await region.json("POST", f"{S}/messages", yes)).status == 200
    told = [json.loads(data)["run"] for name, data in await work.next() or () if name == "run"]
    assert told[-1]["inputs"] == ["yes"]
    work.close()
    second = await taken(region, producer="w2")
    assert [message["text"] for message in second["inputs"]] == ["yes"]
    assert second["run"]["status"] == "running"


async def test_stop_works_whenever_it_comes(region):
    """Before the claim, while it runs, again, and after the end; what was written stays."""
    await ask(region)
    assert (await region.json("POST", f"{RUNS}/r/cancel")).json["status"] == "cancelled"
    assert (await region.json("POST", f"{RUNS}/r/cancel")).json["status"] == "cancelled"
    (await take(region)).assert_problem(403, "cancelled")
    await ask(region, "r2")
    claimed = await taken(region, "r2")
    await write(region, claimed, 0, "kept", id_="r2")
    follower = await region.follow()
    await follower.events()
    assert (await region.json("POST", f"{RUNS}/r2/cancel")).json["status"] == "cancelled"
    assert (await until_run(follower, "cancelled"))["id"] == "r2"
    refused = await write(region, claimed, 1, "more", id_="r2")
    refused.assert_problem(403, "cancelled")
    assert (await region.json("GET", f"{S}/messages/r2")).json["text"] == "kept"
    # A stop that comes late hits no newer run.
    await ask(region, "r3")
    await region.json("POST", f"{RUNS}/r2/cancel")
    assert (await run(region, "r3"))["status"] == "requested"
    body = {"id": "late", "role": "user", "text": "x", "run": "r2"}
    (await region.json("POST", f"{S}/messages", body)).assert_problem(409, "ended")
    (await region.json("GET", f"{S}/messages/late")).assert_problem(404, "not_found")
    body["run"] = "nobody"
    (await region.json("POST", f"{S}/messages", body)).assert_problem(404, "not_found")


async def test_the_feed_of_an_agent(region):
    """All of its runs in all sessions at once, then each change; a poll waits for the next one."""
    await ask(region)
    await region.json("POST", "/v1/sessions/t/runs", {"id": "r", "agent": "bot"})
    await region.json("POST", "/v1/sessions/t/runs", {"id": "x", "agent": "other"})
    listed = (await region.json("GET", "/v1/agents/bot/runs")).json
    assert [(r["session"], r["id"]) for r in listed["runs"]] == [("s", "r"), ("t", "r")]
    connection = await region.connect()
    await connection.start("GET", "/v1/agents/bot/runs", [("accept", "text/event-stream")])
    head = await connection.head()
    assert head.header("content-type") == "text/event-stream; charset=utf-8"
    first = await connection.event()
    assert first["event"] == "runs"
    assert json.loads(first["data"])["all"] == listed["runs"]
    path = f"/v1/agents/bot/runs?wait_ms=20000&cursor={listed['cursor']}"
    polling = asyncio.create_task(region.json("GET", path))
    await asyncio.sleep(0)
    await region.json("POST", "/v1/sessions/t/runs/r/cancel")
    told = await connection.event()
    assert json.loads(told["data"])["run"]["status"] == "cancelled"
    answer = (await polling).json
    assert [(r["session"], r["id"]) for r in answer["runs"]] == [("s", "r")]
    assert answer["cursor"] != listed["cursor"]
    await region.json("DELETE", f"{S}/messages/r")
    assert json.loads((await connection.event())["data"]) == {"all": []}
    quick = await region.json("GET", f"/v1/agents/bot/runs?wait_ms=1&cursor={answer['cursor']}")
    assert quick.json["runs"] == []


async def test_runs_come_back_after_a_restart(serve):
    """Also those of sessions that were stored and have left memory; a lease is not seen then."""
    async with serve() as region:
        await ask(region)
        await ask(region, "r2")
        claimed = await taken(region, "r2")
        await write(region, claimed, 0, "x", id_="r2")
        await ask(region, "r3")
        await region.json("POST", f"{RUNS}/r3/cancel")
    async with serve() as region:
        assert [
            r["id"] for r in (await region.json("GET", "/v1/agents/bot/runs")).json["runs"]
        ] == [
            "r",
            "r2",
        ]
        assert (await run(region, "r2"))["status"] == "running"
        await settle(region, limits.LEASE_UNSEEN_S + 1)
        assert (await run(region, "r2"))["status"] == "interrupted"
        assert (await write(region, claimed, 1, "y", id_="r2")).status == 200
        assert (await run(region, "r2"))["status"] == "running"


async def test_a_long_feed_is_written_in_slices(region):
    """As the events of a session: who reads slowly makes progress within the time that a write may
    take."""
    for number in range(20):
        body = {"id": f"{'r' * 100}{number}", "agent": "bot", "by": "b" * 128, "input": "i" * 128}
        await region.json("POST", f"/v1/sessions/{'s' * 120}{number}/runs", body)
    connection = await region.connect()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hot, "SLICE_BYTES", 4_096)
        await connection.start("GET", "/v1/agents/bot/runs", [("accept", "text/event-stream")])
        await connection.head()
        pieces = [await connection.piece()]
        while not pieces[-1].endswith(b"\n\n"):
            pieces.append(await connection.piece())
    assert max(map(len, pieces)) == 4_096
    told = json.loads(b"".join(pieces).split(b"data: ")[1])
    assert len(told["all"]) == 20


async def test_a_drain_ends_feeds(region):
    """And later ones are refused."""
    connection = await region.connect()
    await connection.start("GET", "/v1/agents/bot/runs", [("accept", "text/event-stream")])
    await connection.head()
    await connection.event()
    await region.node.drain(0)
    assert await connection.piece() == b""
    refused = await region.json("GET", "/v1/agents/bot/runs")
    refused.assert_problem(503, "draining")


async def test_signals_reach_who_reads_and_nobody_else(region):
    """At once, with any JSON; they are in no snapshot, and move no cursor."""
    follower = await region.follow()
    last = (await follower.events())[-1]["id"]
    body = {"signal": "typing", "data": {"to": ["ana", None]}, "from": "ben"}
    assert (await region.json("POST", f"{S}/signals", body)).status == 202
    event = await follower.event()
    assert json.loads(event["data"]) == {**body, "region": "eu"}
    assert (event["event"], event["id"]) == ("signal", last)
    late = await region.follow()
    assert [e["event"] for e in await late.events()] == ["snapshot", "ready"]
    (await region.json("GET", S)).assert_problem(404, "not_found")


async def test_signals_are_limited(region):
    """A burst, then so many a second."""
    codes = [
        (await region.json("POST", f"{S}/signals", {"signal": "x"})).status
        for _ in range(limits.SIGNALS_BURST_MAX + 5)
    ]
    assert codes[: limits.SIGNALS_BURST_MAX] == [202] * limits.SIGNALS_BURST_MAX
    assert 429 in codes
    other = await region.json("POST", "/v1/sessions/t/signals", {"signal": "x"})
    assert other.status == 202


WHO = {"producer": "p", "claim_id": "c" * 8}
BAD: list[tuple[str, Any, str, str | None]] = [
    ("runs", {"agent": "a b", "id": "x"}, "invalid_id", "agent"),
    ("runs", {"id": "x"}, "invalid_body", "agent"),
    ("runs", {"agent": 7, "id": "x"}, "invalid_body", "agent"),
    ("runs", {"agent": "bot", "id": "a/b"}, "invalid_id", "id"),
    ("runs", {"agent": "bot", "id": "x", "by": ""}, "invalid_id", "by"),
    ("runs", {"agent": "bot", "id": "x", "input": "?"}, "invalid_id", "input"),
    ("runs", {"agent": "bot", "id": "x", "role": "A"}, "invalid_body", "role"),
    ("runs", {"agent": "bot", "id": "x", "metadata": []}, "invalid_body", "metadata"),
    ("runs", {"agent": "bot", "id": "x", "after": "x"}, "invalid_body", "after"),
    ("runs", {"agent": "bot", "id": "x", "colour": 1}, "invalid_body", "colour"),
    ("runs/r/claim", {"producer": "p"}, "invalid_body", "claim_id"),
    ("runs/r/claim", {"producer": "p", "claim_id": "x"}, "invalid_id", "claim_id"),
    ("runs/r/claim", {**WHO, "mode": "x"}, "invalid_body", "mode"),
    ("runs/r/claim", {**WHO, "lease_s": 0}, "invalid_body", "lease_s"),
    ("runs/r/claim", {**WHO, "lease_s": 301}, "invalid_body", "lease_s"),
    ("runs/r/lease", {"producer": "p"}, "invalid_body", "epoch"),
    ("runs/r/lease", {"producer": "p", "epoch": "x"}, "invalid_producer", None),
    ("runs/r/state", {"producer": "p", "epoch": "x", "state": "running"}, "invalid_body", "n"),
    ("runs/r/cancel", {"x": 1}, "invalid_body", "x"),
    ("signals", {"data": 1}, "invalid_body", "signal"),
    ("signals", {"signal": "Typing"}, "invalid_body", "signal"),
    ("signals", {"signal": "x", "from": "a b"}, "invalid_id", "from"),
    ("signals", {"signal": "x", "data": "y" * 5_000}, "too_large", "data"),
    ("messages", {"id": "m", "role": "user", "text": "x", "run": "?"}, "invalid_id", "run"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "code", "field"), BAD)
async def test_bad_input(region, path, body, code, field):
    """Each is refused in the caller's words, and changes nothing."""
    await ask(region)
    before = region.state()
    reply = await region.json("POST", f"{S}/{path}", body)
    problem = reply.assert_problem(413 if code == "too_large" else 400, code)
    assert problem.get("field") == field
    assert region.state() == before


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("/v1/agents/a%20b/runs", "invalid_id"),
        ("/v1/agents//runs", "invalid_id"),
        ("/v1/agents/bot/runs?x=1", "invalid_query"),
        ("/v1/agents/bot/runs?wait_ms=x", "invalid_query"),
        ("/v1/agents/bot/runs?worker=a%20b", "invalid_id"),
        (f"{RUNS}?limit=0", "invalid_query"),
        (f"{RUNS}?before=x", "invalid_query"),
        (f"{RUNS}/a%2Fb", "invalid_id"),
    ],
)
async def test_bad_queries(region, target, code):
    """Each is refused with what is wrong."""
    await ask(region)
    (await region.json("GET", target)).assert_problem(400, code)
