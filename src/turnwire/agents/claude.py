"""The Claude Agent SDK as a Turnwire agent.

Guarantee: what people read is what the CLI keeps, once, in order; a turn succeeds only if the CLI and the provider both
ended it. However a turn ends, its CLI is interrupted, ended and gone, and the conversation goes on in the same session.

This module needs `turnwire[claude]`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import os
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine, Mapping
from contextlib import aclosing
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeAlias

import structlog

from ..clock import Clock, SystemClock
from ..events import AgentEvent
from ..turn import AgentError
from ._claude_events import ClaudeEvents
from ._claude_prompt import Known, earlier, known, question, session_part
from ._claude_session import ClaudeSession
from .chat_reader import ModelStreamError, redactor

if TYPE_CHECKING:
    from ..turn import Turn
    from . import Agent

Approve: TypeAlias = "Collection[str] | Callable[[str, Mapping[str, Any]], bool]"
"""Which calls need a person's approval: names of tools, or a function of a call's name and arguments."""

MAX_MESSAGE_BYTES = 32 * 1024 * 1024
"""One message of the CLI; a tool's picture may come in it."""

_QUIET = {
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_TELEMETRY": "1",
    "DISABLE_ERROR_REPORTING": "1",
    "DISABLE_AUTOUPDATER": "1",
    # Ten, the CLI's own choice, are minutes of silence.
    "CLAUDE_CODE_MAX_RETRIES": "2",
}
_GONE = "The session that asked for this approval is gone; ask again."
_ALONE = "A person is asked about another call first. Make this call again, alone, once that one has its result."
_SUB_AGENT = "This call needs a person's approval, and a sub-agent cannot ask for one. Leave it to the main agent."

_log = structlog.get_logger(__name__)


def claude_agent(
    options: Any = None,
    *,
    model: str | None = None,
    instructions: str | None = None,
    api_key: str | None = None,
    base_url: str | Callable[[], str] | None = None,
    proxy: str | None = None,
    config_dir: str | Path | None = None,
    approve: Approve | None = None,
    client_factory: Callable[[Any], Any] | None = None,
    redact: Callable[[str], str] | None = None,
    clock: Clock | None = None,
) -> Agent:
    """A Turnwire agent that runs one Claude Code process for each turn, and resumes the conversation's session.

    The process gets an environment of its own: no telemetry, no updates, no proxies of the environment, its own folder
    for sessions. What `options.env` says wins.

    Args:
        options: `ClaudeAgentOptions`, or a function that gives them for a turn; by default no built-in tools and no
            settings files. Partial messages, texts of sub-agents and the session are set by Turnwire.
        model, instructions: the model's name and the system prompt, when `options` have none.
        api_key, base_url: the provider's key and address; by default what the process's environment says. An address
            that is known later, such as that of a `GuardProxy`, is given by a function, which every turn asks.
        proxy: an HTTP proxy's address.
        config_dir: where the CLI keeps sessions and credentials; by default a folder in the user's data directory.
        approve: which calls wait for a person. Their tools run in the turn that goes on after the answer.
        client_factory: makes the client from the final options; by default `ClaudeSDKClient`.
        redact: makes a provider's text showable; by default one that knows the key and the usual shapes of keys.

    Its turns raise `AgentError` for what fails.
    """
    folder = Path(config_dir).expanduser() if config_dir is not None else _data_folder()
    environment = _environment(
        folder, api_key=api_key, base_url=base_url if isinstance(base_url, str) else None, proxy=proxy
    )
    runtime = _Runtime(
        options=options,
        defaults={"model": model, "system_prompt": instructions},
        environment=environment,
        folder=folder,
        approve=approve,
        factory=client_factory,
        redact=redact or redactor(api_key, os.environ.get("ANTHROPIC_API_KEY")),
        clock=clock or SystemClock(),
    )

    async def run_turn(turn: Turn) -> AsyncGenerator[AgentEvent, None]:
        if callable(base_url):
            environment["ANTHROPIC_BASE_URL"] = base_url()
        async with aclosing(runtime.turn(turn)) as said:
            async for event in said:
                yield event

    return run_turn


