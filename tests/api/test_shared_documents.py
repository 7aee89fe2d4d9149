"""Shared documents over REST and y-websocket: what is shown, merged, told, and refused."""

import asyncio
import json
from typing import Any

import jwt
import pytest
import websockets
from perdure.api import document_sockets
from perdure.api.grants import Grants
from perdure.regions import documents as desk
from perdure.regions.ports import StorageFull
from perdure.replication import document, document_admission
from perdure.replication.yjs_sync import (
    AwarenessUpdate,
    SyncUpdate,
    encode_query_awareness,
    encode_sync_update,
)

from tests.fuzz.making import item, string, update

from .conftest import ORIGIN
from .test_grants import GOOD
from .yjs_client import YjsClient

DOCUMENTS = "/v1/sessions/s/documents"
PATH = f"{DOCUMENTS}/d"
SECRET = b"g" * 32


@pytest.fixture
async def join(region):
    """Clients at a document, that leave at the end."""
    clients: list[YjsClient] = []

    async def start(client: int, path: str = PATH, **options: Any) -> YjsClient:
        found = await YjsClient(client, options.pop("doc", None)).connect(region.port, path)
        clients.append(found)
        return found

    yield start
    for client in clients:
        await client.leave()


# REST


async def test_a_document_over_rest(region):
    """It comes to be with the first edit, and each answer shows it as it is then."""
    assert (await region.json("GET", PATH)).status == 404
    first = await region.json("PATCH", PATH, {"text": "hé", "json": {"a": 1, "b": {"c": [1.5]}}})
    assert first.status == 200
    assert {**first.json, "version": None} == {
        "id": "d",
        "text": "hé",
        "version": None,
        "json": {"a": 1, "b": {"c": [1.5]}},
    }
    second = await region.json("PATCH", PATH, {"json": {"a": None, "b": {"d": "x"}}})
    assert second.json["json"] == {"b": {"c": [1.5], "d": "x"}}
    third = await region.json("POST", f"{PATH}/append", {"text": "😀"})
    assert third.json["text"] == "hé😀"
    assert (await region.json("GET", PATH)).json == third.json
    assert len({reply.json["version"] for reply in (first, second, third)}) == 3
    listed = await region.json("GET", DOCUMENTS)
    assert listed.json == {"documents": [{"id": "d", "version": third.json["version"]}]}
    assert (await region.json("GET", "/v1/sessions/s")).status == 200


async def test_an_edit_that_changes_nothing_is_not_logged(region):
    """The same text and the same values again."""
    value = {"text": "a", "json": {"a": {"b": 1}}}
    await region.json("PATCH", PATH, value)
    state = region.state()
    again = await region.json("PATCH", PATH, value)
    assert again.status == 200
    blank = await region.json("PATCH", f"{DOCUMENTS}/e", {"text": ""})
    assert (blank.status, blank.json["text"]) == (200, "")
    assert region.state() == state


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("PATCH", PATH, {}, 400, "invalid_body"),
        ("PATCH", PATH, {"text": 1}, 400, "invalid_body"),
        ("PATCH", PATH, {"json": []}, 400, "invalid_body"),
        ("PATCH", PATH, {"text": "", "x": 1}, 400, "invalid_body"),
        ("PATCH", PATH, {"json": {"k" * 5_000: 1}}, 400, "invalid_body"),
        ("PATCH", PATH, {"text": "x" * 600_000}, 413, "too_large"),
        ("PATCH", PATH, {"text": "x" * 1_100_000}, 413, "too_large"),
        ("PATCH", f"{DOCUMENTS}/a%20b", {"text": ""}, 400, "invalid_id"),
        ("POST", f"{PATH}/append", {}, 400, "invalid_body"),
        ("GET", f"{PATH}?a=1", None, 400, "invalid_query"),
        ("GET", f"{PATH}/ws", None, 404, "not_found"),
        ("PUT", PATH, {}, 405, "method_not_allowed"),
    ],
)
async def test_what_rest_refuses(region, method, path, body, status, code):
    """A refused request changes nothing."""
    await region.json("PATCH", PATH, {"text": "a"})
    state = region.state()
    (await region.json(method, path, body)).assert_problem(status, code)
    assert region.state() == state
    assert region.node.document("s", "d")["text"] == "a"


