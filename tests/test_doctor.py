"""The doctor: what it finds, and that looking changes nothing."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
from starlette.responses import PlainTextResponse
from typer.testing import CliRunner

from tests.gateways import running
from tests.http_server import nobody, served
from tests.mcp_servers import web
from tests.servers import Databases
from turnwire import doctor
from turnwire.agents._mcp_server import MCPServer
from turnwire.agents.load import AUTO_MODELS, PROVIDERS
from turnwire.channels.web.api import web_app
from turnwire.cli import app
from turnwire.clock import Clock
from turnwire.config import load_config
from turnwire.doctor import Finding, examine, lines, look_at_files, look_at_port
from turnwire.doctor_store import look_at_store
from turnwire.doctor_tools import remedy
from turnwire.sim.models import ModelSim
from turnwire.testing.clock import FakeClock
from turnwire.turn import Turn

pytestmark = pytest.mark.anyio


async def quiet(turn: Turn) -> AsyncIterator[Any]:
    yield "Nothing."


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and no configuration in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("TURNWIRE_") and "__" in name:
            monkeypatch.delenv(name)
    return tmp_path


def configured(folder: Path, **sections: dict[str, Any]) -> Path:
    """A configuration file; the agent is the demo and the port is free unless told otherwise."""
    chosen: dict[str, dict[str, Any]] = {"server": {"port": 0}, "agent": {"use": "demo"}, **sections}
    text = "\n".join(
        f"[{name}]\n" + "\n".join(f"{key} = {value!r}" for key, value in values.items())
        for name, values in chosen.items()
    )
    path = folder / "turnwire.toml"
    path.write_text(text)
    return path


async def findings(path: Path | None, *, ask_agent: bool = False, clock: Clock | None = None) -> tuple[bool, str]:
    said: list[str] = []
    good = await examine(path, ask_agent=ask_agent, say=said.append, clock=clock)
    return good, "\n".join(said)


async def of_store(url: str) -> list[Finding]:
    return [finding async for finding in look_at_store(url, FakeClock())]


def levels(found: list[Finding]) -> set[str]:
    return {finding.level for finding in found}


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


async def test_an_empty_folder_is_fine_and_stays_empty(folder: Path) -> None:
    path = configured(folder)
    before = everything(folder)
    good, said = await findings(None)
    assert good
    assert "from turnwire.toml" in said
    assert 'agent.use = "demo"' in said
    assert "turnwire.db does not exist yet; `turnwire serve` makes it" in said
    assert "turnwire-files does not exist yet and will be made" in said
    assert "GB free" in said
    assert "A server can run here." in said
    assert everything(folder) == before
    path.unlink()
    assert "there is no turnwire.toml" in (await findings(None))[1]


async def test_every_problem_of_a_configuration_is_named(folder: Path) -> None:
    path = configured(folder, server={"port": 99999, "prot": 1})
    good, said = await findings(path)
    assert not good
    assert "server.port" in said
    assert "server.prot" in said
    assert "2 problems to solve" in said
    assert "store" not in said.partition("config")[2]


async def test_secrets_are_not_shown_and_doubts_are(folder: Path) -> None:
    path = configured(folder, agent={"use": "demo", "api_key": "s3cret"})
    path.write_text(path.read_text() + '\n[channels.web.tokens]\nalice = "t0ken"\n')
    good, said = await findings(path)
    assert good
    assert "s3cret" not in said
    assert "t0ken" not in said
    assert "not used while channels.web.auth" in said
    assert "1 warning." in said


async def test_a_store_that_is_served_is_named_with_its_process(folder: Path, sqlite_url: str) -> None:
    async with running(sqlite_url, folder, quiet) as gateway:
        found = await of_store(sqlite_url)
        assert levels(found) == {"ok"}
        assert any(f"served by process {os.getpid()} now" in finding.what for finding in found)
        assert any("schema 0006, up to date" in finding.what for finding in found)
        async with served(web_app(gateway)) as url:
            port = urlsplit(url).port or 0
            assert (await look_at_port("127.0.0.1", port, served=True)).level == "ok"
            other = await look_at_port("127.0.0.1", port, served=False)
            assert (other.level, other.what) == (
                "problem",
                f"127.0.0.1:{port} is in use by a Turnwire server with another store",
            )
    found = await of_store(sqlite_url)
    assert levels(found) == {"ok"}
    assert any("nobody serves it now" in finding.what for finding in found)


async def test_looking_takes_no_lock_from_a_server_that_starts(folder: Path, sqlite_url: str) -> None:
    async with running(sqlite_url, folder, quiet):
        pass
    before = everything(folder)
    await of_store(sqlite_url)
    assert everything(folder) == before
    async with running(sqlite_url, folder, quiet):
        pass


async def test_a_store_of_a_newer_version_is_a_problem(folder: Path, sqlite_url: str) -> None:
    async with running(sqlite_url, folder, quiet):
        pass
    with sqlite3.connect(folder / "turnwire.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    found = await of_store(sqlite_url)
    assert [(one.what.partition("was ")[2], one.remedy) for one in found if one.level == "problem"] == [
        ("written by a newer Turnwire (schema 9999)", "upgrade Turnwire")
    ]


async def test_what_is_no_store_is_named(folder: Path) -> None:
    (folder / "noise.db").write_bytes(b"this is no database at all" * 100)
    with sqlite3.connect(folder / "other.db") as connection:
        connection.execute("CREATE TABLE people (name TEXT)")
    connection.close()
    (folder / "empty.db").touch()
    (folder / "directory.db").mkdir()
    for name, level, said in (
        ("noise.db", "problem", "cannot be read: file is not a database"),
        ("other.db", "problem", "no store of Turnwire"),
        ("empty.db", "ok", "is empty"),
        ("directory.db", "problem", "cannot be read"),
        ("no/such/folder.db", "problem", "does not exist"),
    ):
        found = await of_store(f"sqlite:///{folder / name}")
        assert any(finding.level == level and said in finding.what for finding in found), (name, found)


async def test_a_journal_that_is_no_wal_is_a_warning(folder: Path, sqlite_url: str) -> None:
    async with running(sqlite_url, folder, quiet):
        pass
    with sqlite3.connect(folder / "turnwire.db") as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    connection.close()
    found = [finding for finding in await of_store(sqlite_url) if finding.level == "warning"]
    assert [("not a WAL" in finding.what, "local disk" in finding.remedy) for finding in found] == [(True, True)]


@pytest.mark.parametrize(("free", "level"), [(10**12, "ok"), (5 * 10**8, "warning"), (10**6, "problem")])
async def test_a_full_disk_is_a_problem(folder: Path, monkeypatch: pytest.MonkeyPatch, free: int, level: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    assert next(one for one in await of_store("sqlite:///x.db") if "free on the disk" in one.what).level == level


def test_a_files_directory_that_cannot_be_used_is_a_problem(folder: Path) -> None:
    (folder / "file").touch()
    assert look_at_files(folder / "file").what.endswith("is no directory")
    assert look_at_files(folder / "file" / "below").level == "problem"
    assert look_at_files(Path("/proc/turnwire-files")).level == "problem"
    assert look_at_files(folder).what == f"{folder} can be written"
    assert look_at_files(folder / "a" / "b").level == "ok"
    assert not (folder / "a").exists()


async def test_a_port_in_use_is_a_problem() -> None:
    async with served(PlainTextResponse("hello")) as url:
        found = await look_at_port("127.0.0.1", urlsplit(url).port or 0, served=True)
        assert found.level == "problem"
        assert "in use, not by Turnwire" in found.what
        assert "choose another" in found.remedy
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    assert (await look_at_port("127.0.0.1", free, served=False)).what == f"127.0.0.1:{free} is free"
    assert (await look_at_port("192.0.2.1", 8787, served=False)).level == "problem"
    assert (await look_at_port("no.such.host.invalid", 8787, served=False)).level == "problem"


async def test_an_agent_that_cannot_be_loaded_is_a_problem(folder: Path) -> None:
    good, said = await findings(configured(folder, agent={"use": "python:nowhere:agent"}))
    assert not good
    assert "there is no module 'nowhere'" in said


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (name for names in PROVIDERS.values() for name in names):
        monkeypatch.delenv(name, raising=False)


async def test_without_a_model_the_doctor_says_how_to_get_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("turnwire.agents.local.local_available", lambda: False)
    monkeypatch.setattr("turnwire.agents.load.local_available", lambda: False)
    good, said = await findings(configured(folder, agent={"use": "auto"}))
    assert good
    assert "not from a model" in said
    assert "`turnwire local install`" in said
    good, said = await findings(configured(folder, agent={"use": "local"}))
    assert not good
    assert "run `turnwire local install`" in said


async def test_a_key_whose_library_is_missing_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("turnwire.agents.local.local_available", lambda: False)
    monkeypatch.setattr("turnwire.agents.load.local_available", lambda: False)
    monkeypatch.setattr("turnwire.agents.load._installed", lambda kind: False)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-hunter2hunter2")
    good, said = await findings(configured(folder, agent={"use": "auto"}))
    assert good
    assert "ANTHROPIC_API_KEY is set, but its provider's library is not installed" in said
    assert "pip install 'turnwire[pydantic-ai]'" in said
    assert "hunter2" not in said


async def test_a_key_that_is_set_names_the_agent(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("turnwire.agents.local.local_available", lambda: False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-hunter2hunter2")
    good, said = await findings(configured(folder, agent={"use": "auto"}))
    assert good
    assert AUTO_MODELS["openai"] in said
    assert "not from a model" not in said
    assert "hunter2" not in said


AGENTS = """
import asyncio
from turnwire.turn import AgentError

