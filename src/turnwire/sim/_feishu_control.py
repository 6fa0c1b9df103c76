"""The simulator's own routes: what a test in another process, or a person at its page, needs.

Guarantee: a body that is not understood changes nothing and is answered 400 with what it should have been.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from ._clock import JumpingClock
from ._feishu_page import page, page_json
from ._feishu_rest import OPS
from ._feishu_state import Switches
from ._http import Request
from ._json import Json, compact, read_object
from ._serving import Answer
from .faults import Fault

if TYPE_CHECKING:
    from .feishu import FeishuSim

HTML = "text/html; charset=utf-8"


class NotUnderstood(Exception):
    """A body that is not what it should be."""


class _Said:
    """The fields of a body; a wrong one is refused by its name."""

    def __init__(self, body: Json) -> None:
        self._body = body

    def text(self, name: str, default: str | None = None) -> str:
        value = self._body.get(name, default)
        if not isinstance(value, str):
            raise NotUnderstood(f"{name}: must be a string")
        return value

    def list(self, name: str) -> list[str]:
        value = self._body.get(name, [])
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise NotUnderstood(f"{name}: must be a list of strings")
        return value

    def any(self, name: str, default: Any = None) -> Any:
        return self._body.get(name, default)


def _say(sim: FeishuSim, said: _Said) -> Json:
    mention = said.any("mention", True)
    if not isinstance(mention, bool | str):
        raise NotUnderstood("mention: must be true, false or the id of an app")
    user, reply_to = said.text("user", "ou_alice"), said.text("reply_to", "")
    message_id = sim.people.say(
        said.text("chat_id", sim.group), said.text("text"), user=user, mention=mention, reply_to=reply_to
    )
    return {"message_id": message_id}


def _file(sim: FeishuSim, said: _Said) -> Json:
    data = base64.b64decode(said.text("data"), validate=True)
    image = said.any("image", False) is True
    user, media_type = said.text("user", "ou_alice"), said.text("media_type", "")
    chat_id, name = said.text("chat_id", sim.group), said.text("name")
    message_id = sim.people.send_file(chat_id, name, data, user=user, media_type=media_type, image=image)
    return {"message_id": message_id}


def _click(sim: FeishuSim, said: _Said) -> Json:
    form, user = said.any("form_value"), said.text("user", "ou_alice")
    delivery = sim.people.click(said.text("message_id"), said.text("button", ""), user=user, form_value=form)
    return {"event_id": delivery.event_id, "state": delivery.state}


def _recall(sim: FeishuSim, said: _Said) -> Json:
    sim.people.recall(said.text("message_id"))
    return {}


def _react(sim: FeishuSim, said: _Said) -> Json:
    sim.people.react(said.text("message_id"), said.text("emoji"), user=said.text("user", "ou_alice"))
    return {}


def _chat(sim: FeishuSim, said: _Said) -> Json:
    kind = said.text("kind", "group")
    if kind not in ("p2p", "group", "topic"):
        raise NotUnderstood("kind: must be p2p, group or topic")
    members, bots = said.list("members") or ["ou_alice"], said.list("bots") or [sim.app_id]
    if unknown := [each for each in bots if each not in sim.tenant.apps]:
        raise NotUnderstood(f"bots: there is no app {unknown[0]!r}")
    chat_id = said.text("chat_id", "") or sim.tenant.make_id("oc_")
    sim.add_chat(chat_id, kind, said.text("name", ""), members=members, bots=bots)  # type: ignore[arg-type]
    return {"chat_id": chat_id}


def _app(sim: FeishuSim, said: _Said) -> Json:
    sim.add_app(said.text("app_id"), said.text("secret"), said.text("name", ""))
    return {}


def _switches(sim: FeishuSim, said: _Said) -> Json:
    known = {each.name for each in fields(Switches)}
    body = said.any("switches", {})
    if not isinstance(body, dict) or (unknown := body.keys() - known):
        raise NotUnderstood(f"switches: an object of {', '.join(sorted(known))}; not {sorted(unknown)}")
    for name, value in body.items():
        if type(value) not in (type(getattr(sim.switches, name)), int):
            raise NotUnderstood(f"switches: {name} is like {getattr(sim.switches, name)!r}")
    for name, value in body.items():
        setattr(sim.switches, name, value)
    return asdict(sim.switches)


def _faults(sim: FeishuSim, said: _Said) -> Json:
    try:
        sim.faults.add(*(Fault(**each) for each in said.any("faults", [])))
    except TypeError as error:
        raise NotUnderstood(
            f'faults: a list as [{{"op": "content", "kind": "refuse", "code": 300309}}]: {error}'
        ) from None
    return {"pending": len(sim.faults.pending)}


def _advance(sim: FeishuSim, said: _Said) -> Json:
    if not isinstance(sim.clock, JumpingClock):
        raise NotUnderstood("advance: the clock of this simulator belongs to its test; advance it there")
    sim.clock.jump(float(said.any("seconds", 0)))
    sim.events.wake()
    return {"now": sim.clock.now()}


def _break(sim: FeishuSim, _: _Said) -> Json:
    count = len(sim.sockets.sockets)
    sim.sockets.reset_all()
    return {"reset": count}


def _clear(sim: FeishuSim, _: _Said) -> Json:
    sim.clear()
    return {}


_POSTS: dict[str, Callable[[FeishuSim, _Said], Json]] = {
    "say": _say, "file": _file, "click": _click, "recall": _recall, "react": _react, "chat": _chat, "app": _app,
    "switches": _switches, "faults": _faults, "advance": _advance, "reset_sockets": _break, "clear": _clear,
}  # fmt: skip


async def _webhook(sim: FeishuSim, said: _Said) -> Json:
    app = sim.tenant.apps.get(said.text("app_id", sim.app_id))
    if app is None:
        raise NotUnderstood("app_id: there is no such app")
    app.verification_token = said.text("verification_token", app.verification_token)
    app.encrypt_key = said.text("encrypt_key", app.encrypt_key)
    return {"verified": await sim.webhooks.connect(app.app_id, said.text("url"))}


_AWAITED: dict[str, Callable[[FeishuSim, _Said], Awaitable[Json]]] = {"webhook": _webhook}


async def control(sim: FeishuSim, request: Request, raw: bytes) -> Answer:
    """The answer to a request of the simulator's own."""
    what = request.path.removeprefix("/_sim").strip("/")
    if request.method == "GET":
        return _shown(sim, request, what)
    if request.method != "POST" or what not in {*_POSTS, *_AWAITED}:
        return _problem(404, f"POST one of {', '.join(sorted({*_POSTS, *_AWAITED}))} to /_sim/")
    said = _Said(read_object(raw))
    try:
        data = await _AWAITED[what](sim, said) if what in _AWAITED else _POSTS[what](sim, said)
    except (NotUnderstood, ValueError) as error:
        return _problem(400, str(error))
    return _json(data)


