"""What the platform's codes mean: every one of the documents has its action."""

from __future__ import annotations

import pytest

from turnwire.channels.feishu import errors
from turnwire.channels.feishu.errors import receipt_of, wait_of
from turnwire.delivery.outcomes import Cause

# Calls on cards.
CARD: dict[Cause, tuple[int, ...]] = {
    # Not now, nothing was applied.
    "busy": (200810, 300120, 300000, 2200, 1663, 99991400),
    # A higher number, the newest content.
    "stale": (300317, 200770),
    # Opened once more, or left for the final update.
    "expired": (200510, 200850, 300309),
    # Shown more plainly.
    "content": (
        99992402, 200220, 200610, 200860, 300301, 300302, 300303, 300305, 300307, 300310, 300312, 300313, 300314,
        300315, 300121, 300122,
    ),
    # Another way of showing.
    "rung": (10002, 300311, 99991672, 99991679),
    # A new card.
    "spent": (200740, 200750, 200780),
    # For an operator.
    "barred": (99991401, 99991403),
}  # fmt: skip
# Calls on messages, files and reactions.
MESSAGE: dict[Cause, tuple[int, ...]] = {
    "busy": (230020, 230049, 2200, 11232, 11233, 11247, 232096, 231015),
    "content": (
        230001, 230015, 230017, 230022, 230025, 230028, 230055, 230099, 11246, 234001, 234003, 234006, 234010, 234011,
        234037, 234039, 231001,
    ),
    "rung": (230019, 230027, 230050, 230054, 230071, 230072, 230075, 230111, 231002, 234041, 234042, 234043),
    "spent": (230031,),
    "gone": (230011, 230110, 231003, 1000023, 99992354),
    "barred": (230002, 230006, 230013, 230018, 230029, 230034, 230035, 230038, 230053, 232009, 234007),
}  # fmt: skip
CASES = [
    (op, code, cause)
    for ops, table in ((("card",), CARD), (("send", "reply", "patch", "upload"), MESSAGE))
    for op in ops
    for cause, codes in table.items()
    for code in codes
]


def test_every_code_has_its_action() -> None:
    found = [(op, code, receipt_of(op, code, "some words").cause) for op, code, _ in CASES]
    assert found == CASES


def test_every_refusal_names_its_code_and_no_words_of_the_platform() -> None:
    for op, code, _ in CASES:
        receipt = receipt_of(op, code, "the secret words")
        assert receipt.kind == "refused"
        assert str(code) in receipt.reason
        assert "secret" not in receipt.reason


def test_only_zero_is_a_success() -> None:
    assert receipt_of("send", 0, "anything").ok
    assert not receipt_of("send", -1, "ok").ok
    assert receipt_of("send", 987654321, "").cause == "rung"


def test_a_token_that_is_over_is_known_by_each_of_its_codes() -> None:
    assert {99991661, 99991663, 99991664, 99991665, 99991671} == errors.TOKEN


def test_one_number_has_two_meanings() -> None:
    assert receipt_of("edit", 230072, "").reason != receipt_of("reply", 230072, "").reason


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        ("Failed to create card content, ext=ErrCode: 11310; ErrMsg: card table number over limit; ErrorValue: table; ",
         "content"),
        ("Failed to create card content, ext=ErrCode: 11310; ErrMsg: element exceeds the limit; ", "content"),
        ("Failed to create card content, ext=ErrCode: 11310; ErrMsg: card action is lock; ", "busy"),
        ("Failed to create card content, ext=ErrCode: 200780; ErrMsg: card binding count over limit; ", "spent"),
        ("Failed to create card content, ext=ErrCode: 200740; ErrMsg: cardid is invalid; ErrorValue: 7; ", "busy"),
        ("Failed to create card content, ext=ErrCode: 200621; ErrMsg: parse card json err; ", "content"),
        ("Failed to create card content", "content"),
    ],
)  # fmt: skip
def test_the_code_inside_a_refused_card_decides(words: str, cause: str) -> None:
    assert receipt_of("reply", 230099, words).cause == cause


def test_an_element_that_is_not_known_everywhere_yet_is_waited_for() -> None:
    assert receipt_of("card", 300313, "update failed: not find elementID : text_0").cause == "busy"
    assert receipt_of("card", 300313, "update failed: unknown property").cause == "content"


def test_the_reset_of_a_limit_is_read() -> None:
    assert wait_of({"x-ogw-ratelimit-reset": "52"}) == 52.0
    assert wait_of({"x-ogw-ratelimit-reset": "soon"}) is None
    assert wait_of({}) is None
    assert receipt_of("card", 99991400, "", 52.0).wait_s == 52.0
