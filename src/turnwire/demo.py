"""`turnwire demo`: a server with what is at hand, and a chat with it in the same terminal.

Guarantee: without a configuration file everything is kept in `./turnwire-data/`, so the next demo begins where this one
ended; nothing outside that folder is written.
"""

from __future__ import annotations

import asyncio
import logging
import shlex
import sys
from pathlib import Path

from .agents.load import AgentSpec
from .channels.web.auth import LOCAL_USER
from .client import ChatClient, ChatError
from .config import Config, Store
from .server import serving

DATA = Path("turnwire-data")
CONVERSATION = "demo"
LEAVE_S = 2.0
"""How long a demo that was left waits for turns that others began."""


async def run_demo(config: Config, spec: AgentSpec, *, interactive: bool) -> None:
    """Serves until a signal comes or, when `interactive`, until the person leaves the chat.

    Raises `PortInUse`, `StoreError` and `StoreInUse` before anything is served.
    """
    config = demo_config(config, interactive=interactive)
    async with serving(config, spec) as (url, stopped):
        _say(f"ready {url}")
        for line in welcome(config, spec, url):
            _say(line)
        if interactive:
            await _chat(config, url, stopped)
        else:
            await stopped.wait()


def demo_config(config: Config, *, interactive: bool) -> Config:
    """The configuration with the demo's own defaults where a person chose nothing; makes the demo's folder."""
    if "url" not in config.store.model_fields_set:
        DATA.mkdir(exist_ok=True)
        chosen = {name: getattr(config.store, name) for name in config.store.model_fields_set}
        config = config.model_copy(update={"store": Store(**{"url": f"sqlite:///{DATA}/turnwire.db", **chosen})})
    if interactive and "drain_s" not in config.turns.model_fields_set:
        config = config.model_copy(update={"turns": config.turns.model_copy(update={"drain_s": LEAVE_S})})
    return config


def welcome(config: Config, spec: AgentSpec, url: str) -> list[str]:
    """Who answers, and a command that asks it something."""
    body = '{"id":"demo","messages":[{"role":"user","parts":[{"type":"text","text":"Hello"}]}]}'
    web = config.channels.web
    header = ""
    if web.auth == "token":
        header = " -H 'Authorization: Bearer TOKEN'"
    elif web.auth == "header":
        header = f" -H {shlex.quote(f'{web.header}: {LOCAL_USER}')}"
    return [
        f"{spec.name} answers. Conversations are kept in {_place(config)}.",
        f"Try it from another terminal: curl -N {url}/api/chat{header} -d '{body}'",
    ]


async def _chat(config: Config, url: str, stopped: asyncio.Event) -> None:
    from .terminal import chat_at_terminal

    _log_above_the_answer()
    web = config.channels.web
    token = next((token.get_secret_value() for token in web.tokens.values()), None) if web.auth == "token" else None
    header = (web.header, LOCAL_USER) if web.auth == "header" else None
    async with ChatClient(url, token, header) as client:
        try:
            await chat_at_terminal(client, CONVERSATION, stopped)
        except ChatError as error:
            _say(str(error))


def _place(config: Config) -> str:
    url = config.store.url
    return url.removeprefix("sqlite:///") if url.startswith("sqlite:///") else "PostgreSQL"


class _Stderr:
    """Whatever stderr is now: while an answer comes, what goes there is printed above it."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def _log_above_the_answer() -> None:
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(_Stderr())


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201
