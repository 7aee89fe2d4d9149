"""Sessions and messages over REST: the answers of A.4."""

import asyncio

import pytest

SESSION = "/v1/sessions/s"
MESSAGES = f"{SESSION}/messages"


async def say(region, text, **more):
    """Send a complete message."""
    return await region.json("POST", MESSAGES, {"role": "user", "text": text, **more})


async def test_create_a_session(region):
    """The first PUT makes the session, the next gives it as it is and leaves metadata alone."""
    first = await region.json("PUT", SESSION, {"metadata": {"title": "a"}})
    assert first.status == 201
    assert first.json["metadata"] == {"title": "a"}
    assert first.json["messages"] == []
    assert first.json["more"] is False
    assert first.json["presence"] == first.json["runs"] == []
    again = await region.json("PUT", SESSION, {"metadata": {"title": "b"}})
    assert again.status == 200
    assert again.json == first.json
    assert (await region.request("PUT", SESSION)).json == first.json
    assert (await region.request("GET", SESSION)).json == first.json


async def test_send_is_idempotent(region):
    """The same message again is the same message; another body for its id is a conflict."""
    first = await say(region, "hi", id="m", author="alice", metadata={"a": 1})
    assert first.status == 201
    assert first.json["stable"] is None
    assert {
        key: first.json[key] for key in ("id", "role", "author", "status", "text", "metadata")
    } == {
        "id": "m",
        "role": "user",
        "author": "alice",
        "status": "complete",
        "text": "hi",
        "metadata": {"a": 1},
    }
    again = await say(region, "hi", id="m", author="alice", metadata={"a": 1})
    assert (again.status, again.json) == (200, first.json)
    (await say(region, "ho", id="m")).assert_problem(409, "conflict")
    assert len((await region.request("GET", SESSION)).json["messages"]) == 1


async def test_idempotency_key(region):
    """Without an id the key names the message."""
    headers = [("idempotency-key", "key-00001")]
    body = {"role": "user", "text": "hi"}
    first = await region.json("POST", MESSAGES, body, headers)
    again = await region.json("POST", MESSAGES, body, headers)
    assert (first.status, again.status) == (201, 200)
    assert first.json["id"] == again.json["id"]
    other = await region.json("POST", MESSAGES, body, [("idempotency-key", "key-00002")])
    assert other.json["id"] != first.json["id"]


async def test_open_is_idempotent(region):
    """An open repeated with its claim gives the same epoch, and says how much is held."""
    body = {"id": "m", "role": "assistant", "producer": "p", "claim_id": "claim-0001"}
    first = await region.json("POST", MESSAGES, body)
    assert first.status == 201
    assert first.json.keys() == {"id", "serial", "epoch", "header", "next"}
    assert first.json["next"] == 0
    lane = await region.open()
    await region.append(lane, 0, ["a", "b"])
    again = await region.json("POST", MESSAGES, body)
    assert again.status == 200
    assert again.json == {**first.json, "next": 2}
    other = await region.json("POST", MESSAGES, {**body, "claim_id": "claim-0002"})
    other.assert_problem(409, "conflict")


async def test_header_makes_another_region_know(serve):
    """A region that has never heard of a message takes it from its header, and then its tokens."""
    async with serve(name="eu") as eu, serve(name="us") as us:
        lane = await eu.open()
        await eu.append(lane, 0, ["a"])
        assert (await us.append(lane, 0, ["a"])).json["code"] == "unknown_epoch"
        first = await us.json("POST", MESSAGES, {"header": lane.header})
        assert (first.status, first.json["next"], first.json["epoch"]) == (201, 0, lane.epoch)
        assert (await us.append(lane, 0, ["a", "b"])).json["next"] == 2
        again = await us.json("POST", MESSAGES, {"header": lane.header})
        assert (again.status, again.json["next"]) == (200, 2)
        elsewhere = await us.json("POST", "/v1/sessions/t/messages", {"header": lane.header})
        assert elsewhere.json["code"] == "invalid_header"


