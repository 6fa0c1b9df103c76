"""Remote agents and proxies: one that was set is used, those of the environment are not."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import ssl
from base64 import b64encode
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.fake_provider import delta, finish, sse
from tests.http_server import nobody
from turnwire.agents.remote import OpenAIChat
from turnwire.agents.remote_ui import RemoteAgent
from turnwire.turn import AgentError

pytestmark = pytest.mark.anyio

Kind = Literal["chat", "ui"]
KEY = "secret-0123456789"
PASSWORD = "hunter2-hunter2"
NAMES = ("http_proxy", "https_proxy", "all_proxy")
SAID = {
    "chat": b"".join(map(sse, [delta("Hello"), finish(), "[DONE]"])),
    "ui": b"".join(map(sse, [{"type": "text-start", "id": "0"}, {"type": "text-delta", "id": "0", "delta": "Hello"},
                             {"type": "text-end", "id": "0"}, {"type": "finish"}, "[DONE]"])),
}  # fmt: skip
QUESTION = {"id": "q", "role": "user", "parts": [{"type": "text", "text": "hi"}]}


class Server:
    """Answers every request as a remote of this kind does, over TLS if it has a certificate."""

    def __init__(self, kind: Kind, tls: ssl.SSLContext | None = None) -> None:
        self.port = 0
        self.requests: list[bytes] = []
        self._kind = kind
        self._tls = tls

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Server]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError), contextlib.closing(writer):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.requests.append(head)
                await reader.readexactly(int(_field(head, b"content-length") or 0))
                body = SAID[self._kind]
                kind = b"content-type: text/event-stream\r\ncontent-length: %d\r\n\r\n" % len(body)
                writer.write(b"HTTP/1.1 200 OK\r\n" + kind + body)
                await writer.drain()


class Proxy:
    """An HTTP proxy to whom every name means one server. `asked` is what it was asked for, `seen` what passed."""

    def __init__(self, upstream: int) -> None:
        self.address = ""
        self.asked: list[tuple[str, str, bytes]] = []
        self.seen = b""
        self._upstream = upstream

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Proxy]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError), contextlib.closing(writer):
            head = await reader.readuntil(b"\r\n\r\n")
            method, target, rest = head.split(b" ", 2)
            self.asked.append((method.decode(), target.decode(), _field(head, b"proxy-authorization")))
            there, onward = await asyncio.open_connection("127.0.0.1", self._upstream)
            with contextlib.closing(onward):
                if method == b"CONNECT":
                    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
                else:
                    onward.write(method + b" /" + target.split(b"/", 3)[3] + b" " + rest)
                await asyncio.gather(self._pass(reader, onward), self._pass(there, writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            self.seen += data
            writer.write(data)
            await writer.drain()
        writer.close()


def _field(head: bytes, name: bytes) -> bytes:
    lines = [line.partition(b": ") for line in head.split(b"\r\n")]
    return next((value for known, _, value in lines if known.lower() == name), b"")


@asynccontextmanager
async def asking(kind: Kind, base: str, *, kept: bool = False, **more: Any) -> AsyncIterator[Any]:
    """A function that asks the remote at `base` once, and gives the text of its answer."""
    remote: OpenAIChat | RemoteAgent
    if kind == "chat":
        remote = OpenAIChat(f"{base}/v1", "m", api_key=KEY, **more)
    else:
        remote = RemoteAgent(f"{base}/api/chat", headers={"authorization": f"Bearer {KEY}"}, **more)

    def stream() -> AsyncGenerator[Any, None]:
        if isinstance(remote, OpenAIChat):
            return remote.stream([{"role": "user", "content": "hi"}])
        turn: Any = SimpleNamespace(
            id="turn_1", conversation="c", user="u", quote=None, files=[], messages=[QUESTION], resolutions=()
        )
        return remote(turn)

    async def ask() -> str:
        async with aclosing(stream()) as events:
            said = [event async for event in events]
        return "".join(event if isinstance(event, str) else getattr(event, "text", "") for event in said)

    async with remote if kept else contextlib.nullcontext():
        yield ask


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("kind", ["chat", "ui"])
async def test_proxies_of_the_environment_are_ignored(monkeypatch: Any, kind: Kind, kept: bool) -> None:
    async with Server(kind).running() as server, Proxy(server.port).running() as proxy:
        for name in (*NAMES, "no_proxy"):
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.upper(), raising=False)
        for name in NAMES:
            monkeypatch.setenv(name, f"http://{proxy.address}")
            monkeypatch.setenv(name.upper(), f"http://{proxy.address}")
        base = f"http://127.0.0.1:{server.port}"
        async with asking(kind, base, kept=kept) as ask:
            assert [await ask(), await ask()] == ["Hello", "Hello"]
        assert len(server.requests) == 2
        assert proxy.asked == []
        # A client that obeys the environment does ask this proxy.
        async with httpx2.AsyncClient() as obedient:
            await obedient.post(f"{base}/x", content=b"{}")
        assert [target for _, target, _ in proxy.asked] == [f"{base}/x"]


@pytest.mark.parametrize(("kind", "path"), [("chat", "/v1/chat/completions"), ("ui", "/api/chat")])
async def test_a_proxy_that_was_set_is_asked_for_the_whole_address(kind: Kind, path: str) -> None:
    async with Server(kind).running() as server, Proxy(server.port).running() as proxy:
        address = f"http://me:{PASSWORD}@{proxy.address}"
        async with asking(kind, "http://agent.invalid", proxy=address) as ask:
            assert await ask() == "Hello"
    credentials = b"Basic " + b64encode(f"me:{PASSWORD}".encode())
    assert proxy.asked == [("POST", f"http://agent.invalid{path}", credentials)]
    assert _field(server.requests[0], b"authorization") == f"Bearer {KEY}".encode()
    assert _field(server.requests[0], b"host") == b"agent.invalid"


@pytest.mark.parametrize("kind", ["chat", "ui"])
async def test_a_proxy_that_was_set_sees_nothing_of_a_request_over_tls(
    monkeypatch: Any, tmp_path: Path, kind: Kind
) -> None:
    tls = _certified("agent.invalid", tmp_path / "pair.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "pair.pem"))
    async with (
        Server(kind, tls).running() as server,
        Proxy(server.port).running() as proxy,
        asking(kind, "https://agent.invalid", proxy=f"http://{proxy.address}") as ask,
    ):
        assert await ask() == "Hello"
    assert proxy.asked == [("CONNECT", "agent.invalid:443", b"")]
    assert len(proxy.seen) > 500
    assert KEY.encode() not in proxy.seen
    assert _field(server.requests[0], b"authorization") == f"Bearer {KEY}".encode()


@pytest.mark.parametrize(("kind", "who"), [("chat", "model"), ("ui", "remote agent")])
async def test_a_proxy_that_is_not_there_is_no_way_around(kind: Kind, who: str) -> None:
    async with Server(kind).running() as server:
        with nobody() as port:
            address = f"http://me:{PASSWORD}@127.0.0.1:{port}"
            async with asking(kind, f"http://127.0.0.1:{server.port}", proxy=address) as ask:
                with pytest.raises(AgentError, match=f"The {who} at 127.0.0.1:{server.port} cannot be reached") as told:
                    await ask()
        assert server.requests == []
    assert PASSWORD not in str(told.value)


def _certified(name: str, path: Path) -> ssl.SSLContext:
    """A server's side of TLS for `name`, with a certificate that vouches for itself and is written to `path`."""
    key = ec.generate_private_key(ec.SECP256R1())
    own = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder(own, own, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(made.public_bytes(pem) + secret)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(path)
    return tls
