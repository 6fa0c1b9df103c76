"""Logging: no secret in any line, one shape for every logger, and no log call that raises."""

from __future__ import annotations

import io
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from turnwire.log import REMOVED, configure_logging, mask, redact

SECRET = "hunter2-hunter2"
UVICORN = ("uvicorn", "uvicorn.error", "uvicorn.access")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _undone() -> Iterator[None]:
    """Puts the process-wide logging back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    loggers = [logging.getLogger(name) for name in UVICORN]
    before = [(logger.handlers[:], logger.propagate) for logger in loggers]
    shown = warnings.showwarning
    yield
    logging.captureWarnings(False)
    warnings.showwarning = shown
    root.handlers[:] = handlers
    root.setLevel(level)
    for logger, (own, propagate) in zip(loggers, before, strict=True):
        logger.handlers[:] = own
        logger.propagate = propagate
    structlog.reset_defaults()


class Stderr:
    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self._text = ""

    def getvalue(self) -> str:
        self._text += self._capsys.readouterr().err
        return self._text


@pytest.fixture
def stderr(capsys: pytest.CaptureFixture[str]) -> Stderr:
    return Stderr(capsys)


def _lines(stream: Stderr) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def _redact(**event: Any) -> dict[str, Any]:
    return dict(redact(None, "info", event))


@pytest.mark.parametrize(
    "name",
    [
        "authorization",
        "Authorization",
        "proxy-authorization",
        "api_key",
        "apikey",
        "X-Api-Key",
        "token",
        "access_token",
        "secret",
        "app_secret",
        "password",
        "passwd",
        "cookie",
        "Set-Cookie",
        "encrypt_key",
        "encoding_aes_key",
    ],
)
def test_the_value_of_a_secret_name_is_removed(name: str) -> None:
    assert _redact(**{name: SECRET}) == {name: REMOVED}
    assert _redact(**{name: 12345}) == {name: REMOVED}
    assert _redact(**{name: SECRET.encode()}) == {name: REMOVED}
    assert _redact(outer={"inner": [{name: SECRET}]}) == {"outer": {"inner": [{name: REMOVED}]}}


def test_everything_under_a_secret_name_is_removed() -> None:
    assert _redact(tokens={"ana": SECRET, "more": [SECRET]}) == {"tokens": {"ana": REMOVED, "more": [REMOVED]}}


def test_whether_a_secret_is_set_can_be_told() -> None:
    assert _redact(api_key="", token=None, secret=True) == {"api_key": "", "token": None, "secret": True}


def test_counts_of_tokens_are_no_secrets() -> None:
    usage = {"inputTokens": 5, "total_tokens": 9, "inputTokenDetails": {"cacheReadTokens": 3}}
    assert _redact(usage=usage, max_tokens=100) == {"usage": usage, "max_tokens": 100}


def test_header_pairs_are_redacted() -> None:
    headers = [(b"host", b"x"), (b"authorization", b"Bearer " + SECRET.encode()), ("Cookie", SECRET)]
    text = repr(_redact(headers=headers))
    assert SECRET not in text
    assert text.count(REMOVED) == 2
    assert "b'x'" in text


def test_other_values_stay_as_they_are() -> None:
    event = {
        "event": "turn ended",
        "turn": "turn_1",
        "count": 3,
        "share": 0.5,
        "ok": True,
        "reason": None,
        "ids": ["a"],
    }
    assert _redact(**event) == event


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("connect to postgresql://ana:hunter2@db/x failed", "connect to postgresql://ana:***@db/x failed"),
        ("redis://:hunter2@h:6379/0", "redis://:***@h:6379/0"),
        ("http://u:p@ss:w@rd/x@h", "http://u:***@h"),
        ("postgresql://ana@db/x", "postgresql://ana@db/x"),
        ("https://x.org:8080/a?b=c", "https://x.org:8080/a?b=c"),
        ('GET /files/1/a?token=abc&x=1 HTTP/1.1" 200', 'GET /files/1/a?token=[removed]&x=1 HTTP/1.1" 200'),
        ("Authorization: Bearer abc.def", "Authorization: [removed]"),
        ("sent Bearer abc123 twice", "sent Bearer [removed] twice"),
        ('{"api_key": "sk-1", "n": 1}', '{"api_key": "[removed]", "n": 1}'),
        ("Client(api_key='sk-1', n=1)", "Client(api_key='[removed]', n=1)"),
        (
            "basic settings, bearer of news; tokens=12 tokens: 12",
            "basic settings, bearer of news; tokens=12 tokens: 12",
        ),
    ],
)
def test_secrets_in_text_are_masked(text: str, masked: str) -> None:
    assert mask(text) == masked
    assert _redact(event=text, detail=[text]) == {"event": masked, "detail": [masked]}


@given(st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1))
def test_no_password_of_a_url_stays(password: str) -> None:
    masked = mask(f"cannot reach postgresql://ana:Q9x{password}x9Q@db/x now")
    assert "Q9x" not in masked
    assert "x9Q" not in masked
    assert masked.endswith(" now")


def test_objects_are_masked_by_their_repr() -> None:
    assert _redact(error=OSError(f"postgresql://u:{SECRET}@h")) == {"error": "OSError('postgresql://u:***@h')"}
    assert SECRET not in repr(_redact(value=SecretStr(SECRET)))


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError(SECRET)


class Broken(dict[str, str]):
    def items(self) -> Any:
        raise RuntimeError(SECRET)


def test_what_cannot_be_printed_costs_only_itself() -> None:
    assert _redact(event="x", value=Unprintable()) == {"event": "x", "value": "<unprintable Unprintable>"}


def test_what_cannot_be_made_safe_is_withheld() -> None:
    assert _redact(event="x", level="info", value=Broken()) == {
        "level": "info",
        "event": "a log line was withheld: it could not be made safe",
        "error": "RuntimeError",
    }


def test_a_value_that_holds_itself_ends() -> None:
    loop: dict[str, Any] = {"token": SECRET}
    loop["again"] = loop
    text = repr(_redact(loop=loop))
    assert SECRET not in text
    assert "..." in text


def test_without_a_terminal_lines_are_json(stderr: Stderr) -> None:
    configure_logging()
    structlog.get_logger("turnwire.x").info("turn ended", turn="turn_1", api_key=SECRET, path="文")
    logging.getLogger("some.library").warning("seen %s", f"http://u:{SECRET}@h", extra={"token": SECRET})
    ours, theirs = _lines(stderr)
    assert ours.pop("timestamp") <= theirs.pop("timestamp")
    assert ours == {
        "event": "turn ended",
        "turn": "turn_1",
        "api_key": REMOVED,
        "path": "文",
        "level": "info",
        "logger": "turnwire.x",
    }
    assert theirs == {
        "event": "seen http://u:***@h",
        "token": REMOVED,
        "level": "warning",
        "logger": "some.library",
    }


def test_on_a_terminal_lines_are_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("NO_COLOR", "1")
    configure_logging()
    structlog.get_logger("turnwire.x").info("turn ended", turn="turn_1", password=SECRET)
    [line] = stream.getvalue().splitlines()
    assert "turn ended" in line
    assert "turn=turn_1" in line
    assert SECRET not in line
    assert "\x1b" not in line


@pytest.mark.parametrize("as_json", [True, False])
def test_the_shape_can_be_chosen(stderr: Stderr, as_json: bool) -> None:
    configure_logging(json=as_json)
    structlog.get_logger().info("hello")
    assert stderr.getvalue().startswith("{") == as_json
    assert "\x1b" not in stderr.getvalue()


@pytest.mark.parametrize("as_json", [True, False])
def test_exceptions_are_told_without_secrets_and_without_locals(stderr: Stderr, as_json: bool) -> None:
    configure_logging(json=as_json)
    known = "of this ".upper()
    try:
        raise ValueError(f"no route to redis://u:{SECRET}@h", len(known))
    except ValueError:
        structlog.get_logger().exception("relay lost")
        logging.getLogger("lib").exception("relay lost")
    text = stderr.getvalue()
    assert text.count("ValueError: ('no route to redis://u:***@h', 8)") == 2
    assert SECRET not in text
    assert known not in text


def test_bound_context_reaches_the_line(stderr: Stderr) -> None:
    configure_logging(json=True)
    with structlog.contextvars.bound_contextvars(turn="turn_1", token=SECRET):
        structlog.get_logger().info("x")
    [line] = _lines(stderr)
    assert (line["turn"], line["token"]) == ("turn_1", REMOVED)


def test_positional_arguments_are_put_in(stderr: Stderr) -> None:
    configure_logging(json=True)
    structlog.get_logger().info("%s of %s", 1, 2)
    assert _lines(stderr)[0]["event"] == "1 of 2"


def test_uvicorn_goes_the_same_way(stderr: Stderr) -> None:
    for name in UVICORN:
        logger = logging.getLogger(name)
        logger.addHandler(logging.StreamHandler(sys.stderr))
        logger.propagate = False
    configure_logging(json=True)
    logging.getLogger("uvicorn.error").info("Started", extra={"color_message": "\x1b[1mStarted"})
    logging.getLogger("uvicorn.access").info(
        '%s - "%s %s HTTP/%s" %d', "127.0.0.1:1", "GET", f"/files/1/a?token={SECRET}", "1.1", 200
    )
    started, access = _lines(stderr)
    assert (started["event"], started["logger"], started["level"]) == ("Started", "uvicorn.error", "info")
    assert "color_message" not in started
    assert access["event"] == '127.0.0.1:1 - "GET /files/1/a?token=[removed] HTTP/1.1" 200'


def test_warnings_are_lines_too(stderr: Stderr) -> None:
    configure_logging(json=True)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old habit", DeprecationWarning, stacklevel=1)
    [line] = _lines(stderr)
    assert line["logger"] == "py.warnings"
    assert "old habit" in line["event"]


def test_the_level_decides(stderr: Stderr) -> None:
    configure_logging("WARNING", json=True)
    structlog.get_logger().info("quiet")
    logging.getLogger("lib").info("quiet")
    structlog.get_logger().warning("loud")
    assert [line["event"] for line in _lines(stderr)] == ["loud"]


def test_an_unknown_level_means_info_and_says_so(stderr: Stderr) -> None:
    configure_logging("chatty", json=True)
    structlog.get_logger().info("x")
    first, second = _lines(stderr)
    assert (first["event"], first["level"], first["given"]) == ("unknown log level, using info", "warning", "chatty")
    assert second["event"] == "x"


def test_a_value_named_like_a_stamp_is_kept_beside_it(stderr: Stderr) -> None:
    configure_logging(json=True)
    structlog.get_logger("ours").info("x", level=9, timestamp="then", logger="l")
    [line] = _lines(stderr)
    assert (line["level"], line["level_"], line["timestamp_"], line["logger"], line["logger_"]) == (
        "info",
        9,
        "then",
        "ours",
        "l",
    )


def test_configuring_twice_logs_once(stderr: Stderr) -> None:
    configure_logging(json=True)
    configure_logging(json=True)
    structlog.get_logger().info("x")
    assert len(_lines(stderr)) == 1


def test_a_log_call_never_raises_and_never_prints_its_arguments(stderr: Stderr) -> None:
    configure_logging(json=True)
    logging.getLogger("lib").info("%d turns", SECRET)
    structlog.get_logger("ours").info("%d turns", SECRET)
    assert stderr.getvalue().splitlines() == [
        "a log line of lib could not be written: TypeError",
        "a log line of ours could not be written: TypeError",
    ]


@pytest.mark.parametrize("stream", [None, io.StringIO()])
def test_a_log_call_does_not_raise_when_nobody_can_hear_it(
    monkeypatch: pytest.MonkeyPatch, stream: io.StringIO | None
) -> None:
    if stream:
        stream.close()
    monkeypatch.setattr(sys, "stderr", stream)
    configure_logging()
    structlog.get_logger().info("x")
    logging.getLogger("lib").error("x")
