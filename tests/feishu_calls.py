"""A plain client of the simulated Feishu tenant: the platform's API without retries or rules of its own."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import httpx2

from turnwire.sim.feishu import FeishuSim, Switches
from turnwire.testing import FakeClock

Json = dict[str, Any]


class Got(NamedTuple):
    """An answer."""

    status: int
    code: int
    msg: str
    data: Json
    headers: httpx2.Headers


class Calls:
    """One app's calls."""

    def __init__(self, sim: FeishuSim, clock: FakeClock, http: httpx2.AsyncClient) -> None:
        self.sim = sim
        self.clock = clock
        self.http = http
        self.sequence = 0

    async def login(self, app_id: str = "", secret: str = "") -> str:
        """A token, used from now on."""
        credentials = {"app_id": app_id or self.sim.app_id, "app_secret": secret or self.sim.app_secret}
        answer = await self.http.post("/open-apis/auth/v3/tenant_access_token/internal", json=credentials)
        token = str(answer.json()["tenant_access_token"])
        self.http.headers["authorization"] = f"Bearer {token}"
        return token

    async def __call__(self, method: str, path: str, body: Json | None = None, **more: Any) -> Got:
        answer = await self.http.request(method, f"/open-apis{path}", json=body, **more)
        said = answer.json()
        return Got(answer.status_code, said["code"], said["msg"], said.get("data") or {}, answer.headers)

    async def create(self, value: Any) -> Got:
        """A card entity."""
        data = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        return await self("POST", "/cardkit/v1/cards", {"type": "card_json", "data": data})

    async def send(self, msg_type: str, content: Any, *, chat_id: str = "", **more: Any) -> Got:
        """A message."""
        said = {"receive_id": chat_id or self.sim.group, "msg_type": msg_type, "content": json.dumps(content), **more}
        return await self("POST", "/im/v1/messages?receive_id_type=chat_id", said)

    async def reply(self, message_id: str, text: str = "hi", **more: Any) -> Got:
        """An answer to a message."""
        said = {"msg_type": "text", "content": json.dumps({"text": text}), **more}
        return await self("POST", f"/im/v1/messages/{message_id}/reply", said)

    async def send_card(self, card_id: str, **more: Any) -> Got:
        """A message with a card entity."""
        return await self.send("interactive", {"type": "card", "data": {"card_id": card_id}}, **more)

    async def streaming(self, *elements: Json) -> tuple[str, str]:
        """A card in streaming mode that was sent: its id and its message's."""
        made = await self.create(card(*elements, streaming=True))
        assert made.code == 0, made
        sent = await self.send_card(made.data["card_id"])
        assert sent.code == 0, sent
        return made.data["card_id"], sent.data["message_id"]

    def _numbered(self, body: Json) -> Json:
        self.sequence += 1
        return {"sequence": self.sequence, **body}

    async def content(self, card_id: str, text: str, element: str = "md", **more: Any) -> Got:
        """The new text of a component."""
        said = self._numbered({"content": text, **more})
        return await self("PUT", f"/cardkit/v1/cards/{card_id}/elements/{element}/content", said)

    async def update(self, card_id: str, value: Any, **more: Any) -> Got:
        """A new card in the place of the old one."""
        said = {"card": {"type": "card_json", "data": json.dumps(value, ensure_ascii=False)}, **more}
        return await self("PUT", f"/cardkit/v1/cards/{card_id}", self._numbered(said))

    async def settings(self, card_id: str, config: Json, **more: Any) -> Got:
        """New settings."""
        said = {"settings": json.dumps({"config": config}), **more}
        return await self("PATCH", f"/cardkit/v1/cards/{card_id}/settings", self._numbered(said))

    async def batch(self, card_id: str, *actions: Json, **more: Any) -> Got:
        """Several changes."""
        said = self._numbered({"actions": json.dumps(actions), **more})
        return await self("POST", f"/cardkit/v1/cards/{card_id}/batch_update", said)

    async def upload(self, what: str, data: bytes, name: str = "a.bin", **fields: str) -> Got:
        """An image or a file."""
        path, part = ("/im/v1/images", "image") if what == "image" else ("/im/v1/files", "file")
        said = fields or ({"image_type": "message"} if what == "image" else {"file_type": "stream", "file_name": name})
        answer = await self.http.post(f"/open-apis{path}", data=said, files={part: (name, data)})
        got = answer.json()
        return Got(answer.status_code, got["code"], got["msg"], got.get("data") or {}, answer.headers)


def markdown(text: str, element_id: str = "md") -> Json:
    """A text component."""
    return {"tag": "markdown", "element_id": element_id, "content": text}


def card(*elements: Json, streaming: bool = False, **config: Any) -> Json:
    """A card of the newer structure."""
    said = {"streaming_mode": streaming, "update_multi": True, **config}
    return {"schema": "2.0", "config": said, "body": {"elements": list(elements) or [markdown("...")]}}


@contextlib.asynccontextmanager
async def calling(switches: Switches | None = None, **more: Any) -> AsyncIterator[Calls]:
    """A tenant on a clock that stands still, and an app that has its token."""
    clock = FakeClock()
    async with (
        FeishuSim(clock=clock, switches=switches, **more) as sim,
        httpx2.AsyncClient(base_url=sim.base_url, trust_env=False, verify=False, timeout=10) as http,
    ):
        calls = Calls(sim, clock, http)
        await calls.login()
        yield calls
