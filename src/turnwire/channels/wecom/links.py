"""Signed links to what cannot be sent in webhook mode: files of answers, and whole answers. Pure.

Guarantee: a link opens the one thing that it was made for, in the chats of one bot, until its time is over; nobody can
make one without the key, and comparing takes the same time for every wrong signature.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from urllib.parse import quote

LINK_S = 7 * 86400
_SIGNATURE = re.compile(r"(?<=[?&]signature=)[0-9a-f]{64}")


def unsigned(text: str) -> str:
    """The text with its links as they open nothing."""
    return _SIGNATURE.sub("***", text)


class Links:
    """Makes and checks the links of one bot.

    Args:
        address: where people reach the bot's routes, without a slash at its end.
        key: signs them.
    """

    def __init__(self, address: str, key: str) -> None:
        self._address = address
        self._key = key.encode()

    def __repr__(self) -> str:
        return "Links()"

    def to(self, kind: str, own: str, name: str, since: float) -> str:
        """The link to a thing of that kind, for seven days since then; the same for the same arguments."""
        until = str(int(since) + LINK_S)
        signed = self._sign(kind, own, until)
        return f"{self._address}/{kind}/{quote(own, safe='')}/{quote(name, safe='')}?until={until}&signature={signed}"

    def opens(self, kind: str, own: str, *, until: str, signature: str, now: float) -> bool:
        """Whether a link that says so is one of ours and its time is not over."""
        right = self._sign(kind, own, until)
        if not hmac.compare_digest(signature.encode("utf-8", "replace"), right.encode()):
            return False
        return until.isdecimal() and now < int(until)

    def _sign(self, kind: str, own: str, until: str) -> str:
        said = "\n".join((self._address, kind, own, until)).encode("utf-8", "replace")
        return hmac.new(self._key, said, hashlib.sha256).hexdigest()
