"""The official SDKs over the guard, against a provider that misbehaves in every way: they end in time, and honestly."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from tests.guard_sdks import KEY, SDKS, Said, guarded, raised, read
from turnwire.agents.guard import Limits, guard_error
from turnwire.sim.models import LEAKED_KEY, SCENARIOS, TEXT
from turnwire.testing.clock import FakeClock

pytestmark = pytest.mark.anyio

SEPARATORS = "a\u2028b\u2029c\u0085d"
HALF = "Hello, wörld "
FINISH = {
    "openai-chat": "stop",
    "openai-responses": "completed",
    "anthropic-create": "end_turn",
    "anthropic-stream": "end_turn",
    "google-genai": "STOP",
}
DONE_WITHIN = {
    "ok": 0.0,
    "a_no_message_stop": 0.35,
    "a_open_after_stop": 0.05,
    "o_no_done": 1.05,
    "o_open_after_done": 0.05,
    "o_usage_late": 0.15,
    "o_usage_late_hang": 0.5,
    "o_usage_very_late": 1.05,
    "r_open_after_completed": 0.05,
    "g_no_close": 0.35,
    "rst_after_finish": 0.05,
    "eof_after_finish": 0.0,
    "slow_thinking": 100.0,
    "slow_headers": 30.0,
    "comments": 0.0,
    "crlf": 0.0,
    "cr": 0.0,
    "mixed": 0.0,
    "crlf_split": 0.0,
    "bytewise": 0.0,
    "bom": 0.0,
    "nospace": 0.0,
    "a_noevent": 0.0,
    "r_noevent": 0.0,
    "multi_data": 0.0,
    "last_no_blank": 0.0,
    "gzip": 0.15,
    "double_finish": 0.0,
    "garbage_after_done": 0.0,
    "one_chunk": 0.0,
}
"""Seconds of the test's clock."""
USAGE_LOST = {"o_no_done", "o_usage_very_late", "rst_after_finish", "eof_after_finish"}
"""Scenarios in which the token counts do not come, or too late, where they are an event of their own."""
FAILS = {
    "r_no_completed": ("truncated", 0.0),
    "r_no_completed_open": ("idle_bytes", 60.0),
    "clean_eof_mid": ("truncated", 0.0),
    "raw_eof_mid": ("truncated", 0.0),
    "fin_mid": ("truncated", 0.0),
    "rst_mid": ("truncated", 0.05),
    "bad_chunk": ("truncated", 0.0),
    "empty_body": ("truncated", 0.0),
    "tools_cut": ("truncated", 0.0),
    "error_mid": ("provider_error", 0.0),
    "error_mid_open": ("provider_error", 0.0),
    "error_first": ("provider_error", 0.0),
    "r_failed_mid": ("provider_error", 0.0),
    "r_failed_mid_open": ("provider_error", 0.0),
    "json_200": ("not_sse", 0.0),
    "html_200": ("not_sse", 0.0),
    "stall_after_2": ("idle_bytes", 60.0),
    "pings_forever": ("idle_events", 1.0),
    "comments_forever": ("idle_events", 1.0),
    "no_headers": ("first_byte", 60.0),
    "half_headers_open": ("first_byte", 60.0),
    "bad_json": ("bad_event", 0.0),
    "too_big_event": ("too_large", 0.0),
}
"""What kind of error comes, and after how long."""
BEFORE_ERROR = {
    "r_no_completed": TEXT,
    "r_no_completed_open": TEXT,
    "bad_json": "Hello, ",
    **dict.fromkeys(
        ["empty_body", "tools_cut", "error_first", "json_200", "html_200", "no_headers", "half_headers_open"], ""
    ),
}
LIMITS = {
    "pings_forever": Limits(idle_events=1.0),
    "comments_forever": Limits(idle_events=1.0),
    "too_big_event": Limits(max_event_bytes=500_000),
}
STEP = dict.fromkeys(("slow_thinking", "slow_headers", "stall_after_2", "r_no_completed_open", "no_headers"), 5.0)
STEP["half_headers_open"] = 5.0


