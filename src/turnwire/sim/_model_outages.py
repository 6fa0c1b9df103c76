"""Scenarios in which no answer begins for a while, or ever: refusals, other pages, silence, what is no HTTP.

Guarantee: each sends what its line says and nothing more, to requests with and without a stream alike, except for those
in which a stream begins late. "Open" means that the connection stays open, in silence, until the client leaves.
"""

from __future__ import annotations

from ._model_peer import Peer
from ._model_scenarios import Catalogue

outages = Catalogue()

# Refusals


def _refusal(status: int, about: str, message: str, *, again: bool = False) -> None:
    async def act(peer: Peer) -> None:
        seconds = peer.retry_after
        # Whole seconds are all that the standard header can say; the official SDKs read the other one first.
        later = {"retry-after": str(max(1, round(seconds))), "retry-after-ms": str(round(seconds * 1000))}
        await peer.refuse(status, message, later if again else None)

    act.__doc__ = about
    outages.add(name=str(status), any_body=True)(act)


_refusal(400, "400: the request is refused as invalid.", "the request is invalid")
_refusal(401, "401: the key is refused.", "the key is not valid")
_refusal(429, "429 with Retry-After.", "too many requests; come again later", again=True)
_refusal(500, "500: the provider failed.", "internal error")
_refusal(503, "503: the provider is not available.", "not available")
_refusal(529, "529: the provider is overloaded.", "overloaded", again=True)


@outages.add(any_body=True)
async def json_200(peer: Peer) -> None:
    """200 with an error as JSON instead of an answer."""
    await peer.json(200, peer.wire.problem(404, "no such model"))


@outages.add(any_body=True)
async def html_200(peer: Peer) -> None:
    """200 with the HTML page of a login."""
    await peer.head("text/html; charset=utf-8")
    await peer.send(b"<!doctype html><html><body>Please log in</body></html>")
    await peer.end()


# Silence


@outages.add()
async def slow_thinking(peer: Peer) -> None:
    """Five pings, 20 s after each, then a whole answer."""
    await peer.head()
    for _ in range(5):
        await peer.send(peer.wire.ping)
        await peer.pause(20)
    await peer.say(peer.script())
    await peer.end()


@outages.add()
async def slow_headers(peer: Peer) -> None:
    """Nothing for 30 s, then a whole answer."""
    await peer.pause(30)
    await peer.head()
    await peer.say(peer.script())
    await peer.end()


@outages.add(any_body=True)
async def no_headers(peer: Peer) -> None:
    """The request is taken, nothing is sent, open."""
    await peer.hang()


# Broken HTTP


@outages.add(any_body=True)
async def rst_on_connect(peer: Peer) -> None:
    """RST: on connecting if it is planned for all keys, else once the request was read."""
    peer.reset()


@outages.add(any_body=True)
async def half_headers(peer: Peer) -> None:
    """Half the head of an answer, FIN."""
    await peer.raw(b"HTTP/1.1 200 OK\r\ncontent-ty")


@outages.add(any_body=True)
async def half_headers_open(peer: Peer) -> None:
    """Half the head of an answer, open."""
    await peer.raw(b"HTTP/1.1 200 OK\r\ncontent-ty")
    await peer.hang()


@outages.add(any_body=True)
async def not_http(peer: Peer) -> None:
    """A line that is no HTTP, FIN."""
    await peer.raw(b"SSH-2.0-simulated\r\n")
