"""What a card shows of a turn, from top to bottom, and what stands at its end.

Guarantee: pure; elements keep their ids while the turn grows, and what is under way stands in those at the end alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from ...delivery.surface import Desired, Verdict
from ...events import JSON
from ...view import ToolPart
from .. import facts
from ..words import WORDS, Language, Words, duration
from . import limits
from .data_images import text_in_words
from .markdown import Line, lines
from .render_inline import Inline, literal, no_mentions, no_tags
from .render_pages import Element, Flow, Item, Room, Solid, pages, text_element

MIN_CARD_BYTES = 9_000
MIN_CARD_ELEMENTS = 40
END_BYTES = 4_200
"""What the elements at the end of a card take, at most."""
END_ELEMENTS = 10
TICK_S = 10.0
"""Seconds by which the time that something takes is told."""
_NAME_CHARS = 60
_TOOLS_SHOWN = 30
_ICONS = {"done": "✅", "failed": "❌", "running": "⏳", "asked": "✋", "denied": "🚫"}


class Style(msgspec.Struct, frozen=True, kw_only=True):
    """How cards look.

    Attributes:
        footer: what the last line of a finished answer tells, of `model`, `time` and `tokens`.
        byte_limit: of a card's JSON; the platform counts somewhat more than is sent.
        plain: for content that was refused: tables as code, no images, no panels, no colours.
        base_url: where people reach our own files, "" if they cannot.
    """

    language: Language = "en"
    footer: Sequence[str] = ("model", "time", "tokens")
    show_reasoning: bool = True
    show_tools: bool = True
    table_limit: int = limits.CARD_TABLES
    byte_limit: int = 25_000
    element_limit: int = 180
    plain: bool = False
    base_url: str = ""

    def __post_init__(self) -> None:
        if not MIN_CARD_BYTES <= self.byte_limit <= limits.CARD_BYTES:
            raise ValueError(f"byte_limit is {self.byte_limit}: give {MIN_CARD_BYTES} to {limits.CARD_BYTES}")
        if not 4 * END_ELEMENTS <= self.element_limit <= limits.CARD_ELEMENTS:
            raise ValueError(
                f"element_limit is {self.element_limit}: give {4 * END_ELEMENTS} to {limits.CARD_ELEMENTS}"
            )

    @property
    def words(self) -> Words:
        """The words of its language."""
        return WORDS[self.language]


def so_far(desired: Desired) -> float:
    """How many seconds the turn has run, as cards tell it: it changes once in a while."""
    return (desired.now - desired.started_at) // TICK_S * TICK_S if desired.started_at else 0.0


class Body:
    """The parts of one turn as elements."""

    def __init__(self, desired: Desired, style: Style, inline: Inline) -> None:
        self._desired = desired
        self._style = style
        self._words = style.words
        self._inline = inline
        self._stretches = facts.stretches(desired)

    @property
    def live_id(self) -> str | None:
        """The element whose text is growing."""
        if self._desired.ended or not self._stretches:
            return None
        last, number = self._stretches[-1], len(self._stretches) - 1
        if last.said is not None:
            return f"text_{number}"
        shown = last.thoughts and self._style.show_reasoning and not self._style.plain
        return f"think_{number}_md" if shown and last.thoughts[-1].open else None

    def items(self) -> Iterator[Item]:
        """Everything but what stands at the end."""
        desired, style = self._desired, self._style
        if desired.repeat:
            yield Solid(text_element("repeat", f"⚠️ {self._words.repeat}"))
        for number, stretch in enumerate(self._stretches):
            last = number == len(self._stretches) - 1
            if stretch.thoughts and style.show_reasoning and not style.plain:
                yield Solid(self._thoughts(number, stretch, last=last))
            if stretch.tools and style.show_tools and not style.plain:
                yield Solid(self._tools(number, stretch.tools))
            if stretch.said is not None:
                going_on = last and not desired.ended
                found, in_code = lines(stretch.said.text, going_on=going_on)
                yield Flow(f"text_{number}", found, open=going_on and in_code)
        if desired.ended:
            yield from self._approvals()
            yield from self._notices()

    def _thoughts(self, number: int, stretch: facts.Stretch, *, last: bool) -> Element:
        text = "\n\n".join(part.text for part in stretch.thoughts)
        under_way = last and stretch.said is None and not self._desired.ended
        title = self._words.thinking if under_way and stretch.thoughts[-1].open else self._words.thoughts
        content = _tail(text, self._panel_bytes(number), self._inline)
        return _panel(f"think_{number}", title, content, expanded=under_way)

    def _panel_bytes(self, number: int) -> int:
        # What many steps have to say must not make an answer many cards.
        return self._style.byte_limit // (8 if number < 3 else 24)

    def _tools(self, number: int, tools: Sequence[ToolPart]) -> Element:
        words = self._words
        states = [facts.state_of(tool) for tool in tools]
        title = [words.tool if len(tools) == 1 else words.tools.format(count=len(tools))]
        title += [words.tools_running] if "running" in states and not self._desired.ended else []
        title += [words.tools_failed.format(count=states.count("failed"))] if "failed" in states else []
        shown = [self._tool(tool) for tool in tools[-_TOOLS_SHOWN:]]
        while len(shown) > 1 and limits.json_bytes(shown) > self._panel_bytes(number):
            shown.pop(0)
        if len(shown) < len(tools):
            shown.insert(0, words.earlier.format(count=len(tools) - len(shown)))
        return _panel(f"tools_{number}", " · ".join(title), "\n".join(shown), expanded=False)

    def _tool(self, tool: ToolPart) -> str:
        state = facts.state_of(tool)
        given: JSON = tool.input if tool.state != "input-streaming" else "".join(tool.input_pieces[:100])
        out = f"{_ICONS[state]} **{_name(tool)}**"
        if given not in (None, "", {}, []):
            out += f" {literal(facts.brief(given))}"
        told = {"failed": tool.error, "asked": self._words.asked, "denied": self._words.denied_tool}
        result: JSON = told.get(state, tool.output)
        return out if result in (None, "") else f"{out}\n→ {literal(facts.brief(result))}"

    # Approvals

    def _approvals(self) -> Iterator[Item]:
        for number, tool in enumerate(facts.asking(self._desired)):
            verdict = facts.verdict_of(self._desired, tool)
            if verdict is None or tool.approval is None:
                continue
            if verdict.approved is not None:
                yield Solid(text_element(f"ask_{number}", f"{self._verdict(verdict)} · {_name(tool)}"))
                continue
            given = _as_code(tool.input, self._style.byte_limit // 12)
            yield Solid(text_element(f"ask_{number}", f"✋ **{self._words.may_run}** {_name(tool)}\n{given}"))
            yield Solid(self._buttons(number, tool.approval.id))

    def _verdict(self, verdict: Verdict) -> str:
        words, who = self._words, literal(limits.clip(verdict.by, _NAME_CHARS))
        if verdict.approved:
            told = words.allowed_by.format(who=who) if who else words.allowed
        else:
            told = words.denied_by.format(who=who) if who else words.denied
        known = {"superseded": words.superseded, "expired": words.expired}
        why = known.get(verdict.reason or "", verdict.reason or "")
        told = f"{'✅' if verdict.approved else '🚫'} **{told}**"
        return f"{told}{words.because}{literal(limits.clip(why, facts.REASON_CHARS))}" if why else told

    def _buttons(self, number: int, approval: str) -> Element:
        choices = (("yes", "approve", "primary", self._words.allow), ("no", "deny", "danger", self._words.deny))
        columns = [
            {
                "tag": "column",
                "width": "auto",
                "elements": [_button(f"{name}_{number}", word, kind, {"turnwire": act, "approval": approval})],
            }
            for name, act, kind, word in choices
        ]
        return {"tag": "column_set", "element_id": f"ask_{number}_row", "flex_mode": "none", "columns": columns}

    def _notices(self) -> Iterator[Item]:
        """Files that did not arrive, and where the answer comes from."""
        missing = [f"- ⚠️ {literal(line)}" for line in facts.missing_files(self._desired.files, self._words)]
        if missing:
            yield Flow("files", [Line(line, "own") for line in missing], size="notation")
        sources = [f"{number}. {_linked(*found)}" for number, found in enumerate(facts.links(self._desired), 1)]
        if sources:
            heads = [f"**{self._words.sources}**", *sources]
            yield Flow("sources", [Line(line, "own") for line in heads], size="notation")

    # The end of the last card

    def end(self) -> Iterator[Element]:
        """What stands below: how it ended, or what is under way and how to stop it."""
        desired, words = self._desired, self._words
        told = facts.outcome_words(desired, words) if desired.ended else None
        if told is not None:
            yield text_element("outcome", self._outcome(told))
        if not desired.final:
            yield text_element("status", self._coloured("grey", f"{self._status()} …"), "notation")
        if not desired.ended:
            yield _button("stop", words.stop, "default", {"turnwire": "stop", "turn": desired.turn_id})
        elif footer := self._footer():
            yield text_element("footer", self._coloured("grey", footer), "notation")

    def _outcome(self, told: str) -> str:
        outcome = self._desired.view.outcome
        if outcome not in ("failed", "interrupted", "stopped"):
            return told
        why = literal(facts.reason(self._desired))
        return f"{self._coloured('red' if outcome == 'failed' else 'orange', f'**{told}**')} {why}".rstrip()

    @property
    def under_way(self) -> str:
        """What happens now, in plain words."""
        kind, tool = self._now()
        return {**self._ways, "running": self._words.running.format(tool=limits.clip(tool, _NAME_CHARS))}[kind]

    def _status(self) -> str:
        """What happens now; how long the turn takes is told where nothing else moves."""
        desired, words = self._desired, self._words
        kind, tool = self._now()
        told = {**self._ways, "running": words.running.format(tool=f"**{_literal_name(tool)}**")}[kind]
        ran = so_far(desired)
        return f"{told} · {duration(ran, words)}" if ran >= TICK_S and kind not in ("writing", "sending") else told

    @property
    def _ways(self) -> dict[str, str]:
        words = self._words
        return {
            "sending": words.sending,
            "writing": words.writing,
            "thinking": words.thinking,
            "working": words.working,
        }

    def _now(self) -> tuple[str, str]:
        """What happens now, and the name of the tool that runs."""
        last = self._stretches[-1] if self._stretches else facts.Stretch()
        running = [tool for tool in last.tools if facts.state_of(tool) == "running"]
        if self._desired.ended:
            return "sending", ""
        if last.said is not None and last.said.open:
            return "writing", ""
        if running:
            return "running", running[-1].title or running[-1].name
        thinks = not last.tools or (bool(last.thoughts) and last.thoughts[-1].open)
        return ("thinking" if thinks else "working"), ""

    def _footer(self) -> str:
        own = facts.metadata(self._desired)
        told: dict[str, str] = {}
        if own.get("model"):
            told["model"] = literal(limits.clip(str(own["model"]), _NAME_CHARS))
        if (seconds := facts.took(own)) is not None:
            told["time"] = duration(seconds, self._words)
        if count := facts.total_tokens(own):
            told["tokens"] = self._words.tokens.format(count=f"{count:,}")
        return " · ".join(told[field] for field in self._style.footer if field in told)

    def _coloured(self, colour: str, text: str) -> str:
        return text if self._style.plain else f"<font color='{colour}'>{text}</font>"


def _name(tool: ToolPart) -> str:
    return _literal_name(tool.title or tool.name)


def _literal_name(name: str) -> str:
    return literal(limits.clip(name, _NAME_CHARS))


def _linked(title: str, address: str) -> str:
    for mark, code in (("(", "%28"), (")", "%29"), ("<", "%3C"), (">", "%3E"), (" ", "%20")):
        address = address.replace(mark, code)
    return f"[{literal(limits.clip(title, 2 * _NAME_CHARS))}]({no_mentions(address)})"


def _button(element_id: str, word: str, kind: str, value: dict[str, str]) -> Element:
    return {
        "tag": "button",
        "element_id": element_id,
        "type": kind,
        "size": "small",
        "text": {"tag": "plain_text", "content": word},
        "behaviors": [{"type": "callback", "value": value}],
    }


def _panel(element_id: str, title: str, content: str, *, expanded: bool) -> Element:
    """A part that people can fold and unfold."""
    return {
        "tag": "collapsible_panel",
        "element_id": element_id,
        "expanded": expanded,
        "header": {
            "title": {"tag": "plain_text", "content": title},
            "icon": {"tag": "standard_icon", "token": "down-small-ccm_outlined", "size": "16px 16px"},
            "icon_position": "follow_text",
            "icon_expanded_angle": -180,
        },
        "elements": [text_element(f"{element_id}_md", content, "notation")],
    }


def _tail(text: str, most: int, inline: Inline) -> str:
    """The end of a Markdown text, as much as takes so many bytes, without tables."""
    text = text_in_words(text, inline.word)
    short = text[-most:]
    while limits.cost(short) > most:
        short = short[len(short) // 8 + 1 :]
    if len(short) < len(text):
        short = short[short.find("\n") + 1 :] if "\n" in short[:-1] else short
    found, _ = lines(short)
    room = Room(bytes=100 * most, elements=limits.CARD_ELEMENTS, tables=0)
    (shown,) = pages([Flow("tail", found)], room, inline)
    content: str = shown[0]["content"] if shown else ""
    return content if len(short) == len(text) else f"…\n{content}"


def _as_code(value: Any, most: int) -> str:
    """What a call is given, as people can read it."""
    text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    if len(text.encode()) > most:
        text = text.encode()[:most].decode(errors="ignore") + "\n…"
    mark = "````" if "```" in text else "```"
    return f"{mark}json\n{no_mentions(no_tags(text))}\n{mark}"