async def ready(turn):
    yield f"Ready. ({turn.text})"

async def broke(turn):
    raise AgentError("No key, no answer.")
    yield

async def silent(turn):
    await asyncio.Event().wait()
    yield
"""


@pytest.fixture
def agents(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """A configuration that names one of the agents above."""
    (folder / "doctor_patients.py").write_text(AGENTS)
    monkeypatch.syspath_prepend(str(folder))

    def chosen(name: str) -> Path:
        return configured(folder, agent={"use": f"python:doctor_patients:{name}"})

    return chosen


async def test_an_agent_is_asked_for_real_and_leaves_nothing(folder: Path, agents: Callable[[str], Path]) -> None:
    path = agents("ready")
    good, said = await findings(path, ask_agent=True)
    assert good
    assert "'Ready. (Answer with one word: ready)'" in said
    assert not list(folder.glob("*.db"))
    assert "Ready." not in (await findings(path))[1]


def served_tools(folder: Path, sim: ModelSim, **servers: str) -> Path:
    """A configuration whose agent is a simulated provider's model with MCP servers, each as the text of its section."""
    path = configured(folder, agent={"use": "openai:sim:ok", "api_key": "k", "base_url": sim.base_url("O")})
    sections = [f"[agent.mcp.{name}]\n{text}\n" for name, text in servers.items()]
    path.write_text("\n".join([path.read_text(), *sections]))
    return path


