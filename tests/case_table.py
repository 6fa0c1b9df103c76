"""Every way in which a model's stream is known to misbehave: what the provider does and what a reader must see.

A row's cases run through the official SDKs and through pydantic-ai in `tests/test_case_table.py`; what belongs to other
frameworks, or is covered elsewhere, is named as `tests/FILE.py::TEST`. Times are seconds of the guard's clock, with the
bounds as they are configured: a turn that is said to take none ends while time stands still.
"""

from __future__ import annotations

from unittest.mock import ANY

from tests.case_kinds import CUT, HALF, Case, Row, again, called, done, failed, filtered, never
from turnwire.agents.pydantic_ai import WITHHELD
from turnwire.sim.models import TEXT

SIGNATURE = "c2ltdWxhdGVk"
CITIES = ({"city": "北京"}, {"city": "Zürich"})
BROKE = "The connection to the model broke"
REPORTED = "The model's provider reported an error: overloaded key *** xxx"
UNCOUNTED = {"O": {"usage": None}}
"""OpenAI's chat counts after the finish, so that counts which do not come in time are not known."""
SLOW = {"step": 30.0}
BIG = "x" * 3_000_000
MANY = "".join(f"{number} " for number in range(10_000))
NOT_JSON = "damaged: one of its events is not JSON"
SAME = "tests/test_case_table.py"
SDK = "tests/test_guard_sdks.py"
CORE = "tests/test_guard_core.py"
TRANSPORT = "tests/test_guard_transport.py"
CLOSING = "tests/test_guard_closing.py"
CLI = "tests/test_frameworks_claude.py"
CLAUDE = "tests/test_agents_claude.py"
CASES = "tests/test_frameworks_cases.py"

