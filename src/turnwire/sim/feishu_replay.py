"""Traces played again on a simulated tenant: what people saw, without the gateway that wrote them.

Guarantee: the tenant does what the trace's calls ask for as if they came over the network, and refuses what it refuses.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import httpx2

from turnwire.delivery.traces import Entry
from turnwire.delivery.traces import replay as play

from ._http import Request
from .feishu import FeishuSim


async def replay(trace: Sequence[Entry], sim: FeishuSim, pass_time: Callable[[float], Awaitable[None]]) -> None:
    """Plays a trace on a fresh tenant; `pass_time` moves the tenant's clock by so many seconds.

    Groups of the trace become the tenant's group, everything else the chat of its person with its bot.
    """
    await play(trace, _Tenant(sim, pass_time))


class _Tenant:
    """The tenant as a place where traces are played."""

    def __init__(self, sim: FeishuSim, pass_time: Callable[[float], Awaitable[None]]) -> None:
        self._sim = sim
        self._pass_time = pass_time

    async def pass_time(self, seconds: float) -> None:
        await self._pass_time(seconds)

    async def event(self, kind: str, data: Mapping[str, Any]) -> Mapping[str, Any]:
        event = data.get("event", {})
        if kind == "im.message.recalled_v1":
            self._sim.people.recall(event["message_id"])
        if kind != "im.message.receive_v1":
            return {}
        said = event["message"]
        chat = self._sim.p2p() if said["chat_type"] == "p2p" else self._sim.group
        known = said.get("parent_id", "") in self._sim.tenant.messages
        parent = said["parent_id"] if known else ""
        content = json.loads(said["content"])
        if said["message_type"] == "text":
            text = str(content["text"]).replace("@_user_1", "").strip()
            own = self._sim.people.say(chat, text, reply_to=parent)
        else:
            own = self._sim.people.send(chat, said["message_type"], content, reply_to=parent)
        return {"event": {"message": {"message_id": own, "chat_id": chat}}}

    async def call(self, call: Mapping[str, Any]) -> Mapping[str, Any]:
        request = self._request(call)
        asked = Request(
            method=request.method,
            target=request.url.raw_path.decode(),
            path=request.url.path,
            query=dict(request.url.params),
            headers={name.lower(): value for name, value in request.headers.items()},
        )
        answer = await self._sim._respond(asked, request.read(), 1)
        try:
            said = json.loads(answer.body)
        except ValueError:
            return {}
        data = said.get("data")
        return data if isinstance(data, dict) and data else said

    def _request(self, call: Mapping[str, Any]) -> httpx2.Request:
        token, _ = self._sim.tenant.token(self._sim.tenant.apps[self._sim.app_id])
        content: dict[str, Any] = {}
        headers = {"authorization": f"Bearer {token}"}
        if "files" in call:
            files = {field: (one["name"], _content(one), one["mediaType"]) for field, one in call["files"].items()}
            content = {"data": call.get("form", {}), "files": files}
        elif "body" in call:
            content = {"content": json.dumps(call["body"], ensure_ascii=False).encode()}
            headers["content-type"] = "application/json; charset=utf-8"
        url = f"http://tenant/open-apis{call['path']}"
        return httpx2.Request(call["method"], url, params=call.get("params"), headers=headers, **content)


def _content(file: Mapping[str, Any]) -> bytes:
    """The file, or as many zeros for one whose content the trace does not hold."""
    if "content" in file:
        return base64.b64decode(file["content"])
    return bytes(int(file["size"]))
