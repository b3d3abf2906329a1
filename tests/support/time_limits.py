"""No test hangs: hooks for what pytest-timeout leaves without a limit."""

import signal
from collections.abc import Generator

import pytest

REPEAT_S = 10.0  # after which a limit that has passed is raised again: the next wait may be as endless


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    """Let pytest-timeout raise its limit again and again: in a task for which nobody waits it is lost."""
    left_s, _ = signal.getitimer(signal.ITIMER_REAL)
    if left_s:
        signal.setitimer(signal.ITIMER_REAL, left_s, REPEAT_S)
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """A limit for the end of a test's fixtures, each of which may wait for ever: pytest-timeout gives its own up once
    the test has failed.
    """
    option = item.config.getoption("timeout")
    limit_s = float(item.config.getini("timeout") if option is None else option)

    def fail(*_: object) -> None:
        pytest.fail(f"the fixtures have not ended after {limit_s:g} s")

    signal.signal(signal.SIGALRM, fail)
    signal.setitimer(signal.ITIMER_REAL, limit_s, REPEAT_S)
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
