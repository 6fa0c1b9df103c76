"""From the configuration's `[agent] use` to an agent that can be started and stopped.

Guarantee: a value that names no usable agent is refused before anything runs, with what is wrong and what is allowed.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Any

from ..clock import Clock
from . import Agent
from ._mcp_server import MCPServer
from .chat_reader import redactor
from .demo import MODEL as DEMO_MODEL
from .demo import demo_agent
from .local import INSTRUCTIONS, LocalModel, local_agent, local_available
from .local_server import ALIAS
from .remote import OpenAIChat, chat_agent
from .remote_ui import RemoteAgent

ALLOWED = (
    "auto",
    "local",
    "demo",
    "openai:MODEL",
    "openai-responses:MODEL",
    "anthropic:MODEL",
    "google:MODEL",
    "claude",
    "claude:MODEL",
    "openai+http://HOST/v1#MODEL",
    "openai+https://HOST/v1#MODEL",
    "ai-sdk+http://HOST/PATH",
    "ai-sdk+https://HOST/PATH",
    "python:package.module:name",
)
"""What `[agent] use` may say."""

PROVIDERS: Mapping[str, tuple[str, ...]] = {
    "openai": ("OPENAI_API_KEY",),
    "openai-responses": ("OPENAI_API_KEY",),
    "anthropic": ("ANTHROPIC_API_KEY",),
    "google": ("GOOGLE_API_KEY", "GEMINI_API_KEY"),
}
"""The environment variables that hold each provider's key, when the configuration has none."""

ANTHROPIC = "https://api.anthropic.com"

AUTO_MODELS = {"openai": "gpt-5.6-luna", "anthropic": "claude-haiku-5-5", "google": "gemini-3.8-flash"}
"""What `auto` asks for, in this order: the first provider whose key is set."""

_KINDS = "an async generator function (async def with yield), a generator function or a coroutine function"


class AgentConfigError(ValueError):
    """`[agent] use` names no agent that can be run; the text says why and what is allowed."""


class AgentSpec:
    """An agent, and what must run while it is used.

    As an async context manager it starts that (the local model's process, kept connections) and gives the agent; at the
    end it stops it.

    Attributes:
        name: for people: what answers.
        model: the model's name, or None when the agent itself decides.
        agent: a function over one turn.
    """

    def __init__(
        self, name: str, agent: Agent, *, model: str | None = None, runs: AbstractAsyncContextManager[Any] | None = None
    ) -> None:
        self.name = name
        self.model = model
        self.agent = agent
        self._runs = runs
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Agent:
        if self._runs is not None:
            await self._stack.enter_async_context(self._runs)
        return self.agent

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()


def load_agent(
    use: str,
    *,
    api_key: str | None = None,
    base_url: str | None = None,
    instructions: str | None = None,
    proxy: str | None = None,
    tools: Sequence[str] = (),
    mcp: Mapping[str, MCPServer] | None = None,
    env: Mapping[str, str] | None = None,
    clock: Clock | None = None,
) -> AgentSpec:
    """The agent that `use` names; nothing is started yet.

    Args:
        use: one of `ALLOWED`. `auto` is a provider whose key the environment holds, else the local model where it is
            installed, else the demo.
        api_key: the provider's key, without which the variables of `PROVIDERS` are looked at; or the token
            of a remote agent.
        base_url: the provider's address, when it is not its usual one.
        instructions: the system message, for agents with a model of ours.
        proxy: an HTTP proxy's address, for agents that reach a provider or a remote agent.
        tools: for a provider's model: functions as `package.module:name`, or `package.module` for all in its `__all__`.
        mcp: for a provider's model: MCP servers by name.
        env: where keys are looked for; None for the process's environment.

    Raises `AgentConfigError`.
    """
    known = os.environ if env is None else env
    if use == "auto":
        use = _auto(known)
    kind, _, model = use.partition(":")
    if kind in PROVIDERS:
        key = api_key or next((known[name] for name in PROVIDERS[kind] if known.get(name)), None)
        return _provider(
            kind,
            model,
            api_key=key,
            base_url=base_url or None,
            instructions=instructions,
            proxy=proxy,
            tools=tools,
            mcp=mcp or {},
            clock=clock,
        )
    if kind == "claude":
        return _claude(
            use,
            model,
            api_key=api_key,
            base_url=base_url,
            instructions=instructions,
            proxy=proxy,
            env=known,
            clock=clock,
        )
    if use == "demo":
        return AgentSpec("Demo (no model)", demo_agent(clock=clock), model=DEMO_MODEL)
    if use == "local":
        return _local(instructions, clock)
    if use.startswith(("openai+http://", "openai+https://")):
        return _remote(use.removeprefix("openai+"), api_key, instructions, proxy, clock)
    if use.startswith(("ai-sdk+http://", "ai-sdk+https://")):
        return _remote_ui(use.removeprefix("ai-sdk+"), api_key, proxy, clock)
    if use.startswith("python:"):
        return _python(use.removeprefix("python:"))
    raise AgentConfigError(f"[agent] use = {use!r} is not known; use one of {', '.join(ALLOWED)}")


