"""What four model providers say on the wire, piece by piece, and a server that says it answer by answer."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.fake_provider import Peer, Scenario, delta, finish, sse, usage


@dataclass
class Call:
    """A tool call, its arguments as the model writes them."""

    id: str
    name: str
    arguments: str


@dataclass
class Answer:
    """One answer of a model. Without an `end` its stream stops short; `error` comes after the text.

    With `searched`, the provider itself looks that up on the web and cites `PAGE`; OpenAI's chat has no such call and
    only cites. `image` is a picture that the model makes, where models can.
    """

    text: Sequence[str] = ()
    thought: Sequence[str] = ()
    calls: Sequence[Call] = ()
    end: str | None = "stop"
    error: str | None = None
    searched: str | None = None
    image: bytes | None = None


PAGE = {"url": "https://example.org/oslo", "title": "Oslo today"}
"""The page that a search of the provider's own finds, and that the text then cites."""


@dataclass
class Refusal:
    """An HTTP error in place of an answer."""

    status: str
    body: dict[str, Any] = field(default_factory=dict)


def scripted(wire: str, *answers: Answer | Refusal) -> Scenario:
    """A scenario that gives one answer for each request, the last one again and again."""
    left = list(answers)

    async def act(peer: Peer) -> None:
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, Refusal):
            body = json.dumps(answer.body).encode()
            await peer.head("application/json", status=answer.status, more="retry-after-ms: 1\r\n")
            await peer.send(body)
        else:
            await peer.head()
            for event in WIRES[wire](answer):
                await peer.send(event)
        await peer.end()

    return act


def _openai(answer: Answer) -> list[bytes]:
    events: list[Any] = [delta("", role="assistant"), *(delta(reasoning_content=each) for each in answer.thought)]
    events += map(delta, answer.text)
    if answer.searched:
        events.append(delta(annotations=[{"type": "url_citation", "url_citation": _cited(answer)}]))
    for index, call in enumerate(answer.calls):
        function = {"name": call.name, "arguments": ""}
        events.append(delta(tool_calls=[{"index": index, "id": call.id, "type": "function", "function": function}]))
    middle = max((len(call.arguments) for call in answer.calls), default=0) // 2
    for cut in (slice(0, middle), slice(middle, None)):
        events += [
            delta(tool_calls=[{"index": index, "function": {"arguments": call.arguments[cut]}}])
            for index, call in enumerate(answer.calls)
        ]
    if answer.error:
        events.append({"error": {"message": answer.error, "code": 529}})
    elif answer.end:
        end = "tool_calls" if answer.calls and answer.end == "stop" else answer.end
        events += [finish(end), usage(), "[DONE]"]
    return [sse(event) for event in events]


def _cited(answer: Answer) -> dict[str, Any]:
    return {**PAGE, "start_index": 0, "end_index": len("".join(answer.text))}


def _b64(image: bytes) -> str:
    return base64.b64encode(image).decode()


def _named(kind: str, **event: Any) -> bytes:
    return f"event: {kind}\n".encode() + sse({"type": kind, **event})


def _anthropic(answer: Answer) -> list[bytes]:
    message: dict[str, Any] = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "fake-1",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 30, "output_tokens": 1},
    }
    events = [_named("message_start", message=message)]
    blocks: list[tuple[dict[str, Any], list[dict[str, Any]]]] = []
    if answer.thought:
        thought = [{"type": "thinking_delta", "thinking": each} for each in answer.thought]
        signed = {"type": "signature_delta", "signature": "c2lnbmVk"}
        blocks.append(({"type": "thinking", "thinking": "", "signature": ""}, [*thought, signed]))
    if answer.searched:
        own: dict[str, Any] = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}}
        query = {"type": "input_json_delta", "partial_json": json.dumps({"query": answer.searched})}
        found = {"type": "web_search_result", **PAGE, "encrypted_content": "RW5j", "page_age": None}
        result = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": [found]}
        blocks += [(own, [query]), (result, [])]
    if answer.text:
        said: list[dict[str, Any]] = [{"type": "text_delta", "text": each} for each in answer.text]
        if answer.searched:
            place = {"type": "web_search_result_location", **PAGE, "encrypted_index": "RW5j", "cited_text": "Clear."}
            said.append({"type": "citations_delta", "citation": place})
        blocks.append(({"type": "text", "text": ""}, said))
    for call in answer.calls:
        block = {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}
        blocks.append((block, [{"type": "input_json_delta", "partial_json": call.arguments}]))
    for index, (block, deltas) in enumerate(blocks):
        events.append(_named("content_block_start", index=index, content_block=block))
        events += [_named("content_block_delta", index=index, delta=each) for each in deltas]
        if answer.end:
            events.append(_named("content_block_stop", index=index))
    if answer.error:
        events.append(_named("error", error={"type": "overloaded_error", "message": answer.error}))
    elif answer.end:
        end = {"stop": "tool_use" if answer.calls else "end_turn", "length": "max_tokens"}[answer.end]
        stop = {"stop_reason": end, "stop_sequence": None}
        events += [_named("message_delta", delta=stop, usage={"output_tokens": 12}), _named("message_stop")]
    return events