async def test_each_mcp_server_is_asked_and_the_silent_ones_are_named(folder: Path) -> None:
    async with ModelSim() as sim, web() as locked, web() as open_:
        locked.key = "Bearer right"
        with nobody() as port:
            path = served_tools(
                folder,
                sim,
                here=f'url = "{open_.url}"',
                locked=f'url = "{locked.url}?token=hunter2"\nheaders = {{ authorization = "Bearer hunter2" }}',
                away=f'url = "http://me:hunter2@127.0.0.1:{port}/mcp"',
                dead=f'command = "{sys.executable}"\nargs = ["-S", "-c", "raise SystemExit(3)"]',
            )
            good, said = await findings(path, ask_agent=True)
            quietly = await findings(path)
    assert good
    flat = " ".join(said.split())
    assert "the MCP server here offers double, hang" in flat
    assert f"the MCP server locked cannot be reached at {locked.url} (HTTP 401); its tools are missing" in flat
    assert "-> it takes no request without a valid key: correct [agent.mcp.locked] headers" in flat
    assert f"the MCP server away cannot be reached at http://***@127.0.0.1:{port}/mcp (ConnectError)" in flat
    assert "-> start the server, or correct [agent.mcp.away] url; if only a proxy leads there" in flat
    assert f"the MCP server dead cannot be started with `{sys.executable} -S -c 'raise SystemExit(3)'`" in flat
    assert "-> run that command in a terminal to see what it says; then correct [agent.mcp.dead]" in flat
    assert "hunter2" not in said
    # Only `--agent` starts and asks what is not ours.
    assert "MCP server" not in quietly[1]


