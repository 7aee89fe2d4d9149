"""``stream``: lines in, acknowledgements out, on one long request."""

import asyncio
import json

import pytest
from perdure.api import stream as stream_module
from perdure.api.stream import Lines
from perdure.replication.errors import Refusal

CHUNKED = ("transfer-encoding", "chunked")


def line(seq, token=None, **more):
    """One line of the body."""
    value = {"seq": seq, **({} if token is None else {"token": token}), **more}
    return json.dumps(value).encode() + b"\n"


@pytest.fixture
async def lane(region):
    """An open message."""
    return await region.open()


async def start(region, lane, seq=None, headers=()):
    """A long append; the head of the answer is read and checked."""
    connection = await region.connect()
    await connection.start("POST", f"{lane.path}/stream", [CHUNKED, *lane.headers(seq), *headers])
    head = await connection.head()
    assert head.status == 200, head
    assert head.header("content-type") == "application/x-ndjson"
    assert head.header("perdure-region") == "eu"
    return connection


async def text_of(region, lane):
    """What the message shows."""
    return (await region.request("GET", lane.path)).json["text"]


async def answers(connection):
    """All lines of the answer, to its end."""
    found = b""
    while piece := await connection.piece():
        found += piece
    assert found == b"" or found.endswith(b"\n")
    return [json.loads(row) for row in found.splitlines()]


async def test_acknowledged_while_it_runs(region, lane):
    """Acknowledgements come while the request is still being sent, and the end is told apart."""
    connection = await start(region, lane)
    await connection.chunk(line(0, "Hel") + line(1, "lo"))
    first = json.loads(await connection.piece())
    assert first == {"next": 2, "accepted": 2, "stable": None, "duplicates": 0, "ended": None}
    await connection.chunk(line(2, tokens=["!", "?"], end="complete"))
    assert json.loads(await connection.piece())["ended"] == "accepted"
    await connection.chunk(b"")
    assert await answers(connection) == []
    assert await text_of(region, lane) == "Hello!?"


async def test_whatever_the_chunks(region, lane):
    """Where the body is cut into chunks means nothing; empty lines and CRLF do not either."""
    body = b"\n".join([line(0, "é😀").rstrip(), b"", line(1, "\r\n").rstrip() + b"\r", b" "])
    connection = await start(region, lane)
    for byte in body + b"\n" + line(2, end="complete"):
        await connection.chunk(bytes([byte]))
    await connection.chunk(b"")
    assert (await answers(connection))[-1]["next"] == 2
    assert await text_of(region, lane) == "é😀\r\n"


async def test_gathered_lines_are_one_append(region, lane):
    """Lines that came together are committed together: one operation, one acknowledgement."""
    connection = await start(region, lane)
    before = sum(region.node.gossip.vector.values())
    await connection.chunk(b"".join(line(seq, "x") for seq in range(1_000)))
    assert json.loads(await connection.piece())["next"] == 1_000
    assert sum(region.node.gossip.vector.values()) == before + 1


async def test_many_lines(region, lane):
    """Ten thousand lines of one token arrive whole, in order, with few acknowledgements."""
    connection = await start(region, lane)
    for first in range(0, 10_000, 500):
        await connection.chunk(b"".join(line(seq, f"{seq} ") for seq in range(first, first + 500)))
    await connection.chunk(line(10_000, end="complete"))
    await connection.chunk(b"")
    acks = await answers(connection)
    assert (acks[-1]["next"], acks[-1]["ended"]) == (10_000, "accepted")
    assert await text_of(region, lane) == "".join(f"{seq} " for seq in range(10_000))


async def test_retry_counts_duplicates(region, lane):
    """A buffer that is sent again changes nothing and is acknowledged."""
    await region.append(lane, 0, ["a", "b"])
    connection = await start(region, lane, seq=0)
    await connection.chunk(line(0, "a") + line(1, "b") + line(2, "c"))
    ack = json.loads(await connection.piece())
    assert (ack["next"], ack["duplicates"]) == (3, 2)


