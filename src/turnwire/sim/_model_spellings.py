"""Scenarios in which everything is said, in a spelling of server-sent events or of HTTP that trips careless readers.

Guarantee: a reader that follows section 9.2 of the WHATWG HTML Living Standard, and takes a last event without its
blank line, reads the whole answer from each of them.
"""

from __future__ import annotations

import functools
import itertools
import json
import zlib

from ._model_answers import PIECES, THOUGHT, Answer, Event
from ._model_peer import Peer
from ._model_scenarios import CITIES, Catalogue

BIG = 3_000_000
SEPARATORS = "a\u2028b\u2029c\u0085d"

spellings = Catalogue()


def _plain(script: list[Event]) -> list[bytes]:
    return [event.encode() for event in script]


def _comments(script: list[Event]) -> list[bytes]:
    return [b": x\n\n", *(b": x\n" + event.encode() + b": x\n\n" for event in script)]


def _mixed(script: list[Event]) -> list[bytes]:
    return [event.encode(newline) for event, newline in zip(script, itertools.cycle(["\r", "\n", "\r\n"]))]


def _crlf_split(script: list[Event]) -> list[bytes]:
    lines = b"".join(event.encode("\r\n") for event in script).split(b"\r\n")[:-1]
    return [part for line in lines for part in (line + b"\r", b"\n")]


def _multi_data(script: list[Event]) -> list[bytes]:
    spread: list[bytes] = []
    for event in script:
        # Line breaks between the tokens of JSON change nothing, and those inside its strings are escaped.
        text = event.data if isinstance(event.data, str) else json.dumps(event.data, ensure_ascii=False, indent=0)
        spread.append(event._replace(data=text.replace("\n", "\ndata: ")).encode())
    return spread


def _last_no_blank(script: list[Event]) -> list[bytes]:
    *before, last = _plain(script)
    return [*before, last[:-1]]


spellings.spelling("comments", "Comments before, between and inside events.", _comments)
spellings.spelling("crlf", "Lines end with CR LF.", lambda script: [event.encode("\r\n") for event in script])
spellings.spelling("cr", "Lines end with CR.", lambda script: [event.encode("\r") for event in script])
spellings.spelling("mixed", "Lines end with CR, LF and CR LF in turn, one kind for each event.", _mixed)
spellings.spelling("crlf_split", "Every CR LF is cut by the end of a chunk.", _crlf_split)
spellings.spelling(
    "bytewise", "Every byte is a chunk.", lambda script: [bytes([byte]) for byte in b"".join(_plain(script))]
)
spellings.spelling("bom", "A byte order mark comes first.", lambda script: [b"\xef\xbb\xbf", *_plain(script)])
spellings.spelling("nospace", "No space after data:", lambda script: [event.encode(prefix="data:") for event in script])
spellings.spelling("a_noevent", "No event: lines.", lambda script: [event.encode(named=False) for event in script], "A")
spellings.spelling("r_noevent", "No event: lines.", lambda script: [event.encode(named=False) for event in script], "R")
spellings.spelling("multi_data", "The JSON of each event stands on many data: lines.", _multi_data)
spellings.spelling("last_no_blank", "The last event lacks its blank line.", _last_no_blank)
spellings.spelling(
    "u2028", "The text holds U+2028, U+2029 and U+0085 as they are.", _plain, says=lambda _: Answer([SEPARATORS])
)
spellings.spelling("big_event", "One event of 3 MB.", _plain, says=lambda _: Answer(["x" * BIG]))
spellings.spelling("one_chunk", "The whole body is one chunk.", lambda script: [b"".join(_plain(script))])


def _o_reasoning(script: list[Event]) -> list[bytes]:
    return [event.encode().replace(b'"reasoning_content":', b'"reasoning":') for event in script]


spellings.spelling(
    "o_reasoning",
    "Thoughts in the field reasoning instead of reasoning_content.",
    _o_reasoning,
    "O",
    says=lambda _: Answer(PIECES, thought=THOUGHT),
)


def _no_index(script: list[Event], *, repeat: bool = False) -> list[bytes]:
    """The events of one call without its index; with `repeat`, each of them has the call's id."""
    name = ""
    for event in script:
        choices = event.data["choices"] if isinstance(event.data, dict) else []
        for call in (call for choice in choices for call in choice["delta"].get("tool_calls", [])):
            call.pop("index")
            name = call.get("id", name)
            if repeat:
                call["id"] = name
    return _plain(script)


spellings.spelling(
    "tools_no_index", "A call whose deltas have no index.", _no_index, "O", says=lambda _: Answer(calls=CITIES[:1])
)
spellings.spelling(
    "tools_repeated_id",
    "A call whose deltas have no index, and each of them the call's id.",
    functools.partial(_no_index, repeat=True),
    "O",
    says=lambda _: Answer(calls=CITIES[:1]),
)


@spellings.add()
async def gzip(peer: Peer) -> None:
    """Compressed; flushed after the second delta, 150 ms, then the rest."""
    packer = zlib.compressobj(wbits=31)
    script = peer.script()
    first = len(peer.begun())
    await peer.head(headers={"content-encoding": "gzip"})
    await peer.send(packer.compress(b"".join(_plain(script[:first]))) + packer.flush(zlib.Z_SYNC_FLUSH))
    await peer.pause(0.15)
    await peer.send(packer.compress(b"".join(_plain(script[first:]))) + packer.flush())
    await peer.end()
