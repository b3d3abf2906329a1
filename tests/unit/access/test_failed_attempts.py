"""Failed authentications: at which rate a client may fail, who counts as one, and what is logged."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from chatbot.api.access.failed_attempts import CLIENTS_MAX, FLUSH_S, LOG_INTERVAL_S, LOG_LINES_MAX, FailedAttempts
from chatbot.config.sections.auth_settings import AuthSettings
from chatbot.config.settings import Settings

RATE = 6  # a minute


class Attempts:
    """The limiter at a time that the test sets."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.counted: list[tuple[str, bool]] = []
        metrics = SimpleNamespace(
            authentication_failed=lambda credential, throttled: self.counted.append((credential, throttled))
        )
        settings = Settings(auth=AuthSettings(failures_per_minute=RATE))
        logger = cast(Any, structlog.get_logger())
        self.flushes: list[Callable[[], None]] = []
        self.limiter = FailedAttempts(
            settings, metrics, logger, lambda: self.now_s, lambda _, flush: self.flushes.append(flush)
        )

    def pass_time(self, seconds: float) -> None:
        """With the flushes that become due."""
        for _ in range(int(seconds / FLUSH_S)):
            self.now_s += FLUSH_S
            due, self.flushes = self.flushes, []
            assert len(due) <= 1
            for flush in due:
                flush()

    def waits(self, times: int, address: str = "203.0.113.9") -> list[float | None]:
        return [self.limiter.note(address, "key") for _ in range(times)]


@pytest.fixture
def attempts() -> Attempts:
    return Attempts()


def test_beyond_the_rate_a_client_waits_until_its_next_failure_is_free(attempts: Attempts) -> None:
    assert attempts.waits(RATE) == [None] * RATE
    (wait_s,) = attempts.waits(1)
    assert wait_s == pytest.approx(60 / RATE)
    attempts.now_s += 60 / RATE
    first, second = attempts.waits(2)
    assert first is None
    assert second == pytest.approx(60 / RATE)
    assert attempts.counted == [("key", False)] * RATE + [("key", True), ("key", False), ("key", True)]


def test_each_address_has_its_own_bucket_and_an_ipv6_network_one(attempts: Attempts) -> None:
    attempts.waits(RATE, "2001:db8::1")
    assert attempts.waits(1, "2001:db8::2") != [None], "the same /64"
    assert attempts.waits(1, "2001:db8:0:1::1") == [None]
    assert attempts.waits(1, "203.0.113.9") == [None]


def test_the_clients_that_failed_longest_ago_are_forgotten(attempts: Attempts) -> None:
    attempts.waits(RATE, "first")
    attempts.waits(RATE, "second")
    for number in range(CLIENTS_MAX - 2):
        attempts.waits(1, f"other {number}")
    assert attempts.waits(1, "first") != [None]
    assert attempts.waits(1, "one more") == [None]
    assert attempts.waits(1, "second") == [None], "forgotten"
    assert len(attempts.limiter._clients) == CLIENTS_MAX


@given(st.lists(st.tuples(st.sampled_from(("a", "b")), st.floats(0, 100)), max_size=60))
def test_a_client_never_fails_more_often_than_the_rate(failures: list[tuple[str, float]]) -> None:
    attempts = Attempts()
    start_s, passed = attempts.now_s, {"a": 0, "b": 0}
    for address, pause_s in failures:
        attempts.now_s += pause_s
        passed[address] += attempts.waits(1, address) == [None]
        elapsed_min = (attempts.now_s - start_s) / 60
        assert passed[address] <= RATE + elapsed_min * RATE + 1e-6


def test_one_line_a_minute_about_a_client_and_few_about_all(attempts: Attempts) -> None:
    with capture_logs() as lines:
        attempts.waits(RATE + 5)
        attempts.now_s += LOG_INTERVAL_S
        attempts.waits(1)
        assert [(one["event"], one["client"], one.get("failures")) for one in lines] == [
            ("auth.failed", "203.0.113.9", 1),
            ("auth.throttled", "203.0.113.9", None),
            ("auth.failed", "203.0.113.9", RATE + 5),
        ]
        for number in range(200):
            attempts.waits(1, f"10.0.0.{number}")
        assert len(lines) == 2 + LOG_LINES_MAX


def test_the_number_of_failures_is_logged_when_the_minute_is_over(attempts: Attempts) -> None:
    with capture_logs() as lines:
        attempts.waits(70)
        attempts.pass_time(LOG_INTERVAL_S)
        assert [(one["event"], one.get("failures"), one.get("throttled")) for one in lines] == [
            ("auth.failed", 1, False),
            ("auth.throttled", None, None),
            ("auth.failed", 69, True),
        ]
        attempts.pass_time(10 * LOG_INTERVAL_S)
        assert (len(lines), attempts.flushes) == (3, [])


def test_clients_without_a_line_are_counted_in_one(attempts: Attempts) -> None:
    with capture_logs() as lines:
        for number in range(200):
            attempts.waits(2, f"10.0.0.{number}")
        attempts.pass_time(2 * LOG_INTERVAL_S)
    assert sum(one["failures"] for one in lines) == 400
    assert len(lines) <= 3 * LOG_LINES_MAX
    assert any(one["event"] == "auth.failed_others" for one in lines)
    assert attempts.flushes == []


def test_a_client_that_is_forgotten_is_counted(attempts: Attempts) -> None:
    with capture_logs() as lines:
        attempts.waits(3, "first")
        for number in range(CLIENTS_MAX):
            attempts.waits(1, f"other {number}")
        attempts.pass_time(2 * LOG_INTERVAL_S)
    assert sum(one["failures"] for one in lines) == 3 + CLIENTS_MAX
