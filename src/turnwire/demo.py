"""`turnwire demo`: a server with what is at hand, a simulated Feishu tenant and a simulated WeCom, the chat page in a
browser, and a chat in the same terminal.

Guarantee: without a configuration file everything is kept in `./turnwire-data/`, so the next demo begins where this one
ended; nothing outside that folder is written. A browser that does not open is one line, never an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

from .agents.load import AgentSpec
from .channels.feishu.config import Feishu
from .channels.web.auth import LOCAL_USER
from .channels.web.page import STATIC
from .channels.wecom.config import Wecom
from .client import ChatClient, ChatError
from .config import Config, Store
from .server import serving
from .sim.feishu_trial import trial_tenant
from .sim.wecom_trial import trial_platform

DATA = Path("turnwire-data")
CONVERSATION = "demo"
TENANT = "demo"
"""The name of the simulated app and of the simulated bot; a configured one of that name is used instead."""
LEAVE_S = 2.0
"""How long a demo that was left waits for turns that others began."""
OPEN_S = 3.0
"""How long opening a browser may take; what takes longer has found one."""
# In a process of its own: it may wait for the browser, and the browser prints to the terminal that it is given.
_OPEN = "import sys, webbrowser; sys.exit(not webbrowser.open(sys.argv[1]))"


async def run_demo(
    config: Config, spec: AgentSpec, *, interactive: bool, browse: Callable[[str], bool] | None = None
) -> None:
    """Serves until a signal comes or, when `interactive`, until the person leaves the chat.

    `browse` opens an address in the person's browser and says whether it could; it is called in a thread, once the
    server answers and if there is a page that the person may open. Raises `PortInUse`, `StoreError` and `StoreInUse`
    before anything is served.
    """
    config = demo_config(config, interactive=interactive)
    async with (
        simulated(config) as (config, chat),
        simulated_bot(config) as (config, bot_chat),
        serving(config, spec) as (url, stopped),
    ):
        _say(f"ready {url}")
        chats = {"Feishu, simulated": chat, "WeCom, simulated": bot_chat}
        for line in [*welcome(config, spec, url), *(f"{name}: {at}" for name, at in chats.items() if at)]:
            _say(line)
        if browse is not None and _page_opens(config) and not await asyncio.to_thread(browse, f"{url}/"):
            _say("No browser opened; open the chat page yourself.")
        if interactive:
            await _chat(config, url, stopped)
        else:
            await stopped.wait()


@contextlib.asynccontextmanager
async def simulated(config: Config) -> AsyncIterator[tuple[Config, str]]:
    """The configuration with an app on a simulated tenant that exists inside the block, and where a person chats there.

    A configuration that has an app of that name stays as it is, and the address is empty.
    """
    if TENANT in config.channels.feishu:
        yield config, ""
        return
    sim, chat = trial_tenant()
    async with sim:
        app = Feishu.model_validate(
            {
                "app_id": sim.app_id,
                "app_secret": sim.app_secret,
                "base_url": sim.base_url,
                "language": _language(),
            }
        )
        channels = config.channels.model_copy(update={"feishu": {**config.channels.feishu, TENANT: app}})
        yield config.model_copy(update={"channels": channels}), f"{sim.base_url}/_sim/#{chat}"


@contextlib.asynccontextmanager
async def simulated_bot(config: Config) -> AsyncIterator[tuple[Config, str]]:
    """The same with a bot on a simulated WeCom."""
    if TENANT in config.channels.wecom:
        yield config, ""
        return
    sim, chat = trial_platform()
    async with sim:
        bot = Wecom.model_validate(
            {"bot_id": sim.bot_id, "secret": sim.secret, "ws_url": sim.ws_url, "called": "Sim bot",
             "language": _language()}
        )  # fmt: skip
        channels = config.channels.model_copy(update={"wecom": {**config.channels.wecom, TENANT: bot}})
        yield config.model_copy(update={"channels": channels}), f"{sim.base_url}/_sim/#{chat}"


def _language() -> str:
    return "zh" if os.environ.get("LC_ALL", os.environ.get("LANG", "")).startswith("zh") else "en"


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
    """Who answers, where the chat page is, and a command that asks it something."""
    body = '{"id":"demo","messages":[{"role":"user","parts":[{"type":"text","text":"Hello"}]}]}'
    web = config.channels.web
    header = ""
    if web.auth == "token":
        header = " -H 'Authorization: Bearer TOKEN'"
    elif web.auth == "header":
        header = f" -H {shlex.quote(f'{web.header}: {LOCAL_USER}')}"
    return [
        f"{spec.name} answers. Conversations are kept in {_place(config)}.",
        *([f"Chat page: {url}/"] if _page_opens(config) else []),
        f"Try it from another terminal: curl -N {url}/api/chat{header} -d '{body}'",
    ]


def has_desktop(environ: Mapping[str, str], platform: str) -> bool:
    """Whether a browser that opens on this machine is one that the person at this terminal sees.

    `environ` is the environment and `platform` is `sys.platform`.
    """
    if any(environ.get(name) for name in ("SSH_CONNECTION", "SSH_CLIENT", "SSH_TTY")):
        return False
    if platform in ("darwin", "win32"):
        return True
    return bool(environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY"))


def open_browser(url: str) -> bool:
    """Opens `url` in the person's browser, silently and within `OPEN_S` seconds; whether it could."""
    try:
        opened = subprocess.run(  # noqa: S603 - this Python, and an address of our own
            [sys.executable, "-c", _OPEN, url],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            timeout=OPEN_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return True
    except OSError:
        return False
    return opened.returncode == 0


def _page_opens(config: Config) -> bool:
    """Whether there is a page, and a person can come to it without a proxy that names them."""
    web = config.channels.web
    return web.enabled and web.auth != "header" and (STATIC / "index.html").is_file()


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
