"""The provider of the benches speaks as providers do; whether the benches are met, no test says."""

from __future__ import annotations

import httptools
import pytest
from bench.agents import MARK
from bench.provider import HEAD, answers

from tests.guard_streams import guarded
from turnwire.agents._guard_wires import WireName

PATHS: dict[bytes, WireName] = {
    b"/chat/completions": "openai",
    b"/responses": "openai-responses",
    b"/messages": "anthropic",
    b":streamGenerateContent": "google",
}


class _Body(bytearray):
    """Takes what the HTTP parser finds."""

    whole = False

    def on_body(self, data: bytes) -> None:
        self.extend(data)

    def on_message_complete(self) -> None:
        self.whole = True


@pytest.mark.parametrize("path", PATHS)
def test_answers_of_the_benches_provider_are_whole(path: bytes) -> None:
    answer = answers(3)[path]
    body = _Body()
    httptools.HttpResponseParser(body).feed_data(HEAD + answer.before + answer.delta * 3 + answer.after)
    assert body.whole
    out, guard = guarded(PATHS[path], [bytes(body)])
    assert guard.error is None
    assert not guard.flags
    assert answer.delta.count(MARK.encode()) == 1
    assert out.count(answer.delta.partition(b"\r\n")[2].rstrip(b"\r\n")) == 3
