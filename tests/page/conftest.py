"""A headless Chromium, and windows of it that watch what the page does."""

import asyncio
import contextlib
import os
import shutil
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from perdure.api.grants import Grants
from perdure.regions.cluster import NAMES, Cluster, free_ports
from perdure.regions.demo_agent import ScriptedAgent
from perdure.regions.demo_chat import PEOPLE, SESSION, chat_cluster, page_url
from playwright.async_api import Browser, Page, async_playwright

from perdure_client import Client

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
# It asks nobody but the regions, and starts without questions.
FLAGS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Windows are watched that nobody looks at.
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
)
DEADLINE_S = 20
WORDS_PER_S = 20.0
DESKTOP = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}


class Window:
    """Somebody's window at the page of a region."""

    def __init__(self, page: Page, name: str) -> None:
        self.page = page
        self.name = name
        self.errors: list[str] = []
        self.hosts: set[str] = set()
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda message: self._printed(message.text))
        page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))

    def _printed(self, text: str) -> None:
        # That a region which was killed does not answer is no fault of the page.
        if "Content Security Policy" in text:
            self.errors.append(text)

    async def say(self, text: str) -> None:
        """Send a message, as people do."""
        await self.page.fill("#message", text)
        await self.page.press("#message", "Enter")

    def article(self, number: int) -> Any:
        """A message, from 0."""
        return self.page.locator("article").nth(number)

    async def draft(self) -> str:
        return await self.page.input_value("#draft")


async def until(is_so: Callable[[], Any]) -> None:
    """Ask again until it is so."""
    async with asyncio.timeout(DEADLINE_S):
        while not await is_so():
            await asyncio.sleep(0)


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One Chromium for all the tests that a process runs: where it is told what to do."""
    if CHROMIUM is None:
        assert os.environ.get("CI") != "true", "the page is tested in Chromium: install it"
        pytest.skip("no chromium here: the page was not tried")
    root = ("--no-sandbox",) * (os.geteuid() == 0)
    profile = f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"
    command = [CHROMIUM, "--headless", "--remote-debugging-port=0", profile, *FLAGS, *root]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        said = []
        for line in process.stderr:
            said.append(line)
            if "DevTools listening on " in line:
                break
        else:
            pytest.fail(f"Chromium did not start: {''.join(said)}")
        # What it says later is read, or it would stop when the pipe is full.
        reading = threading.Thread(target=process.stderr.read)
        reading.start()
        yield said[-1].rpartition(" ")[2].strip()
        process.terminate()
        reading.join(DEADLINE_S)
    finally:
        process.kill()
        process.wait(DEADLINE_S)
        process.stderr.close()


@pytest.fixture
async def browser(chromium: str) -> AsyncIterator[Browser]:
    """The browser, with windows of this test alone."""
    async with async_playwright() as started:
        browser = await started.chromium.connect_over_cdp(chromium)
        yield browser
        await browser.close()


def mint(secret: bytes, claims: Any) -> str:
    """Signs grants, as ``perdure demo chat`` has it."""
    return Grants(secret).mint(claims)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """Three regions as processes, and the agent."""
    ports = free_ports(len(NAMES))
    async with (
        chat_cluster(tmp_path / "regions", ports, mint) as cluster,
        Client([f"http://127.0.0.1:{port}" for port in ports], cluster.grant) as client,
    ):
        agent = ScriptedAgent(client, lambda _: None, WORDS_PER_S)
        working = asyncio.create_task(agent.work(SESSION))
        yield cluster
        assert not working.done(), working
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


Open = Callable[..., "contextlib.AbstractAsyncContextManager[Window]"]


@pytest.fixture
def window(browser: Browser, cluster: Cluster) -> Open:
    """Opens a window at a region; what the page did wrong there fails the test."""

    @contextlib.asynccontextmanager
    async def opened(region: str, **options: Any) -> AsyncIterator[Window]:
        context = await browser.new_context(**{"viewport": DESKTOP, **options})
        context.set_default_timeout(DEADLINE_S * 1000)
        window = Window(await context.new_page(), PEOPLE[region])
        await window.page.goto(page_url(cluster.regions[region]))
        await window.page.wait_for_selector("#draft:enabled")
        yield window
        assert window.errors == []
        known = {urlsplit(region.url).netloc for region in cluster.regions.values()}
        assert window.hosts <= known
        await context.close()

    return opened
