"""Wire G: Gemini's `:generateContent` and `:streamGenerateContent?alt=sse` under `/v1beta/models/`.

Sources: Google's API reference for generating content and for function calling, and what the official SDK reads. One
difference is meant: a request without a valid key is refused with 401, as on the other wires.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ._json import Json, compact
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
    objects,
    one_of,
    parsed,
    rounds,
    want,
)

_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
}
_USAGE = {
    "promptTokenCount": INPUT_TOKENS,
    "candidatesTokenCount": OUTPUT_TOKENS,
    "totalTokenCount": INPUT_TOKENS + OUTPUT_TOKENS,
}
_KINDS = {
    "text", "inlineData", "fileData", "functionCall", "functionResponse", "executableCode", "codeExecutionResult",
}  # fmt: skip


def _read(body: Json, model: str, stream: bool) -> Ask:
    contents = objects(want(body, "contents", list), "contents")
    turns: list[tuple[str, str, list[Json]]] = []
    for at, content in contents:
        role = one_of(given(content, "role", str, "user", at), ("user", "model", "function"), f"{at}.role")
        parts = objects(want(content, "parts", list, at), f"{at}.parts")
        for place, part in parts:
            if not _KINDS & {_camel(name) for name in part}:
                raise Refused(400, f"{place}: holds none of {', '.join(sorted(_KINDS))}")
        turns.append((at, role, [{_camel(name): value for name, value in part.items()} for _, part in parts]))
    _pair(turns)
    texts = ["".join(str(part.get("text") or "") for part in parts) for _, role, parts in turns if role == "user"]
    results = tuple(
        compact(part["functionResponse"].get("response")) for part in turns[-1][2] if "functionResponse" in part
    )
    tools = [
        Tool(want(tool, "name", str, at), _lower(_schema(tool)))
        for place, offered in objects(given(body, "tools", list, []), "tools")
        for at, tool in objects(
            given({_camel(key): value for key, value in offered.items()}, "functionDeclarations", list, [], place),
            place,
        )
    ]
    mode = given(given(body, "toolConfig", dict, {}), "functionCallingConfig", dict, {}).get("mode")
    if mode == "NONE":
        tools = []
    kinds = ["result" if any("functionResponse" in part for part in parts) else role for _, role, parts in turns]
    text = next((text for text in reversed(texts) if text), "")
    return Ask(model, stream, text, results, tuple(tools), rounds=rounds(kinds))


def _pair(turns: list[tuple[str, str, list[Json]]]) -> None:
    """A turn of calls follows the user or results, and has as many results in the next turn as it has calls."""
    waiting: list[str] = []
    before = ""
    for at, role, parts in turns:
        calls = [want(part["functionCall"], "name", str, at) for part in parts if "functionCall" in part]
        answers = [want(part["functionResponse"], "name", str, at) for part in parts if "functionResponse" in part]
        if sorted(answers) != sorted(waiting):
            raise Refused(
                400,
                f"{at}: its functionResponse parts must answer the functionCall parts of the turn before it, "
                f"one each: {waiting} were called, {answers} answered",
            )
        if calls and (role != "model" or before not in ("user", "function")):
            raise Refused(400, f"{at}: a turn of calls is the model's and comes right after the user's or a function's")
        waiting, before = calls, role
    if waiting:
        raise Refused(400, f"contents: no functionResponse answers {waiting}")
    if before == "model":
        raise Refused(400, "contents: the last turn must be the user's or a function's")


def _camel(name: str) -> str:
    """Google takes both spellings of a field's name."""
    first, *more = name.split("_")
    return first + "".join(word.title() for word in more)


def _schema(tool: Json) -> Any:
    named = {_camel(name): value for name, value in tool.items()}
    return named.get("parametersJsonSchema") or named.get("parameters")


def _lower(schema: Any) -> Json:
    """Google writes JSON Schema's types in capitals."""
    if not isinstance(schema, dict):
        return {}
    changed: Json = {key: _lower(value) if isinstance(value, dict) else value for key, value in schema.items()}
    if isinstance(changed.get("type"), str):
        changed["type"] = changed["type"].lower()
    return changed


def _reason(answer: Answer) -> str:
    return {"stop": "STOP", "length": "MAX_TOKENS", "filter": "SAFETY"}[answer.end]


def _parts(answer: Answer, ids: Ids) -> list[Json]:
    parts: list[Json] = [{"text": piece, "thought": True} for piece in answer.thought]
    if parts:
        parts[-1]["thoughtSignature"] = SIGNATURE
    parts += [{"text": piece} for piece in (*answer.text, *answer.refusal)]
    for index, call in enumerate(answer.calls):
        made: Json = {"id": ids.of("call", index), "name": call.name}
        if call.arguments:
            made["args"] = parsed(call.arguments)
        parts.append({"functionCall": made})
    return parts


def _reply(ask: Ask, ids: Ids, parts: list[Json], finish: str | None = None) -> Json:
    candidate: Json = {"content": {"role": "model", "parts": parts}, "index": 0}
    if finish:
        candidate["finishReason"] = finish
    more = {"usageMetadata": _USAGE} if finish else {}
    return {"candidates": [candidate], **more, "modelVersion": ask.model, "responseId": ids.of("resp")}


def _stream(answer: Answer, ids: Ids, ask: Ask) -> list[Event]:
    role: Role = "delta"
    events = [Event(role, _reply(ask, ids, [part])) for part in _parts(answer, ids)]
    return [*events, Event("finish", _reply(ask, ids, [{"text": ""}], _reason(answer)))]


def _whole(answer: Answer, ids: Ids, ask: Ask) -> Json:
    joined: list[Json] = []
    for part in _parts(answer, ids):
        if joined and "text" in part and "text" in joined[-1] and part.get("thought") == joined[-1].get("thought"):
            joined[-1] = {**joined[-1], **part, "text": joined[-1]["text"] + part["text"]}
        else:
            joined.append(part)
    return _reply(ask, ids, joined, _reason(answer))


def blocked(ask: Ask, ids: Ids) -> Json:
    """The prompt itself is refused: there is no candidate."""
    usage = {"promptTokenCount": INPUT_TOKENS, "totalTokenCount": INPUT_TOKENS}
    about = {"modelVersion": ask.model, "responseId": ids.of("resp")}
    return {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": usage, **about}


def _problem(status: int, message: str) -> Json:
    return {"error": {"code": status, "message": message, "status": _STATUSES.get(status, "UNAVAILABLE")}}


def _key(headers: Mapping[str, str], query: Mapping[str, str]) -> str:
    return headers.get("x-goog-api-key") or query.get("key", "")


GOOGLE = Wire(
    letter="G",
    read=_read,
    stream=_stream,
    whole=_whole,
    problem=_problem,
    broken=lambda message: Event("last", _problem(503, message)),
    ping=b": keep-alive\n\n",
    key=_key,
)
