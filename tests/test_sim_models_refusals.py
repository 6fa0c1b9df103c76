"""The simulated provider refuses what providers refuse: keys, bodies, models, sizes, calls without results."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.test_sim_models import Letter, body_of, connected, path_of
from turnwire.sim._model_answers import Ids, Refused
from turnwire.sim._model_routes import WIRES as WIRE_OF
from turnwire.sim.models import SCENARIOS, ModelSim
from turnwire.testing.clock import FakeClock

pytestmark = pytest.mark.anyio

WIRES: list[Letter] = ["A", "O", "R", "G"]
KINDS = {
    "A": {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error", 413: "request_too_large"},
    "G": {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 404: "NOT_FOUND", 413: "INVALID_ARGUMENT"},
}
CODES = {400: None, 401: "invalid_api_key", 404: "model_not_found", 413: "request_too_large"}


async def ask(wire: str, body: Any = None, *, path: str = "", sim: ModelSim | None = None, **headers: Any) -> Any:
    """The status of the answer and, if it is a refusal, its message; its shape must be the provider's."""
    clock = FakeClock()
    async with sim or ModelSim(clock=clock) as running, connected(running, clock) as line:
        line.ask(wire, stream=False, body=body, path=path, **headers)
        status, _, said = await line.reply()
    if status == 200:
        return 200, ""
    error = said["error"]
    if wire == "A":
        assert (said["type"], error["type"]) == ("error", KINDS["A"][status])
    elif wire == "G":
        assert (error["code"], error["status"]) == (status, KINDS["G"][status])
    else:
        assert (error["type"], error["code"]) == ("invalid_request_error", CODES[status])
    return status, error["message"]


@pytest.mark.parametrize("wire", WIRES)
async def test_keys_are_asked_for(wire: Letter) -> None:
    none: dict[str, Any] = {"authorization": "", "x_api_key": "", "x_goog_api_key": ""}
    assert await ask(wire, **none) == (401, "the request carries no API key")
    wrong, right = ({**none, _KEY[wire]: _bearer(wire, key)} for key in ("secret-2", "secret-1"))
    status, message = await ask(wire, sim=ModelSim(key="secret-1"), **wrong)
    assert status == 401
    assert "secret" not in message
    assert await ask(wire, sim=ModelSim(key="secret-1"), **right) == (200, "")


_KEY = {"A": "x_api_key", "O": "authorization", "R": "authorization", "G": "x_goog_api_key"}


def _bearer(wire: str, key: str) -> str:
    return f"Bearer {key}" if wire in "OR" else key


async def test_keys_may_stand_elsewhere_too() -> None:
    headers = {"authorization": "Bearer s", "x_api_key": ""}
    assert (await ask("A", sim=ModelSim(key="s"), **headers))[0] == 200
    path = path_of("G", stream=False) + "?key=s"
    assert (await ask("G", sim=ModelSim(key="s"), path=path, x_goog_api_key=""))[0] == 200


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("body", [b"{oops", b"[1]", b"", b"\xff\xfe", b"[" * 100_000])
async def test_bodies_must_be_objects(wire: Letter, body: bytes) -> None:
    status, message = await ask(wire, body)
    assert (status, message.partition(":")[0]) == (400, "body")


@pytest.mark.parametrize("wire", WIRES)
async def test_unknown_models_are_not_found(wire: Letter) -> None:
    def known(*names: str) -> ModelSim:
        return ModelSim(models=names)

    assert (await ask(wire, sim=known("sim-1", "sim-2")))[0] == 200
    status, message = await ask(wire, sim=known("other"))
    assert (status, "sim-1" in message) == (404, True)
    path = path_of("G", stream=False, model="sim:echo") if wire == "G" else ""
    assert (await ask(wire, body_of(wire, False, model="sim:echo"), path=path, sim=known("other")))[0] == 200


@pytest.mark.parametrize("wire", WIRES)
async def test_large_bodies_are_refused_and_the_connection_goes_on(wire: Letter) -> None:
    clock = FakeClock()
    async with ModelSim(clock=clock, max_body=1000) as sim, connected(sim, clock) as line:
        line.ask(wire, stream=False, body=b"x" * 1001)
        assert (await line.reply())[0] == 413
        line.ask(wire, stream=False)
        assert (await line.reply())[0] == 200
        line.ask(wire, stream=False, body=b"x" * 10_000)
        assert (await line.reply())[0] == 413
        await clock.until(lambda: line.end != "open")
        assert [seen.status for seen in sim.requests] == [413, 200, 413]


