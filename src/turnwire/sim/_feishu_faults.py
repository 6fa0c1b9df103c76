"""How calls of the simulated platform go wrong.

Guarantee: each kind says exactly one thing about a call: whether it was applied, and what its client learns.
"""

from __future__ import annotations

from ._feishu_cards import close_stream
from ._feishu_codes import Refused
from ._feishu_im import withdraw
from ._feishu_rates import refusal
from ._feishu_state import Card, Message, Tenant
from .faults import Fault

KINDS = {
    "refuse": "The call is refused with `code` and not applied; 99991400 says to come again in `seconds`.",
    "refuse_after_applying": "The call is applied, and its answer is the refusal with `code`.",
    "timeout_before_applying": "The call is not applied and never answered.",
    "timeout_after_applying": "The call is applied and never answered.",
    "reset_before_applying": "The call is not applied; the connection is reset.",
    "reset_after_applying": "The call is applied; the connection is reset.",
    "bad_gateway": "The call is not applied; the answer is 502 with a page of HTML.",
    "bad_gateway_after_applying": "The call is applied; the answer is 502 with a page of HTML.",
    "slow": "The call is applied `seconds` later.",
    "slow_answer": "The call is applied at once and answered `seconds` later.",
    "drop": "The answer is a success, and nothing was applied.",
    "recall": "Somebody recalls the message of the call before it is applied.",
    "delete": "The message of the call ceases to exist before it is applied.",
    "close_stream": "The streaming mode of the card is off before the call is applied: 300309 for content.",
    "time_out_stream": "The streaming mode of the card has timed out before the call is applied: 200850 for content.",
    "lock": "A click locks the card for `seconds` before the call is applied: 200810.",
    "expire_token": "The app's tokens are invalid from now on: 99991663.",
    "lag": "What the call makes stays unknown to other calls for `seconds`.",
}
BEFORE = {"timeout_before_applying", "reset_before_applying", "bad_gateway", "drop", "refuse"}
STATE = {"recall", "delete", "close_stream", "time_out_stream", "lock", "expire_token"}
GATEWAY_PAGE = b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>nginx</body>\r\n</html>\r\n"


def refused(fault: Fault) -> Refused:
    """The refusal that a fault answers with."""
    if fault.code == 99991400:
        return refusal(99991400, 100, fault.seconds or 1.0)
    said = Refused(fault.code or 2200)
    if fault.code == 230099:
        text = "ErrCode: 11310; ErrMsg: card table number over limit; ErrorValue: table; "
        said = Refused(230099, f"Failed to create card content, ext={text}")
    return said


def change_state(tenant: Tenant, fault: Fault, message: Message | None, card: Card | None) -> None:
    """What happens to the tenant right before a call is applied."""
    match fault.kind:
        case "recall" | "delete" if message is not None:
            withdraw(tenant, message)
            message.gone = "deleted" if fault.kind == "delete" else "recalled"
        case "close_stream" if card is not None:
            close_stream(card)
        case "time_out_stream" if card is not None:
            card.streaming, card.timed_out, card.told = False, True, False
        case "lock" if card is not None:
            card.locked_until = tenant.now() + fault.seconds
        case "expire_token":
            for app in tenant.apps.values():
                app.tokens.clear()
