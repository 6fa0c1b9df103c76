"""Wire A: Anthropic's Messages, as `POST /v1/messages` speaks it.

Sources: Anthropic's API reference for Messages, its streaming and its errors, and what the official SDK reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ._json import Json
from ._model_answers import (
    INPUT_TOKENS,
    OUTPUT_TOKENS,
    SIGNATURE,
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
    parsed,
    rounds,
    want,
)

_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}
_SYSTEM_BLOCKS = ("text", "tool_addition", "tool_removal")


def _read(body: Json, _: str, __: bool) -> Ask:
    model = want(body, "model", str)
    limit = want(body, "max_tokens", int)
    if limit < 1:
        raise Refused(400, "max_tokens: must be 1 or more")
    thinking = given(body, "thinking", dict, {})
    if thinking.get("type") == "enabled" and not 1024 <= want(thinking, "budget_tokens", int, "thinking") < limit:
        raise Refused(400, "thinking.budget_tokens: must be 1024 or more, and less than max_tokens")
    messages = objects(want(body, "messages", list), "messages")
    for at, message in messages:
        one_of(want(message, "role", str, at), ("user", "assistant", "system"), f"{at}.role")
    if messages[0][1]["role"] != "user":
        raise Refused(400, "messages.0.role: the first message must be the user's")
    _place(messages)
    turns = _turns(messages)
    _pair(turns)
    text, results = _newest(turns)
    tools = [
        Tool(want(tool, "name", str, at), given(tool, "input_schema", dict, {}, at))
        for at, tool in objects(given(body, "tools", list, []), "tools")
    ]
    if given(body, "tool_choice", dict, {}).get("type") == "none":
        tools = []
    kinds = ["result" if any(each["type"] == "tool_result" for each in blocks) else role for _, role, blocks in turns]
    return Ask(model, given(body, "stream", bool, False), text, results, tuple(tools), rounds=rounds(kinds))


def _place(messages: list[tuple[str, Json]]) -> None:
    """A system message stands between the user's and the assistant's, or last. It holds text and changes of tools."""
    for (_, before), (at, message), after in zip(messages, messages[1:], [*messages[2:], None], strict=False):
        if message["role"] != "system":
            continue
        if before["role"] != "user":
            raise Refused(400, f"{at}.role: a system message must stand right after a message of the user")
        if after is not None and after[1]["role"] != "assistant":
            raise Refused(400, f"{at}.role: after a system message there must be nothing or the assistant's message")
        content = given(message, "content", (str, list), "", at)
        for place, block in objects([] if isinstance(content, str) else content, f"{at}.content"):
            one_of(want(block, "type", str, place), _SYSTEM_BLOCKS, f"{place}.type")


def _turns(messages: list[tuple[str, Json]]) -> list[tuple[str, str, list[Json]]]:
    """Place, role and blocks of each turn: neighbours of one role are one turn."""
    turns: list[tuple[str, str, list[Json]]] = []
    for number, (at, message) in enumerate(messages):
        last = number == len(messages) - 1
        content = message.get("content")
        if content in (None, "", []) and not (last and message["role"] == "assistant" and content is not None):
            raise Refused(400, f"{at}.content: must not be empty, except in a last message of the assistant")
        content = given(message, "content", (str, list), "", at)
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for place, block in objects(blocks, f"{at}.content"):
            if want(block, "type", str, place) == "text" and block.get("text") == "" and content != "":
                raise Refused(400, f"{place}.text: must not be empty")
        if turns and turns[-1][1] == message["role"]:
            turns[-1][2].extend(blocks)
        else:
            turns.append((at, message["role"], list(blocks)))
    return turns


def _pair(turns: list[tuple[str, str, list[Json]]]) -> None:
    """Every call is answered in the very next turn, first thing, and nothing else is answered."""
    open_calls: list[str] = []
    before = ""
    for at, role, blocks in turns:
        results = [want(each, "tool_use_id", str, at) for each in blocks if each["type"] == "tool_result"]
        if results and role != "user":
            raise Refused(400, f"{at}: only the user's messages may hold tool_result blocks")
        if missing := [call for call in open_calls if call not in results]:
            raise Refused(
                400, f"{before}: tool_use without a tool_result right after it, in the next message: {missing}"
            )
        if unknown := [result for result in results if result not in open_calls]:
            raise Refused(400, f"{at}: tool_result without a tool_use in the message before it: {unknown}")
        if any(block["type"] != "tool_result" for block in blocks[: len(results)]):
            raise Refused(400, f"{at}: tool_result blocks must stand before all other content")
        open_calls = [want(each, "id", str, at) for each in blocks if each["type"] == "tool_use"]
        if len(set(open_calls)) < len(open_calls):
            raise Refused(400, f"{at}: the ids of tool_use blocks must differ")
        before = at
    if open_calls:
        raise Refused(400, f"{before}: tool_use without a tool_result right after it: {open_calls}")


def _newest(turns: list[tuple[str, str, list[Json]]]) -> tuple[str, tuple[str, ...]]:
    """The newest text of the user, and the tool results of the last turn; what a system message adds is neither."""
    said = next((blocks for _, role, blocks in reversed(turns) if role == "user" and _plain(blocks)), [])
    last = next(blocks for _, role, blocks in reversed(turns) if role != "system")
    results = tuple(_plain(block.get("content")) for block in last if block["type"] == "tool_result")
    return _plain(said), results


def _plain(content: Any) -> str:
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else []
    return "".join(str(block.get("text") or "") for block in blocks if isinstance(block, dict))


def _reason(answer: Answer) -> str:
    if answer.refusal or answer.end == "filter":
        return "refusal"
    if answer.end == "length":
        return "max_tokens"
    return "tool_use" if answer.calls else "end_turn"


def _usage(output: int) -> Json:
    cached = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    return {"input_tokens": INPUT_TOKENS, **cached, "output_tokens": output}


def _blocks(answer: Answer, ids: Ids) -> list[tuple[Json, list[Json], Json]]:
    """Each block as it begins, its deltas, and as it is in the end."""
    blocks: list[tuple[Json, list[Json], Json]] = []
    if answer.thought:
        deltas = [{"type": "thinking_delta", "thinking": piece} for piece in answer.thought]
        whole = {"type": "thinking", "thinking": "".join(answer.thought), "signature": SIGNATURE}
        deltas.append({"type": "signature_delta", "signature": SIGNATURE})
        blocks.append(({"type": "thinking", "thinking": "", "signature": ""}, deltas, whole))
    if said := [*answer.text, *answer.refusal]:
        deltas = [{"type": "text_delta", "text": piece} for piece in said]
        blocks.append(({"type": "text", "text": ""}, deltas, {"type": "text", "text": "".join(said)}))
    for index, call in enumerate(answer.calls):
        begin = {"type": "tool_use", "id": ids.of("toolu", index), "name": call.name, "input": {}}
        deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in halves(call.arguments)]
        blocks.append((begin, deltas, {**begin, "input": parsed(call.arguments)}))
    return blocks


def _message(ids: Ids, ask: Ask) -> Json:
    return {
        "id": ids.of("msg"),
        "type": "message",
        "role": "assistant",
        "model": ask.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": _usage(1),
    }


def _event(role: Role, kind: str, **fields: Any) -> Event:
    return Event(role, {"type": kind, **fields}, kind)


def _stream(answer: Answer, ids: Ids, ask: Ask) -> list[Event]:
    events = [_event("open", "message_start", message=_message(ids, ask))]
    for index, (begin, deltas, _) in enumerate(_blocks(answer, ids)):
        events.append(_event("open", "content_block_start", index=index, content_block=begin))
        events += [_event("delta", "content_block_delta", index=index, delta=delta) for delta in deltas]
        events.append(_event("close", "content_block_stop", index=index))
    stop = {"stop_reason": _reason(answer), "stop_sequence": None}
    events.append(_event("finish", "message_delta", delta=stop, usage=_usage(OUTPUT_TOKENS)))
    return [*events, _event("last", "message_stop")]


def _whole(answer: Answer, ids: Ids, ask: Ask) -> Json:
    content = [whole for _, _, whole in _blocks(answer, ids)]
    end = {"stop_reason": _reason(answer), "usage": _usage(OUTPUT_TOKENS)}
    return {**_message(ids, ask), "content": content, **end}


def _problem(status: int, message: str) -> Json:
    return {"type": "error", "error": {"type": _ERRORS.get(status, "api_error"), "message": message}}


def _key(headers: Mapping[str, str], _: Mapping[str, str]) -> str:
    return headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer ").strip()


ANTHROPIC = Wire(
    letter="A",
    read=_read,
    stream=_stream,
    whole=_whole,
    problem=_problem,
    broken=lambda message: Event("last", _problem(529, message), "error"),
    ping=Event("open", {"type": "ping"}, "ping").encode(),
    key=_key,
    headers=("anthropic-version",),
)
