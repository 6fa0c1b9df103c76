"""Text and JSON that every database and client can take."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
import re
import types
import uuid
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.agent_events import json_values
from tests.wire_schema import check_form
from turnwire.sanitize import MAX_DEPTH, clean_json, clean_text, join_surrogates, split_trailing_surrogate

any_text = st.text(alphabet=st.sampled_from("ab\0é你😀\u2028\ud83d\ud83e\ude00\udc00\ufffd"), max_size=12)


def well_formed(text: str) -> str:
    """The same by another way: pairs joined, then what is left of them replaced."""
    text = text.replace("\0", "")
    pair = "[\ud800-\udbff][\udc00-\udfff]"
    text = re.sub(pair, lambda found: json.loads(json.dumps(found[0])), text)
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


@given(any_text)
def test_text_is_well_formed_and_otherwise_the_same(text: str) -> None:
    assert clean_text(text) == well_formed(text)
    assert clean_text(clean_text(text)) == clean_text(text)


@given(st.lists(any_text.map(lambda text: text.replace("\0", "")), max_size=6))
def test_text_that_was_cut_anywhere_is_put_together_again(pieces: list[str]) -> None:
    said, carry = "", ""
    for piece in pieces:
        text, carry = split_trailing_surrogate(join_surrogates(carry, piece))
        said += clean_text(text)
    assert said + clean_text(carry) == well_formed("".join(pieces))


@given(json_values)
def test_json_is_what_any_client_takes(value: Any) -> None:
    cleaned = clean_json(value)
    assert msgspec.json.decode(msgspec.json.encode(cleaned)) == cleaned
    assert clean_json(cleaned) == cleaned
    check_form({"type": "data-x", "data": json.loads(msgspec.json.encode(cleaned))}, "7")


class Color(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int
    label: str


class Model:
    """What pydantic models have in common."""

    def __init__(self, **fields: Any) -> None:
        self.fields = fields

    def model_dump(self, *, mode: str) -> dict[str, Any]:
        assert mode == "json"
        return self.fields


class Loud(str):
    def __str__(self) -> str:
        return "LOUD"


class Meters(float):
    pass


class Count(int):
    pass


VALUES: dict[str, tuple[Any, Any]] = {
    "plain": ({"a": [1, 1.5, True, None, "x"]}, {"a": [1, 1.5, True, None, "x"]}),
    "tuples and sets": ([(1, 2), {3}], [[1, 2], [3]]),
    "bytes": (b"\xff", "/w=="),
    "dates and ids": (
        [datetime.date(2026, 1, 2), uuid.UUID(int=1)],
        ["2026-01-02", "00000000-0000-0000-0000-000000000001"],
    ),
    "enums": (Color.RED, "red"),
    "dataclasses": (Point(1, "a\0"), {"x": 1, "label": "a"}),
    "models": ([Model(a=Model(b="\ud800"))], [{"a": {"b": "\ufffd"}}]),
    "mappings": (types.MappingProxyType({"a": 1}), {"a": 1}),
    "number keys": ({1: "a"}, {"1": "a"}),
    "subclasses of plain types": ([Loud("quiet"), Meters(1.5), Count(3)], ["quiet", 1.5, 3]),
    "huge integers": ([2**64, -(2**70)], [2**64, -(2**70)]),
    "NaN and infinities": ([float("nan"), float("inf")], [None, None]),
    "NUL in keys and values": ({"a\0": [{"b": "\0c"}]}, {"a": [{"b": "c"}]}),
    "the letters of an escaped NUL": ("\\u0000", "\\u0000"),
    "lone surrogates": ({"\ud800": ("\udc00", "\ud83d\ude00")}, {"\ufffd": ["\ufffd", "😀"]}),
    "lone surrogates in a dataclass": (Point(1, "\ud800"), {"x": 1, "label": "\ufffd"}),
    "keys that become the same": ({"a": 1, "a\0": 2, "a\0\0": 3}, {"a": 1, "a'": 2, "a''": 3}),
    "keys that JavaScript refuses": (
        [{"__proto__": {"constructor": {"prototype": 1}}}, {"constructor": None}, {"constructor": 1}],
        [{"(__proto__)": {"(constructor)": {"prototype": 1}}}, {"(constructor)": None}, {"constructor": 1}],
    ),
}


@pytest.mark.parametrize("name", VALUES)
def test_a_value_as_json(name: str) -> None:
    value, expected = VALUES[name]
    cleaned = clean_json(value)
    assert cleaned == expected
    assert type(cleaned) is type(expected)


def test_the_result_shares_nothing_with_the_value() -> None:
    value = {"a": [1]}
    cleaned = clean_json(value)
    value["a"].append(2)
    assert cleaned == {"a": [1]}


def _broken_dump(mode: str) -> Any:
    raise KeyError(mode)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (object(), "object has no JSON form; give plain JSON values"),
        ([{"a": len}], "builtin_function_or_method has no JSON form"),
        ({None: 1}, "NoneType has no JSON form"),
        ((part for part in "ab"), "generator has no JSON form"),
        (Model, "type has no JSON form"),
        ([10**5000], "Exceeds the limit"),
        (types.SimpleNamespace(model_dump=_broken_dump), "SimpleNamespace.model_dump failed: 'json'"),
        ({"\ud800": object()}, "object has no JSON form"),
    ],
)
def test_what_has_no_json_form_is_named(value: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        clean_json(value)


def nested(levels: int, inner: Any) -> Any:
    for level in range(levels):
        inner = [inner] if level % 2 else {"a": inner}
    return inner


@pytest.mark.parametrize("inner", ["x", [], [[] for _ in range(300)]])
def test_depth_is_bounded(inner: Any) -> None:
    own = 0 if inner == "x" else 1 + any(isinstance(item, list) for item in inner)
    assert clean_json(nested(MAX_DEPTH - own, inner)) == nested(MAX_DEPTH - own, inner)
    with pytest.raises(ValueError, match="nested over 250 levels deep; make it flatter"):
        clean_json(nested(MAX_DEPTH - own + 1, inner))


def test_a_value_that_holds_itself_is_refused() -> None:
    loop: dict[str, Any] = {}
    loop["self"] = loop
    with pytest.raises(RecursionError):
        clean_json(loop)