def _environment(folder: Path, *, api_key: str | None, base_url: str | None, proxy: str | None) -> dict[str, str]:
    env = {**_QUIET, "CLAUDE_CONFIG_DIR": str(folder)}
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        env[name] = env[name.lower()] = proxy or ""
    env["NO_PROXY"] = env["no_proxy"] = "127.0.0.1,localhost,::1" if proxy else "*"
    if api_key:
        env |= {"ANTHROPIC_API_KEY": api_key, "ANTHROPIC_AUTH_TOKEN": ""}
    if base_url:
        env["ANTHROPIC_BASE_URL"] = base_url
    return env


def _data_folder() -> Path:
    home = os.environ.get("XDG_DATA_HOME")
    return (Path(home) if home else Path.home() / ".local" / "share") / "turnwire" / "claude"


class _SessionLost(Exception):
    """The CLI does not know the session, or not that message of it."""


class _Approvals:
    """Decides which calls of one turn wait for a person, as a hook before each call.

    The CLI keeps the last call only that is put off in one answer, so there is never a second.
    """

    def __init__(self, turn: Turn, approve: Approve) -> None:
        self._approve = approve
        self._asked = False
        # By the CLI's own ids: what a person answered.
        self._answers = {
            state["call"]: resolution
            for resolution in turn.resolutions
            if isinstance(state := resolution.state, dict) and "call" in state
        }

    async def hook(self, call: Mapping[str, Any], own: str | None, _context: Any) -> dict[str, Any]:
        name, arguments = str(call.get("tool_name")), call.get("tool_input") or {}
        answer = self._answers.pop(own or "", None)
        if answer is not None:
            return _decide("allow") if answer.approved else _decide("deny", answer.reason or "A person said no.")
        needed = self._approve(name, arguments) if callable(self._approve) else name in self._approve
        if not needed:
            return {}
        if call.get("agent_id"):
            return _decide("deny", _SUB_AGENT)
        if self._asked:
            return _decide("deny", _ALONE)
        self._asked = True
        return _decide("defer")


def _decide(decision: str, reason: str = "") -> dict[str, Any]:
    output = {"hookEventName": "PreToolUse", "permissionDecision": decision, "permissionDecisionReason": reason}
    return {"hookSpecificOutput": output}


