"""Scenarios in which an answer goes wrong: it does not end, ends too soon or twice, reports an error, falls silent.

Guarantee: each sends what its line says and nothing more. "Open" means that the connection stays open, in silence,
until the client leaves.
"""

from __future__ import annotations

from ._model_answers import Answer, Event
from ._model_peer import Peer
from ._model_responses import failed
from ._model_scenarios import CITIES, Catalogue

LEAKED_KEY = "sk-proj-simulated0000000001"
TROUBLE = f"overloaded\n  key {LEAKED_KEY} " + "x" * 400
"""What errors inside a stream say: lines, a key and a length that no reader should see."""

faults = Catalogue()

# Streams that finish and do not end


@faults.add("A")
async def a_no_message_stop(peer: Peer) -> None:
    """message_delta with its stop_reason, no message_stop, open."""
    await peer.head()
    await peer.say(peer.until("finish"))
    await peer.hang()


@faults.add("A")
async def a_open_after_stop(peer: Peer) -> None:
    """Everything up to message_stop, open."""
    await _open_after(peer)


@faults.add("O")
async def o_no_done(peer: Peer) -> None:
    """finish_reason, no usage, no [DONE], open."""
    await peer.head()
    await peer.say(peer.until("finish"))
    await peer.hang()


@faults.add("O")
async def o_open_after_done(peer: Peer) -> None:
    """Everything up to [DONE], usage too, open."""
    await _open_after(peer)


@faults.add("R")
async def r_open_after_completed(peer: Peer) -> None:
    """Everything up to response.completed, open."""
    await _open_after(peer)


@faults.add("G")
async def g_no_close(peer: Peer) -> None:
    """Everything up to finishReason and usage, open."""
    await _open_after(peer)


async def _open_after(peer: Peer) -> None:
    await peer.head()
    await peer.say(peer.script(usage=True))
    await peer.hang()


# Usage that comes late


@faults.add("O")
async def o_usage_late(peer: Peer) -> None:
    """finish_reason, 150 ms, usage (asked for or not), [DONE], proper end."""
    await _late(peer, 0.15)
    await peer.say([Event("last", "[DONE]")])
    await peer.end()


@faults.add("O")
async def o_usage_late_hang(peer: Peer) -> None:
    """finish_reason, 150 ms, usage (asked for or not), no [DONE], open."""
    await _late(peer, 0.15)
    await peer.hang()


@faults.add("O")
async def o_usage_very_late(peer: Peer) -> None:
    """finish_reason, 3 s, usage (asked for or not), [DONE], proper end."""
    await _late(peer, 3)
    await peer.say([Event("last", "[DONE]")])
    await peer.end()


async def _late(peer: Peer, seconds: float) -> None:
    await peer.head()
    script = peer.until("usage", usage=True)
    await peer.say(script[:-1])
    await peer.pause(seconds)
    await peer.say(script[-1:])


# Streams that end too soon


@faults.add("R")
async def r_no_completed(peer: Peer) -> None:
    """Everything up to output_item.done, proper end of the body."""
    await peer.head()
    await peer.say(peer.until("close"))
    await peer.end()


@faults.add("R")
async def r_no_completed_open(peer: Peer) -> None:
    """Everything up to output_item.done, open."""
    await peer.head()
    await peer.say(peer.until("close"))
    await peer.hang()


@faults.add()
async def clean_eof_mid(peer: Peer) -> None:
    """Two deltas, proper end of the body."""
    await peer.head()
    await peer.say(peer.begun())
    await peer.end()


@faults.add()
async def raw_eof_mid(peer: Peer) -> None:
    """A body that ends with the connection; two deltas, FIN."""
    await peer.head(framed=False)
    await peer.say(peer.begun())


@faults.add()
async def fin_mid(peer: Peer) -> None:
    """A chunked body; two deltas, FIN without the last chunk."""
    await peer.head()
    await peer.say(peer.begun())


@faults.add()
async def rst_mid(peer: Peer) -> None:
    """Two deltas, 50 ms, RST."""
    await peer.head()
    await peer.say(peer.begun())
    await peer.pause(0.05)
    peer.reset()


@faults.add()
async def rst_after_finish(peer: Peer) -> None:
    """Everything up to the finish, 50 ms, RST."""
    await peer.head()
    await peer.say(peer.until("finish"))
    await peer.pause(0.05)
    peer.reset()


@faults.add()
async def eof_after_finish(peer: Peer) -> None:
    """Everything up to the finish, proper end of the body; without message_stop (A), usage and [DONE] (O)."""
    await peer.head()
    await peer.say(peer.until("finish"))
    await peer.end()


@faults.add("O")
async def done_without_finish(peer: Peer) -> None:
    """All deltas and [DONE], no finish_reason."""
    await peer.head()
    await peer.say(event for event in peer.script() if event.role not in ("finish", "usage"))
    await peer.end()


