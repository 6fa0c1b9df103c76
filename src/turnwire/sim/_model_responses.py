"""Wire R: OpenAI's Responses, as `POST /v1/responses` speaks it.

Sources: OpenAI's API reference for responses and their streaming events, and what the official SDK reads.
"""

from __future__ import annotations

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
from ._model_openai import bearer, function_tool, plain, problem

_ROLES = ("user", "assistant", "system", "developer")
_USAGE = {
    "input_tokens": INPUT_TOKENS,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens": OUTPUT_TOKENS,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS,
}


def _read(body: Json, _: str, __: bool) -> Ask:
    model = want(body, "model", str)
    said = want(body, "input", (str, list))
    if isinstance(said, str):
        said = [{"role": "user", "content": said}]
    items = objects(said, "input")
    previous = given(body, "previous_response_id", str, "")
    answered = _pair(items, follows=bool(previous))
    texts = [plain(item.get("content")) for _, item in items if item.get("role") == "user"]
    results: list[str] = []
    for _, item in reversed(items):
        if item.get("type") != "function_call_output":
            break
        results.insert(0, plain(item["output"]))
    offered = objects(given(body, "tools", list, []), "tools")
    tools: list[Tool] = []
    for at, tool in offered:
        # Tools of other types run at the provider.
        if want(tool, "type", str, at) == "function":
            tools.append(function_tool(tool, at))
    if body.get("tool_choice") == "none":
        tools = []
    text, stream = texts[-1] if texts else "", given(body, "stream", bool, False)
    kinds = ["result" if item.get("type") == "function_call_output" else str(item.get("role")) for _, item in items]
    asked = (model, stream, text, tuple(results), tuple(tools))
    return Ask(*asked, rounds=rounds(kinds), previous=previous, answered=answered)


def _pair(items: list[tuple[str, Json]], *, follows: bool) -> tuple[str, ...]:
    """The calls that are answered. Every call is answered somewhere after it, and, in a request that follows no other,
    nothing else is answered."""
    waiting: set[str] = set()
    answered: list[str] = []
    for at, item in items:
        kind = given(item, "type", str, "message", at)
        if kind == "message":
            one_of(want(item, "role", str, at), _ROLES, f"{at}.role")
            if given(item, "content", (str, list), None, at) is None:
                raise Refused(400, f"{at}.content: this field is required")
        elif kind == "function_call":
            want(item, "name", str, at)
            waiting.add(want(item, "call_id", str, at))
        elif kind == "function_call_output":
            call = want(item, "call_id", str, at)
            if "output" not in item:
                raise Refused(400, f"{at}.output: this field is required")
            if call not in waiting and not follows:
                raise Refused(400, f"{at}: call_id {call!r} answers no function_call before it")
            waiting.discard(call)
            answered.append(call)
    if waiting:
        raise Refused(400, f"input: no function_call_output answers {sorted(waiting)}")
    return tuple(answered)


