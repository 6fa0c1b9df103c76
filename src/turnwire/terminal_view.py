"""How a message looks in a terminal; pure.

Guarantee: nothing of a message is left out of `blocks` but parts that only programs read, and nothing in it can steer
the terminal: control characters are removed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import unquote

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.markdown import Markdown
from rich.padding import Padding
from rich.segment import Segment
from rich.text import Text

ARGUMENTS_CHARS = 100
OUTPUT_CHARS = 200
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})([^\n]*)$", re.M)
_OUTCOME_STYLES = {"done": "dim", "stopped": "yellow", "waiting": "yellow"}


def printable(text: str) -> str:
    """`text` without control characters; line breaks and tabs stay."""
    return _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def blocks(message: dict[str, Any], base_url: str) -> list[RenderableType]:
    """What to print for a UI message, from top to bottom; `base_url` completes the addresses of our own files."""
    return list(_with_gaps(list(_shown(message)), base_url))


class Tail:
    """The end of an answer, as much as fits on the screen above `status`."""

    def __init__(self, message: dict[str, Any], base_url: str, status: Text) -> None:
        self._parts = list(_shown(message))
        self._base_url = base_url
        self._status = status

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        # One line stays free, so that the terminal never scrolls under a picture that is to be replaced.
        room = max(options.size.height - 3, 1)
        lines: list[list[Segment]] = []
        free = options.update(height=None)
        size = 2 * options.max_width * room
        for part in reversed(self._parts):
            if lines:
                lines.insert(0, [])
            short = {**part, "text": tail(part["text"], size)} if "text" in part else part
            lines = console.render_lines(_block(short, self._base_url), free, pad=False) + lines
            if len(lines) >= room:
                break
        for line in lines[-room:]:
            yield from line
            yield Segment.line()
        yield self._status


def tail(text: str, size: int) -> str:
    """The end of a Markdown text, from a paragraph on, about `size` characters; an open code block stays one."""
    if len(text) <= size:
        return text
    least = len(text) - size
    at = next((found for mark in ("\n\n", "\n") if (found := text.find(mark, least)) >= 0), least)
    fence = _open_fence(text[:at])
    return fence + text[at:].lstrip("\n")


def plain(message: dict[str, Any], base_url: str) -> str:
    """The answer as plain text: what was said, then the files."""
    parts = list(_shown(message))
    said = [printable(part["text"]) for part in parts if part["type"] == "text" and part["text"].strip()]
    files = [" ".join(_file(part, base_url)) for part in parts if part["type"] == "file"]
    return "\n\n".join([*said, *(["\n".join(files)] if files else [])])


def end_line(message: dict[str, Any]) -> Text:
    """How the turn ended, honestly: the outcome, its reason, how long it took and what it used."""
    own = turn_metadata(message)
    outcome = str(own.get("outcome") or "unfinished")
    said = [f"{outcome}: {printable(str(own['reason']))}" if own.get("reason") else outcome]
    seconds = _seconds(own)
    if seconds is not None:
        said.append(f"{seconds:.1f} s")
    usage = own.get("usage")
    if isinstance(usage, dict):
        counts = [
            f"{usage[key]} tokens {way}"
            for key, way in (("inputTokens", "in"), ("outputTokens", "out"))
            if isinstance(usage.get(key), int)
        ]
        said += [", ".join(counts)] if counts else []
    if own.get("model"):
        said.append(printable(str(own["model"])))
    return Text(" · ".join(said), style=_OUTCOME_STYLES.get(outcome, "bold red"))


def open_calls(message: dict[str, Any]) -> list[dict[str, Any]]:
    """The calls of a message that wait for a person's answer."""
    if turn_metadata(message).get("outcome") != "waiting":
        return []
    return [part for part in message.get("parts", ()) if part.get("state") == "approval-requested"]


def call_text(part: dict[str, Any]) -> str:
    """The tool that is called and its whole input."""
    name = part.get("toolName") or part["type"].removeprefix("tool-")
    return printable(f"{name} {json.dumps(part.get('input'), ensure_ascii=False)}")


def job_line(job: dict[str, Any]) -> str:
    """How a background job stands."""
    said = f"Background job “{printable(str(job.get('name')))}”"
    if job.get("stopping"):
        return f"{said} is being stopped."
    progress = job.get("progress")
    return f"{said}: {_short(progress, OUTPUT_CHARS)}" if progress is not None else f"{said} is started."


