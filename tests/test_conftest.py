"""The rules of the suite: what runs when, what a skip is worth, and how a test that hangs ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def _run(directory: Path, program: str, *arguments: str, **environment: str) -> tuple[int, str]:
    """Runs the test module `program` under this suite's rules; returns pytest's exit code and what it printed."""
    module = directory / "test_it.py"
    module.write_text(f"import asyncio\nimport pytest\n{program}")
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-c", str(ROOT / "pyproject.toml")]
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "TURNWIRE", "HYPO", "CI"))
    }
    ran = subprocess.run(
        [*command, "--rootdir", str(directory), "-p", "no:cacheprovider", *arguments, str(module)],
        cwd=ROOT,
        env=inherited | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return ran.returncode, ran.stdout + ran.stderr


@pytest.mark.heavy
def test_heavy_tests_wait_until_they_are_asked_for(tmp_path: Path) -> None:
    program = "@pytest.mark.heavy\ndef test_long(): pass\ndef test_short(): pass\n"
    code, printed = _run(tmp_path, program, "-v")
    assert code == 0
    assert "test_long" not in printed
    assert "1 passed, 1 deselected" in printed.splitlines()[-1]


@pytest.mark.heavy
def test_a_heavy_run_is_of_heavy_and_property_tests_and_names_the_seed_that_repeats_it(tmp_path: Path) -> None:
    program = (
        "from hypothesis import given, strategies\n"
        "@given(strategies.integers())\ndef test_long(number): print(number)\ndef test_short(): pass\n"
    )

    def run(*arguments: str, **environment: str) -> tuple[str, list[str]]:
        environment["HYPOTHESIS_PROFILE"] = "heavy"
        code, printed = _run(tmp_path, program, "--heavy", "-m", "heavy", "-s", *arguments, **environment)
        assert code == 0
        assert "1 passed, 1 deselected" in printed.splitlines()[-1]
        return printed, [line for line in printed.splitlines() if line.lstrip("-").isdigit()]

    printed, numbers = run()
    seed = printed.partition("--hypothesis-seed=")[2].split()[0]
    assert len(numbers) > 250
    assert run(f"--hypothesis-seed={seed}")[1] == numbers
    assert run()[1] != numbers
    assert run(CI="true")[1] == run(CI="true")[1]


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("program", "ends", "counted"),
    [
        ("def test_it(): pytest.skip('no database')\n", pytest.ExitCode.TESTS_FAILED, "1 failed"),
        ("pytest.importorskip('no_such_module')\n", pytest.ExitCode.INTERRUPTED, "1 error"),
    ],
)
def test_a_skip_is_a_failure_where_none_is_allowed(tmp_path: Path, program: str, ends: int, counted: str) -> None:
    code, printed = _run(tmp_path, program, TURNWIRE_NO_SKIPS="1")
    assert code == ends
    assert "allows no skips: Skipped: " in printed
    assert counted in printed.splitlines()[-1]


@pytest.mark.heavy
def test_a_test_that_hangs_fails_alone_and_says_where(tmp_path: Path) -> None:
    program = (
        "@pytest.mark.anyio\n@pytest.mark.timeout(4)\n"
        "async def test_it(): await asyncio.get_running_loop().create_future()\n"
        "def test_next(): pass\n"
    )
    code, printed = _run(tmp_path, program)
    assert code == pytest.ExitCode.TESTS_FAILED
    assert "TimeoutError" in printed
    assert "create_future" in printed
    assert "1 failed, 1 passed" in printed.splitlines()[-1]


@pytest.mark.heavy
def test_a_failed_test_that_cannot_be_cleaned_up_ends_its_process(tmp_path: Path) -> None:
    program = (
        "import threading\n"
        "@pytest.fixture\ndef stuck():\n    yield\n    threading.Event().wait()\n"
        "@pytest.mark.timeout(2)\ndef test_it(stuck): raise ValueError\n"
    )
    code, printed = _run(tmp_path, program)
    assert code == pytest.ExitCode.TESTS_FAILED
    assert "in stuck" in printed
    assert "Timeout" in printed.splitlines()[-1]
