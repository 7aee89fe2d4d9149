"""The site is built whole, without a broken link; and each block of code says how it is tried."""

import ast
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.handbook import staging
from tests.handbook.__main__ import build
from tests.handbook.blocks import Unclear, blocks, unsaid
from tests.handbook.staging import ROOT, as_python_markdown, in_navigation, navigation, pages


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as ``make docs`` builds it."""
    out = tmp_path_factory.mktemp("docs") / "site"
    assert build(out) == ""
    return out


class Page(HTMLParser):
    """The ids and the targets of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.targets: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what it has, and where it leads to."""
        for name, value in attrs:
            if name in ("id", "name") and value:
                self.ids.add(value)
            elif name in ("href", "src") and value and tag != "link":
                self.targets.append(value)


def test_every_text_is_a_page(site: Path) -> None:
    """And what the navigation names is there; it leaves nothing out but the single decisions."""
    for name in pages():
        page = name.removesuffix(".md").removesuffix("README")
        assert (site / page / "index.html").exists(), name
    named = list(in_navigation(navigation()))
    assert len(named) == len({*named})
    left_out = {*pages()} - {*named}
    assert {*named} <= {*pages()}
    assert {name for name in left_out if not re.match(r"docs/decisions/0", name)} == set()


def test_no_link_of_the_site_leads_nowhere(site: Path) -> None:
    """As browsers follow them: pages, headings, files and pictures."""
    read: dict[Path, Page] = {}

    def page(path: Path) -> Page:
        if path not in read:
            read[path] = Page(path.read_text(encoding="utf-8"))
        return read[path]

    broken, seen = [], 0
    for path in site.rglob("index.html"):
        for target in page(path).targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            seen += 1
            found = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            found = found / "index.html" if found.is_dir() else found
            fragment = unquote(parts.fragment)
            if not found.is_file() or (
                fragment and found.suffix == ".html" and fragment not in page(found).ids
            ):
                broken.append(f"{path.parent.relative_to(site)}: {target}")
    assert seen > 500
    assert broken == []


def test_a_broken_link_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a text that is not there, and of a heading; nothing is put in the place of what was built
    before."""
    (tmp_path / "README.md").write_text("# A\n\n[one](gone.md), [two](#b)\n")
    monkeypatch.setattr(staging, "ROOT", tmp_path)
    monkeypatch.setattr(staging, "pages", lambda: ["README.md"])
    monkeypatch.setattr(staging, "navigation", lambda: [{"A": "README.md"}])
    said = build(tmp_path / "site")
    assert "gone.md" in said and "#b" in said
    assert not (tmp_path / "site").exists()


def test_the_site_asks_nobody_else(site: Path) -> None:
    """No script, style, font or picture comes from another host."""
    loaded = re.compile(r'<(?:script|img|link)\b[^>]*(?:src|href)="(https?:)?//[^"]*"')
    for path in site.rglob("index.html"):
        found = [
            hit[0] for hit in loaded.finditer(path.read_text()) if 'rel="canonical"' not in hit[0]
        ]
        assert found == [], path


def test_lists_as_the_site_reads_them() -> None:
    """What hosts of repositories take for a list becomes one, and code stays as it is."""
    text = (
        "Words:\n- one\n  more\n\n  ```sh\n  if a\n    b\n  ```\n- two\n\n"
        "```sh\n- none\n  as it is\n```\n"
    )
    assert as_python_markdown(text) == (
        "Words:\n\n- one\n    more\n\n    ```sh\n    if a\n      b\n    ```\n\n- two\n\n"
        "```sh\n- none\n  as it is\n```\n"
    )


def test_every_block_says_how_it_is_tried() -> None:
    """It is run, or a test is named that runs it, or why it is not run."""
    found = [
        f"{name}, {fault}"
        for name in pages()
        for fault in unsaid((ROOT / name).read_text(encoding="utf-8"))
    ]
    assert found == []


def test_the_tests_that_blocks_name_are_there() -> None:
    """In the file that is named."""
    named = {
        block.how.test
        for name in pages()
        for block in blocks((ROOT / name).read_text(encoding="utf-8"))
        if block.how is not None and block.how.test is not None
    }
    assert len(named) > 5
    for each in named:
        path, _, function = each.partition("::")
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        names = {node.name for node in ast.walk(tree) if hasattr(node, "name")}
        assert function in names, each


SH = "```sh\nls\n```\n"


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        (SH, 1),
        (f"<!-- run -->\n{SH}", 0),
        (f"<!-- run -->\n\n{SH}", 0),
        (f"<!-- run -->\nWords.\n{SH}", 1),
        (f"<!-- run -->\n{SH}{SH}", 1),
        (f'<!-- run as a.py meanwhile, prints "x" -->\n{SH}', 0),
        (f"<!-- run meanwhile -->\n{SH}", 1),
        (f"<!-- not run -->\n{SH}", 1),
        (f"<!-- not run: needs root -->\n{SH}", 0),
        (f"<!-- not run below: needs root -->\nWords.\n{SH}{SH}", 0),
        (f"<!-- run by tests/x.py::test_y -->\n{SH}", 0),
        (f"<!-- run below by tests/x.py::test_y -->\nWords.\n{SH}{SH}", 0),
        (f"<!-- run by hand -->\n{SH}", 1),
        (f"<!-- something else -->\n{SH}", 1),
        ("```\nls\n```\n```json\n{}\n```\n", 0),
        ("- a list\n\n  ```sh\n  ls\n  ```\n", 1),
    ],
)
def test_a_block_that_says_nothing_is_found(text: str, faults: int) -> None:
    """And so is a comment that nobody understands."""
    assert len(unsaid(text)) == faults


def test_what_is_said_holds_where_it_says() -> None:
    """A word for all that follow gives way to a block's own."""
    text = f"<!-- not run below: needs root -->\n{SH}<!-- run -->\n{SH}{SH}"
    one, two, three = blocks(text)
    assert one.how is not None and one.how.why_not == "needs root"
    assert two.how is not None and two.how.is_run
    assert three.how == one.how
    with pytest.raises(Unclear, match="line 1"):
        list(blocks(f"<!-- run, now -->\n{SH}"))


def test_an_indented_block_is_what_it_says() -> None:
    """Without the spaces of its list."""
    (block,) = blocks(
        '- a\n\n  <!-- run, prints "b" -->\n  ```sh\n  if b; then\n    c\n  fi\n  ```\n'
    )
    assert block.text == "if b; then\n  c\nfi\n"
    assert json.dumps(block.how and block.how.prints) == '"b"'
