"""The page for operators in a browser: what it says while a region is killed and comes back.

The region that serves it here says what it is told to. What the page looks like lies as pictures in
the directory of each test.
"""

import contextlib
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, expect

from tests.page.admin_region import GRANT, AdminRegion
from tests.page.conftest import DEADLINE_S, DESKTOP, Window

NARROW = {"width": 320, "height": 640}


@pytest.fixture
def region() -> Iterator[AdminRegion]:
    expect.set_options(timeout=DEADLINE_S * 1000)
    with AdminRegion() as region:
        yield region


@contextlib.asynccontextmanager
async def opened(
    browser: Browser, region: AdminRegion, fragment: str = "", **options: Any
) -> AsyncIterator[Window]:
    """The page; what it did wrong, and what it asked of anybody else, fails the test."""
    context = await browser.new_context(**{"viewport": DESKTOP, **options})
    context.set_default_timeout(DEADLINE_S * 1000)
    window = Window(await context.new_page(), "")
    await window.page.goto(f"{region.url}/admin{fragment}")
    yield window
    assert window.errors == []
    assert {f"http://{host}" for host in window.hosts} == {region.url}
    await context.close()


def content(path: Path) -> bytes:
    """Of a file that was saved."""
    return Path(path).read_bytes()


async def test_a_region_is_killed_and_comes_back(
    browser: Browser, region: AdminRegion, tmp_path: Path
) -> None:
    """The headline says so, with why and since when, without that anybody touches the page; it is
    read out once; and so it is when contact with the region itself is lost."""
    region.urls["us"] = "https://us.example"
    async with opened(browser, region) as window:
        page = window.page
        title, said = page.locator("#title"), page.locator("#announced")
        await expect(title).to_have_text("All 3 regions are well.")
        await page.screenshot(path=tmp_path / "well.png")
        region.kill("us", ago_s=4)
        await expect(title).to_have_text(re.compile(r"^us may be down: no sign of life for \d s"))
        region.kill("us")
        await expect(title).to_have_text(
            re.compile(r"^us is down: no sign of life for 1\d s, seen from ap and eu\.$")
        )
        await expect(said).to_have_text(re.compile("^us is down"))
        once = await said.text_content()
        sees = page.locator(".matrix tbody tr").filter(has_text=re.compile("^eu"))
        await expect(sees.locator("td").nth(2)).to_contain_text(re.compile(r"1\d s silent"))
        await page.screenshot(path=tmp_path / "killed.png", full_page=True)
        await expect(title).to_have_text(re.compile("for 1[4-9] s"))
        assert await said.text_content() == once
        region.revive("us")
        await expect(title).to_have_text("All 3 regions are well.")
        region.is_silent = True
        region.tell()
        await expect(title).to_have_text(re.compile(r"^No contact with eu since [\d:]+, trying"))
        there = page.locator("#elsewhere").get_by_role("button", name="Open this page at us")
        await expect(there).to_be_visible()
        region.is_silent = False
        await expect(title).to_have_text("All 3 regions are well.")
        await expect(there).to_be_hidden()


