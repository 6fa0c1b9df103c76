"""A LangGraph graph as a Turnwire agent.

Guarantee: a turn succeeds only if every model of the graph said that its answer is finished. No tool runs on arguments
that were cut: the graph is stopped between the model's answer and its tools, whoever built it. Failures of providers
become an `AgentError`, on one line and without secrets.

This module needs `turnwire[langgraph]`, and imports it when a turn begins.
"""

from __future__ import annotations

import importlib
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from ..events import AgentEvent, Step, ToolCall, ToolError, ToolInput, ToolResult, Usage
from ..turn import AgentError
from ._framework_errors import provider_failure
from ._framework_history import NOT_FINISHED, as_json, as_text, conversation
from ._langgraph_messages import check, custom, finish, messages, refuses, resume, said_by, tool_message, usage
from .chat_reader import dicts, redactor
from .guard import Guard, closing_streams, watched_streams

if TYPE_CHECKING:
    from ..turn import Resolution, Turn
    from . import Agent

_TOOLS = "tools"
"""The node in which LangGraph's own agents run their tools."""
_RUN = "lc_run--"
"""What the ids of messages that are being streamed begin with; the id of the model's run follows."""
_NOTHING = "The agent ended without an answer."
_TOO_LONG = "The agent could not finish: it took more steps than its limit allows."


def langgraph_agent(
    graph: Any,
    *,
    config: Mapping[str, Any] | None = None,
    context: Callable[[Turn], Any] | None = None,
    messages_key: str = "messages",
    make_input: Callable[[Turn], Any] | None = None,
    nodes: Collection[str] | None = None,
    answer: Callable[[Resolution], Any] | None = None,
    require_finish: bool = True,
    redact: Callable[[str], str] | None = None,
) -> Agent:
    """A Turnwire agent that runs `graph`, a compiled graph or what `create_agent` returns, on the conversation.

    A graph with a checkpointer keeps the conversation in a thread named by user and conversation, and gets only the new
    question; any other gets the whole conversation. `interrupt()` ends the turn `waiting`; it needs a checkpointer.

    Args:
        config: of each run; a `thread_id` in it is left as it is.
        context: gives the graph's runtime context.
        messages_key: where the state keeps the messages.
        make_input: gives the input of a graph with a state of its own kind.
        nodes: the nodes, inner ones too, whose text is the answer; by default all that can be the last one.
        answer: what `interrupt()` returns for a person's answer, in place of True or False.
        require_finish: whether an answer that came through no `guarded_client` counts only if its model says why it
            ended. False is for a model that never does.
        redact: makes a provider's text showable; by default one that knows the usual shapes of keys.
    """
    clean = redact or redactor()
    shown = _final_nodes(graph) if nodes is None else frozenset(nodes)

    async def run_turn(turn: Turn) -> AsyncGenerator[AgentEvent, None]:
        run, spoken = _Run(shown, inner=nodes is not None), False
        settings = _settings(config, turn, _gate(lambda: require_finish and not run.guards, run.failed))
        options = {} if context is None else {"context": context(turn)}
        try:
            with watched_streams() as run.guards:
                async with closing_streams():
                    if turn.resolutions:
                        run.begin(turn.resolutions)
                        start = importlib.import_module("langgraph.types").Command(
                            resume=resume(turn.resolutions, answer)
                        )
                    else:
                        start = make_input(turn) if make_input else await _start(graph, settings, turn, messages_key)
                    stream = graph.astream(
                        start, settings, stream_mode=["messages", "updates", "custom"], subgraphs=True, **options
                    )
                    async with aclosing(stream) as events:
                        async for path, mode, payload in events:
                            for said in run.read(path, mode, payload):
                                spoken = spoken or not isinstance(said, Step | Usage)
                                yield said
        except AgentError:
            raise
        except Exception as error:
            failure = _failure(error, clean)
            if failure is None:
                raise
            # The body that the cause quotes belongs neither to people nor into a log.
            raise failure from None
        for said in run.end():
            spoken = True
            yield said
        if run.heard and not spoken:
            # LangChain drops what some models say in fields of their own, such as refusals of Chat Completions.
            raise AgentError(_NOTHING)

    return run_turn


def _failure(error: Exception, redact: Callable[[str], str]) -> AgentError | None:
    if type(error).__name__ == "GraphRecursionError":
        return AgentError(_TOO_LONG)
    return provider_failure(error, redact)