def provider_key_set(env: Mapping[str, str] | None = None) -> str | None:
    """The variable of the environment that holds the key `auto` would take first, or None."""
    known = os.environ if env is None else env
    return next((name for kind in AUTO_MODELS for name in PROVIDERS[kind] if known.get(name)), None)


def _auto(env: Mapping[str, str]) -> str:
    for kind, model in AUTO_MODELS.items():
        if any(env.get(name) for name in PROVIDERS[kind]) and _installed(kind):
            return f"{kind}:{model}"
    return "local" if local_available() else "demo"


def _installed(kind: str) -> bool:
    library = {"anthropic": "anthropic", "google": "google.genai"}.get(kind, "openai")
    try:
        return all(importlib.util.find_spec(name) is not None for name in ("pydantic_ai", library))
    except ModuleNotFoundError:
        return False


def _provider(
    kind: str,
    model: str,
    *,
    api_key: str | None,
    base_url: str | None,
    instructions: str | None,
    proxy: str | None,
    tools: Sequence[str],
    mcp: Mapping[str, MCPServer],
    clock: Clock | None,
) -> AgentSpec:
    where = f"[agent] use = '{kind}:{model}'"
    if not model.strip():
        raise AgentConfigError(f"{where} names no model; write {kind}:MODEL")
    if not api_key and not base_url:
        names = " or ".join(PROVIDERS[kind])
        raise AgentConfigError(f"{where} needs a key; set [agent] api_key, or {names} in the environment")
    for name, server in mcp.items():
        if problem := server.problem():
            raise AgentConfigError(f"[agent.mcp.{name}] {problem}")
    extra = "google" if kind == "google" else "pydantic-ai"
    functions = [function for name in tools for function in _tools(name)]
    try:
        from ._pydantic_models import MCPServerError, Runtime
        from .pydantic_ai import pydantic_agent

        runtime = Runtime(
            kind,
            model,
            # A server of one's own often wants no key, but the libraries do not start without one.
            api_key=api_key or "none",
            base_url=base_url,
            instructions=instructions,
            proxy=proxy,
            tools=functions,
            servers=mcp,
            clock=clock,
        )
    except ImportError as error:
        raise AgentConfigError(
            f"{where} needs a library that is not installed ({error.name}); run: pip install 'turnwire[{extra}]'"
        ) from error
    except MCPServerError as error:
        raise AgentConfigError(str(error)) from None
    except ValueError as error:
        raise AgentConfigError(f"{where}: {redactor(api_key)(str(error))}") from None
    agent = runtime.with_servers(pydantic_agent(runtime.agent, redact=redactor(api_key)))
    return AgentSpec(model, agent, model=model, runs=runtime)


def _claude(
    use: str,
    model: str,
    *,
    api_key: str | None,
    base_url: str | None,
    instructions: str | None,
    proxy: str | None,
    env: Mapping[str, str],
    clock: Clock | None,
) -> AgentSpec:
    if use == "claude:":
        raise AgentConfigError(
            "[agent] use = 'claude:' names no model; write claude:MODEL, or claude for its own choice"
        )
    if importlib.util.find_spec("claude_agent_sdk") is None:
        raise AgentConfigError(
            f"[agent] use = {use!r} needs a library that is not installed (claude_agent_sdk); "
            "run: pip install 'turnwire[claude]'"
        )
    from .claude import claude_agent
    from .guard_proxy import GuardProxy

    try:
        guard = GuardProxy(base_url or env.get("ANTHROPIC_BASE_URL") or ANTHROPIC, proxy=proxy, clock=clock)
    except ValueError as error:
        raise AgentConfigError(f"[agent] use = {use!r}: base_url: {error}") from None
    agent = claude_agent(
        model=model or None,
        instructions=instructions or None,
        api_key=api_key or None,
        base_url=lambda: guard.url,
        clock=clock,
    )
    return AgentSpec(model or "Claude Code", agent, model=model or None, runs=guard)