def _base(ids: Ids, ask: Ask, **fields: Any) -> Json:
    return {
        "id": ids.of("resp"),
        "object": "response",
        "created_at": 1_700_000_000,
        "status": "in_progress",
        "model": ask.model,
        "output": [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "temperature": 1.0,
        "top_p": 1.0,
        **fields,
    }


class _Item:
    """One item of the output: its events, and what it is in the end."""

    def __init__(self, index: int, begin: Json) -> None:
        self.begin = begin
        self.whole: Json = begin
        self._about = {"item_id": begin["id"], "output_index": index}
        self.opening = [self._outer("open", "added", begin)]
        self.deltas: list[Event] = []
        self.closing: list[Event] = []

    def _outer(self, role: Role, what: str, item: Json) -> Event:
        return _event(role, f"output_item.{what}", output_index=self._about["output_index"], item=item)

    def say(self, kind: str, pieces: tuple[str, ...] | list[str], **about: Any) -> None:
        self.deltas += [_event("delta", f"{kind}.delta", **self._about, **about, delta=piece) for piece in pieces]

    def open(self, kind: str, **about: Any) -> None:
        self.opening.append(_event("open", kind, **self._about, **about))

    def close(self, kind: str, **about: Any) -> None:
        self.closing.append(_event("close", kind, **self._about, **about))

    def end(self, **fields: Any) -> _Item:
        self.whole = {**self.begin, **fields}
        self.closing.append(self._outer("close", "done", self.whole))
        return self


def _event(role: Role, kind: str, **fields: Any) -> Event:
    return Event(role, {"type": f"response.{kind}", **fields}, f"response.{kind}")


def _thought(index: int, answer: Answer, ids: Ids) -> _Item:
    item = _Item(index, {"type": "reasoning", "id": ids.of("rs"), "summary": []})
    part = {"type": "summary_text", "text": "".join(answer.thought)}
    item.open("reasoning_summary_part.added", summary_index=0, part={**part, "text": ""})
    item.say("reasoning_summary_text", list(answer.thought), summary_index=0)
    item.close("reasoning_summary_text.done", summary_index=0, text=part["text"])
    item.close("reasoning_summary_part.done", summary_index=0, part=part)
    return item.end(summary=[part])


def _message(index: int, answer: Answer, ids: Ids) -> _Item:
    begin = {"type": "message", "id": ids.of("msg"), "status": "in_progress", "role": "assistant", "content": []}
    item = _Item(index, begin)
    parts: list[Json] = []
    if answer.text:
        text = "".join(answer.text)
        part: Json = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        item.open("content_part.added", content_index=0, part={**part, "text": ""})
        item.say("output_text", list(answer.text), content_index=0, logprobs=[])
        item.close("output_text.done", content_index=0, text=text, logprobs=[])
        item.close("content_part.done", content_index=0, part=part)
        parts.append(part)
    if answer.refusal:
        at = len(parts)
        part = {"type": "refusal", "refusal": "".join(answer.refusal)}
        item.open("content_part.added", content_index=at, part={**part, "refusal": ""})
        item.say("refusal", list(answer.refusal), content_index=at)
        item.close("refusal.done", content_index=at, refusal=part["refusal"])
        item.close("content_part.done", content_index=at, part=part)
        parts.append(part)
    return item.end(content=parts, status="completed" if answer.end == "stop" else "incomplete")


def _call(index: int, number: int, answer: Answer, ids: Ids) -> _Item:
    call = answer.calls[number]
    about = {"call_id": ids.of("call", number), "name": call.name, "arguments": "", "status": "in_progress"}
    item = _Item(index, {"type": "function_call", "id": ids.of("fc", number), **about})
    item.say("function_call_arguments", halves(call.arguments))
    if answer.end == "stop":
        item.close("function_call_arguments.done", name=call.name, arguments=call.arguments)
    return item.end(arguments=call.arguments, status="completed" if answer.end == "stop" else "incomplete")


def _items(answer: Answer, ids: Ids) -> list[_Item]:
    items: list[_Item] = []
    if answer.thought:
        items.append(_thought(len(items), answer, ids))
    if answer.text or answer.refusal:
        items.append(_message(len(items), answer, ids))
    for number in range(len(answer.calls)):
        items.append(_call(len(items), number, answer, ids))
    return items


def _end(answer: Answer) -> Json:
    if answer.end == "stop":
        return {"status": "completed"}
    reason = {"length": "max_output_tokens", "filter": "content_filter"}[answer.end]
    return {"status": "incomplete", "incomplete_details": {"reason": reason}}


def _stream(answer: Answer, ids: Ids, ask: Ask) -> list[Event]:
    base = _base(ids, ask)
    events = [_event("open", "created", response=base), _event("open", "in_progress", response=base)]
    items = _items(answer, ids)
    plain_items = [item for item in items if item.begin["type"] != "function_call"]
    calls = [item for item in items if item.begin["type"] == "function_call"]
    for item in plain_items:
        events += [*item.opening, *item.deltas, *item.closing]
    # The arguments of parallel calls come interleaved.
    events += [event for item in calls for event in item.opening]
    for half in range(2):
        events += [item.deltas[half] for item in calls if half < len(item.deltas)]
    events += [event for item in calls for event in item.closing]
    end = _end(answer)
    done = {**base, **end, "output": [item.whole for item in items], "usage": _USAGE}
    return numbered([*events, _event("finish", str(end["status"]), response=done)])


def numbered(events: list[Event]) -> list[Event]:
    """The events with their sequence numbers, dense from 0."""
    return [
        event._replace(data={**event.data, "sequence_number": number}) if isinstance(event.data, dict) else event
        for number, event in enumerate(events)
    ]


def _whole(answer: Answer, ids: Ids, ask: Ask) -> Json:
    output = [item.whole for item in _items(answer, ids)]
    return _base(ids, ask, output=output, usage=_USAGE, **_end(answer))


def failed(ids: Ids, ask: Ask, message: str) -> Event:
    """The other way to break a stream: the response itself is reported as failed."""
    error = {"code": "server_error", "message": message}
    return _event("last", "failed", response=_base(ids, ask, status="failed", error=error), sequence_number=99)


def _broken(message: str) -> Event:
    fields = {"code": "server_error", "message": message, "param": None, "sequence_number": 99}
    return Event("last", {"type": "error", **fields}, "error")


RESPONSES = Wire(
    letter="R",
    read=_read,
    stream=_stream,
    whole=_whole,
    problem=problem,
    broken=_broken,
    ping=b": keep-alive\n\n",
    key=bearer,
)