@pytest.mark.parametrize("wire", WIRES)
async def test_scenarios_must_exist_and_have_a_meaning(wire: Letter) -> None:
    status, message = await ask(wire, x_scenario="rst_mit")
    assert status == 400
    assert "rst_mid" in message
    other = "o_no_done" if wire != "O" else "a_no_message_stop"
    status, message = await ask(wire, x_scenario=other)
    assert (status, message) == (400, f"scenario {other} has no meaning on wire {wire}; it has on {other[0].upper()}")


USER: dict[str, Any] = {"role": "user", "content": "hi"}
SYSTEM: dict[str, Any] = {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}


def _a_call(*ids: str) -> dict[str, Any]:
    return {
        "role": "assistant",
        "content": [{"type": "tool_use", "id": each, "name": "f", "input": {}} for each in ids],
    }


def _a_result(*ids: str, before: list[Any] | None = None) -> dict[str, Any]:
    results = [{"type": "tool_result", "tool_use_id": each, "content": "x"} for each in ids]
    return {"role": "user", "content": [*(before or []), *results]}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model": None}, "model"),
        ({"model": 3}, "model"),
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stream": "yes"}, "stream"),
        ({"messages": []}, "messages"),
        ({"messages": ["hi"]}, "messages.0"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        ({"messages": [SYSTEM, USER]}, "messages.0.role"),
        ({"messages": [USER, SYSTEM, USER]}, "messages.1.role"),
        ({"messages": [USER, SYSTEM, SYSTEM]}, "messages.1.role"),
        ({"messages": [USER, {"role": "assistant", "content": "x"}, SYSTEM]}, "messages.2.role"),
        ({"messages": [USER, _a_call("t1"), SYSTEM, _a_result("t1")]}, "messages.2.role"),
        ({"messages": [USER, {"role": "system", "content": ""}]}, "messages.1.content"),
        ({"messages": [USER, {"role": "system", "content": [{"type": "image"}]}]}, "messages.1.content.0.type"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages.0.content"),
        ({"messages": [USER, {"role": "assistant", "content": ""}, USER]}, "messages.1.content"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": ""}]}]}, "messages.0.content.0.text"),
        ({"messages": [USER, _a_call("t1")]}, "messages.1"),
        ({"messages": [USER, _a_call("t1"), USER]}, "messages.1"),
        ({"messages": [USER, _a_call("t1", "t2"), _a_result("t1")]}, "messages.1"),
        ({"messages": [USER, _a_call("t1"), _a_result("t1", "t2")]}, "messages.2"),
        ({"messages": [USER, _a_result("t1")]}, "messages.0"),
        ({"messages": [USER, _a_call("t1"), _a_result("t1", before=[{"type": "text", "text": "x"}])]}, "messages.2"),
        ({"messages": [USER, _a_call("t1", "t1"), _a_result("t1")]}, "messages.1"),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, "thinking.budget_tokens"),
        ({"tools": [{"input_schema": {}}]}, "tools.0.name"),
    ],
)
async def test_anthropic_refuses(change: dict[str, Any], named: str) -> None:
    status, message = await ask("A", {**body_of("A", stream=False), **change})
    assert (status, message.partition(": ")[0]) == (400, named)


async def test_anthropic_takes() -> None:
    calls = [USER, _a_call("t1", "t2"), _a_result("t2", "t1"), {"role": "user", "content": "more"}]
    neighbours = [USER, USER, {"role": "assistant", "content": "x"}, {"role": "assistant", "content": "y"}, USER]
    prefill = [USER, {"role": "assistant", "content": ""}]
    spread = [USER, _a_call("t1", "t2"), _a_result("t1"), _a_result("t2")]
    amended = [USER, SYSTEM, _a_call("t1"), _a_result("t1"), SYSTEM]
    for messages in (calls, neighbours, prefill, spread, amended):
        assert await ask("A", body_of("A", stream=False) | {"messages": messages}) == (200, "")
    status, message = await ask("A", anthropic_version="")
    assert (status, message.partition(": ")[0]) == (400, "anthropic-version")


