"""Whole sessions as lines of JSON, out of one region and into another, once or again."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest
from perdure.api.grants import Grants
from perdure.regions import exporting
from perdure.regions.importing import Hopeless, Importer, Report
from perdure.regions.main import main
from perdure.replication.admission import Draft
from perdure.replication.items import make_items
from perdure.replication.oldest_first import BEGINNING, oldest_first
from perdure.replication.parts import Assembly, items_of
from perdure.replication.runs import RunDraft

from perdure_client import Client

from .conftest import Region
from .test_granting import SECRET, bearer, grant

MARKS = [{"part": {"type": "tool-call", "id": "c1", "name": "look"}}, '{"q": 1}']
LONG = "a long answer, é€𝄞 " * 30_000


async def filled(region: Region, session: str = "s") -> None:
    """A session with one of each."""
    node = region.node
    await node.create(session, {"title": "of all sorts"})
    await node.send(session, Draft("user", id="asks", text="what is it?", author="ann"))
    await node.send(session, Draft("user", id="empty", text="", metadata={"k": [1, None]}))
    for id_, items, end in (
        (
            "parts",
            ["thinking", *MARKS, {"set": {"state": "done"}}, {"part": {"type": "text"}}, "so"],
            "complete",
        ),
        ("failed", ["half"], "failed"),
        ("cancelled", ["no"], "cancelled"),
        ("long", [LONG[at : at + 50_000] for at in range(0, len(LONG), 50_000)], "complete"),
        ("streaming", ["as it st"], None),
    ):
        opened = await node.open(
            session, Draft("assistant", id=id_, producer="p", claim_id="claim-01")
        )
        await node.append(session, id_, "p", opened.epoch, 0, items, end)
    await node.send(session, Draft("user", id="again", text="instead", replaces="asks"))
    await node.request_run(session, RunDraft("bot", "turn"))
    await node.append_document(session, "notes", "some notes")
    await node.patch_document(session, "notes", None, {"a": {"b": 1}})


async def exported(region: Region, session: str = "s", headers: Any = ()) -> list[bytes]:
    reply = await region.request("GET", f"/v1/sessions/{session}/export", None, headers)
    assert reply.status == 200, reply
    assert reply.header("content-type") == "application/x-ndjson"
    return reply.body.splitlines(keepends=True)


def values(lines: Iterable[bytes]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines]


async def imported(region: Region, lines: Iterable[bytes], tenant: str | None = None) -> Report:
    report = Report()

    async def each() -> AsyncIterator[bytes]:
        for line in lines:
            yield line

    async with Client([f"http://127.0.0.1:{region.port}"], give_up_s=5) as client:
        await Importer(client, report, tenant).take(each())
    return report


def content(region: Region, session: str = "s") -> list[Any]:
    """What a session says, without what regions give out themselves."""
    said = []
    for message in region.node.messages(session, None, 1000)["messages"]:
        status = "failed" if message["status"] == "streaming" else message["status"]
        names = ("id", "role", "author", "text", "parts", "replaces")
        metadata = {k: v for k, v in message["metadata"].items() if k != "imported"}
        said.append([status, metadata, *(message.get(name) for name in names)])
    return [said, region.node.document(session, "notes"), region.node.metadata(session)["title"]]


async def test_a_session_goes_out_and_in_and_is_the_same(serve):
    """Roles, authors, parts, marks, statuses, order, metadata, documents with their history; a
    second time nothing changes, here or where it came from; what cannot be kept is in the
    metadata."""
    async with serve() as one, serve(name="us") as other:
        await filled(one)
        lines = await exported(one)
        kinds = [line["kind"] for line in values(lines)]
        assert kinds[:2] == ["header", "session"]
        assert kinds[-2:] == ["document", "end"]
        assert max(map(len, lines)) < 2 * exporting.LINE_BYTES_TARGET
        report = await imported(other, lines)
        assert report == Report(sessions=1, messages=9, documents=1), report
        assert content(other) == content(one)
        kept = other.node.message("s", "streaming")["metadata"]["imported"]
        original = one.node.message("s", "streaming")
        assert kept == {**{k: original[k] for k in ("created", "serial")}, "status": "streaming"}
        run = other.node.message("s", "turn")["metadata"]["imported"]["run"]
        assert (run["agent"], run["status"]) == ("bot", "requested")
        assert "imported" in other.node.metadata("s")
        before = other.state()
        assert (await imported(other, lines)).faults == []
        assert other.state() == before
        before = one.state()
        report = await imported(one, lines)
        assert (report.faults, report.known, report.messages) == ([], 9, 0)
        assert [m["metadata"] for m in one.state()[0][0]["messages"]] == [
            m["metadata"] for m in before[0][0]["messages"]
        ]


async def test_what_was_broken_off_is_finished_by_a_second_run(serve):
    """Wherever the file was cut: what came is kept, the cut is told of, and the whole file makes it
    whole. A block that was broken off and is repeated whole is no fault."""
    async with serve() as one, serve(name="us") as other:
        await filled(one)
        lines = await exported(one)
        for cut in (1, 2, 5, len(lines) - 1):
            report = await imported(other, lines[:cut])
            assert [fault.partition(": ")[2] for fault in report.faults] == [
                "the end of session s is cut"
            ]
        at = next(n for n, line in enumerate(lines) if b'"items"' in line and b"last" not in line)
        await imported(other, lines[: at + 1])
        report = await imported(other, [*lines[:4], *lines])
        assert report.faults == []
        assert content(other) == content(one)


async def streaming(region, text: str) -> tuple[str, int]:
    """A session with a message that streams and has this text so far; its epoch, and how many items
    it has."""
    await region.node.create("s", {"title": "of one"})
    opened = await region.node.open(
        "s", Draft("assistant", id="m", producer="p", claim_id="claim-01")
    )
    pieces = [text[at : at + 50_000] for at in range(0, len(text), 50_000)]
    await region.node.append("s", "m", "p", opened.epoch, 0, pieces, None)
    await region.node.append_document("s", "notes", "some notes")
    return opened.epoch, len(pieces)


@pytest.mark.parametrize("first", ["as it st", LONG[:200_001], LONG])
@pytest.mark.parametrize("is_one_file", [True, False])
async def test_what_streamed_when_it_was_broken_off_is_taken_whole_later(
    serve, first: str, is_one_file: bool
):
    """The block had no end: what came of the message since, and how it ended, comes in with the
    block that is repeated, in the same file or later; and once more changes nothing."""
    async with serve() as one, serve(name="us") as other:
        epoch, length = await streaming(one, first)
        broken = (await exported(one))[:-2]
        rest = ["reams", *MARKS, "done"]
        await one.node.append("s", "m", "p", epoch, length, rest, "complete")
        whole = await exported(one)
        if is_one_file:
            report = await imported(other, [*broken, *whole])
        else:
            assert len((await imported(other, broken)).faults) == 1
            assert other.node.message("s", "m")["status"] == "streaming"
            report = await imported(other, whole)
        assert (report.faults, report.messages) == ([], 1)
        assert content(other) == content(one)
        before = other.state()
        report = await imported(other, whole)
        assert (report.faults, report.known, other.state()) == ([], 1, before)


@pytest.mark.parametrize("end", ["complete", "failed", None])
@pytest.mark.parametrize("first", ["as it st", LONG])
async def test_a_plain_text_that_streamed_when_it_was_broken_off_is_taken_whole_later(
    serve, first: str, end: str | None
):
    """Most messages are one text. Once more changes nothing, however it ended and wherever it was
    split."""
    async with serve() as one, serve(name="us") as other:
        epoch, length = await streaming(one, first)
        await imported(other, (await exported(one))[:-2])
        await one.node.append("s", "m", "p", epoch, length, ["reams"], end)
        whole = await exported(one)
        report = await imported(other, whole)
        assert (report.faults, report.messages) == ([], 1)
        assert content(other) == content(one)
        before = other.state()
        assert (await imported(other, whole)).faults == []
        assert other.state() == before


async def test_faults_are_told_by_line_and_the_rest_comes_in(serve):
    """No JSON, no message, another body under the same id, a changed line, a deleted message, a
    deleted session."""
    async with serve() as one, serve(name="us") as other:
        await one.node.create("s", {})
        for n in range(6):
            await one.node.send("s", Draft("user", id=f"m{n}", text=f"text {n}"))
        lines = await exported(one)
        lines[3] = lines[3].replace(b"text 1", b"TEXT 1")
        lines.insert(4, b"{not json\n")
        lines.insert(5, b'{"kind":"message","id":7}\n')
        await other.node.send("s", Draft("user", id="m3", text="another"))
        await other.node.send("s", Draft("user", id="m4", text="text 4"))
        await other.node.delete("s", "m4")
        report = await imported(other, lines)
        told = "\n".join(report.faults)
        assert len(report.faults) == 4, told
        assert "line 5: no JSON" in told
        assert "line 6: not as it must be" in told
        assert "line 8: message m3 is there with another text" in told
        assert "line 11: session s is not as it was exported" in told
        assert (report.messages, report.deleted) == (4, 1)
        await other.node.delete("s", None)
        report = await imported(other, await exported(one))
        assert (report.deleted, report.messages, report.faults) == (7, 0, [])


async def test_a_long_session_goes_out_in_order_however_much_is_in_memory(serve):
    """Messages that are stored, those at hand, deleted ones left out; with pages of any size."""
    async with serve() as one:
        for n in range(150):
            await one.node.send("s", Draft("user", id=f"m{n}", text=f"text {n}"))
        await one.node.delete("s", "m7")
        expected = [f"m{n}" for n in range(150) if n != 7]
        for stored in (False, True):
            if stored:
                await one.node.checkpoint.all()
                one.node.state.now += 1000
                one.node.state.evict(1)
                await one.node.send("s", Draft("user", id="new", text="new"))
                await one.node.delete("s", "m149")
                expected = [*expected[:-1], "new"]
            lines = values(await exported(one))
            assert [line["id"] for line in lines if line["kind"] == "message"] == expected
            assert lines[-1]["messages"] == len(expected)
            session = one.node.state.find("s")
            for limit in (1, 7, 64):
                found, after = [], BEGINNING
                while (page := oldest_first(session, after, limit))[0]:
                    found, after = found + page[0], page[1]
                assert found == expected


async def test_one_that_is_deleted_meanwhile_has_no_end(serve, monkeypatch):
    """Its lines say so, and whoever brings them in is told."""
    async with serve() as one:
        for n in range(60):
            await one.node.send("s", Draft("user", id=f"m{n}", text="x"))
        lines = exporting.export(one.node, "s", "0")
        found = [await anext(lines)]
        await one.node.delete("s", None)
        found += [line async for line in lines]
        assert values(found[-1:])[0]["kind"] == "failed"
        report = await imported(one, b"".join(found).splitlines(keepends=True))
        assert "not whole" in report.faults[-1]


async def test_who_may_have_a_session(serve):
    """Who may read it; operators any, of whichever tenant, which is in the audit log before."""
    async with serve(grants=Grants(SECRET)) as region:
        await region.node.send("acme:s", Draft("user", id="m", text="x"))
        await region.node.send("t", Draft("user", id="m", text="x"))
        reads = bearer(grant(sub="a", tenant="acme", can={"*": ["read"]}))
        writes = bearer(grant(sub="a", tenant="acme", can={"*": ["write"]}))
        ops = bearer(grant(sub="ops"))
        header = values(await exported(region, "s", reads))[0]
        assert (header["tenant"], header["session"]) == ("acme", "s")

        async def ask(path: str, who: Any) -> Any:
            return await region.request("GET", path, None, who)

        (await ask("/v1/sessions/s/export", writes)).assert_problem(403, "forbidden")
        (await ask("/v1/sessions/none/export", reads)).assert_problem(404, "not_found")
        admin = "/admin/api/sessions/acme:s/export"
        (await ask(admin, reads)).assert_problem(403, "forbidden")
        assert (await ask(admin, ops)).status == 200
        (await ask("/admin/api/sessions/:audit/export", ops)).assert_problem(404, "not_found")
        (await ask("/admin/api/export", reads)).assert_problem(403, "forbidden")
        page = (await ask("/admin/api/export?limit=1", ops)).json
        assert page == {"sessions": ["t"], "next": "t"}
        page = (await ask("/admin/api/export?limit=1&after=t", ops)).json
        assert page == {"sessions": ["acme:s"], "next": None}
        assert (await ask("/admin/api/export?tenant=acme", ops)).json["sessions"] == ["acme:s"]
        (await ask("/admin/api/export?tenant=A", ops)).assert_problem(400, "invalid_query")
        noted = (await ask("/v1/audit", ops)).json["entries"]
        assert [e["actor"] for e in noted if e["action"] == "session.export"] == ["a", "ops"]


async def test_a_file_of_several_tenants_needs_a_choice(serve):
    """For a grant is of one; what is chosen comes in, and nothing else."""
    async with serve() as one, serve(name="us") as other:
        for name in ("acme:s", "other:t"):
            await one.node.send(name, Draft("user", id="m", text=name))
        lines = [
            line
            for name in ("acme:s", "other:t")
            async for data in exporting.export(one.node, name, "0")
            for line in data.splitlines(keepends=True)
        ]
        with pytest.raises(Hopeless, match="choose with --tenant"):
            await imported(other, lines)
        report = await imported(other, lines, "other")
        assert (report.sessions, report.faults) == (1, [])
        assert other.node.message("t", "m")["text"] == "other:t"


async def test_a_file_of_a_stranger_neither_breaks_off_nor_moves_the_cursor(serve):
    """A header with a tenant that is none is a fault like any other; and of what the file says,
    nothing reaches a terminal that it would obey."""
    header = {"kind": "header", "format": 1, "session": "s"}
    strange = [{**header, "tenant": tenant} for tenant in ([], 5, "A b", None)]
    failed = {"kind": "failed", "detail": "\x1b[2J\x9b2J\u202e"}
    said = [*strange, header, {"kind": "session", "created": "x", "metadata": {}}, failed]
    async with serve() as region:
        report = await imported(region, [json.dumps(line).encode() + b"\n" for line in said])
        assert region.node.metadata("s") == {"imported": {"created": "x"}}
    assert [fault.split(":")[0] for fault in report.faults[:-1]] == [
        f"line {n}" for n in range(1, 5)
    ]
    assert report.faults[-1] == r"line 7: session s is not whole: \x1b[2J\x9b2J\x202e"


async def test_the_commands(serve, tmp_path: Path, capsysbinary):
    """``export`` of all, into a file, and ``import`` of that; their exit codes."""

    async def run(*arguments: Any) -> tuple[int, bytes, bytes]:
        code = await asyncio.to_thread(main, [str(argument) for argument in arguments])
        return code, *capsysbinary.readouterr()

    file = tmp_path / "file"
    async with serve() as one, serve(name="us") as other:
        await filled(one)
        await one.node.create("t", {})
        url, there = (f"http://127.0.0.1:{region.port}" for region in (one, other))
        code, out, err = await run("export", "--all", "--url", url)
        assert (code, err) == (0, b"perdure: 2 sessions exported\n")
        file.write_bytes(out)
        assert (await run("export", "t", "--url", url))[1].count(b'"kind":"end"') == 1
        assert (await run("export", "nobody", "--url", url))[0] == 1
        assert (await run("export", "--url", url))[0] == 2
        code, out, err = await run("import", file, "--url", there, "--json")
        assert (code, err) == (0, b"")
        assert (json.loads(out)["sessions"], json.loads(out)["messages"]) == (2, 9)
        assert content(other) == content(one)
        assert (await run("import", file, "--as", "u", "--url", there))[0] == 1
        file.write_bytes((await run("export", "s", "--url", url))[1])
        assert (await run("import", file, "--as", "u", "--url", there))[0] == 0
        assert content(other, "u") == content(one)
        assert (await run("import", file, "--as", "a b", "--url", there))[0] == 2
        file.write_bytes(file.read_bytes()[:-20])
        code, out, err = await run("import", file, "--url", there)
        assert (code, b"no JSON" in err, b"sessions 1" in out) == (1, True, True)


def test_parts_come_from_their_items():
    """Whatever they are, also fields longer than a mark may be."""
    parts = [
        {"type": "text", "text": "a" * 100_000},
        {"type": "text", "text": ""},
        {"type": "data", "id": "x", "text": "", "values": "v" * 200_000, "more": {"a": 1}},
        {"type": "text", "text": "end"},
    ]
    for shown in (parts, parts[1:], parts[3:], []):
        assembly = Assembly()
        for item in make_items(list(items_of(shown)), "tokens"):
            assembly.push(item)
        assert assembly.parts() == shown
