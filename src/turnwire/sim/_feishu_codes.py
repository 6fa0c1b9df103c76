"""The refusals of Feishu: their codes and texts.

Guarantee: one table; whoever refuses names a code and gets the platform's words for it. Texts that no document gives
are ours and say what was wrong.
"""

from __future__ import annotations

from collections.abc import Mapping

TEXTS: Mapping[int, str] = {
    10002: "Your request contains an invalid request parameter.",
    10003: "invalid param",
    10014: "app secret invalid",
    2200: "Internal Error",
    99991400: "request trigger frequency limit",
    99991401: "denied by ip",
    99991403: "request exceeds the monthly quota",
    99991661: "Missing access token for authorization. Please make a request with token attached.",
    99991663: "Invalid access token for authorization. Please make a request with token attached.",
    99991671: "Invalid access token for authorization. The access token must start with t- or u-.",
    99991672: "Access denied. The app lacks the scope that this API requires.",
    99992354: "The request you send is not a valid {message_id}; it does not exist.",
    99992402: "field validation failed",
    200220: "Failed to generate card content",
    200510: "Card streaming timeout",
    200610: "body is nil",
    200740: "The card entity does not exist",
    200750: "The card entity has expired",
    200770: "UUID conflict",
    200810: "The card is in an ongoing interaction and cannot be updated",
    200850: "Card streaming timeout",
    200860: "Card content exceeds limit.",
    230001: "Your request contains an invalid request parameter.",
    230002: "The bot can not be outside the group.",
    230006: "Bot ability is not activated.",
    230011: "The message was withdrawn.",
    230013: "Bot has NO availability to this user.",
    230017: "Bot is NOT the owner of the resource.",
    230018: "These operations are NOT allowed at current group settings.",
    230019: "The topic does NOT exist.",
    230020: "This operation triggers the frequency limit.",
    230022: "The content of the message contains sensitive information.",
    230025: "The length of the message content reaches its limit.",
    230026: "No permission to recall this message.",
    230027: "Lack of necessary permissions.",
    230028: "The messages do NOT pass the audit.",
    230029: "The user has resigned.",
    230031: "The message has expired and can not be updated.",
    230034: "The receive_id is invalid.",
    230035: "Send Message Permission deny.",
    230049: "The message is being sent.",
    230050: "The message is invisible to the operator.",
    230053: "The user has stopped the bot from sending messages.",
    230054: "This operation is not supported for this message type.",
    230055: "The type of file upload does not match the type of message being sent.",
    230071: "The group does not support reply in thread.",
    230072: "The message has been edited 20 times and can not be edited any more.",
    230075: "The message can not be edited any more; the time set by the tenant is over.",
    230099: "Failed to create card content",
    230110: "The message has been deleted.",
    231001: "The reaction type is invalid.",
    231002: "No permission to react to this message.",
    231003: "The message is not found.",
    231007: "The reaction is not yours.",
    232009: "Your request specifies a chat which has already been dissolved.",
    232011: "Operator can NOT be out of the chat.",
    234001: "Invalid request param.",
    234002: "Unauthorized.",
    234003: "File not in msg.",
    234004: "The app is not in the chat.",
    234006: "The file size exceeds the max value.",
    234010: "The file's size can't be 0.",
    234011: "Can't recognize the image format.",
    234037: "The file is too large to be downloaded.",
    234039: "The image resolution exceeds the limit.",
    234043: "Unsupported message type.",
    300000: "internal error",
    300120: "Server internal error",
    300121: "Failed to replace element",
    300122: "Failed to update card configuration",
    300301: "Duplicate element_id in card component.",
    300302: "update_multi property is false",
    300303: "Only schema 2.0 is supported",
    300305: "The number of card components exceeds 200",
    300307: "The card DSL is empty",
    300309: "streaming mode is closed",
    300310: "The element is not a text element",
    300311: "The current application does not have permission to update/use this card",
    300312: "Unable to update element tag",
    300313: "Failed to update element properties",
    300314: "Failed to delete element",
    300315: "Failed to add element",
    300317: "sequence number compare failed",
}

TERMINAL = frozenset(
    {230002, 230006, 230011, 230013, 230029, 230053, 230110, 231003, 232009, 99992354, 200740, 200750, 300311}
)
"""After one of these about an object, a client gains nothing from another call about it."""

STREAM_OVER = frozenset({200510, 200850, 300309})
"""After one of these, a client gains nothing from another stream of text into the card before it opens it anew."""


class Refused(Exception):
    """An answer with a code other than 0.

    Args:
        code: the business code.
        msg: its text; by default that of the platform.
        status: of HTTP.
        headers: further headers of the answer.
    """

    def __init__(
        self, code: int, msg: str = "", *, status: int = 400, headers: Mapping[str, str] | None = None
    ) -> None:
        self.code = code
        self.msg = msg or TEXTS.get(code, "failed")
        self.status = status
        self.headers = dict(headers or {})
        super().__init__(f"{code} {self.msg}")


class BadCard(Exception):
    """A card that the platform does not take; CardKit and IM say it in different codes.

    Args:
        code: as CardKit says it.
        inner, said, value: the `ErrCode`, `ErrMsg` and `ErrorValue` inside 230099, as IM says it.
    """

    def __init__(self, code: int, msg: str = "", *, inner: int = 0, said: str = "", value: str = "") -> None:
        self.code = code
        self.msg = msg or TEXTS.get(code, "failed")
        self.inner = inner or code
        self.said = said or self.msg
        self.value = value
        super().__init__(f"{code} {self.msg}")

    def in_card(self) -> Refused:
        """The refusal of a call of CardKit."""
        return self.in_message() if self.code == 230099 else Refused(self.code, self.msg)

    def in_message(self) -> Refused:
        """The refusal of a message with the card in it."""
        if self.code == 200860:
            return Refused(230025)
        text = f"ErrCode: {self.inner}; ErrMsg: {self.said}; ErrorValue: {self.value}; "
        return Refused(230099, f"Failed to create card content, ext={text}")


def invalid(field: str, why: str) -> Refused:
    """99992402 about one field of a request."""
    return Refused(99992402, f"field validation failed: {field}: {why}")
