"""The one way log lines leave a process: lines for people on a terminal, JSON lines otherwise, never a secret.

Guarantee: every line, ours, uvicorn's or a library's, passes `redact` as its last step before it is rendered. A line
that cannot be rendered costs itself only: no log call raises, and none falls back to printing its arguments.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import structlog
from structlog.types import EventDict, Processor, WrappedLogger

REMOVED: Final = "[removed]"

_SECRET_NAME = re.compile(
    r"authorization|cookie|token|secret|passw(or)?d|passphrase|credential|(api|aes|private|encrypt(ion)?)[-_]?key", re.I
)
# A count of tokens is not a token.
_COUNT_NAME = re.compile(r"tokens$|token_?count$", re.I)
_DEEPEST: Final = 8

# To the last @ before a space: what is no password may go too, but no password stays.
_URL_PASSWORD = re.compile(r"""(://[^\s:"'<>]*):\S*@""")
# "basic settings" is English; a credential has a digit or is long.
_SCHEME = re.compile(r"""\b(Bearer|Basic)\s+(?=[^\s"',;]*\d|[^\s"',;]{20})[^\s"',;]+""", re.I)
_HEADER = re.compile(r"""(authorization["']?\s*[:=]\s*(?:b?["'])?)(?:(?:Bearer|Basic)\s+)?[^\s"',;]+""", re.I)
# name=value and "name": "value", as they stand in query strings, reprs and JSON text.
_NAMED = re.compile(
    r"""((?:[\w-]*(?:token(?!s)|secret|passw(?:or)?d|api[-_]?key|signature)[\w-]*)(?:=|["']:\s*)["']?)[^\s"'&,;)}\]]+""",
    re.I,
)


def mask(text: str) -> str:
    """`text` without the passwords of URLs, `Authorization` values and `token=...` values that stand in it."""
    text = _URL_PASSWORD.sub(r"\1:***@", text)
    text = _HEADER.sub(rf"\1{REMOVED}", text)
    text = _SCHEME.sub(rf"\1 {REMOVED}", text)
    return _NAMED.sub(rf"\1{REMOVED}", text)


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """A structlog processor: the event without secrets. Never raises; what cannot be made safe is withheld.

    A value whose name looks like a secret (authorization, cookie, token, password, ...) is replaced whole, at any depth
    and in `(name, value)` pairs such as HTTP headers; every other text goes through `mask`.
    """
    try:
        return {key: _clean(value, _is_secret(key), str(key), 0) for key, value in event.items()}
    except Exception as error:  # noqa: BLE001 - a broken value must cost its line, not the caller
        ours = {key: event[key] for key in ("timestamp", "level", "logger") if key in event}
        return {**ours, "event": "a log line was withheld: it could not be made safe", "error": type(error).__name__}


def configure_logging(level: str = "info", json: bool | None = None) -> None:
    """Routes structlog, the standard library's loggers, warnings and uvicorn's loggers to stderr. Never raises.

    Start uvicorn with `log_config=None`, or it puts its own handlers back.

    Args:
        level: `debug`, `info`, `warning`, `error` or `critical`; anything else means `info` and says so in the log.
        json: JSON lines, or lines for people; None decides by whether stderr is a terminal.
    """
    terminal = _is_terminal()
    as_json = not terminal if json is None else json
    handler = _Handler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder()],
            processors=_processors(as_json, colors=terminal and os.name != "nt" and not os.environ.get("NO_COLOR")),
        )
    )
    number = logging.getLevelNamesMapping().get(str(level).upper())
    for chatty in ("alembic", "httpx2"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number or logging.INFO)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    logging.captureWarnings(True)
    structlog.configure(
        # Whatever can fail runs in the formatter, behind the handler, and not in the caller.
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    if not number:
        structlog.get_logger(__name__).warning("unknown log level, using info", given=str(level))


class _Handler(logging.StreamHandler[Any]):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the standard library's name
        """Says that a line was lost and why; the standard library would print its arguments, secrets included."""
        error = sys.exc_info()[0]
        reason = error.__name__ if error else "unknown error"
        try:
            self.stream.write(f"a log line of {record.name} could not be written: {reason}{self.terminator}")
        except (AttributeError, OSError, ValueError):
            # There is no stream, or no more: nowhere is left to say it.
            return


def _processors(as_json: bool, *, colors: bool) -> list[Processor]:
    renderer: Processor = (
        structlog.processors.JSONRenderer(ensure_ascii=False)
        if as_json
        else structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)
    )
    return [
        _stamp,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.StackInfoRenderer(),
        # To text before `redact`, so that the text of exceptions is masked too; it holds no local variables.
        structlog.processors.format_exc_info,
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        redact,
        renderer,
    ]


def _stamp(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    record: logging.LogRecord = event["_record"]
    stamp = {
        "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname.lower(),
        "logger": record.name,
        "event": event.pop("event", ""),
    }
    # uvicorn says its message twice, the second time in colours.
    event.pop("color_message", None)
    return stamp | {f"{key}_" if key in stamp else key: value for key, value in event.items()}


def _is_terminal() -> bool:
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):
        return False


def _is_secret(name: object) -> bool:
    text = name.decode("latin-1") if isinstance(name, bytes) else name
    return isinstance(text, str) and _SECRET_NAME.search(text) is not None


def _clean(value: object, secret: bool, name: str, depth: int) -> object:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return value if not secret or _COUNT_NAME.search(name) else REMOVED
    if depth == _DEEPEST:
        return "..."
    if isinstance(value, Mapping):
        return {
            mask(str(key)): _clean(item, secret or _is_secret(key), str(key), depth + 1) for key, item in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        items = list(value)
        if len(items) == 2 and not secret and _is_secret(items[0]):
            return [_clean(items[0], False, name, depth + 1), REMOVED]
        return [_clean(item, secret, name, depth + 1) for item in items]
    if secret:
        return REMOVED if value != "" else ""
    return mask(value if isinstance(value, str) else _printed(value))


def _printed(value: object) -> str:
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - a value that cannot print itself is still worth a line
        return f"<unprintable {type(value).__name__}>"