def _shown(sim: FeishuSim, request: Request, what: str) -> Answer:
    match what:
        case "":
            return Answer(200, page(), media_type=HTML, headers=_GUARD)
        case "page.json":
            return _json(page_json(sim.tenant, request.query.get("chat", "")))
        case "view.json":
            return _json({"chats": [sim.view(each).as_json() for each in sim.tenant.chats]})
        case "calls":
            return _json({"calls": [asdict(each) for each in sim.calls], "connections": sim.connections})
        case "events":
            return _json({"events": [_event(each) for each in sim.events.deliveries]})
        case "faults":
            from .feishu import KINDS

            return _json({"kinds": KINDS, "ops": OPS, "pending": [asdict(each) for each in sim.faults.pending]})
    upload = sim.tenant.uploads.get(what.removeprefix("files/")) if what.startswith("files/") else None
    if upload is None:
        return _problem(404, "GET /_sim/, view.json, calls, events, faults or files/KEY")
    kind = upload.media_type if upload.kind == "image" else "application/octet-stream"
    return Answer(200, upload.data, media_type=kind, headers=_GUARD)


_POLICY = "default-src 'self'; img-src 'self' data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
_GUARD = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
}


def _event(delivery: Any) -> Json:
    shown = ("event_id", "app_id", "event_type", "state", "attempts", "answer", "body")
    return {name: getattr(delivery, name) for name in shown}


def _json(value: Json) -> Answer:
    return Answer(200, compact(value).encode("utf-8", "replace"))


def _problem(status: int, message: str) -> Answer:
    return Answer(status, compact({"error": {"message": message}}).encode("utf-8", "replace"))
