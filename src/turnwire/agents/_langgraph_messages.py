"""What LangChain's messages mean, without LangChain: they are read by their fields and written as plain objects.

Guarantee: an answer counts as finished only if its provider said so, in any of the providers' words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ..events import AgentEvent, Data, FinishReason, Reasoning, Text, Usage
from ._framework_errors import CUT, CUT_CALL
from ._framework_history import Answered, Asked, Attached, Entry, as_json, is_cut
from .chat_reader import ModelStreamError, dicts

if TYPE_CHECKING:
    from ..turn import Resolution

_FINISH: dict[str, FinishReason] = {
    **dict.fromkeys(("stop", "end_turn", "stop_sequence", "completed"), "stop"),
    **dict.fromkeys(("length", "max_tokens", "max_output_tokens", "model_context_window_exceeded"), "length"),
    **dict.fromkeys(("content_filter", "refusal", "safety", "guardrail_intervened"), "content-filter"),
    **dict.fromkeys(("tool_calls", "tool_use", "function_call"), "tool-calls"),
    **dict.fromkeys(("failed", "error"), "error"),
}
_WORDS = ("finish_reason", "stop_reason", "stopReason", "done_reason", "status")
_UNREADABLE_CALL = "The model wrote a tool call that cannot be read; the call was not run."


def messages(entries: list[Entry]) -> list[dict[str, Any]]:
    """The conversation as messages of LangChain; each call is followed by its answer."""
    found: list[dict[str, Any]] = []
    for entry in entries:
        if isinstance(entry, Asked):
            found.append({"role": "user", "content": [_content(part) for part in entry.parts]})
        elif isinstance(entry, Answered):
            calls = [{"name": c.name, "args": c.arguments, "id": c.id, "type": "tool_call"} for c in entry.calls]
            found.append({"role": "assistant", "content": entry.text, **({"tool_calls": calls} if calls else {})})
            found += [tool_message(call.id, call.output, failed=call.failed) for call in entry.calls]
        else:
            found.append({"role": "system", "content": entry.text})
    return found


def tool_message(call: str, content: str, *, failed: bool) -> dict[str, Any]:
    """What answers a call."""
    status = "error" if failed else "success"
    return {"role": "tool", "tool_call_id": call, "content": content, "status": status}


def _content(part: str | Attached) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    kind = "image" if part.media_type.lower().startswith("image/") else "file"
    named = {"filename": part.name} if kind == "file" else {}
    return {"type": kind, "base64": part.base64, "mime_type": part.media_type, **named}


def finish(message: Any) -> FinishReason | None:
    """Why the provider ended an answer; None if it said nothing."""
    about = message.response_metadata or {}
    limited = about.get("incomplete_details")
    word = limited.get("reason") if isinstance(limited, dict) else None
    word = word or next((about[key] for key in _WORDS if about.get(key)), None)
    if not word or word == "in_progress":
        return None
    if word == "completed" and message.tool_calls:
        return "tool-calls"
    return _FINISH.get(str(word).lower(), "other")


def check(message: Any, require_finish: bool) -> None:
    """Whether a model's answer is whole. Raises `ModelStreamError` if it is not."""
    reason = finish(message)
    wrong = dicts(getattr(message, "invalid_tool_calls", None))
    written = [str(call.get("args") or "") for call in [*wrong, *dicts(getattr(message, "tool_call_chunks", None))]]
    if any(map(is_cut, written)) or (reason == "length" and (message.tool_calls or wrong)):
        raise ModelStreamError(CUT_CALL)
    if reason is None and require_finish:
        raise ModelStreamError(CUT)
    if reason == "error":
        raise ModelStreamError("The model's provider ended the answer with an error.")
    nameless = any(not call.get("id") or not call.get("name") for call in message.tool_calls)
    if nameless or (wrong and not message.tool_calls):
        raise ModelStreamError(_UNREADABLE_CALL)


def said_by(message: Any) -> Iterator[AgentEvent]:
    """Text and thoughts of a message, or of a piece of one."""
    thought = (message.additional_kwargs or {}).get("reasoning_content")
    if isinstance(thought, str) and thought:
        yield Reasoning(thought)
    content = message.content
    for block in [content] if isinstance(content, str) else content:
        if isinstance(block, str):
            if block:
                yield Text(block)
            continue
        kind = block.get("type")
        text = block.get("refusal") if kind == "refusal" else block.get("text")
        if kind in ("text", "output_text", "refusal") and text:
            yield Text(text)
        elif kind in ("thinking", "reasoning"):
            summary = [part.get("text") for part in dicts(block.get("summary"))]
            text = "".join(str(each) for each in [block.get("thinking"), block.get("reasoning"), *summary] if each)
            if text:
                yield Reasoning(text)


def refuses(message: Any) -> bool:
    """Whether the model declines in a message, or in a piece of one."""
    return any(block.get("type") == "refusal" for block in dicts(message.content))


def usage(message: Any, *, refused: bool = False) -> Usage:
    """What an answer, or a piece of one, says about tokens, model and end; `refused` says that the model declined."""
    used, about = message.usage_metadata or {}, message.response_metadata or {}
    return Usage(
        input_tokens=used.get("input_tokens"),
        output_tokens=used.get("output_tokens"),
        total_tokens=used.get("total_tokens"),
        model=about.get("model_name") or about.get("model"),
        finish_reason="content-filter" if refused else finish(message),
    )


def custom(payload: Any) -> Data:
    """What a node wrote to its stream: `{"name": ..., "data": ..., "id": ...}` as it says, all else as `custom`."""
    if isinstance(payload, dict) and isinstance(payload.get("name"), str) and "data" in payload:
        own = payload.get("id")
        return Data(name=payload["name"], data=as_json(payload["data"]), id=None if own is None else str(own))
    return Data(name="custom", data=as_json(payload))


def resume(resolutions: tuple[Resolution, ...], answer: Callable[[Resolution], Any] | None) -> dict[str, Any]:
    """What each interrupt returns, by its id."""
    found: dict[str, Any] = {}
    for each in sorted(resolutions, key=lambda one: int(one.state["index"])):
        own, actions = each.state["interrupt"], each.state["of"]
        if not actions:
            found[own] = each.approved if answer is None else answer(each)
            continue
        decision = {"type": "approve"}
        if not each.approved:
            decision = {"type": "reject", "message": f"A person did not allow this call. {each.reason or ''}".strip()}
        found.setdefault(own, {"decisions": []})["decisions"].append(decision)
    return found