async def test_claim(region):
    """A claim takes over what is shown, continues it, and is the same when it is repeated."""
    lane = await region.open()
    await region.append(lane, 0, ["Hel", "lo"])
    claim = {"producer": "q", "claim_id": "claim-0002", "mode": "continue"}
    first = await region.json("POST", f"{lane.path}/claim", claim)
    assert first.status == 200
    assert {key: first.json[key] for key in ("base", "next", "length", "text")} == {
        "base": 2,
        "next": 0,
        "length": 2,
        "text": "Hello",
    }
    assert first.json["parts"] == [{"type": "text", "text": "Hello"}]
    again = await region.json("POST", f"{lane.path}/claim", claim)
    assert again.json["epoch"] == first.json["epoch"]
    heir = lane._replace(producer="q", epoch=first.json["epoch"])
    done = await region.append(heir, 0, ["!"], end="complete")
    assert done.json["ended"] == "accepted"
    assert (await region.request("GET", lane.path)).json["text"] == "Hello!"
    later = await region.json("POST", f"{lane.path}/claim", {**claim, "claim_id": "claim-0003"})
    later.assert_problem(409, "ended")


async def test_cancel(region):
    """Cancel is repeatable, keeps the text, and changes nothing that has ended."""
    lane = await region.open()
    await region.append(lane, 0, ["a"])
    for _ in range(2):
        reply = await region.request("POST", f"{lane.path}/cancel")
        assert (reply.status, reply.json) == (200, {"status": "cancelled"})
    assert (await region.request("GET", lane.path)).json["text"] == "a"
    await say(region, "hi", id="done")
    reply = await region.request("POST", f"{MESSAGES}/done/cancel")
    assert reply.json == {"status": "complete"}


async def test_delete(region):
    """What is deleted is gone for ever: its id is not taken again."""
    await say(region, "hi", id="m")
    reply = await region.request("DELETE", f"{MESSAGES}/m")
    assert (reply.status, reply.body) == (204, b"")
    assert reply.header("perdure-region") == "eu"
    assert (await region.request("GET", SESSION)).json["messages"] == []
    (await say(region, "hi", id="m")).assert_problem(410, "deleted")
    assert (await region.request("DELETE", SESSION)).status == 204
    for method in ("GET", "PUT", "DELETE"):
        (await region.request(method, SESSION)).assert_problem(410, "deleted")
    (await say(region, "hi", id="n")).assert_problem(410, "deleted")


async def test_metadata(region):
    """PATCH sets keys one by one, null deletes, and the whole comes back."""
    path = f"{SESSION}/metadata"
    first = await region.json("PATCH", path, {"a": 1, "b": {"c": [None, "é"]}})
    assert (first.status, first.json) == (200, {"metadata": {"a": 1, "b": {"c": [None, "é"]}}})
    second = await region.json("PATCH", path, {"a": None, "d": False})
    assert second.json == {"metadata": {"b": {"c": [None, "é"]}, "d": False}}
    assert (await region.request("GET", path)).json == second.json


async def test_pages(region):
    """Messages page back from the newest, sessions forward by id, without gap or overlap."""
    for number in range(5):
        await say(region, str(number), id=f"m{number}")
        await region.request("PUT", f"/v1/sessions/t{number}")
    newest = (await region.request("GET", f"{MESSAGES}?limit=2")).json
    assert [message["text"] for message in newest["messages"]] == ["3", "4"]
    assert newest["more"] is True
    before = newest["messages"][0]["serial"]
    older = (await region.request("GET", f"{MESSAGES}?limit=3&before={before}")).json
    assert [message["text"] for message in older["messages"]] == ["0", "1", "2"]
    assert older["more"] is False
    page = (await region.request("GET", "/v1/sessions?limit=4")).json
    assert [session["id"] for session in page["sessions"]] == ["s", "t0", "t1", "t2"]
    assert page["sessions"][0].keys() == {"id", "created", "messages", "cursor"}
    rest = (await region.request("GET", f"/v1/sessions?limit=4&after={page['next']}")).json
    assert [session["id"] for session in rest["sessions"]] == ["t3", "t4"]
    assert rest["next"] is None


