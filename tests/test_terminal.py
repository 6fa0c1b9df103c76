"""The chat in a terminal: what a person sees, and what their keys do."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import re
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from rich.console import Console

from tests import job_agent
from tests.gateways import running
from tests.http_server import nobody, served
from tests.pty_process import at_terminal
from turnwire.channels.web.api import web_app
from turnwire.client import ChatClient, ChatError
from turnwire.events import ToolCall, ToolResult
from turnwire.gateway import Gateway
from turnwire.store.queries.turns import list_turns
from turnwire.terminal import Chat, chat_through_pipe
from turnwire.terminal_view import message_text
from turnwire.testing.clock import FakeClock
from turnwire.turn import AgentError, Turn

pytestmark = pytest.mark.anyio


class Gated:
    """An agent that says a piece whenever the test lets it; None ends its answer."""

    def __init__(self) -> None:
        self.pieces: asyncio.Queue[str | None] = asyncio.Queue()

    async def __call__(self, turn: Turn) -> AsyncIterator[Any]:
        while (piece := await self.pieces.get()) is not None:
            yield piece

    def say(self, *pieces: str | None) -> None:
        for piece in pieces:
            self.pieces.put_nowait(piece)


async def echo(turn: Turn) -> AsyncIterator[Any]:
    if turn.text == "fail":
        raise AgentError("The model is on strike.")
    yield f"You said {turn.text}."


@contextlib.asynccontextmanager
async def serving(url: str, folder: Path, agent: Any, *, port: int = 0) -> AsyncIterator[tuple[str, Gateway]]:
    async with running(url, folder, agent) as gateway, served(web_app(gateway), port) as address:
        yield address, gateway
        gateway.hub.lose_all()


class Script:
    """A keyboard on which the test types; its prompt is not drawn, but when it goes and comes back."""

    def __init__(self, screen: Screen) -> None:
        self.screen = screen
        self.remembered: list[str] = []
        self.lines: asyncio.Queue[str | None] = asyncio.Queue()
        self.restored = 0

    async def line(self) -> str | None:
        return await self.lines.get()

    def type(self, *lines: str | None) -> None:
        for line in lines:
            self.lines.put_nowait(line)

    def remember(self, line: str) -> None:
        self.remembered.append(line)

    @contextlib.asynccontextmanager
    async def above(self) -> AsyncIterator[None]:
        self.screen.file.write("[off]")
        yield
        self.screen.file.write("[on]")

    def restore(self) -> None:
        self.restored += 1


class Screen:
    """A terminal that keeps all that was written to it."""

    def __init__(self) -> None:
        self.file = io.StringIO()
        self.console = Console(file=self.file, force_terminal=True, width=80, height=24, color_system=None)

    @property
    def text(self) -> str:
        return self.file.getvalue()

    @property
    def words(self) -> str:
        """The text without line breaks."""
        return " ".join(self.text.split())


async def until(condition: Callable[[], object]) -> None:
    await FakeClock().until(lambda: bool(condition()))


# At a real terminal


async def test_an_answer_is_shown_live_stopped_by_ctrl_c_and_left_by_ctrl_d(sqlite_url: str, tmp_path: Path) -> None:
    agent = Gated()
    async with (
        serving(sqlite_url, tmp_path, agent) as (url, gateway),
        at_terminal("chat", "--url", url, cwd=tmp_path) as terminal,
    ):
        await terminal.expect("Conversation 'terminal'.*› ")
        terminal.send("hello\r")
        await terminal.expect("waiting…|answering…")
        assert not terminal.echoes()
        agent.say("Good **mor")
        await terminal.expect(r"Good .*mor")
        agent.say("ning**!", None)
        await terminal.expect("\x1b\\[1mmorning")
        await terminal.expect(r"done · \d+\.\d s")
        await terminal.expect("› ")

        terminal.send("and now?\r")
        await terminal.expect("waiting…|answering…")
        agent.say("Only half of ")
        await terminal.expect("Only half of")
        terminal.send("\x03")
        await terminal.expect(r"stopped · \d+\.\d s")
        terminal.send("typed ahead")
        await terminal.expect("› .*typed ahead")
        newest = (await gateway.db.read(list_turns, limit=1))[0]
        assert (newest.outcome, newest.stop_requested_by) == ("stopped", "local")

        terminal.send("\x15\x04")
        assert await terminal.wait() == 0
        assert terminal.echoes()
        assert "Traceback" not in terminal.output


async def test_ctrl_c_at_the_prompt_leaves_and_gives_the_terminal_back(sqlite_url: str, tmp_path: Path) -> None:
    async with serving(sqlite_url, tmp_path, echo) as (url, _):
        async with ChatClient(url) as client:
            async for _ in client.send("old", "what was"):
                pass
        async with at_terminal("chat", "--url", url, "--conversation", "old", cwd=tmp_path) as terminal:
            await terminal.expect("You said what was.*done.*› ")
            # The history is read behind the prompt: a prompt that shows a key has it.
            terminal.send("x")
            await terminal.expect("x")
            terminal.send("\x15\x1b[A")
            await terminal.expect("what was")
            terminal.send(" that?")
            await terminal.expect(re.escape("that?"))
            terminal.send("\x03")
            assert await terminal.wait() == 0
            assert terminal.echoes()
            assert "Traceback" not in terminal.output


async def test_a_long_answer_shows_its_end_while_it_comes_and_is_printed_whole(sqlite_url: str, tmp_path: Path) -> None:
    agent = Gated()
    async with (
        serving(sqlite_url, tmp_path, agent) as (url, _),
        at_terminal("chat", "--url", url, cwd=tmp_path, rows=10) as terminal,
    ):
        await terminal.expect("› ")
        terminal.send("count\r")
        agent.say("".join(f"- line {number:02}\n" for number in range(40)))
        shown = await terminal.expect("line 39.*answering…")
        assert "line 20" not in shown
        agent.say("- the last", None)
        final = await terminal.expect(r"done · \d")
        whole = final[final.rindex("\x1b[2K") :]
        assert [int(number) for number in re.findall(r"line (\d\d)", whole)] == list(range(40))
        terminal.send("\x04")
        assert await terminal.wait() == 0


async def test_what_is_typed_stands_again_below_a_report(sqlite_url: str, tmp_path: Path) -> None:
    async with (
        serving(sqlite_url, tmp_path, job_agent.agent) as (url, _),
        at_terminal("chat", "--url", url, cwd=tmp_path) as terminal,
    ):
        await terminal.expect("› ")
        terminal.send(f"job gated {tmp_path}\r")
        await terminal.expect(r'the gated one”: \{"half": 1\}')
        terminal.send("half a li")
        await terminal.expect("half a li")
        (tmp_path / "gate").touch()
        await terminal.expect(r"It says: .*› .*half a li")
        terminal.send("ne\r")
        await terminal.expect("You said: half a line")
        terminal.send("\x04")
        assert await terminal.wait() == 0


async def test_pasted_lines_are_one_message_and_typed_ones_wait_for_their_prompt(
    sqlite_url: str, tmp_path: Path
) -> None:
    async with (
        serving(sqlite_url, tmp_path, echo) as (url, _),
        at_terminal("chat", "--url", url, cwd=tmp_path) as terminal,
    ):
        await terminal.expect("› ")
        terminal.send("\x1b[200~one\n你好\x1b[201~\rtwo\rthree\r")
        await terminal.expect("You said one.*You said two.*You said three.*› ")
        terminal.send("\x04")
        assert await terminal.wait() == 0
        async with ChatClient(url) as client:
            history = await client.history("terminal")
        assert history is not None
        said = [message_text(one) for one in history["messages"] if one["role"] == "user"]
        assert said == ["one\n你好", "two", "three"]


# With a keyboard and a screen of the test's own


async def test_a_restart_shows_reconnecting_and_then_the_recorded_end(sqlite_url: str, tmp_path: Path) -> None:
    agent, clock, screen = Gated(), FakeClock(), Screen()
    keys = Script(screen)
    async with contextlib.AsyncExitStack() as stack:
        async with serving(sqlite_url, tmp_path, agent) as (url, _):
            client = await stack.enter_async_context(ChatClient(url, clock=clock))
            chatting = asyncio.create_task(Chat(client, "c", keys, screen.console).run())
            keys.type("go")
            agent.say("One half.")
            await until(lambda: clock.pending)
            await settle(clock, lambda: "One half." in screen.text)
        await settle(clock, lambda: "reconnecting…" in screen.text, step=0.05)
        async with serving(sqlite_url, tmp_path, agent, port=urlsplit(url).port or 0):
            await settle(clock, lambda: "interrupted: " in screen.text)
            keys.type(None)
            await settle(clock, chatting.done)
            await chatting
        assert "One half." in screen.text[screen.text.rindex("reconnecting…") :]
        assert keys.restored


async def test_a_turn_that_runs_is_joined_at_the_start(sqlite_url: str, tmp_path: Path) -> None:
    agent, screen = Gated(), Screen()
    keys = Script(screen)
    async with serving(sqlite_url, tmp_path, agent) as (url, _), ChatClient(url) as client:
        first = client.send("c", "a question")
        reading = asyncio.create_task(collect(first))
        agent.say("Begun ")
        await until(first.view.text)
        chatting = asyncio.create_task(Chat(client, "c", keys, screen.console).run())
        await until(lambda: "Begun" in screen.text)
        agent.say("and done.", None)
        keys.type(None)
        await reading
        await chatting
        assert "› a question" in screen.text
        assert "Begun and done." in screen.text
        assert keys.remembered == ["a question"]


async def test_a_second_ctrl_c_leaves_an_agent_that_does_not_stop(sqlite_url: str, tmp_path: Path) -> None:
    held = asyncio.Event()

    async def stubborn(turn: Turn) -> AsyncIterator[Any]:
        yield "Never "
        while not held.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await held.wait()
        yield "mind."

    screen = Screen()
    keys = Script(screen)
    async with serving(sqlite_url, tmp_path, stubborn) as (url, gateway), ChatClient(url) as client:
        chat = Chat(client, "c", keys, screen.console)
        chatting = asyncio.create_task(chat.run())
        keys.type("go")
        await until(lambda: "Never" in screen.text)
        chat.interrupt()
        await until(lambda: "stopping…" in screen.text)
        chat.interrupt()
        await chatting
        assert "Left before the end of this answer; it was asked to stop." in screen.text
        newest = (await gateway.db.read(list_turns, limit=1))[0]
        assert newest.stop_requested_by == "local"
        held.set()


async def test_a_stop_before_the_turn_is_known_reaches_it(sqlite_url: str, tmp_path: Path) -> None:
    agent, screen = Gated(), Screen()
    keys = Script(screen)
    async with serving(sqlite_url, tmp_path, agent) as (url, _), ChatClient(url) as client:
        chat = Chat(client, "c", keys, screen.console)
        chatting = asyncio.create_task(chat.run())
        keys.type("go")
        await until(lambda: chat._reading is not None)
        chat.interrupt()
        await until(lambda: "stopped" in screen.text)
        keys.type(None)
        await chatting


async def pays(turn: Turn) -> AsyncIterator[Any]:
    """Asks before it pays, twice where the question says so."""
    if turn.resume is None:
        for index in range(2 if turn.text == "buy" else 1):
            yield ToolCall(id=f"pay-{index}", name="pay", input={"eur": 5 + index}, needs_approval=True)
        return
    for one in turn.resolutions:
        if one.approved:
            yield ToolResult(id=one.call.id, output="paid")
        yield f"{one.call.id} {'allowed' if one.approved else one.reason}. "


async def test_a_call_that_asks_is_answered_and_the_answer_goes_on(sqlite_url: str, tmp_path: Path) -> None:
    screen = Screen()
    keys = Script(screen)
    async with serving(sqlite_url, tmp_path, pays) as (url, _), ChatClient(url) as client:
        keys.type("buy", "y", "n too dear", None)
        await Chat(client, "c", keys, screen.console).run()
        assert 'May this tool run? pay {"eur": 5}' in screen.text
        assert 'May this tool run? pay {"eur": 6}' in screen.text
        assert "y allows it, n denies it (n WHY says why), anything else is a new message." in screen.text
        assert "pay-0 allowed. pay-1 too dear." in screen.text
        assert screen.text.count("May this tool run?") == 2


async def test_a_question_of_before_is_asked_again_and_a_new_message_takes_it_away(
    sqlite_url: str, tmp_path: Path
) -> None:
    screen = Screen()
    keys = Script(screen)
    async with serving(sqlite_url, tmp_path, pays) as (url, _), ChatClient(url) as client:
        await collect(client.send("c", "pay"))
        keys.type("forget it", "n", None)
        await Chat(client, "c", keys, screen.console).run()
        assert screen.text.count("May this tool run?") == 2
        assert "pay-0 None." in screen.text
        history = await client.history("c")
        assert history is not None
        states = [part["state"] for one in history["messages"] for part in one["parts"] if "state" in part]
        assert states.count("output-denied") == 2


async def test_an_answer_that_comes_too_late_says_what_was_recorded(sqlite_url: str, tmp_path: Path) -> None:
    screen = Screen()
    keys = Script(screen)
    async with serving(sqlite_url, tmp_path, pays) as (url, _), ChatClient(url) as client:
        asked = await collect(client.send("c", "pay"))
        (approval,) = [record["approvalId"] for record in asked if record["type"] == "tool-approval-request"]
        chat = Chat(client, "c", keys, screen.console)
        chatting = asyncio.create_task(chat.run())
        await until(lambda: "May this tool run?" in screen.text)
        # Nothing is heard of the other answer.
        await chat._news.close()
        await client.answer(approval, approved=False, reason="by phone")
        keys.type("y", None)
        await chatting
        assert "It was answered before: denied." in screen.text
        assert "pay-0 by phone." in screen.text


async def test_a_background_job_is_told_while_the_person_types(sqlite_url: str, tmp_path: Path) -> None:
    screen = Screen()
    keys = Script(screen)
    async with serving(sqlite_url, tmp_path, job_agent.agent) as (url, _), ChatClient(url) as client:
        chatting = asyncio.create_task(Chat(client, "c", keys, screen.console).run())
        keys.type(f"job gated {tmp_path}")
        await until(lambda: 'Background job “the gated one”: {"half": 1}' in screen.text)
        before = len(screen.text)
        (tmp_path / "gate").touch()
        await until(lambda: "It says:" in screen.text and screen.words.count("is done: after 1 starts") == 2)
        told = screen.text[before:]
        assert told.startswith("[off]")
        await until(lambda: screen.text.endswith("[on]"))
        keys.type("more", None)
        await chatting
        assert screen.words.count("is done: after 1 starts") == 2, "the report, and what the agent says of it"
        assert "You said: more" in screen.text


async def test_a_job_that_is_stopped_elsewhere_is_told(sqlite_url: str, tmp_path: Path) -> None:
    screen = Screen()
    keys = Script(screen)
    async with serving(sqlite_url, tmp_path, job_agent.agent) as (url, _), ChatClient(url) as client:
        await collect(client.send("c", f"job gated {tmp_path}"))
        chatting = asyncio.create_task(Chat(client, "c", keys, screen.console).run())
        await until(lambda: "half" in screen.text)
        history = await client.history("c")
        assert history is not None
        job = history["jobs"][0]["id"]
        assert await client.stop_job("c", job) == {"job": job, "status": "stopping"}
        await until(lambda: "was stopped by local." in screen.words)
        keys.type(None)
        await chatting


async def test_a_refused_message_is_told_and_the_chat_goes_on(sqlite_url: str, tmp_path: Path) -> None:
    screen = Screen()
    keys = Script(screen)
    async with serving(sqlite_url, tmp_path, echo) as (url, _), ChatClient(url) as client:
        keys.type("/help", "  ", "fail", "more", None)
        await Chat(client, "c", keys, screen.console).run()
        assert "/stop" in screen.text
        assert "failed: The model is on strike." in screen.text
        assert "You said more." in screen.text


async def test_the_end_of_a_long_conversation_is_shown_and_others_are_named(sqlite_url: str, tmp_path: Path) -> None:
    screen = Screen()
    keys = Script(screen)
    async with serving(sqlite_url, tmp_path, echo) as (url, _), ChatClient(url) as client:
        for number in range(5):
            await collect(client.send("c", f"question {number}"))
        await collect(client.send("other", "hi"))
        keys.type(None)
        await Chat(client, "c", keys, screen.console).run()
        assert "4 earlier messages" in screen.text
        assert "question 1" not in screen.text
        assert "You said question 4." in screen.text
        assert "Other conversations (--conversation NAME): other" in screen.text
        assert len(keys.remembered) == 5


async def test_a_server_that_is_not_there_is_an_error_at_once() -> None:
    screen = Screen()
    keys = Script(screen)
    with nobody() as port:
        async with ChatClient(f"http://127.0.0.1:{port}") as client:
            with pytest.raises(ChatError, match="is `turnwire serve` running there"):
                await Chat(client, "c", keys, screen.console).run()
    assert keys.restored


# Through a pipe


async def test_each_line_of_a_pipe_is_a_question(
    sqlite_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serving(sqlite_url, tmp_path, echo) as (url, _), ChatClient(url) as client:
        assert await chat_through_pipe(client, "c", piped("one\n\nzwölf\r\nlast"))
        assert capsys.readouterr() == ("You said one.\nYou said zwölf.\nYou said last.\n", "")


async def test_a_turn_that_does_not_end_well_is_told_apart(
    sqlite_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serving(sqlite_url, tmp_path, echo) as (url, _), ChatClient(url) as client:
        assert not await chat_through_pipe(client, "c", piped("fail\nnext\n"))
        out, err = capsys.readouterr()
        # The server of this test logs here too.
        assert [line for line in out.splitlines() if "[warning" not in line] == ["You said next."]
        assert err.startswith("failed: The model is on strike. · ")


async def test_ctrl_c_stops_the_answer_and_asks_no_more(
    sqlite_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    agent = Gated()
    async with serving(sqlite_url, tmp_path, agent) as (url, gateway), ChatClient(url) as client:
        asking = asyncio.create_task(chat_through_pipe(client, "c", piped("one\ntwo\n")))
        agent.say("Well")
        await until(lambda: any(run.log.head > 2 for run in gateway.supervisor.live.values()))
        signal.raise_signal(signal.SIGINT)
        assert not await asking
        out, err = capsys.readouterr()
        assert out == "Well\n"
        assert err.startswith("stopped")
        assert len(await gateway.db.read(list_turns, limit=9)) == 1


async def test_ctrl_c_while_the_pipe_is_silent_leaves(sqlite_url: str, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    async with serving(sqlite_url, tmp_path, echo) as (url, _), ChatClient(url) as client:
        asking = asyncio.create_task(chat_through_pipe(client, "c", reading))
        await FakeClock().settle()
        signal.raise_signal(signal.SIGINT)
        assert not await asking
    os.close(writing)


def piped(text: str) -> int:
    reading, writing = os.pipe()
    os.write(writing, text.encode())
    os.close(writing)
    return reading


async def collect(answer: Any) -> list[Any]:
    return [record async for record in answer]


async def settle(clock: FakeClock, condition: Callable[[], object], *, step: float = 0.5) -> None:
    """Moves time on, a little at a time, while sockets and threads do their work, until `condition()` holds."""
    for _ in range(400):
        if condition():
            return
        await clock.advance(step)
        with contextlib.suppress(TimeoutError):
            await clock.until(lambda: bool(condition()), limit=0.02)
    raise AssertionError("the condition did not come true")
