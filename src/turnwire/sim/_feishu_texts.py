"""The words that a reader sees in a card.

Guarantee: pure functions; what is folded away in a panel counts, since one click shows it.
"""

from __future__ import annotations

from typing import Any

from ._feishu_checks import body_elements
from ._json import Json


def element_text(element: Json) -> str:
    """The text of one text component."""
    inner = element.get("text")
    content = inner.get("content", "") if isinstance(inner, dict) else element.get("content", "")
    return content if isinstance(content, str) else ""


def shown_text(card: Json) -> str:
    """All the words in the body of a card, a line for each component."""
    return "\n".join(_lines(body_elements(card)))


def _lines(value: Any) -> list[str]:
    if isinstance(value, list):
        return [line for each in value for line in _lines(each)]
    if not isinstance(value, dict):
        return []
    match value.get("tag"):
        case "markdown" | "plain_text" | "lark_md" | "div" | "button":
            return [element_text(value)] if element_text(value) else []
        case "collapsible_panel":
            header = value.get("header")
            title = header.get("title") if isinstance(header, dict) else None
            return [*_lines(title), *_lines(value.get("elements"))]
        case "table":
            return table_lines(value)
        case _:
            return [line for name in ("elements", "columns", "actions") for line in _lines(value.get(name))]


def table_lines(table: Json) -> list[str]:
    """The rows of a table component, cells between bars, the heads first."""
    columns = [each for each in table.get("columns", []) if isinstance(each, dict)]
    rows = [each for each in table.get("rows", []) if isinstance(each, dict)]
    heads = " | ".join(str(each.get("display_name") or each.get("name", "")) for each in columns)
    return [heads, *(" | ".join(str(row.get(each.get("name"), "")) for each in columns) for row in rows)]