async def test_after_sorts(region):
    """An answer that names what it saw sorts after it."""
    prompt = (await say(region, "q", id="z")).json
    answer = (await say(region, "a", id="a", after=prompt["serial"])).json
    assert answer["serial"] > prompt["serial"]


async def test_append_answers(region):
    """Counts of an append: what is new, what was a retry, and the end told apart."""
    lane = await region.open()
    await region.append(lane, 0, ["a", "b"])
    partly = await region.append(lane, 1, ["b", "c"])
    assert partly.json == {"next": 3, "accepted": 3, "stable": None, "duplicates": 1, "ended": None}
    end = await region.json("POST", f"{lane.path}/tokens", {"end": "complete"}, lane.headers(3))
    assert end.json == {
        "next": 3,
        "accepted": 3,
        "stable": None,
        "duplicates": 0,
        "ended": "accepted",
    }
    message = (await region.request("GET", lane.path)).json
    assert (message["status"], message["text"], message["length"]) == ("complete", "abc", 3)


async def test_marks(region):
    """Marks make parts and fill them; only text parts make the text."""
    lane = await region.open()
    items = [
        {"part": {"type": "reasoning", "id": "r"}},
        "hm",
        {"part": {"type": "text"}},
        "yes",
        {"part": {"type": "tool-call", "name": "f"}},
        {"set": {"output": {"n": 1}}},
    ]
    await region.append(lane, 0, items)
    message = (await region.request("GET", lane.path)).json
    assert message["text"] == "yes"
    assert [part["type"] for part in message["parts"]] == ["reasoning", "text", "tool-call"]
    assert message["parts"][2]["output"] == {"n": 1}


async def test_stable_without_waiting(serve):
    """With a peer that has not answered, accepted and stable differ, and the answer is true."""
    async with serve(peers=["us"]) as region:
        lane = await region.open()
        assert (await region.append(lane, 0, ["a"])).json["stable"] == 0
        region.peer_has_all()
        assert (await region.append(lane, 0, ["a"])).json["stable"] == 1


async def test_wait_for_stable(serve):
    """``ack=stable`` is answered when a peer has it on disk."""
    async with serve(peers=["us"]) as region:
        lane = await region.open()
        target, body = f"{lane.path}/tokens?ack=stable", {"tokens": ["a"], "end": "complete"}
        waiting = asyncio.create_task(region.json("POST", target, body, lane.headers(0)))
        while region.node.counters["appends"] < 1:
            await asyncio.sleep(0)
        assert not waiting.done()
        region.peer_has_all()
        reply = await waiting
        assert (reply.json["stable"], reply.json["ended"]) == (1, "stable")


@pytest.mark.failure("N1")
async def test_wait_for_stable_ends(serve):
    """When the time is over the answer says what is true; a message says it too."""
    async with serve(peers=["us"]) as region:
        lane = await region.open()
        target = f"{lane.path}/tokens?ack=stable&wait_ms=0"
        reply = await region.json("POST", target, {"tokens": ["a"]}, lane.headers(0))
        assert (reply.status, reply.json["accepted"], reply.json["stable"]) == (200, 1, 0)
        body = {"id": "q", "role": "user", "text": "x"}
        sent = await region.json("POST", f"{MESSAGES}?ack=stable&wait_ms=0", body)
        assert (sent.status, sent.json["stable"]) == (201, False)
        region.peer_has_all()
        again = await region.json("POST", f"{MESSAGES}?ack=stable", body)
        assert (again.status, again.json["stable"]) == (200, True)


async def test_a_text_that_is_too_large_is_called_a_text(region):
    """Nobody who sends a whole message has heard of tokens."""
    body = {"id": "m", "role": "user", "text": "x" * 1_048_577}
    reply = await region.json("POST", "/v1/sessions/s/messages", body)
    reply.assert_problem(413, "too_large")
    assert reply.json["field"] == "text"
    assert reply.json["detail"] == "the text is too large: 1,048,576 bytes at most"