async def test_cut_in_a_line(region, lane):
    """A connection that breaks within a line: the whole lines count, the piece does not."""
    connection = await start(region, lane)
    await connection.chunk(line(0, "a") + line(1, "b") + b'{"seq":2,"tok')
    assert json.loads(await connection.piece())["next"] == 2
    connection.close()
    while region.node.counters["appends"] < 1:
        await asyncio.sleep(0)
    again = await start(region, lane, seq=2)
    await again.chunk(line(2, "c"))
    assert json.loads(await again.piece())["next"] == 3
    assert await text_of(region, lane) == "abc"


async def test_orderly_end_without_newline(region, lane):
    """At the orderly end of a body a last line counts when it is whole, and not when it is cut."""
    for last, expected in ((line(0, "a").rstrip(), "a"), (b'{"seq":1,"tok', "a")):
        connection = await start(region, lane)
        await connection.chunk(last)
        await connection.chunk(b"")
        await answers(connection)
        assert await text_of(region, lane) == expected


BAD_LINES = {
    "not json": (b"hello\n", "invalid_json"),
    "invalid utf-8": (b'{"seq":1,"token":"\xff"}\n', "invalid_json"),
    "lone surrogate": (b'{"seq":1,"token":"\\ud800"}\n', "invalid_json"),
    "deep": (b"[" * 100_000 + b"\n", "invalid_json"),
    "a list": (b"[]\n", "invalid_body"),
    "no seq": (b'{"token":"x"}\n', "invalid_body"),
    "seq true": (b'{"seq":true,"token":"x"}\n', "invalid_body"),
    "seq 1.0": (b'{"seq":1.0,"token":"x"}\n', "invalid_body"),
    "seq negative": (line(-1, "x"), "invalid_body"),
    "seq huge": (line(2**53, "x"), "invalid_body"),
    "nothing in it": (line(1), "invalid_body"),
    "both": (line(1, "x", tokens=["y"]), "invalid_body"),
    "token null": (b'{"seq":1,"token":null}\n', "invalid_body"),
    "token number": (line(1, 5), "invalid_body"),
    "token list": (line(1, ["x"]), "invalid_body"),
    "bad mark": (line(1, {"x": 1}), "invalid_body"),
    "unknown field": (line(1, "x", id=1), "invalid_body"),
    "unknown end": (line(1, end="done"), "invalid_body"),
    "token too large": (line(1, "x" * 1_048_577), "too_large"),
    "too many": (line(1, tokens=["x"] * 4_097), "too_large"),
    "gap": (line(3, "x"), "gap"),
    "conflict": (line(0, "other"), "conflict"),
}


@pytest.mark.parametrize(("bad", "code"), BAD_LINES.values(), ids=BAD_LINES.keys())
async def test_refusals(region, lane, bad, code):
    """A bad line is one problem on a line, then the answer ends; what came before it is kept,
    what came with it or after it is not."""
    connection = await start(region, lane)
    await connection.chunk(line(0, "a") + bad + line(1, "after"))
    *acks, problem = await answers(connection)
    assert [ack["next"] for ack in acks] == [1]
    assert (problem["code"], problem["type"]) == (code, f"urn:perdure:problem:{code}")
    assert await text_of(region, lane) == "a"
    # The connection is in order: the rest of the body is passed over, and the next request works.
    await connection.chunk(line(2, "late"))
    await connection.chunk(b"")
    assert (await connection.request("GET", lane.path)).json["text"] == "a"
    assert (await region.append(lane, 1, ["b"])).json["next"] == 2


@pytest.mark.failure("L5")
async def test_line_too_long(region, lane, monkeypatch):
    """A line that never ends is refused at the limit, not gathered."""
    monkeypatch.setattr(stream_module, "BODY_BYTES_MAX", 100_000)
    connection = await start(region, lane)
    for _ in range(11):
        await connection.chunk(b"x" * 10_000)
    (problem,) = await answers(connection)
    assert (problem["code"], problem["limit_bytes"]) == ("too_large", 100_000)


async def test_refused_before_it_starts(region, lane):
    """Wrong headers are an answer of their own, before anything is read."""
    connection = await region.connect()
    await connection.start("POST", f"{lane.path}/stream", [CHUNKED])
    (await connection.reply()).assert_problem(400, "invalid_producer")
    other = await region.connect()
    await other.start("POST", f"{lane.path}/stream?ack=stable", [CHUNKED, *lane.headers(None)])
    (await other.reply()).assert_problem(400, "invalid_query")


