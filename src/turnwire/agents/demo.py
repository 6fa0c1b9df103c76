"""An agent that needs no model: it answers questions about Turnwire from Turnwire's documentation.

Guarantee: whatever it says about Turnwire is quoted from a page that it names; when no page answers, it says so.
Its tools really run, so that reasoning, parallel tools, steps and files can be seen without a key.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import msgspec

from ..clock import Clock, SystemClock, sleep
from ..events import AgentEvent, Reasoning, Step, ToolCall, ToolError, ToolResult, Usage
from ..media import FileRefused
from .docs_index import DocsIndex, Hit, Section, is_chinese, load_pages, question_words

if TYPE_CHECKING:
    from ..turn import Turn
    from . import Agent

MODEL = "demo"
"""What stands as the model's name in a turn of this agent."""

_QUOTED_CHARS = 1800
_SNIPPET_CHARS = 160
_WIDE = "一-鿿㐀-䶿，。？！、：；（）"
_PIECES = re.compile(f"\\s*[{_WIDE}]{{1,3}}|\\s*[^\\s{_WIDE}]{{1,16}}|\\s+")
_WANTS_FILE = re.compile(r"\b(attach\w*|files?)\b|附件|附上|文件", re.IGNORECASE)
_FILE_WORDS = re.compile(r"\b(attach\w*|files?|pages?|markdown|send)\b|附件|附上|文件|页面|发送|发给|发", re.IGNORECASE)


class _Phrases(msgspec.Struct, frozen=True, kw_only=True):
    understood: str
    files_too: str
    hello: str
    nothing: str
    examples: tuple[str, str, str]
    try_these: str
    quote: str
    cut: str
    also: str
    attached: str
    refused: str


_ENGLISH = _Phrases(
    understood="The question is about: {words}. I will search Turnwire's documentation for that",
    files_too=", and attach the page I find",
    hello="Hello! I am Turnwire's demo agent. I have no language model; I answer from Turnwire's documentation.",
    nothing="I found nothing about that in Turnwire's documentation, and I have no other source.",
    try_these="You could ask me:",
    examples=(
        "How do I install and start Turnwire?",
        "What happens when the process is killed?",
        "Attach the page about Feishu",
    ),
    quote="From **{title}** (`{file}`):",
    cut="… the section goes on in `{file}`; ask for the file and I attach it.",
    also="See also: {others}.",
    attached="The whole page is attached: {name}.",
    refused="I could not attach the page: {error}.",
)
_CHINESE = _Phrases(
    understood="问题涉及：{words}。我先在 Turnwire 的文档里搜索",
    files_too="，并附上找到的页面",
    hello="你好！我是 Turnwire 的演示助手，背后没有语言模型，只根据 Turnwire 的文档回答。",
    nothing="Turnwire 的文档里没有找到相关内容，我也没有其他资料来源。",
    try_these="你可以这样问我：",
    examples=("如何安装和启动 Turnwire？", "进程被杀死后会怎样恢复？", "请附上关于飞书的文件"),
    quote="摘自 **{title}**（`{file}`）：",
    cut="……本节未完，全文见 `{file}`；需要的话请让我附上文件。",
    also="另请参阅：{others}。",
    attached="已附上整页文档：{name}。",
    refused="无法附上该页面：{error}。",
)


def demo_agent(*, clock: Clock | None = None, pace: float = 0.02, docs: DocsIndex | None = None) -> Agent:
    """An agent that answers from the documentation.

    Args:
        pace: pause between two pieces of text, in seconds; 0 for none.
        docs: what to answer from; Turnwire's own pages by default.
    """
    index = docs or DocsIndex(load_pages())
    time = clock or SystemClock()

    async def agent(turn: Turn) -> AsyncGenerator[AgentEvent, None]:
        async with aclosing(_answer(turn, index)) as events:
            async for event in events:
                for piece in _pieces(event):
                    yield piece
                    if pace > 0 and piece is not event:
                        await sleep(time, pace)

    return agent


def _pieces(event: AgentEvent) -> list[AgentEvent]:
    """Text and reasoning as a model would stream them; anything else as it is."""
    if isinstance(event, str):
        return list(_PIECES.findall(event))
    if isinstance(event, Reasoning):
        return [Reasoning(piece) for piece in _PIECES.findall(event.text)]
    return [event]