def turn_metadata(message: dict[str, Any]) -> dict[str, Any]:
    """What a message says of its turn."""
    metadata = message.get("metadata")
    own = metadata.get("turnwire") if isinstance(metadata, dict) else None
    return own if isinstance(own, dict) else {}


def message_text(message: dict[str, Any]) -> str:
    """The text of a message, files by name."""
    said = [
        printable(part["text"] if part["type"] == "text" else f"[{_file(part, '')[0]}]")
        for part in _shown(message)
        if part["type"] in ("text", "file")
    ]
    return "\n".join(said)


def _shown(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for part in message.get("parts", ()):
        kind = part["type"]
        if kind in ("text", "reasoning"):
            if part.get("text", "").strip():
                yield part
        elif kind in ("file", "source-url", "dynamic-tool") or kind.startswith("tool-"):
            yield part


def _with_gaps(parts: Sequence[dict[str, Any]], base_url: str) -> Iterator[RenderableType]:
    for index, part in enumerate(parts):
        if index:
            yield Text("")
        yield _block(part, base_url)


def _block(part: dict[str, Any], base_url: str) -> RenderableType:
    kind = part["type"]
    if kind == "text":
        return Markdown(printable(part["text"]), code_theme="ansi_dark", hyperlinks=False)
    if kind == "reasoning":
        return Padding(Text(printable(part["text"]).strip(), style="dim italic"), (0, 0, 0, 2))
    if kind == "file":
        name, url = _file(part, base_url)
        return Text.assemble(("file ", "green"), name, ("  ", ""), (url, "cyan"), overflow="fold")
    if kind == "source-url":
        url = printable(str(part.get("url", "")))
        title = printable(str(part.get("title") or "source"))
        return Text.assemble(("source ", "green"), title, ("  ", ""), (url, "cyan"), overflow="fold")
    return _tool(part)


def _tool(part: dict[str, Any]) -> Text:
    state = part.get("state", "")
    name = part.get("title") or part.get("toolName") or part["type"].removeprefix("tool-")
    arguments = part["input"] if "input" in part else part.get("rawInput", "")
    line = Text.assemble(("tool ", "blue"), (_short(name, ARGUMENTS_CHARS), "bold"), " ")
    line.append(_short(arguments, ARGUMENTS_CHARS), style="dim")
    approval = part.get("approval") or {}
    if state == "output-denied" or (state == "approval-responded" and not approval.get("approved")):
        why = f": {_short(approval['reason'], OUTPUT_CHARS)}" if approval.get("reason") else ""
        return line.append(f"\n  denied{why}", style="red")
    if state in ("approval-requested", "approval-responded"):
        return line.append(" needs approval" if state == "approval-requested" else " allowed", style="yellow")
    if state == "output-error":
        return line.append(f"\n  failed: {_short(part.get('errorText', ''), OUTPUT_CHARS)}", style="red")
    if state == "output-available":
        more = " …" if part.get("preliminary") else ""
        return line.append(f"\n  → {_short(part.get('output'), OUTPUT_CHARS)}{more}", style="dim")
    return line.append(" writing its arguments…" if state == "input-streaming" else " running…", style="yellow")


def _file(part: dict[str, Any], base_url: str) -> tuple[str, str]:
    url = printable(str(part.get("url", "")))
    if url.startswith("data:"):
        url = url[:40] + "…"
    name = part.get("filename") or unquote(url.rpartition("/")[2]) or "file"
    return printable(str(name)), base_url + url if url.startswith("/") else url


def _short(value: Any, size: int) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = " ".join(printable(text).split())
    return text if len(text) <= size else text[: size - 1] + "…"


def _seconds(own: dict[str, Any]) -> float | None:
    try:
        began, ended = (datetime.fromisoformat(own[key]) for key in ("startedAt", "endedAt"))
    except (KeyError, TypeError, ValueError):
        return None
    return max((ended - began).total_seconds(), 0.0)


def _open_fence(text: str) -> str:
    """The line that opened the code block in which `text` ends, or nothing."""
    opened: re.Match[str] | None = None
    for line in _FENCE.finditer(text):
        mark, info = line.groups()
        if opened is None:
            opened = line
        elif not info.strip() and mark.startswith(opened[1]):
            opened = None
    return f"{opened[0].strip()}\n" if opened else ""
