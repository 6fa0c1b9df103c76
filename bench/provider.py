"""A provider of models on four wires that says every answer at a set pace, in a process of its own.

Guarantee: one event of the stream is one write, as providers send while a model speaks; every delta holds `MARK` once.

`python -m bench.provider COUNT RATE`: each answer has COUNT deltas, RATE a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from typing import Any

import msgspec
import uvloop

from .agents import WORD, ticker

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
BACKLOG = 4096


class Answer(msgspec.Struct, frozen=True):
    """A stream as it goes out: what comes before the deltas, one delta, what comes after them."""

    before: bytes
    delta: bytes
    after: bytes


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _plain(event: dict[str, Any]) -> bytes:
    return _chunk(b"data: %b\n\n" % msgspec.json.encode(event))


def _named(kind: str, **event: Any) -> bytes:
    return _chunk(b"event: %b\ndata: %b\n\n" % (kind.encode(), msgspec.json.encode({"type": kind, **event})))


def _answer(before: list[bytes], delta: bytes, after: list[bytes]) -> Answer:
    return Answer(b"".join(before), delta, b"".join([*after, b"0\r\n\r\n"]))


def _chat(count: int) -> Answer:
    about = {
        "id": "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT",
        "object": "chat.completion.chunk",
        "created": 1741569952,
        "model": "paced-1",
        "service_tier": "default",
        "system_fingerprint": "fp_50cad350e4",
    }

    def said(delta: dict[str, str], finish: str | None = None) -> bytes:
        return _plain({**about, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]})

    usage = {"prompt_tokens": 30, "completion_tokens": count, "total_tokens": 30 + count}
    counted = _plain({**about, "choices": [], "usage": usage})
    return _answer(
        [said({"role": "assistant", "content": ""})],
        said({"content": WORD}),
        [said({}, "stop"), counted, _chunk(b"data: [DONE]\n\n")],
    )


def _responses(count: int) -> Answer:
    response: dict[str, Any] = {
        "id": "resp_67ccd2bed1ec8190b14f964abc0542670bb6a6b452d3795b",
        "object": "response",
        "created_at": 1741476542,
        "model": "paced-1",
        "output": [],
        "parallel_tool_calls": True,
        "status": "in_progress",
        "tool_choice": "auto",
        "tools": [],
    }
    item: dict[str, Any] = {"id": "msg_67ccd2bf17f0819081ff3bb2cf6508e6", "type": "message", "role": "assistant"}
    place = {"item_id": item["id"], "output_index": 0, "content_index": 0}
    part: dict[str, Any] = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    text = WORD * count
    begun = {**item, "status": "in_progress", "content": []}
    full = {**item, "status": "completed", "content": [{**part, "text": text}]}
    usage = {
        "input_tokens": 30,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": count,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 30 + count,
    }
    done = {**response, "status": "completed", "output": [full], "usage": usage}
    return _answer(
        [
            _named("response.created", sequence_number=0, response=response),
            _named("response.output_item.added", sequence_number=1, output_index=0, item=begun),
            _named("response.content_part.added", sequence_number=2, part=part, **place),
        ],
        _named("response.output_text.delta", sequence_number=3, delta=WORD, logprobs=[], obfuscation="Wf9k2", **place),
        [
            _named("response.output_text.done", sequence_number=4, text=text, logprobs=[], **place),
            _named("response.content_part.done", sequence_number=5, part={**part, "text": text}, **place),
            _named("response.output_item.done", sequence_number=6, output_index=0, item=full),
            _named("response.completed", sequence_number=7, response=done),
        ],
    )


def _messages(count: int) -> Answer:
    message: dict[str, Any] = {
        "id": "msg_01XFDUDYJgAACzvnptvVoYEL",
        "type": "message",
        "role": "assistant",
        "model": "paced-1",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 30, "output_tokens": 1},
    }
    stop = {"stop_reason": "end_turn", "stop_sequence": None}
    return _answer(
        [
            _named("message_start", message=message),
            _named("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        ],
        _named("content_block_delta", index=0, delta={"type": "text_delta", "text": WORD}),
        [
            _named("content_block_stop", index=0),
            _named("message_delta", delta=stop, usage={"output_tokens": count}),
            _named("message_stop"),
        ],
    )


def _generated(count: int) -> Answer:
    def said(text: str, **more: Any) -> bytes:
        usage = {"promptTokenCount": 30, "candidatesTokenCount": count, "totalTokenCount": 30 + count}
        candidate = {"content": {"parts": [{"text": text}], "role": "model"}, "index": 0, **more}
        about = {"modelVersion": "paced-1", "responseId": "j3ZzaNbRM4Kx4-EP5aHqqQ4"}
        return _plain({"candidates": [candidate], "usageMetadata": usage, **about})

    return _answer([], said(WORD), [said("", finishReason="STOP")])


def answers(count: int) -> dict[bytes, Answer]:
    """What is said on each wire, by a piece of the request's path."""
    return {
        b"/chat/completions": _chat(count),
        b"/responses": _responses(count),
        b"/messages": _messages(count),
        b":streamGenerateContent": _generated(count),
    }


class _Provider:
    def __init__(self, count: int, rate: float) -> None:
        self._count = count
        self._rate = rate
        self._answers = answers(count)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = head.lower().partition(b"content-length:")[2].split(maxsplit=1)
                await reader.readexactly(int(length[0]) if length else 0)
                path = head.split(maxsplit=2)[1]
                await self._say(next(each for piece, each in self._answers.items() if piece in path), writer)
        writer.close()

    async def _say(self, answer: Answer, writer: asyncio.StreamWriter) -> None:
        pace = ticker(self._rate)
        slot = pace.join()
        writer.write(HEAD + answer.before)
        for _ in range(self._count):
            await pace.tick(slot)
            writer.write(answer.delta)
            await writer.drain()
        writer.write(answer.after)


async def serve(count: int, rate: float) -> None:
    """Serves until it is killed."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
    server = await asyncio.start_server(_Provider(count, rate).serve, sock=listener)
    print(f"ready http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), float(sys.argv[2])))