def _final_nodes(graph: Any) -> frozenset[str] | None:
    """The nodes after which a run can end; None if the graph does not say."""
    drawn = graph.get_graph() if hasattr(graph, "get_graph") else None
    found = frozenset(edge.source for edge in drawn.edges if edge.target == "__end__") if drawn is not None else None
    # Middleware can stand between the model and the end.
    return found | {"model", "agent"} if found else None


def _settings(config: Mapping[str, Any] | None, turn: Turn, gate: Any) -> dict[str, Any]:
    settings = dict(config or {})
    # Two users may give their conversations the same name.
    thread = {"thread_id": f"{turn.user}/{turn.conversation}"}
    settings["configurable"] = {**thread, **(settings.get("configurable") or {})}
    given = settings.get("callbacks")
    if given is not None and not isinstance(given, list | tuple):
        given = given.copy()
        given.add_handler(gate, inherit=True)
        settings["callbacks"] = given
    else:
        settings["callbacks"] = [*(given or ()), gate]
    return settings


def _gate(require_finish: Callable[[], bool], failed: set[str]) -> Any:
    """What LangChain calls between a model's answer and the node that comes next; `failed` gets the ids of messages
    that broke off."""

    def on_llm_end(_: Any, response: Any, **__: Any) -> None:
        for generation in (generation for group in response.generations for generation in group):
            message = getattr(generation, "message", None)
            if message is not None:
                check(message, require_finish())

    def on_llm_error(_: Any, __: BaseException, *, run_id: Any, **___: Any) -> None:
        failed.add(f"{_RUN}{run_id}")

    base = importlib.import_module("langchain_core.callbacks").BaseCallbackHandler
    hooks = {"on_llm_end": on_llm_end, "on_llm_error": on_llm_error}
    return type("FinishGate", (base,), {"raise_error": True, "run_inline": True, **hooks})()


async def _start(graph: Any, settings: dict[str, Any], turn: Turn, key: str) -> dict[str, Any]:
    """The input of the run: the new question if the graph remembers the rest, else the whole conversation."""
    entries = await conversation(turn)
    before: list[Any] = []
    if getattr(graph, "checkpointer", None) not in (None, False, True):
        values = (await graph.aget_state(settings)).values
        before = (values.get(key) if isinstance(values, dict) else None) or []
    if not before:
        return {key: messages(entries)}
    answered = {each.tool_call_id for each in before if each.type == "tool"}
    calls = [str(call["id"]) for each in before if each.type == "ai" for call in each.tool_calls]
    # A turn that was stopped leaves calls without an answer, and no provider takes those.
    closed = [tool_message(call, NOT_FINISHED, failed=True) for call in calls if call not in answered]
    return {key: [*closed, *messages(entries[-1:])]}


