"""From UI messages to the messages of pydantic-ai."""

from __future__ import annotations

import base64
import re
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic_ai.messages import (
    BinaryContent,
    DocumentUrl,
    ImageUrl,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)

from tests.agent_events import any_event, few, speak, turns
from turnwire.agents._pydantic_history import (
    INLINE_CHARS,
    NO_QUESTION,
    NO_TEXT,
    NOT_FINISHED,
    conversation,
    to_model_messages,
)
from turnwire.events import Reasoning
from turnwire.files import FileMissing
from turnwire.view import to_message

pytestmark = pytest.mark.anyio

texts = st.text(max_size=12)
json_values = st.none() | st.booleans() | st.integers() | texts | st.dictionaries(texts, texts, max_size=2)
said = st.one_of(
    st.fixed_dictionaries({"type": st.sampled_from(["text", "reasoning"]), "text": texts}),
    st.just({"type": "step-start"}),
    st.fixed_dictionaries({"type": st.just("file"), "url": texts, "mediaType": texts}),
    st.fixed_dictionaries({"type": st.just("data-weather"), "data": json_values}),
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(["tool-look", "dynamic-tool", "tool-two words"]),
            "toolCallId": st.sampled_from(["a", "a~2", "call_1", "", "x" * 80]),
            "state": st.sampled_from(["input-streaming", "input-available", "output-available", "output-error"]),
            "input": json_values,
            "output": json_values,
            "errorText": texts,
        }
    ),
)
messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system"]), "parts": st.lists(said, max_size=6)}
    ),
    max_size=8,
)


@settings(max_examples=60, deadline=None)
@given(messages)
def test_requests_and_responses_alternate_and_every_call_is_answered_once(ui: list[dict[str, Any]]) -> None:
    found = to_model_messages(ui)
    assert [message.kind for message in found] == ["request", "response"] * (len(found) // 2) + ["request"] * (
        len(found) % 2
    )
    called: list[str] = []
    for number, message in enumerate(found):
        assert message.parts
        if isinstance(message, ModelResponse):
            ids = [part.tool_call_id for part in message.tool_calls]
            called += ids
            answers = found[number + 1].parts if ids else []
            answered = [part.tool_call_id for part in answers if isinstance(part, ToolReturnPart)]
            assert answered == ids
            assert all(isinstance(part.args, dict) for part in message.tool_calls)
            # Providers refuse blank text.
            assert all(part.content.strip() for part in message.parts if isinstance(part, TextPart))
    assert len(set(called)) == len(called)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", own) for own in called)
    asked = sum(
        part["type"].startswith(("tool-", "dynamic"))
        for each in ui
        if each["role"] == "assistant"
        for part in each["parts"]
    )
    assert len(called) == asked
    assert not ui or ui[-1]["role"] != "user" or found[-1].kind == "request"


@settings(max_examples=200, deadline=None)
@given(messages)
def test_all_that_was_said_is_kept_in_order(ui: list[dict[str, Any]]) -> None:
    wanted = [
        part["text"]
        for message in ui
        if message["role"] != "system"
        for part in message["parts"]
        if part["type"] == "text" and part["text"].strip()
    ]
    found: list[str] = []
    for message in to_model_messages(ui):
        for part in message.parts:
            if isinstance(part, TextPart):
                found.append(part.content)
            elif isinstance(part, UserPromptPart):
                found += [part.content] if isinstance(part.content, str) else [str(each) for each in part.content]
    made_up = ("[attached file: ", NO_TEXT, NO_QUESTION)
    assert [text for text in found if not text.startswith(made_up)] == wanted


signatures = st.sampled_from([{"anthropic": {"signature": "s"}}, {"anthropic": {}}, {"openai": {"signature": "s"}}])
signed = st.builds(Reasoning, st.sampled_from(["", "Hm."]), signatures)
questions = st.lists(
    st.one_of(
        st.fixed_dictionaries({"type": st.just("text"), "text": texts}),
        st.sampled_from(["/files/1", "/files/2", "https://host/a.png"]).map(lambda url: file(url, "image/png")),
    ),
    max_size=3,
).map(lambda parts: {"role": "user", "parts": parts})
# Whatever was journalled, also of turns that were stopped, failed or died.
answers = turns(any_event | signed, max_size=12).map(lambda spoken: to_message(spoken.framer.view))
# A turn whose owner died is folded before its end is written.
cut_answers = st.lists(any_event | signed, max_size=8).map(lambda events: to_message(speak(events, None).framer.view))


