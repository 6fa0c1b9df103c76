"""The command line: what each command says, and with which exit code it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from typer.testing import CliRunner, Result

from tests.gateways import running
from tests.http_server import served
from tests.pty_process import at_terminal
from turnwire import demo as demo_module
from turnwire.agents import local
from turnwire.agents.load import AgentSpec, load_agent
from turnwire.channels.web.api import web_app
from turnwire.cli import app
from turnwire.client import ChatClient
from turnwire.config import Config, load_config
from turnwire.demo import demo_config, has_desktop, open_browser, run_demo, welcome
from turnwire.events import File, Reasoning, Snapshot, ToolCall, ToolResult
from turnwire.store.queries.records import trim
from turnwire.turn import AgentError, Turn

pytestmark = pytest.mark.anyio

HEAVY = ("sqlalchemy", "uvicorn", "uvloop", "pydantic", "httpx2", "starlette", "alembic")


def turnwire(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


async def beside(*arguments: str) -> Result:
    """The same from a thread, so that what this loop serves goes on."""
    return await asyncio.to_thread(turnwire, *arguments)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and no configuration in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("TURNWIRE_") and "__" in name:
            monkeypatch.delenv(name)
    return tmp_path


@contextlib.contextmanager
def process(*arguments: str, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    with (cwd / "stderr.txt").open("a") as errors:
        started = subprocess.Popen(
            [sys.executable, "-m", "turnwire.cli", *arguments],
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, "TURNWIRE_AGENT__USE": "demo"},
        )
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


async def story(turn: Turn) -> AsyncIterator[Any]:
    if turn.text == "fail":
        raise AgentError("The model is on strike.")
    yield Reasoning("Hm.")
    yield ToolCall(id="a", name="search", input={"q": "x"})
    yield ToolResult(id="a", output=["found"])
    yield "Wrong "
    yield Snapshot("The **answer**.")
    yield File(url="https://host/a.txt", media_type="text/plain")


# What is there without a server


def test_help_comes_without_loading_the_server() -> None:
    code = (
        "import sys; sys.argv = ['turnwire', '--help']\n"
        "from turnwire.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        f"print('LOADED', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "LOADED []" in ran.stdout
    for command in ("serve", "demo", "chat", "turns", "deliveries", "doctor", "local", "sim"):
        assert command in ran.stdout


def test_the_version_is_the_package_s() -> None:
    result = turnwire("--version")
    assert result.exit_code == 0
    assert re.fullmatch(r"turnwire \d+\.\d+\.\d+\S*\n", result.stdout)


@pytest.mark.parametrize("command", [["serve"], ["demo"], ["turns", "list"]])
def test_a_wrong_configuration_is_a_message_and_exit_code_2(folder: Path, command: list[str]) -> None:
    (folder / "turnwire.toml").write_text("[server]\nprot = 1\n")
    result = turnwire(*command)
    assert result.exit_code == 2
    assert "turnwire.toml" in result.stderr
    assert "server.prot" in result.stderr
    assert result.stdout == ""


def test_an_agent_that_is_none_is_a_message_and_exit_code_2(folder: Path) -> None:
    (folder / "turnwire.toml").write_text('[agent]\nuse = "python:nowhere:agent"\n')
    result = turnwire("serve")
    assert result.exit_code == 2
    assert "there is no module 'nowhere'" in result.stderr


def test_a_busy_port_is_a_message_and_exit_code_2(folder: Path) -> None:
    (folder / "turnwire.toml").write_text('[agent]\nuse = "demo"\n')
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = turnwire("serve", "--port", str(taken.getsockname()[1]))
    assert result.exit_code == 2
    assert "cannot listen there" in result.stderr


async def test_a_store_in_use_is_a_message_and_exit_code_2(folder: Path, sqlite_url: str) -> None:
    (folder / "turnwire.toml").write_text(f'[agent]\nuse = "demo"\n[store]\nurl = "{sqlite_url}"\n')
    async with running(sqlite_url, folder, story):
        command = [sys.executable, "-m", "turnwire.cli", "serve", "--port", "0"]
        result = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (2, "")
    assert f"is served by process {os.getpid()}" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_token_is_taken_from_its_place_and_never_from_the_command_line(folder: Path) -> None:
    for place, said in (
        ("env:NO_SUCH_TOKEN", "NO_SUCH_TOKEN is not set"),
        ("file:nothing.txt", "cannot be read"),
        ("s3cret", "must be env:NAME or file:PATH"),
        ("env:", "must be env:NAME or file:PATH"),
    ):
        result = turnwire("chat", "--token", place)
        assert result.exit_code == 2
        assert said in result.stderr
        assert "s3cret" not in result.output
    for header in ("x-user", ": alice", "x user: alice", "x-user:"):
        assert "must be a name and a value" in turnwire("chat", "--header", header).stderr
    assert "must be like http://127.0.0.1:8787" in turnwire("chat", "--url", "localhost").stderr


def test_the_local_model_says_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "local_available", lambda: True)
    result = turnwire("local", "install")
    assert result.exit_code == 0
    assert "installed already" in result.stdout


def test_an_installation_that_fails_is_a_message_and_exit_code_2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "local_available", lambda: False)
    monkeypatch.setattr(local, "_installer", lambda: [sys.executable, "-c", "raise SystemExit('no room left')"])
    result = turnwire("local", "install")
    assert result.exit_code == 2
    assert result.stdout.startswith("Installing xllamacpp")
    assert "no room left" in result.stderr


# Turns in the store


async def test_turns_are_listed_and_shown_beside_a_running_server(folder: Path, sqlite_url: str) -> None:
    (folder / "turnwire.toml").write_text(f'[store]\nurl = "{sqlite_url}"\n')
    async with (
        running(sqlite_url, folder, story) as gateway,
        served(web_app(gateway)) as url,
        ChatClient(url) as client,
    ):
        answers = [client.send("c", text) for text in ("one", "fail")]
        for answer in answers:
            async for _ in answer:
                pass
        good, bad = (answer.turn_id or "" for answer in answers)
        found = (await beside("turns", "list")).stdout.splitlines()
        assert [line.split()[:2] for line in found[1:]] == [[bad, "failed"], [good, "done"]]
        assert found[1].endswith("web/local/c")
        listed = json.loads((await beside("turns", "list", "--json", "--limit", "1")).stdout)
        assert [(one["id"], one["outcome"]) for one in listed] == [(bad, "failed")]
        assert len((await beside("turns", "list", "--status", "running")).stdout.splitlines()) == 1

        shown = (await beside("turns", "show", good)).stdout
        for said in (
            "outcome       done",
            "epoch         1",
            f"head          {answers[0].cursor}",
            "owner",
            "endedAt",
        ):
            assert said in shown
        assert "The answer." in shown
        assert 'tool search {"q": "x"}' in shown
        about = json.loads((await beside("turns", "show", "--json", bad)).stdout)
        assert about["reason"] == "The model is on strike."
        assert about["message"]["metadata"]["turnwire"]["outcome"] == "failed"

        raw = (await beside("turns", "replay", "--raw", good)).stdout
        async with httpx2.AsyncClient(trust_env=False) as http:
            body = (await http.get(f"{url}/api/chat/{good}/stream?ui=7&startIndex=0")).text
            folded = (await http.get(f"{url}/api/chat/{good}/stream?ui=7")).text
        assert raw == body.removeprefix(":\n\n")
        assert (await beside("turns", "replay", good)).stdout == folded.removeprefix(":\n\n")
        older = await beside("turns", "replay", "--raw", "--dialect", "5-strict", good)
        assert older.exit_code == 2
        assert "reset-step" not in older.stdout
        assert "cannot say the record that comes next" in older.stderr

        await gateway.db.run(trim, -10.0)
        trimmed = await beside("turns", "replay", "--raw", good)
        assert (trimmed.exit_code, trimmed.stdout) == (2, "")
        assert "no longer kept; without --raw the whole answer is still there" in trimmed.stderr
        assert (await beside("turns", "replay", good)).stdout == folded.removeprefix(":\n\n")


async def test_a_turn_that_runs_is_shown_as_far_as_it_is(folder: Path, sqlite_url: str) -> None:
    (folder / "turnwire.toml").write_text(f'[store]\nurl = "{sqlite_url}"\n')
    go_on = asyncio.Event()

    async def slow(turn: Turn) -> AsyncIterator[Any]:
        yield "Up to here"
        await go_on.wait()

    async with (
        running(sqlite_url, folder, slow) as gateway,
        served(web_app(gateway)) as url,
        ChatClient(url) as client,
    ):
        answer = client.send("c", "hi")
        records = aiter(answer)
        while answer.view.text() != "Up to here":
            await anext(records)
        shown = (await beside("turns", "show", answer.turn_id or "")).stdout
        assert "status        running" in shown
        assert "Up to here" in shown
        assert "running" in (await beside("turns", "list")).stdout
        replayed = (await beside("turns", "replay", answer.turn_id or "")).stdout
        assert "Up to here" in replayed
        assert "[DONE]" not in replayed
        go_on.set()
        await answer.aclose()


async def test_what_the_store_does_not_hold_is_a_message_and_exit_code_2(folder: Path, sqlite_url: str) -> None:
    (folder / "turnwire.toml").write_text(f'[store]\nurl = "{sqlite_url}"\n')
    missing = await beside("turns", "list")
    assert missing.exit_code == 2
    assert "has `turnwire serve` ever run here?" in missing.stderr
    async with running(sqlite_url, folder, story):
        pass
    for command in ("show", "replay"):
        result = await beside("turns", command, "turn_x")
        assert result.exit_code == 2
        assert "there is no turn 'turn_x' in this store" in result.stderr
    assert "use one of 7, 5-strict" in (await beside("turns", "replay", "turn_x", "--dialect", "4")).stderr
    assert (await beside("turns", "list", "--limit", "0")).exit_code == 2


# The demo


def test_the_demo_keeps_its_data_together_unless_told_otherwise(folder: Path) -> None:
    chosen = demo_config(load_config(env={}), interactive=False)
    assert chosen.store.url == "sqlite:///turnwire-data/turnwire.db"
    assert chosen.store.files == Path("turnwire-data/turnwire-files")
    assert chosen.turns.drain_s == 30
    assert [path.name for path in folder.iterdir()] == ["turnwire-data"]
    own = {"store": {"files": "elsewhere", "durability": "process"}, "turns": {"drain_s": 9}}
    chosen = demo_config(load_config(env={}, overrides=own), interactive=True)
    assert chosen.store.url == "sqlite:///turnwire-data/turnwire.db"
    assert (chosen.store.files, chosen.store.durability, chosen.turns.drain_s) == (Path("elsewhere"), "process", 9)
    assert demo_config(load_config(env={}), interactive=True).turns.drain_s == 2
    told = load_config(env={"TURNWIRE_STORE__URL": "sqlite:///mine.db"})
    assert demo_config(told, interactive=False).store.url == "sqlite:///mine.db"


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The built page, as far as anybody asks whether it is there."""
    built = tmp_path / "static" / "index.html"
    built.parent.mkdir()
    built.touch()
    monkeypatch.setattr(demo_module, "STATIC", built.parent)
    return built


