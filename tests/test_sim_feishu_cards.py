"""CardKit of the simulated tenant: what it refuses, and what a reader sees of what it takes."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.feishu_calls import Calls, calling, card, markdown
from turnwire.sim._feishu_cards import check, new_card
from turnwire.sim._feishu_checks import COMPONENTS
from turnwire.sim._feishu_codes import BadCard
from turnwire.sim._feishu_state import Tenant
from turnwire.sim._feishu_view import card_view
from turnwire.sim.feishu import Switches
from turnwire.testing import FakeClock

pytestmark = pytest.mark.anyio

TABLE = "| a | b |\n|---|---|\n| 1 | 2 |\n\n"
ROWS: Any = {"tag": "table", "columns": [{"name": "a"}], "rows": [{"a": 1}]}


def _panel(*inside: Any, **more: Any) -> Any:
    title = {"tag": "plain_text", "content": "Thinking"}
    return {"tag": "collapsible_panel", "header": {"title": title}, "elements": list(inside), **more}


def _nested(depth: int) -> Any:
    return markdown("deep") if depth == 1 else _panel(_nested(depth - 1))


REFUSED = {
    "not JSON": ("{", 200220, 0),
    "a list": ([1], 200220, 0),
    "empty": ({}, 300307, 0),
    "schema 1": ({"schema": "1.0", "body": {"elements": []}}, 300303, 0),
    "the older structure": ({"elements": [{"tag": "hr"}]}, 200610, 0),
    "no body": ({"schema": "2.0"}, 200610, 200610),
    "not for everybody": (card(update_multi=False), 300302, 300302),
    "an id twice": (card(markdown("1"), markdown("2")), 300301, 300301),
    "an id twice, in a panel": (card(markdown("1"), _panel(markdown("2"))), 300301, 300301),
    "a long id": (card(markdown("1", "a" * 21)), 200220, 200621),
    "an id with a digit first": (card(markdown("1", "1a")), 200220, 200621),
    "an unknown tag": (card({"tag": "marquee"}), 200220, 200621),
    "a tag of the older structure": (card({"tag": "note", "elements": []}), 200861, 200861),
    "no tag": (card({"content": "x"}), 200220, 200621),
    "a text that is none": (card({"tag": "markdown", "content": 5}), 200220, 200621),
    "201 components": (card(*[{"tag": "hr"}] * 201), 300305, 11310),
    "texts count": (card(*[{"tag": "button", "text": {"tag": "plain_text", "content": "x"}}] * 101), 300305, 11310),
    "six tables": (card(markdown(TABLE * 3), _panel(markdown(TABLE * 3, "b"))), 230099, 11310),
    "six table components": (card(*[ROWS] * 6), 230099, 11310),
    "five tables in one text": (card(markdown(TABLE * 5)), 230099, 11310),
    "31 KB": (card(markdown("长" * 10_500)), 200860, 230025),
    "six levels": (card(_nested(6)), 200220, 200621),
    "a long input": (card({"tag": "input", "max_length": 1001}), 200220, 200621),
    "an image that is none": (card({"tag": "img", "img_key": "img_none"}), 200570, 200570),
}
TAKEN = {
    "200 components": card(*[{"tag": "hr"}] * 200),
    "five tables": card(markdown(TABLE * 4), _panel(markdown(TABLE, "b"))),
    "five levels": card(_nested(5)),
    "tables that are code": card(markdown(f"```\n{TABLE * 6}\n```")),
    "29 KB": card(markdown("长" * 9_900)),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_every_way_into_a_card_refuses_what_the_platform_does_not_take(name: str) -> None:
    bad, code, inner = REFUSED[name]
    async with calling() as calls:
        assert (await calls.create(bad)).code == code
        if isinstance(bad, str):
            return
        card_id, message_id = await calls.streaming()
        assert (await calls.update(card_id, bad)).code == code
        if inner:
            sent = await calls.send("interactive", bad)
            assert (sent.code, f"ErrCode: {inner};" in sent.msg) in ((230025, False), (230099, True))
            assert (sent.code == 230025) == (inner == 230025)
        shown = calls.sim.view(calls.sim.group).from_bots
        assert [each.message_id for each in shown] == [message_id]
        assert shown[0].text == "..."


@pytest.mark.parametrize("name", TAKEN)
async def test_what_is_within_the_bounds_is_taken(name: str) -> None:
    async with calling() as calls:
        made = await calls.create(TAKEN[name])
        assert made.code == 0, made.msg
        assert (await calls.send_card(made.data["card_id"])).code == 0


async def test_tables_and_size_are_checked_when_they_are_streamed_or_added() -> None:
    async with calling() as calls:
        card_id, message_id = await calls.streaming(markdown("..."), markdown(TABLE * 3, "other"))
        assert (await calls.content(card_id, TABLE * 2)).code == 0
        refused = await calls.content(card_id, TABLE * 3)
        assert (refused.code, "card table number over limit" in refused.msg) == (230099, True)
        assert (await calls.content(card_id, "长" * 10_500)).code == 200860
        added = {"action": "add_elements", "params": {"type": "append", "elements": [ROWS]}}
        assert (await calls.batch(card_id, added)).code == 230099
        said = {"type": "append", "elements": json.dumps([markdown("twice")]), "sequence": 99}
        assert (await calls("POST", f"/cardkit/v1/cards/{card_id}/elements", said)).code == 300301
        shown = calls.sim.message(message_id).card
        assert shown is not None
        assert [block.text for block in shown.blocks] == [TABLE * 2, TABLE * 3]
        calls.sim.switches.table_limit = 3
        assert (await calls.content(card_id, TABLE)).code == 230099


# Text


async def test_text_replaces_text_and_only_a_longer_one_is_typed() -> None:
    async with calling() as calls:
        card_id, message_id = await calls.streaming()
        for text in ("Hel", "Hello", "Bye"):
            assert (await calls.content(card_id, text)).code == 0
        assert calls.sim.message(message_id).text == "Bye"
        seen = [(change.text, change.how) for change in calls.sim.changes(message_id)]
        assert seen == [("...", "replaced"), ("Hel", "flashed"), ("Hello", "typed"), ("Bye", "flashed")]


async def test_text_goes_into_texts_only() -> None:
    async with calling() as calls:
        rule = {"tag": "hr", "element_id": "line"}
        div = {"tag": "div", "element_id": "div", "text": {"tag": "plain_text", "content": "old"}}
        card_id, message_id = await calls.streaming(markdown("..."), rule, div)
        assert (await calls.content(card_id, "x", "line")).code == 300310
        assert (await calls.content(card_id, "x", "gone")).code == 300313
        assert (await calls.content(card_id, "")).code == 99992402
        assert (await calls.content(card_id, "x" * 100_001)).code == 99992402
        assert (await calls.content(card_id, "new", "div")).code == 0
        assert calls.sim.message(message_id).text == "...\nnew"


async def test_a_tenant_that_appends_can_only_be_mended_by_a_full_update() -> None:
    async with calling(Switches(content_semantics="append")) as calls:
        card_id, message_id = await calls.streaming()
        for text in ("Hel", "Hello"):
            assert (await calls.content(card_id, text)).code == 0
        assert calls.sim.message(message_id).text == "...HelHello"
        assert (await calls.update(card_id, card(markdown("Hello")))).code == 0
        assert calls.sim.message(message_id).text == "Hello"


# Order


async def test_the_sequence_only_grows_over_all_operations() -> None:
    async with calling() as calls:
        card_id, message_id = await calls.streaming()
        assert (await calls.content(card_id, "zero", sequence=0)).code == 300317
        assert (await calls.content(card_id, "five", sequence=5)).code == 0
        assert (await calls.settings(card_id, {}, sequence=5)).code == 300317
        assert (await calls.update(card_id, card(markdown("late")), sequence=4)).code == 300317
        assert (await calls.content(card_id, "none", sequence=None)).code == 99992402
        assert (await calls.content(card_id, "huge", sequence=2**31)).code == 99992402
        assert calls.sim.message(message_id).text == "five"


@pytest.mark.parametrize(("consumed", "code"), [(False, 0), (True, 300317)])
async def test_a_refused_operation_uses_up_its_number_if_the_tenant_does_so(consumed: bool, code: int) -> None:
    async with calling(Switches(seq_consume_on_error=consumed)) as calls:
        card_id, _ = await calls.streaming()
        assert (await calls.content(card_id, "x", "gone", sequence=7)).code == 300313
        assert (await calls.content(card_id, "x", sequence=7)).code == code


async def test_a_uuid_makes_a_repeated_operation_harmless() -> None:
    async with calling() as calls:
        card_id, message_id = await calls.streaming()
        for _ in range(2):
            assert (await calls.content(card_id, "one", sequence=1, uuid="u1")).code == 0
        assert (await calls.content(card_id, "two", sequence=2, uuid="u1")).code == 200770
        assert (await calls.content(card_id, "two", sequence=2, uuid="u" * 65)).code == 99992402
        calls.sim.switches.uuid_replay = "conflict"
        assert (await calls.content(card_id, "one", sequence=1, uuid="u1")).code == 200770
        assert len(calls.sim.changes(message_id)) == 2


# The streaming mode


async def test_the_streaming_mode_ends_ten_minutes_after_it_was_opened() -> None:
    async with calling() as calls:
        card_id, message_id = await calls.streaming()
        await calls.clock.advance(599)
        assert (await calls.content(card_id, "in time")).code == 0
        assert calls.sim.message(message_id).streaming
        await calls.clock.advance(1)
        assert not calls.sim.message(message_id).streaming
        codes = [(await calls.content(card_id, "late")).code for _ in range(3)]
        assert codes == [200850, 300309, 300309]
        assert [call.after_terminal for call in calls.sim.calls if call.op == "content"] == [False, False, True, True]
        assert calls.sim.message(message_id).text == "in time"
        assert (await calls.settings(card_id, {"streaming_mode": True})).code == 0
        assert (await calls.content(card_id, "again")).code == 0
        assert len(calls.sim.hopeless) == 2
        assert calls.sim.message(message_id).text == "again"


@pytest.mark.parametrize(("restarts", "code"), [(True, 0), (False, 200850)])
async def test_opening_an_open_card_gives_it_more_time_if_the_tenant_does_so(restarts: bool, code: int) -> None:
    async with calling(Switches(reopen_restarts=restarts)) as calls:
        card_id, _ = await calls.streaming()
        await calls.clock.advance(500)
        assert (await calls.settings(card_id, {"streaming_mode": True})).code == 0
        await calls.clock.advance(500)
        assert (await calls.content(card_id, "more")).code == code


async def test_a_tenant_may_drop_late_text_silently() -> None:
    async with calling(Switches(content_semantics="drop_after_10min")) as calls:
        card_id, message_id = await calls.streaming()
        await calls.clock.advance(600)
        assert (await calls.content(card_id, "late")).code == 0
        assert calls.sim.message(message_id).text == "..."


async def test_a_full_update_ends_the_streaming_mode_unless_it_says_otherwise() -> None:
    async with calling() as calls:
        card_id, message_id = await calls.streaming()
        assert (await calls.update(card_id, card(markdown("a"), streaming=True))).code == 0
        assert calls.sim.message(message_id).streaming
        assert (await calls.update(card_id, card(markdown("b")))).code == 0
        assert not calls.sim.message(message_id).streaming
        assert (await calls.content(card_id, "c")).code == 300309
        calls.sim.switches.update_ends_streaming = False
        assert (await calls.settings(card_id, {"streaming_mode": True})).code == 0
        assert (await calls.update(card_id, card(markdown("d")))).code == 0
        assert calls.sim.message(message_id).streaming


async def test_the_summary_is_ones_own_or_says_that_it_is_being_written() -> None:
    async with calling() as calls:
        card_id, message_id = await calls.streaming()

        def summary() -> str:
            shown = calls.sim.message(message_id).card
            assert shown is not None
            return shown.summary

        assert summary() == "[生成中...]"
        assert (await calls.settings(card_id, {"summary": {"content": "Mine"}})).code == 0
        assert summary() == "Mine"
        assert (await calls.settings(card_id, {"streaming_mode": False})).code == 0
        assert summary() == "Mine"
        assert (await calls.update(card_id, card(markdown("First\nsecond")))).code == 0
        assert summary() == "First"


# Components


async def test_components_are_added_changed_replaced_and_deleted() -> None:
    async with calling() as calls:
        card_id, message_id = await calls.streaming(markdown("a", "a"), _panel(markdown("c", "c"), element_id="p"))
        path = f"/cardkit/v1/cards/{card_id}/elements"

        async def act(method: str, where: str, number: int, **body: Any) -> int:
            texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in body.items()}
            return (await calls(method, path + where, {**texts, "sequence": number})).code

        new = [markdown("b", "b")]
        assert await act("POST", "", 1, type="insert_after", target_element_id="a", elements=new) == 0
        assert await act("POST", "", 2, type="append", target_element_id="p", elements=[markdown("d", "d")]) == 0
        assert await act("POST", "", 3, type="insert_before", target_element_id="z", elements=new) == 300315
        assert await act("POST", "", 4, type="beside", elements=new) == 300315
        assert await act("PATCH", "/c", 5, partial_element={"content": "c2"}) == 0
        assert await act("PATCH", "/c", 6, partial_element={"tag": "hr"}) == 300312
        assert await act("PATCH", "/z", 7, partial_element={"content": "x"}) == 300313
        assert await act("PUT", "/a", 8, element={"tag": "plain_text", "element_id": "a", "content": "A"}) == 0
        assert await act("PUT", "/z", 9, element=markdown("x", "x")) == 300121
        assert calls.sim.message(message_id).text == "A\nb\nThinking\nc2\nd"
        await calls.clock.advance(1)
        assert await act("DELETE", "/p", 10) == 0
        assert await act("DELETE", "/p", 11) == 300314
        assert calls.sim.message(message_id).text == "A\nb"


async def test_a_batch_is_done_whole_or_not_at_all() -> None:
    def action(name: str, **params: Any) -> Any:
        return {"action": name, "params": params}

    async with calling() as calls:
        card_id, message_id = await calls.streaming(markdown("a", "a"), markdown("b", "b"))
        done = await calls.batch(
            card_id,
            action("partial_update_setting", settings={"config": {"streaming_mode": False}}),
            action("add_elements", type="insert_before", target_element_id="a", elements=[markdown("0", "zero")]),
            action("partial_update_element", element_id="a", partial_element={"content": "1"}),
            action("update_element", element_id="b", element=markdown("2", "b2")),
        )
        assert done.code == 0
        assert calls.sim.message(message_id).text == "0\n1\n2"
        assert not calls.sim.message(message_id).streaming
        change = action("partial_update_element", element_id="a", partial_element={"content": "lost"})
        assert (await calls.batch(card_id, change, action("delete_elements", element_ids=["gone"]))).code == 300314
        assert (await calls.batch(card_id, change, action("explode"))).code == 10002
        assert (await calls.batch(card_id)).code == 10002
        assert calls.sim.message(message_id).text == "0\n1\n2"


async def test_settings_that_are_none_are_refused() -> None:
    async with calling() as calls:
        card_id, _ = await calls.streaming()
        path = f"/cardkit/v1/cards/{card_id}/settings"
        assert (await calls("PATCH", path, {"settings": "{", "sequence": 1})).code == 300122
        assert (await calls("PATCH", path, {"settings": '{"config": 1}', "sequence": 2})).code == 300122
        assert (
            await calls("PATCH", path, {"settings": '{"config": {"update_multi": false}}', "sequence": 3})
        ).code == 300302


# Entities


async def test_an_entity_is_sent_once_by_its_own_app_within_two_weeks() -> None:
    async with calling() as calls:
        first, second = [(await calls.create(card())).data["card_id"] for _ in range(2)]
        assert first.isdigit()
        assert len(first) <= 20
        assert (await calls.send_card(first)).code == 0
        again = await calls.send_card(first)
        assert (again.code, "ErrCode: 200780;" in again.msg) == (230099, True)
        unknown = await calls.send_card("123")
        assert (unknown.code, "cardid is invalid" in unknown.msg) == (230099, True)
        bare = await calls.send("interactive", {"card_id": second})
        assert (bare.code, "ErrCode: 200621;" in bare.msg) == (230099, True)
        assert (await calls.content("123", "x")).code == 200740
        calls.sim.add_app("cli_other", "secret")
        calls.sim.people.add_bot(calls.sim.group, "cli_other")
        await calls.login("cli_other", "secret")
        assert (await calls.content(first, "x")).code == 300311
        stolen = await calls.send_card(second)
        assert (stolen.code, "ErrCode: 300311;" in stolen.msg) == (230099, True)
        await calls.clock.advance(14 * 86400)
        await calls.login()
        assert (await calls.update(first, card())).code == 200750
        late = await calls.send_card(second)
        assert (late.code, "ErrCode: 200750;" in late.msg) == (230099, True)
        assert len(calls.sim.view(calls.sim.group).from_bots) == 1


async def test_the_card_of_a_message_can_become_an_entity() -> None:
    async with calling() as calls:
        sent = await calls.send("interactive", card(markdown("inline")))
        message_id = sent.data["message_id"]
        got = await calls("POST", "/cardkit/v1/cards/id_convert", {"message_id": message_id})
        assert (await calls.update(got.data["card_id"], card(markdown("entity")))).code == 0
        assert calls.sim.message(message_id).text == "entity"


async def test_what_was_just_made_is_unknown_to_other_replicas_for_a_moment() -> None:
    async with calling(Switches(replica_lag=0.3)) as calls:
        card_id = (await calls.create(card())).data["card_id"]
        early = await calls.send_card(card_id)
        assert (early.code, "cardid is invalid" in early.msg) == (230099, True)
        assert (await calls.content(card_id, "x")).code == 200740
        await calls.clock.advance(0.3)
        assert (await calls.send_card(card_id)).code == 0
        added = {"action": "add_elements", "params": {"type": "append", "elements": [markdown("b", "b")]}}
        assert (await calls.batch(card_id, added)).code == 0
        change = {
            "action": "partial_update_element",
            "params": {"element_id": "b", "partial_element": {"content": "c"}},
        }
        missing = await calls.batch(card_id, change)
        assert (missing.code, "not find elementID : b" in missing.msg) == (300313, True)
        await calls.clock.advance(0.3)
        assert (await calls.batch(card_id, change)).code == 0


async def _burst(calls: Calls, card_id: str, count: int) -> list[int]:
    return [(await calls.content(card_id, f"text {number}")).code for number in range(count)]


async def test_a_card_takes_ten_operations_a_second() -> None:
    async with calling() as calls:
        card_id, message_id = await calls.streaming()
        assert await _burst(calls, card_id, 11) == [*[0] * 10, 99991400]
        refused = await calls.content(card_id, "more")
        assert (refused.status, refused.headers["x-ogw-ratelimit-limit"]) == (429, "10")
        assert refused.headers["x-ogw-ratelimit-reset"] == "1"
        assert calls.sim.message(message_id).text == "text 9"
        await calls.clock.advance(1)
        calls.sim.switches.card_rate_code = 230020
        assert await _burst(calls, card_id, 11) == [*[0] * 10, 230020]
        calls.sim.switches.card_rate_while_streaming = False
        assert await _burst(calls, card_id, 5) == [0] * 5


# Whatever is sent

NAMES = st.sampled_from(
    ["content", "text", "elements", "columns", "rows", "actions", "header", "title", "alt", "value", "name", "img_key"]
)
LEAF = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=4))
TAGS = st.sampled_from([*sorted(COMPONENTS), "plain_text", "lark_md", "note", "marquee"])
TEXT = st.fixed_dictionaries({"tag": st.just("plain_text")}, optional={"content": st.text(max_size=4)})


def _component(inside: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    cells = st.lists(st.dictionaries(NAMES, LEAF, max_size=2), max_size=2)
    fields = {"content": st.text(max_size=4), "text": TEXT, "elements": inside, "columns": st.one_of(inside, cells)}
    return st.one_of(
        st.fixed_dictionaries({"tag": TAGS}, optional={**fields, "rows": cells, "header": st.one_of(TEXT, LEAF)}),
        st.fixed_dictionaries({"tag": TAGS}, optional={"alt": st.one_of(TEXT, LEAF), "actions": LEAF, "value": LEAF}),
    )


ELEMENTS = st.recursive(st.lists(LEAF, max_size=2), lambda inner: st.lists(_component(inner), max_size=3), max_leaves=6)


HEADER = st.one_of(LEAF, st.dictionaries(NAMES, st.one_of(TEXT, LEAF)))


@given(ELEMENTS, HEADER, st.dictionaries(st.just("summary"), LEAF))
def test_every_card_is_refused_or_shown(elements: Any, header: Any, config: Any) -> None:
    tenant = Tenant(FakeClock(), Switches())
    for data in ({"schema": "2.0", "body": {"elements": elements}}, {"elements": elements}):
        whole = {**data, "header": header, "config": config}
        try:
            check(tenant, whole, entity=False)
        except BadCard:
            continue
        shown = new_card(tenant, "cli_sim", whole, entity=False)
        assert json.dumps(asdict(card_view(tenant, shown)))
