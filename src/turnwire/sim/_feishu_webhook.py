"""Webhooks: events as requests to an app's address, encrypted and signed as the platform does it.

Guarantee: an event counts as taken only by an answer 200 within three seconds. Sources: the platform's pages about
event subscription; the key is the SHA-256 of the encrypt key, the cipher AES-256-CBC with its nonce in front.
"""

from __future__ import annotations

import base64
import hashlib
import os

import httpx2
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7

from ._feishu_events import ACK_S, Delivery, EventQueue
from ._feishu_state import App, Tenant
from ._json import Json, compact, read_object
from ._outgoing import Outgoing


def encrypt(key: str, text: str, iv: bytes | None = None) -> str:
    """The text as in the field `encrypt`."""
    nonce = iv or os.urandom(16)
    padder = PKCS7(128).padder()
    padded = padder.update(text.encode()) + padder.finalize()
    worker = Cipher(algorithms.AES(hashlib.sha256(key.encode()).digest()), modes.CBC(nonce)).encryptor()
    return base64.b64encode(nonce + worker.update(padded) + worker.finalize()).decode()


def signature(timestamp: str, nonce: str, key: str, body: bytes) -> str:
    """The header `X-Lark-Signature`."""
    return hashlib.sha256(f"{timestamp}{nonce}{key}".encode() + body).hexdigest()


class Webhooks(Outgoing):
    """Sends events to the addresses of apps.

    Args:
        tenant: whose apps.
        events: what is sent.
    """

    def __init__(self, tenant: Tenant, events: EventQueue) -> None:
        super().__init__(tenant.clock)
        self._tenant = tenant
        self._events = events
        self._attached: set[str] = set()

    async def connect(self, app_id: str, url: str) -> bool:
        """Sends the app's events to `url` once it has answered the challenge; whether it has."""
        app = self._tenant.apps[app_id]
        challenge = self._tenant.make_id("challenge-")
        said = {"challenge": challenge, "token": app.verification_token, "type": "url_verification"}
        answer = await self._post(app, url, said)
        if answer is None or answer.status_code != 200 or read_object(answer.content).get("challenge") != challenge:
            return False
        app.webhook = url
        if app_id not in self._attached:
            self._attached.add(app_id)
            self._events.attach(app_id, self._send)
        return True

    def _send(self, delivery: Delivery) -> None:
        self._spawn(self._deliver(delivery))

    async def _deliver(self, delivery: Delivery) -> None:
        app = self._tenant.apps[delivery.app_id]
        answer = await self._post(app, app.webhook, delivery.body)
        if answer is not None:
            self._events.ack(delivery, ok=answer.status_code == 200, answer=read_object(answer.content))

    async def _post(self, app: App, url: str, said: Json) -> httpx2.Response | None:
        """The answer to a request, None for none in time."""
        body = compact(said).encode("utf-8", "replace")
        headers = {"content-type": "application/json; charset=utf-8"}
        if app.encrypt_key:
            body = compact({"encrypt": encrypt(app.encrypt_key, body.decode())}).encode()
            timestamp, nonce = str(int(self._tenant.now())), self._tenant.make_id("")
            headers |= {"x-lark-request-timestamp": timestamp, "x-lark-request-nonce": nonce}
            headers["x-lark-signature"] = signature(timestamp, nonce, app.encrypt_key, body)
        return await self._ask("POST", url, body, headers, ACK_S)