@few
@given(st.lists(st.tuples(questions, answers | cut_answers), max_size=4), questions)
def test_what_was_journalled_comes_back_whole(before: list[tuple[Any, Any]], last: dict[str, Any]) -> None:
    ui = [message for pair in before for message in pair] + [last]
    found = to_model_messages(ui, {"/files/1": b"png"}, "anthropic")
    kinds = [message.kind for message in found]
    assert kinds == ["request", "response"] * (len(kinds) // 2) + ["request"]
    assert _told(found) == [told for message in ui for told in _shown(message)]
    for number, message in enumerate(found):
        if isinstance(message, ModelResponse):
            calls = [(part.tool_call_id, part.tool_name) for part in message.tool_calls]
            returns = [part for part in found[number + 1].parts if isinstance(part, ToolReturnPart)]
            assert [(part.tool_call_id, part.tool_name) for part in returns] == calls
            # Anthropic wants the answers before anything else that is said.
            assert list(found[number + 1].parts[: len(returns)]) == returns
    assert _thoughts(to_model_messages(ui, {}, "openai")) == _thoughts(to_model_messages(ui)) == []


def _thoughts(messages: list[ModelMessage]) -> list[ThinkingPart]:
    return [part for message in messages for part in message.parts if isinstance(part, ThinkingPart)]


def _shown(message: dict[str, Any]) -> list[Any]:
    """What a model must learn of a UI message, in order."""
    told: list[Any] = []
    for part in message["parts"]:
        kind = part["type"]
        if kind == "text" and part["text"].strip():
            told.append(part["text"])
        elif kind == "file":
            # What the model itself made is named.
            at_hand = {"/files/1": b"png", "https://host/a.png": part["url"]} if message["role"] == "user" else {}
            told.append(at_hand.get(part["url"], "named"))
        elif kind == "reasoning" and "signature" in (part.get("providerMetadata") or {}).get("anthropic", {}):
            told.append(("thought", part["text"]))
        elif kind == "dynamic-tool" or kind.startswith("tool-"):
            given, state = part.get("input"), part["state"]
            arguments = given if isinstance(given, dict) else {} if given is None else {"input": given}
            answer = {
                "output-available": part.get("output"),
                "output-error": part.get("errorText") or "The tool failed.",
            }
            told.append(("tool", arguments, answer.get(state, NOT_FINISHED)))
    return told


def _told(messages: list[ModelMessage]) -> list[Any]:
    """The same of what was made of it; a call stands with its answer."""
    answers = {
        part.tool_call_id: part.content
        for message in messages
        for part in message.parts
        if isinstance(part, ToolReturnPart)
    }
    told: list[Any] = []
    for part in (part for message in messages for part in message.parts):
        if isinstance(part, ToolCallPart):
            told.append(("tool", part.args, answers[part.tool_call_id]))
        elif isinstance(part, ThinkingPart):
            told.append(("thought", part.content))
        elif isinstance(part, TextPart):
            told.append(part.content)
        elif isinstance(part, UserPromptPart):
            told += [part.content] if isinstance(part.content, str) else part.content
    plain = [each.data if isinstance(each, BinaryContent) else getattr(each, "url", each) for each in told]
    named = ["named" if isinstance(each, str) and each.startswith("[attached file: ") else each for each in plain]
    return [each for each in named if each not in (NO_TEXT, NO_QUESTION)]


def test_one_answer_becomes_requests_and_responses_by_step() -> None:
    tool = {"type": "tool-look", "toolCallId": "a", "input": {"q": 1}}
    found = to_model_messages(
        [
            user("Look."),
            assistant({**tool, "state": "output-available", "output": {"hits": 3}}, {"type": "step-start"}, text("3.")),
            user("Again?"),
            assistant(text("Well, "), {**tool, "state": "output-error", "errorText": "no net"}),
            user("And?"),
            assistant({"type": "tool-look", "toolCallId": "a", "state": "input-streaming", "rawInput": '{"q'}),
            user("So?"),
        ]
    )
    assert [type(message) for message in found] == [ModelRequest, ModelResponse] * 4 + [ModelRequest]
    returns = [part for message in found for part in message.parts if isinstance(part, ToolReturnPart)]
    assert [(part.content, part.outcome) for part in returns] == [
        ({"hits": 3}, "success"),
        ("no net", "failed"),
        (NOT_FINISHED, "interrupted"),
    ]
    calls = [part for message in found for part in message.parts if isinstance(part, ToolCallPart)]
    assert [part.args for part in calls] == [{"q": 1}, {"q": 1}, {}]
    assert [part.tool_call_id for part in calls] == [part.tool_call_id for part in returns]
    assert len({part.tool_call_id for part in calls}) == 3


def user(said: str, *parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "parts": [text(said), *parts]}


def assistant(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "parts": list(parts)}


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def file(url: str, media_type: str, name: str = "a.b") -> dict[str, Any]:
    return {"type": "file", "url": url, "mediaType": media_type, "filename": name}


PNG = base64.b64encode(b"png").decode()


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (file("/files/1/a.png", "image/png"), BinaryContent(b"stored", media_type="image/png")),
        (file("/files/1/a.png", "application/pdf"), BinaryContent(b"stored", media_type="application/pdf")),
        (file(f"data:image/png;base64,{PNG}", "image/png"), BinaryContent(b"png", media_type="image/png")),
        (file("https://host/a.png", "image/png"), ImageUrl("https://host/a.png", media_type="image/png")),
        (
            file("https://host/a.pdf", "application/pdf"),
            DocumentUrl("https://host/a.pdf", media_type="application/pdf"),
        ),
        (
            file("/files/1/a.png", "text/plain; charset=utf-8"),
            "[attached file: a.b, text/plain; charset=utf-8]\nstored",
        ),
        (file("/files/1/a.png", "application/zip"), "[attached file: a.b, application/zip]"),
        (file("/files/2/gone.png", "image/png"), "[attached file: a.b, image/png]"),
        (file("http://host/a.png", "image/png"), "[attached file: a.b, image/png, http://host/a.png]"),
        (file("https://host/a.bin", "x/y"), "[attached file: a.b, x/y, https://host/a.bin]"),
        (file("data:broken", "image/png"), "[attached file: a.b, image/png]"),
    ],
)
def test_files_become_content_where_a_model_can_take_them(part: dict[str, Any], expected: object) -> None:
    [request] = to_model_messages([user("See.", part)], {"/files/1/a.png": b"stored"})
    [asked] = request.parts
    assert isinstance(asked, UserPromptPart)
    assert list(asked.content) == ["See.", expected]


