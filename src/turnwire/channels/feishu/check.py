"""What `turnwire doctor` finds out about one app: address, credentials, bot, permissions, and how events come.

Guarantee: nobody in the tenant sees anything of it: calls name messages and people that do not exist, and the one card
that is made is never sent. A long connection is opened for a moment only; an event that comes on it is delivered again
by the platform, because it is not acknowledged. Secrets are not shown.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import msgspec
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from ...clock import Clock, wait
from ...doctor import Finding
from .settings import App
from .wire import Answer, Wire

SUBJECT = "feishu"
OPEN_S = 15.0
FORBIDDEN = frozenset({99991672, 99991679, 230027})
"""The app lacks the scope that the call needs."""
_NOBODY = "om_turnwire_doctor"
_CARD = {"schema": "2.0", "body": {"elements": [{"tag": "markdown", "content": "turnwire doctor"}]}}
_SCOPE = re.compile(r"\b[a-z]+(?::[a-z_.]+)+\b")
# Source: the platform's page of GET /bot/v3/info; 2 is the only state in which a bot works.
_INACTIVE = {
    0: "is not installed in the tenant yet; publish a version of the app",
    1: "is switched off by the tenant's administrator",
    3: "is installed but not switched on yet; the tenant's administrator does that",
    4: "waits for its new version to be switched on by the tenant's administrator",
    5: "is off because its licence is over",
    6: "is off because the tenant's plan does not include it",
}


class _Probe(NamedTuple):
    """A call that needs one scope and can do nothing; `without` is what a bot is like that lacks it."""

    scope: str
    may: str
    without: str
    needed: bool
    method: str
    path: str
    body: dict[str, Any] | None = None


_PROBES = (
    _Probe(
        "cardkit:card:write", "show answers as cards", "answers are plain messages that appear at the end", True,
        "POST", "/cardkit/v1/cards", {"type": "card_json", "data": msgspec.json.encode(_CARD).decode()},
    ),
    _Probe(
        "im:message:send_as_bot", "send messages", "nothing can be answered", True,
        "POST", f"/im/v1/messages/{_NOBODY}/reply", {"msg_type": "text", "content": '{"text":"doctor"}'},
    ),
    _Probe(
        "im:message:readonly", "read quoted and forwarded messages", "the agent does not see what people quote", False,
        "GET", f"/im/v1/messages/{_NOBODY}",
    ),
    _Probe(
        "im:message.reactions:write_only", "show that it is at work", "nothing is seen until the answer begins", False,
        "POST", f"/im/v1/messages/{_NOBODY}/reactions", {"reaction_type": {"emoji_type": "Typing"}},
    ),
    _Probe(
        "im:resource", "send and fetch files", "files go neither way", False,
        "POST", "/im/v1/files", {"file_type": "stream", "file_name": "doctor"},
    ),
    _Probe(
        "contact:user.base:readonly", "learn people's names", "people are called by their ids", False,
        "GET", "/contact/v3/users/ou_turnwire_doctor",
    ),
)  # fmt: skip


async def check(app: App, wire: Wire, clock: Clock) -> AsyncIterator[Finding]:
    """Step by step; a step without which the others make no sense is the last one. No trace is written of it."""
    trace, wire.trace = wire.trace, None
    try:
        async for finding in _steps(app, wire, clock):
            yield finding
    finally:
        wire.trace = trace


async def _steps(app: App, wire: Wire, clock: Clock) -> AsyncIterator[Finding]:
    for step in (_credentials, _bot):
        finding = await step(app, wire)
        yield finding
        if finding.level == "problem":
            return
    for finding in await _permissions(app, wire):
        yield finding
    if app.mode == "websocket":
        yield await _long_connection(app, wire, clock)
    else:
        for finding in _webhook(app):
            yield finding
    yield _finding(
        app,
        "ok",
        "not to be seen from here: that the app subscribes to im.message.receive_v1 and im.message.recalled_v1, and\n"
        "to the callback card.action.trigger. Write to the bot and press Stop to try them",
    )


async def _credentials(app: App, wire: Wire) -> Finding:
    receipt = await wire.token()
    if receipt is None:
        return _finding(app, "ok", f"{app.base_url} takes app_id {app.app_id} and its secret")
    if receipt.cause == "barred":
        other = "https://open.larksuite.com" if "feishu" in app.base_url else "https://open.feishu.cn"
        remedy = f"copy both from the app's page, under credentials; for an app made on {other}, set base_url to that"
        return _finding(app, "problem", f"{app.base_url} does not know app_id {app.app_id} with this secret", remedy)
    remedy = "check base_url and whether this machine gets there; [network] proxy names a proxy"
    return _finding(app, "problem", f"{app.base_url}: {receipt.reason}", remedy)


async def _bot(app: App, wire: Wire) -> Finding:
    answer = await wire.call("get", "GET", "/bot/v3/info")
    bot = answer.data.get("bot")
    if answer.code != 0 or not isinstance(bot, dict):
        remedy = "add the ability `Bot` to the app and publish a version of it"
        return _finding(app, "problem", f"the app has no bot: {_why(answer)}", remedy)
    name, state = bot.get("app_name"), bot.get("activate_status", 2)
    if state in _INACTIVE:
        return _finding(app, "problem", f"the bot {name!r} {_INACTIVE[state]}", "then look again")
    return _finding(app, "ok", f"the bot is called {name!r}")


async def _permissions(app: App, wire: Wire) -> list[Finding]:
    found: list[Finding] = []
    may: list[str] = []
    for probe in _PROBES:
        answer = await wire.call("probe", probe.method, probe.path, probe.body)
        if answer.code is None or answer.receipt.cause == "busy":
            what = f"whether it may {probe.may} is not known: {_why(answer)}"
            found.append(_finding(app, "warning", what, "look again later"))
        elif answer.code in FORBIDDEN:
            named = [scope for scope in _SCOPE.findall(str(answer.data.get("msg") or "")) if scope != probe.scope]
            other = f" (or one of {', '.join(named)})" if named else ""
            remedy = f"give the app the permission {probe.scope}{other} and publish a version of it"
            what = f"it may not {probe.may} ({answer.code}): {probe.without}"
            found.append(_finding(app, "problem" if probe.needed else "warning", what, remedy))
        else:
            may.append(probe.may)
    if may:
        found.insert(0, _finding(app, "ok", f"it may {', '.join(may)}"))
    return found


async def _long_connection(app: App, wire: Wire, clock: Clock) -> Finding:
    answer = await wire.endpoint()
    url = answer.data.get("URL")
    if answer.code == 1000040350:
        remedy = "stop other programs that use this app_id; 50 connections are allowed"
        return _finding(app, "problem", "the app has too many long connections", remedy)
    if answer.code != 0 or not isinstance(url, str):
        remedy = "choose `long connection` for events and for callbacks on the app's page, and publish a version"
        return _finding(app, "problem", f"there is no long connection for this app: {_why(answer)}", remedy)
    opening = asyncio.ensure_future(_open(url, app.proxy))
    try:
        if not await wait(clock, {opening}, OPEN_S):
            return _finding(app, "problem", f"the long connection did not open within {OPEN_S:g} s", _THROUGH)
        opening.result()
    except (OSError, TimeoutError, WebSocketException) as error:
        return _finding(app, "problem", f"the long connection cannot be opened: {type(error).__name__}", _THROUGH)
    finally:
        opening.cancel()
    return _finding(app, "ok", "the long connection opens")


_THROUGH = "let websockets (wss) out of this network, or set [network] proxy"


async def _open(url: str, proxy: str) -> None:
    socket = await connect(url, proxy=proxy or None, open_timeout=None, ping_interval=None, close_timeout=1.0)
    await socket.close()


def _webhook(app: App) -> list[Finding]:
    if not app.public_url:
        what = "events are posted to this server, but [server] public_url does not say where it is reached"
        return [_finding(app, "problem", what, 'set public_url, or mode = "websocket", which needs no address')]
    address = f"{app.public_url.rstrip('/')}/webhooks/feishu/{app.name}"
    found = [_finding(app, "ok", f"the address for events and for callbacks: {address}")]
    if not app.public_url.startswith("https://"):
        found.append(_finding(app, "warning", "events come over plain http", "use an https address for public_url"))
    if not app.encrypt_key:
        what = "events come neither encrypted nor signed; only their token is checked"
        found.append(_finding(app, "warning", what, "set an encrypt key on the app's page, and encrypt_key here"))
    return found


def _finding(app: App, level: Any, what: str, remedy: str = "") -> Finding:
    return Finding(level, SUBJECT, f"{app.name}: {what}", remedy)


def _why(answer: Answer) -> str:
    said = str(answer.data.get("msg") or "") or answer.receipt.reason or "no answer"
    return f"{said} ({answer.code})" if answer.code else said
