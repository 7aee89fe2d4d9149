"""The page for operators: given to anybody, and tied to its own files."""

import re
from collections.abc import AsyncIterator

import pytest
from perdure.api.admin_page import POLICY, files, is_open
from perdure.api.grants import Grants

from tests.api.conftest import Region, Serve


@pytest.fixture
async def guarded(serve: Serve) -> AsyncIterator[Region]:
    """A region that asks for grants."""
    async with serve(grants=Grants(b"s" * 32)) as region:
        yield region


async def test_the_page_and_all_that_it_refers_to(guarded: Region) -> None:
    """Each file comes as what it is, without a grant; what they import and link to is there, and
    nothing is there that none of them asks for."""
    found = {}
    waiting = ["/admin"]
    while waiting:
        path = waiting.pop()
        reply = await guarded.json("GET", path)
        assert reply.status == 200, path
        found[path] = reply.header("content-type")
        linked = re.findall(r'(?:href="admin/|src="admin/|from "\./)([\w.]+)"', reply.body.decode())
        waiting += [f"/admin/{name}" for name in linked if f"/admin/{name}" not in found]
    kinds = {"css": "text/css", "svg": "image/svg+xml", "js": "text/javascript"}
    kinds |= {"mjs": kinds["js"], "/admin": "text/html"}
    for path, kind in found.items():
        assert kind is not None and kind.startswith(kinds[path.rpartition(".")[2]]), (path, kind)
    assert set(files()) == set(found)


async def test_a_slash_at_the_end_leads_to_it(guarded: Region) -> None:
    """As people type it."""
    reply = await guarded.json("GET", "/admin/")
    assert (reply.status, reply.header("location")) == (308, "../admin")


async def test_a_browser_is_told_what_the_page_may_do(guarded: Region) -> None:
    """Its own files and this region; no script and no style inside of the page."""
    reply = await guarded.json("GET", "/admin")
    assert reply.header("content-security-policy") == POLICY
    assert reply.header("x-content-type-options") == "nosniff"
    assert "unsafe" not in POLICY and "connect-src 'self';" in POLICY
    page = reply.body.decode()
    assert not re.search(r"<style|style=|\son\w+=|<script(?! type=\"module\" src=)", page)


def test_text_of_others_never_becomes_markup() -> None:
    """No file of the page has a way to make elements, or code, of a text."""
    ways = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser"
    for path, file in files().items():
        if path != "/admin/perdure.js":
            assert not re.search(ways, file.content.decode()), path


@pytest.mark.parametrize(
    "path", ["/admin//", "/admin/chat.mjs", "/admin/../main.py", "/admin/admin_x.mjs", "/admin/api"]
)
async def test_nothing_else_is_served(region: Region, path: str) -> None:
    """The files are a list, not a directory."""
    (await region.json("GET", path)).assert_problem(404, "not_found")


def test_only_the_page_needs_no_grant() -> None:
    """What is below ``/admin/api`` is not of the page, whatever it is called."""
    assert all(is_open(path) for path in files())
    for path in ("/admin/api/overview", "/admin/api/a.mjs", "/admin//", "/administration"):
        assert not is_open(path), path
