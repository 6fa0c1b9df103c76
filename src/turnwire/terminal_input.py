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
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeVar

from prompt_toolkit import PromptSession
from prompt_toolkit.application import in_terminal
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.input import create_input
from prompt_toolkit.output.vt100 import Vt100_Output

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
        self._fd = sys.stdin.fileno()
        self._settings = termios.tcgetattr(self._fd)
        quiet = termios.tcgetattr(self._fd)
        # Not line by line: what is typed before a prompt, also a Ctrl-D, must reach the prompt as it was typed.
        quiet[3] &= ~(termios.ICANON | termios.ECHO)
        termios.tcsetattr(self._fd, termios.TCSADRAIN, quiet)
        output = Vt100_Output.from_pty(sys.stdout, term=os.environ.get("TERM"))
        # A terminal that does not tell where its cursor is would be complained of, and nothing here needs to know.
        output.enable_cpr = False
        self._history = InMemoryHistory()
        self._session: PromptSession[str] = PromptSession(
            [("bold ansicyan", prompt)] if color else prompt,
            history=self._history,
            enable_suspend=True,
            interrupt_exception=EOFError,
            input=create_input(sys.stdin),
            output=output,
        )

    def remember(self, line: str) -> None:
        """Puts an earlier line into the history."""
        self._history.append_string(line)

    async def line(self) -> str | None:
        """See `Lines.line`. Ctrl-C ends the lines as Ctrl-D does."""
        try:
            # Signals and errors of the loop belong to who runs it.
            line = await self._session.prompt_async(handle_sigint=False, set_exception_handler=False)
        except EOFError:
            return None
        return clean_text(line)

    def above(self) -> AbstractAsyncContextManager[None]:
        """While it is held, the prompt and what is typed there are off the screen; then they stand below."""
        return in_terminal()

    def restore(self) -> None:
        """Gives the terminal back as it was."""
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
