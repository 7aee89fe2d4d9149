"""The page for operators at three real regions: one is killed and comes back, then the page's own.

What it looks like meanwhile lies as pictures in the directory of the test.
"""

import re
from pathlib import Path

from perdure.regions.cluster import NAMES, free_ports
from perdure.regions.demo_chat import chat_cluster
from playwright.async_api import Browser, Page, expect

from perdure_client import Client
from tests.page.conftest import DEADLINE_S, DESKTOP, Window, mint

# So soon it is said that a region may be down, and how that it is well again.
SEEN_MS = 15_000


async def take_over(client: Client) -> None:
    """An answer that a second producer takes over from the first."""
    session = client.session("chat")
    await session.send("user", "A story, <b>please</b>", author="ana")
    first = await session.open("assistant", id="story", author="bot", producer="bot-1")
    await first.write("Once upon ")
    await first.flush()
    second = await session.claim("story", producer="bot-2")
    await second.write("a time.")
    await second.end()
    await first.aclose()
    await second.aclose()


async def look_into(page: Page) -> None:
    """Search for the session, read what happened to it, and compare it in all regions."""
    await page.get_by_role("link", name="Sessions", exact=True).click()
    await page.get_by_label("Search").fill("cha")
    await page.get_by_role("link", name="chat", exact=True).click()
    happened = page.get_by_role("table", name="Timeline, the newest first")
    for text in (
        "ana sent a complete message",
        "bot-2 took the message over, epoch 2",
        "ended: com",
    ):
        await expect(happened).to_contain_text(text)
    await expect(page.get_by_label("Newest messages")).to_contain_text("A story, <b>please</b>")
    await page.get_by_role("button", name="Verify now…").click()
    await page.get_by_role("button", name="Compare now").click()
    result = page.locator("#question .result")
    await expect(result).to_have_text("ap and us hold the same: 1 session.")
    await page.get_by_role("button", name="Close").click()


async def test_regions_are_killed_and_come_back(browser: Browser, tmp_path: Path) -> None:
    """Within seconds the headline names the region, and says when all is well again; when the one
    that serves the page is killed, the page says so and goes on at another one, in one step."""
    expect.set_options(timeout=DEADLINE_S * 1000)
    ports = free_ports(len(NAMES))
    async with chat_cluster(tmp_path / "regions", ports, mint) as cluster:
        context = await browser.new_context(viewport=DESKTOP)
        window = Window(await context.new_page(), "")
        page, title = window.page, window.page.locator("#title")
        await page.goto(f"{cluster.regions['eu'].url}/admin#grant={cluster.grant}")
        async with Client([cluster.regions["eu"].url], cluster.grant) as client:
            await take_over(client)
        await expect(title).to_have_text("All 3 regions are well.")
        await look_into(page)
        await page.get_by_role("link", name="Regions", exact=True).click()
        await cluster.kill("us")
        await expect(title).to_have_text(re.compile("^us (may be|is) down"), timeout=SEEN_MS)
        await page.screenshot(path=tmp_path / "killed.png", full_page=True)
        await cluster.start("us")
        await cluster.ready("us")
        await expect(title).to_have_text("All 3 regions are well.", timeout=SEEN_MS)
        await cluster.kill("eu")
        await expect(title).to_have_text(re.compile("^No contact with eu since"))
        await page.locator("#elsewhere").get_by_role("button", name="at us").click()
        await expect(title).to_have_text(re.compile("^eu (may be|is) down"), timeout=SEEN_MS)
        assert cluster.grant is not None and cluster.grant not in page.url
        await page.screenshot(path=tmp_path / "moved.png", full_page=True)
        assert window.errors == []
        await context.close()