async def _answer(turn: Turn, index: DocsIndex) -> AsyncGenerator[AgentEvent, None]:
    """The turn in whole paragraphs."""
    say = _CHINESE if is_chinese(turn.text) else _ENGLISH
    attach = _WANTS_FILE.search(turn.text) is not None
    words = _topic(turn, attach)
    if not words:
        yield f"{say.hello}\n\n{_suggestions(say)}"
    else:
        yield Reasoning(say.understood.format(words=", ".join(words)) + (say.files_too if attach else "") + " …")
        found: list[Hit] = []
        for event in _search(words, index, found):
            yield event
        yield Step()
        if found and index.answers(found[0].section, words):
            async with aclosing(_quote(turn, index, found, say, attach=attach)) as events:
                async for event in events:
                    yield event
        else:
            yield f"{say.nothing}\n\n{_suggestions(say)}"
    yield Usage(model=MODEL, finish_reason="stop")


def _topic(turn: Turn, attach: bool) -> list[str]:
    """What the question is about. "Attach that page" is about what was asked before."""
    if not attach:
        return question_words(turn.text)
    earlier = [message for message in turn.messages[:-1] if message.get("role") == "user"]
    texts = [turn.text, *(_text(message) for message in reversed(earlier))]
    topics = (question_words(_FILE_WORDS.sub(" ", text)) for text in texts)
    return next(filter(None, topics), question_words(turn.text))


def _text(message: dict[str, Any]) -> str:
    return "\n".join(
        part["text"] for part in message.get("parts", ()) if part.get("type") == "text" and part.get("text")
    )


def _search(words: Sequence[str], index: DocsIndex, found: list[Hit]) -> Iterator[AgentEvent]:
    """Searches for all words, in two parallel calls if there are several; `found` gets what fits, the best first."""
    middle = (len(words) + 1) // 2
    calls = [(f"search-{n}", part) for n, part in enumerate((words[:middle], words[middle:]), 1) if part]
    for name, part in calls:
        yield ToolCall(id=name, name="search", input={"query": " ".join(part)})
    scores: dict[Section, float] = {}
    for name, part in calls:
        hits = index.search(part, limit=50)
        for hit in hits:
            scores[hit.section] = scores.get(hit.section, 0.0) + hit.score
        yield ToolResult(id=name, output={"hits": [_shown(hit) for hit in hits[:5]]})
    found.extend(Hit(section, score) for section, score in sorted(scores.items(), key=lambda item: -item[1]))


def _shown(hit: Hit) -> dict[str, Any]:
    section = hit.section
    snippet = " ".join(section.text.split())[:_SNIPPET_CHARS]
    return {"file": section.file, "title": section.title, "text": snippet, "score": round(hit.score, 3)}


async def _quote(
    turn: Turn, index: DocsIndex, found: Sequence[Hit], say: _Phrases, *, attach: bool
) -> AsyncGenerator[AgentEvent, None]:
    section = found[0].section
    yield ToolCall(id="read", name="read", input={"file": section.file, "section": section.title})
    yield ToolResult(id="read", output={"page": section.page, "section": section.title, "text": section.text})
    yield Step()
    quoted = _cut(section.text)
    lines = [say.quote.format(title=section.title, file=section.file), quoted]
    if quoted != section.text:
        lines.append(say.cut.format(file=section.file))
    others = [f"{hit.section.title} (`{hit.section.file}`)" for hit in found[1:3]]
    if others:
        lines.append(say.also.format(others=", ".join(others)))
    yield "\n\n".join(lines)
    if attach:
        async with aclosing(_attach(turn, index, section, say)) as events:
            async for event in events:
                yield event


async def _attach(turn: Turn, index: DocsIndex, section: Section, say: _Phrases) -> AsyncGenerator[AgentEvent, None]:
    yield Step()
    yield ToolCall(id="attach", name="attach", input={"file": section.file})
    try:
        page = index.pages[section.file].encode()
        sent = await turn.attach(page, name=PurePosixPath(section.file).name, media_type="text/markdown")
    except FileRefused as error:
        yield ToolError(id="attach", error=str(error))
        yield say.refused.format(error=error)
    else:
        yield ToolResult(id="attach", output={"name": sent.name, "url": sent.url})
        yield say.attached.format(name=sent.name)


def _cut(text: str) -> str:
    """The beginning of a long section, up to the end of a paragraph, with no code block left open."""
    if len(text) <= _QUOTED_CHARS:
        return text
    head = text[:_QUOTED_CHARS]
    head = head[: head.rfind("\n\n")] if "\n\n" in head else head
    return f"{head}\n```" if head.count("```") % 2 else head


def _suggestions(say: _Phrases) -> str:
    return "\n".join([say.try_these, *(f"- {example}" for example in say.examples)])