async def test_an_mcp_server_whose_program_is_missing_is_a_problem_of_its_section(folder: Path) -> None:
    async with ModelSim() as sim:
        good, said = await findings(served_tools(folder, sim, clock='command = "no-such-program"'))
    assert not good
    flat = " ".join(said.split())
    assert "[agent.mcp.clock] command = 'no-such-program': there is no such program; install it" in flat
    assert "-> correct [agent.mcp.clock], or remove that section" in flat


async def test_an_mcp_server_that_nobody_uses_is_told(folder: Path) -> None:
    path = configured(folder, **{"agent": {"use": "demo"}, "agent.mcp.clock": {"command": "uvx"}})
    good, said = await findings(path)
    assert good
    assert "not used, because only a provider's model is offered tools: [agent.mcp.clock]" in said


@pytest.mark.parametrize(
    ("server", "problem", "said"),
    [
        (MCPServer(url="http://h/x"), "HTTP 404", "correct [agent.mcp.x] url, whose path is often /mcp"),
        (MCPServer(url="http://h/x"), "HTTP 503", "look at its log"),
        (MCPServer(command="uvx"), "it did not answer in time", "a package runner may still be downloading it"),
    ],
)
def test_the_remedy_fits_what_is_wrong_with_an_mcp_server(server: MCPServer, problem: str, said: str) -> None:
    assert said in remedy("[agent.mcp.x]", server, problem)


async def test_an_agent_that_fails_is_a_problem_with_its_reason(agents: Callable[[str], Path]) -> None:
    good, said = await findings(agents("broke"), ask_agent=True)
    assert not good
    assert "the turn ended failed: No key, no answer." in said


async def test_an_agent_that_never_answers_is_given_up(agents: Callable[[str], Path]) -> None:
    clock = FakeClock()
    asking = asyncio.create_task(findings(agents("silent"), ask_agent=True, clock=clock))
    await clock.until(lambda: clock.pending > 0)
    await clock.advance(doctor.ANSWER_S + 1)
    good, said = await asking
    assert not good
    assert "gave no answer within 120 s" in said


@pytest.fixture
def bare_postgres_url(postgres_databases: Databases) -> Iterator[str]:
    """A PostgreSQL database without a table."""
    with postgres_databases.copy_of("template1") as url:
        yield url


async def test_postgres_is_reached_and_not_touched(postgres_url: str, bare_postgres_url: str) -> None:
    found = await of_store(postgres_url)
    assert levels(found) == {"ok"}
    assert any("PostgreSQL" in finding.what and "0.0 ms away" in finding.what for finding in found)
    assert any("schema 0006, up to date" in finding.what for finding in found)
    password = urlsplit(postgres_url).password or ""
    assert password
    assert password not in str(found)
    for _ in range(2):
        found = await of_store(bare_postgres_url)
        assert any("has no tables yet" in finding.what for finding in found)


async def test_postgres_out_of_reach_is_a_problem_without_the_password() -> None:
    with nobody() as port:
        (found,) = await of_store(f"postgresql://someone:s3cret@127.0.0.1:{port}/db")
    assert found.level == "problem"
    assert "cannot be reached" in found.what
    assert "s3cret" not in str(found)


async def test_a_relay_out_of_reach_is_a_warning(folder: Path, redis_url: str) -> None:
    _, said = await findings(configured(folder, relay={"url": redis_url}))
    assert "Redis answers" in said
    with nobody() as port:
        good, said = await findings(configured(folder, relay={"url": f"redis://:s3cret@127.0.0.1:{port}/0"}))
    assert good
    assert "Redis cannot be reached" in said
    assert "s3cret" not in said


def test_a_remedy_stands_under_its_finding() -> None:
    said = lines(Finding("problem", "port", "it is taken\nby somebody", "take another"))
    plain = [line.encode().decode() for line in said]
    assert plain[0].endswith("port    it is taken")
    assert [line.strip() for line in plain[1:]] == ["by somebody", "-> take another"]


def test_the_exit_code_says_whether_there_is_a_problem(folder: Path) -> None:
    configured(folder)
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 0
    configured(folder, server={"port": -1})
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert "Traceback" not in result.output


def test_the_sample_is_a_configuration(folder: Path) -> None:
    result = CliRunner().invoke(app, ["doctor", "--sample-config"])
    assert result.exit_code == 0
    (folder / "turnwire.toml").write_text(result.stdout)
    assert load_config(env={}).server.port == 8787
    assert "#port = 8787" in result.stdout
