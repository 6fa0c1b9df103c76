"""The simulators' pages in Chromium: what people see of an answer while it is written, and what they do about it.

Each page comes from its own simulator; its console must stay clean.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.browser import PROFILE, Tab, chromium
from tests.feishu_calls import calling, markdown
from tests.wecom_bots import card, talking

pytestmark = [pytest.mark.anyio, pytest.mark.process]


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Any]:
    async with chromium() as started:
        yield started


@contextlib.asynccontextmanager
async def opened(browser: Any, url: str) -> AsyncIterator[Tab]:
    """A tab at a simulator's page, whose console must have said nothing in the end."""
    context = await browser.new_context(**PROFILE)
    try:
        tab = Tab(await context.new_page(), url)
        await tab.page.goto(f"{url}/_sim/")
        yield tab
        assert tab.complaints == []
    finally:
        await context.close()


async def write(tab: Tab, text: str) -> None:
    """Says something as the person of the chat that is shown."""
    await tab.page.fill("form input", text)
    await tab.page.press("form input", "Enter")


@pytest.mark.heavy
async def test_the_feishu_page_shows_a_card_while_it_is_written_and_its_end(browser: Any) -> None:
    async with calling() as calls, opened(browser, calls.sim.base_url) as tab:
        await write(tab, "What is <b>new</b>?")
        await tab.sees("@Sim bot What is <b>new</b>?")
        words = {"tag": "plain_text", "content": "Stop"}
        card_id, message_id = await calls.streaming(markdown("..."), {"tag": "button", "text": words})
        assert (await calls.content(card_id, "**So far**")).code == 0
        await tab.sees("So far")
        live = tab.page.locator(".card.live")
        assert await live.locator("strong").inner_text() == "So far"
        assert await live.locator(".generating").count() == 1
        await tab.page.click("text=Stop")
        await tab.sees("200340: nobody is there to hear of clicks")
        assert (await calls.content(card_id, "**So far** and no more")).code == 0
        assert (await calls.settings(card_id, {"streaming_mode": False})).code == 0
        await tab.sees("So far and no more")
        assert await tab.page.locator(".generating").count() == 0
        calls.sim.people.recall(message_id)
        await tab.sees("recalled a message")
        assert await tab.count("So far") == 0
        assert await tab.page.title() == "Feishu simulator"


async def test_the_wecom_page_shows_a_bubble_while_it_is_written_and_its_end(browser: Any) -> None:
    async with talking() as bot, opened(browser, bot.sim.base_url) as tab:
        await write(tab, "What is <b>new</b>?")
        asked = (await bot.told.get())["headers"]["req_id"]
        await tab.sees("What is <b>new</b>?")
        assert await bot.stream(asked, "") == 0
        await tab.sees("thinking…")
        assert await bot.stream(asked, "<think>Hm</think>**So far**") == 0
        await tab.sees("So far")
        assert await tab.page.locator(".bubble .reasoning").inner_text() == "Hm"
        assert await tab.page.locator(".bubble strong").inner_text() == "So far"
        assert await tab.page.locator(".generating").count() == 1
        assert await bot.stream(asked, "So far and no more", finish=True) == 0
        await tab.sees("So far and no more")
        assert await tab.page.locator(".generating").count() == 0
        assert await bot.reply(asked, "template_card", **card()) == 0
        await tab.page.click(".card button")
        assert (await bot.told.get())["body"]["event"]["template_card_event"]["event_key"] == "stop"
        assert await tab.page.title() == "WeCom simulator"
