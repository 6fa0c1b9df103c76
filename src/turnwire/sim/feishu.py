"""A simulated Feishu tenant: its API, its limits, its bad days, and what people see in its chats.

Guarantee: it keeps the state that the platform keeps and refuses what the platform refuses, with the platform's codes;
`view` shows what a person would see, whatever a client was told:

    async with FeishuSim(clock=clock) as sim:
        ...  # a client with sim.base_url, sim.app_id and sim.app_secret
        sim.people.say(sim.group, "What is new?")
        sim.faults.add(Fault("content", "timeout_after_applying", nth=3))
        assert [message.text for message in sim.view(sim.group).from_bots] == ["Nothing."]

What the documents leave open is decided by `Switches`; what goes wrong by faults, whose kinds `KINDS` lists.
"""

from __future__ import annotations

import asyncio

from turnwire.clock import Clock, SystemClock, sleep

from . import _feishu_events as events
from ._feishu_control import CONTROL
from ._feishu_events import EventQueue
from ._feishu_faults import BEFORE, GATEWAY_PAGE, STATE, change_state, refused
from ._feishu_faults import KINDS as CALL_KINDS
from ._feishu_observer import ApiCall, Observer
from ._feishu_people import People
from ._feishu_rates import Rates
from ._feishu_rest import OPS, TOKEN_PATH, Api, Route, route_of
from ._feishu_state import Card, Change, Chat, ChatKind, Message, Switches, Tenant
from ._feishu_view import Block, CardView, ChatView, MessageView, message_view, view
from ._feishu_webhook import Webhooks
from ._feishu_ws import ENDPOINT_PATH, LongConnections
from ._feishu_ws import KINDS as SOCKET_KINDS
from ._http import Request
from ._json import Json, compact, read_object
from ._platform import SimulatedPlatform
from ._serving import Answer, Hang, Reset, Serving
from .faults import Fault, Faults, UnknownFault

__all__ = [
    "KINDS", "OPS", "ApiCall", "Block", "CardView", "Change", "ChatView", "Fault", "FeishuSim", "MessageView",
    "Switches", "UnknownFault",
]  # fmt: skip

KINDS = {**CALL_KINDS, **events.KINDS, **SOCKET_KINDS}
APP_ID, APP_SECRET = "cli_sim", "sim-secret"
GROUP = "oc_group"
_UNROUTED = {("POST", TOKEN_PATH): "token", ("POST", ENDPOINT_PATH): "endpoint"}


