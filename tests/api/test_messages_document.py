"""The messages as a document that is only read: over REST, and for clients of Yjs."""

import asyncio
from typing import Any

import pytest
from perdure.regions import documents as desk
from perdure.replication import projection
from perdure.replication.projection import ROOT
from pycrdt import Array

from .yjs_client import YjsClient

PATH = "/v1/sessions/s/documents/~messages"


@pytest.fixture
async def join(region):
    """Clients that read the messages, and leave at the end."""
    clients: list[YjsClient] = []

    async def start(client: int, doc: Any = None) -> YjsClient:
        found = await YjsClient(client, doc).connect(region.port, PATH)
        clients.append(found)
        return found

    yield start
    for client in clients:
        await client.leave()


def texts(client: YjsClient) -> dict[str, tuple[str, list[str]]]:
    """By message, what is shown: the text and the status."""
    shown: dict[str, tuple[str, list[str]]] = {}
    for outer in client.doc.get(ROOT, type=Array):
        for inner in outer["shown"]:
            shown[outer["id"]] = (str(inner["text"]), list(inner["status"]))
    return shown


async def until(client: YjsClient, **expected: tuple[str, list[str]]) -> None:
    async with asyncio.timeout(10):
        while texts(client) != expected:
            await client.take()


async def test_messages_over_rest(region):
    """As a text and as JSON; they cannot be written so."""
    (await region.json("GET", PATH)).assert_problem(404, "not_found")
    lane = await region.open()
    await region.json("POST", "/v1/sessions/s/messages", {"id": "u", "role": "user", "text": "hé?"})
    await region.append(lane, 0, ["a", "b"])
    first = (await region.json("GET", PATH)).json
    assert first["text"] == "assistant: ab\n\nuser: hé?"
    assert [one["status"] for one in first["json"]["messages"]] == ["streaming", "complete"]
    await region.append(lane, 2, [], end="complete")
    second = (await region.json("GET", PATH)).json
    assert (second["id"], second["text"]) == ("~messages", first["text"])
    assert second["version"] != first["version"]
    for method, path, body in (
        ("PATCH", PATH, {"text": "x"}),
        ("POST", f"{PATH}/append", {"text": "x"}),
        ("DELETE", PATH, None),
    ):
        (await region.json(method, path, body)).assert_problem(405, "method_not_allowed")
    assert (await region.json("GET", "/v1/sessions/s/documents")).json == {"documents": []}


async def test_a_client_of_yjs_reads_while_it_streams(region, join):
    """From the beginning, from the middle, and after it was away; takeovers, Stop and deletes."""
    early = await join(11)
    lane = await region.open()
    await until(early, m=("", []))
    await region.append(lane, 0, ["h", "é", "😀"])
    await until(early, m=("hé😀", []))
    late = await join(12)
    await until(late, m=("hé😀", []))
    await late.leave()
    await region.append(lane, 3, ["!"])
    claimed = await region.json(
        "POST",
        "/v1/sessions/s/messages/m/claim",
        {"producer": "q", "claim_id": "claim-0002", "mode": "continue"},
    )
    other = lane._replace(producer="q", epoch=claimed.json["epoch"])
    await region.append(other, claimed.json["next"], [" on"])
    back = await join(12, late.doc)
    for client in (early, back):
        await until(client, m=("hé😀! on", []))
    await region.request("POST", "/v1/sessions/s/messages/m/cancel")
    await region.json("POST", "/v1/sessions/s/messages", {"id": "u", "role": "user", "text": "?"})
    for client in (early, back):
        await until(client, m=("hé😀! on", ["cancelled"]), u=("?", ["complete"]))
    await region.request("DELETE", "/v1/sessions/s/messages/m")
    for client in (early, back):
        await until(client, u=("?", ["complete"]))
    await region.request("DELETE", "/v1/sessions/s")
    assert await early.closed() == (4410, "deleted")


async def test_it_is_only_read(region, join):
    """Whoever writes is sent away, and nothing is logged."""
    await region.json("POST", "/v1/sessions/s/messages", {"id": "u", "role": "user", "text": "?"})
    client = await join(11)
    await until(client, u=("?", ["complete"]))
    state = region.state()
    client.text += "mine"
    await client.send()
    assert await client.closed() == (4405, "method_not_allowed")
    assert region.state() == state


async def test_nothing_is_derived_where_nobody_reads(region, join, monkeypatch):
    """Only while somebody does, and only of what has changed."""
    derived: list[str] = []

    def project(message: Any) -> Any:
        derived.append(message.id)
        return projection.project(message)

    monkeypatch.setattr(
        desk, "projected", lambda session, ids: [project(session.messages.look(id_)) for id_ in ids]
    )
    lane = await region.open()
    await region.json("POST", "/v1/sessions/s/messages", {"id": "u", "role": "user", "text": "?"})
    await region.append(lane, 0, ["a"])
    assert derived == []
    client = await join(11)
    await until(client, m=("a", []), u=("?", ["complete"]))
    await region.append(lane, 1, ["b"])
    await until(client, m=("ab", []), u=("?", ["complete"]))
    assert derived == ["m"]