def _o_call(*ids: str, **more: Any) -> dict[str, Any]:
    calls = [{"id": each, "type": "function", "function": {"name": "f", "arguments": "{}"}} for each in ids]
    return {"role": "assistant", "tool_calls": calls, **more}


def _o_result(call: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call, "content": "x"}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model": ""}, "model"),
        ({"messages": {}}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages.0.content"),
        ({"messages": [USER, _o_call("c1")]}, "messages.1.tool_calls"),
        ({"messages": [USER, _o_call("c1"), USER]}, "messages.1.tool_calls"),
        ({"messages": [USER, _o_call("c1", "c2"), _o_result("c2"), USER]}, "messages.1.tool_calls"),
        ({"messages": [USER, _o_call("c1"), _o_result("c2")]}, "messages.2"),
        ({"messages": [USER, _o_call("c1"), _o_result("c1"), _o_result("c1")]}, "messages.3"),
        ({"messages": [USER, _o_result("c1")]}, "messages.1"),
        ({"messages": [_o_call("c1", role="user", content="x")]}, "messages.0.tool_calls"),
        ({"tools": [{"type": "function", "function": {"name": "no spaces"}}]}, "tools.0.function.name"),
        ({"tools": [{"function": {"name": "f"}}]}, "tools.0.type"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
    ],
)
async def test_openai_refuses(change: dict[str, Any], named: str) -> None:
    status, message = await ask("O", {**body_of("O", stream=False), **change})
    assert (status, message.partition(": ")[0]) == (400, named)


async def test_openai_takes_calls_with_all_their_results() -> None:
    messages = [USER, USER, _o_call("c1", "c2"), _o_result("c2"), _o_result("c1"), USER]
    assert await ask("O", body_of("O", stream=False) | {"messages": messages}) == (200, "")


R_CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
R_RESULT = {"type": "function_call_output", "call_id": "c1", "output": "x"}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input.0.role"),
        ({"input": [USER, R_CALL]}, "input"),
        ({"input": [USER, R_RESULT]}, "input.1"),
        ({"input": [R_RESULT, R_CALL]}, "input.0"),
        ({"input": [USER, R_CALL, {**R_RESULT, "call_id": "c2"}]}, "input.2"),
        ({"input": [USER, R_CALL, {"type": "function_call_output", "call_id": "c1"}]}, "input.2.output"),
        ({"previous_response_id": "resp_none"}, "previous_response_id"),
        ({"tools": [{"type": "function", "name": ""}]}, "tools.0.name"),
    ],
)
async def test_responses_refuses(change: dict[str, Any], named: str) -> None:
    status, message = await ask("R", {**body_of("R", stream=False), **change})
    assert (status, message.partition(": ")[0]) == (400, named)


async def test_responses_takes_calls_with_their_results() -> None:
    assert await ask("R", body_of("R", stream=False) | {"input": [USER, R_CALL, R_RESULT, USER]}) == (200, "")


G_USER = {"role": "user", "parts": [{"text": "hi"}]}
G_CALL = {"role": "model", "parts": [{"functionCall": {"name": "f", "args": {}}}]}
G_RESULT = {"role": "user", "parts": [{"function_response": {"name": "f", "response": {}}}]}


@pytest.mark.parametrize(
    ("contents", "named"),
    [
        ([], "contents"),
        ([{"role": "assistant", "parts": [{"text": "x"}]}], "contents.0.role"),
        ([{"role": "user", "parts": []}], "contents.0.parts"),
        ([{"role": "user", "parts": [{"txt": "x"}]}], "contents.0.parts.0"),
        ([G_USER, {"role": "model", "parts": [{"text": "x"}]}], "contents"),
        ([G_USER, G_CALL], "contents"),
        ([G_USER, G_CALL, G_USER], "contents.2"),
        ([G_USER, G_RESULT], "contents.1"),
        ([G_CALL, G_RESULT], "contents.0"),
        ([G_USER, {"role": "model", "parts": [{"text": "x"}]}, G_CALL, G_RESULT], "contents.2"),
        ([G_USER, {"role": "user", "parts": G_CALL["parts"]}, G_RESULT], "contents.1"),
    ],
)
async def test_google_refuses(contents: list[Any], named: str) -> None:
    status, message = await ask("G", {"contents": contents})
    assert (status, message.partition(": ")[0]) == (400, named)


