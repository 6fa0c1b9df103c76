"""Webhook mode: the platform asks a bot's address, and asks again and again while an answer is written.

Guarantee: everything is sealed and signed as the documents say, and an answer that is not is not shown but noted in
`problems`. Sources: the platform's pages about receiving messages, passive replies and encryption.
"""

from __future__ import annotations

from urllib.parse import urlencode

import httpx2

from turnwire.clock import sleep

from . import _wecom_say as say
from ._json import Json, compact, read_object
from ._outgoing import Outgoing
from ._wecom_bodies import content
from ._wecom_codes import Refused
from ._wecom_crypto import BadCipher, key_of, seal, signature, unseal
from ._wecom_observer import Observer
from ._wecom_state import Callback, File, Platform, Stream, Webhook
from ._wecom_ws import again
from .faults import Faults

VERIFY_S, ANSWER_S = 1.0, 5.0
KINDS = ("stream", "template_card", "stream_with_template_card")


class Webhooks(Outgoing):
    """Talks with the addresses of bots.

    Args:
        platform: whose bots.
        faults: drawn for each request, as the operations `post` and `poll`.
        observer: notes the requests.
    """

    def __init__(self, platform: Platform, faults: Faults, observer: Observer) -> None:
        super().__init__(platform.clock)
        self.problems: list[str] = []
        self._platform = platform
        self._faults = faults
        self._observer = observer

    async def connect(self, bot_id: str, url: str, token: str, aes_key: str) -> bool:
        """Puts a bot into webhook mode once its address has answered the challenge; whether it has.

        Raises `ValueError` for a bot that there is not, or a key that is none.
        """
        bot = self._platform.bot(bot_id)
        key_of(aes_key)
        where, echo = Webhook(url, token, aes_key), self._platform.make_id("")
        sealed = seal(aes_key, echo)
        answer = await self._request("GET", where, sealed, VERIFY_S, {"echostr": sealed})
        if answer is None or answer.status_code != 200 or answer.content != echo.encode():
            return False
        bot.webhook = where
        return True

    def deliver(self, callback: Callback) -> None:
        """Tells a bot, and goes on asking while its answer is a stream."""
        fault = self._faults.draw("post", callback.bot_id, callback.chat, callback.user, callback.kind)
        kind = fault.kind if fault else ""
        if kind == "lose":
            return
        self._spawn(self._converse(callback, fault.seconds if fault and kind == "delay" else 0.0))
        if kind == "duplicate":
            self._spawn(self._converse(again(self._platform, callback), 0.0))

    async def _converse(self, callback: Callback, delay: float) -> None:
        if delay:
            await sleep(self._platform.clock, delay)
        self._take(callback, await self._post(callback, "post", callback.body), "")
        for stream in list(callback.streams.values()):
            await self._poll(callback, stream)

    async def _poll(self, callback: Callback, stream: Stream) -> None:
        """Asks for the newest text of a stream until it is finished or too late."""
        told = callback.body
        shared: Json = {name: told[name] for name in ("aibotid", "chatid", "chattype", "from") if name in told}
        while self._platform.live(stream):
            await sleep(self._platform.clock, self._platform.switches.poll_interval)
            if not self._platform.live(stream):
                return
            body = {"msgid": self._platform.make_id("id_"), **shared, "msgtype": "stream"}
            fault = self._faults.draw("poll", callback.bot_id, callback.chat, callback.user)
            if fault is None or fault.kind != "lose":
                said = await self._post(callback, "poll", {**body, "stream": {"id": stream.stream_id}})
                self._take(callback, said, stream.stream_id)

    # Answers

    def _take(self, callback: Callback, said: Json | None, stream_id: str) -> None:
        """Shows an answer; `stream_id` is what was asked for."""
        if not said:
            return
        bot = self._platform.bots[callback.bot_id]
        try:
            if callback.kind == "enter_chat":
                say.welcome(self._platform, bot, callback.req_id, said)
            elif callback.kind == "template_card_event":
                say.update_card(self._platform, bot, callback.req_id, said)
            elif callback.kind == "message":
                self._reply(callback, said, stream_id)
        except Refused as refused:
            self.problems.append(str(refused))

    def _reply(self, callback: Callback, said: Json, stream_id: str) -> None:
        told = content(said, KINDS)
        if stream_id and told.stream_id != stream_id:
            self.problems.append(f"asked for the stream {stream_id}, the answer is about {told.stream_id!r}")
            return
        say.reply(self._platform, callback, told, until=callback.created + self._platform.switches.webhook_life)
        stream = callback.streams.get(told.stream_id)
        message = next((each for each in self._platform.messages.values() if stream and each.stream is stream), None)
        for data in told.images if message else []:
            file = File(self._platform.make_id("sent_"), "image", "image.png", data, "", self._platform.now())
            self._platform.files[file.file_id] = file
            if message is not None:
                message.files.append(file)

    # Requests

    async def _post(self, callback: Callback, op: str, body: Json) -> Json | None:
        """The answer, an empty one for none, None for one that is not taken."""
        where = self._platform.bots[callback.bot_id].webhook
        if where is None:
            return None
        call = self._observer.begin(op, self._platform.now(), 0, callback.req_id, body)
        sealed, nonce = seal(where.aes_key, compact(body)), self._platform.make_id("")
        answer = await self._request("POST", where, sealed, ANSWER_S, {}, nonce)
        said: Json | None = None
        try:
            said = _opened(where, nonce, answer)
            callback.delivered = True
        except BadCipher as error:
            self.problems.append(f"{op}: {error}")
        self._observer.end(call, self._platform.now(), None if said is None else 0)
        return said

    async def _request(
        self, method: str, where: Webhook, sealed: str, seconds: float, more: dict[str, str], nonce: str = ""
    ) -> httpx2.Response | None:
        """The answer to a signed request, None for none in time."""
        timestamp, nonce = str(int(self._platform.now())), nonce or self._platform.make_id("")
        query = {"msg_signature": signature(where.token, timestamp, nonce, sealed), "timestamp": timestamp}
        url = f"{where.url}{'&' if '?' in where.url else '?'}{urlencode({**query, 'nonce': nonce, **more})}"
        body = compact({"encrypt": sealed}).encode() if method == "POST" else b""
        headers = {"content-type": "application/json"} if body else {}
        return await self._ask(method, url, body, headers, seconds)


def _opened(where: Webhook, nonce: str, answer: httpx2.Response | None) -> Json:
    """What an answer says. Raises `BadCipher` for one that is not taken."""
    if answer is None:
        raise BadCipher("no answer in time")
    if answer.status_code != 200:
        raise BadCipher(f"the answer has status {answer.status_code}")
    if not answer.content.strip():
        return {}
    said = read_object(answer.content)
    sealed, stamp = said.get("encrypt"), said.get("timestamp")
    if not isinstance(sealed, str) or not isinstance(stamp, int):
        raise BadCipher("an answer has encrypt, msgsignature, a timestamp that is a number, and nonce")
    if said.get("nonce") != nonce:
        raise BadCipher("the nonce is not that of the request")
    if said.get("msgsignature") != signature(where.token, str(stamp), nonce, sealed):
        raise BadCipher("the signature is wrong")
    return read_object(unseal(where.aes_key, sealed))
