"""The simulated provider's state: plans, what it has seen, how requests ended, its own routes, its command."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.test_sim_models import ASKED, Letter, body_of, connected, path_of
from turnwire.sim.models import SCENARIOS, TEXT, ModelSim, UnknownScenario
from turnwire.sim.pace import ScaledClock
from turnwire.sim.sim_cli import sim as command
from turnwire.testing.clock import FakeClock

pytestmark = pytest.mark.anyio

WIRES: list[Letter] = ["A", "O", "R", "G"]


# Which scenario


@pytest.mark.parametrize("wire", WIRES)
async def test_a_scenario_is_chosen_by_plan_header_path_model_and_default_in_this_order(wire: Letter) -> None:
    clock = FakeClock()
    async with ModelSim(clock=clock, default="echo") as sim, connected(sim, clock) as line:
        body = body_of(wire, stream=False, **({} if wire == "G" else {"model": "sim:thinking"}))
        ways: list[dict[str, Any]] = [
            {},
            {"path": path_of(wire, False, "sim:thinking"), "body": body},
            {"path": "/max_tokens" + path_of(wire, False, "sim:thinking"), "body": body},
            {"path": "/max_tokens" + path_of(wire, False), "x_scenario": "filter"},
        ]
        for way in ways:
            line.ask(wire, stream=False, **way)
            await line.reply()
        sim.plan(["ok_slow"])
        sim.plan(["tools_no_args"], key="k")
        for _ in range(2):
            line.ask(wire, stream=False, **ways[-1])
            await line.reply()
        names = ["echo", "thinking", "max_tokens", "filter", "tools_no_args", "ok_slow"]
        assert [seen.scenario for seen in sim.requests] == names


async def test_paths_without_a_version_are_taken_too() -> None:
    clock = FakeClock()
    async with ModelSim(clock=clock) as sim, connected(sim, clock) as line:
        for path in ("/chat/completions", "/echo/chat/completions"):
            line.ask("O", stream=False, path=path)
            assert (await line.reply())[0] == 200
        assert [seen.scenario for seen in sim.requests] == ["ok", "echo"]


def test_unknown_scenarios_cannot_be_planned() -> None:
    sim = ModelSim()
    with pytest.raises(UnknownScenario, match="clean_eof_mid"):
        sim.plan(["ok", "clean_eof"])
    with pytest.raises(UnknownScenario):
        sim.base_url("O", "clean_eof")
    with pytest.raises(UnknownScenario):
        ModelSim(default="")


async def test_a_plan_for_a_key_leaves_others_alone() -> None:
    clock = FakeClock()
    async with ModelSim(clock=clock) as sim, connected(sim, clock) as line:
        sim.plan(["429", "529"], key="one")
        got = []
        for key in ("two", "one", "one", "one"):
            line.ask("O", stream=False, authorization=f"Bearer {key}")
            got.append((await line.reply())[0])
        assert got == [200, 429, 529, 200]


async def test_a_planned_reset_comes_on_connecting() -> None:
    clock = FakeClock()
    async with ModelSim(clock=clock) as sim:
        sim.plan(["rst_on_connect"])
        async with connected(sim, clock) as line:
            await clock.until(lambda: line.end != "open")
            assert line.end == "rst"
        assert [(seen.wire, seen.scenario, seen.ended, seen.status) for seen in sim.requests] == [
            ("", "rst_on_connect", "reset", 0)
        ]
        sim.plan(["ok", "rst_on_connect"])
        async with connected(sim, clock) as line:
            line.ask("O", stream=False)
            assert (await line.reply())[0] == 200
            line.ask("O")
            await clock.until(lambda: line.end != "open")
            assert line.end == "rst"


# Answers made from the request


def _text(wire: str, said: Any) -> str:
    match wire:
        case "A":
            text = "".join(block.get("text", "") for block in said["content"])
        case "O":
            text = said["choices"][0]["message"]["content"]
        case "R":
            text = "".join(part["text"] for item in said["output"] for part in item.get("content", []))
        case _:
            text = "".join(part.get("text", "") for part in said["candidates"][0]["content"]["parts"])
    return str(text)


@pytest.mark.parametrize("wire", WIRES)
async def test_echo_answers_with_what_was_asked(wire: Letter) -> None:
    clock = FakeClock()
    async with ModelSim(clock=clock, default="echo") as sim, connected(sim, clock) as line:
        line.ask(wire, stream=False)
        assert _text(wire, (await line.reply())[2]) == ASKED
        # A lone surrogate is valid JSON and no valid UTF-8.
        line.ask(wire, stream=False, body=json.dumps(body_of(wire, False)).replace("moon", "\\ud800").encode())
        assert _text(wire, (await line.reply())[2]) == ASKED.replace("moon", "?")
        line.ask(wire, body=json.dumps(body_of(wire)).replace("moon", "\\ud800").encode())
        await sim.wait_requests(3)
        await sim.wait_ended()
        assert sim.requests[-1].ended == "completed"


async def test_arguments_of_a_called_tool_fit_its_schema() -> None:
    schema = {
        "type": "object",
        "required": ["name", "unit", "days", "deep", "tags", "flag", "maybe", "strange"],
        "properties": {
            "name": {"type": "string"},
            "unit": {"enum": ["C", "F"]},
            "days": {"type": "integer", "minimum": 3},
            "deep": {"type": "object", "required": ["x"], "properties": {"x": {"type": "number"}}},
            "tags": {"type": "array", "items": {"type": "string"}},
            "flag": {"type": "boolean"},
            "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "strange": {"type": 7, "properties": []},
            "not_required": {"type": "string"},
        },
    }
    tools = [{"type": "function", "function": {"name": "f", "parameters": schema}}]
    clock = FakeClock()
    async with ModelSim(clock=clock, default="tools") as sim, connected(sim, clock) as line:
        line.ask("O", body=body_of("O", False, tools=tools))
        (call,) = (await line.reply())[2]["choices"][0]["message"]["tool_calls"]
        assert json.loads(call["function"]["arguments"]) == {
            "name": "text", "unit": "C", "days": 3, "deep": {"x": 1}, "tags": ["text"], "flag": True,
            "maybe": "text", "strange": {},
        }  # fmt: skip
        for none in ({}, {"tools": tools, "tool_choice": "none"}):
            line.ask("O", body=body_of("O", False, **none))
            assert _text("O", (await line.reply())[2]) == "No tool was offered."


# What is seen


async def test_a_request_is_remembered_without_its_secrets() -> None:
    clock = FakeClock()
    async with ModelSim(clock=clock) as sim, connected(sim, clock) as line:
        line.ask("G", path=path_of("G") + "&key=s3cret&x=1", x_custom="seen", cookie="s3cret", authorization="s3cret")
        await sim.wait_requests(1)
        await sim.wait_ended()
        (seen,) = sim.requests
        assert "s3cret" not in repr(seen)
        assert (seen.headers["x-custom"], seen.headers["x-goog-api-key"]) == ("seen", "(hidden)")
        assert seen.path == "/v1beta/models/sim-1:streamGenerateContent?alt=sse&key=(hidden)&x=1"
        assert (seen.number, seen.wire, seen.connection, seen.scenario) == (1, "G", 1, "ok")
        assert seen.body == body_of("G")
        assert (seen.ended, seen.status, seen.at, seen.closed_at) == ("completed", 200, clock.now(), clock.now())
        await clock.until(lambda: len(line.got) == seen.sent)


@pytest.mark.parametrize("name", ["stall_after_2", "no_headers", "pings_forever", "slow_headers", "o_no_done"])
async def test_a_client_that_leaves_is_noticed_at_once(name: str) -> None:
    clock = FakeClock()
    async with ModelSim(clock=clock) as sim:
        async with connected(sim, clock) as line:
            line.ask("O", x_scenario=name)
            await sim.wait_requests(1)
            await sim.wait_idle()
            assert (sim.open_connections, sim.requests[0].ended) == (1, "open")
        await sim.wait_ended()
        assert sim.requests[0].ended == "client_closed"
        await clock.until(lambda: sim.open_connections == 0)
        assert clock.pending == 0


async def test_a_client_that_leaves_in_the_middle_of_its_request_is_noticed() -> None:
    clock = FakeClock()
    async with ModelSim(clock=clock) as sim:
        async with connected(sim, clock) as line:
            line.writer.write(b"POST /v1/responses HTTP/1.1\r\ncontent-length: 10\r\n\r\n{")
            await sim.wait_requests(1)
        await sim.wait_ended()
        assert sim.requests[0].ended == "client_closed"


async def test_stopping_breaks_what_is_open_and_the_address_can_be_used_again() -> None:
    clock = FakeClock()
    sim = ModelSim(clock=clock)
    await sim.start()
    async with connected(sim, clock) as line:
        line.ask("A", x_scenario="stall_after_2")
        await sim.wait_requests(1)
        await sim.wait_idle()
        url = sim.url
        await sim.stop()
        assert sim.requests[0].ended == "stopped"
        await clock.until(lambda: line.end != "open")
    with pytest.raises(ConnectionRefusedError):
        async with connected(sim, clock):
            raise AssertionError("a stopped simulator took a connection")
    async with sim, connected(sim, clock) as line:
        assert sim.url == url
        line.ask("A", stream=False)
        assert (await line.reply())[0] == 200
    await sim.stop()


async def test_one_connection_carries_many_requests() -> None:
    clock = FakeClock()
    async with ModelSim(clock=clock) as sim, connected(sim, clock) as line:
        for number in range(1, 7):
            line.ask("O", x_scenario="keepalive")
            await sim.wait_requests(number)
            await sim.wait_ended()
        await clock.until(lambda: line.got.count(b"data: [DONE]") == 6)
        assert (sim.connections, sim.open_connections, line.end) == (1, 1, "open")
        assert line.got.count(b"keep-alive: timeout=60") == 6
        line.ask("O", connection="close")
        await clock.until(lambda: line.end == "fin")


async def test_what_is_remembered_is_bounded() -> None:
    clock = FakeClock()
    async with ModelSim(clock=clock, max_requests=3) as sim, connected(sim, clock) as line:
        for _ in range(5):
            line.ask("O", stream=False)
            await line.reply()
        assert [seen.number for seen in sim.requests] == [3, 4, 5]
        sim.plan(["429"])
        sim.clear()
        assert sim.requests == []
        line.ask("O", stream=False)
        assert (await line.reply())[0] == 200
    async with ModelSim(clock=clock) as sim, connected(sim, clock) as line:
        big = json.dumps(body_of("O", False, padding="x" * 20_000_000)).encode()
        for _ in range(5):
            line.ask("O", body=big)
            await line.reply()
        assert [seen.number for seen in sim.requests] == [3, 4, 5]


async def test_connections_are_bounded() -> None:
    clock = FakeClock()
    async with ModelSim(clock=clock, max_connections=1) as sim, connected(sim, clock) as line:
        line.ask("O", stream=False)
        await line.reply()
        async with connected(sim, clock) as other:
            other.ask("O", stream=False)
            assert (await other.reply())[0] == 503
        line.ask("O", stream=False)
        assert (await line.reply())[0] == 200
        assert len(sim.requests) == 2


# The simulator's own routes


async def test_the_routes_of_the_simulator() -> None:
    clock = FakeClock()
    async with ModelSim(clock=clock) as sim, connected(sim, clock) as line:
        line.get("/_sim/scenarios")
        listed = (await line.reply())[2]["scenarios"]
        assert {each["name"]: each["wires"] for each in listed} == {
            name: each.wires for name, each in SCENARIOS.items()
        }
        line.get("/_sim/plan", "POST", b'{"scenarios": ["429"], "key": "k"}')
        assert (await line.reply())[2] == {"planned": 1}
        line.ask("R", stream=False)
        assert (await line.reply())[0] == 429
        line.get("/_sim/requests")
        (shown,) = (await line.reply())[2]["requests"]
        assert (shown["scenario"], shown["status"], shown["ended"], shown["body"]) == (
            "429", 429, "completed", body_of("R", stream=False),
        )  # fmt: skip
        for wrong in (
            b"{",
            b"[]",
            b"{}",
            b'{"scenarios": [3]}',
            b'{"scenarios": ["x"], "key": 3}',
            b'{"scenarios": ["x"]}',
        ):
            line.get("/_sim/plan", "POST", wrong)
            assert (await line.reply())[0] == 400
        line.get("/_sim/clear", "POST")
        assert (await line.reply())[0] == 200
        assert sim.requests == []


@pytest.mark.parametrize(
    ("path", "field"), [("/v1/models", "data"), ("/ok/v1/models", "data"), ("/v1beta/models", "models")]
)
async def test_models_are_listed(path: str, field: str) -> None:
    clock = FakeClock()
    async with ModelSim(clock=clock, models=["m1", "m2"]) as sim, connected(sim, clock) as line:
        line.get(path)
        listed = (await line.reply())[2][field]
        assert [each.get("id", each.get("name")).removeprefix("models/") for each in listed] == ["m1", "m2"]


# The command


def test_the_command_lists_every_scenario() -> None:
    result = CliRunner().invoke(command, ["models", "--list"])
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(SCENARIOS)
    assert all(line.endswith(SCENARIOS[line.split()[0]].about) for line in lines)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--scenario", "nope"], "'nope'"),
        (["--time-scale", "0"], "time scale of 0"),
        (["--host", "192.0.2.1"], "192.0.2.1"),
    ],
)
def test_the_command_refuses_what_cannot_be(options: list[str], said: str) -> None:
    result = CliRunner().invoke(command, ["models", "--port", "0", *options])
    assert result.exit_code == 2
    assert said in result.stderr


def test_the_command_serves_until_it_is_told_to_stop() -> None:
    code = "from turnwire.sim.sim_cli import sim; sim()"
    options = ["models", "--port", "0", "--time-scale", "1000", "--key", "k"]
    with subprocess.Popen([sys.executable, "-c", code, *options], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        word, url = process.stdout.readline().split()
        hint = process.stdout.readline() + process.stdout.readline()
        try:
            assert word == "ready"
            assert f"base_url={url}/v1" in hint
            said = json.dumps(body_of("O")).encode()
            headers = {"authorization": "Bearer k"}
            request = urllib.request.Request(f"{url}/slow_headers/v1/chat/completions", said, headers)
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(request, timeout=20) as answer:
                text = answer.read().decode()
            assert "".join(_deltas(text)) == TEXT
            request.headers["Authorization"] = "Bearer other"
            with pytest.raises(urllib.error.HTTPError, match="401") as refused:
                opener.open(request, timeout=20)
            refused.value.close()
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def _deltas(body: str) -> list[str]:
    events = [json.loads(line[6:]) for line in body.splitlines() if line.startswith("data: {")]
    return [choice["delta"].get("content", "") for event in events for choice in event["choices"]]


async def test_time_passes_faster_on_a_scaled_clock() -> None:
    clock, reference = ScaledClock(1_000_000), ScaledClock(1)
    begun, wall = clock.monotonic(), clock.now()
    slow = reference.monotonic()
    while reference.monotonic() == slow:
        pass
    assert clock.monotonic() - begun >= 100 * (reference.monotonic() - slow)
    assert clock.now() - wall == pytest.approx(clock.monotonic() - begun, rel=0.9)
    with pytest.raises(ValueError, match="above 0"):
        ScaledClock(float("nan"))
