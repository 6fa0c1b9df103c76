"""CardKit: card entities, their operations, and the life of the streaming mode.

Guarantee: an operation is applied whole or not at all, in the order of the sequence; what a refused one would have
shown is never seen.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable

from ._feishu_call import Call
from ._feishu_checks import body_elements, check_bounds, check_elements, check_shape, find, images, is_v2, parse, tagged
from ._feishu_codes import BadCard, Refused, invalid
from ._feishu_elements import act, add, delete, merge, patch, replace, settings
from ._feishu_rates import CARD_PER_S, Limit
from ._feishu_state import CARD_LIFE_S, Card, Change, Message, Tenant
from ._feishu_texts import element_text, shown_text
from ._json import Json, compact

MAX_CARD_CHARS = 3_000_000
MAX_TEXT_CHARS = 100_000
MAX_ACTIONS_CHARS = 1_000_000
Changed = Callable[[Card, Json], str]
"""Changes a copy of a card's JSON in place and names the component that it was about, if it was about one."""


# Checks and state that other ways into a card share


def check(tenant: Tenant, card: Json, *, entity: bool) -> None:
    """Whether the tenant takes this card. Raises `BadCard`."""
    check_shape(card, entity=entity)
    check_elements(card)
    said = tenant.switches
    check_bounds(
        card,
        size=said.card_bytes,
        components=said.component_limit,
        tables=said.table_limit,
        tables_in_one=said.tables_in_one,
    )
    for key in images(card):
        if key not in tenant.uploads or tenant.uploads[key].kind != "image":
            raise BadCard(200570, "card contains invalid image keys", value=key)


def streaming_in(card: Json) -> bool:
    """Whether the card's own configuration turns the streaming mode on."""
    config = card.get("config")
    return isinstance(config, dict) and config.get("streaming_mode") is True


def new_card(tenant: Tenant, app_id: str, data: Json, *, entity: bool) -> Card:
    """A card that has passed the checks."""
    now = tenant.now()
    card = Card(tenant.card_number(), app_id, data, now, entity, streaming_in(data), now)
    if entity and tenant.switches.replica_lag:
        card.fresh[""] = now + tenant.switches.replica_lag
    tenant.cards[card.card_id] = card
    record(tenant, card, "create", "", "", 0)
    return card


def open_stream(tenant: Tenant, card: Card) -> None:
    """Turns the streaming mode on; its time begins."""
    if not card.streaming or tenant.switches.reopen_restarts:
        card.opened_at = tenant.now()
    card.streaming, card.timed_out = True, False


def close_stream(card: Card) -> None:
    """Turns the streaming mode off."""
    card.streaming = card.timed_out = False


def record(tenant: Tenant, card: Card, op: str, element_id: str, before: str, sequence: int) -> None:
    """Notes what a reader sees of a card from now on."""
    text = shown_text(card.data)
    how: str = "replaced"
    if op == "content":
        element = find(card.data, element_id) or {}
        how = "typed" if element_text(element).startswith(before) else "flashed"
    card.changes.append(Change(tenant.now(), op, element_id, text, how, sequence))  # type: ignore[arg-type]


def replace_card(tenant: Tenant, card: Card, data: Json, op: str, sequence: int = 0) -> None:
    """Puts a whole new card, which has passed the checks, in the place of the old one."""
    card.data = data
    if streaming_in(data):
        open_stream(tenant, card)
    elif tenant.switches.update_ends_streaming:
        close_stream(card)
    record(tenant, card, op, "", "", sequence)


# Operations


def create(call: Call) -> Json:
    """A new entity."""
    if call.body.get("type") not in ("card_json", "template"):
        raise invalid("type", "must be card_json or template")
    text = call.text("data", MAX_CARD_CHARS, code=300307 if call.body.get("data") == "" else 99992402)
    if call.body["type"] == "template":
        raise Refused(200220, "Failed to generate card content: this simulator has no templates; use card_json")
    try:
        data = parse(text, "data")
        check(call.tenant, data, entity=True)
    except BadCard as error:
        raise error.in_card() from None
    return {"card_id": new_card(call.tenant, call.app.app_id, data, entity=True).card_id}


