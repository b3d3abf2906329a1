"""Fixtures that many tests share."""

import gc
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiosqlite
import pytest
from hypothesis import settings

from tests.support.model_server import ModelServer
from tests.support.postgres import PostgresServer, postgres_server
from tests.support.service import Running, serving

if not os.environ.get("CI"):  # there it has a profile of its own, which has no deadline either
    settings.register_profile("here", deadline=None)
    settings.load_profile("here")

for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "SSL_CERT_FILE"):  # of whoever runs the tests
    os.environ.pop(name, None)
    os.environ.pop(name.upper(), None)


@pytest.fixture
async def model() -> AsyncIterator[ModelServer]:
    """A scriptable model server on a real socket."""
    async with ModelServer() as server:
        yield server


@pytest.fixture
async def service(tmp_path: Path, model: ModelServer) -> AsyncIterator[Running]:
    """The whole service, in this process, with real files and sockets."""
    async with serving(tmp_path, model.url) as running:
        yield running


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server for all tests that harm it in no way: each takes a schema of its own."""
    with postgres_server() as server:
        yield server


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if os.environ.get("CI") and terminalreporter.stats.get("skipped"):
        terminalreporter.section("skipped tests are failures here: install what they need")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Where everything is installed, a skip hides a fault."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_unconfigure() -> None:
    """Let the process end: a log that a test left open (an example cut off in the middle) has threads that wait."""
    for one in gc.get_objects():
        if isinstance(one, aiosqlite.Connection):
            one.stop()
