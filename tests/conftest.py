"""Fixtures that many tests share."""

import gc
import logging
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiosqlite
import pytest
import structlog
from hypothesis import settings

from tests.support.model.model_server import ModelServer
from tests.support.nightly import scaled
from tests.support.programs.postgres_server import PostgresServer, postgres_server
from tests.support.service import Running, serving
from tests.support.slow_tests import is_slow
from tests.support.time_limits import pytest_runtest_call, pytest_runtest_teardown  # noqa: F401  hooks

PRECEDENCE = str(Path(__file__).parent / "support" / "precedence")  # on the path of all programs that tests start
ORDER_SEED = 1  # of the random order of tests: the same in each run, so that a run which passed passes again

if not os.environ.get("CI"):  # there it has a profile of its own, which has no deadline either
    settings.register_profile("here", deadline=None, max_examples=scaled(100))
    settings.load_profile("here")

for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "SSL_CERT_FILE"):  # of whoever runs the tests
    os.environ.pop(name, None)
    os.environ.pop(name.upper(), None)
os.environ["SSL_CERT_DIR"] = "/nowhere"  # each client of httpx would read all authorities' certificates: 25 ms of CPU
if PRECEDENCE not in os.environ.get("PYTHONPATH", ""):  # as it is already in a worker of pytest-xdist
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (PRECEDENCE, os.environ.get("PYTHONPATH"))))


@pytest.fixture(autouse=True)
def default_logging() -> Iterator[None]:
    """A command that runs in this process configures its logging; the next test meets structlog's defaults, and the
    handlers that there were before: those of the command write to a stream that is closed.
    """
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


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


@pytest.hookimpl(tryfirst=True)  # before the plugins read their options
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Defaults for the plugins of parallel and of random runs. In pyproject.toml they would need these plugins."""
    options = config.option
    if getattr(options, "numprocesses", None) and options.dist == "no":
        options.dist = "loadfile"  # fixtures of a module are made once
        options.loadscopereorder = False  # the slow files stay first
    if getattr(options, "randomly_seed", None) == "default":
        options.randomly_seed = ORDER_SEED


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the slow tests, and put them first: no worker is left with a long file when the others have finished."""
    for item in items:
        if is_slow(item.nodeid):
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


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
