"""A strict reader of the AI SDK UI message stream, written from the protocol's description and nothing else.

Guarantee: `StrictClient` raises `ProtocolViolation`, naming the rule, at the first event that some supported client
would refuse or that breaks one of the promises a Turnwire stream makes beyond that. What it accepted it folds as the
real client does. It shares no code with the package.

`message()` is the message of version 7 (version 5 files some keys of tools and files elsewhere). What it leaves out of
what the real client holds: keys without a value, and the `input` that it guesses while a call's arguments stream
(`rawInput` has their text).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from copy import deepcopy

from tests.wire_schema import Event, Json, ProtocolViolation, Version, check_form

__all__ = ["Event", "ProtocolViolation", "StrictClient", "Version", "comparable", "parse_events", "parse_sse"]

_IN_STEP = {"file", "reasoning-file", "custom", "source-url", "source-document"}
_ANSWERED = {"output-available", "output-error", "output-denied"}


class StrictClient:
    """Reads one turn's events, one by one.

    Args:
        message: the message that the stream goes on with, as the client holds it.
        version: "5-strict" is `ai` 5.0.60 and "6" is 6.0.20, which refuse every unknown key; "5" is 5.0.277, which
            refuses unknown types; "7" knows all types of the tables.
    """

    def __init__(self, version: Version = "7", message: Event | None = None) -> None:
        self.version = version
        self.finished = False
        self.finish_reason: str | None = None
        self.error: str | None = None
        self.aborted = False
        self.transient: list[Event] = []
        self.count = 0
        self._id = ""
        self._metadata: Json = None
        self._parts: list[Event] = []
        self._step_open = False
        self._text: dict[str, Event] = {}
        self._reasoning: dict[str, Event] = {}
        self._text_ids: dict[str, Event] = {}
        self._tools: dict[str, Event] = {}
        self._asked_aside: set[str] = set()
        self._inherited = 0
        if message is not None:
            self._id, self._metadata, self._parts = message["id"], message.get("metadata"), deepcopy(message["parts"])
            self._tools = {part["toolCallId"]: part for part in self._parts if "toolCallId" in part}
            self._inherited = len(self._parts)

    def feed(self, event: Event) -> None:
        """Takes the next event; raises `ProtocolViolation`."""
        kind = check_form(event, self.version)
        self._check_place(kind, event)
        self.count += 1
        if kind.startswith("data-"):
            self._on_data(event)
        elif kind in _IN_STEP:
            self._parts.append(_present(event))
        elif kind.startswith(("text-", "reasoning-")):
            self._on_text(kind, event)
        elif kind.startswith("tool-"):
            self._on_tool(kind, event)
        else:
            getattr(self, "_on_" + kind.replace("-", "_"))(event)

    def feed_all(self, events: Iterable[Event]) -> StrictClient:
        """Takes several events."""
        for event in events:
            self.feed(event)
        return self

    def end(self) -> Event:
        """The stream ended here; raises if the turn did not. Returns the message."""
        if not self.finished:
            raise ProtocolViolation("one-finish", "the stream ended without finish")
        return self.message()

    def message(self) -> Event:
        """The message as the client holds it now."""
        message: Event = {"id": self._id, "role": "assistant", "parts": deepcopy(self._parts)}
        if self._metadata is not None:
            message["metadata"] = deepcopy(self._metadata)
        return message

    # Its place in the stream

    def _check_place(self, kind: str, event: Event) -> None:
        if self.finished:
            raise ProtocolViolation("finish-last", f"{kind} after finish")
        if (kind == "start") != (self.count == 0):
            raise ProtocolViolation("one-start", f"{kind} as event number {self.count}")
        if (self.error is not None or self.aborted) and kind != "finish":
            raise ProtocolViolation("before-finish", f"{kind} between error or abort and finish")
        if kind in ("error", "abort", "finish"):
            if self._text or self._reasoning:
                raise ProtocolViolation("closed-before-end", f"{kind} while a part is open")
            if self._step_open:
                raise ProtocolViolation("closed-before-end", f"{kind} while a step is open")
            self._check_all_answered(kind)
        elif kind.startswith("tool-") and (self._text or self._reasoning):
            raise ProtocolViolation("closed-before-tools", f"{kind} while a part is open")
        lasting_data = kind.startswith("data-") and not event.get("transient")
        opens = kind.startswith(("text-", "reasoning-", "tool-input-")) or kind in _IN_STEP or lasting_data
        if opens and not self._step_open:
            raise ProtocolViolation("inside-a-step", f"{kind} outside a step")

    def _check_all_answered(self, kind: str) -> None:
        for call_id, part in self._tools.items():
            waiting_for_person = part["state"] == "approval-requested" or call_id in self._asked_aside
            if (part["state"] not in _ANSWERED or part.get("preliminary")) and not waiting_for_person:
                raise ProtocolViolation("answered-once", f"{kind} while tool call {call_id!r} has no answer")

    # The frame of a turn

    def _on_start(self, event: Event) -> None:
        if not event.get("messageId"):
            raise ProtocolViolation("message-id", "start names no message")
        if self._inherited and event["messageId"] != self._id:
            raise ProtocolViolation("message-id", "start names another message than the one it goes on with")
        self._id = event["messageId"]
        self._merge(event)

    def _on_finish(self, event: Event) -> None:
        self.finished = True
        self.finish_reason = event.get("finishReason")
        self._merge(event)

    def _on_abort(self, event: Event) -> None:
        self.aborted = True

    def _on_error(self, event: Event) -> None:
        self.error = event["errorText"]

    def _on_message_metadata(self, event: Event) -> None:
        self._merge(event)

    def _merge(self, event: Event) -> None:
        if "messageMetadata" in event:
            self._metadata = _merged(self._metadata, event["messageMetadata"])

    def _on_start_step(self, event: Event) -> None:
        if self._step_open:
            raise ProtocolViolation("steps", "start-step inside a step")
        self._step_open = True
        self._parts.append({"type": "step-start"})

    def _on_finish_step(self, event: Event) -> None:
        if not self._step_open:
            raise ProtocolViolation("steps", "finish-step outside a step")
        if self._text or self._reasoning:
            raise ProtocolViolation("closed-before-step-end", "finish-step while a part is open")
        for part in self._step_parts():
            if part.get("state") == "input-streaming":
                raise ProtocolViolation("closed-before-step-end", "finish-step while arguments stream")
        self._step_open = False

    def _on_reset_step(self, event: Event) -> None:
        if not self._step_open:
            raise ProtocolViolation("steps", "reset-step outside a step")
        gone = self._step_parts()
        if len(self._parts) - len(gone) < self._inherited:
            raise ProtocolViolation("steps", "reset-step before the first step")
        del self._parts[len(self._parts) - len(gone) :]
        self._text.clear()
        self._reasoning.clear()
        for known in (self._tools, self._text_ids):
            for own in [own for own, part in known.items() if any(part is other for other in gone)]:
                del known[own]

    def _step_parts(self) -> list[Event]:
        starts = [index for index, part in enumerate(self._parts) if part["type"] == "step-start"]
        return self._parts[starts[-1] + 1 :] if starts else self._parts[:]

    # Parts

    def _on_text(self, kind: str, event: Event) -> None:
        word, _, act = kind.partition("-")
        own, other = (self._text, self._reasoning) if word == "text" else (self._reasoning, self._text)
        part_id = event["id"]
        if act == "start":
            if other:
                raise ProtocolViolation("no-interleaving", f"{kind} while the other kind is open")
            if part_id in self._text_ids:
                raise ProtocolViolation("fresh-part-id", f"{kind} repeats the id {part_id!r}")
            part: Event = {"type": word, "text": "", "state": "streaming"}
            if word == "reasoning" and self.version in ("5", "7"):
                part["id"] = part_id
            own[part_id] = self._text_ids[part_id] = part
            self._parts.append(part)
        elif part_id not in own:
            raise ProtocolViolation("opened-before-deltas", f"{kind} for {part_id!r}, which is not open")
        else:
            part = own[part_id]
        if act == "delta":
            part["text"] += event["delta"]
        if act == "end":
            part["state"] = "done"
            del own[part_id]
        if "providerMetadata" in event:
            part["providerMetadata"] = event["providerMetadata"]

    def _on_data(self, event: Event) -> None:
        if event.get("transient"):
            self.transient.append(event)
            record = event["data"].get("record", {}) if event["type"] == "data-turnwire" else {}
            if record.get("type") == "tool-approval-request":
                self._asked_aside.add(record["toolCallId"])
            return
        for part in self._parts:
            if "id" in event and (part["type"], part.get("id")) == (event["type"], event["id"]):
                part["data"] = event["data"]
                return
        self._parts.append(_present(event))

    # Tools

    def _on_tool(self, kind: str, event: Event) -> None:
        if kind == "tool-approval-response":
            self._on_approval(event)
            return
        part = self._tools.get(event["toolCallId"])
        if kind.startswith("tool-input-"):
            part = self._on_input(kind, event, part)
        elif part is None:
            raise ProtocolViolation("known-call", f"{kind} for {event['toolCallId']!r}, which was never called")
        elif kind == "tool-approval-request":
            self._require_state(kind, part, "input-available")
            part["state"] = "approval-requested"
            part["approval"] = {"id": event["approvalId"]}
        else:
            self._on_output(kind, event, part)
        if "providerExecuted" in event:
            part["providerExecuted"] = event["providerExecuted"]
        if "providerMetadata" in event:
            side = "result" if part["state"].startswith("output-") else "call"
            part[f"{side}ProviderMetadata"] = event["providerMetadata"]

    def _on_input(self, kind: str, event: Event, part: Event | None) -> Event:
        dynamic = bool(event.get("dynamic"))
        if part is None:
            if kind == "tool-input-delta":
                raise ProtocolViolation("known-call", "arguments of a call that was never opened")
            part = {"type": "dynamic-tool" if dynamic else "", "toolCallId": event["toolCallId"]}
            self._tools[event["toolCallId"]] = part
            self._parts.append(part)
        else:
            if kind == "tool-input-start":
                raise ProtocolViolation("fresh-call-id", f"a second call {event['toolCallId']!r}")
            self._require_state(kind, part, "input-streaming")
            if not any(part is known for known in self._step_parts()):
                raise ProtocolViolation("call-in-its-step", f"{kind} for a call of an earlier step")
            if kind != "tool-input-delta" and dynamic != (part["type"] == "dynamic-tool"):
                raise ProtocolViolation("call-keeps-kind", f"{kind} changes whether the call is dynamic")
        if kind == "tool-input-delta":
            part["rawInput"] = part.get("rawInput", "") + event["inputTextDelta"]
            return part
        if part["type"] == "dynamic-tool":
            part["toolName"] = event["toolName"]
        else:
            part["type"] = f"tool-{event['toolName']}"
        part.pop("rawInput", None)
        part["state"] = {
            "tool-input-start": "input-streaming",
            "tool-input-available": "input-available",
            "tool-input-error": "output-error",
        }[kind]
        for key in ("input", "errorText"):
            if key in event:
                part[key] = event[key]
        # The client takes no title from a failed input.
        if "title" in event and kind != "tool-input-error":
            part["title"] = event["title"]
        return part

    def _on_output(self, kind: str, event: Event, part: Event) -> None:
        if part["state"] in _ANSWERED and not part.get("preliminary"):
            raise ProtocolViolation("answered-once", f"{kind} for {part['toolCallId']!r}, which has its answer")
        if part["state"] == "input-streaming":
            raise ProtocolViolation("input-before-output", f"{kind} while the arguments stream")
        part["state"] = kind.removeprefix("tool-")
        if kind == "tool-output-denied":
            return
        # Version 5 looks for the part among those of the kind that the answer names, and dies if it is not there.
        if bool(event.get("dynamic")) != (part["type"] == "dynamic-tool"):
            raise ProtocolViolation("call-keeps-kind", f"{kind} differs from its call in being dynamic")
        for key in ("output", "errorText", "preliminary"):
            part.pop(key, None)
            if key in event:
                part[key] = event[key]

    def _on_approval(self, event: Event) -> None:
        for part in self._tools.values():
            if part.get("approval", {}).get("id") == event["approvalId"]:
                # History may have told the answer before the stream does.
                if part["state"] != "approval-responded" or part["approval"].get("approved") != event["approved"]:
                    self._require_state("tool-approval-response", part, "approval-requested")
                part["state"] = "approval-responded"
                part["approval"] |= {key: event[key] for key in ("approved", "reason") if key in event}
                return
        raise ProtocolViolation("known-approval", f"no approval {event['approvalId']!r}")

    @staticmethod
    def _require_state(kind: str, part: Event, state: str) -> None:
        if part["state"] != state:
            raise ProtocolViolation("call-order", f"{kind} for a call in state {part['state']}")


def _present(event: Event) -> Event:
    return {key: value for key, value in event.items() if key != "transient"}


def _merged(base: Json, more: Json) -> Json:
    """Objects merge key by key, however deep; anything else replaces."""
    if isinstance(base, dict) and isinstance(more, dict):
        return {**base, **{key: _merged(base.get(key), value) for key, value in more.items()}}
    return more


def parse_sse(body: bytes, *, complete: bool = True) -> list[tuple[str | None, str]]:
    """The events of an SSE body as `(id, data)`; comments are skipped, `id` is None where an event names none.

    A body that is not `complete` was cut: its last, unfinished event is left out instead of refused.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        if complete or error.reason != "unexpected end of data":
            raise ProtocolViolation("sse", f"the body is not UTF-8: {error}") from None
        text = body[: error.start].decode()
    if not complete and text.endswith("\r"):
        text = text[:-1]
    # Only these end a line: other characters that Python takes for line ends are text.
    *lines, rest = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    events: list[tuple[str | None, str]] = []
    event_id: str | None = None
    data: list[str] = []
    for line in lines:
        if not line:
            if data:
                events.append((event_id, "\n".join(data)))
            event_id, data = None, []
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            data.append(value)
        elif name == "id":
            if "\0" in value:
                raise ProtocolViolation("sse", "an id holds NUL")
            event_id = value
        elif name == "retry":
            if not value.isdigit():
                raise ProtocolViolation("sse", f"retry is {value!r}")
        elif name not in ("", "event"):
            raise ProtocolViolation("sse", f"unknown field {name!r:.40}")
    if complete and (rest or data or event_id is not None):
        raise ProtocolViolation("sse", "the body ends inside an event")
    return events


def parse_events(body: bytes, *, complete: bool = True) -> list[Event]:
    """The wire events of an SSE body, without the final `[DONE]`, which nothing may follow."""
    payloads = [data for _, data in parse_sse(body, complete=complete)]
    if "[DONE]" in payloads[:-1]:
        raise ProtocolViolation("sse", "an event after [DONE]")
    return [json.loads(data) for data in payloads if data != "[DONE]"]


def comparable(message: Event) -> Event:
    """The message without what differs between client versions: the ids of reasoning parts."""
    parts = [
        {key: value for key, value in part.items() if (part["type"], key) != ("reasoning", "id")}
        for part in message["parts"]
    ]
    return {**message, "parts": parts}
