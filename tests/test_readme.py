"""What the texts tell people to type works as it stands there, against three real regions."""

import asyncio
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from perdure.api.grants import Grants
from perdure.regions.cluster import Cluster, Issuer, free_ports

from perdure_client import Client
from tests.handbook.blocks import blocks
from tests.handbook.staging import ROOT, pages
from tests.handbook.typing_in import Desk

PROGRAM_S_MAX = 30
LINES_MAX, COLUMNS_MAX = 75, 200
ANSWER = "Nothing is lost."
READER = "docs/quickstart.md"


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


# Of most texts there is nothing to run, or other tests do.
WITH_PROGRAMS = [
    name
    for name in pages()
    if any(block.how is not None and block.how.is_run for block in blocks(text_of(name)))
]


def mint(secret: bytes, claims: Mapping[str, Any]) -> str:
    return Grants(secret).mint(claims)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Regions as ``perdure dev`` runs them, for all the texts."""
    ports = free_ports(6)
    pairs = list(zip(ports[::2], ports[1::2], strict=True))
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        cluster = Cluster(tmp_path_factory.mktemp("regions"), pairs, issuer=Issuer(mint))
        runner.run(cluster.__aenter__())
        yield cluster
        runner.run(cluster.__aexit__())


@pytest.mark.parametrize("name", WITH_PROGRAMS)
async def test_what_a_text_tells_people_to_type(
    name: str, cluster: Cluster, tmp_path: Path
) -> None:
    """Each block that says that it is run does what the text says, from the beginning to the end;
    then all regions hold the same."""
    assert await Desk(tmp_path, cluster).type_in(text_of(name)) > 0
    async with Client([each.url for each in cluster.regions.values()], cluster.grant) as client:
        async with asyncio.timeout(PROGRAM_S_MAX):
            while not (await client.verify())["equal"]:
                await asyncio.sleep(0)


def test_the_texts_that_must_run_do() -> None:
    """The README, the quickstart and the guide are among them."""
    assert {"README.md", READER, "docs/clients.md"} <= {*WITH_PROGRAMS}


def test_the_readme_is_short() -> None:
    """A screen and a half, which begins with the two commands."""
    lines = text_of("README.md").splitlines()
    assert len(lines) <= LINES_MAX
    assert max(len(line) for line in lines if not line.startswith(("|", "![", "**"))) < 320
    first = next(block for block in blocks(text_of("README.md")) if block.language == "sh")
    assert [line.partition("#")[0].strip() for line in first.text.splitlines()] == [
        "make demo",
        "make test",
    ]


def browser_reader() -> str:
    """The page of the quickstart."""
    (found,) = [block.text for block in blocks(text_of(READER)) if block.language == "html"]
    return found


async def test_the_browser_reader(cluster: Cluster, tmp_path: Path) -> None:
    """The module of the page, with a document of one element; that of the client's README differs
    from it by the grant alone."""
    node = shutil.which("node")
    if node is None:
        assert os.environ.get("CI") != "true", "the browser reader needs Node 18 or newer"
        pytest.skip("no node here: the quickstart's browser reader was not run")
    desk = Desk(tmp_path, cluster)
    page = browser_reader()
    other = next(
        b.text for b in blocks(text_of("sdk/javascript/README.md")) if b.language == "html"
    )
    granted = re.sub(r"const grant.*\n", "", page).replace(", { grant }", "")
    assert granted.replace("./sdk/javascript/", "./") == other
    module = desk.here(page[page.index('<script type="module">') + 22 : page.index("</script>")])
    document = f"""
      globalThis.location = {{ hash: "#{cluster.grant}" }};
      globalThis.document = {{ querySelector: () => ({{
        set textContent(text) {{
          if (text.includes("assistant: {ANSWER}")) {{ console.log("seen"); process.exit(0); }}
        }},
      }}) }};
    """
    client = json.dumps((ROOT / "sdk/javascript/perdure.js").as_uri())
    (tmp_path / "reader.mjs").write_text(
        document + module.replace('"./sdk/javascript/perdure.js"', client)
    )
    reading = await asyncio.create_subprocess_exec(
        node, tmp_path / "reader.mjs", stdout=asyncio.subprocess.PIPE
    )
    async with Client([each.url for each in cluster.regions.values()], cluster.grant) as client_of:
        await client_of.session("demo").send("assistant", ANSWER)
    async with asyncio.timeout(PROGRAM_S_MAX):
        printed, _ = await reading.communicate()
    assert (reading.returncode, printed) == (0, b"seen\n")