async def test_first_line_is_where_the_header_says(region, lane):
    """A Producer-Seq that is not that of the first line is a mistake, and nothing is taken."""
    connection = await start(region, lane, seq=1)
    await connection.chunk(line(0, "a"))
    (problem,) = await answers(connection)
    assert problem["code"] == "invalid_producer"
    assert await text_of(region, lane) == ""


async def test_unknown_epoch(region, lane):
    """A message that this region does not know is refused on the answer's first line."""
    connection = await start(region, lane._replace(path=f"{lane.path}x"))
    await connection.chunk(line(0, "a"))
    (problem,) = await answers(connection)
    assert problem["code"] == "unknown_epoch"


@pytest.mark.failure("C9")
async def test_deleted_while_it_runs(region, lane):
    """A message that is deleted under its producer: the next line is told so."""
    connection = await start(region, lane)
    await connection.chunk(line(0, "a"))
    await connection.piece()
    await region.request("DELETE", lane.path)
    await connection.chunk(line(1, "b"))
    (problem,) = await answers(connection)
    assert problem["code"] == "deleted"


async def test_stable_is_told(serve):
    """When more has become stable that is told too, while the request runs and at its end."""
    async with serve(peers=["us"]) as region:
        lane = await region.open()
        connection = await start(region, lane)
        await connection.chunk(line(0, "a"))
        assert json.loads(await connection.piece())["stable"] == 0
        region.peer_has_all()
        assert json.loads(await connection.piece()) == {
            "next": 1,
            "accepted": 1,
            "stable": 1,
            "duplicates": 0,
            "ended": None,
        }
        await connection.chunk(line(1, end="complete"))
        assert json.loads(await connection.piece())["ended"] == "accepted"
        await connection.chunk(b"")
        region.peer_has_all()
        (last,) = await answers(connection)
        assert (last["stable"], last["ended"]) == (1, "stable")


async def test_client_that_waits_for_continue(region, lane):
    """A client that asks first is told to go on, before the answer begins."""
    connection = await region.connect()
    headers = [CHUNKED, *lane.headers(None), ("expect", "100-continue")]
    await connection.start("POST", f"{lane.path}/stream", headers)
    assert (await connection.head()).status == 100
    assert (await connection.head()).status == 200


@pytest.mark.failure("P13")
async def test_drain(region, lane):
    """A node that drains takes no more lines and says so."""
    connection = await start(region, lane)
    await connection.chunk(line(0, "a"))
    await connection.piece()
    await region.node.drain(0)
    await connection.chunk(line(1, "b"))
    (problem,) = await answers(connection)
    assert problem["code"] == "draining"


async def test_waiting_lines_are_bounded():
    """A client that is faster than the disk waits: no more is read than may wait."""
    taken = 0
    chunk = line(0, "x" * 100_000)

    async def receive():
        nonlocal taken
        taken += 1
        return {"type": "http.request", "body": chunk, "more_body": True}

    lines = Lines(receive, asyncio.Event())
    reading = asyncio.create_task(lines.read())
    for _ in range(500):
        await asyncio.sleep(0)
    assert taken < 100
    before = taken
    assert lines.take() is not None
    for _ in range(10):
        await asyncio.sleep(0)
    assert before < taken < before + 5
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)


async def test_lines_of_several_runs():
    """Lines that go on from one another are taken together; a jump begins another append."""
    bodies = [line(0, "a") + line(1, "b", end="failed") + line(1, "c") + line(5, "d") + b"bad\n"]

    async def receive():
        return {"type": "http.request", "body": bodies.pop(), "more_body": bool(bodies)}

    lines = Lines(receive, asyncio.Event())
    await lines.read()
    assert [lines.take() for _ in range(3)] == [
        (0, ["a", "b"], "failed"),
        (1, ["c"], None),
        (5, ["d"], None),
    ]
    with pytest.raises(Refusal, match="invalid_json"):
        lines.take()
