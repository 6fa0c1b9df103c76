"""An agent that never stops talking ends its turn, not the process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.asgi import Client
from tests.gateways import running
from turnwire.channels.web.api import web_app
from turnwire.events import Reasoning, ToolCall, ToolResult
from turnwire.testing import FakeClock
from turnwire.turn import Turn

pytestmark = pytest.mark.anyio

LIMIT = 64 * 1024
WORDS = "on and on " * 100


@pytest.mark.parametrize("kind", ["text", "reasoning", "tools"])
async def test_an_answer_without_end_fails_and_keeps_what_was_said(store_url: str, tmp_path: Path, kind: str) -> None:
    async def agent(turn: Turn) -> AsyncIterator[Any]:
        number = 0
        while turn.text == "go":
            number += 1
            if kind == "text":
                yield WORDS
            elif kind == "reasoning":
                yield Reasoning(WORDS)
            else:
                yield ToolCall(id=f"call-{number}", name="search", input={})
                yield ToolResult(id=f"call-{number}", output=WORDS)
        yield "well"

    async with running(store_url, tmp_path, agent, clock=FakeClock(), turns__max_answer_bytes=LIMIT) as gateway:
        client = Client(web_app(gateway))
        events = (await client.ask("go").done()).events()
        own = events[-1]["messageMetadata"]["turnwire"]
        assert own["outcome"] == "failed"
        assert own["reason"] == f"The answer grew beyond {LIMIT} bytes."
        said = "".join(str(event.get("delta", "")) + str(event.get("output", "")) for event in events)
        assert LIMIT // 2 < len(said) < LIMIT + len(WORDS)
        after = (await client.ask("again").done()).events()
        assert after[-1]["messageMetadata"]["turnwire"]["outcome"] == "done"
