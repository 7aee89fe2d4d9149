"""The page of the demo in a browser: two windows at two regions share a session with the agent.

What they look like at the end lies as pictures in the directory of each test.
"""

import asyncio
import re
from pathlib import Path

from perdure.regions.cluster import Cluster
from perdure.regions.demo_agent import AGENT, answer_to
from playwright.async_api import WebSocket, expect

from tests.page.conftest import DEADLINE_S, PHONE, Open, Window, until

expect.set_options(timeout=DEADLINE_S * 1000)
# While it is streaming, and far from its end.
BEGUN = re.compile(r"(\S+\s+){5,}")


async def here(window: Window, *people: tuple[str, str]) -> None:
    """So these are here, each at its region, and nobody else."""
    shown = window.page.locator("#people li")
    await expect(shown).to_have_count(len(people))
    for name, region in people:
        text = re.compile(f"{name}.*{region}$")
        await expect(shown.filter(has_text=text)).to_have_count(1)


async def test_two_windows_share_a_session(window: Open, tmp_path: Path) -> None:
    """Each sees who is here, the other's message, the answer as it streams, and that somebody is
    typing; one of them moves to a third region meanwhile, and Stop there cancels what the other
    asked for, and keeps the text; what is no text of the page's own is shown as text."""
    async with window("eu") as ana, window("us") as ben:
        for each, own in ((ana, "Ana"), (ben, "Ben")):
            you = {name: f"{name} .you." if name == own else name for name in ("Ana", "Ben")}
            await here(each, (AGENT, "eu"), (you["Ana"], "eu"), (you["Ben"], "us"))
        await ana.page.locator("#message").press_sequentially("<b>A story</b>, please")
        await expect(ben.page.locator("#typing")).to_have_text("Ana is typing…")
        await ana.page.press("#message", "Enter")
        for each in (ana, ben):
            await expect(each.article(0)).to_contain_text("<b>A story</b>, please")
            await expect(each.article(1)).to_have_attribute("data-status", "streaming")
            await expect(each.article(1).locator("p")).to_have_text(BEGUN)
        assert await ana.page.locator("article p *").count() == 0
        await ben.page.locator("#regions label").filter(has_text="ap").click()
        await expect(ben.page.locator("#where")).to_have_text("reading from ap")
        await here(ana, (AGENT, "eu"), ("Ana .you.", "eu"), ("Ben", "ap"))
        await expect(ben.article(1)).to_have_attribute("data-status", "streaming")
        await ben.page.click("#stop")
        for each in (ana, ben):
            await expect(each.article(1)).to_have_attribute("data-status", "cancelled")
            await expect(each.page.locator("#stop")).to_be_hidden()
        kept: list[str] = []

        async def is_same() -> bool:
            # What was on its way when Stop was heard of comes to one of them after the other.
            kept[:] = [
                await each.article(1).locator("p").text_content() or "" for each in (ana, ben)
            ]
            return kept[0] == kept[1]

        await until(is_same)
        assert BEGUN.match(kept[0])
        assert answer_to("A story").startswith(kept[0]) and answer_to("A story") != kept[0]
        await ana.page.screenshot(path=tmp_path / "stopped.png")


async def write_inside(window: Window, text: str) -> None:
    """Into the draft, behind its first character."""
    await window.page.focus("#draft")
    await window.page.keyboard.press("Control+Home")
    await window.page.keyboard.press("ArrowRight")
    await window.page.keyboard.type(text, delay=15)