async def test_documents_are_limited_and_deleted_with_their_session(region, monkeypatch):
    """One more than a session may have; none of a session that is deleted."""
    monkeypatch.setattr(document_admission, "DOCUMENTS_MAX", 1)
    await region.json("PATCH", PATH, {"text": "a"})
    refused = await region.json("PATCH", f"{DOCUMENTS}/e", {"text": "a"})
    assert refused.assert_problem(413, "too_large")["limit_items"] == 1
    await region.json("DELETE", "/v1/sessions/s")
    for method, path, body in (
        ("GET", DOCUMENTS, None),
        ("GET", PATH, None),
        ("PATCH", PATH, {"text": "b"}),
        ("POST", f"{PATH}/append", {"text": "b"}),
    ):
        (await region.json(method, path, body)).assert_problem(410, "deleted")


async def test_an_append_with_a_key_is_made_once(region):
    """However often it is asked for; another text under the key is refused, and a bad key too."""
    key = [("idempotency-key", "key-0001")]
    for _ in range(3):
        shown = await region.json("POST", f"{PATH}/append", {"text": "a"}, key)
        assert (shown.status, shown.json["text"]) == (200, "a")
    refused = await region.json("POST", f"{PATH}/append", {"text": "b"}, key)
    refused.assert_problem(409, "conflict")
    for wrong in ("short", "no key at all"):
        bad = await region.json(
            "POST", f"{PATH}/append", {"text": "b"}, [("idempotency-key", wrong)]
        )
        assert bad.assert_problem(400, "invalid_id")["field"] == "Idempotency-Key"
    assert region.node.document("s", "d")["text"] == "a"


async def test_a_document_is_deleted_for_ever(region, join):
    """Who edits it live is sent away; everybody is told, and nothing brings it back."""
    (await region.json("DELETE", PATH)).assert_problem(404, "not_found")
    await region.json("PUT", "/v1/sessions/s")
    (await region.json("DELETE", PATH)).assert_problem(404, "not_found")
    client = await join(11)
    client.text += "hello"
    await client.send()
    await client.until("hello")
    assert (await region.request("DELETE", PATH)).status == 204
    assert await client.closed() == (4410, "deleted")
    for method, path, body in (
        ("GET", PATH, None),
        ("PATCH", PATH, {"text": "b"}),
        ("POST", f"{PATH}/append", {"text": "b"}),
        ("DELETE", PATH, None),
    ):
        (await region.json(method, path, body)).assert_problem(410, "deleted")
    assert (await region.json("GET", DOCUMENTS)).json == {"documents": []}
    with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
        await join(12)
    assert refused.value.response.status_code == 410


async def test_readers_are_told_of_documents(region):
    """At once of the first change, and of what followed once a second; of the end; and of all that
    there is, in a snapshot and when they come back."""
    follower = await region.follow()
    snapshot, _ = await follower.events()
    assert json.loads(snapshot["data"])["documents"] == []
    for text in ("a", "b", "c"):
        await region.json("PATCH", PATH, {"text": text})
    first = json.loads((await next_of(follower, "document"))["data"])
    assert first["document"] == "d"
    region.node.tick()
    last = await next_of(follower, "document")
    version = region.node.document("s", "d")["version"]
    assert json.loads(last["data"]) == {"document": "d", "version": version} != first
    region.node.tick()
    region.node.tick()
    other = await region.follow()
    assert json.loads((await other.event())["data"])["documents"] == [
        {"id": "d", "version": version}
    ]
    back = await region.follow(headers=[("last-event-id", last["id"])])
    document = await next_of(back, "document")
    assert json.loads(document["data"]) == {"all": [{"id": "d", "version": version}]}
    await region.json("DELETE", PATH)
    gone = await next_of(follower, "document")
    assert json.loads(gone["data"]) == {"document": "d", "deleted": True}
    assert last["id"] == gone["id"]


async def test_nothing_is_told_of_documents_after_the_end(region):
    """The session is deleted while a change is still to be told."""
    await region.json("PUT", "/v1/sessions/s")
    reader = region.node.subscribe("s", None)
    for text in ("a", "b"):
        await region.json("PATCH", PATH, {"text": text})
    await region.request("DELETE", "/v1/sessions/s")
    region.node.tick()
    told = []
    while (gathered := await reader.next()) is not None:
        told += [event.name for event in gathered]
    assert told[-1] == "deleted"
    reader.close()