async def test_google_takes_calls_with_their_results_and_streams_as_sse_only() -> None:
    assert await ask("G", {"contents": [G_USER, G_CALL, G_RESULT, G_CALL, {**G_RESULT, "role": "function"}]}) == (
        200,
        "",
    )
    status, message = await ask("G", path="/v1beta/models/any:streamGenerateContent")
    assert (status, message.partition(": ")[0]) == (400, "alt")


_WORDS = [
    "model", "max_tokens", "messages", "role", "content", "type", "text", "tool_use", "tool_result", "tool_use_id",
    "id", "name", "input", "tools", "input_schema", "thinking", "budget_tokens", "enabled", "tool_choice", "none",
    "stream", "stream_options", "include_usage", "function", "tool", "tool_calls", "tool_call_id", "refusal",
    "user", "assistant", "system", "call_id", "output", "function_call", "function_call_output",
    "previous_response_id", "contents", "parts", "functionCall", "functionResponse", "response",
    "function_declarations", "toolConfig", "functionCallingConfig", "mode", "parameters", "required", "properties",
    "object", "string", "items",
]  # fmt: skip
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 2000) | st.sampled_from(["", *_WORDS]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_WORDS), inner, max_size=5),
    max_leaves=25,
)


@pytest.mark.parametrize("wire", WIRES)
@given(change=st.dictionaries(st.sampled_from(_WORDS), _VALUES, max_size=4))
def test_any_json_is_either_understood_or_refused(wire: Letter, change: dict[str, Any]) -> None:
    spoken = WIRE_OF[wire]
    with contextlib.suppress(Refused):
        ask = spoken.read({**body_of(wire), **change}, "any", True)
        for name in ("echo", "tools"):
            answer = SCENARIOS[name].says(ask)
            assert spoken.stream(answer, Ids(1), ask)[-1].encode()
            json.dumps(spoken.whole(answer, Ids(1), ask))


async def test_what_is_no_request_is_refused_with_a_reason() -> None:
    clock = FakeClock()
    async with ModelSim(clock=clock) as sim:
        for said, why in [
            (b"HELLO\r\n\r\n", "first line"),
            (b"POST /v1/messages HTTP/1.1\r\noops\r\n\r\n", "each header"),
            (b"GET /_sim/requests HTTP/1.1\r\ncontent-length: -1\r\n\r\n", "content-length"),
            (b"POST /v1/messages HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", "chunk"),
        ]:
            async with connected(sim, clock) as line:
                line.writer.write(said)
                status, _, answer = await line.reply()
                assert status == 400
                assert why in answer["error"]["message"]
                await clock.until(lambda line=line: line.end != "open")  # type: ignore[misc]


async def test_bodies_may_come_in_chunks() -> None:
    clock = FakeClock()
    async with ModelSim(clock=clock) as sim, connected(sim, clock) as line:
        head = b"POST /v1/responses HTTP/1.1\r\nauthorization: Bearer k\r\ntransfer-encoding: chunked\r\n\r\n"
        line.writer.write(head + b'10\r\n{"model":"any","\r\nd;x=y\r\ninput": "hi"}\r\n0\r\ntrailer: x\r\n\r\n')
        assert (await line.reply())[0] == 200
        assert sim.requests[0].body == {"model": "any", "input": "hi"}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/messages", 405), ("POST", "/v1/models", 405), ("GET", "/", 404), ("POST", "/a/b/v1/messages", 404)],
)
async def test_paths_that_lead_nowhere_say_where_one_can_go(method: str, path: str, status: int) -> None:
    clock = FakeClock()
    async with ModelSim(clock=clock) as sim, connected(sim, clock) as line:
        line.get(path, method)
        got, _, said = await line.reply()
        assert got == status
        assert (method if status == 405 else "/v1/chat/completions") in said["error"]["message"]
