"""Addresses of files, when the app is mounted below the root of its host.

Guarantee: records and history are stored alike wherever the app is mounted (`/files/...`); a client reads addresses
that work where it reached us, and may send them back. Source of the path: `root_path` of the ASGI scope.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from urllib.parse import quote

from starlette.types import Scope

from .dialects import Dialect

FILES = "/files/"
# Quotes inside a JSON string are escaped, so this is always a key and the beginning of its value.
_STORED = b'"url":"/files/'


def root_of(scope: Scope) -> str:
    """The path that the app is mounted at, percent-encoded and without a slash at its end; empty for the root."""
    return quote(scope.get("root_path", "").rstrip("/"))


def outward(data: bytes, root: str) -> bytes:
    """JSON of ours with the addresses of files as clients under `root` reach them."""
    return data.replace(_STORED, b'"url":"%b/files/' % root.encode()) if root else data


def inward(url: str, root: str) -> str:
    """A file's address as it is stored, from one that a client under `root` sent."""
    return url.removeprefix(root) if url.startswith(f"{root}{FILES}") else url


@lru_cache(maxsize=64)
def mounted(dialect: Dialect, root: str) -> Dialect:
    """`dialect` for clients under `root`; the same object each time, so that its readers share their frames."""
    return _Mounted(dialect, root) if root else dialect


class _Mounted(Dialect):
    def __init__(self, inner: Dialect, root: str) -> None:
        self._inner = inner
        self._root = root
        self.name = inner.name

    def frames(self, first: int, records: Sequence[bytes]) -> tuple[bytes, bool]:
        data, broken = self._inner.frames(first, records)
        return outward(data, self._root), broken

    def replay(self, records: Sequence[bytes], last: int) -> bytes:
        return outward(self._inner.replay(records, last), self._root)