ROWS: tuple[Row, ...] = (
    Row(1, "a_no_message_stop", "done <= 0.5 s, usage 42", (done("a_no_message_stop", "A", 0.5),)),
    Row(2, "a_open_after_stop", "done <= 0.2 s", (done("a_open_after_stop", "A", 0.2),)),
    Row(3, "o_no_done", "done <= 1.2 s", (done("o_no_done", "O", 1.2, usage=None),)),
    Row(4, "o_open_after_done", "done <= 0.3 s", (done("o_open_after_done", "O", 0.3),)),
    Row(5, "o_usage_late", "done, usage present", (done("o_usage_late", "O", 0.15),)),
    Row(6, "o_usage_late_hang", "done, usage present", (done("o_usage_late_hang", "O", 0.5),)),
    Row(
        7,
        "o_usage_very_late",
        "done after the grace, no usage, no error",
        (done("o_usage_very_late", "O", 1.05, usage=None),),
    ),
    Row(8, "r_open_after_completed", "done <= 0.2 s", (done("r_open_after_completed", "R", 0.2),)),
    Row(
        9,
        "r_no_completed",
        "error",
        (
            failed("r_no_completed", "R", text=TEXT),
            failed("r_no_completed_open", "R", "sent nothing for 60 s", 60.0, text=TEXT, **SLOW),
        ),
    ),
    Row(10, "g_no_close", "done", (done("g_no_close", "G", 0.35),)),
    Row(11, "clean_eof_mid", "error", (failed("clean_eof_mid", "AORG"),)),
    Row(12, "raw_eof_mid", "error", (failed("raw_eof_mid", "AORG"),)),
    Row(
        13,
        "fin_mid / rst_mid",
        "error",
        (
            failed("fin_mid", "AORG", BROKE),
            failed("rst_mid", "AORG", BROKE, 0.05),
            failed("bad_chunk", "AORG", BROKE),
        ),
    ),
    Row(14, "rst_after_finish", "done", (done("rst_after_finish", "AORG", 0.05, other=UNCOUNTED),)),
    Row(15, "eof_after_finish", "done", (done("eof_after_finish", "AORG", other=UNCOUNTED),)),
    Row(
        16,
        "done_without_finish",
        "done with finishReason other, flagged",
        (done("done_without_finish", "O", finish="other", usage=None),),
        (f"{CORE}::test_an_end_marker_after_text_but_no_finish_is_flagged_and_after_nothing_an_error",),
    ),
    Row(17, "empty_body", "error", (never("empty_body", "AORG", CUT), again("empty_body", "AORG"))),
    Row(
        18,
        "error_mid",
        "error, message sanitized",
        (failed("error_mid", "AORG", REPORTED), failed("r_failed_mid", "R", REPORTED)),
    ),
    Row(
        19,
        "error_mid_open",
        "error <= 0.3 s",
        (failed("error_mid_open", "AORG", REPORTED), failed("r_failed_mid_open", "R", REPORTED)),
    ),
    Row(
        20,
        "error_first / 429 / 529",
        "retried within budget or error, no empty card",
        (
            again("error_first", "AORG"),
            never("error_first", "AORG", REPORTED),
            again("429", "AORG", (1.0, 1.25)),
            never("429", "AORG", "answered 429", (2.0, 2.75)),
            again("529", "AORG", (1.0, 1.25)),
            never("529", "AORG", "answered 529", (2.0, 2.75)),
        ),
    ),
    Row(
        21,
        "json_200 / html_200",
        "error",
        (
            failed("json_200", "AORG", "one JSON document instead of an event stream: no such model", text=""),
            failed("html_200", "AORG", "a web page instead of an event stream", text=""),
        ),
    ),
    Row(
        22,
        "stall_after_2",
        "error at idle_bytes",
        (failed("stall_after_2", "AORG", "sent nothing for 60 s", 60.0, **SLOW),),
    ),
    Row(
        23,
        "pings_forever",
        "error at idle_events",
        (
            failed("pings_forever", "AORG", "only keep-alives for 300 s", 300.0, scale=300),
            failed("comments_forever", "AORG", "only keep-alives for 300 s", 300.0, scale=300),
        ),
    ),
    Row(24, "slow_thinking", "done", (Case(("slow_thinking",), "AORG", took=(100.0, 100.0), step=20.0),)),
    Row(
        25,
        "no_headers",
        "error at first_byte",
        (
            never("no_headers", "AORG", "did not answer within 60 s", (181.5, 212.25), **SLOW),
            again("no_headers", "AORG", (60.5, 90.75), **SLOW),
            Case(("slow_headers",), "AORG", took=(30.0, 30.0), step=20.0),
        ),
    ),
    Row(
        26,
        "rst_on_connect, refused, DNS fail",
        "retried before the first chunk only",
        (
            again("rst_on_connect", "AORG"),
            never("rst_on_connect", "AORG", ""),
        ),
        (
            "tests/test_guard_retry.py::test_what_fails_after_it_spoke_is_not",
            f"{TRANSPORT}::test_errors_of_connecting_stay_what_they_are",
            f"{SAME}::test_a_provider_that_is_not_there_is_told",
        ),
    ),
    Row(27, "comments", "done", (done("comments", "AORG"),)),
    Row(28, "crlf, cr, mixed", "done", tuple(done(each, "AORG") for each in ("crlf", "cr", "mixed"))),
    Row(29, "crlf_split", "done, no empty events", (done("crlf_split", "AORG"),)),
    Row(30, "bytewise", "the text intact", (done("bytewise", "AORG"),)),
    Row(31, "bom", "done, first event kept", (done("bom", "AORG"),)),
    Row(32, "nospace", "done", (done("nospace", "AORG"),)),
    Row(33, "a_noevent / r_noevent", "done", (done("a_noevent", "A"), done("r_noevent", "R"))),
    Row(34, "multi_data", "done", (done("multi_data", "AORG"),)),
    Row(35, "last_no_blank", "done", (done("last_no_blank", "AORG"),)),
    Row(36, "u2028", "identical text", (done("u2028", "AORG", text="a\u2028b\u2029c\u0085d"),)),
    Row(37, "bad_json", "error", (failed("bad_json", "AORG", NOT_JSON, text="Hello, "),)),
    Row(
        38,
        "big_event",
        "done; over the cap: error, bounded memory",
        (done("big_event", "AORG", text=BIG, heavy=frozenset(f"pydantic-ai-{wire}" for wire in "ORG")),),
        (
            f"{SDK}::test_an_unfinished_answer_is_an_error",
            f"{CORE}::test_no_more_than_one_event_is_kept",
            f"{CORE}::test_an_event_that_is_too_large_is_an_error_also_when_it_came_at_once",
        ),
    ),
    Row(
        39,
        "gzip",
        "done, deltas arrive incrementally",
        (done("gzip", "AORG", 0.15),),
        (f"{TRANSPORT}::test_a_compressed_stream_comes_as_it_is_flushed",),
    ),
    # Gemini has no end marker, so nothing tells an answer from what follows it.
    Row(40, "garbage_after_done", "ignored", (done("garbage_after_done", "AOR"),)),
    Row(41, "double_finish", "text kept inside grace, one finish", (done("double_finish", "AOG"),)),
    Row(
        42,
        "tools_parallel",
        "2 tool-input-available, right args",
        (called("tools_parallel", "AORG", *CITIES, outputs=("clear over 北京", "clear over Zürich")),),
    ),
    Row(43, "tools_no_args", "args {}", (called("tools_no_args", "AORG", {}, outputs=("noon",)),)),
    Row(
        44,
        "tools_no_index / repeated id",
        "one call",
        tuple(
            called(each, "O", CITIES[0], outputs=("clear over 北京",))
            for each in ("tools_no_index", "tools_repeated_id")
        ),
    ),
    Row(
        45,
        "tools_cut",
        "error; tool not executed",
        (failed("tools_cut", "AORG", text="", calls=(("output-error", ANY, ANY),)),),
        (f"{SAME}::test_calls_of_an_answer_without_a_finish_are_not_run",),
    ),
    Row(
        46,
        "tools_max_tokens",
        "tool-input-error, not executed",
        (failed("tools_max_tokens", "AOR", "not run", text="", usage=42, calls=(("output-error", ANY, ANY),)),),
        (f"{SAME}::test_calls_that_a_limit_or_a_filter_cut_are_not_run",),
    ),
    Row(
        47,
        "thinking",
        "reasoning-*; never in text; signature kept",
        (
            done(
                "thinking",
                "AORG",
                thoughts="Let me think.",
                signed=(None,),
                other={
                    "A": {"signed": ({"anthropic": {"signature": SIGNATURE}},)},
                    "G": {"signed": ({"google": {"thoughtSignature": SIGNATURE}},)},
                },
            ),
            done("o_reasoning", "O", thoughts="Let me think.", signed=(None,)),
        ),
        (f"{SAME}::test_a_thought_goes_back_to_gemini_with_its_signature",),
    ),
    Row(
        48,
        "filter / refusal / blocked",
        "finishReason content-filter",
        (
            filtered("filter", "AORG", HALF),
            filtered("refusal", "AOR", "I cannot help."),
            filtered("blocked", "G", "", usage=30, other={"pydantic-ai": {"text": f"*{WITHHELD}*"}}),
        ),
    ),
    Row(
        49,
        "proxy_env",
        "done",
        tests=(
            f"{SDK}::test_proxies_of_the_environment_are_ignored",
            "tests/test_agents_pydantic_ai.py::test_proxies_of_the_environment_are_ignored",
        ),
    ),
    Row(
        50,
        "client_disconnect / user stop",
        "abort chunk, final update sent, upstream socket closed <= 1 s",
        tests=(
            f"{SAME}::test_a_stop_ends_the_turn_and_the_providers_stream",
            "tests/test_runner.py::test_leaving_does_not_stop_a_turn",
        ),
    ),
    Row(
        51,
        "cancel_twice",
        "final update still sent exactly once",
        tests=("tests/test_runner.py::test_a_cancelled_owner_still_writes_the_last_word_once",),
    ),
    Row(
        52,
        "timeout_on_consumer",
        "nothing lost",
        tests=(
            f"{TRANSPORT}::test_a_timeout_on_one_read_loses_nothing",
            f"{TRANSPORT}::test_a_slow_reader_loses_nothing_and_its_time_does_not_count",
        ),
    ),
    Row(
        53,
        "break_without_close",
        "upstream socket closed by turn finally",
        tests=(
            f"{SAME}::test_an_agent_that_leaves_its_loop_leaves_no_stream_open",
            f"{CLOSING}::test_a_stream_that_nobody_reads_on_is_closed_with_the_turn",
        ),
    ),
    Row(
        54,
        "aclose_stuck",
        "turn ends <= 1 s",
        tests=(f"{CLOSING}::test_closing_takes_a_second_at_most_whatever_is_below",),
    ),
    Row(55, "keepalive_reuse", "1 TCP connection", tests=(f"{SDK}::test_six_answers_need_one_connection",)),
    Row(
        56,
        "burst_10k",
        "bounded queue, coalesced updates, full text",
        (
            done(
                "burst_10k",
                "AORG",
                text=MANY,
                heavy=frozenset((*(f"pydantic-ai-{wire}" for wire in "AORG"), *(f"sdk-{wire}" for wire in "ORG"))),
            ),
        ),
        (
            f"{TRANSPORT}::test_what_waits_for_its_reader_is_bounded",
            "tests/test_journal.py::test_deltas_that_wait_for_the_same_commit_become_one_record",
        ),
    ),
    Row(
        57,
        "cli_retry_restream",
        "reset-step, text once",
        tests=(
            f"{CLI}::test_a_stream_that_broke_is_told_again_and_shown_once",
            f"{CASES}::test_claude_answers_that_were_cut_are_told_again_once",
        ),
    ),
    Row(
        58,
        "cli_nonstream_fallback",
        "text = authoritative, once",
        tests=(
            f"{CLAUDE}::test_a_fallback_after_a_broken_stream_replaces_it",
            f"{CLAUDE}::test_text_that_differs_from_what_was_streamed_wins_for_its_block_alone",
        ),
    ),
    Row(
        59,
        "cli_api_error",
        "error, not text",
        tests=(
            f"{CLAUDE}::test_what_is_no_success_is_an_error",
            f"{CLI}::test_errors_of_the_provider_are_errors_and_hold_no_secrets",
            f"{CASES}::test_claude_failures_are_failures",
        ),
    ),
    Row(
        60,
        "cli_max_tokens",
        "not shown",
        tests=(
            f"{CLI}::test_the_output_limit_goes_on_and_at_last_fails",
            f"{CLAUDE}::test_what_the_cli_tells_the_model_is_not_shown",
        ),
    ),
    Row(
        61,
        "cli_interrupt mid / after finish",
        "abort / done",
        tests=(
            f"{CLI}::test_a_turn_stopped_in_its_text_keeps_it_and_the_session_goes_on",
            f"{CASES}::test_claude_stopped_after_the_provider_had_finished_keeps_the_whole_answer",
        ),
    ),
    Row(
        62,
        "cli_killed",
        "error, no orphan",
        tests=(
            f"{CLI}::test_a_killed_process_fails_its_turn",
            f"{CLI}::test_two_cancels_leave_no_process",
        ),
    ),
    Row(
        63,
        "cli_anext_timeout",
        "no message lost",
        tests=(f"{CASES}::test_claude_loses_no_message_when_a_deadline_passes_while_it_is_waited_for",),
    ),
    Row(
        64,
        "cli_guard_proxy",
        "done/error in seconds, not 300 s",
        tests=(
            f"{CLI}::test_behind_the_guard_a_whole_answer_ends_at_once",
            f"{CLI}::test_behind_the_guard_a_stalled_answer_is_asked_for_again_in_seconds",
            f"{CASES}::test_claude_whole_answers_are_done",
            "tests/test_guard_proxy.py::test_a_whole_answer_ends_whatever_the_provider_does",
        ),
    ),
    Row(
        65,
        "durable_replay",
        "chunks before the crash come from our log, no duplicates",
        tests=(
            "tests/test_kill.py::test_after_kill_9_every_turn_has_one_end_and_nothing_shown_is_missing",
            "tests/test_kill.py::test_fifty_restarts_lose_repeat_and_reorder_nothing",
        ),
    ),
    # agno and strands have no adapter here.
    Row(
        66,
        "agno_error_value, openai-agents R error, strands empty final",
        "error",
        tests=(
            f"{CASES}::test_an_unfinished_answer_fails_and_what_was_said_stays",
            "tests/test_frameworks_openai_agents.py::test_failures",
        ),
    ),
    Row(67, "real_llm", ">= 20 deltas, usage, finish", tests=(f"{SAME}::test_a_real_model_over_three_wires",)),
)
