"""The paths of the platform's API, and the answer to each call.

Guarantee: a call is checked in the platform's order: the token, the app's scope, the app's rates, then the operation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple
from urllib.parse import quote

from . import _feishu_cards as cards
from . import _feishu_files as files
from . import _feishu_im as im
from ._feishu_call import Call
from ._feishu_codes import BadCard, Refused
from ._feishu_rates import Rates, app_limits
from ._feishu_state import CALLBACK_LIFE_S, Tenant, Upload
from ._json import Json, compact
from ._serving import Answer


class Route(NamedTuple):
    """Where a path leads, and the scope that an app needs for it."""

    method: str
    path: re.Pattern[str]
    op: str
    handler: Callable[[Call], Json | Upload]
    scope: str


def token(tenant: Tenant, body: Json) -> Json:
    """A tenant token for an app's credentials. Raises `Refused`."""
    app = tenant.apps.get(str(body.get("app_id", "")))
    if app is None:
        raise Refused(10003, "invalid param: there is no such app_id")
    if body.get("app_secret") != app.secret:
        raise Refused(10014)
    value, left = tenant.token(app)
    return {"tenant_access_token": value, "expire": int(left)}


def bot_info(call: Call) -> Json:
    """The bot itself."""
    bot = {"activate_status": 2, "app_name": call.app.name, "avatar_url": "", "open_id": call.app.open_id}
    return {"bot": bot}


def chat_info(call: Call) -> Json:
    """What a chat is."""
    chat = call.tenant.chats.get(call.params["chat_id"])
    if chat is None:
        raise Refused(230034, "there is no such chat")
    if call.app.app_id not in chat.bots:
        raise Refused(232011)
    mode = {"p2p": "p2p", "group": "group", "topic": "topic"}[chat.kind]
    status = "dissolved" if chat.dissolved else "normal"
    return {"name": chat.name, "chat_mode": mode, "chat_type": "private", "chat_status": status}


def chat_members(call: Call) -> Json:
    """The people in a chat."""
    chat = call.tenant.chats.get(call.params["chat_id"])
    if chat is None:
        raise Refused(230034, "there is no such chat")
    if call.app.app_id not in chat.bots:
        raise Refused(232011)
    items = [
        {"member_id_type": "open_id", "member_id": each, "name": call.tenant.name_of(each)} for each in chat.members
    ]
    return {"items": items, "has_more": False, "member_total": len(items)}


def user_info(call: Call) -> Json:
    """Who somebody is."""
    for user in call.tenant.users.values():
        if call.params["user_id"] in (user.open_id, user.union_id, user.user_id):
            ids = {"open_id": user.open_id, "union_id": user.union_id, "user_id": user.user_id}
            return {"user": {**ids, "name": user.name}}
    raise Refused(99992402, "user_id: there is no such user")


def callback_update(call: Call) -> Json:
    """Another card after a click: within half an hour of it, at most twice."""
    allowed = call.tenant.callbacks.get(call.text("token", 200))
    if allowed is None or call.now - allowed.at >= CALLBACK_LIFE_S or allowed.left < 1:
        raise Refused(10002, "token: it is unknown, too old or used up")
    card = call.tenant.cards[allowed.card_id]
    if card.app_id != call.app.app_id:
        raise Refused(300311)
    if call.now < card.locked_until:
        raise Refused(200810)
    try:
        cards.check(call.tenant, call.body.get("card", {}), entity=False)
    except BadCard as error:
        raise error.in_message() from None
    allowed.left -= 1
    cards.replace_card(call.tenant, card, call.body["card"], call.op)
    return {}


