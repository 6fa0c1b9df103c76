"""LangGraph as the runtime, over both of OpenAI's wires of the simulated provider, in a real gateway."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import importlib
import json
import operator
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest

from tests.framework_turns import CITIES, about, answer_of, asked, calls, decided, stopped, talking, text, thoughts
from turnwire.agents.guard import guarded_client
from turnwire.agents.langgraph import langgraph_agent
from turnwire.sim.models import LEAKED_KEY, TEXT, ModelSim

pytest.importorskip("langgraph")
chats: Any = pytest.importorskip("langchain_openai")
agents: Any = pytest.importorskip("langchain.agents")
graphs: Any = importlib.import_module("langgraph.graph")
prebuilt: Any = importlib.import_module("langgraph.prebuilt")
kinds: Any = importlib.import_module("langgraph.types")
core: Any = importlib.import_module("langchain_core.messages")
memory: Any = importlib.import_module("langgraph.checkpoint.memory")
tooling: Any = importlib.import_module("langchain_core.tools")

pytestmark = [pytest.mark.anyio, pytest.mark.frameworks]

both_wires = pytest.mark.parametrize("wire", ["O", "R"])
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


class State(TypedDict):
    messages: Annotated[list[Any], graphs.add_messages]


class Bench:
    """A model and a tool over a simulated provider; `ran` are the cities the tool was run for."""

    def __init__(self, sim: ModelSim, wire: str, http: Any) -> None:
        self.sim = sim
        self.ran: list[str] = []
        self.hold = asyncio.Event()
        self.hold.set()
        self.model = chats.ChatOpenAI(
            model="m",
            base_url=sim.base_url("R" if wire == "R" else "O"),
            api_key="any",
            http_async_client=http,
            use_responses_api=wire == "R",
            stream_usage=True,
        )
        self.tool = tooling.tool("get_weather")(self.weather)

    async def weather(self, city: str) -> str:
        """The weather in a city."""
        self.ran.append(city)
        await self.hold.wait()
        return f"clear over {city}"

    def agent(self, **options: Any) -> Any:
        return agents.create_agent(self.model, [self.tool], system_prompt="Be brief.", **options)

    def graph(self, **options: Any) -> Any:
        """The same by hand: a plain graph with a node for the model and one for the tools."""
        bound = self.model.bind_tools([self.tool])

        async def call(state: State) -> dict[str, Any]:
            return {"messages": [await bound.ainvoke(state["messages"])]}

        graph = graphs.StateGraph(State)
        graph.add_node("call", call)
        graph.add_node("tools", prebuilt.ToolNode([self.tool]))
        graph.add_edge("__start__", "call")
        graph.add_conditional_edges("call", prebuilt.tools_condition)
        graph.add_edge("tools", "call")
        return graph.compile(**options)


@pytest.fixture
async def bench() -> AsyncIterator[Callable[..., Bench]]:
    async with contextlib.AsyncExitStack() as stack:
        sim = await stack.enter_async_context(ModelSim(retry_after=0.001))
        http = await stack.enter_async_context(guarded_client())

        def make(wire: str, *plan: str) -> Bench:
            sim.plan(plan)
            return Bench(sim, wire, http)

        yield make


@both_wires
@pytest.mark.shows("LangGraph", "text", "reasoning", "usage")
async def test_text_thoughts_and_counts(wire: str, bench: Any, tmp_path: Path) -> None:
    at = bench(wire, "thinking")
    async with talking(langgraph_agent(at.agent()), tmp_path) as client:
        message = await asked(client)
    # LangChain drops the thoughts of Chat Completions.
    assert (text(message), thoughts(message)) == (TEXT, "Let me think." if wire == "R" else "")
    found = about(message)
    assert (found["outcome"], found["usage"]["totalTokens"], found["model"]) == ("done", 42, "m")


@pytest.mark.parametrize("made", ["agent", "graph"])
@pytest.mark.shows("LangGraph", "tools", "parallel tools")
async def test_parallel_calls_and_a_second_turn(made: str, bench: Any, tmp_path: Path) -> None:
    at = bench("O", "tools_parallel", "ok", "ok")
    async with talking(langgraph_agent(getattr(at, made)()), tmp_path) as client:
        message = await asked(client)
        await asked(client, "Sure?")
    assert sorted(at.ran) == ["Zürich", "北京"]
    assert calls(message) == [
        ("output-available", CITIES[0], "clear over 北京"),
        ("output-available", CITIES[1], "clear over Zürich"),
    ]
    assert (text(message), about(message)["usage"]["totalTokens"]) == (TEXT, 84)
    later = json.dumps(at.sim.requests[2].body, ensure_ascii=False)
    order = [later.index(each) for each in ("clear over 北京", "clear over Zürich", TEXT[:7], "Sure?")]
    assert order == sorted(order)


@pytest.mark.parametrize("made", ["agent", "graph"])
async def test_calls_that_langchain_takes_apart_wrongly_are_not_run(made: str, bench: Any, tmp_path: Path) -> None:
    """Over Responses it numbers the pieces of arguments anew whenever they change between two calls."""
    at = bench("R", "tools_parallel", "ok")
    async with talking(langgraph_agent(getattr(at, made)()), tmp_path) as client:
        message = await asked(client)
        assert about(message)["reason"] == "The model wrote a tool call that cannot be read; the call was not run."
        assert text(await asked(client, "again")) == TEXT
    assert at.ran == []


@both_wires
@pytest.mark.shows("LangGraph", "resume")
async def test_a_second_turn_sends_what_was_said(wire: str, bench: Any, tmp_path: Path) -> None:
    at = bench(wire, "tools", "ok", "ok")
    async with talking(langgraph_agent(at.agent()), tmp_path) as client:
        await asked(client)
        await asked(client, "Sure?")
    later = json.dumps(at.sim.requests[2].body, ensure_ascii=False)
    order = [later.index(each) for each in ("Let me look.", "clear over text", TEXT[:7], "Sure?")]
    assert order == sorted(order)


async def test_a_tool_that_fails_and_says_so(bench: Any, tmp_path: Path) -> None:
    at = bench("O", "tools", "ok")

    def failing(city: str) -> str:
        """Fails."""
        raise tooling.ToolException(f"no such city: {city}")

    tool = tooling.StructuredTool.from_function(failing, name="get_weather", handle_tool_error=True)
    async with talking(langgraph_agent(agents.create_agent(at.model, [tool])), tmp_path) as client:
        message = await asked(client)
    assert calls(message) == [("output-error", {"city": "text"}, "no such city: text")]


@both_wires
@pytest.mark.shows("LangGraph", "files")
async def test_a_file_is_sent_along(wire: str, bench: Any, tmp_path: Path) -> None:
    at = bench(wire, "ok")
    data = base64.b64encode(PNG).decode()
    url = f"data:image/png;base64,{data}"
    parts = [
        {"type": "text", "text": "See?"},
        {"type": "file", "url": url, "mediaType": "image/png", "filename": "a.png"},
    ]
    async with talking(langgraph_agent(at.agent()), tmp_path) as client:
        message = await asked(client, messages=[{"id": "m1", "role": "user", "parts": parts}])
    assert text(message) == TEXT
    assert data in json.dumps(at.sim.requests[0].body)


@both_wires
@pytest.mark.parametrize("made", ["agent", "graph"])
@pytest.mark.parametrize(
    ("scenario", "said", "why"),
    [
        ("clean_eof_mid", "Hello, wörld ", "ended before its answer was complete"),
        ("rst_mid", "Hello, wörld ", "connection to the model broke"),
        ("error_mid", "Hello, wörld ", "reported an error"),
        ("400", "", "answered 400"),
        ("tools_cut", "", "ended before its answer was complete"),
        ("tools_max_tokens", "", "was writing a tool call"),
    ],
)
@pytest.mark.shows("LangGraph", "errors")
async def test_failures(wire: str, made: str, scenario: str, said: str, why: str, bench: Any, tmp_path: Path) -> None:
    at = bench(wire, scenario, "ok")
    async with talking(langgraph_agent(getattr(at, made)()), tmp_path) as client:
        message = await asked(client)
        assert (about(message)["outcome"], text(message), at.ran) == ("failed", said, [])
        assert why in about(message)["reason"]
        assert LEAKED_KEY not in json.dumps(message)
        assert len(at.sim.requests) == 1
        assert text(await asked(client, "again")) == TEXT


@both_wires
@pytest.mark.parametrize("made", ["agent", "graph"])
async def test_without_the_guard_an_answer_that_was_cut_still_fails(wire: str, made: str, tmp_path: Path) -> None:
    http2: Any = importlib.import_module("httpx2")
    for scenario in ("tools_cut", "clean_eof_mid", "tools_max_tokens"):
        async with ModelSim() as sim, http2.AsyncClient(trust_env=False) as http:
            sim.plan([scenario])
            at = Bench(sim, wire, http)
            (tmp_path / scenario).mkdir()
            async with talking(langgraph_agent(getattr(at, made)()), tmp_path / scenario) as client:
                message = await asked(client)
        assert (about(message)["outcome"], at.ran) == ("failed", []), scenario


@both_wires
@pytest.mark.parametrize(("scenario", "reason"), [("max_tokens", "length"), ("filter", "content-filter")])
async def test_an_answer_that_ended_early_stands(
    wire: str, scenario: str, reason: str, bench: Any, tmp_path: Path
) -> None:
    at = bench(wire, scenario)
    async with talking(langgraph_agent(at.agent()), tmp_path) as client:
        exchange = await client.ask("hi").done()
        message = await answer_of(client)
    assert (about(message)["outcome"], text(message)) == ("done", "Hello, wörld ")
    assert exchange.events()[-1]["finishReason"] == reason


@both_wires
async def test_a_busy_provider_is_asked_again(wire: str, bench: Any, tmp_path: Path) -> None:
    at = bench(wire, "429", "ok")
    async with talking(langgraph_agent(at.agent()), tmp_path) as client:
        assert text(await asked(client)) == TEXT


@both_wires
async def test_an_answer_that_is_asked_for_again_is_told_once(wire: str, bench: Any, tmp_path: Path) -> None:
    at = bench(wire, "rst_mid", "ok")
    middleware: Any = importlib.import_module("langchain.agents.middleware")
    again = middleware.ModelRetryMiddleware(max_retries=1, initial_delay=0.0)
    async with talking(langgraph_agent(at.agent(middleware=[again])), tmp_path) as client:
        message = await asked(client)
    assert (about(message)["outcome"], text(message)) == ("done", TEXT)


@both_wires
@pytest.mark.shows("LangGraph", "stop")
async def test_stopping_and_what_a_checkpointer_keeps_of_it(wire: str, bench: Any, tmp_path: Path) -> None:
    at = bench(wire, "stall_after_2", "tools", "pings_forever", "ok")
    graph = at.graph(checkpointer=memory.InMemorySaver())
    async with talking(langgraph_agent(graph), tmp_path) as client:
        stalled = await stopped(client, at.sim, client.ask("one"), "text-delta")
        assert (about(stalled)["outcome"], text(stalled)[:7]) == ("stopped", "Hello, ")
        at.hold.clear()
        in_tool = await stopped(client, at.sim, client.ask("two"), "tool-input-available")
        assert about(in_tool)["outcome"] == "stopped"
        assert [state for state, *_ in calls(in_tool)] == ["output-error"]
        await stopped(client, at.sim, client.ask("three"), "text-delta")
        assert text(await asked(client, "four")) == TEXT
    assert [seen.ended for seen in at.sim.requests] == ["client_closed", "completed", "client_closed", "completed"]


async def test_a_checkpointer_gets_only_the_new_question(bench: Any, tmp_path: Path) -> None:
    at = bench("O", "tools", "ok", "ok")
    graph = at.graph(checkpointer=memory.InMemorySaver())
    async with talking(langgraph_agent(graph), tmp_path) as client:
        await asked(client, "one")
        await asked(client, "two")
    assert [each["role"] for each in at.sim.requests[2].body["messages"]] == [
        *("user", "assistant", "tool", "assistant", "user"),
    ]
    kept = await graph.aget_state({"configurable": {"thread_id": "local/c"}})
    assert [each.type for each in kept.values["messages"]] == ["human", "ai", "tool", "ai", "human", "ai"]


@pytest.mark.parametrize("approved", [True, False])
@pytest.mark.shows("LangGraph", "approvals")
async def test_a_person_is_asked_by_middleware(approved: bool, bench: Any, tmp_path: Path) -> None:
    at = bench("O", "tools_parallel", "tools")
    middleware: Any = importlib.import_module("langchain.agents.middleware")
    asks = middleware.HumanInTheLoopMiddleware(interrupt_on={"get_weather": True})
    graph = at.agent(middleware=[asks], checkpointer=memory.InMemorySaver())
    async with talking(langgraph_agent(graph), tmp_path) as client:
        waiting = await asked(client)
        assert (about(waiting)["outcome"], at.ran) == ("waiting", [])
        assert [state for state, *_ in calls(waiting)] == ["approval-requested", "approval-requested"]
        second = [part["approval"]["id"] for part in waiting["parts"] if "approval" in part][1]
        await client.post(f"/api/approvals/{second}", {"approved": False, "reason": "too far"})
        message = await decided(client, approved)
    assert about(message)["outcome"] == "done"
    states = ["output-available" if approved else "output-denied", "output-denied"]
    assert [state for state, *_ in calls(message)] == states
    assert at.ran == (["北京"] if approved else [])
    assert "too far" in text(message)


@both_wires
async def test_what_was_said_before_a_person_was_asked_is_not_said_again(wire: str, bench: Any, tmp_path: Path) -> None:
    at = bench(wire, "tools", "tools")
    middleware: Any = importlib.import_module("langchain.agents.middleware")
    asks = middleware.HumanInTheLoopMiddleware(interrupt_on={"get_weather": True})
    async with talking(
        langgraph_agent(at.agent(middleware=[asks], checkpointer=memory.InMemorySaver())), tmp_path
    ) as client:
        await asked(client)
        message = await decided(client, True)
    assert text(message) == "Let me look. The tool returned: clear over text"
    assert calls(message) == [("output-available", {"city": "text"}, "clear over text")]


@pytest.mark.parametrize("approved", [True, False])
async def test_a_person_is_asked_from_inside_a_tool(approved: bool, bench: Any, tmp_path: Path) -> None:
    at = bench("O", "tools", "tools")

    def get_weather(city: str) -> str:
        """The weather in a city."""
        return f"clear over {city}" if kinds.interrupt({"look": city}) else "nobody looked"

    at.tool = tooling.tool(get_weather)
    async with talking(langgraph_agent(at.graph(checkpointer=memory.InMemorySaver())), tmp_path) as client:
        waiting = await asked(client)
        assert (about(waiting)["outcome"], len(calls(waiting))) == ("waiting", 1)
        message = await decided(client, approved)
    assert about(message)["outcome"] == "done"
    if approved:
        assert calls(message) == [("output-available", {"city": "text"}, "clear over text")]
    else:
        assert calls(message)[0][0] == "output-denied"
        assert "nobody looked" in text(message)


async def test_a_node_asks_a_person(tmp_path: Path) -> None:
    class Draft(TypedDict):
        messages: Annotated[list[Any], operator.add]

    def review(state: Draft) -> dict[str, Any]:
        said = kinds.interrupt("Send it?")
        return {"messages": [core.AIMessage(f"The answer was {said}.")]}

    graph = graphs.StateGraph(Draft)
    graph.add_node("review", review)
    graph.add_edge("__start__", "review")
    graph.add_edge("review", "__end__")
    compiled = graph.compile(checkpointer=memory.InMemorySaver())
    agent = langgraph_agent(compiled, answer=lambda given: given.reason)
    async with talking(agent, tmp_path) as client:
        waiting = await asked(client)
        assert calls(waiting) == [("approval-requested", {"question": "Send it?"}, None)]
        message = await decided(client, True, reason="tomorrow")
    assert text(message) == "The answer was tomorrow."


def several(at: Bench) -> Any:
    """A graph whose first node only prepares, whose second is a graph of its own, and which tells of its progress."""

    async def prepare(state: State) -> dict[str, Any]:
        await at.model.ainvoke("which kind of question?")
        importlib.import_module("langgraph.config").get_stream_writer()({"name": "progress", "data": {"done": 1}})
        return {}

    graph = graphs.StateGraph(State)
    graph.add_node("prepare", prepare)
    graph.add_node("expert", at.graph())
    graph.add_edge("__start__", "prepare")
    graph.add_edge("prepare", "expert")
    graph.add_edge("expert", "__end__")
    return graph.compile()


async def test_only_the_last_nodes_are_heard_and_inner_graphs_are_part_of_them(bench: Any, tmp_path: Path) -> None:
    at = bench("O", "ok", "tools", "max_tokens", "ok", "ok")
    async with talking(langgraph_agent(several(at)), tmp_path) as client:
        message = await asked(client)
        assert text(message) == "Let me look. Hello, wörld "
        assert calls(message) == [("output-available", {"city": "text"}, "clear over text")]
        assert [part["data"] for part in message["parts"] if part["type"] == "data-progress"] == [{"done": 1}]
    (tmp_path / "all").mkdir()
    every = langgraph_agent(several(at), nodes={"prepare", "call"})
    async with talking(every, tmp_path / "all") as client:
        assert text(await asked(client)) == TEXT + TEXT


async def test_too_many_steps_are_told(bench: Any, tmp_path: Path) -> None:
    at = bench("O", "tools", "tools")
    async with talking(langgraph_agent(at.agent(), config={"recursion_limit": 2}), tmp_path) as client:
        message = await asked(client)
    assert about(message)["reason"] == "The agent could not finish: it took more steps than its limit allows."


USED: dict[str, list[str]] = {
    "langchain_core.callbacks:BaseCallbackHandler": ["on_llm_end", "on_llm_error", "raise_error", "run_inline"],
    "langchain_core.callbacks:BaseCallbackManager": ["add_handler", "copy"],
    "langchain_core.messages:AIMessage": [
        *("additional_kwargs:", "content:", "id:", "invalid_tool_calls:", "response_metadata:", "tool_calls:"),
        *("type:", "usage_metadata:"),
    ],
    "langchain_core.messages:AIMessageChunk": ["tool_call_chunks:", "type:"],
    "langchain_core.messages:ToolMessage": ["content:", "status:", "tool_call_id:", "type:"],
    "langchain_core.outputs:ChatGeneration": ["message:"],
    "langchain_core.outputs:LLMResult": ["generations:"],
    "langchain_core.runnables.graph:Edge": ["source:", "target:"],
    "langchain_core.runnables.graph:Graph": ["edges:"],
    "langgraph.errors:GraphRecursionError": [],
    "langgraph.graph.state:CompiledStateGraph": ["aget_state", "astream", "get_graph"],
    "langgraph.pregel:Pregel": ["checkpointer:"],
    "langgraph.types:Command": ["resume:"],
    "langgraph.types:Interrupt": ["id:", "value:"],
    "langgraph.types:StateSnapshot": ["values:"],
}


@pytest.mark.parametrize("name", USED)
def test_what_we_use_of_the_library_exists(name: str) -> None:
    module, _, path = name.partition(":")
    found = getattr(importlib.import_module(module), path)
    fields = {each for base in found.__mro__ for each in getattr(base, "__annotations__", ())}
    for each in USED[name]:
        assert each.removesuffix(":") in fields if each.endswith(":") else hasattr(found, each), each
