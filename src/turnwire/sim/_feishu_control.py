"""The Feishu simulator's own routes.

Guarantee: a body that is not understood changes nothing and is answered 400 with what it should have been.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from ._control import GUARD, HTML, Commands, NotUnderstood, Said, add_faults, advance, as_json, problem
from ._feishu_page import page_json
from ._feishu_rest import OPS
from ._feishu_state import Switches
from ._http import Request
from ._json import Json
from ._page import page
from ._serving import Answer

if TYPE_CHECKING:
    from .feishu import FeishuSim


def _say(sim: FeishuSim, said: Said) -> Json:
    mention = said.any("mention", True)
    if not isinstance(mention, bool | str):
        raise NotUnderstood("mention: must be true, false or the id of an app")
    user, reply_to = said.text("user", "ou_alice"), said.text("reply_to", "")
    message_id = sim.people.say(
        said.text("chat_id", sim.group), said.text("text"), user=user, mention=mention, reply_to=reply_to
    )
    return {"message_id": message_id}


def _file(sim: FeishuSim, said: Said) -> Json:
    data = said.data("data")
    image = said.any("image", False) is True
    user, media_type = said.text("user", "ou_alice"), said.text("media_type", "")
    chat_id, name = said.text("chat_id", sim.group), said.text("name")
    message_id = sim.people.send_file(chat_id, name, data, user=user, media_type=media_type, image=image)
    return {"message_id": message_id}


def _click(sim: FeishuSim, said: Said) -> Json:
    form, user = said.any("form_value"), said.text("user", "ou_alice")
    delivery = sim.people.click(said.text("message_id"), said.text("button", ""), user=user, form_value=form)
    return {"event_id": delivery.event_id, "state": delivery.state}


def _recall(sim: FeishuSim, said: Said) -> Json:
    sim.people.recall(said.text("message_id"))
    return {}


def _react(sim: FeishuSim, said: Said) -> Json:
    sim.people.react(said.text("message_id"), said.text("emoji"), user=said.text("user", "ou_alice"))
    return {}


def _chat(sim: FeishuSim, said: Said) -> Json:
    kind = said.text("kind", "group")
    if kind not in ("p2p", "group", "topic"):
        raise NotUnderstood("kind: must be p2p, group or topic")
    members, bots = said.list("members") or ["ou_alice"], said.list("bots") or [sim.app_id]
    if unknown := [each for each in bots if each not in sim.tenant.apps]:
        raise NotUnderstood(f"bots: there is no app {unknown[0]!r}")
    chat_id = said.text("chat_id", "") or sim.tenant.make_id("oc_")
    sim.add_chat(chat_id, kind, said.text("name", ""), members=members, bots=bots)  # type: ignore[arg-type]
    return {"chat_id": chat_id}


def _app(sim: FeishuSim, said: Said) -> Json:
    sim.add_app(said.text("app_id"), said.text("secret"), said.text("name", ""))
    return {}


def _switches(sim: FeishuSim, said: Said) -> Json:
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


def _faults(sim: FeishuSim, said: Said) -> Json:
    return add_faults(sim.faults, said, '{"op": "content", "kind": "refuse", "code": 300309}')


def _advance(sim: FeishuSim, said: Said) -> Json:
    now = advance(sim.clock, said)
    sim.events.wake()
    return now


def _break(sim: FeishuSim, _: Said) -> Json:
    count = len(sim.sockets.sockets)
    sim.sockets.reset_all()
    return {"reset": count}


def _clear(sim: FeishuSim, _: Said) -> Json:
    sim.clear()
    return {}


async def _webhook(sim: FeishuSim, said: Said) -> Json:
    app = sim.tenant.apps.get(said.text("app_id", sim.app_id))
    if app is None:
        raise NotUnderstood("app_id: there is no such app")
    app.verification_token = said.text("verification_token", app.verification_token)
    app.encrypt_key = said.text("encrypt_key", app.encrypt_key)
    return {"verified": await sim.webhooks.connect(app.app_id, said.text("url"))}


def _shown(sim: FeishuSim, request: Request, what: str) -> Answer:
    match what:
        case "":
            return Answer(200, page("Feishu"), media_type=HTML, headers=GUARD)
        case "page.json":
            return as_json(page_json(sim.tenant, request.query.get("chat", "")))
        case "view.json":
            return as_json({"chats": [sim.view(each).as_json() for each in sim.tenant.chats]})
        case "calls":
            return as_json({"calls": [asdict(each) for each in sim.calls], "connections": sim.connections})
        case "events":
            return as_json({"events": [_event(each) for each in sim.events.deliveries]})
        case "faults":
            from .feishu import KINDS

            return as_json({"kinds": KINDS, "ops": OPS, "pending": [asdict(each) for each in sim.faults.pending]})
    upload = sim.tenant.uploads.get(what.removeprefix("files/")) if what.startswith("files/") else None
    if upload is None:
        return problem(404, "GET /_sim/, view.json, calls, events, faults or files/KEY")
    kind = upload.media_type if upload.kind == "image" else "application/octet-stream"
    return Answer(200, upload.data, media_type=kind, headers=GUARD)


def _event(delivery: Any) -> Json:
    shown = ("event_id", "app_id", "event_type", "state", "attempts", "answer", "body")
    return {name: getattr(delivery, name) for name in shown}


_POSTS: dict[str, Callable[[FeishuSim, Said], Json | Awaitable[Json]]] = {
    "say": _say, "file": _file, "click": _click, "recall": _recall, "react": _react, "chat": _chat, "app": _app,
    "switches": _switches, "faults": _faults, "advance": _advance, "reset_sockets": _break, "clear": _clear,
    "webhook": _webhook,
}  # fmt: skip
CONTROL = Commands(_POSTS, _shown)
