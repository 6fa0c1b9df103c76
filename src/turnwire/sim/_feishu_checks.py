"""What makes a card one that Feishu takes.

Guarantee: pure functions; the same rules for every way in which content enters a card.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from markdown_it import MarkdownIt

from ._feishu_codes import BadCard
from ._json import Json, compact

MAX_NESTING = 5
MAX_INPUT_LENGTH = 1000
_ELEMENT_ID = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,19}")
_TEXTS = {"plain_text", "lark_md"}
_ICONS = {"standard_icon", "custom_icon"}
COMPONENTS = frozenset(
    {
        "audio", "button", "chart", "checker", "collapsible_panel", "column", "column_set", "date_picker", "div",
        "form", "hr", "img", "img_combination", "input", "interactive_container", "markdown", "multi_select_person",
        "multi_select_static", "overflow", "person", "person_list", "picker_datetime", "picker_time", "select_img",
        "select_person", "select_static", "table", "text_tag",
    }
)  # fmt: skip
_SHAPES: dict[str, type[Any]] = {
    "content": str, "img_key": str, "text": dict, "header": dict, "title": dict, "alt": dict,
    "elements": list, "columns": list, "rows": list, "actions": list, "behaviors": list,
}  # fmt: skip
_CALLED: dict[type[Any], str] = {str: "a string", dict: "an object", list: "a list"}
_ONLY_V1 = {"action", "note"}
_MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table").enable("strikethrough")


def parse(text: object, what: str = "card") -> Any:
    """The value of a string of JSON. Raises `BadCard`."""
    if not isinstance(text, str):
        raise BadCard(200220, f"Failed to generate card content: {what} must be a string of JSON")
    if not text.strip():
        raise BadCard(300307)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadCard(200220, f"Failed to generate card content: {what} is no JSON: {error}", inner=200621) from None


def is_v2(card: Json) -> bool:
    """Whether a card says that it has the newer structure."""
    return card.get("schema") == "2.0"


def tagged(value: Any, depth: int = 0) -> Iterator[tuple[Json, int]]:
    """Every component and text inside a value, outer ones first, each with how many components it stands in."""
    if isinstance(value, dict):
        inner = depth
        if isinstance(value.get("tag"), str):
            yield value, depth
            inner = depth + (value["tag"] in COMPONENTS)
        for each in value.values():
            yield from tagged(each, inner)
    elif isinstance(value, list):
        for each in value:
            yield from tagged(each, depth)


def body_elements(card: Json) -> list[Any]:
    """The outermost components of a card of either structure."""
    body = card.get("body")
    found = body.get("elements") if isinstance(body, dict) else card.get("elements")
    return found if isinstance(found, list) else []


def tables_in(text: str) -> int:
    """How many tables a text of Markdown shows."""
    return sum(token.type == "table_open" for token in _MARKDOWN.parse(text)) if "|" in text else 0


def find(card: Json, element_id: str) -> Json | None:
    """The component with that id."""
    for element, _ in tagged(body_elements(card)):
        if element.get("element_id") == element_id:
            return element
    return None


def holder(value: Any, element_id: str) -> tuple[list[Any], int] | None:
    """The list that holds the component with that id, and its place in it."""
    if isinstance(value, dict):
        value = list(value.values())
    elif isinstance(value, list):
        for place, each in enumerate(value):
            if isinstance(each, dict) and each.get("element_id") == element_id:
                return value, place
    else:
        return None
    for each in value:
        if (found := holder(each, element_id)) is not None:
            return found
    return None


def check_shape(card: Any, *, entity: bool) -> None:
    """The structure of a whole card: for an entity only the newer one. Raises `BadCard`."""
    if not isinstance(card, dict):
        raise BadCard(200220, "Failed to generate card content: a card is an object")
    if not card:
        raise BadCard(300307)
    for name in ("config", "header", "body"):
        if not isinstance(card.get(name, {}), dict):
            raise BadCard(
                200220, f"Failed to generate card content: {name} must be an object", inner=200621, value=name
            )
    if not is_v2(card):
        if not entity:
            return
        raise BadCard(200610 if "schema" not in card and "elements" in card else 300303)
    if card.get("config", {}).get("update_multi") is False:
        raise BadCard(300302)
    if not isinstance(card.get("body", {}).get("elements"), list):
        raise BadCard(200610)


def check_elements(card: Json) -> None:
    """The components of a card one by one, and their ids. Raises `BadCard`."""
    elements, v2 = body_elements(card), is_v2(card)
    ids: set[str] = set()
    for place, element in enumerate(elements):
        if not isinstance(element, dict) or not isinstance(element.get("tag"), str):
            raise BadCard(200220, f"Failed to generate card content: element {place} has no tag", inner=200621)
    for element, depth in tagged([card.get("header"), elements]):
        tag = element["tag"]
        if v2 and tag in _ONLY_V1:
            text = "cards of schema V2 no longer support this capability"
            raise BadCard(200861, text, value=f"unsupported tag {tag}")
        if tag not in COMPONENTS | _TEXTS | _ICONS | _ONLY_V1:
            raise BadCard(200220, f"unknown tag {tag[:40]}", inner=200621, value=tag[:40])
        if tag in COMPONENTS and depth >= MAX_NESTING:
            raise BadCard(200220, f"components may be nested {MAX_NESTING} levels deep", inner=200621, value=tag)
        _check_one(element, tag)
        name = element.get("element_id")
        if name is None:
            continue
        if not isinstance(name, str) or not _ELEMENT_ID.fullmatch(name):
            text = f"element_id {str(name)[:40]!r}: letters, digits and _, a letter first, at most 20"
            raise BadCard(200220, text, inner=200621, value=str(name)[:40])
        if name in ids:
            raise BadCard(300301, f"Duplicate element_id in card component: {name}", value=name)
        ids.add(name)


def _check_one(element: Json, tag: str) -> None:
    for name, kind in _SHAPES.items():
        if name in element and not isinstance(element[name], kind):
            raise BadCard(200220, f"{tag}: {name} must be {_CALLED[kind]}", inner=200621, value=name)
    if tag == "input":
        limit = element.get("max_length", 0)
        if not isinstance(limit, int) or limit > MAX_INPUT_LENGTH:
            raise BadCard(200220, f"input: max_length is at most {MAX_INPUT_LENGTH}", inner=200621, value="max_length")


def check_bounds(card: Json, *, size: int, components: int, tables: int, tables_in_one: int) -> None:
    """How much a card holds: bytes, components with texts, tables. Raises `BadCard`."""
    if len(compact(card).encode("utf-8", "replace")) > size:
        raise BadCard(200860)
    found = [element for element, _ in tagged([card.get("header"), body_elements(card)])]
    if len(found) > components:
        raise BadCard(300305, inner=11310, said="element exceeds the limit", value="element")
    counted = 0
    for element in found:
        if element["tag"] == "table":
            counted += 1
        elif element["tag"] == "markdown":
            inside = tables_in(element.get("content", ""))
            if inside > tables_in_one:
                raise _tables()
            counted += inside
    if counted > tables:
        raise _tables()


def images(card: Json) -> list[str]:
    """The keys of the images that a card shows."""
    found = [each["img_key"] for each, _ in tagged(body_elements(card)) if each["tag"] == "img" and each.get("img_key")]
    return [key for key in found if isinstance(key, str)]


def _tables() -> BadCard:
    return BadCard(230099, "card table number over limit", inner=11310, value="table")
