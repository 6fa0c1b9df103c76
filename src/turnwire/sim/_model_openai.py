"""Wire O: OpenAI's Chat Completions, as `POST /v1/chat/completions` speaks it.

Sources: OpenAI's API reference for chat completions and their streaming, and what the official SDK reads. The fields of
a model's thoughts are those of the compatible servers: `reasoning_content`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ._json import Json
from ._model_answers import (
    INPUT_TOKENS,
    OUTPUT_TOKENS,
    Answer,
    Ask,
    Event,
    Ids,
    Refused,
    Role,
    Tool,
    Wire,
    given,
    halves,
    objects,
    one_of,
    rounds,
    want,
)

_ERRORS: dict[int, tuple[str, str | None]] = {
    400: ("invalid_request_error", None),
    401: ("invalid_request_error", "invalid_api_key"),
    404: ("invalid_request_error", "model_not_found"),
    413: ("invalid_request_error", "request_too_large"),
    429: ("requests", "rate_limit_exceeded"),
}
_ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_USAGE = {
    "prompt_tokens": INPUT_TOKENS,
    "completion_tokens": OUTPUT_TOKENS,
    "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS,
}


def _read(body: Json, _: str, __: bool) -> Ask:
    model = want(body, "model", str)
    stream = given(body, "stream", bool, False)
    options = given(body, "stream_options", dict, {})
    if options and not stream:
        raise Refused(400, 'stream_options: only a request with "stream": true may have them')
    messages = objects(want(body, "messages", list), "messages")
    _pair(messages)
    users = [message for _, message in messages if message["role"] == "user"]
    results: list[str] = []
    for _, message in reversed(messages):
        if message["role"] != "tool":
            break
        results.insert(0, plain(message.get("content")))
    offered = given(body, "tools", list, [])
    tools = [_tool(tool, at) for at, tool in objects(offered, "tools")]
    if body.get("tool_choice") == "none":
        tools = []
    text = plain(users[-1].get("content")) if users else ""
    usage = given(options, "include_usage", bool, False, "stream_options")
    kinds = ["result" if message["role"] == "tool" else message["role"] for _, message in messages]
    return Ask(model, stream, text, tuple(results), tuple(tools), usage, rounds(kinds))


def _tool(tool: Json, at: str) -> Tool:
    one_of(want(tool, "type", str, at), ("function", "custom"), f"{at}.type")
    return function_tool(want(tool, tool["type"], dict, at), f"{at}.{tool['type']}")


def function_tool(function: Json, at: str) -> Tool:
    """The tool that a function's name and parameters describe. Raises `Refused` for a name that no model could call."""
    name = want(function, "name", str, at)
    if not re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name):
        raise Refused(400, f"{at}.name: must be 1 to 64 letters, digits, underscores or hyphens")
    return Tool(name, given(function, "parameters", dict, {}, at))


def _pair(messages: list[tuple[str, Json]]) -> None:
    """Every call is answered by the tool messages right after it, and nothing else is answered."""
    waiting: list[str] = []
    caller = ""
    for at, message in messages:
        role = one_of(want(message, "role", str, at), _ROLES, f"{at}.role")
        if role == "tool":
            answered = want(message, "tool_call_id", str, at)
            if answered not in waiting:
                raise Refused(400, f"{at}: tool_call_id {answered!r} answers no call of the tool_calls before it")
            waiting.remove(answered)
            continue
        if waiting:
            raise Refused(400, f"{caller}.tool_calls: no tool message answers {waiting}")
        calls = objects(given(message, "tool_calls", list, [], at), f"{at}.tool_calls")
        if message.get("content") is None and not (role == "assistant" and (calls or message.get("refusal"))):
            raise Refused(400, f"{at}.content: this field is required")
        given(message, "content", (str, list), "", at)
        if calls and role != "assistant":
            raise Refused(400, f"{at}.tool_calls: only the assistant calls tools")
        for place, call in calls:
            want(want(call, "function", dict, place), "name", str, f"{place}.function")
        waiting = [want(call, "id", str, place) for place, call in calls]
        caller = at
    if waiting:
        raise Refused(400, f"{caller}.tool_calls: no tool message answers {waiting}")


def plain(content: Any) -> str:
    """The text of a message's content, which is a string or a list of parts."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "".join(str(part.get("text") or "") for part in parts if isinstance(part, dict))


def _reason(answer: Answer) -> str:
    if answer.end != "stop":
        return {"length": "length", "filter": "content_filter"}[answer.end]
    return "tool_calls" if answer.calls else "stop"


def _base(ids: Ids, ask: Ask, kind: str) -> Json:
    return {"id": ids.of("chatcmpl"), "object": kind, "created": 1_700_000_000, "model": ask.model}


def _stream(answer: Answer, ids: Ids, ask: Ask) -> list[Event]:
    base = _base(ids, ask, "chat.completion.chunk") | ({"usage": None} if ask.usage else {})

    def chunk(part: Role, finish: str | None = None, **delta: Any) -> Event:
        return Event(part, {**base, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

    events = [chunk("open", role="assistant", content="")]
    events += [chunk("delta", reasoning_content=piece) for piece in answer.thought]
    events += [chunk("delta", content=piece) for piece in answer.text]
    events += [chunk("delta", refusal=piece) for piece in answer.refusal]
    for index, call in enumerate(answer.calls):
        begun = {"name": call.name, "arguments": ""}
        named = {"index": index, "id": ids.of("call", index), "type": "function", "function": begun}
        events.append(chunk("open", tool_calls=[named]))
    written = [halves(call.arguments) for call in answer.calls]
    for half in range(2):
        for index, pieces in enumerate(written):
            if half < len(pieces):
                more = {"index": index, "function": {"arguments": pieces[half]}}
                events.append(chunk("delta", tool_calls=[more]))
    events.append(chunk("finish", _reason(answer)))
    if ask.usage:
        events.append(Event("usage", {**base, "choices": [], "usage": _USAGE}))
    return [*events, Event("last", "[DONE]")]


def _whole(answer: Answer, ids: Ids, ask: Ask) -> Json:
    text, refusal = "".join(answer.text), "".join(answer.refusal)
    message: Json = {"role": "assistant", "content": text or None, "refusal": refusal or None}
    if answer.thought:
        message["reasoning_content"] = "".join(answer.thought)
    if answer.calls:
        message["tool_calls"] = [
            {
                "id": ids.of("call", index),
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for index, call in enumerate(answer.calls)
        ]
    choice = {"index": 0, "message": message, "finish_reason": _reason(answer), "logprobs": None}
    return {**_base(ids, ask, "chat.completion"), "choices": [choice], "usage": _USAGE}


def problem(status: int, message: str) -> Json:
    """The body of a refusal, on both wires of OpenAI."""
    kind, code = _ERRORS.get(status, ("server_error", None))
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def bearer(headers: Mapping[str, str], _: Mapping[str, str]) -> str:
    """The key of a request, on both wires of OpenAI."""
    return headers.get("authorization", "").removeprefix("Bearer ").strip()


OPENAI = Wire(
    letter="O",
    read=_read,
    stream=_stream,
    whole=_whole,
    problem=problem,
    broken=lambda message: Event("last", problem(529, message)),
    ping=b": keep-alive\n\n",
    key=bearer,
)