def content(call: Call) -> Json:
    """The new full text of a text component, typed out if it extends the old one."""
    text = call.text("content", MAX_TEXT_CHARS)
    element_id = call.params["element_id"]
    tenant = call.tenant

    def change(card: Card, data: Json) -> str:
        tenant.expire(card)
        if not card.streaming:
            _not_streaming(call, card)
            return ""
        element = _visible(call, card, data, element_id)
        if element.get("tag") == "div" and isinstance(element.get("text"), dict):
            element = element["text"]
        if element.get("tag") not in ("markdown", "plain_text"):
            raise Refused(300310)
        old = element.get("content", "")
        element["content"] = old + text if tenant.switches.content_semantics == "append" else text
        return element_id

    return _operate(call, change)


def update(call: Call) -> Json:
    """A whole new card in the place of the old one."""
    said = call.body.get("card")
    if not isinstance(said, dict) or said.get("type") != "card_json":
        raise invalid("card", 'must be {"type": "card_json", "data": "JSON"}')
    try:
        data = parse(said.get("data"), "card.data")
        check_shape(data, entity=True)
    except BadCard as error:
        raise error.in_card() from None

    def change(card: Card, old: Json) -> str:
        old.clear()
        old.update(data)
        return ""

    return _operate(call, change)


def configure(call: Call) -> Json:
    """New settings: streaming mode, summary and the rest of `config`, and the card's link."""
    try:
        said = parse(call.text("settings", MAX_TEXT_CHARS), "settings")
    except BadCard as error:
        raise Refused(300122, f"Failed to update card configuration: {error.msg}") from None
    return _operate(call, lambda _, data: settings(data, said))


def batch_update(call: Call) -> Json:
    """Several changes, all or none."""
    try:
        actions = parse(call.text("actions", MAX_ACTIONS_CHARS), "actions")
    except BadCard as error:
        raise Refused(10002, f"actions: {error.msg}") from None
    if not isinstance(actions, list) or not actions:
        raise Refused(10002, "actions: must be a list of {action, params}")

    def change(card: Card, data: Json) -> str:
        for action in actions:
            act(data, action, lambda element_id: _hidden(call, card, element_id))
        return ""

    return _operate(call, change)


def add_elements(call: Call) -> Json:
    """New components, at the end or beside another."""
    said = _parsed(call, "elements", 300315)

    def change(card: Card, data: Json) -> str:
        target = str(call.body.get("target_element_id", ""))
        if target and _hidden(call, card, target):
            raise Refused(300315, f"Failed to add element: not find elementID : {target}")
        add(data, call.body.get("type"), target, said)
        return ""

    return _operate(call, change)


def replace_element(call: Call) -> Json:
    """Another component in the place of one."""
    said = _parsed(call, "element", 300121)
    return _on_element(call, 300121, lambda data, element_id: replace(data, element_id, said))


def patch_element(call: Call) -> Json:
    """New properties of a component, but its tag."""
    said = _parsed(call, "partial_element", 300313)
    return _on_element(call, 300313, lambda data, element_id: patch(data, element_id, said))


def delete_element(call: Call) -> Json:
    """One component less, with all that is in it."""
    return _on_element(call, 300314, lambda data, element_id: delete(data, [element_id]))


def id_convert(call: Call) -> Json:
    """The card inside a message as an entity."""
    message = call.tenant.messages.get(call.text("message_id", 64))
    card = call.tenant.card_of(message) if message else None
    if card is None:
        raise Refused(10002, "message_id: there is no such message with a card")
    if card.app_id != call.app.app_id:
        raise Refused(300311)
    if not is_v2(card.data):
        raise Refused(300303)
    card.entity = True
    return {"card_id": card.card_id}


# What the operations share


def _operate(call: Call, change: Changed) -> Json:
    tenant, body = call.tenant, call.body
    card = _found(call)
    uuid = call.text("uuid", 64, optional=True)
    sequence = call.sequence()
    _limit(call, card)
    if tenant.now() < card.locked_until:
        raise Refused(200810)
    digest = hashlib.sha256(compact([call.op, call.params.get("element_id"), body]).encode("utf-8", "replace"))
    same = digest.hexdigest()
    if uuid in card.uuids:
        if card.uuids[uuid] == same and tenant.switches.uuid_replay == "noop":
            return {}
        raise Refused(200770)
    if sequence <= card.last_seq:
        raise Refused(300317)
    try:
        _apply(call, card, change, sequence)
    except (Refused, BadCard) as error:
        if tenant.switches.seq_consume_on_error:
            card.last_seq = sequence
        raise (error.in_card() if isinstance(error, BadCard) else error) from None
    card.last_seq = sequence
    if uuid:
        card.uuids[uuid] = same
    return {}


