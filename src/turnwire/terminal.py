"""The chat in a terminal: a client like any other, on our HTTP API.

Guarantee: what is printed as an answer is the fold of its records, whole, with its recorded end; while it comes, the
end of it that fits on the screen is shown. Ctrl-C during an answer stops the turn itself, not only the display. What
happens while the person is asked (jobs, their reports, other tabs) is printed above the prompt.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from rich.console import Console
from rich.live import Live
from rich.text import Text

from .client import Answer, ChatClient, ChatError, Unreachable
from .clock import wait
from .ids import new_id
from .terminal_input import Keyboard, Lines, Pipe
from .terminal_news import News
from .terminal_view import Tail, blocks, call_text, end_line, message_text, open_calls, plain
from .view import to_message

PROMPT = "› "
TICK_S = 0.1
SHOWN_MESSAGES = 6
OTHER_CONVERSATIONS = 5
_VERDICTS = {"y": True, "yes": True, "n": False, "no": False}


class Keys(Lines, Protocol):
    """A keyboard."""

    def remember(self, line: str) -> None: ...

    def above(self) -> contextlib.AbstractAsyncContextManager[None]: ...

    def restore(self) -> None: ...


class _Reading:
    """An answer that is being read, and perhaps the wish to stop it."""

    def __init__(self, client: ChatClient, answer: Answer) -> None:
        self.answer = answer
        self.task = asyncio.create_task(self._read())
        self.stopping = False
        self.problem = ""
        self._client = client
        self._stop: asyncio.Task[None] | None = None

    def stop(self) -> None:
        """Asks for the turn to be stopped, once."""
        if self._stop is None:
            self.stopping = True
            self._stop = asyncio.create_task(self._ask_stop())

    async def close(self) -> None:
        """Stops reading; the turn goes on unless it was asked to stop."""
        tasks = {task for task in (self.task, self._stop) if task is not None}
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await self.answer.aclose()

    async def _read(self) -> None:
        async for _ in self.answer:
            pass

    async def _ask_stop(self) -> None:
        await self.answer.admitted.wait()
        try:
            await self._client.stop(self.answer.turn_id or "")
        except ChatError as error:
            self.problem = str(error)


class Chat:
    """One person at one terminal in one conversation.

    Args:
        conversation: its name; it is made when the first message is sent.
    """

    def __init__(self, client: ChatClient, conversation: str, keys: Keys, console: Console) -> None:
        self._client = client
        self._conversation = conversation
        self._keys = keys
        self._console = console
        self._leaving = asyncio.Event()
        self._reading: _Reading | None = None
        self._news = News(client, conversation)
        self._open: list[dict[str, Any]] = []

    def interrupt(self) -> None:
        """Ctrl-C: stops the answer that is being given; a second time, or at the prompt, leaves."""
        if self._reading is None or self._reading.stopping:
            self.leave()
        else:
            self._reading.stop()

    def leave(self) -> None:
        """Ends the chat; a turn that runs goes on."""
        self._leaving.set()

    async def run(self) -> None:
        """Shows what was said last, joins what runs, then asks and shows answers until the person leaves.

        Raises `ChatError` when the conversation cannot be read.
        """
        left = asyncio.create_task(self._leaving.wait())
        try:
            for turn_id in await self._greet():
                await self._show(self._client.resume(turn_id), left)
            while not self._leaving.is_set() and (line := await self._ask(left)) is not None:
                if line.strip():
                    await self._say(line, left)
        finally:
            left.cancel()
            self._keys.restore()
            await self._news.close()

    async def _greet(self) -> list[str]:
        """Prints the end of the conversation; returns the turns that run or wait."""
        history = await self._client.history(self._conversation)
        if history is None:
            history = {"messages": [], "turn": None, "queued": []}
        else:
            self._news.start()
        others = [one["id"] for one in await self._client.conversations() if one["id"] != self._conversation]
        if others:
            named = ", ".join(others[:OTHER_CONVERSATIONS]) + (" …" if len(others) > OTHER_CONVERSATIONS else "")
            self._dim(f"Other conversations (--conversation NAME): {named}")
        self._dim(f"Conversation {self._conversation!r}. Ctrl-C stops an answer, Ctrl-D leaves, /help says more.\n")
        messages: list[dict[str, Any]] = history["messages"]
        if len(messages) > SHOWN_MESSAGES:
            self._dim(f"… {len(messages) - SHOWN_MESSAGES} earlier messages\n")
        for index, message in enumerate(messages):
            if message["role"] == "user":
                self._keys.remember(message_text(message))
            self._news.seen(message)
            if index >= len(messages) - SHOWN_MESSAGES:
                self._print_message(message)
        self._open = [call for message in messages for call in open_calls(message)]
        live = [history["turn"]["id"]] if history["turn"] else []
        return live + list(history["queued"])

    async def _say(self, line: str, left: asyncio.Task[Any]) -> None:
        """Answers what is asked, or says something new, which takes the question away."""
        word, _, reason = line.strip().partition(" ")
        verdict = _VERDICTS.get(word.lower())
        if not self._open or verdict is None or (verdict and reason):
            self._open.clear()
            message_id = new_id("msg", self._client.clock)
            self._news.seen({"id": message_id})
            await self._show(self._client.send(self._conversation, line, message_id=message_id), left)
            self._news.start()
            return
        call = self._open.pop(0)
        try:
            told = await self._client.answer(call["approval"]["id"], approved=verdict, reason=reason.strip())
        except ChatError as error:
            self._console.print(Text(str(error), style="bold red"))
            return
        if not told["first"]:
            self._dim(f"It was answered before: {'allowed' if told['approved'] else 'denied'}.\n")
        if told["turn"] is not None:
            await self._show(self._client.resume(told["turn"]["id"]), left)

    async def _ask(self, left: asyncio.Task[Any]) -> str | None:
        if self._news.changed.is_set():
            await self._tell(asking=False)
        self._print_question()
        reading = asyncio.create_task(self._keys.line())
        try:
            while not reading.done() and not left.done():
                news = asyncio.create_task(self._news.changed.wait())
                try:
                    await asyncio.wait({reading, left, news}, return_when=asyncio.FIRST_COMPLETED)
                    if news.done() and not reading.done():
                        await self._tell(asking=True)
                finally:
                    news.cancel()
            return reading.result() if reading.done() else None
        finally:
            # The keyboard takes its prompt off before the terminal is given back.
            reading.cancel()
            await asyncio.wait({reading})

    async def _tell(self, *, asking: bool) -> None:
        """Prints what is new, above the prompt and what is typed there if somebody is being asked."""
        self._news.changed.clear()
        lines, fresh = self._news.job_lines(), list[dict[str, Any]]()
        if self._news.quiet:
            try:
                history = await self._client.history(self._conversation) or {"messages": []}
            except ChatError:
                # It is told with the next change; a question that is asked meanwhile says what is wrong.
                return
            fresh = [message for message in history["messages"] if not self._news.seen(message)]
            self._open = [call for message in history["messages"] for call in open_calls(message)]
        if not lines and not fresh:
            return
        async with self._keys.above() if asking else contextlib.nullcontext():
            for line in lines:
                self._dim(line)
            for message in fresh:
                self._print_message(message)
            if asking and fresh:
                self._print_question()

    def _print_question(self) -> None:
        if self._open:
            asked = Text.assemble(("May this tool run? ", "bold yellow"), call_text(self._open[0]))
            self._console.print(asked, soft_wrap=True)
            self._dim("y allows it, n denies it (n WHY says why), anything else is a new message.")

    async def _show(self, answer: Answer, left: asyncio.Task[Any]) -> None:
        reading = self._reading = _Reading(self._client, answer)
        try:
            await self._show_live(reading, left)
            self._print_answer(reading)
        finally:
            self._reading = None
            await reading.close()

    async def _show_live(self, reading: _Reading, left: asyncio.Task[Any]) -> None:
        clock, answer, console = self._client.clock, reading.answer, self._console
        began, shown = clock.monotonic(), None
        with Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False) as live:
            while not reading.task.done() and not left.done():
                status = _status(reading, clock.monotonic() - began)
                state = (id(answer.view), answer.view.count, status, console.size)
                if state != shown:
                    shown = state
                    message = to_message(answer.view)
                    live.update(Tail(message, self._client.base_url, Text(status, style="dim")), refresh=True)
                await wait(clock, {reading.task, left}, TICK_S)

    def _print_answer(self, reading: _Reading) -> None:
        message = to_message(reading.answer.view)
        for block in blocks(message, self._client.base_url):
            self._console.print(block)
        error = reading.task.exception() if reading.task.done() else None
        if isinstance(error, ChatError):
            self._console.print(Text(str(error), style="bold red"))
        elif error is not None:
            raise error
        elif not reading.task.done():
            said = "it was asked to stop" if reading.stopping else "it goes on"
            self._dim(f"Left before the end of this answer; {said}.")
        else:
            self._console.print(end_line(message))
            self._news.seen(message)
            self._open += open_calls(message)
        self._console.print()

    def _print_message(self, message: dict[str, Any]) -> None:
        if message["role"] == "user":
            self._console.print(Text.assemble((PROMPT, "bold cyan"), message_text(message)))
        else:
            for block in blocks(message, self._client.base_url):
                self._console.print(block)
            self._console.print(end_line(message))
        self._console.print()

    def _dim(self, text: str) -> None:
        self._console.print(Text(text, style="dim"))


async def chat_at_terminal(client: ChatClient, conversation: str, leave: asyncio.Event | None = None) -> None:
    """A chat at this process's terminal, until the person leaves or `leave` is set; raises as `Chat.run` does."""
    console = Console(highlight=False)
    keys = Keyboard(PROMPT, color=console.color_system is not None)
    chat = Chat(client, conversation, keys, console)
    handlers = {signal.SIGINT: chat.interrupt}
    watcher: asyncio.Task[None] | None = None
    if leave is None:
        handlers[signal.SIGTERM] = chat.leave
    else:
        watcher = asyncio.create_task(_call_when_set(leave, chat.leave))
    try:
        with _on_signals(handlers):
            await chat.run()
    finally:
        if watcher is not None:
            watcher.cancel()