def _tools(name: str) -> list[Callable[..., Any]]:
    """The functions that one entry of `[agent] tools` names."""
    where = f"[agent] tools: {name!r}"
    module_name, colon, path = name.partition(":")
    if not all(part.isidentifier() for part in module_name.split(".")) or (colon and not path):
        raise AgentConfigError(f"{where} must be package.module:function, or package.module with an __all__")
    module = _import(module_name, where)
    if path:
        found = [_found(module, path, where)]
    elif not getattr(module, "__all__", None):
        raise AgentConfigError(f"{where} has no __all__; name one function as {name}:function, or give it an __all__")
    else:
        found = [_found(module, each, where) for each in module.__all__]
    for each in found:
        if not callable(each) or inspect.isclass(each):
            raise AgentConfigError(f"{where}: {each!r} is no function; a tool is a function with annotated arguments")
    return found


def _local(instructions: str | None, clock: Clock | None) -> AgentSpec:
    if not local_available():
        raise AgentConfigError(
            "[agent] use = 'local', but the local model is not installed; run `turnwire local install` or use 'demo'"
        )
    child = LocalModel(clock=clock)
    agent = local_agent(child, instructions=instructions or INSTRUCTIONS)
    return AgentSpec(f"{ALIAS} (local)", agent, model=ALIAS, runs=child)


def _remote(
    address: str, api_key: str | None, instructions: str | None, proxy: str | None, clock: Clock | None
) -> AgentSpec:
    base_url, _, model = address.partition("#")
    if not model:
        raise AgentConfigError(
            "[agent] use = 'openai+...' names no model; put it behind the address: openai+https://HOST/v1#MODEL"
        )
    try:
        chat = OpenAIChat(base_url, model, api_key=api_key, proxy=proxy, clock=clock)
    except ValueError as error:
        raise AgentConfigError(f"[agent] use = 'openai+...': {error}") from None
    return AgentSpec(model, chat_agent(chat, instructions=instructions), model=model, runs=chat)


def _remote_ui(url: str, api_key: str | None, proxy: str | None, clock: Clock | None) -> AgentSpec:
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        remote = RemoteAgent(url, headers=headers, proxy=proxy, clock=clock)
    except ValueError as error:
        raise AgentConfigError(f"[agent] use = 'ai-sdk+...': {error}") from None
    return AgentSpec(f"{remote.host} (AI SDK)", remote, runs=remote)


def _python(target: str) -> AgentSpec:
    module_name, _, path = target.partition(":")
    where = f"[agent] use = 'python:{target}'"
    if not path or not all(part.isidentifier() for part in module_name.split(".")):
        raise AgentConfigError(f"{where} must be python:package.module:name")
    found = _found(_import(module_name, where), path, where)
    adapted = _pydantic(target, found)
    return adapted or AgentSpec(target, _checked(found, where))


def _found(found: Any, path: str, where: str) -> Any:
    for name in path.split("."):
        if not hasattr(found, name):
            known = sorted(key for key in getattr(found, "__dict__", {}) if not key.startswith("_"))
            raise AgentConfigError(f"{where}: there is no {name!r}; there is {', '.join(known[:20]) or 'nothing'}")
        found = getattr(found, name)
    return found


def _pydantic(target: str, found: Any) -> AgentSpec | None:
    """The spec of an agent made with pydantic-ai; who made one has imported that library."""
    library = sys.modules.get("pydantic_ai.agent")
    if library is None or not isinstance(found, library.AbstractAgent):
        return None
    from .pydantic_ai import pydantic_agent

    return AgentSpec(target, pydantic_agent(found), runs=found)


def _import(name: str, where: str) -> Any:
    folder = str(Path.cwd())
    if folder not in sys.path:
        # A console script does not look where it was started, but that is where people keep their agent.
        sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if name == missing or name.startswith(f"{missing}."):
            raise AgentConfigError(
                f"{where}: there is no module {missing!r}; looked in {folder} and in the installed packages"
            ) from None
        raise AgentConfigError(f"{where}: {name} needs the module {missing!r}, which is not installed") from error
    except Exception as error:
        raise AgentConfigError(
            f"{where}: {name} failed while it was imported: {type(error).__name__}: {error}"
        ) from error


def _checked(found: Any, where: str) -> Agent:
    """`found` if it can be run as an agent."""
    if inspect.isclass(found):
        raise AgentConfigError(f"{where} is a class; name an instance of it, or {_KINDS}")
    if not callable(found):
        raise AgentConfigError(f"{where} is of type {type(found).__name__} and cannot be called; an agent is {_KINDS}")
    function: Callable[..., Any] = found if inspect.isroutine(found) else found.__call__
    tests = (inspect.isasyncgenfunction, inspect.isgeneratorfunction, inspect.iscoroutinefunction)
    if not any(test(one) for test in tests for one in (found, function, inspect.unwrap(function))):
        raise AgentConfigError(f"{where} is a plain function; an agent is {_KINDS}")
    try:
        inspect.signature(found).bind(object())
    except TypeError:
        raise AgentConfigError(f"{where} must take one argument, the turn") from None
    checked: Agent = found
    return checked
