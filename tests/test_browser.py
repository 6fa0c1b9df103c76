"""The chat page in Chromium, against a real server: whatever is cut, killed or reloaded, it shows what is stored.

After every story the settled page is compared with the same page loaded anew, and the console must be clean.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.browser import AGENT, FIRST, LIMIT_MS, SECOND, WATCHED, Stage, opened_at_the_end, staged
from tests.server_process import served

pytestmark = [pytest.mark.anyio, pytest.mark.process]


@pytest.fixture(scope="module")
async def theatre(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with staged(tmp_path_factory.mktemp("page")) as built:
        yield built


@pytest.fixture
async def stage(theatre: Stage) -> AsyncIterator[Stage]:
    async with theatre.story() as ready:
        yield ready


async def test_an_answer_streams_and_stays(stage: Stage) -> None:
    tab = await stage.tab()
    with opened_at_the_end(stage.gate()) as go:
        await tab.open()
        await tab.ask(f"held {go}")
        await tab.sees("first19")
        assert await tab.page.locator("[data-state=live]").count() == 1
        go.touch()
        await tab.sees("second19")
        await stage.finish(tab)
    assert await tab.count(FIRST) == 1
    assert await tab.count(SECOND) == 1
    assert await tab.outcome() == "done"


async def test_a_reload_in_the_middle_shows_the_whole_answer_once(stage: Stage) -> None:
    tab = await stage.tab()
    with opened_at_the_end(stage.gate()) as go:
        await tab.open()
        await tab.ask(f"held {go}")
        await tab.sees("first19")
        await tab.page.reload()
        await tab.sees("first19")
        assert await tab.count(FIRST) == 1
        go.touch()
        await stage.finish(tab)
    assert (await tab.count(FIRST), await tab.count(SECOND)) == (1, 1)


async def test_a_second_tab_follows_what_the_first_one_asks(stage: Stage) -> None:
    one, two = await stage.tab(), await stage.tab()
    await one.open()
    await one.ask("hello there")
    await one.settled()
    await two.open(one.conversation)
    await two.settled()
    with opened_at_the_end(stage.gate()) as go:
        await one.ask(f"held {go}")
        await two.sees("first19")
        go.touch()
        await stage.finish(one, two, answers=2)
    assert await two.count(SECOND) == 1


async def test_stop_ends_the_answer_and_says_so(stage: Stage) -> None:
    tab = await stage.tab()
    with opened_at_the_end(stage.gate()) as go:
        await tab.open()
        await tab.ask(f"held {go}")
        await tab.sees("first19")
        await tab.page.press(".composer textarea", "Escape")
        await stage.finish(tab)
    assert await tab.outcome() == "stopped"
    assert await tab.count("You stopped this answer.") == 1
    assert await tab.count("second0") == 0


async def test_a_killed_server_comes_back_and_the_answer_is_called_interrupted(stage: Stage) -> None:
    tab = await stage.tab(offline=False)
    with opened_at_the_end(stage.gate()) as go:
        await tab.open()
        await tab.ask(f"held {go}")
        await tab.sees("first19")
        await stage.server.kill()
        await tab.page.wait_for_selector(".trouble span")
        await stage.server.start()
        await tab.page.wait_for_selector(".outcome.interrupted")
        await tab.page.wait_for_selector(".trouble span", state="detached")
        await stage.finish(tab, cut=True)
    assert await tab.count(FIRST) == 1
    assert await tab.outcome() == "interrupted"


async def test_a_while_offline_costs_nothing(stage: Stage) -> None:
    tab = await stage.tab(offline=False)
    with opened_at_the_end(stage.gate()) as go:
        await tab.open()
        await tab.ask(f"held {go}")
        await tab.sees("first19")
        await tab.page.evaluate(WATCHED)
        await tab.page.context.set_offline(True)
        await tab.page.wait_for_selector(".trouble span")
        await tab.page.context.set_offline(False)
        await tab.page.wait_for_selector(".trouble span", state="detached")
        assert await tab.page.locator("[data-state=live]").count() == 1
        go.touch()
        await tab.sees("second19")
        assert await tab.page.evaluate("window.most") == 1
        await stage.finish(tab, cut=True)
    assert (await tab.count(FIRST), await tab.count(SECOND)) == (1, 1)
    assert await tab.outcome() == "done"


SHOWN = """state => {
  Object.defineProperty(document, "visibilityState", { value: state, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}"""


@pytest.mark.heavy
async def test_a_tab_that_nobody_sees_gives_its_connections_back(stage: Stage) -> None:
    tab = await stage.tab(offline=False)
    with opened_at_the_end(stage.gate()) as go:
        await tab.page.clock.install()
        await tab.open()
        await tab.ask(f"held {go}")
        await tab.sees("first19")
        await tab.page.evaluate(SHOWN, "hidden")
        await tab.page.clock.fast_forward(11_000)
        async with asyncio.timeout(LIMIT_MS / 1000), stage.server.client() as client:
            while "turnwire_readers 0.0" not in (await client.get("/metrics")).text:
                pass
        go.touch()
        assert await tab.count("second0") == 0
        await tab.page.evaluate(SHOWN, "visible")
        await stage.finish(tab)
    assert (await tab.count(FIRST), await tab.count(SECOND)) == (1, 1)


async def test_a_question_asked_offline_is_sent_once(stage: Stage) -> None:
    tab = await stage.tab(offline=False)
    await tab.open()
    await tab.page.context.set_offline(True)
    await tab.ask("hello from the tunnel")
    await tab.page.wait_for_selector(".question[data-state=sending]")
    await tab.page.context.set_offline(False)
    await stage.finish(tab, cut=True)
    assert await tab.count("You said: hello from the tunnel") == 1


async def test_a_tool_error_and_a_failed_turn_say_why(stage: Stage) -> None:
    tab = await stage.tab()
    await tab.open()
    await tab.ask("tools")
    await tab.settled()
    assert await tab.page.locator("[data-tool=done]").count() == 1
    assert await tab.page.locator("[data-tool=failed]").count() == 1
    assert await tab.count("the weather service is down") == 1
    assert await tab.outcome() == "done"
    await tab.ask("fails")
    await tab.settled(2)
    assert await tab.outcome() == "failed"
    assert await tab.count("the model's account is empty") == 1
    assert await tab.count("I begin,") == 1
    await stage.finish(tab, answers=2)


async def test_a_rewrite_leaves_only_the_right_text(stage: Stage) -> None:
    tab = await stage.tab()
    await tab.open()
    await tab.ask("rewrites")
    await stage.finish(tab)
    assert await tab.count("a wrong beginning") == 0
    assert await tab.count("a right answer") == 1


@pytest.mark.heavy
async def test_editing_and_answering_again_replace_what_stood_there(stage: Stage) -> None:
    tab = await stage.tab()
    await tab.open()
    await tab.ask("firstt")
    await tab.settled()
    await tab.page.click(".answer button[aria-label='Answer again']")
    await tab.settled()
    await stage.finish(tab)
    assert await tab.count("You said: firstt") == 1
    await tab.page.hover(".question")
    await tab.page.click(".question button[aria-label='Edit']")
    await tab.page.fill(".question textarea", "second")
    await tab.page.press(".question textarea", "Enter")
    await tab.sees("You said: second")
    await stage.finish(tab)
    assert await tab.count("firstt") == 0


async def test_questions_wait_in_line(stage: Stage) -> None:
    tab = await stage.tab()
    with opened_at_the_end(stage.gate()) as go:
        await tab.open()
        await tab.ask(f"held {go}")
        await tab.sees("first19")
        await tab.ask("me next")
        await tab.sees("me next")
        go.touch()
        await tab.sees("You said: me next")
        await stage.finish(tab, answers=2)
    text = await tab.text()
    assert text.index("second19") < text.index("me next")


async def test_a_background_job_is_seen_and_its_result_is_told(stage: Stage) -> None:
    one, two = await stage.tab(), await stage.tab()
    with opened_at_the_end(stage.gate()) as go:
        await one.open()
        await one.ask(f"leaves {go}")
        await one.settled()
        await two.open(one.conversation)
        for tab in (one, two):
            await tab.sees("the archive")
            await tab.sees("halfway")
        go.touch()
        for tab in (one, two):
            await tab.page.wait_for_selector(".report[data-status=done]")
            await tab.page.wait_for_selector(".job", state="detached")
        await stage.finish(one, two, answers=2)
    assert await two.count("all is archived") == 2


@pytest.mark.heavy
async def test_a_background_job_is_stopped_by_a_click_and_every_tab_says_so(stage: Stage) -> None:
    one, two = await stage.tab(), await stage.tab()
    with opened_at_the_end(stage.gate()) as go:
        await one.open()
        await one.ask(f"leaves {go}")
        await one.settled()
        await two.open(one.conversation)
        for tab in (one, two):
            await tab.sees("halfway")
        await one.page.get_by_role("button", name="Stop the background job the archive").click()
        for tab in (one, two):
            await tab.page.wait_for_selector(".report[data-status=stopped]")
            await tab.page.wait_for_selector(".job", state="detached")
        await stage.finish(one, two, answers=2)
    assert await two.count("was stopped by local") == 1
    assert await two.count("You stopped this answer.") == 0


async def test_markdown_is_drawn_and_nothing_in_it_runs(stage: Stage) -> None:
    tab = await stage.tab()
    await tab.open()
    await tab.ask("rich")
    await tab.settled()
    await tab.page.wait_for_selector(".katex-display")
    await tab.page.wait_for_selector("code .hljs-keyword")
    assert await tab.page.locator(".markdown table tr").count() == 3
    assert await tab.page.locator(".markdown b, .markdown img, .markdown a[href^=javascript]").count() == 0
    link = tab.page.locator(".markdown a", has_text="the page")
    assert await link.get_attribute("rel") == "noopener noreferrer"


async def test_a_long_history_opens_at_its_end(stage: Stage) -> None:
    parts = [{"type": "text", "text": "word " * 40}]
    async with stage.server.client() as client:
        for index in range(40):
            message = {
                "id": f"m{index}",
                "role": "user",
                "parts": [*parts, {"type": "text", "text": f"number {index}"}],
            }
            answer = await client.post("/api/chat", json={"id": "long", "messages": [message]})
            assert answer.status_code == 200
    tab = await stage.tab()
    await tab.open("long")
    await tab.settled(40)
    last = tab.page.locator(".answer").last
    await last.wait_for()
    assert await last.evaluate("node => node.getBoundingClientRect().top < innerHeight")
    await stage.finish(tab, answers=40)


async def test_the_list_searches_and_switches_and_the_words_change(stage: Stage) -> None:
    tab = await stage.tab(offline=False)
    await tab.open()
    await tab.ask("about apples")
    await tab.settled()
    await tab.page.click("text=New chat")
    await tab.page.wait_for_selector(".welcome")
    await tab.ask("about pears")
    await tab.settled()
    await tab.page.wait_for_selector(".list a:has-text('apples')")
    await tab.page.wait_for_selector(".list a:has-text('pears')")
    await tab.page.fill("[type=search]", "apple")
    await tab.page.wait_for_function("() => document.querySelectorAll('.list li').length === 1")
    await tab.page.click(".list a")
    await tab.sees("You said: about apples")
    assert await tab.count("pears") == 0
    await tab.page.click("[aria-label*='Switch to Chinese']")
    await tab.page.wait_for_selector("text=新对话")
    assert tab.complaints == []


@pytest.mark.heavy
async def test_a_search_asks_the_server_and_finds_what_the_list_does_not_hold(stage: Stage) -> None:
    async with stage.server.client() as client:
        for index in range(130):
            words = "the old Zebra" if index < 2 else f"number {index}"
            message = {"id": "m", "role": "user", "parts": [{"type": "text", "text": f"{words} of {index}"}]}
            assert (await client.post("/api/chat", json={"id": f"listed{index}", "messages": [message]})).is_success
    tab = await stage.tab()
    await tab.open()
    await tab.page.wait_for_function("() => document.querySelectorAll('.list li').length === 100")
    asked: list[str] = []
    tab.page.on("request", lambda request: asked.append(request.url))
    await tab.page.locator("[type=search]").press_sequentially("zebra")
    await tab.page.wait_for_function("() => document.querySelectorAll('.list li').length === 2")
    await tab.page.wait_for_selector(".list a:has-text('the old Zebra of 0')")
    assert await tab.page.locator(".older").count() == 0
    assert [url for url in asked if "before=" in url] == []
    assert len([url for url in asked if "search=" in url]) == 1
    await tab.page.fill("[type=search]", "zebra crossing")
    await tab.page.wait_for_selector(".side .none:has-text('Nothing found')")
    await tab.page.fill("[type=search]", "number")
    await tab.page.wait_for_selector(".list a:has-text('number 129')")
    await tab.page.click(".older")
    await tab.page.wait_for_function("() => document.querySelectorAll('.list li').length === 128")
    await tab.page.fill("[type=search]", "")
    await tab.page.wait_for_selector(".list a:has-text('number 129')")
    await tab.page.click(".older")
    await tab.page.wait_for_selector(".list a:has-text('the old Zebra of 0')")
    assert tab.complaints == []


@pytest.mark.heavy
async def test_a_server_with_tokens_asks_for_one_and_shows_files_with_it(stage: Stage, tmp_path: Path) -> None:
    settings = '[channels.web]\nauth = "token"\n[channels.web.tokens]\nalice = "a-long-enough-secret-token"\n'
    async with served(tmp_path, use=AGENT, settings=settings) as server:
        tab = await Stage(server, stage.browser).tab()
        await tab.page.goto(server.url)
        await tab.page.fill(".token input", "not this one")
        await tab.page.press(".token input", "Enter")
        await tab.page.wait_for_selector(".token [role=alert]")
        await tab.page.fill(".token input", "a-long-enough-secret-token")
        await tab.page.press(".token input", "Enter")
        await tab.page.wait_for_selector(".token", state="detached")
        await tab.ask("files please")
        await tab.settled()
        await tab.page.locator(".answer .picture img").evaluate("image => image.decode()")
        assert (await tab.page.locator(".answer .picture img").get_attribute("src")).startswith("blob:")
        await tab.page.context.close()


async def test_it_fits_a_phone(stage: Stage) -> None:
    tab = await stage.tab(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    await tab.open()
    await tab.ask("rich")
    await tab.settled()
    await tab.page.wait_for_selector(".katex-display")
    assert await tab.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert await tab.page.evaluate("document.querySelector('.scroll').scrollWidth <= innerWidth")
    await tab.page.click("[aria-label='Show conversations']")
    await tab.page.wait_for_selector(".list a")
    assert tab.complaints == []