async def compose(window: Window, other: Window) -> None:
    """Write a word of two characters with an input method, while the other one writes too: what is
    being composed is neither lost nor doubled."""
    keys = await window.page.context.new_cdp_session(window.page)
    place = {"selectionStart": 1, "selectionEnd": 1}
    received: list[bytes | str] = []

    def opened(socket: WebSocket) -> None:
        socket.on("framereceived", lambda frame: received.append(frame))

    window.page.on("websocket", opened)
    await window.page.locator("#regions label").filter(has_text="ap").click()
    await expect(window.page.locator("#draft-state")).to_have_text("in step with ap")
    await window.page.focus("#draft")
    await window.page.keyboard.press("Control+Home")
    await keys.send("Input.imeSetComposition", {"text": "に", **place})
    await other.page.keyboard.press("Control+End")
    await other.page.keyboard.type("!")

    async def has_come() -> bool:
        await window.draft()
        return any(isinstance(frame, bytes) and b"!" in frame for frame in received)

    await until(has_come)
    await keys.send("Input.imeSetComposition", {"text": "にほ", **place})
    await keys.send("Input.insertText", {"text": "日本"})
    for each in (window, other):
        await expect(each.page.locator("#draft")).to_have_value(re.compile(r"日本\[[^に]*\n!$"))


async def test_both_write_in_the_draft(window: Open, tmp_path: Path) -> None:
    """Two who type at one place at once, beside an agent that adds a line, end with the same text.
    The words of each stand together in it: so each caret stayed where it was. It fits a phone."""
    async with window("eu") as ana, window("us", viewport=PHONE, color_scheme="dark") as ben:
        await ana.page.locator("#draft").press_sequentially("[]")
        await expect(ben.page.locator("#draft")).to_have_value("[]")
        await ben.say("One line for the draft")
        words = {ana: "What Ana writes. ", ben: "And 😀 Ben, too. "}
        await asyncio.gather(*(write_inside(each, text) for each, text in words.items()))

        async def are_equal() -> bool:
            texts = [await each.draft() for each in words]
            return texts[0] == texts[1] and f"{AGENT}, " in texts[0]

        await until(are_equal)
        one, other = map(re.escape, words.values())
        whole = rf"\[({one}{other}|{other}{one})\]\n{AGENT}, .+\n"
        assert re.fullmatch(whole, await ana.draft()), await ana.draft()
        await compose(ana, ben)
        await expect(ben.article(1)).to_have_attribute("data-status", "complete")
        await ben.page.screenshot(path=tmp_path / "phone.png", full_page=True)
        for part in ("main", "#send", "#draft", "#regions"):
            box = await ben.page.locator(part).bounding_box()
            assert box is not None and box["x"] >= 0
            assert box["x"] + box["width"] <= PHONE["width"]


async def test_a_region_dies_while_its_window_reads(
    window: Open, cluster: Cluster, tmp_path: Path
) -> None:
    """The window, the agent and the draft go on at another region: the answer is there once, whole,
    and what is typed reaches the other window. It can move back when the region is there again."""
    asked = "Shall I kill the region?"
    async with window("eu") as ana, window("us") as ben:
        await ana.say(asked)
        await expect(ana.article(1).locator("p")).to_have_text(BEGUN)
        await expect(ana.article(1)).to_have_attribute("data-status", "streaming")
        typed = "written while the region died"
        await ana.page.focus("#draft")
        await asyncio.gather(ana.page.keyboard.type(typed, delay=20), cluster.kill("eu"))
        await expect(ana.page.locator("#where")).to_have_text(re.compile("reading from (us|ap)"))
        await ana.page.screenshot(path=tmp_path / "moved.png")
        for each in (ana, ben):
            await expect(each.article(1)).to_have_attribute("data-status", "complete")
            await expect(each.page.locator("article")).to_have_count(2)
            assert await each.article(1).locator("p").text_content() == answer_to(asked)
        for each in (ana, ben):
            await expect(each.page.locator("#draft")).to_have_value(typed)
        await cluster.start("eu")
        await cluster.ready("eu")
        await ana.page.locator("#regions label").filter(has_text="eu").click()
        await expect(ana.page.locator("#where")).to_have_text("reading from eu")
        await expect(ana.page.locator("#draft-state")).to_have_text("in step with eu")
        await expect(ana.page.locator("article")).to_have_count(2)
        await here(ana, (AGENT, "(us|ap)"), ("Ana .you.", "eu"), ("Ben", "us"))
        await expect(ana.page.locator("#stop")).to_be_hidden()
        await expect(ana.article(1)).to_have_attribute("data-status", "complete")
        await ana.page.screenshot(path=tmp_path / "back.png")