def test_a_long_text_file_is_cut_and_says_so() -> None:
    [request] = to_model_messages([user("See.", file("/f", "text/csv"))], {"/f": b"x" * (INLINE_CHARS + 1)})
    [asked] = request.parts
    assert isinstance(asked, UserPromptPart)
    assert f"first {INLINE_CHARS} characters" in str(asked.content[1])
    assert str(asked.content[1]).endswith("\n" + "x" * INLINE_CHARS)


class Stored:
    def __init__(self, url: str, content: bytes | None) -> None:
        self.url, self.content = url, content

    async def read(self) -> bytes:
        if self.content is None:
            raise FileMissing("gone")
        return self.content


async def test_the_question_comes_apart_from_what_was_said_before() -> None:
    turn: Any = SimpleNamespace(
        text="And this?",
        quote="old\nwords",
        files=[Stored("/files/1", b"new"), Stored("/files/2", None)],
        messages=[
            user("First."),
            assistant({"type": "tool-look", "toolCallId": "a", "state": "input-available", "input": {}}),
            user("And this?", file("/files/1", "image/png"), file("/files/2", "image/png")),
        ],
    )
    prompt, history = await conversation(turn)
    assert prompt == [
        "> old\n> words",
        "And this?",
        BinaryContent(b"new", media_type="image/png"),
        "[attached file: a.b, image/png]",
    ]
    assert [message.kind for message in history] == ["request", "response", "request"]
    assert [part.part_kind for part in history[-1].parts] == ["tool-return"]


@pytest.mark.parametrize(("asked", "prompt"), [("Go on.", "Go on."), (" ", NO_TEXT)])
async def test_a_turn_without_a_message_has_its_text_as_the_question(asked: str, prompt: str) -> None:
    turn: Any = SimpleNamespace(text=asked, quote=None, files=[], messages=[user("Hi."), assistant(text("Hello."))])
    found, history = await conversation(turn)
    assert found == [prompt]
    assert len(history) == 2
