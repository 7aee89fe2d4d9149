"""The page of the demo: served where it was asked for, and tied to its own files and regions."""

import re

import pytest

from tests.api.conftest import Region, Serve

REGIONS = {"eu": "http://127.0.0.1:7101", "us": "http://127.0.0.1:7102"}


async def test_there_is_no_page_by_default(region: Region) -> None:
    """Only who starts a region for the demo has it."""
    for path in ("/demo/chat", "/demo/perdure.js", "/demo/regions"):
        (await region.json("GET", path)).assert_problem(404, "not_found")


async def test_the_page_and_all_that_it_refers_to(serve: Serve) -> None:
    """Each file comes as what it is; what they import and link to is there too."""
    found = {}
    async with serve(demo_page=REGIONS) as region:
        waiting = ["chat"]
        while waiting:
            name = waiting.pop()
            reply = await region.json("GET", f"/demo/{name}")
            assert reply.status == 200, name
            found[name] = reply.header("content-type")
            text = reply.body.decode()
            linked = re.findall(r'(?:href="|src="|from "\./)([\w.]+)"', text)
            waiting += [other for other in linked if other not in found]
        told = await region.json("GET", "/demo/regions")
    assert told.json["region"] == "eu"
    assert told.json["regions"] == [{"name": name, "url": url} for name, url in REGIONS.items()]
    kinds = {".css": "text/css", ".svg": "image/svg+xml", ".js": "text/javascript"}
    for name, kind in found.items():
        ending = re.sub(r"^[^.]*|m(?=js$)", "", name)
        assert kind is not None and kind.startswith(kinds.get(ending, "text/html")), (name, kind)
    assert {"chat.mjs", "draft.mjs", "perdure.js", "chat.css", "icon.svg"} <= found.keys()


async def test_a_browser_is_told_what_the_page_may_do(serve: Serve) -> None:
    """Its own files, and the regions; no script and no style inside of the page."""
    async with serve(demo_page=REGIONS) as region:
        reply = await region.json("GET", "/demo/chat")
    rules = dict(
        rule.split(" ", 1) for rule in (reply.header("content-security-policy") or "").split("; ")
    )
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == "'self'"
    hosts = ["127.0.0.1:7101", "127.0.0.1:7102"]
    urls = [f"{scheme}://{host}" for host in hosts for scheme in ("http", "ws")]
    assert rules["connect-src"].split() == ["'self'", *urls]
    assert rules["frame-ancestors"] == rules["base-uri"] == rules["form-action"] == "'none'"
    page = reply.body.decode()
    assert not re.search(r"<style|style=|\son\w+=|<script(?! type=\"module\" src=)", page)


@pytest.mark.parametrize("path", ["/demo", "/demo/", "/demo/chat/", "/demo/../main.py", "/demo/x"])
async def test_nothing_else_is_served(serve: Serve, path: str) -> None:
    """The files are a list, not a directory."""
    async with serve(demo_page=REGIONS) as region:
        (await region.json("GET", path)).assert_problem(404, "not_found")