@faults.add()
async def empty_body(peer: Peer) -> None:
    """200, the head of an event stream, proper end of the body."""
    await peer.head()
    await peer.end()


@faults.add(says=lambda _: Answer(calls=CITIES[:1]))
async def tools_cut(peer: Peer) -> None:
    """Half the arguments of a call (G: a whole call, but no finish), proper end of the body."""
    await peer.head()
    await peer.say(peer.begun(1))
    await peer.end()


# Errors in the stream


@faults.add()
async def error_mid(peer: Peer) -> None:
    """Two deltas, an error event, proper end of the body."""
    await _broken(peer, [*peer.begun(), peer.wire.broken(TROUBLE)])


@faults.add()
async def error_mid_open(peer: Peer) -> None:
    """Two deltas, an error event, open."""
    await _broken(peer, [*peer.begun(), peer.wire.broken(TROUBLE)], stay=True)


@faults.add("R")
async def r_failed_mid(peer: Peer) -> None:
    """Two deltas, response.failed, proper end of the body."""
    await _broken(peer, [*peer.begun(), failed(peer.ids, peer.ask, TROUBLE)])


@faults.add("R")
async def r_failed_mid_open(peer: Peer) -> None:
    """Two deltas, response.failed, open."""
    await _broken(peer, [*peer.begun(), failed(peer.ids, peer.ask, TROUBLE)], stay=True)


@faults.add()
async def error_first(peer: Peer) -> None:
    """200, an error event before any other, proper end of the body."""
    await _broken(peer, [peer.wire.broken(TROUBLE)])


async def _broken(peer: Peer, events: list[Event], *, stay: bool = False) -> None:
    await peer.head()
    await peer.say(events)
    await (peer.hang() if stay else peer.end())


@faults.add()
async def bad_chunk(peer: Peer) -> None:
    """Two deltas, then a chunk whose size is no number, FIN."""
    await peer.head()
    await peer.say(peer.begun())
    await peer.raw(b"zz\r\nnonsense\r\n")


@faults.add()
async def bad_json(peer: Peer) -> None:
    """A delta, an event whose data is no JSON, proper end of the body."""
    await peer.head()
    script = peer.begun(1)
    await peer.say([*script, Event("delta", '{"oops', script[-1].name)])
    await peer.end()


# Streams that fall silent


@faults.add()
async def stall_after_2(peer: Peer) -> None:
    """Two deltas, open."""
    await peer.head()
    await peer.say(peer.begun())
    await peer.hang()


@faults.add()
async def pings_forever(peer: Peer) -> None:
    """Two deltas, then every 50 ms what keeps a stream alive: ping events (A), comments (O, R, G)."""
    await _pings(peer, peer.wire.ping)


@faults.add()
async def comments_forever(peer: Peer) -> None:
    """Two deltas, then a comment every 50 ms."""
    await _pings(peer, b": keep-alive\n\n")


async def _pings(peer: Peer, ping: bytes) -> None:
    await peer.head()
    await peer.say(peer.begun())
    while True:
        await peer.send(ping)
        await peer.pause(0.05)


# Too much


@faults.add()
async def too_big_event(peer: Peer) -> None:
    """Two deltas, then one event that has no end."""
    await peer.head()
    await peer.say(peer.begun())
    await peer.send(b"data: ")
    while True:
        await peer.send(b"x" * 65536)


@faults.add()
async def flood(peer: Peer) -> None:
    """Deltas of 50,000 characters, without an end."""
    before, delta = _first_delta(peer.script(Answer(["x" * 50_000])))
    await peer.head()
    await peer.say(before)
    while True:
        await peer.say([delta])


@faults.add()
async def flood_after_finish(peer: Peer) -> None:
    """Everything up to the finish, then deltas without an end."""
    _, delta = _first_delta(peer.script(Answer(["!"])))
    await peer.head()
    await peer.say(peer.until("finish"))
    while True:
        await peer.say([delta])


def _first_delta(script: list[Event]) -> tuple[list[Event], Event]:
    place = next(place for place, event in enumerate(script) if event.role == "delta")
    return script[:place], script[place]


# Ends said twice


@faults.add("AOG")
async def double_finish(peer: Peer) -> None:
    """The finish before the last delta and again after it, proper end."""
    script = peer.script()
    last = max(place for place, event in enumerate(script) if event.role == "delta")
    finish = next(event for event in script if event.role == "finish")
    await peer.head()
    await peer.say([*script[:last], finish, *script[last:]])
    await peer.end()


@faults.add()
async def garbage_after_done(peer: Peer) -> None:
    """A whole answer, then one more delta and data that is no JSON, proper end of the body."""
    _, delta = _first_delta(peer.script(Answer(["garbage"])))
    await peer.head()
    await peer.say([*peer.script(), delta])
    await peer.send(b"data: xx\n\n")
    await peer.end()