class _Run:
    """What a run says, as events. `failed` are the ids of messages that broke off."""

    def __init__(self, shown: frozenset[str] | None, *, inner: bool) -> None:
        self.failed: set[str] = set()
        # A stream that went through a guard was whole, or the guard would have said so.
        self.guards: list[Guard] = []
        self._shown = shown
        self._inner = inner
        self._tasks: dict[str, str] = {}
        self._writing: dict[tuple[str, Any], tuple[str, str]] = {}
        self._known: set[str] = set()
        self._called: set[str] = set()
        self._open: dict[str, ToolCall] = {}
        self._interrupts: dict[str, Any] = {}
        self._refused: set[str] = set()

    @property
    def heard(self) -> bool:
        """Whether a model whose text is the answer has answered."""
        return bool(self._tasks)

    def begin(self, resolutions: tuple[Resolution, ...]) -> None:
        """Which calls of the turn before may be answered now; a call that was denied is closed."""
        for each in resolutions:
            self._called.add(each.call.id)
            if each.approved:
                self._known.add(each.call.id)
                self._open[each.call.id] = ToolCall(id=each.call.id, name=each.call.name, input=each.call.input)

    def read(self, path: tuple[str, ...], mode: str, payload: Any) -> Iterator[AgentEvent]:
        """What one item of the graph's stream says; `path` are the tasks around it."""
        if mode == "messages":
            message, about = payload
            if message.type in ("ai", "AIMessageChunk"):
                yield from self._spoken(message, about)
            elif message.type == "tool":
                yield from self._answered(message)
        elif mode == "custom":
            yield custom(payload)
        else:
            for node, update in payload.items():
                if node == "__interrupt__":
                    self._interrupts.update((each.id, each.value) for each in update)
                elif self._is_shown([*(task.partition(":")[0] for task in path), node]):
                    yield from self._whole(update)

    def end(self) -> Iterator[AgentEvent]:
        """What a person is asked."""
        for own, value in self._interrupts.items():
            requests = dicts(value.get("action_requests")) if isinstance(value, dict) else []
            state = {"interrupt": own, "of": len(requests)}
            for number, request in enumerate(requests):
                name, arguments = str(request.get("name") or "tool"), as_json(request.get("args"))
                call = self._take(name, arguments)
                yield ToolCall(
                    id=call.id if call else f"{own}-{number}",
                    name=name,
                    input=arguments,
                    needs_approval=True,
                    state={**state, "index": number},
                )
            if not requests:
                yield self._question(own, as_json(value), {**state, "index": 0})

    def _question(self, own: str, value: Any, state: dict[str, Any]) -> ToolCall:
        if len(self._open) == 1 and len(self._interrupts) == 1:
            # It comes from inside the one tool that runs.
            call = next(iter(self._open.values()))
            return ToolCall(id=call.id, name=call.name, input=call.input, needs_approval=True, state=state)
        arguments = value if isinstance(value, dict) else {"question": value}
        return ToolCall(id=own, name="approval", input=arguments, needs_approval=True, dynamic=True, state=state)

    def _take(self, name: str, arguments: Any) -> ToolCall | None:
        for own, call in self._open.items():
            if call.name == name and call.input == arguments:
                return self._open.pop(own)
        return None

    def _is_shown(self, path: list[str]) -> bool:
        if self._inner:
            return not (self._shown or frozenset()).isdisjoint(path)
        return _TOOLS not in path and (self._shown is None or path[0] in self._shown)

    def _spoken(self, message: Any, about: Mapping[str, Any]) -> Iterator[AgentEvent]:
        if message.type == "ai" and any(call["id"] in self._called for call in message.tool_calls):
            # A node that asked a person, or that changed the message, returns it once more.
            return
        task = str(about.get("langgraph_checkpoint_ns") or about.get("langgraph_node") or "")
        if not self._is_shown([part.partition(":")[0] for part in task.split("|")]):
            return
        if task not in self._tasks:
            self._tasks[task] = ""
            yield Step()
        own = str(message.id or "")
        if own.startswith(_RUN) and own != self._tasks[task]:
            if self._tasks[task]:
                # The same node asks a model again.
                yield Step(retry=self._tasks[task] in self.failed)
            self._tasks[task] = own
        yield from said_by(message)
        if message.type == "ai":
            # It was not streamed: a node made it, or a model that cannot stream.
            yield from self._calls(message)
        else:
            yield from self._pieces(task, message)
        if refuses(message):
            self._refused.add(own)
        if message.usage_metadata or finish(message):
            yield usage(message, refused=own in self._refused)

    def _pieces(self, task: str, message: Any) -> Iterator[AgentEvent]:
        for chunk in dicts(message.tool_call_chunks):
            at = (task, chunk.get("index"))
            if chunk.get("id") and chunk.get("name"):
                self._writing[at] = (str(chunk["id"]), str(chunk["name"]))
                self._known.add(str(chunk["id"]))
            if at in self._writing:
                yield ToolInput(*self._writing[at], str(chunk.get("args") or ""))

    def _whole(self, update: Any) -> Iterator[AgentEvent]:
        """The calls of the messages that a node added to the state."""
        for value in update.values() if isinstance(update, dict) else ():
            for message in value if isinstance(value, list) else [value]:
                if getattr(message, "type", "") == "ai":
                    yield from self._calls(message)

    def _calls(self, message: Any) -> Iterator[AgentEvent]:
        for call in message.tool_calls:
            own = str(call["id"])
            if own not in self._called:
                self._called.add(own)
                self._known.add(own)
                self._open[own] = ToolCall(id=own, name=str(call["name"]), input=as_json(call["args"]))
                yield self._open[own]

    def _answered(self, message: Any) -> Iterator[AgentEvent]:
        own = message.tool_call_id
        if own not in self._known:
            return
        self._open.pop(own, None)
        text = message.content
        if getattr(message, "status", "success") == "error":
            yield ToolError(id=own, error=text if isinstance(text, str) else as_text(text))
        else:
            yield ToolResult(id=own, output=as_json(text))