_CARD, _ELEMENT = "/cardkit/v1/cards/:card_id", "/cardkit/v1/cards/:card_id/elements/:element_id"
_MESSAGE = "/im/v1/messages/:message_id"
_WRITE, _IM, _READ, _FILES, _REACT = (
    "cardkit:card:write",
    "im:message:send_as_bot",
    "im:message:readonly",
    "im:resource",
    "im:message.reactions:write_only",
)
_TABLE: list[tuple[str, str, str, Callable[[Call], Json | Upload], str]] = [
    ("POST", "/cardkit/v1/cards", "create", cards.create, _WRITE),
    ("POST", "/cardkit/v1/cards/id_convert", "id_convert", cards.id_convert, _WRITE),
    ("PUT", _CARD, "update", cards.update, _WRITE),
    ("PATCH", f"{_CARD}/settings", "settings", cards.configure, _WRITE),
    ("POST", f"{_CARD}/batch_update", "batch_update", cards.batch_update, _WRITE),
    ("POST", f"{_CARD}/elements", "add_elements", cards.add_elements, _WRITE),
    ("PUT", f"{_ELEMENT}/content", "content", cards.content, _WRITE),
    ("PUT", _ELEMENT, "replace_element", cards.replace_element, _WRITE),
    ("PATCH", _ELEMENT, "patch_element", cards.patch_element, _WRITE),
    ("DELETE", _ELEMENT, "delete_element", cards.delete_element, _WRITE),
    ("POST", "/im/v1/messages", "send", im.send, _IM),
    ("GET", "/im/v1/messages", "history", im.history, _READ),
    ("POST", f"{_MESSAGE}/reply", "reply", im.reply, _IM),
    ("PATCH", _MESSAGE, "patch", im.patch, _IM),
    ("PUT", _MESSAGE, "edit", im.edit, _IM),
    ("DELETE", _MESSAGE, "recall", im.recall, _IM),
    ("GET", _MESSAGE, "get", im.get, _READ),
    ("POST", f"{_MESSAGE}/reactions", "react", im.react, _REACT),
    ("DELETE", f"{_MESSAGE}/reactions/:reaction_id", "unreact", im.unreact, _REACT),
    ("GET", f"{_MESSAGE}/resources/:file_key", "download", files.download, _FILES),
    ("POST", "/im/v1/files", "upload_file", files.upload_file, _FILES),
    ("POST", "/im/v1/images", "upload_image", files.upload_image, _FILES),
    ("POST", "/interactive/v1/card/update", "callback_update", callback_update, ""),
    ("GET", "/bot/v3/info", "bot_info", bot_info, ""),
    ("GET", "/im/v1/chats/:chat_id", "chat", chat_info, ""),
    ("GET", "/im/v1/chats/:chat_id/members", "members", chat_members, ""),
    ("GET", "/contact/v3/users/:user_id", "user", user_info, ""),
]
ROUTES = [
    Route(method, re.compile("/open-apis" + re.sub(r":(\w+)", r"(?P<\1>[^/]+)", path)), op, handler, scope)
    for method, path, op, handler, scope in _TABLE
]
TOKEN_PATH = "/open-apis/auth/v3/tenant_access_token/internal"  # noqa: S105 - a path, no token
OPS = ["token", "endpoint", "event", "socket", *(route.op for route in ROUTES)]


def route_of(method: str, path: str) -> tuple[Route, dict[str, str]] | None:
    """The route of a request, with what the path names."""
    for route in ROUTES:
        if route.method == method and (found := route.path.fullmatch(path)):
            return route, found.groupdict()
    return None


class Api:
    """The API of one tenant.

    Args:
        tenant: the state.
        rates: what has been called.

    `log_id` is what the next refusal carries.
    """

    def __init__(self, tenant: Tenant, rates: Rates) -> None:
        self._tenant = tenant
        self._rates = rates
        self.log_id = ""

    def call(
        self, route: Route, params: Mapping[str, str], query: Mapping[str, str], headers: Mapping[str, str], raw: bytes
    ) -> Answer:
        """Answers a call of an operation."""
        tenant = self._tenant
        try:
            app = tenant.authorised(headers.get("authorization", ""))
            if app.scopes is not None and route.scope and route.scope not in app.scopes:
                raise Refused(99991672, f"Access denied. One of the following scopes is required: [{route.scope}].")
            call = Call(route.op, tenant, self._rates, app, params, query, headers, raw=raw)
            call.limit(*app_limits(app.app_id, route.op))
            call.body = _body(headers, raw)
            data = route.handler(call)
        except Refused as refusal:
            return self.refuse(refusal)
        if isinstance(data, Upload):
            return self._file(data)
        return self.say(data if route.op == "bot_info" else {"data": data}, "ok" if route.op == "bot_info" else "")

    def token(self, raw: bytes) -> Answer:
        """Answers a request for a token."""
        try:
            return self.say(token(self._tenant, _body({"content-type": "application/json"}, raw)), "ok")
        except Refused as refusal:
            return self.refuse(refusal)

    def say(self, data: Json, msg: str = "") -> Answer:
        """A success."""
        return Answer(200, compact({"code": 0, "msg": msg or "success", **data}).encode("utf-8", "replace"))

    def refuse(self, refusal: Refused) -> Answer:
        """A refusal, with the status that the tenant gives to refusals."""
        status = refusal.status if refusal.status != 400 else self._tenant.switches.http_errors
        said = {"code": refusal.code, "msg": refusal.msg, "error": {"log_id": self.log_id}}
        return Answer(status, compact(said).encode("utf-8", "replace"), refusal.code, headers=dict(refusal.headers))

    def _file(self, upload: Upload) -> Answer:
        name = re.sub(r"[^ !#-~]", "_", upload.name)
        disposition = f"attachment; filename=\"{name}\"; filename*=UTF-8''{quote(upload.name, safe='')}"
        headers = {"Content-Disposition": disposition}
        return Answer(200, upload.data, media_type=upload.media_type or "application/octet-stream", headers=headers)


def _body(headers: Mapping[str, str], raw: bytes) -> Json:
    if "multipart/" in headers.get("content-type", "") or not raw:
        return {}
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise Refused(99992402, "field validation failed: the body must be an object of JSON")
    return body