@dataclasses.dataclass(frozen=True)
class _Runtime:
    options: Any
    defaults: dict[str, Any]
    environment: dict[str, str]
    folder: Path
    approve: Approve | None
    factory: Callable[[Any], Any] | None
    redact: Callable[[str], str]
    clock: Clock
    # Ends of processes, which no cancellation of a turn reaches.
    closing: set[asyncio.Task[None]] = dataclasses.field(default_factory=set)

    async def turn(self, turn: Turn) -> AsyncGenerator[AgentEvent, None]:
        before = earlier(turn)
        resumed = _session_of(turn)
        start = known(before) if resumed is None else Known(resumed, None, len(before))
        try:
            async with aclosing(self._answer(turn, start, before)) as said:
                async for event in said:
                    yield event
            return
        except _SessionLost:
            if resumed is not None:
                raise AgentError(_GONE) from None
            _log.info("Claude Code does not know the session; a new one begins", turn=turn.id)
        async with aclosing(self._answer(turn, Known(None, None, 0), before)) as said:
            async for event in said:
                yield event

    async def _answer(self, turn: Turn, start: Known, before: list[dict[str, Any]]) -> AsyncGenerator[AgentEvent, None]:
        """One try. Raises `_SessionLost` when the CLI cannot go on with the session of `start`."""
        events = ClaudeEvents(self.redact)
        # A call that was put off is made as soon as its session goes on; the CLI needs no word for that.
        prompt = [] if _session_of(turn) is not None else await question(turn, before[start.messages :])
        try:
            async with aclosing(self._run(turn, events, start, prompt)) as said:
                async for event in said:
                    yield event
        except Exception as error:
            if not _of_sdk(error):
                raise
            if start.session is not None and not events.began and hasattr(error, "subtype"):
                raise _SessionLost from None
            raise self._readable(error) from None
        failed = events.result is None or events.result.is_error
        if start.session is not None and failed and not events.began and getattr(events.result, "errors", None):
            raise _SessionLost
        if not (failed and turn.stopping.is_set()):
            events.check()

    async def _run(
        self, turn: Turn, events: ClaudeEvents, start: Known, prompt: list[dict[str, Any]]
    ) -> AsyncGenerator[AgentEvent, None]:
        """One process, from its start to its end; remembers its session in the answer."""
        session = ClaudeSession(self._client(turn, start), self.clock)
        watching: asyncio.Task[None] | None = None
        try:
            await session.connect()
            watching = asyncio.create_task(session.interrupt_when(turn.stopping), name=f"claude-stop-{turn.id}")
            if prompt:
                await session.ask(prompt)
            async with aclosing(session.messages()) as messages:
                async for message in messages:
                    for event in events.read(message):
                        yield event
            if events.session and events.at and events.asks is None and events.result is not None:
                yield session_part(events.session, events.at)
        finally:
            if watching is not None:
                watching.cancel()
            await asyncio.shield(self._keep(session.close()))

    def _keep(self, close: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(close, name="claude-close")
        self.closing.add(task)
        task.add_done_callback(self.closing.discard)
        return task

    def _client(self, turn: Turn, start: Known) -> Any:
        options = self.options(turn) if callable(self.options) else self.options
        if options is None:
            # The CLI files sessions by folder, and looks for them where it was started.
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            options = _sdk().ClaudeAgentOptions(tools=[], setting_sources=[], cwd=str(self.folder))
        changes: dict[str, Any] = {
            "env": {**self.environment, **(options.env or {})},
            "include_partial_messages": True,
            "forward_subagent_text": True,
            "resume": start.session,
            "resume_session_at": start.at,
            "max_buffer_size": options.max_buffer_size or MAX_MESSAGE_BYTES,
            # What the CLI prints may hold what it was given.
            "stderr": options.stderr or (lambda _line: None),
        }
        changes |= {name: value for name, value in self.defaults.items() if value and not getattr(options, name)}
        if self.approve is not None:
            # A hook that fails must not let the call through.
            hook = SimpleNamespace(
                matcher=None, hooks=[_Approvals(turn, self.approve).hook], timeout=None, on_failure="block"
            )
            hooks = dict(options.hooks or {})
            changes["hooks"] = {**hooks, "PreToolUse": [*hooks.get("PreToolUse", ()), hook]}
        final = dataclasses.replace(options, **changes)
        return self.factory(final) if self.factory is not None else _sdk().ClaudeSDKClient(final)

    def _readable(self, error: Exception) -> AgentError:
        """What people may read about a failure of the SDK or its process."""
        if type(error).__name__ == "CLINotFoundError":
            return AgentError("Claude Code was not found; install turnwire[claude].")
        said = "; ".join(getattr(error, "errors", ()))
        if said:
            return ModelStreamError(f"Claude Code reported an error: {self.redact(said)}")
        code = getattr(error, "exit_code", None)
        if code is not None:
            return ModelStreamError(f"Claude Code ended before its answer was complete (exit code {code}).")
        return ModelStreamError(f"Claude Code failed ({type(error).__name__}): {self.redact(str(error))}")


def _session_of(turn: Turn) -> str | None:
    """The session that asked for the approval which this turn has the answer to."""
    state = turn.resume.state if turn.resume is not None else None
    session = state.get("session") if isinstance(state, dict) else None
    return session if isinstance(session, str) and session else None


def _of_sdk(error: Exception) -> bool:
    return any(base.__name__ == "ClaudeSDKError" for base in type(error).__mro__)


def _sdk() -> Any:
    # Its import takes half a second and 50 MB, which only those pay who use it.
    try:
        return importlib.import_module("claude_agent_sdk")
    except ImportError as error:
        raise AgentError("The Claude Agent SDK is not installed; run: pip install 'turnwire[claude]'") from error
