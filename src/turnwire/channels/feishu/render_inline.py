"""What stands inside a line of an agent's Markdown, as cards take it.

Guarantee: every word stays; nothing becomes a tag but a line break, and nothing mentions anybody.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache

from .data_images import UNFINISHED, in_words
from .limits import LINE_CHARS, LINES
from .markdown import lines

_DESTINATION = r"<?(?P<{0}>[^\s()<>]*(?:\([^\s()<>]*\)[^\s()<>]*)*)>?(?:\s+(?:\"[^\"]*\"|'[^']*'))?\s*\)"
_INLINE = re.compile(
    r"(?P<escape>\\[!-/:-?\[-`{-~])"
    r"|(?<!`)(?P<ticks>`+)(?!`)(?P<code>.*?[^`])(?P=ticks)(?!`)"
    r"|!\[(?P<alt>[^\[\]]*)\]\(\s*"
    + _DESTINATION.replace("{0}", "image")
    + r"|\[(?P<label>[^\[\]]*)\]\(\s*"
    + _DESTINATION.replace("{0}", "link")
    + r"|<(?P<auto>https?://[^<>\s]+)>|(?P<br><br\s*/?>)|(?P<tag><)(?=[a-z/!?])",
    re.IGNORECASE,
)
_SPECIAL = re.compile(r"[\[<!`\\]")
_TAG = re.compile(r"<(?=/?(?:at|person)\b)", re.IGNORECASE)
_MENTION = re.compile(r"@(?=_(?:all|user_\d))", re.IGNORECASE)
_MARKS = re.compile(r"[\\`*_~<>\[\]()#|!&]|^[-+]|^\d+(?=[.)])")
_LINK = re.compile(r"!?\[([^\[\]]*)\]\([^()]*\)")
_LAYOUT = re.compile(r"^(?:`{3}.*|~{3}.*|[-|: ]+)$|</?font[^>]*>", re.MULTILINE)
_GAP = "\u200b"


class Inline:
    """Adapts lines.

    Args:
        images: the platform's keys of images by their addresses, those of `data:` ones in short; the others become
            links, or what they are called.
        base_url: what makes an address of ours one that people can open; "" if there is none.
        word: what an image without a name is called.

    Attributes:
        word: that word.
    """

    def __init__(self, images: Mapping[str, str], *, base_url: str, word: str) -> None:
        self._images = images
        self._base_url = base_url
        self.word = word

    def __call__(self, raw: str) -> str:
        if len(raw) > LINE_CHARS or (self._images and "![" in raw):
            return self.adapted(raw)
        return _remembered(raw, self._base_url, self.word)

    def adapted(self, raw: str) -> str:
        """The line, adapted now."""
        return no_mentions(self._adapted(raw))

    def as_code(self, raw: str) -> str:
        """A line that is shown as it is, but for images that it carries inside itself."""
        return no_mentions(no_tags(in_words(raw, self.word)))

    def _adapted(self, raw: str) -> str:
        return _INLINE.sub(self._one, raw) if _SPECIAL.search(raw) else raw

    def _one(self, found: re.Match[str]) -> str:
        kind = found.lastgroup
        if found["escape"] is not None:
            return "&#60;" if found["escape"] == "\\<" else found[0]
        if found["code"] is not None:
            return no_tags(found[0])
        if found["image"] is not None:
            return self._image(found["alt"], found["image"])
        if found["link"] is not None:
            return self._link(self._adapted(found["label"]), found["link"])
        if found["auto"] is not None:
            return f"[{found['auto']}]({found['auto']})"
        return found[0] if kind == "br" else "&#60;"

    def _image(self, alt: str, address: str) -> str:
        alt = self._adapted(alt)
        if address in self._images:
            return f"![{alt}]({self._images[address]})"
        return self._link(alt or self.word, address)

    def _link(self, label: str, address: str) -> str:
        if address[:5].lower() == "data:":
            return label or self.word
        if address.startswith("/") and self._base_url:
            address = self._base_url + address
        if address.lower().startswith(("http://", "https://", "tel:")):
            return f"[{label}]({address})"
        return f"{label} ({address})" if address and address != label else label


@lru_cache(maxsize=LINES)
def _remembered(raw: str, base_url: str, word: str) -> str:
    """The line as it is where none of its images is known."""
    return Inline({}, base_url=base_url, word=word).adapted(raw)


def no_tags(text: str) -> str:
    """The text with no tag in it that the platform would act on, to be shown as it is."""
    return _TAG.sub("<" + _GAP, text) if "<" in text else text


def no_mentions(text: str) -> str:
    """The text with no words in it that the platform would take for a mention."""
    return _MENTION.sub("@" + _GAP, text) if "@_" in text else text


def literal(text: str) -> str:
    """The text so that Markdown shows it as it is, in one line."""
    return no_mentions(_MARKS.sub(lambda found: "".join(f"&#{ord(one)};" for one in found[0]), text))


def images(text: str) -> Iterator[tuple[str, str]]:
    """The images that a Markdown text embeds: each address as lines have it, and as it is."""
    if "![" not in text:
        return
    for line in lines(text)[0]:
        if line.kind != "code" and "![" in line.raw:
            whole = dict(line.data)
            names = _remembered_images(line.raw) if len(line.raw) <= LINE_CHARS else _images_in(line.raw)
            yield from ((name, whole.get(name, name)) for name in names)


def _images_in(raw: str) -> tuple[str, ...]:
    found = (one["image"] for one in _INLINE.finditer(raw) if one["image"])
    return tuple(name for name in found if not name.endswith(UNFINISHED))


_remembered_images = lru_cache(maxsize=LINES)(_images_in)


def bare(text: str) -> str:
    """About what some lines of a card say, without their marks."""
    text = _LINK.sub(r"\1", _LAYOUT.sub(" ", text))
    return html.unescape(re.sub(r"^[\s>#*+-]+|[*_`~|]+", " ", text, flags=re.MULTILINE))