async def next_of(follower: Any, name: str) -> Any:
    """The next event of a name."""
    while (event := await follower.event())["event"] != name:
        pass
    return event


# y-websocket


@pytest.mark.parametrize("other", [PATH, f"{PATH}/ws"])
async def test_two_clients_and_rest_edit_one_document(region, join, other):
    """Each sees what the others do, whichever path it came by; numbers stay numbers."""
    one = await join(11)
    two = await join(12, other)
    one.text += "hello"
    await one.send()
    await two.until("hello")
    two.text += " world"
    two.map["n"] = 1.0
    await two.send()
    await one.until("hello world")
    shown = await region.json("PATCH", PATH, {"text": "hello, world", "json": {"m": [2]}})
    assert (shown.json["text"], shown.json["json"]) == ("hello, world", {"n": 1, "m": [2]})
    for client in (one, two):
        await client.until("hello, world")
        assert client.map.to_py() == {"n": 1.0, "m": [2.0]}


async def test_what_a_client_brings_along_is_taken(region, join):
    """Edits that were made while no region was there come with step 2, and those of others go."""
    away = YjsClient(13)
    away.text += "offline"
    await region.json("PATCH", PATH, {"json": {"a": 1}})
    client = await join(13, doc=away.doc)
    await client.asked()
    watcher = await join(14)
    await watcher.until("offline")
    while "a" not in client.map:
        await client.take()
    log = region.state()
    # Connected again, it brings nothing new, and nothing is logged.
    await client.leave()
    again = await join(13, doc=away.doc)
    await again.asked()
    again.text += "!"
    await again.send()
    await watcher.until("offline!")
    assert sum(region.state()[1].values()) == sum(log[1].values()) + 1


async def test_who_is_here_is_told_within_the_region(region, join):
    """States go to all, to newcomers too, and who leaves is gone for the others."""
    one, two = await join(11), await join(12)
    await one.here(1, '{"name":"a"}')
    while two.present.get(11) is None:
        await two.take()
    while 11 not in one.present:
        await one.take()
    three = await join(13)
    await three.connection.send(encode_query_awareness())
    while three.present.get(11) is None:
        await three.take()
    # One repeats what it has heard of another: that is not how the other came.
    await one.leave()
    while two.present[11] is not None:
        await two.take()


async def test_a_gap_is_asked_for(region, join):
    """What builds on something missing is not taken, and the client is asked for everything."""
    client = await join(11)
    await client.asked()
    watcher = await join(12)
    client.text += "a"
    client.text += "b"
    client.forget()
    await client.send()
    await client.asked(2)
    await watcher.until("ab")
    assert region.node.document("s", "d")["text"] == "ab"


BAD = [
    (b"", 4400, "truncated"),
    (b"\x09", 4400, "message"),
    (encode_sync_update(b"\x01\x00\x05\x00\x00"), 4400, "empty"),
    (encode_sync_update(update((7, 0, [string("x", parent="text")])) + b"x"), 4400, "trailing"),
    # Values in a text.
    (encode_sync_update(update((7, 0, [item(8, b"\x01\x78", parent="text")]))), 4400, "content"),
    (b"\x00\x02" + b"\xff" * 8, 4400, "number"),
    (bytes(2_000_000), 4413, "too_long"),
    ("{}", 1003, "binary"),
]


@pytest.mark.parametrize(("frame", "code", "reason"), BAD)
async def test_what_is_refused_closes_the_socket(region, join, frame, code, reason):
    """Nothing of it is taken, and others go on."""
    await region.json("PATCH", PATH, {"text": "a"})
    state = region.state()
    bad, good = await join(11), await join(12)
    await good.until("a")
    await bad.connection.send(frame)
    closed = await bad.closed()
    assert closed[0] == code
    assert reason in closed[1] or code == 4400
    assert region.state() == state
    good.text += "b"
    await good.send()
    while not any(isinstance(heard, SyncUpdate) for heard in good.heard):
        await good.take()
    assert region.node.document("s", "d")["text"] == "ab"


