"""`turnwire doctor`: could a server run here, and if not, what to do.

Guarantee: looking changes nothing: no folder, file, table or lock is made, and no secret is shown.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import importlib.metadata
import os
import platform
import re
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Literal, TypeAlias

import httpx2
import msgspec
import typer

from ._cli import configured_agent
from .clock import Clock, SystemClock, wait
from .config import Channels, Config, ConfigError, Relay, Server, Store, load_config

Level: TypeAlias = Literal["ok", "warning", "problem"]

LOW_BYTES = 1 << 30
FULL_BYTES = 100 << 20
ANSWER_S = 120.0
QUESTION = "Answer with one word: ready"
_COLORS = {"ok": "green", "warning": "yellow", "problem": "red"}


class Finding(msgspec.Struct, frozen=True):
    """What one look found, and for anything but `ok` what to do. `serving`: a server of ours uses the store now."""

    level: Level
    subject: str
    what: str
    remedy: str = ""
    serving: bool = False


async def examine(
    path: Path | None, *, ask_agent: bool, say: Callable[[str], None], clock: Clock | None = None
) -> bool:
    """Says line by line what it finds; returns whether there is no problem.

    Args:
        path: the configuration file; None takes `turnwire.toml` of the working directory if there is one.
        ask_agent: let the agent answer a question, in a store of its own that is gone afterwards.
        say: gets each line.
    """
    counts = dict.fromkeys(_COLORS, 0)
    async for finding in _findings(path, ask_agent, clock or SystemClock()):
        counts[finding.level] += 1
        for line in lines(finding):
            say(line)
    if counts["problem"]:
        say(f"\n{_count(counts['problem'], 'problem')} to solve before a server can run here.")
    else:
        extra = f" {_count(counts['warning'], 'warning')}." if counts["warning"] else ""
        say(f"\nA server can run here.{extra}")
    return not counts["problem"]


def lines(finding: Finding) -> list[str]:
    """A finding in words."""
    first, *more = finding.what.split("\n")
    label = typer.style(f"{finding.level:8}", fg=_COLORS[finding.level], bold=finding.level != "ok")
    out = [f"{label} {finding.subject:7} {first}", *(f"{'':17}{line}" for line in more)]
    return [*out, f"{'':17}-> {finding.remedy}"] if finding.remedy else out


async def _findings(path: Path | None, ask_agent: bool, clock: Clock) -> AsyncIterator[Finding]:
    from .doctor_store import look_at_store

    version = importlib.metadata.version("turnwire")
    yield Finding("ok", "program", f"turnwire {version}, Python {platform.python_version()}, {platform.platform()}")
    try:
        config = load_config(path)
    except ConfigError as error:
        for problem in error.problems:
            yield Finding("problem", "config", problem, "`turnwire doctor --sample-config` shows every key")
        return
    yield Finding("ok", "config", f"from {_source(path)}\n" + "\n".join(_settings(config.describe())))
    for note in config.notes():
        yield Finding("warning", "config", note)
    served = False
    async for finding in look_at_store(config.store.url, clock):
        served = served or finding.serving
        yield finding
    yield look_at_files(config.store.files)
    if config.relay.url:
        yield await _look_at_relay(config.relay.url)
    async for finding in _look_at_agent(config, ask_agent, clock):
        yield finding
    async for finding in _look_at_channels(config, clock):
        yield finding
    yield await look_at_port(config.server.host, config.server.port, served=served)


def look_at_files(folder: Path) -> Finding:
    """Whether attachments can be stored."""
    existing = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    if not existing.is_dir():
        return Finding("problem", "files", f"{existing} is no directory", "remove it, or set [store] files")
    try:
        # Unlike os.access, this also notices a read-only file system.
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        return Finding(
            "problem",
            "files",
            f"{existing} cannot be written: {error.strerror}",
            f"give user {os.geteuid()} the right to write there, or set [store] files",
        )
    if existing != folder:
        return Finding("ok", "files", f"{folder} does not exist yet and will be made")
    return Finding("ok", "files", f"{folder} can be written")


def look_at_space(folder: Path, subject: str) -> Finding:
    """Whether there is room left on the disk."""
    free = shutil.disk_usage(folder).free
    what = f"{free / 1e9:.1f} GB free on the disk of {folder}"
    if free < FULL_BYTES:
        return Finding("problem", subject, what, "make room: a full disk refuses new turns")
    if free < LOW_BYTES:
        return Finding("warning", subject, what, "make room soon, or lower [store] retention_h")
    return Finding("ok", subject, what)


async def look_at_port(host: str, port: int, *, served: bool) -> Finding:
    """Whether the address can be listened on; `served` says that a server of ours already uses the store."""
    if port == 0:
        return Finding("ok", "port", f"the system will choose one on {host}")
    error = _bind(host, port)
    if error is None:
        return Finding("ok", "port", f"{host}:{port} is free")
    if error.errno != errno.EADDRINUSE:
        return Finding(
            "problem", "port", f"cannot listen on {host}:{port}: {error.strerror}", "change [server] host or port"
        )
    if not await _is_turnwire(host, port):
        remedy = "stop the program that uses it, or choose another [server] port"
        return Finding("problem", "port", f"{host}:{port} is in use, not by Turnwire", remedy)
    if served:
        return Finding("ok", "port", f"{host}:{port} is in use by the running server")
    return Finding(
        "problem",
        "port",
        f"{host}:{port} is in use by a Turnwire server with another store",
        "stop that one, or choose another [server] port",
    )


def _bind(host: str, port: int) -> OSError | None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return error
    return None


async def _is_turnwire(host: str, port: int) -> bool:
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    netloc = f"[{reached}]" if ":" in reached else reached
    async with httpx2.AsyncClient(trust_env=False, timeout=3.0) as client:
        try:
            response = await client.get(f"http://{netloc}:{port}/healthz")
        except (httpx2.HTTPError, OSError):
            return False
    return '"turnwire"' in response.text


async def _look_at_relay(url: str) -> Finding:
    from .log import mask

    try:
        from redis.asyncio import Redis
        from redis.exceptions import RedisError
    except ModuleNotFoundError:
        return Finding("problem", "relay", "[relay] url names Redis", "install turnwire[redis]")
    client: Any = Redis.from_url(url, socket_connect_timeout=5.0, socket_timeout=5.0)
    try:
        await client.ping()
    except (RedisError, OSError) as error:
        remedy = "start Redis or change [relay] url; until then processes find each other's records later"
        return Finding("warning", "relay", f"Redis cannot be reached: {mask(str(error))}", remedy)
    finally:
        await client.aclose()
    return Finding("ok", "relay", "Redis answers")


async def _look_at_agent(config: Config, ask: bool, clock: Clock) -> AsyncIterator[Finding]:
    from .agents.demo import MODEL as DEMO_MODEL
    from .agents.load import AgentConfigError, provider_key_set
    from .agents.local import local_available, model_path
    from .agents.local_server import ALIAS

    try:
        spec = configured_agent(config)
    except AgentConfigError as error:
        yield Finding("problem", "agent", str(error), _remedy(str(error)))
        return
    yield Finding("ok", "agent", f"{spec.name} (use = {config.agent.use!r})")
    if local_available():
        yield Finding("ok", "agent", f"the local model is installed: {model_path()}")
    key = provider_key_set() if config.agent.use == "auto" else None
    if key and spec.model in (DEMO_MODEL, ALIAS):
        remedy = "pip install 'turnwire[pydantic-ai]' ('turnwire[google]' for Google's models)"
        yield Finding("warning", "agent", f"{key} is set, but its provider's library is not installed", remedy)
    elif config.agent.use == "auto" and spec.model == DEMO_MODEL:
        remedy = "set a provider's key, or `turnwire local install` adds a model (127 MB), or name one in [agent] use"
        yield Finding("warning", "agent", "answers come from the documentation, not from a model", remedy)
    if config.agent.mcp:
        async for finding in _look_at_servers(config, spec.model, ask, clock):
            yield finding
    if ask:
        yield await _ask(config, spec, clock)


async def _look_at_channels(config: Config, clock: Clock) -> AsyncIterator[Finding]:
    from .channels.load import channels_of
    from .delivery.pacing import LocalPacer
    from .doctor_store import holder_in

    for channel in channels_of(config, clock, LocalPacer(clock)):
        try:
            async for finding in channel.check(holder_in(config.store.url)):
                yield finding
        finally:
            await channel.close()


def _remedy(problem: str) -> str:
    """What to change about an agent that cannot be loaded: the section that its problem begins with."""
    section = re.match(r"\[agent\.mcp\.[^]]+\]|\[agent\] tools", problem)
    if section is None:
        return "change [agent] use"
    return f"correct {section[0]}" if section[0] == "[agent] tools" else f"correct {section[0]}, or remove that section"


async def _look_at_servers(config: Config, model: str | None, ask: bool, clock: Clock) -> AsyncIterator[Finding]:
    from .agents.load import AUTO_MODELS, PROVIDERS

    kind = config.agent.use.partition(":")[0]
    if kind not in PROVIDERS and not (kind == "auto" and model in AUTO_MODELS.values()):
        names = ", ".join(f"[agent.mcp.{name}]" for name in config.agent.mcp)
        what = f"not used, because only a provider's model is offered tools: {names}"
        yield Finding("warning", "agent", what, "name a provider's model in [agent] use, or remove what is not used")
    elif ask:
        from .doctor_tools import look_at_servers

        servers = {name: server.server() for name, server in config.agent.mcp.items()}
        for finding in await look_at_servers(servers, config.network.proxy or None, clock):
            yield finding


async def _ask(config: Config, spec: Any, clock: Clock) -> Finding:
    """A real turn, from question to answer, on a server of its own."""
    failed = "see the reason; a key, an address or the network may be missing"
    with tempfile.TemporaryDirectory(prefix="turnwire-doctor-") as folder:
        alone = config.model_copy(
            update={
                "server": Server(port=0),
                "store": Store(url=f"sqlite:///{folder}/turnwire.db", files=Path(folder) / "files"),
                "relay": Relay(),
                "channels": Channels(),
                "turns": config.turns.model_copy(update={"drain_s": 0.0}),
            }
        )
        began = clock.monotonic()
        asking = asyncio.create_task(_answer(alone, spec))
        if not await wait(clock, {asking}, ANSWER_S):
            asking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asking
            return Finding("problem", "agent", f"gave no answer within {ANSWER_S:g} s", failed)
        error = asking.exception()
        if error is not None:
            return Finding("problem", "agent", f"cannot be used: {type(error).__name__}: {error}", failed)
        outcome, said = asking.result()
    if outcome != "done":
        return Finding("problem", "agent", f"the turn ended {said}", failed)
    return Finding("ok", "agent", f"answered in {clock.monotonic() - began:.1f} s: {said}")


async def _answer(config: Config, spec: Any) -> tuple[str | None, str]:
    """The outcome, and the beginning of the answer or the reason why there is none."""
    from .client import ChatClient
    from .server import serving
    from .terminal_view import end_line, printable
    from .view import to_message

    async with serving(config, spec) as (url, _), ChatClient(url) as client:
        answer = client.send("doctor", QUESTION)
        async for _ in answer:
            pass
    if answer.view.outcome != "done":
        return answer.view.outcome, end_line(to_message(answer.view)).plain
    said = " ".join(printable(answer.view.text()).split())
    return "done", repr(said if len(said) <= 80 else said[:79] + "…")


def _source(path: Path | None) -> str:
    if path is not None:
        return str(path)
    return (
        "turnwire.toml" if Path("turnwire.toml").is_file() else "defaults and environment (there is no turnwire.toml)"
    )


def _settings(described: dict[str, Any], at: str = "") -> list[str]:
    found: list[str] = []
    for name, value in described.items():
        if isinstance(value, dict):
            found += _settings(value, f"{at}{name}.")
        else:
            found.append(f"{at}{name} = {msgspec.json.encode(value).decode()}")
    return found


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
