"""The chat page below a path of somebody's own app: it loads, sends, streams and reloads there, files included."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from tests import page_agent
from tests.browser import FIRST, LIMIT_MS, PROFILE, SECOND, Tab, chromium, opened_at_the_end
from tests.gateways import running
from tests.http_server import served
from turnwire.channels.web.api import web_app

pytestmark = [pytest.mark.anyio, pytest.mark.process, pytest.mark.heavy]

NOTE = {"name": "note.txt", "mimeType": "text/plain", "buffer": b"twelve bytes"}


@pytest.fixture
async def tab(tmp_path: Path) -> AsyncIterator[Tab]:
    url = f"sqlite:///{tmp_path / 'turnwire.db'}"
    async with chromium() as browser, running(url, tmp_path, page_agent.agent) as gateway:
        app = Starlette(routes=[Mount("/apps/my agent", web_app(gateway))])
        async with served(app) as address:
            context = await browser.new_context(**PROFILE)
            yield Tab(await context.new_page(), f"{address}/apps/my%20agent")
            await context.close()


async def test_it_loads_sends_streams_and_reloads_there(tab: Tab, tmp_path: Path) -> None:
    paths: list[str] = []
    tab.page.on("request", lambda request: paths.append(request.url.removeprefix(tab.url)))
    await tab.open()
    with opened_at_the_end(page_agent.gate(tmp_path, "one")) as go:
        await tab.ask(f"held {go}")
        await tab.sees("first19")
        await tab.page.reload()
        await tab.sees("first19")
        go.touch()
        await tab.settled()
    await tab.page.wait_for_selector(".list a[aria-current=page]")
    shown = await tab.text()
    await tab.page.reload()
    await tab.settled()
    assert await tab.text() == shown
    assert (await tab.count(FIRST), await tab.count(SECOND)) == (1, 1)
    assert all(path.startswith("/") for path in paths), paths
    assert tab.complaints == []


async def test_files_and_approvals_work_there(tab: Tab) -> None:
    await tab.open()
    await tab.page.set_input_files("input[type=file]", NOTE)
    await tab.page.wait_for_selector(".chip")
    await tab.ask("files please")
    await tab.settled()
    await tab.page.locator(".answer .picture img").evaluate("image => image.decode()")
    for link in (".question a.file", ".answer a.file"):
        async with tab.page.expect_download(timeout=LIMIT_MS) as download:
            await tab.page.click(link)
        assert Path(await (await download.value).path()).stat().st_size > 0
    await tab.page.hover(".question")
    await tab.page.click(".question button[aria-label='Edit']")
    await tab.page.fill(".question textarea", "look at it")
    await tab.page.press(".question textarea", "Enter")
    await tab.sees("Got note.txt with 12 bytes.")
    await tab.settled()
    await tab.ask("pays")
    await tab.page.click(".choices .primary:enabled")
    await tab.sees("Paid pay-1.")
    await tab.settled(2)
    assert tab.complaints == []