async def chat_through_pipe(client: ChatClient, conversation: str, fd: int = 0) -> bool:
    """Answers each line of a file descriptor, one after the other, in plain text; what goes wrong is said on stderr.

    Returns whether every turn ended `done`. The first Ctrl-C stops the answer and asks no more; the second leaves.
    """
    piped = _Piped(client, conversation, Pipe(fd))
    with _on_signals({signal.SIGINT: piped.interrupt}):
        return await piped.run()


class _Piped:
    def __init__(self, client: ChatClient, conversation: str, lines: Lines) -> None:
        self._client = client
        self._conversation = conversation
        self._lines = lines
        self._good = True
        self._leaving = asyncio.Event()
        self._last = False
        self._reading: _Reading | None = None

    def interrupt(self) -> None:
        if self._reading is None or self._last:
            self._leaving.set()
        else:
            self._reading.stop()
        self._last, self._good = True, False

    async def run(self) -> bool:
        left = asyncio.create_task(self._leaving.wait())
        try:
            while not self._last:
                asking = asyncio.create_task(self._lines.line())
                await asyncio.wait({asking, left}, return_when=asyncio.FIRST_COMPLETED)
                if not asking.done():
                    asking.cancel()
                    break
                line = asking.result()
                if line is None:
                    break
                if line.strip():
                    await self._answer(line, left)
        finally:
            left.cancel()
        return self._good

    async def _answer(self, line: str, left: asyncio.Task[Any]) -> None:
        reading = self._reading = _Reading(self._client, self._client.send(self._conversation, line))
        try:
            await asyncio.wait({reading.task, left}, return_when=asyncio.FIRST_COMPLETED)
            message = to_message(reading.answer.view)
            said = plain(message, self._client.base_url)
            if said:
                _write(said, sys.stdout)
            if reading.task.done():
                reading.task.result()
                if reading.answer.view.outcome != "done":
                    self._complain(end_line(message).plain)
        except ChatError as error:
            self._last = self._last or isinstance(error, Unreachable)
            self._complain(str(error))
        finally:
            self._reading = None
            await reading.close()

    def _complain(self, text: str) -> None:
        self._good = False
        _write(text, sys.stderr)


def _write(text: str, stream: Any) -> None:
    stream.write(text + "\n")
    stream.flush()


def _status(reading: _Reading, seconds: float) -> str:
    answer = reading.answer
    if reading.problem:
        said = f"cannot stop it: {reading.problem}"
    elif not answer.connected:
        said = "reconnecting…"
    elif reading.stopping:
        said = "stopping…"
    else:
        said = "answering…" if answer.view.count else "waiting…"
    hint = "Ctrl-C leaves" if reading.stopping else "Ctrl-C stops"
    return f"{said} {int(seconds)} s · {hint}"


async def _call_when_set(event: asyncio.Event, call: Callable[[], None]) -> None:
    await event.wait()
    call()


@contextlib.contextmanager
def _on_signals(handlers: Mapping[signal.Signals, Callable[[], None]]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)