def _cases(names: Any) -> list[Any]:
    pairs = product(names, SDKS)
    return [pytest.param(sdk, name, id=f"{name}-{sdk}") for name, sdk in pairs if SDKS[sdk][0] in SCENARIOS[name].wires]


@pytest.mark.parametrize(("sdk", "scenario"), _cases(DONE_WITHIN))
async def test_a_finished_answer_ends_in_time(sdk: str, scenario: str) -> None:
    said = await read(sdk, scenario, FakeClock(), step=STEP.get(scenario, 0.05))
    assert said.error is None
    garbage = "garbage" if (sdk, scenario) == ("google-genai", "garbage_after_done") else ""  # it has no end marker
    assert said.text == TEXT + garbage
    assert set(said.finishes) == {FINISH[sdk]}
    assert said.took <= DONE_WITHIN[scenario] + 1e-9
    lost = sdk == "openai-chat" and scenario in USAGE_LOST
    assert said.usage == (None if lost else 42)


@pytest.mark.parametrize(("sdk", "scenario"), _cases(FAILS))
async def test_an_unfinished_answer_is_an_error(sdk: str, scenario: str) -> None:
    kind, seconds = FAILS[scenario]
    said = await read(sdk, scenario, FakeClock(), LIMITS.get(scenario), STEP.get(scenario, 0.05))
    error = raised(said)
    assert error.kind == kind
    assert said.took == pytest.approx(seconds, abs=1e-6)
    assert said.text == BEFORE_ERROR.get(scenario, HALF)
    assert said.finishes == []
    text = str(error)
    assert text
    assert len(text) < 400
    assert "\n" not in text
    for secret in (LEAKED_KEY, KEY, "http"):
        assert secret not in text


@pytest.mark.parametrize("sdk", SDKS)
async def test_text_keeps_line_ends_of_unicode(sdk: str) -> None:
    said = await read(sdk, "u2028", FakeClock())
    assert (said.text, said.error) == (SEPARATORS, None)


@pytest.mark.parametrize("sdk", SDKS)
async def test_a_large_event_comes_whole(sdk: str) -> None:
    said = await read(sdk, "big_event", FakeClock())
    assert said.error is None
    assert len(said.text) == 3_000_000
    assert set(said.text) == {"x"}


async def test_an_end_marker_without_a_finish_ends_the_answer_without_inventing_one() -> None:
    said = await read("openai-chat", "done_without_finish", FakeClock())
    assert said.error is None
    assert (said.text, said.finishes) == (TEXT, [])


async def test_a_second_finish_of_chat_completions_is_not_handed_on() -> None:
    said = await read("openai-chat", "double_finish", FakeClock())
    assert said.finishes == ["stop"]


async def test_a_refused_prompt_is_a_finish() -> None:
    said = await read("google-genai", "blocked", FakeClock())
    assert said.error is None
    assert said.finishes == ["PROHIBITED_CONTENT"]


@pytest.mark.parametrize("scenario", ["401", "429", "529"])
@pytest.mark.parametrize("sdk", SDKS)
async def test_refusals_stay_the_sdks_own_errors(sdk: str, scenario: str) -> None:
    said = await read(sdk, scenario, FakeClock())
    assert said.error is not None
    assert guard_error(said.error) is None
    assert getattr(said.error, "status_code", None) == int(scenario) or getattr(said.error, "code", None) == int(
        scenario
    )


@pytest.mark.parametrize("sdk", SDKS)
async def test_six_answers_need_one_connection(sdk: str) -> None:
    async with guarded(FakeClock()) as (sim, client):
        for _ in range(6):
            said = Said()
            await SDKS[sdk][1](client, sim, "ok", said)
            assert said.text == TEXT
        assert sim.connections == 1
        assert len(sim.requests) == 6


@pytest.mark.parametrize("sdk", SDKS)
async def test_proxies_of_the_environment_are_ignored(sdk: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "ALL_PROXY", "HTTPS_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    said = await read(sdk, "ok", FakeClock())
    assert (said.text, said.error) == (TEXT, None)
