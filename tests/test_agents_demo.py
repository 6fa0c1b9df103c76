"""The demo agent: what it answers, from where, and by which tools."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnwire.agents.demo import MODEL, _pieces, demo_agent
from turnwire.agents.docs_index import DocsIndex, load_pages, question_words, split_sections
from turnwire.events import AgentEvent, Reasoning, Step, ToolCall, ToolError, ToolResult, Usage
from turnwire.framer import Framer
from turnwire.media import FileRefused
from turnwire.testing.clock import FakeClock

pytestmark = pytest.mark.anyio

START = """# Getting started

Turnwire needs Python 3.11.

## Install

Run `pip install turnwire` in a fresh environment.

```sh
# not a heading
pip install turnwire
```

## Start the server

`turnwire serve` prints one line when it is ready.
"""
FEISHU = """# Feishu

## Create an app

Open the developer console and add a bot.

## Cards

A card is updated at most every 300 ms; set `stream_life_s` to change its lifetime.
"""
CHINESE = """# Turnwire

## 飞书卡片

每个回合只有一张卡片，卡片会收敛到完整的回答。

## 恢复

进程被杀死之后，读者从游标处继续。
"""
PAGES = {"docs/start.md": START, "docs/feishu.md": FEISHU, "README.zh-CN.md": CHINESE}


class FakeTurn(SimpleNamespace):
    """What the demo agent needs of a turn; keeps what was attached."""

    def __init__(self, *texts: str, refuse: str | None = None) -> None:
        messages = [
            {"id": f"m{n}", "role": "user", "parts": [{"type": "text", "text": t}]} for n, t in enumerate(texts)
        ]
        super().__init__(id="turn_1", text=texts[-1], messages=messages, quote=None, attached=[], refuse=refuse)

    async def attach(self, source: Any, *, name: str | None = None, media_type: str | None = None) -> Any:
        if self.refuse:
            raise FileRefused(self.refuse)
        self.attached.append((source, name, media_type))
        return SimpleNamespace(name=name, url=f"/files/f1/{name}")


class Said:
    """Everything a turn said, and that the framer took it."""

    def __init__(self, turn: FakeTurn, events: list[AgentEvent]) -> None:
        self.turn = turn
        self.events = events
        self.text = "".join(event for event in events if isinstance(event, str))
        self.reasoning = "".join(event.text for event in events if isinstance(event, Reasoning))
        self.calls = [event for event in events if isinstance(event, ToolCall)]
        self.results = {event.id: event.output for event in events if isinstance(event, ToolResult)}
        framer = Framer("m1")
        framer.start()
        for event in events:
            framer.feed(event)
        assert framer.open_tools == 0
        framer.finish("done")


async def ask(*texts: str, pages: dict[str, str] = PAGES, refuse: str | None = None) -> Said:
    turn = FakeTurn(*texts, refuse=refuse)
    agent: Any = demo_agent(pace=0, docs=DocsIndex(pages))
    async with aclosing(agent(turn)) as events:
        return Said(turn, [event async for event in events])


async def test_a_question_is_answered_from_the_section_that_fits() -> None:
    said = await ask("How do I install it?")
    assert "Run `pip install turnwire` in a fresh environment." in said.text
    assert "**Install** (`docs/start.md`)" in said.text
    assert "install" in said.reasoning
    assert [call.name for call in said.calls] == ["search", "read"]
    assert said.results["search-1"]["hits"][0]["file"] == "docs/start.md"
    assert said.results["read"]["section"] == "Install"
    assert said.events[-1] == Usage(model=MODEL, finish_reason="stop")
    assert said.turn.attached == []


async def test_several_terms_are_searched_for_in_parallel_before_a_new_step() -> None:
    said = await ask("How long is the lifetime of a Feishu card?")
    kinds = [type(event) for event in said.events if not isinstance(event, (str, Reasoning))]
    assert kinds == [ToolCall, ToolCall, ToolResult, ToolResult, Step, ToolCall, ToolResult, Step, Usage]
    assert [call.input["query"] for call in said.calls[:2]] == ["long lifetime", "Feishu card"]
    assert "at most every 300 ms" in said.text


async def test_the_answer_comes_in_small_pieces() -> None:
    said = await ask("install")
    deltas = [event for event in said.events if isinstance(event, str)]
    assert len(deltas) > 10
    assert max(map(len, deltas)) <= 20


async def test_text_in_code_is_quoted_as_written() -> None:
    said = await ask("install")
    assert "```sh\n# not a heading\npip install turnwire\n```" in said.text


@pytest.mark.parametrize(
    "question",
    [
        "Who won the world cup in 2022?",
        "Which football player got a red card yesterday?",
        "zebra",
        '") OR title:* --',
        "* NEAR(",
        "NOT",
    ],
)
async def test_what_the_documentation_does_not_know_is_admitted(question: str) -> None:
    said = await ask(question)
    assert "I found nothing about that" in said.text or "Hello!" in said.text
    assert said.text.count("\n- ") == 3
    assert "read" not in said.results


@pytest.mark.parametrize("greeting", ["hi", "Hello!", "thanks", "", "？"])
async def test_a_greeting_is_answered_with_what_can_be_asked(greeting: str) -> None:
    said = await ask(greeting)
    assert said.text.startswith("Hello!")
    assert said.text.count("\n- ") == 3
    assert said.calls == []


async def test_chinese_is_answered_in_chinese_from_the_chinese_page() -> None:
    said = await ask("进程被杀死后怎么恢复？")
    assert said.text.startswith("摘自 **恢复**（`README.zh-CN.md`）：")
    assert "读者从游标处继续。" in said.text
    assert said.reasoning.startswith("问题涉及")


async def test_chinese_finds_an_english_page_when_there_is_no_other() -> None:
    said = await ask("如何安装？", pages={"docs/start.md": START})
    assert said.text.startswith("摘自 **Install**")
    assert "Run `pip install turnwire`" in said.text


async def test_what_chinese_asks_in_vain_is_admitted_in_chinese() -> None:
    assert "没有找到" in (await ask("今天天气如何？")).text
    assert (await ask("你好")).text.startswith("你好！")


@pytest.mark.parametrize("question", ["Attach the page about Feishu cards", "请附上关于飞书卡片的文件"])
async def test_the_page_is_attached_when_it_is_asked_for(question: str) -> None:
    said = await ask(question, pages={"docs/feishu.md": FEISHU, "docs/start.md": START})
    assert said.turn.attached == [(FEISHU.encode(), "feishu.md", "text/markdown")]
    assert said.calls[-1].name == "attach"
    assert said.results["attach"] == {"name": "feishu.md", "url": "/files/f1/feishu.md"}
    assert "at most every 300 ms" in said.text
    assert said.text.rstrip("。.").endswith("feishu.md")


async def test_a_file_without_a_topic_is_the_one_asked_about_before() -> None:
    said = await ask("How do I install it?", "Please attach that file")
    assert [name for _, name, _ in said.turn.attached] == ["start.md"]


async def test_a_file_that_is_refused_is_said_to_be() -> None:
    said = await ask("attach the install page", refuse="start.md is too large")
    assert ToolError(id="attach", error="start.md is too large") in said.events
    assert "I could not attach the page: start.md is too large." in said.text


async def test_a_long_section_is_cut_honestly() -> None:
    pages = {"docs/long.md": "# Limits\n\n" + "\n\n".join(f"Limit number {n} is explained here." for n in range(200))}
    said = await ask("limit explained", pages=pages)
    assert "Limit number 0 is explained here." in said.text
    assert "Limit number 199" not in said.text
    assert "goes on in `docs/long.md`" in said.text


async def test_a_cut_leaves_no_code_block_open() -> None:
    said = await ask("limit", pages={"docs/long.md": "# Limit\n\ntext\n\n```\n" + "limit = 1\n\n" * 500 + "```\n"})
    assert said.text.count("```") % 2 == 0


async def test_without_documentation_it_says_so() -> None:
    assert "I found nothing" in (await ask("install", pages={})).text


async def test_the_pieces_are_paced_by_the_clock() -> None:
    clock = FakeClock()
    turn: Any = FakeTurn("hello")
    said: list[AgentEvent] = []

    async def read(events: AsyncGenerator[AgentEvent, None]) -> None:
        async with aclosing(events):
            async for event in events:
                said.append(event)  # noqa: PERF401 - one by one is the point

    task = asyncio.create_task(read(demo_agent(clock=clock, pace=0.02, docs=DocsIndex(PAGES))(turn)))
    await clock.advance(0)
    assert said == ["Hello!"]
    await clock.advance(0.02)
    assert said == ["Hello!", " I"]
    await clock.advance(60)
    assert task.done()
    await task


@given(st.text(alphabet="ab 你好，。\n\t`*-\u3000", max_size=60))
def test_pieces_lose_nothing(text: str) -> None:
    assert "".join(str(piece) for piece in _pieces(text)) == text
    thoughts = _pieces(Reasoning(text))
    assert "".join(piece.text for piece in thoughts if isinstance(piece, Reasoning)) == text


@given(st.text(max_size=40))
def test_no_question_is_query_syntax(question: str) -> None:
    index = DocsIndex({"docs/a.md": "# A\n\ninstall AND OR NOT NEAR 安装 飞书"})
    words = question_words(question)
    index.search([question, *words])
    assert all(hit.section.file == "docs/a.md" for hit in index.search(words))


def test_sections_end_at_headings_and_not_inside_code() -> None:
    text = "before\n\n# Top #\n\nintro\n\n## Empty\n\n### Deep\n~~~~\n## no\n~~~\n~~~~ x\n# no\n~~~~\n## Last\nend"
    found = [(section.page, section.title, section.text) for section in split_sections("docs/a.md", text)]
    assert found == [
        ("a", "a", "before"),
        ("Top", "Top", "intro"),
        ("Top", "Deep", "~~~~\n## no\n~~~\n~~~~ x\n# no\n~~~~"),
        ("Top", "Last", "end"),
    ]


def test_underscored_names_and_word_forms_are_found() -> None:
    index = DocsIndex(PAGES)
    assert index.search(["stream_life_s"])[0].section.title == "Cards"
    assert index.search(["installing"])[0].section.title == "Install"
    assert index.search(["卡"])[0].section.file == "README.zh-CN.md"


def test_a_page_in_the_language_of_the_question_comes_first() -> None:
    english = "# Guide\n\n## Set up\n\nTo install it, read on, then install (安装) the rest of what you need for it."
    index = DocsIndex({"a.md": english, "a.zh-CN.md": "# 指南\n\n## 安装\n\ninstall 之后运行；install。"})
    assert [hit.section.file for hit in index.search(["install"])] == ["a.md", "a.zh-CN.md"]
    assert [hit.section.file for hit in index.search(["安装"])] == ["a.zh-CN.md", "a.md"]


def test_pages_come_from_the_package_or_from_the_checkout(tmp_path: Path) -> None:
    package = tmp_path / "src" / "turnwire"
    (tmp_path / "docs" / "how-to").mkdir(parents=True)
    package.mkdir(parents=True)
    assert load_pages(package) == {}
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "README.md").write_text("readme")
    (tmp_path / "docs" / "how-to" / "a.md").write_text("你好", encoding="utf-8")
    assert load_pages(package) == {"README.md": "readme", "docs/how-to/a.md": "你好"}
    (package / "_docs" / "how-to").mkdir(parents=True)
    (package / "_docs" / "README.md").write_text("packed")
    (package / "_docs" / "how-to" / "a.md").write_text("page")
    assert load_pages(package) == {"README.md": "packed", "docs/how-to/a.md": "page"}


async def test_our_own_pages_can_be_asked() -> None:
    pages = load_pages()
    assert "README.md" in pages
    said = await ask("What is Turnwire?", pages=pages)
    assert said.text