def _apply(call: Call, card: Card, change: Changed, sequence: int) -> None:
    tenant = call.tenant
    tenant.expire(card)
    data = copy.deepcopy(card.data)
    element_id = change(card, data)
    if call.op == "content" and not element_id:
        return
    check(tenant, data, entity=True)
    before = element_text(find(card.data, element_id) or {}) if element_id else ""
    _note_fresh(tenant, card, data)
    if call.op == "update":
        replace_card(tenant, card, data, call.op, sequence)
        return
    said = _said_streaming(call)
    card.data = data
    if said is True:
        open_stream(tenant, card)
    elif said is False:
        close_stream(card)
    record(tenant, card, call.op, element_id, before, sequence)


def _said_streaming(call: Call) -> bool | None:
    """What a change of settings says about the streaming mode, None for nothing."""
    if call.op == "settings":
        said = [parse(call.body["settings"])]
    elif call.op == "batch_update":
        actions = parse(call.body["actions"])
        said = [each["params"]["settings"] for each in actions if each["action"] == "partial_update_setting"]
    else:
        return None
    found: bool | None = None
    for each in said:
        mode = merge({}, parse(each) if isinstance(each, str) else each).get("config", {}).get("streaming_mode")
        found = mode if isinstance(mode, bool) else found
    return found


def _found(call: Call) -> Card:
    card = call.tenant.cards.get(call.params["card_id"])
    if card is None or not card.entity or call.now < card.fresh.get("", 0.0):
        raise Refused(200740)
    if card.app_id != call.app.app_id:
        raise Refused(300311)
    if call.now - card.created >= CARD_LIFE_S:
        raise Refused(200750)
    message = call.tenant.messages.get(card.message_id)
    if message is not None and message.gone and call.tenant.switches.recalled_card:
        raise Refused(230110 if message.gone == "deleted" else 230011)
    return card


def _limit(call: Call, card: Card) -> None:
    call.tenant.expire(card)
    if card.streaming and not call.tenant.switches.card_rate_while_streaming:
        return
    call.limit(Limit(f"card:{card.card_id}", CARD_PER_S, 1.0, call.tenant.switches.card_rate_code))


def _not_streaming(call: Call, card: Card) -> None:
    """Refuses a stream of text into a card that is not in streaming mode, unless the tenant drops it silently."""
    if card.timed_out and call.tenant.switches.content_semantics == "drop_after_10min":
        return
    if card.timed_out and not card.told:
        card.told = True
        raise Refused(200850)
    raise Refused(300309)


def _hidden(call: Call, card: Card, element_id: str) -> bool:
    return call.now < card.fresh.get(element_id, 0.0)


def _visible(call: Call, card: Card, data: Json, element_id: str, code: int = 300313) -> Json:
    element = find(data, element_id)
    if element is None or _hidden(call, card, element_id):
        raise Refused(code, f"{Refused(code).msg}: not find elementID : {element_id}")
    return element


def _on_element(call: Call, code: int, change: Callable[[Json, str], None]) -> Json:
    def changed(card: Card, data: Json) -> str:
        _visible(call, card, data, call.params["element_id"], code)
        change(data, call.params["element_id"])
        return ""

    return _operate(call, changed)


def _parsed(call: Call, name: str, code: int) -> object:
    try:
        return parse(call.text(name, MAX_ACTIONS_CHARS), name)
    except BadCard as error:
        raise Refused(code, f"{Refused(code).msg}: {error.msg}") from None


def _note_fresh(tenant: Tenant, card: Card, data: Json) -> None:
    lag = tenant.switches.replica_lag
    if not lag:
        return
    known = set(_ids(card.data))
    card.fresh.update({name: tenant.now() + lag for name in _ids(data) if name not in known})


def _ids(data: Json) -> list[str]:
    return [element["element_id"] for element, _ in tagged(body_elements(data)) if "element_id" in element]


def bind(tenant: Tenant, app_id: str, card_id: str, message: Message) -> Card:
    """Sends an entity: it can be sent once, by its own app. Raises `BadCard`."""
    card = tenant.cards.get(card_id)
    if card is None or not card.entity or tenant.now() < card.fresh.get("", 0.0):
        raise BadCard(200740, "cardid is invalid", value=card_id[:40])
    if card.app_id != app_id:
        raise BadCard(300311)
    if tenant.now() - card.created >= CARD_LIFE_S:
        raise BadCard(200750)
    if card.message_id:
        raise BadCard(200780, "card binding count over limit", value=card_id)
    card.message_id = message.message_id
    message.card_id = card_id
    return card
