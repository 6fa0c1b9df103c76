"""From the UI messages of a conversation to the messages of pydantic-ai.

Guarantee: the result begins with a request, requests and responses alternate, and the request after a response answers
each of its tool calls exactly once, under an id that every provider takes. What people and agents said is kept, also
when an answer was cut short. Reasoning is kept where its provider asks for it, as it signed it, and left out elsewhere:
providers refuse thoughts whose signature is not theirs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic_ai.messages import (
    BinaryContent,
    DocumentUrl,
    ImageUrl,
    ModelMessage,
    ModelRequest,
    ModelRequestPart,
    ModelResponse,
    ModelResponsePart,
    SystemPromptPart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserContent,
    UserPromptPart,
)

from ..files import FileMissing
from .chat_reader import dicts

if TYPE_CHECKING:
    from ..turn import Turn

NOT_FINISHED = "This call was not finished; its result is not known."
"""What answers a tool call that has no answer in the conversation."""

SIGNED = frozenset({"anthropic", "google"})
"""Providers that want their thoughts back, with their signature."""

NO_QUESTION = "(The assistant began the conversation.)"
NO_TEXT = "(an empty message)"
INLINE_CHARS = 200_000
"""Of a text file, so many characters are put into the question."""

# OpenAI takes 64 characters, Anthropic these ones only.
_TAKEN = re.compile(r"[A-Za-z0-9_-]{1,64}")
_BINARY = re.compile(r"(?i)image/(?:png|jpeg|gif|webp)|audio/.+|video/.+|application/pdf")
_TEXTUAL = re.compile(r"(?i)text/.+|application/(?:.+\+)?(?:json|xml|yaml|toml|x-ndjson|javascript)")


async def conversation(turn: Turn, provider: str = "") -> tuple[list[UserContent], list[ModelMessage]]:
    """The question, and what was said before it. The question's own files are read; earlier ones are named.

    `provider` is the one that gets them.
    """
    contents: dict[str, bytes] = {}
    for file in turn.files:
        try:
            contents[file.url] = await file.read()
        except FileMissing:
            # It is named instead, as the files of earlier messages are.
            continue
    messages = to_model_messages(turn.messages, contents, provider)
    prompt: list[UserContent] = []
    if messages and isinstance(last := messages[-1], ModelRequest) and isinstance(last.parts[-1], UserPromptPart):
        content = last.parts[-1].content
        prompt = [content] if isinstance(content, str) else list(content)
        earlier = last.parts[:-1]
        messages[-1:] = [ModelRequest(parts=earlier)] if earlier else []
    if turn.quote:
        prompt.insert(0, "\n".join(f"> {line}" for line in str(turn.quote).splitlines()))
    return prompt or [turn.text.strip() or NO_TEXT], messages


def to_model_messages(
    messages: Iterable[Mapping[str, Any]], contents: Mapping[str, bytes] | None = None, provider: str = ""
) -> list[ModelMessage]:
    """A whole conversation, oldest first.

    Args:
        messages: UI messages of the AI SDK, as `turn.messages` holds them.
        contents: by address, the files that are at hand; others are named.
        provider: who gets the messages; its own signed thoughts are among them if it is one of `SIGNED`.
    """
    history = _History(contents or {}, provider)
    for message in messages:
        parts = dicts(message.get("parts"))
        if message.get("role") == "assistant":
            history.answered(parts)
        elif message.get("role") == "system":
            history.instructed(parts)
        else:
            history.asked(parts)
    return history.messages


class _History:
    """The messages so far; neighbours of the same kind become one."""

    def __init__(self, contents: Mapping[str, bytes], provider: str) -> None:
        self._provider = provider if provider in SIGNED else None
        self.messages: list[ModelMessage] = []
        self._contents = contents
        self._ids: set[str] = set()

    def asked(self, parts: list[dict[str, Any]]) -> None:
        said: list[UserContent] = []
        for part in parts:
            if part.get("type") == "text" and str(part.get("text") or "").strip():
                said.append(str(part["text"]))
            elif part.get("type") == "file":
                said.append(self._file(part))
        self._request([UserPromptPart(said or [NO_TEXT])])

    def instructed(self, parts: list[dict[str, Any]]) -> None:
        text = "\n".join(str(part.get("text") or "") for part in parts if part.get("type") == "text")
        if text.strip():
            self._request([SystemPromptPart(text)])

    def answered(self, parts: list[dict[str, Any]]) -> None:
        said: list[ModelResponsePart] = []
        returns: list[ToolReturnPart] = []
        for part in [*parts, {"type": "step-start"}]:
            kind = str(part.get("type") or "")
            if kind == "step-start":
                self._response(said)
                self._request(returns)
                said, returns = [], []
            elif kind == "text" and str(part.get("text") or "").strip():
                said.append(TextPart(str(part["text"])))
            elif kind == "reasoning" and self._provider:
                said += _thought(part, self._provider)
            elif kind == "file":
                said.append(TextPart(_named(part)))
            elif kind == "dynamic-tool" or kind.startswith("tool-"):
                call, answer = self._tool(part, str(part.get("toolName") or kind.removeprefix("tool-")))
                said.append(call)
                returns.append(answer)

    def _tool(self, part: dict[str, Any], name: str) -> tuple[ToolCallPart, ToolReturnPart]:
        own, name = self._own_id(str(part.get("toolCallId") or "")), _name(name)
        given = part.get("input")
        arguments = given if isinstance(given, dict) else {} if given is None else {"input": given}
        call = ToolCallPart(name, arguments, own)
        if part.get("state") == "output-available":
            return call, ToolReturnPart(name, part.get("output"), own)
        if part.get("state") == "output-error":
            return call, ToolReturnPart(name, str(part.get("errorText") or "The tool failed."), own, outcome="failed")
        return call, ToolReturnPart(name, NOT_FINISHED, own, outcome="interrupted")

    def _own_id(self, given: str) -> str:
        """`given` if it is new and every provider takes it: some servers number their calls anew in each answer."""
        own, number = given, len(self._ids)
        while own in self._ids or not _TAKEN.fullmatch(own):
            number += 1
            own = f"call_{number}"
        self._ids.add(own)
        return own

    def _file(self, part: dict[str, Any]) -> UserContent:
        url, media_type = str(part.get("url") or ""), str(part.get("mediaType") or "").partition(";")[0].strip()
        data = self._contents.get(url)
        if data is None and url.startswith("data:"):
            try:
                inline = BinaryContent.from_data_uri(url)
            except ValueError:
                return _named(part)
            data, media_type = inline.data, media_type or inline.media_type
        if data is not None and _BINARY.fullmatch(media_type):
            return BinaryContent(data, media_type=media_type)
        if data is not None and _TEXTUAL.fullmatch(media_type):
            text = data.decode("utf-8", "replace")
            cut = f" (its first {INLINE_CHARS} characters)" if len(text) > INLINE_CHARS else ""
            return f"{_named(part)}{cut}\n{text[:INLINE_CHARS]}"
        if url.startswith("https://") and media_type.startswith("image/"):
            return ImageUrl(url, media_type=media_type)
        if url.startswith("https://") and media_type == "application/pdf":
            return DocumentUrl(url, media_type=media_type)
        return _named(part)

    def _request(self, parts: Iterable[ModelRequestPart]) -> None:
        added = list(parts)
        if not added:
            return
        if self.messages and isinstance(last := self.messages[-1], ModelRequest):
            self.messages[-1] = ModelRequest(parts=[*last.parts, *added])
        else:
            self.messages.append(ModelRequest(parts=added))

    def _response(self, parts: list[ModelResponsePart]) -> None:
        if not parts:
            return
        if not self.messages:
            self._request([UserPromptPart(NO_QUESTION)])
        last = self.messages[-1]
        if isinstance(last, ModelResponse):
            self.messages[-1] = ModelResponse(parts=[*last.parts, *parts])
        else:
            self.messages.append(ModelResponse(parts=parts))


def signature(part: ThinkingPart) -> dict[str, Any]:
    """What a thought's metadata holds of its provider's signature; nothing if there is none to keep."""
    if part.provider_name == "google":
        own = (part.provider_details or {}).get("thought_signature")
        return {"thoughtSignature": own} if own else {}
    if not part.signature or part.provider_name not in SIGNED:
        return {}
    return {"redactedData" if part.id == "redacted_thinking" else "signature": part.signature}


def _thought(part: Mapping[str, Any], provider: str) -> list[ThinkingPart]:
    """The thought if its signature is whole: one that was cut short has none."""
    about = part.get("providerMetadata")
    signed = about.get(provider) if isinstance(about, dict) else None
    if not isinstance(signed, dict):
        return []
    if isinstance(own := signed.get("thoughtSignature"), str) and provider == "google":
        details = {"thought_signature": own}
        return [ThinkingPart(str(part.get("text") or ""), provider_name=provider, provider_details=details)]
    text, redacted, own = str(part.get("text") or ""), signed.get("redactedData"), signed.get("signature")
    if isinstance(own, str):
        return [ThinkingPart(text, signature=own, provider_name=provider)]
    if isinstance(redacted, str) and not text:
        return [ThinkingPart("", id="redacted_thinking", signature=redacted, provider_name=provider)]
    return []


def _name(given: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", given)[:64] or "tool"


def _named(part: Mapping[str, Any]) -> str:
    name, media_type = part.get("filename") or "without a name", part.get("mediaType") or "unknown type"
    url = str(part.get("url") or "")
    where = f", {url}" if url.startswith(("https://", "http://")) else ""
    return f"[attached file: {name}, {media_type}{where}]"