def _google(answer: Answer) -> list[bytes]:
    parts: list[dict[str, Any]] = [{"text": each, "thought": True} for each in answer.thought]
    parts += [{"text": each} for each in answer.text]
    # Google sends the arguments of a call as one object.
    parts += [
        {"functionCall": {"id": call.id, "name": call.name, "args": json.loads(call.arguments)}}
        for call in answer.calls
    ]
    if answer.image:
        parts.append({"inlineData": {"mimeType": "image/png", "data": _b64(answer.image)}})
    events: list[dict[str, Any]] = [
        {"candidates": [{"content": {"role": "model", "parts": [part]}, "index": 0}]} for part in parts
    ]
    if answer.error:
        error = {"error": {"code": 503, "message": answer.error, "status": "UNAVAILABLE"}}
        return [*map(sse, events), sse(error)]
    if answer.end:
        last: dict[str, Any] = {
            "candidates": [
                {
                    "content": {"role": "model", "parts": [{"text": ""}]},
                    "finishReason": {"stop": "STOP", "length": "MAX_TOKENS"}[answer.end],
                    "index": 0,
                }
            ],
            "usageMetadata": {"promptTokenCount": 30, "candidatesTokenCount": 12, "totalTokenCount": 42},
            "modelVersion": "fake-1",
        }
        if answer.searched:
            text = "".join(answer.text)
            last["candidates"][0]["groundingMetadata"] = {
                "webSearchQueries": [answer.searched],
                "groundingChunks": [{"web": {"uri": PAGE["url"], "title": PAGE["title"]}}],
                "groundingSupports": [
                    {
                        "segment": {"startIndex": 0, "endIndex": len(text.encode()), "text": text},
                        "groundingChunkIndices": [0],
                    }
                ],
            }
        events.append(last)
    return [sse(event) for event in events]


def _responses(answer: Answer) -> list[bytes]:
    base = {
        "id": "resp_1",
        "object": "response",
        "created_at": 0,
        "model": "fake-1",
        "tools": [],
        "tool_choice": "auto",
    }
    base |= {"parallel_tool_calls": True, "output": [], "status": "in_progress"}
    events = [_named("response.created", response=base, sequence_number=0)]
    items: list[tuple[dict[str, Any], dict[str, Any], list[tuple[str, dict[str, Any]]]]] = []
    begin: dict[str, Any]
    full: dict[str, Any]
    if answer.thought:
        begin = {"type": "reasoning", "id": "rs_1", "summary": []}
        said = [
            ("response.reasoning_summary_text.delta", {"summary_index": 0, "delta": each}) for each in answer.thought
        ]
        items.append((begin, begin, said))
    if answer.searched:
        begin = {"type": "web_search_call", "id": "ws_1", "status": "in_progress"}
        source = {"type": "url", "url": PAGE["url"]}
        action: dict[str, Any] = {"type": "search", "query": answer.searched, "sources": [source]}
        begin["action"] = {"type": "search", "query": ""}
        items.append((begin, {**begin, "status": "completed", "action": action}, []))
    if answer.image:
        begin = {"type": "image_generation_call", "id": "ig_1", "status": "in_progress", "result": None}
        sketch = {"partial_image_b64": _b64(b"\x89PNG sketch"), "partial_image_index": 0, "output_format": "png"}
        full = {**begin, "status": "completed", "result": _b64(answer.image), "output_format": "png"}
        items.append((begin, full, [("response.image_generation_call.partial_image", sketch)]))
    if answer.text:
        begin = {"type": "message", "id": "msg_1", "role": "assistant", "content": [], "status": "in_progress"}
        text = "".join(answer.text)
        full = {**begin, "status": "completed", "content": [{"type": "output_text", "text": text, "annotations": []}]}
        said = [
            ("response.output_text.delta", {"content_index": 0, "delta": each, "logprobs": []}) for each in answer.text
        ]
        if answer.searched:
            about = {"content_index": 0, "annotation_index": 0}
            annotation = {"type": "url_citation", **_cited(answer)}
            said.append(("response.output_text.annotation.added", {**about, "annotation": annotation}))
            said.append(("response.output_text.done", {"content_index": 0, "text": text, "logprobs": []}))
        items.append((begin, full, said))
    for number, call in enumerate(answer.calls):
        begin = {"type": "function_call", "id": f"fc_{number}", "call_id": call.id, "name": call.name, "arguments": ""}
        full = {**begin, "arguments": call.arguments, "status": "completed"}
        items.append((begin, full, [("response.function_call_arguments.delta", {"delta": call.arguments})]))
    for index, (begin, full, said) in enumerate(items):
        about = {"output_index": index, "sequence_number": 0}
        events.append(_named("response.output_item.added", item=begin, **about))
        events += [_named(kind, item_id=begin["id"], **event, **about) for kind, event in said]
        if answer.end:
            events.append(_named("response.output_item.done", item=full, **about))
    if answer.error:
        events.append(_named("error", code="server_error", message=answer.error, param=None, sequence_number=0))
    elif answer.end:
        tokens = {"input_tokens": 30, "output_tokens": 12, "total_tokens": 42}
        tokens |= {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}  # type: ignore[dict-item]
        done = {**base, "usage": tokens, "output": [full for _, full, _ in items]}
        if answer.end == "length":
            done |= {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
        else:
            done["status"] = "completed"
        events.append(_named(f"response.{done['status']}", response=done, sequence_number=0))
    return events


WIRES = {"openai": _openai, "openai-responses": _responses, "anthropic": _anthropic, "google": _google}
