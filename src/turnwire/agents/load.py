"""From the configuration's `[agent] use` to an agent that can be started and stopped.

Guarantee: a value that names no usable agent is refused before anything runs, with what is wrong and what is allowed.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Any

from ..clock import Clock
from . import Agent
from .demo import MODEL as DEMO_MODEL
from .demo import demo_agent
from .local import INSTRUCTIONS, LocalModel, local_agent, local_available
from .local_server import ALIAS
from .remote import OpenAIChat, chat_agent

ALLOWED = (
    "auto",
    "local",
    "demo",
    "openai+http://HOST/v1#MODEL",
    "openai+https://HOST/v1#MODEL",
    "python:package.module:name",
)
"""What `[agent] use` may say."""

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
    instructions: str | None = None,
    proxy: str | None = None,
    clock: Clock | None = None,
) -> AgentSpec:
    """The agent that `use` names; nothing is started yet.

    Args:
        use: one of `ALLOWED`. `auto` is the local model where it is installed, else the demo.
        api_key: for `openai+...`: the server's key.
        instructions: the system message, for agents with a model of ours.
        proxy: for `openai+...`: an HTTP proxy's address.

    Raises `AgentConfigError`.
    """
    if use == "auto":
        use = "local" if local_available() else "demo"
    if use == "demo":
        return AgentSpec("Demo (no model)", demo_agent(clock=clock), model=DEMO_MODEL)
    if use == "local":
        return _local(instructions, clock)
    if use.startswith(("openai+http://", "openai+https://")):
        return _remote(use.removeprefix("openai+"), api_key, instructions, proxy, clock)
    if use.startswith("python:"):
        return _python(use.removeprefix("python:"))
    raise AgentConfigError(f"[agent] use = {use!r} is not known; use one of {', '.join(ALLOWED)}")


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


def _python(target: str) -> AgentSpec:
    module_name, _, path = target.partition(":")
    where = f"[agent] use = 'python:{target}'"
    if not path or not all(part.isidentifier() for part in module_name.split(".")):
        raise AgentConfigError(f"{where} must be python:package.module:name")
    found: Any = _import(module_name, where)
    for name in path.split("."):
        if not hasattr(found, name):
            known = sorted(key for key in getattr(found, "__dict__", {}) if not key.startswith("_"))
            raise AgentConfigError(f"{where}: there is no {name!r}; there is {', '.join(known[:20]) or 'nothing'}")
        found = getattr(found, name)
    return AgentSpec(target, _checked(found, where))


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
