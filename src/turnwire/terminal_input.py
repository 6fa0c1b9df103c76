"""Where a chat's questions come from: a keyboard or a pipe.

Guarantee: waiting for a line blocks neither the event loop nor the end of the process, and the terminal's settings are
given back.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import os
import sys
import termios
import threading
from collections.abc import Callable
from typing import Protocol, TypeVar

from .sanitize import clean_text

T = TypeVar("T")


class Lines(Protocol):
    """A source of lines."""

    async def line(self) -> str | None:
        """The next line without its end, None when there are no more. Cancelling gives the source up."""
        ...


class Keyboard:
    """Lines that a person types at the terminal, with editing and history.

    What is typed while no line is asked for is not shown and becomes the beginning of the next line.

    Args:
        prompt: what stands before each line.
        color: whether the prompt may be coloured.
    """

    def __init__(self, prompt: str, *, color: bool) -> None:
        self._prompt = prompt
        self._fd = sys.stdin.fileno()
        self._settings = termios.tcgetattr(self._fd)
        self._lock = threading.Lock()
        self._restored = False
        self._set(echo=False)
        try:
            import readline
        except ModuleNotFoundError:
            self._remember: Callable[[str], None] | None = None
            self._buffer: Callable[[], str] = str
        else:
            self._remember = readline.add_history
            self._buffer = readline.get_line_buffer
            if color:
                # Between \x01 and \x02 stands what takes no room, so that readline counts columns right.
                self._prompt = f"\x01\x1b[1;36m\x02{prompt}\x01\x1b[0m\x02"

    def remember(self, line: str) -> None:
        """Puts an earlier line into the history."""
        if self._remember is not None:
            self._remember(line)

    async def line(self) -> str | None:
        """See `Lines.line`."""
        line = await _in_thread(self._input)
        return None if line is None else clean_text(line)

    def typed(self) -> str:
        """The prompt and what stands behind it, to be written again below what was printed over them."""
        return self._prompt.replace("\x01", "").replace("\x02", "") + self._buffer()

    def _input(self) -> str | None:
        # readline shows what is typed only if the terminal does.
        self._set(echo=True)
        try:
            return input(self._prompt)
        except EOFError:
            return None
        finally:
            self._set(echo=False)

    def _set(self, *, echo: bool) -> None:
        settings = termios.tcgetattr(self._fd)
        # Not line by line: what is typed before a prompt, also a Ctrl-D, must reach the prompt as it was typed.
        settings[3] &= ~termios.ICANON
        settings[3] = settings[3] | termios.ECHO if echo else settings[3] & ~termios.ECHO
        with self._lock:
            # A thread that was left behind in `input` must not spoil the terminal for who comes next.
            if not self._restored:
                termios.tcsetattr(self._fd, termios.TCSADRAIN, settings)

    def restore(self) -> None:
        """Gives the terminal back as it was; no line can be read any more."""
        with self._lock:
            self._restored = True
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._settings)


class Pipe:
    """Lines from a file or another program.

    Args:
        fd: the file descriptor to read.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._text = ""
        self._ended = False

    async def line(self) -> str | None:
        """See `Lines.line`."""
        while "\n" not in self._text and not self._ended:
            # Not through sys.stdin: its lock, held by a blocked thread, would keep the process from ending.
            data = await _in_thread(lambda: os.read(self._fd, 65536))
            self._text += self._decoder.decode(data, final=not data)
            self._ended = not data
        line, end, self._text = self._text.partition("\n")
        return line.removesuffix("\r") if line or end else None


async def _in_thread(work: Callable[[], T]) -> T:
    """What `work` returns, from a thread that is left behind when the caller is cancelled."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()

    def settle(value: Callable[[], T]) -> None:
        if result.done():
            return
        try:
            result.set_result(value())
        except Exception as error:  # noqa: BLE001 - carried over to the task that waits
            result.set_exception(error)

    def run() -> None:
        value = _outcome(work)
        # The loop may have closed since; then nobody is left to be told.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, value)

    threading.Thread(target=run, name="turnwire-input", daemon=True).start()
    return await result


def _outcome(work: Callable[[], T]) -> Callable[[], T]:
    """Runs `work`; returns a function that returns or raises what it did."""
    try:
        value = work()
    except Exception as error:  # noqa: BLE001 - raised again where it is read
        caught = error

        def fail() -> T:
            raise caught

        return fail
    return lambda: value
