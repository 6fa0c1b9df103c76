"""What `turnwire doctor` finds out about one bot: its connection, its id and secret, or its address for webhooks.

Guarantee: nobody sees anything of it, and no running gateway loses its connection: a bot has one, and who subscribes
takes it, so that is only tried while no process has the bot's lease. A message that comes in the moment of the try is
lost, as it is while no gateway runs. Secrets are not shown.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from ...clock import Clock, wait
from ...doctor import Finding
from ...store import StoreError
from .. import Holder
from . import frames
from .crypto import BadCipher, key_of
from .errors import DENIED, receipt_of
from .settings import Bot, lease_of
from .sockets import BROKEN, Opener, Socket

SUBJECT = "wecom"
OPEN_S = 15.0
ACK_S = 10.0
CLOSE_S = 2.0
_THROUGH = "check ws_url, and let websockets (wss) out of this network, or set [network] proxy"


async def check(bot: Bot, clock: Clock, *, opened: Opener, holder: Holder) -> AsyncIterator[Finding]:
    """Step by step; a step without which the others make no sense is the last one.

    Args:
        opened: opens the socket of the long connection.
        holder: tells which process has the bot now.
    """
    if bot.mode == "webhook":
        for finding in _webhook(bot):
            yield finding
        return
    finding = await _long_connection(bot, clock, opened, holder)
    yield finding
    if finding.level == "ok":
        what = "not to be seen from here: who may use the bot. Open its chat in WeCom and write to it to try that"
        yield _finding(bot, "ok", what)


async def _long_connection(bot: Bot, clock: Clock, opened: Opener, holder: Holder) -> Finding:
    try:
        owner = await holder(lease_of(bot))
    except StoreError as error:
        what = f"bot_id and secret were not tried, for it is not known whether a gateway has the bot: {error}"
        return _finding(bot, "warning", what, "repair the store, then look again")
    if owner is not None:
        what = (
            f"the gateway {owner} has the bot, so bot_id and secret were not tried: a second connection would take it\n"
            "from there. Its log says `the bot is connected`, or why not"
        )
        return _finding(bot, "ok", what)
    opening = asyncio.ensure_future(opened())
    try:
        if not await wait(clock, {opening}, OPEN_S):
            return _finding(bot, "problem", f"{bot.url} did not open within {OPEN_S:g} s", _THROUGH)
        socket = opening.result()
    except BROKEN as error:
        return _finding(bot, "problem", f"{bot.url} cannot be reached: {type(error).__name__}", _THROUGH)
    finally:
        opening.cancel()
    try:
        return await _subscribed(bot, clock, socket)
    finally:
        await _closed(clock, socket)


async def _subscribed(bot: Bot, clock: Clock, socket: Socket) -> Finding:
    """Whether the platform takes the bot's id and secret."""
    asking = asyncio.ensure_future(_asked(bot, socket))
    try:
        if not await wait(clock, {asking}, ACK_S):
            what = f"{bot.url} opened, but did not answer within {ACK_S:g} s"
            return _finding(bot, "problem", what, "see that ws_url is the platform's address, and look again later")
        code = asking.result()
    except BROKEN as error:
        what = f"{bot.url} closed the connection instead of answering: {type(error).__name__}"
        return _finding(bot, "problem", what, "see that ws_url is the platform's address, and look again later")
    finally:
        asking.cancel()
    if code == 0:
        return _finding(bot, "ok", f"{bot.url} takes bot_id {bot.bot_id} and its secret")
    if code == DENIED:
        remedy = (
            "copy both from the bot's page; they hold only while the bot is set to API mode with the long connection, "
            'and not with a callback URL, for which mode = "webhook" is'
        )
        what = f"the platform does not take bot_id {bot.bot_id} with this secret ({DENIED})"
        return _finding(bot, "problem", what, remedy)
    what = f"the platform refused the connection: {receipt_of('subscribe', code).reason}"
    return _finding(bot, "problem", what, "look again later")


async def _asked(bot: Bot, socket: Socket) -> int | None:
    """The code that the subscription is answered with."""
    req_id = frames.new_req_id("doctor")
    await socket.send(frames.encode(frames.SUBSCRIBE, req_id, frames.subscription(bot.bot_id, bot.secret)))
    while True:
        try:
            said = frames.read(await socket.recv())
        except frames.Unreadable:
            continue
        # A refusal may come without the request id; nothing else was asked.
        if isinstance(said, frames.Ack) and said.req_id in (req_id, None):
            return said.code


async def _closed(clock: Clock, socket: Socket) -> None:
    closing = asyncio.ensure_future(socket.close())
    try:
        await wait(clock, {closing}, CLOSE_S)
    finally:
        closing.cancel()
        await asyncio.gather(closing, return_exceptions=True)
        socket.abort()


def _webhook(bot: Bot) -> list[Finding]:
    try:
        key_of(bot.aes_key)
    except BadCipher as error:
        return [_finding(bot, "problem", f"encoding_aes_key: {error}", "copy it from the bot's page again")]
    if not bot.token:
        return [_finding(bot, "problem", "there is no token", "copy it from the bot's page, beside the URL")]
    if not bot.public_url:
        what = "messages are posted to this server, but [server] public_url does not say where it is reached"
        return [_finding(bot, "problem", what, 'set public_url, or mode = "websocket", which needs no address')]
    address = f"{bot.public_url.rstrip('/')}/webhooks/wecom/{bot.name}"
    found = [
        _finding(bot, "ok", f"the URL to enter on the bot's page, once the server runs: {address}"),
        _finding(bot, "ok", "files that this mode cannot send go as signed links below public_url"),
    ]
    if not bot.public_url.startswith("https://"):
        what = "messages come over plain http: they are sealed, but links to files are not"
        found.append(_finding(bot, "warning", what, "use an https address for public_url"))
    return found


def _finding(bot: Bot, level: Any, what: str, remedy: str = "") -> Finding:
    return Finding(level, SUBJECT, f"{bot.name}: {what}", remedy)
