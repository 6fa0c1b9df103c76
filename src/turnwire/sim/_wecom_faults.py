"""How calls to the simulated platform, and what it tells bots, go wrong.

Guarantee: each kind says exactly one thing: whether a frame was taken, what its sender learns, and what becomes of the
connection.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

from ._wecom_codes import Refused
from ._wecom_observer import ALL_OPS
from ._wecom_state import Platform
from .faults import Fault, Faults

KINDS = {
    "refuse": "The frame is refused with `code` and not taken.",
    "refuse_after_applying": "The frame is taken, and its answer is the refusal with `code`.",
    "orphan": "The frame is refused with `code` (40058) in an answer without its request id.",
    "orphan_after_applying": "The frame is taken, and the refusal comes without its request id.",
    "lost": "The frame is neither taken nor answered.",
    "ack_lost": "The frame is taken and never answered.",
    "ack_late": "The frame is taken at once and answered `seconds` (6) later.",
    "slow": "The frame is taken, and answered, `seconds` later.",
    "drop": "The answer is a success, and nothing was taken.",
    "reset_before_applying": "The frame is not taken; the connection is reset.",
    "reset_after_applying": "The frame is taken; the connection is reset.",
    "close_before_applying": "The frame is not taken; the connection is closed with code 1000.",
    "close_after_applying": "The frame is taken; the connection is closed with code 1000.",
    "half_open": "The frame is not taken, and the connection is silent from now on, without being closed.",
    "kick": "Another client subscribes first: disconnected_event, 846609, and the close after `kick_close` seconds.",
    "kick_without_close": "As `kick`, but the connection is never closed.",
    "expire_stream": "The streams of the request id are over before the frame is looked at: 846608.",
    "expire_req_id": "The request id is too old before the frame is looked at: 846604.",
}
EVENT_KINDS = {
    "duplicate": "For `callback` and `post`: it is sent twice, with the same msgid.",
    "delay": "For `callback` and `post`: it is sent `seconds` later.",
    "lose": "For `callback` and `post`: it is never sent.",
    "reset": "For `callback`: the connection is reset instead of carrying it.",
    "close": "For `callback`: the connection is closed with code 1000 instead of carrying it.",
}
KICKS = {"kick", "kick_without_close"}
UNTAKEN = {"lost", "reset_before_applying", "close_before_applying", "half_open"}
_HTTP = {"refuse", "lost", "ack_lost", "slow", *(kind for kind in KINDS if kind.startswith(("reset_", "close_")))}
_FITTING = {
    "callback": set(EVENT_KINDS),
    "post": {"duplicate", "delay", "lose"},
    "poll": {"lose"},
    "download": _HTTP,
    "response_url": _HTTP,
}


class WecomFaults(Faults):
    """Faults of which each concerns only operations that its kind has a meaning for."""

    def add(self, *faults: Fault) -> None:
        """As with all faults; one that could never happen raises `ValueError`."""
        for fault in faults:
            fitting = [op for op in ALL_OPS if fault.kind in _FITTING.get(op, KINDS)]
            if fault.kind in self.kinds and not any(fnmatchcase(op, fault.op) for op in fitting):
                raise ValueError(f"fault {fault.kind}: no operation is like {fault.op!r}; one of {', '.join(fitting)}")
        super().add(*faults)

    def draw(self, op: str, *targets: str) -> Fault | None:
        """The fault of a call; those whose kind has no meaning for it do not count it."""
        every = self.pending
        self.pending = [fault for fault in every if fault.kind in _FITTING.get(op, KINDS)]
        fitting = {id(fault) for fault in self.pending}
        drawn = super().draw(op, *targets)
        over = fitting - {id(fault) for fault in self.pending}
        self.pending = [fault for fault in every if id(fault) not in over]
        return drawn


def refusal(fault: Fault) -> Refused:
    """The refusal that a fault answers with."""
    orphan = fault.kind.startswith("orphan")
    return Refused(fault.code or (40058 if orphan else -1), orphan=orphan)


def change_state(platform: Platform, fault: Fault, req_id: str) -> None:
    """What happens to the platform right before a frame is looked at."""
    callback = platform.callbacks.get(req_id)
    if callback is None:
        return
    if fault.kind == "expire_stream":
        for stream in callback.streams.values():
            stream.forced = not stream.finished
    elif fault.kind == "expire_req_id":
        callback.expired = True