@pytest.fixture
def default_browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Makes a shell script the only browser; returns where it leaves the address that it was asked to open."""

    def make(script: str = "") -> Path:
        opened, program = tmp_path / "opened.txt", tmp_path / "browser"
        program.write_text(f'#!/bin/sh\necho noise; echo noise >&2\necho "$1" > {opened}\n{script}\n')
        program.chmod(0o755)
        monkeypatch.setenv("BROWSER", f"{program} %s")
        monkeypatch.setenv("PATH", str(tmp_path / "no-programs"))
        for name in ("DISPLAY", "WAYLAND_DISPLAY", "SSH_CONNECTION", "SSH_CLIENT", "SSH_TTY"):
            monkeypatch.delenv(name, raising=False)
        return opened

    return make


@pytest.mark.parametrize(
    ("environ", "platform", "seen"),
    [
        ({"DISPLAY": ":0"}, "linux", True),
        ({"WAYLAND_DISPLAY": "wayland-0"}, "linux", True),
        ({}, "linux", False),
        ({"DISPLAY": ""}, "linux", False),
        ({"DISPLAY": "localhost:10", "SSH_CONNECTION": "1.2.3.4 5 6.7.8.9 22"}, "linux", False),
        ({}, "darwin", True),
        ({"SSH_TTY": "/dev/ttys001"}, "darwin", False),
        ({}, "win32", True),
        ({"SSH_CLIENT": "1.2.3.4 5 22"}, "win32", False),
    ],
)
def test_a_desktop_is_one_that_the_person_sees(environ: dict[str, str], platform: str, seen: bool) -> None:
    assert has_desktop(environ, platform) == seen


def test_the_browser_is_opened_without_a_word(
    default_browser: Callable[[str], Path], capfd: pytest.CaptureFixture[str]
) -> None:
    opened = default_browser("")
    assert open_browser("http://127.0.0.1:1/")
    assert opened.read_text() == "http://127.0.0.1:1/\n"
    default_browser("exit 1")
    assert not open_browser("http://127.0.0.1:2/")
    assert opened.read_text() == "http://127.0.0.1:2/\n"
    assert capfd.readouterr() == ("", "")


def test_a_browser_that_does_not_return_is_not_waited_for(
    default_browser: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    default_browser(f"read line < {gate}")
    monkeypatch.setattr(demo_module, "OPEN_S", 0.5)
    assert open_browser("http://127.0.0.1:1/")
    gate.open("w").close()


def test_a_python_that_cannot_be_started_opens_no_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    assert not open_browser("http://127.0.0.1:1/")


@pytest.mark.parametrize("opens", [True, False])
async def test_the_demo_opens_its_page_once_it_answers(
    folder: Path, page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], opens: bool
) -> None:
    answered: list[str] = []

    def browse(url: str) -> bool:
        answered.append(httpx2.get(f"{url}healthz", trust_env=False).json()["status"])
        return opens

    url, said = await _demo(monkeypatch, capsys, browse)
    assert answered == ["ok"]
    assert f"Chat page: {url}/" in said
    assert ("No browser opened; open the chat page yourself." in said) == (not opens)


@pytest.mark.parametrize("why", ["not built", "header", "no channel"])
async def test_the_demo_opens_no_page_that_is_not_there_for_the_person(
    folder: Path, page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], why: str
) -> None:
    settings: dict[str, dict[str, Any]] = {"header": {"auth": "header"}, "no channel": {"enabled": False}}
    if why == "not built":
        page.unlink()
    asked: list[str] = []

    def browse(url: str) -> bool:
        asked.append(url)
        return True

    _, said = await _demo(monkeypatch, capsys, browse, channels={"web": settings.get(why, {})})
    assert asked == []
    assert "page" not in "\n".join(said)


async def _demo(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    browse: Callable[[str], bool],
    **overrides: Any,
) -> tuple[str, list[str]]:
    """A demo whose person leaves the chat at once: its address, and the lines it printed."""

    async def leaves(*_: Any) -> None:
        pass

    monkeypatch.setattr(demo_module, "_chat", leaves)
    config = load_config(env={}, overrides={"server": {"port": 0}, **overrides})
    await run_demo(config, load_agent("demo"), interactive=True, browse=browse)
    # What the server of this process logs may stand between them.
    said = capsys.readouterr().out.splitlines()
    (ready,) = (line for line in said if line.startswith("ready "))
    return ready.removeprefix("ready "), said


def test_the_welcome_names_the_agent_and_never_a_token(page: Path) -> None:
    spec = AgentSpec("Guide", story)  # type: ignore[arg-type]
    first, where, second = welcome(Config(), spec, "http://h:1")
    assert first == "Guide answers. Conversations are kept in turnwire.db."
    assert where == "Chat page: http://h:1/"
    assert shlex.split(second.partition(": ")[2])[:3] == ["curl", "-N", "http://h:1/api/chat"]
    own = {"channels": {"web": {"auth": "token", "tokens": {"a": "s3cret"}}}, "store": {"url": "postgresql://u:pw@h/d"}}
    lines = "\n".join(welcome(load_config(env={}, overrides=own), spec, "http://h:1"))
    assert "Authorization: Bearer TOKEN" in lines
    assert "s3cret" not in lines
    assert "pw" not in lines
    own = {"channels": {"web": {"auth": "header"}}}
    assert "-H 'x-user: local'" in welcome(load_config(env={}, overrides=own), spec, "http://h:1")[-1]


@pytest.mark.process
def test_the_demo_serves_what_it_says_and_keeps_it(folder: Path) -> None:
    with process("demo", "--port", "0", cwd=folder) as demo:
        url, curl = _started(demo)
        assert curl[:3] == ["curl", "-N", f"{url}/api/chat"]
        body = httpx2.post(curl[2], content=curl[curl.index("-d") + 1], trust_env=False, timeout=60)
        assert '"outcome":"done"' in body.text
        assert body.text.endswith("data: [DONE]\n\n")
        asked = subprocess.run(
            [sys.executable, "-m", "turnwire.cli", "chat", "--url", url, "--conversation", "demo"],
            input="/help\nhello\n",
            capture_output=True,
            text=True,
            check=False,
        )
        assert asked.returncode == 0, asked.stderr
        assert asked.stdout.startswith("`/stop` ends the running answer")
        demo.send_signal(signal.SIGTERM)
        assert demo.wait(30) == 0
    assert (folder / "turnwire-data" / "turnwire.db").exists()
    with process("demo", "--port", "0", cwd=folder) as again:
        url, _ = _started(again)
        kept = httpx2.get(f"{url}/api/chat/demo", trust_env=False).json()
        assert len(kept["messages"]) == 6
        again.send_signal(signal.SIGINT)
        assert again.wait(30) == 0


@pytest.mark.process
def test_a_chat_that_cannot_be_had_ends_with_an_exit_code(folder: Path) -> None:
    command = [sys.executable, "-m", "turnwire.cli", "chat", "--url"]
    with process("demo", "--port", "0", cwd=folder) as demo:
        url, _ = _started(demo)
        refused = subprocess.run(
            [*command, url, "--conversation", "turn_x"], input="hi\n", capture_output=True, text=True, check=False
        )
        assert refused.returncode == 1
        assert "names that begin with 'turn_' are for turns" in refused.stderr


@pytest.mark.heavy
@pytest.mark.process
async def test_a_demo_at_a_terminal_chats_and_ends_with_the_chat(
    folder: Path, default_browser: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TURNWIRE_AGENT__USE", "demo")
    opened = default_browser("")
    monkeypatch.setenv("DISPLAY", ":0")
    async with at_terminal("demo", "--port", "0", cwd=folder) as terminal:
        said = await terminal.expect(r"ready http://127\.0\.0\.1:\d+\r\n.*answers\..*curl -N .*› ")
        assert f"Chat page: {opened.read_text().strip()}\r\n" in said
        assert "noise" not in said
        terminal.send("hello\r")
        await terminal.expect(r"done · .*› ")
        terminal.send("\x04")
        assert await terminal.wait() == 0
        assert terminal.echoes()
        assert "Traceback" not in terminal.output
    opened.unlink()
    async with at_terminal("demo", "--port", "0", "--no-browser", cwd=folder) as terminal:
        await terminal.expect(r"Conversation 'demo'.*› .*hello.*done · .*› ")
        assert not opened.exists()
        terminal.terminate()
        assert await terminal.wait() == 0
        assert terminal.echoes()


def _started(demo: subprocess.Popen[str]) -> tuple[str, list[str]]:
    """Where it serves, and the command it tells people to try."""
    assert demo.stdout is not None
    ready, *_ = (demo.stdout.readline() for _ in range(2))
    assert ready.startswith("ready http://127.0.0.1:")
    tried = next(line for line in demo.stdout if line.startswith("Try it"))
    return ready.split()[1], shlex.split(tried.partition(": ")[2])
