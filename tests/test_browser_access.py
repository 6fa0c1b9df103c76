"""The chat page as axe-core judges it: no state of it breaks a rule, in either colours, language or width."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests import node_clients
from tests.browser import Stage, Tab, opened_at_the_end, staged

pytestmark = [pytest.mark.anyio, pytest.mark.process]

# Every rule that is on by default. What axe calls incomplete is for people to judge.
RUN = """async () => (await axe.run()).violations.map(({ id, impact, help, nodes }) => ({
  id, impact, help, nodes: nodes.map(({ target, html, failureSummary }) => ({ target, html, failureSummary })),
}))"""

PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


@pytest.fixture(scope="module")
def axe() -> str:
    try:
        folder = node_clients.install()
    except node_clients.Unavailable as error:
        pytest.skip(str(error))
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text()


@pytest.fixture(scope="module")
async def theatre(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with staged(tmp_path_factory.mktemp("page")) as built:
        yield built


@pytest.fixture
async def stage(theatre: Stage) -> AsyncIterator[Stage]:
    async with theatre.story() as ready:
        yield ready


def _told(found: dict[str, Any], colours: str) -> str:
    """One broken rule, as somebody who repairs it wants to read it."""
    places = [
        f"  at {' '.join(map(str, node['target']))}: {node['html'][:200]}\n    "
        + node["failureSummary"].replace("\n", "\n    ")
        for node in found["nodes"]
    ]
    return "\n".join([f"{found['id']} ({found['impact']}, {colours}): {found['help']}", *places])


async def clean(tab: Tab, axe: str) -> None:
    """Judges what the tab shows, light and dark."""
    await tab.page.evaluate(axe)
    broken: list[str] = []
    for colours in ("light", "dark"):
        await tab.page.emulate_media(color_scheme=colours, reduced_motion="reduce")
        # Colours that fade into each other are judged when they are there.
        await tab.page.evaluate("Promise.all(document.getAnimations().map((one) => one.finished.catch(() => null)))")
        broken += [_told(found, colours) for found in await tab.page.evaluate(RUN)]
    if broken:
        pytest.fail("\n\n".join(["axe found:", *broken]), pytrace=False)


async def test_an_empty_page(stage: Stage, axe: str) -> None:
    tab = await stage.tab()
    await tab.open()
    await tab.page.wait_for_selector(".welcome")
    await clean(tab, axe)


async def test_a_rich_answer(stage: Stage, axe: str) -> None:
    tab = await stage.tab()
    await tab.open()
    await tab.ask("rich")
    await tab.settled()
    await tab.page.wait_for_selector(".katex-display")
    await tab.page.wait_for_selector("code .hljs-keyword")
    await clean(tab, axe)


@pytest.mark.heavy
async def test_tools_open_and_closed_a_failed_and_a_stopped_turn(stage: Stage, axe: str) -> None:
    tab = await stage.tab()
    with opened_at_the_end(stage.gate()) as go:
        await tab.open()
        await tab.ask("tools")
        await tab.settled()
        await tab.ask("fails")
        await tab.settled(2)
        await tab.ask(f"held {go}")
        await tab.sees("first19")
        await tab.page.press(".composer textarea", "Escape")
        await tab.settled(3)
        await clean(tab, axe)
        await tab.page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        await clean(tab, axe)


async def test_an_answer_that_streams_and_a_question_in_line(stage: Stage, axe: str) -> None:
    tab = await stage.tab()
    with opened_at_the_end(stage.gate()) as go:
        await tab.open()
        await tab.ask(f"held {go}")
        await tab.sees("first19")
        await tab.ask("me next")
        await tab.sees("me next")
        await clean(tab, axe)
        go.touch()
        await tab.settled(2)


async def test_files_of_both_sides_and_chips(stage: Stage, axe: str) -> None:
    tab = await stage.tab()
    await tab.open()
    note = {"name": "note.txt", "mimeType": "text/plain", "buffer": b"twelve bytes"}
    await tab.page.set_input_files("input[type=file]", note)
    await tab.page.wait_for_selector(".chip")
    await tab.ask("files please")
    await tab.settled()
    await tab.page.locator(".answer .picture img").evaluate("image => image.decode()")
    await tab.page.set_input_files("input[type=file]", note)
    await tab.page.wait_for_selector(".chip")
    await clean(tab, axe)


@pytest.mark.heavy
async def test_editing_a_question(stage: Stage, axe: str) -> None:
    tab = await stage.tab()
    await tab.open()
    await tab.ask("hello")
    await tab.settled()
    await tab.page.hover(".question")
    await clean(tab, axe)
    await tab.page.click(".question button[aria-label='Edit']")
    await tab.page.wait_for_selector(".question textarea")
    await clean(tab, axe)


@pytest.mark.heavy
async def test_a_phone_with_the_list_shut_and_open(stage: Stage, axe: str) -> None:
    tab = await stage.tab(**PHONE)
    await tab.open()
    await tab.ask("tools")
    await tab.settled()
    await clean(tab, axe)
    await tab.page.click("[aria-label='Show conversations']")
    await tab.page.wait_for_selector(".list a")
    await clean(tab, axe)


@pytest.mark.heavy
@pytest.mark.parametrize("options", [{}, PHONE, {"locale": "zh-CN"}], ids=["wide", "phone", "chinese"])
async def test_calls_that_ask_and_their_answers(stage: Stage, axe: str, options: dict[str, Any]) -> None:
    tab = await stage.tab(**options)
    await tab.open()
    await tab.ask("buys")
    await tab.page.wait_for_function("() => document.querySelectorAll('.choices .primary:enabled').length === 3")
    await clean(tab, axe)
    await tab.page.locator(".choices .primary").first.click()
    await tab.page.wait_for_selector("[data-tool=allowed]")
    await tab.page.locator(".denial input").last.fill("not this one")
    await tab.page.locator(".denial button").last.click()
    await tab.page.wait_for_selector("[data-tool=denied]")
    await clean(tab, axe)
    assert await tab.page.evaluate("document.querySelector('.scroll').scrollWidth <= innerWidth")


async def test_in_chinese(stage: Stage, axe: str) -> None:
    tab = await stage.tab(locale="zh-CN")
    await tab.open()
    await tab.page.wait_for_selector("text=新对话")
    assert await tab.page.evaluate("document.documentElement.lang") == "zh-CN"
    await tab.ask("tools")
    await tab.settled()
    await clean(tab, axe)


@pytest.mark.heavy
async def test_the_question_for_a_token(stage: Stage, axe: str) -> None:
    tab = await stage.tab()
    answer = {"error": {"code": "unauthorized", "message": "no token"}}
    await tab.page.route("**/api/**", lambda route: route.fulfill(status=401, json=answer))
    await tab.open()
    await tab.page.wait_for_selector(".token input")
    await clean(tab, axe)
    await tab.page.fill(".token input", "not this one")
    await tab.page.press(".token input", "Enter")
    await tab.page.wait_for_selector(".token [role=alert]")
    await clean(tab, axe)
