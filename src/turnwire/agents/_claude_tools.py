"""What the tools of the Claude Code CLI answer, and what its sub-agents do meanwhile.

Guarantee: nothing that a sub-agent says reaches the answer; it is shown under the call that started it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ..events import AgentEvent, ToolError, ToolResult
from ..sanitize import clean_json

NOT_WHOLE = "__unparsedToolInput"
"""What the CLI puts in place of arguments that the model did not write to their end."""

SHOWN_CHARS = 10_000
"""Of what a sub-agent says, so many characters are shown while it works; its result follows whole."""

_TAGS = re.compile(r"</?tool_use_error>")


def tool_answer(own: str, content: Any, failed: bool | None) -> ToolResult | ToolError:
    """The result of a call as the CLI gives it to the model."""
    output = _output(content)
    if failed:
        text = output if isinstance(output, str) else "\n".join(map(str, output or ["The tool failed."]))
        return ToolError(id=own, error=_TAGS.sub("", text) or "The tool failed.")
    return ToolResult(id=own, output=output)


def _output(content: Any) -> Any:
    """Content blocks without their wrapping: one text alone is that text, images are described."""
    if not isinstance(content, list):
        return clean_json(content)
    items = [_item(item) for item in content]
    return items[0] if len(items) == 1 else items


def _item(item: Any) -> Any:
    if not isinstance(item, dict):
        return str(item)
    if item.get("type") == "text":
        return str(item.get("text") or "")
    source = item.get("source")
    if isinstance(source, dict) and isinstance(source.get("data"), str):
        # Base64 has four characters for three bytes.
        size = len(source["data"].rstrip("=")) * 3 // 4
        return {"type": "file", "mediaType": str(source.get("media_type") or ""), "size": size}
    return clean_json(item)


class SubAgents:
    """What sub-agents have done so far, by the call that started each."""

    def __init__(self) -> None:
        self._calls: dict[str, dict[str, Any]] = {}
        # Sub-agents may have their own; all belong to the call that people see.
        self._root: dict[str, str] = {}

    def called(self, own: str) -> None:
        """The model itself made a call, which may turn out to start a sub-agent."""
        self._root[own] = own

    def read(self, message: Any) -> Iterator[AgentEvent]:
        """A message of a sub-agent: what it said and which tools it used, as a preliminary result."""
        root = self._root.get(message.parent_tool_use_id)
        if root is None:
            return
        state = self._state(root)
        changed = False
        for block in message.content if isinstance(message.content, list) else []:
            if hasattr(block, "tool_use_id"):
                call = state["calls"].get(block.tool_use_id)
                if call is not None:
                    call["state"] = "failed" if getattr(block, "is_error", None) else "done"
                    changed = True
            elif hasattr(block, "input"):
                self._root[block.id] = root
                state["calls"][block.id] = {"name": block.name, "state": "running"}
                changed = True
            elif hasattr(block, "text") and hasattr(message, "model"):
                state["text"] = f"{state['text']}\n\n{block.text}".strip()[-SHOWN_CHARS:]
                changed = True
        if changed:
            yield self._shown(root)

    def progress(self, message: Any) -> Iterator[AgentEvent]:
        """A task message: what a sub-agent is about to do."""
        root = self._root.get(getattr(message, "tool_use_id", None) or "")
        doing = getattr(message, "description", None)
        if root is not None and doing and self._state(root)["doing"] != doing:
            self._state(root)["doing"] = str(doing)
            yield self._shown(root)

    def _state(self, root: str) -> dict[str, Any]:
        return self._calls.setdefault(root, {"text": "", "calls": {}, "doing": ""})

    def _shown(self, root: str) -> ToolResult:
        state = self._state(root)
        shown: dict[str, Any] = {"text": state["text"], "calls": [dict(call) for call in state["calls"].values()]}
        if state["doing"]:
            shown["doing"] = state["doing"]
        return ToolResult(id=root, output=shown, preliminary=True)