async def test_limits_of_a_document_close_the_socket(region, join, monkeypatch):
    """An update that would make the document too large."""
    monkeypatch.setattr(document, "DOCUMENT_BYTES_MAX", 100)
    client = await join(11)
    client.text += "x" * 101
    await client.send()
    assert await client.closed() == (4413, "too_large")
    assert region.node.state.find("s") is None or not region.node.state.sessions["s"].exists


async def test_reasons_of_the_region(region, join):
    """A full disk, a session that is deleted, a region that drains."""
    client = await join(11)
    region.storage.failure = StorageFull("full")
    client.text += "x"
    await client.send()
    assert await client.closed() == (4507, "storage_full")
    region.storage.failure = None
    await region.json("PATCH", PATH, {"text": "a"})
    client = await join(12)
    await region.json("DELETE", "/v1/sessions/s")
    assert await client.closed() == (4410, "deleted")
    client = await join(13, "/v1/sessions/t/documents/d")
    await region.node.drain(0)
    assert await client.closed() == (1012, "draining")


async def test_one_that_does_not_read_is_sent_away(region, join, monkeypatch):
    """What waits for it is bounded; the others are told everything."""
    monkeypatch.setattr(desk, "FEED_BYTES_MAX", 20)
    seat = region.node.join_document("s", "d")
    for number in range(8):
        await region.json("PATCH", PATH, {"text": str(number)})
    assert seat.over == "behind"
    assert await seat.next() is None
    seat.close()
    seat.close()


async def test_an_idle_client_hears_something(join, monkeypatch):
    """y-websocket takes a region that says nothing for 30 s to be gone."""
    monkeypatch.setattr(document_sockets, "KEEPALIVE_S", 0.01)
    client = await join(11)
    while AwarenessUpdate(()) not in client.heard:
        await client.take()


async def test_who_says_more_than_it_may_is_held_up(region, join, monkeypatch):
    """It is not read on for a while, and nothing is lost."""
    monkeypatch.setattr(document_sockets, "DOCUMENT_UPDATES_BURST_MAX", 2)
    monkeypatch.setattr(document_sockets, "DOCUMENT_UPDATES_PER_S_MAX", 100)
    client = await join(11)
    for letter in "abcdefgh":
        client.text += letter
    loop = asyncio.get_running_loop()
    began = loop.time()
    await client.send()
    watcher = await join(12)
    await watcher.until("abcdefgh")
    assert loop.time() - began > 0.05


# Handshakes


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"{DOCUMENTS}", 404),
        (f"{PATH}/x", 404),
        (f"{PATH}/ws/x", 404),
        (f"{PATH}?a=1", 400),
        (f"{DOCUMENTS}/a%2Fb", 400),
    ],
)
async def test_handshakes_that_are_refused(region, path, status):
    """There is no socket at other paths."""
    with pytest.raises(websockets.InvalidStatus) as refused:
        await websockets.connect(f"ws://127.0.0.1:{region.port}{path}")
    assert refused.value.response.status_code == status


async def test_too_many_at_one_document(region, join, monkeypatch):
    """Then the handshake is refused; at another document there is room, and after one has left."""
    monkeypatch.setattr(desk, "DOCUMENT_SOCKETS_MAX", 1)
    client = await join(11)
    with pytest.raises(websockets.InvalidStatus) as refused:
        await join(12)
    assert refused.value.response.status_code == 429
    await join(12, f"{DOCUMENTS}/e")
    await client.leave()


async def test_grants_and_origins(serve):
    """As for the other WebSocket: a grant among the subprotocols, an origin that may."""
    grant = jwt.encode({**GOOD, "exp": 2**33}, SECRET, algorithm="HS256")
    async with serve(grants=Grants(SECRET)) as region:
        url = f"ws://127.0.0.1:{region.port}{PATH}"
        good = ["perdure.v1", f"bearer.{grant}"]
        for options, status in (
            ({}, 401),
            ({"subprotocols": good, "origin": "https://evil.example"}, 403),
        ):
            with pytest.raises(websockets.InvalidStatus) as refused:
                await websockets.connect(url, **options)
            assert refused.value.response.status_code == status
        async with websockets.connect(url, subprotocols=good, origin=ORIGIN) as socket:
            assert socket.subprotocol == "perdure.v1"