async def test_an_operator_comes_in_and_acts(browser: Browser, region: AdminRegion) -> None:
    """A grant is asked for, and not kept in the address; forgetting a region needs its name typed,
    and one that is forgotten is shown no more; what the region answers, also a refusal, is shown in
    its words; the slowest reader stands first and is disconnected; a session is saved as a file."""
    region.asks_grant = True
    region.kill("us")
    async with opened(browser, region) as window:
        page = window.page
        await page.get_by_label("Grant", exact=True).fill("a wrong one")
        await page.get_by_role("button", name="Enter").click()
        await expect(page.locator("#entrance-said")).to_have_text(re.compile("refused: this needs"))
        await page.goto(f"{region.url}/admin#grant={GRANT}&view=regions")
        await page.reload()
        await expect(page.locator("#title")).to_have_text(re.compile("^us is down"))
        assert GRANT not in page.url
        await page.get_by_role("button", name="Forget for good…").click()
        yes = page.get_by_role("button", name="Forget it for good")
        await expect(yes).to_be_disabled()
        await page.get_by_label("Type “us” to confirm:").fill("eu")
        await expect(yes).to_be_disabled()
        await page.get_by_label("Type “us” to confirm:").fill("us")
        region.refuses["regions/us/forget"] = (409, "conflict", "ap does not see us as down")
        await yes.click()
        result = page.locator("#question .result")
        await expect(result).to_have_text("It was not done: ap does not see us as down (conflict)")
        assert region.acted == [("POST", "regions/us/forget", {"confirm": "us"})]
        await page.get_by_role("button", name="Close").click()
        cards = page.locator(".card")
        await expect(cards).to_have_count(3)
        region.forgotten = {"us"}
        region.tell()
        await expect(page.locator("#title")).to_have_text("All 2 regions are well.")
        await expect(cards).to_have_count(2)
        region.forgotten = set()
        region.tell()
        await page.get_by_role("button", name="Verify all now…").click()
        await page.get_by_role("button", name="Compare now").click()
        await expect(result).to_have_text(re.compile("Not reached, so not compared: us"))
        await page.keyboard.press("Escape")
        await expect(page.locator("#question")).to_be_hidden()
        await page.get_by_role("link", name="Connections", exact=True).click()
        slowest = page.locator("#view tbody tr").first
        await expect(slowest).to_contain_text("412 events, 1.84 MB")
        await slowest.get_by_role("button", name="Disconnect…").click()
        await page.get_by_role("button", name="Disconnect", exact=True).click()
        await expect(result).to_have_text("It is disconnected.")
        assert region.acted[-1] == ("POST", "connections/c0/disconnect", {})
        await page.get_by_role("button", name="Close").click()
        await slowest.get_by_role("link").click()
        await page.get_by_role("button", name="Export").click()
        async with page.expect_download() as downloading:
            await page.locator("#question").get_by_role("button", name="Export").click()
        download = await downloading.value
        assert download.suggested_filename == "acme_support-0003.ndjson"
        assert content(await download.path()) == b'{"kind":"session"}\n'


async def test_every_view_fits_a_narrow_phone(
    browser: Browser, region: AdminRegion, tmp_path: Path
) -> None:
    """No view is wider than 320 pixels; what others wrote is shown as text; rows stay the same
    elements while they are told anew, so the focus stays."""
    region.kill("us")
    async with opened(browser, region, viewport=NARROW, color_scheme="dark") as window:
        page = window.page
        for name in ("Rates", "Sessions", "Connections", "Storage", "Errors", "Regions"):
            await page.get_by_role("link", name=name, exact=True).click()
            rows = page.locator("#view :is(.rows tbody tr, .plot svg)")
            await expect(rows.first).to_be_visible()
            too_wide = "document.documentElement.scrollWidth - innerWidth"
            assert await page.evaluate(too_wide) <= 0, name
        await page.get_by_role("link", name="Sessions", exact=True).click()
        await page.get_by_label("Search").fill("bold")
        await expect(page.locator("#view tbody tr")).to_have_count(1)
        link = page.get_by_role("link", name="<b>bold</b>")
        await link.focus()
        async with page.expect_response(re.compile("/admin/api/sessions")):
            pass
        await expect(link).to_be_focused()
        await link.click()
        happened = page.get_by_role("table", name="Timeline, the newest first")
        await expect(happened).to_contain_text("ana <b> sent a complete message")
        await expect(happened).to_contain_text("bot-2 repeated 12 items that were there already")
        await page.get_by_role("button", name="Older").click()
        await expect(happened.locator("tbody tr")).to_have_count(16)
        assert await page.evaluate(too_wide) <= 0
        await page.screenshot(path=tmp_path / "phone.png", full_page=True)
        await page.get_by_role("button", name="Cancel…").click()
        await page.get_by_role("button", name="Cancel the run").click()
        await expect(page.locator("#question .result")).to_have_text("It is cancelled.")
        assert region.acted == [("POST", "sessions/<b>bold</b>/cancel", {"message": "m-9"})]
