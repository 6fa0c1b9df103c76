"""Fixtures for every test: a real store of each kind, a real Redis-compatible server, and when which tests run.

`TEST_POSTGRES_DSN` and `TEST_REDIS_URL` name servers to use instead of those from the wheels.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import random
import time
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_timeout
from hypothesis import HealthCheck, settings

from tests import capabilities, servers
from tests.gateways import fill
from turnwire.store import Database, open_database
from turnwire.testing import MemoryStore

PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "default")
NO_SKIPS = os.environ.get("TURNWIRE_NO_SKIPS") == "1"
IN_CI = os.environ.get("CI", "").lower() in ("1", "true")
# A slow machine is no reason to fail, so neither profile judges time.
UNTIMED: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}

# What judges a commit says the same each time it is asked; everybody else's run draws new examples.
settings.register_profile("default", max_examples=100, derandomize=IN_CI, **UNTIMED)
settings.register_profile("heavy", max_examples=300, derandomize=IN_CI, print_blob=True, **UNTIMED)
settings.load_profile(PROFILE)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--heavy", action="store_true", help="also run the tests marked heavy")
    parser.addoption(
        "--write-capabilities", action="store_true", help="write the table in docs/reference/agents.md from what passes"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    # Chosen here, before the workers start and before hypothesis looks, so that the report can name it.
    if PROFILE == "heavy" and not IN_CI and config.getoption("--hypothesis-seed") is None:
        config.option.hypothesis_seed = random.randrange(2**32)
    config.addinivalue_line("markers", capabilities.ABOUT)
    config.pluginmanager.register(capabilities.Plugin(config), "capabilities")


def pytest_report_header(config: pytest.Config) -> list[str]:
    if PROFILE != "heavy" or IN_CI:
        return []
    return [f"hypothesis seed: repeat this run with --hypothesis-seed={config.getoption('--hypothesis-seed')}"]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    # They need the second environment: not every framework goes together with the rest.
    theirs = collection_path.name.startswith("test_frameworks_")
    return True if theirs and "frameworks" not in str(config.getoption("-m")) else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if PROFILE == "heavy":
        for item in items:
            if hasattr(getattr(item, "obj", None), "hypothesis"):
                item.add_marker(pytest.mark.heavy)
                item.add_marker(pytest.mark.timeout(900), append=False)
    if config.getoption("--heavy") or "heavy" in str(config.getoption("-m")):
        return
    heavy = [item for item in items if item.get_closest_marker("heavy")]
    if heavy:
        config.hook.pytest_deselected(items=heavy)
        items[:] = [item for item in items if not item.get_closest_marker("heavy")]


def _forbid_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if NO_SKIPS and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid} was skipped, and TURNWIRE_NO_SKIPS=1 allows no skips: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _forbid_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _forbid_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    # uvloop drops what a signal handler raises, so pytest-timeout could only end the whole process; here the test that
    # hangs fails alone, at the line where it hangs. Property tests keep the process's limit.
    test, limit = pyfuncitem.obj, _granted(pyfuncitem)
    limit -= min(limit / 4, 20)  # what is left is for saying what happened
    if inspect.iscoroutinefunction(test) and not hasattr(test, "hypothesis") and limit:

        @functools.wraps(test)
        async def bounded(*args: Any, **kwargs: Any) -> None:
            async with asyncio.timeout(limit):
                await test(*args, **kwargs)

        pyfuncitem.obj = bounded
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    # pytest-timeout puts its watch away when a test fails, and what a failed test left behind may never end.
    settings = pytest_timeout.Settings(_granted(item), "thread", False, False)
    item.config.hook.pytest_timeout_cancel_timer(item=item)
    if settings.timeout:
        item.config.hook.pytest_timeout_set_timer(item=item, settings=settings)
    try:
        yield
    finally:
        item.config.hook.pytest_timeout_cancel_timer(item=item)


@pytest.fixture(scope="module")
def store() -> Iterator[MemoryStore]:
    """A store in memory for the plays of a module, one after the other; each of them wipes it."""
    made = MemoryStore()
    yield made
    made.engine.dispose()


def _granted(item: pytest.Item) -> float:
    """The seconds after which pytest-timeout ends the process; 0 for never."""
    marker = item.get_closest_marker("timeout")
    if marker is not None:
        said = marker.args[0] if marker.args else marker.kwargs.get("timeout")
    else:
        said = item.config.getoption("timeout")
        said = item.config.getini("timeout") if said is None else said
    return float(said or 0)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    started = os.environ.get("TURNWIRE_STARTED", "")
    if started.isdigit():
        terminalreporter.write_line(f"{time.time() - int(started):.0f} s since make began")


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="session")
def postgres_dsn() -> Iterator[str]:
    """A PostgreSQL server whose user may create databases; do not write into the database that it names."""
    if dsn := os.environ.get("TEST_POSTGRES_DSN"):
        yield dsn
        return
    with servers.postgres() as dsn:
        yield dsn


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A Redis-compatible server, shared by all tests of a worker: name keys after the test's own ids."""
    if url := os.environ.get("TEST_REDIS_URL"):
        yield url
        return
    with servers.valkey() as url:
        yield url


@pytest.fixture(scope="session")
def postgres_databases(postgres_dsn: str) -> Iterator[servers.Databases]:
    """Makes databases whose schema is up to date, by copying one that was migrated once."""
    with servers.databases(postgres_dsn, _migrate) as made:
        yield made


async def _migrate(url: str) -> None:
    database = await open_database(url)
    await database.close()


@pytest.fixture
def postgres_url(postgres_databases: servers.Databases) -> Iterator[str]:
    """A PostgreSQL store of the test's own."""
    with postgres_databases.fresh() as url:
        yield url


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A SQLite store of the test's own; its file does not exist yet."""
    return f"sqlite:///{tmp_path / 'turnwire.db'}"


@pytest.fixture(params=["sqlite", "postgres"])
def store_url(request: pytest.FixtureRequest) -> str:
    """A store of the test's own, of each kind in turn."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
async def database(store_url: str) -> AsyncIterator[Database]:
    """An open store of the test's own, of each kind in turn."""
    fill(store_url)
    opened = await open_database(store_url)
    try:
        yield opened
    finally:
        await opened.close()