class FeishuSim(SimulatedPlatform[ApiCall]):
    """The simulator; use it as an async context manager, or `start` and `stop` it.

    It begins with one app (`app_id`, `app_secret`), one person (`ou_alice`) and one group with both (`group`).

    Args:
        host, port: where it listens; port 0 lets the system choose.
        clock: all time: limits, lifetimes, redelivery.
        switches: what the documents leave open.
        seed: decides faults with a probability and which connection gets an event.
        app_id, app_secret: of the app that it begins with.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        clock: Clock | None = None,
        switches: Switches | None = None,
        seed: int = 0,
        app_id: str = APP_ID,
        app_secret: str = APP_SECRET,
    ) -> None:
        self.clock: Clock = clock or SystemClock()
        self.app_id, self.app_secret, self.group = app_id, app_secret, GROUP
        self.tenant = Tenant(self.clock, switches or Switches())
        self.faults = Faults(KINDS, seed=seed)
        self.events = EventQueue(self.clock, self.faults, seed=seed)
        self.people = People(self.tenant, self.events)
        self.observer = Observer()
        self.sockets = LongConnections(self.tenant, self.events, self.faults)
        self.webhooks = Webhooks(self.tenant, self.events)
        self._rates = Rates()
        self._api = Api(self.tenant, self._rates)
        serving = Serving(host, port, self._respond, self.sockets.serve)
        super().__init__(serving, self.observer, self.faults)
        self.add_app(app_id, app_secret, "Sim bot")
        self.tenant.user("ou_alice", "Alice")
        self.add_chat(GROUP, "group", "Sim group", members=["ou_alice"], bots=[app_id])

    # Lifecycle

    async def start(self) -> None:
        """Accepts connections from when it returns. Raises `OSError` when the address is taken."""
        await super().start()
        self.events.open()

    async def stop(self) -> None:
        """Refuses connections from when it is called, and breaks those that are open. `start` begins again, at the
        same address, with the same state."""
        self.events.close()
        await self.webhooks.close()
        await self._serving.stop()

    # What there is

    @property
    def switches(self) -> Switches:
        """What the documents leave open; may be changed at any time."""
        return self.tenant.switches

    def add_app(self, app_id: str, secret: str, name: str = "") -> None:
        """One more app with a bot, which is in no group yet."""
        self.tenant.add_app(app_id, secret, name or app_id)

    def add_chat(
        self, chat_id: str, kind: ChatKind = "group", name: str = "", *, members: list[str], bots: list[str]
    ) -> Chat:
        """One more chat. Raises `ValueError` when the id is taken."""
        return self.tenant.add_chat(chat_id, kind, name or chat_id, members, bots)

    def p2p(self, user: str = "ou_alice", app_id: str = "") -> str:
        """The id of a person's own chat with a bot."""
        return self.tenant.p2p(app_id or self.app_id, user).chat_id

    # What is seen

    def view(self, chat_id: str) -> ChatView:
        """What everybody in that chat sees now. Raises `KeyError`."""
        return view(self.tenant, self.tenant.chats[chat_id])

    def message(self, message_id: str) -> MessageView:
        """One message as it is seen now. Raises `KeyError`."""
        return message_view(self.tenant, self.tenant.messages[message_id])

    def changes(self, message_or_card: str) -> list[Change]:
        """What was seen in a card over time, by its id or its message's. Raises `KeyError`."""
        found = self.tenant.messages.get(message_or_card)
        return list(self.tenant.cards[found.card_id if found else message_or_card].changes)

    # What was called

    @property
    def hopeless(self) -> list[ApiCall]:
        """The calls that an earlier answer had made pointless."""
        return [call for call in self.observer.calls if call.after_terminal]

    def clear(self) -> None:
        """Forgets faults, calls and rates; chats and cards stay."""
        super().clear()
        self._rates.clear()

    # Requests

    async def _respond(self, request: Request, raw: bytes, connection: int) -> Answer:
        if request.path.startswith("/_sim"):
            return await CONTROL.answer(self, request, raw)
        found = route_of(request.method, request.path)
        unrouted = _UNROUTED.get((request.method, request.path), "")
        if found is None and not unrouted:
            return Answer(404, b"404 page not found", media_type="text/plain")
        op, params = (found[0].op, found[1]) if found else (unrouted, {})
        body = _peek(request, raw)
        said = {} if unrouted else body
        call = self.observer.begin(op, self.clock.now(), connection, self._target(params, request, body), said)
        self._api.log_id = f"log-{call.number}"
        fault = self.faults.draw(op, *self._targets(call.target, params))
        call.fault = fault.kind if fault else ""
        try:
            answer = await self._treated(call, fault, found, request, raw)
        except (Hang, Reset, asyncio.CancelledError):
            self.observer.end(call, self.clock.now())
            raise
        self.observer.end(call, self.clock.now(), answer.status, answer.code)
        answer.headers["X-Tt-Logid"] = f"log-{call.number}"
        return answer

    async def _treated(
        self,
        call: ApiCall,
        fault: Fault | None,
        found: tuple[Route, dict[str, str]] | None,
        request: Request,
        raw: bytes,
    ) -> Answer:
        if half := self.switches.latency / 2:
            await sleep(self.clock, half)
        answer = await self._faulty(call, fault, found, request, raw)
        if half:
            await sleep(self.clock, half)
        return answer

    async def _faulty(
        self,
        call: ApiCall,
        fault: Fault | None,
        found: tuple[Route, dict[str, str]] | None,
        request: Request,
        raw: bytes,
    ) -> Answer:
        if fault is None:
            return self._applied(call, found, request, raw)
        kind = fault.kind
        if kind == "refuse" and call.op == "endpoint":
            return self._endpoint(raw, fault.code or 1)
        if kind in BEFORE:
            return self._instead(fault)
        if kind in STATE:
            change_state(self.tenant, fault, *self._meant(call.target))
        if kind == "slow":
            await sleep(self.clock, fault.seconds)
        lag = self.switches.replica_lag
        if kind == "lag":
            self.switches.replica_lag = fault.seconds
        answer = self._applied(call, found, request, raw)
        self.switches.replica_lag = lag
        if kind == "slow_answer":
            await sleep(self.clock, fault.seconds)
        return self._after(fault, answer)

    def _applied(
        self, call: ApiCall, found: tuple[Route, dict[str, str]] | None, request: Request, raw: bytes
    ) -> Answer:
        if found is None:
            return self._api.token(raw) if call.op == "token" else self._endpoint(raw)
        self._api.log_id = f"log-{call.number}"
        answer = self._api.call(*found, request.query, request.headers, raw)
        call.applied = answer.code == 0
        card = self.tenant.cards.get(call.target)
        if card is not None and card.streaming:
            self.observer.opened(card.card_id)
        return answer

    def _endpoint(self, raw: bytes, code: int = 0) -> Answer:
        """Where to open a long connection, or one of the endpoint's refusals: they all come with status 200."""
        said = self.sockets.endpoint(self.base_url, read_object(raw))
        if code:
            said = {"code": code, "msg": "refused by a fault", "data": None}
        return Answer(200, compact(said).encode(), said["code"])

    def _instead(self, fault: Fault) -> Answer:
        """The answer of a call that is not applied."""
        match fault.kind:
            case "timeout_before_applying":
                raise Hang
            case "reset_before_applying":
                raise Reset
            case "bad_gateway":
                return Answer(502, GATEWAY_PAGE, -1, media_type="text/html")
            case "drop":
                return self._api.say({"data": {}})
        return self._api.refuse(refused(fault))

    def _after(self, fault: Fault, answer: Answer) -> Answer:
        """What the client learns of a call that was applied."""
        match fault.kind:
            case "timeout_after_applying":
                raise Hang
            case "reset_after_applying":
                raise Reset
            case "bad_gateway_after_applying":
                return Answer(502, GATEWAY_PAGE, -1, media_type="text/html")
            case "refuse_after_applying":
                return self._api.refuse(refused(fault))
        return answer

    def _target(self, params: dict[str, str], request: Request, body: Json) -> str:
        named = params.get("card_id") or params.get("message_id") or params.get("chat_id")
        return named or str(body.get("receive_id") or request.query.get("container_id") or "")

    def _meant(self, target: str) -> tuple[Message | None, Card | None]:
        """The message and the card that a call is about."""
        message, card = self.tenant.messages.get(target), self.tenant.cards.get(target)
        if message is None and card is not None:
            message = self.tenant.messages.get(card.message_id)
        elif message is not None and card is None:
            card = self.tenant.card_of(message)
        return message, card

    def _targets(self, target: str, params: dict[str, str]) -> set[str]:
        message, card = self._meant(target)
        found = {target, *params.values()}
        if message is not None:
            found |= {message.message_id, message.chat_id}
        return found | ({card.card_id} if card else set())


def _peek(request: Request, raw: bytes) -> Json:
    """The JSON of a body as far as there is one, for the record."""
    return read_object(raw) if "json" in request.headers.get("content-type", "json") else {}
