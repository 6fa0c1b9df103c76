"""The WeCom simulator's own routes.

Guarantee: a body that is not understood changes nothing and is answered 400 with what it should have been.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from ._control import GUARD, HTML, Commands, NotUnderstood, Said, add_faults, advance, as_json, problem
from ._http import Request
from ._json import Json
from ._page import page
from ._serving import Answer
from ._wecom_observer import ALL_OPS
from ._wecom_page import STYLE, page_json
from ._wecom_people import Part
from ._wecom_state import Callback, MediaKind, Switches
from ._wecom_uploads import fits

if TYPE_CHECKING:
    from .wecom import WecomSim


def _told(callback: Callback | None) -> Json:
    if callback is None:
        return {"msgid": "", "req_id": ""}
    return {"msgid": callback.body["msgid"], "req_id": callback.req_id}


def _say(sim: WecomSim, said: Said) -> Json:
    mention = said.any("mention", True)
    if not isinstance(mention, bool | str):
        raise NotUnderstood("mention: must be true, false or the id of a bot")
    chat, text, user = said.text("chat_id", "alice"), said.text("text"), said.text("user", "alice")
    return _told(sim.people.say(chat, text, user=user, mention=mention, quote=said.text("quote", "")))


def _file(sim: WecomSim, said: Said) -> Json:
    kind = next((each for each in get_args(MediaKind) if each == said.text("kind", "file")), None)
    if kind is None:
        raise NotUnderstood("kind: must be file, image or video")
    chat, user = said.text("chat_id", "alice"), said.text("user", "alice")
    return _told(sim.people.send_file(chat, said.text("name"), said.data("data"), user=user, kind=kind))


def _mixed(sim: WecomSim, said: Said) -> Json:
    parts: list[Part] = [said.text("text"), said.data("data")]
    return _told(sim.people.send_mixed(said.text("chat_id", "alice"), parts, user=said.text("user", "alice")))


def _voice(sim: WecomSim, said: Said) -> Json:
    return _told(sim.people.say_aloud(said.text("chat_id", "alice"), said.text("text")))


def _enter(sim: WecomSim, said: Said) -> Json:
    return _told(sim.people.enter_chat(said.text("chat_id", "alice")))


def _click(sim: WecomSim, said: Said) -> Json:
    message_id, button, user = said.text("message_id"), said.text("button", ""), said.text("user", "alice")
    if button.startswith("feedback:"):
        return _told(sim.people.feedback(message_id, button.removeprefix("feedback:"), user=user))
    return _told(sim.people.click(message_id, button, user=user, selected=said.any("selected")))


def _feedback(sim: WecomSim, said: Said) -> Json:
    judged, words = said.text("judged", "good"), said.text("content", "")
    return _told(sim.people.feedback(said.text("message_id"), judged, words, user=said.text("user", "alice")))


def _group(sim: WecomSim, said: Said) -> Json:
    members, bots = said.list("members") or ["alice"], said.list("bots") or [sim.bot_id]
    if unknown := [each for each in bots if each not in sim.platform.bots]:
        raise NotUnderstood(f"bots: there is no bot {unknown[0]!r}")
    chat_id = said.text("chat_id", "") or sim.platform.make_id("wr_")
    return {"chat_id": sim.add_group(chat_id, said.text("name", ""), members=members, bots=bots).key}


def _person(sim: WecomSim, said: Said) -> Json:
    sim.platform.user(said.text("user"), said.text("name", ""))
    return {"chat_id": sim.single(said.text("user"), said.text("bot_id", ""))}


def _bot(sim: WecomSim, said: Said) -> Json:
    sim.add_bot(said.text("bot_id"), said.text("secret"), said.text("name", ""))
    return {}


def _switches(sim: WecomSim, said: Said) -> Json:
    body, hints = said.any("switches", {}), get_type_hints(Switches)
    if not isinstance(body, dict) or (unknown := body.keys() - hints.keys()):
        raise NotUnderstood(f"switches: an object of {', '.join(sorted(hints))}; not {sorted(unknown)}")
    for name, value in body.items():
        if not _is(value, hints[name]):
            raise NotUnderstood(f"switches: {name} is like {getattr(sim.switches, name)!r}")
    for name, value in body.items():
        setattr(sim.switches, name, value)
    return asdict(sim.switches)


def _is(value: Any, hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if hint is float:
        return isinstance(value, float | int) and not isinstance(value, bool)
    return type(value) is hint


def _faults(sim: WecomSim, said: Said) -> Json:
    return add_faults(sim.faults, said, '{"op": "finish", "kind": "ack_lost"}')


def _advance(sim: WecomSim, said: Said) -> Json:
    return advance(sim.clock, said)


def _break(sim: WecomSim, said: Said) -> Json:
    return {"connections": sim.sockets.break_all(said.text("how", "reset"), said.text("bot_id", ""))}


def _clear(sim: WecomSim, _: Said) -> Json:
    sim.clear()
    return {}


async def _webhook(sim: WecomSim, said: Said) -> Json:
    token, key, bot_id = said.text("token"), said.text("encoding_aes_key"), said.text("bot_id", "")
    return {"verified": await sim.use_webhook(said.text("url"), token, key, bot_id=bot_id)}


def _shown(sim: WecomSim, request: Request, what: str) -> Answer:
    match what:
        case "":
            return Answer(200, page("WeCom", STYLE), media_type=HTML, headers=GUARD)
        case "page.json":
            return as_json(page_json(sim.platform, request.query.get("chat", "")))
        case "view.json":
            return as_json({"chats": [sim.view(each).as_json() for each in sim.platform.chats]})
        case "calls":
            return as_json({"calls": [asdict(each) for each in sim.calls], "connections": sim.connections})
        case "callbacks":
            told = [asdict(each) for each in sim.platform.callbacks.values()]
            return as_json({"callbacks": told, "problems": sim.webhooks.problems})
        case "faults":
            from .wecom import KINDS

            return as_json({"kinds": KINDS, "ops": ALL_OPS, "pending": [asdict(each) for each in sim.faults.pending]})
    file = sim.platform.files.get(what.removeprefix("files/")) if what.startswith("files/") else None
    if file is None:
        return problem(404, "GET /_sim/, view.json, calls, callbacks, faults or files/ID")
    kind = "image/png" if file.kind == "image" and fits("image", file.data) else "application/octet-stream"
    return Answer(200, file.data, media_type=kind, headers=GUARD)


_POSTS: dict[str, Callable[[WecomSim, Said], Json | Awaitable[Json]]] = {
    "say": _say, "file": _file, "mixed": _mixed, "voice": _voice, "enter": _enter, "click": _click,
    "feedback": _feedback, "group": _group, "person": _person, "bot": _bot, "switches": _switches, "faults": _faults,
    "advance": _advance, "break": _break, "clear": _clear, "webhook": _webhook,
}  # fmt: skip
CONTROL = Commands(_POSTS, _shown)
