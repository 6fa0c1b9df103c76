"""Changes of single components and of the settings of a card.

Guarantee: pure functions on a card's JSON, which they change in place; what cannot be done raises `Refused` with the
platform's code for that kind of change. The caller throws the JSON away then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ._feishu_checks import holder, parse
from ._feishu_codes import BadCard, Refused
from ._json import Json

_PLACES = ("insert_before", "insert_after", "append")


def settings(data: Json, said: object) -> str:
    """Merges `config` and `card_link`; the bare form without `config` is taken too."""
    try:
        merge(data, said)
    except BadCard as error:
        raise Refused(300122, f"Failed to update card configuration: {error.msg}") from None
    return ""


def merge(data: Json, said: object) -> Json:
    """The card with these settings in it. Raises `BadCard`."""
    if not isinstance(said, dict) or not said:
        raise BadCard(200220, "settings must be an object that is not empty")
    wrapped = said if {"config", "card_link"} & said.keys() else {"config": said}
    for name in ("config", "card_link"):
        if name not in wrapped:
            continue
        if not isinstance(wrapped[name], dict):
            raise BadCard(200220, f"{name} must be an object")
        data[name] = {**data.get(name, {}), **wrapped[name]}
    return data


def add(data: Json, place: object, target: str, elements: object) -> None:
    """Adds components before or after the target, or at the end of it or of the card."""
    if place not in _PLACES or not isinstance(elements, list) or not elements:
        raise Refused(300315, f"Failed to add element: type is one of {', '.join(_PLACES)}, elements a list")
    if place == "append" and not target:
        data["body"]["elements"].extend(elements)
        return
    found = holder(data["body"]["elements"], target) if target else None
    if found is None:
        raise Refused(300315, f"Failed to add element: not find elementID : {target}")
    siblings, index = found
    if place == "append":
        inside = siblings[index].get("elements")
        if not isinstance(inside, list):
            raise Refused(300315, f"Failed to add element: {target} holds no elements")
        inside.extend(elements)
        return
    at = index + (place == "insert_after")
    siblings[at:at] = elements


def replace(data: Json, element_id: str, element: object) -> None:
    """Puts another component in the place of one."""
    if not isinstance(element, dict) or not isinstance(element.get("tag"), str):
        raise Refused(300121, "Failed to replace element: element is an object with a tag")
    siblings, index = _place(data, element_id, 300121)
    siblings[index] = element


def patch(data: Json, element_id: str, said: object) -> None:
    """Gives a component new properties."""
    if not isinstance(said, dict) or not said:
        raise Refused(300313, "Failed to update element properties: partial_element is an object")
    siblings, index = _place(data, element_id, 300313)
    if said.get("tag", siblings[index]["tag"]) != siblings[index]["tag"]:
        raise Refused(300312)
    siblings[index] = {**siblings[index], **said}


def delete(data: Json, element_ids: list[str]) -> None:
    """Removes components with all that is in them."""
    for element_id in element_ids:
        siblings, index = _place(data, element_id, 300314)
        del siblings[index]


def act(data: Json, action: object, hidden: Callable[[str], bool]) -> None:
    """One action of a batch. Raises `Refused`."""
    name = action.get("action") if isinstance(action, dict) else None
    params = action.get("params") if isinstance(action, dict) else None
    if not isinstance(params, dict):
        raise Refused(10002, "actions: each is {action, params}")
    target = str(params.get("element_id") or params.get("target_element_id") or "")
    if target and hidden(target):
        raise Refused(300313, f"Failed to update element properties: not find elementID : {target}")
    match name:
        case "partial_update_setting":
            settings(data, _value(params.get("settings")))
        case "add_elements":
            add(data, params.get("type"), target, _value(params.get("elements")))
        case "delete_elements":
            ids = _value(params.get("element_ids"))
            if not isinstance(ids, list) or not ids:
                raise Refused(300314, "Failed to delete element: element_ids is a list of ids")
            delete(data, [str(each) for each in ids])
        case "partial_update_element":
            patch(data, target, _value(params.get("partial_element")))
        case "update_element":
            replace(data, target, _value(params.get("element")))
        case _:
            raise Refused(10002, f"actions: there is no action {str(name)[:40]!r}")


def _place(data: Json, element_id: str, code: int) -> tuple[list[Any], int]:
    found = holder(data["body"]["elements"], element_id)
    if found is None:
        raise Refused(code, f"{Refused(code).msg}: not find elementID : {element_id}")
    return found


def _value(said: object) -> object:
    """A parameter given as a value or as a string of JSON."""
    if not isinstance(said, str):
        return said
    try:
        return parse(said, "params")
    except BadCard as error:
        raise Refused(10002, f"actions: {error.msg}") from None
