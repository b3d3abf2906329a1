"""The health monitor keeps the newest answer."""

import asyncio
from collections.abc import Callable

import pytest
import structlog

from chatbot.llm import health_monitor as health_module
from chatbot.llm.health_monitor import HealthMonitor
from chatbot.llm.provider import (
    TAKES_ALL,
    Finish,
    Health,
    LlmFailed,
    LlmOverloaded,
    LlmUnavailable,
    ModelMessage,
    ReplySink,
    Route,
)
from events.catalogue import Parameters


class FixedHealthProvider:
    """A provider whose health is what the test says."""

    name = "told"
    model = "m"
    models = frozenset({model})
    lists_models = False
    takes: frozenset[str] | None = TAKES_ALL

    def __init__(self, *, available: bool) -> None:
        self.available = available
        self.asked = 0

    async def health(self) -> Health:
        self.asked += 1
        return Health(available=self.available, detail="" if self.available else "away")

    def context_tokens(self, model: str) -> int | None:
        return None

    async def stream(
        self,
        messages: tuple[ModelMessage, ...],
        parameters: Parameters,
        sink: ReplySink,
        *,
        stream: bool = True,
        route: Route | None = None,
    ) -> Finish:
        raise NotImplementedError

    async def close(self) -> None: ...


async def test_the_wait_that_a_server_asks_for_is_known_until_it_is_over_or_the_server_answers() -> None:
    now_s = 100.0
    monitor = HealthMonitor(FixedHealthProvider(available=True), 10, now=lambda: now_s)
    assert monitor.server_wait_s == 0
    monitor.record_attempt(LlmOverloaded("429", retry_after_s=20.0))
    now_s = 105.0
    assert monitor.server_wait_s == 15.0
    now_s = 121.0
    assert monitor.server_wait_s == 0
    monitor.record_attempt(LlmUnavailable("503", status=503, retry_after_s=5.0))
    monitor.record_attempt(None)
    assert monitor.server_wait_s == 0


async def test_before_the_first_answer_nothing_is_claimed() -> None:
    assert HealthMonitor(FixedHealthProvider(available=True), 10).newest.available is False


async def test_it_asks_at_once_and_then_every_interval() -> None:
    provider = FixedHealthProvider(available=True)
    monitor = HealthMonitor(provider, 0.05)
    polling = asyncio.create_task(monitor.run())
    await asyncio.sleep(0.01)
    assert (monitor.newest, provider.asked) == (Health(available=True), 1)
    provider.available = False
    await asyncio.sleep(0.1)
    assert monitor.newest == Health(available=False, detail="away")
    polling.cancel()


async def test_a_server_that_is_away_is_asked_more_often() -> None:
    provider = FixedHealthProvider(available=False)
    monitor = HealthMonitor(provider, 60)
    polling = asyncio.create_task(monitor.run())
    await asyncio.sleep(0)
    provider.available = True
    await asyncio.sleep(1.2)
    assert monitor.newest.available is True
    polling.cancel()


async def test_it_can_be_asked_to_look_now() -> None:
    monitor = HealthMonitor(FixedHealthProvider(available=True), 60)
    await monitor.refresh()
    assert monitor.newest == Health(available=True)


async def test_a_question_that_fails_in_an_unforeseen_way_is_an_answer_and_asked_again() -> None:
    provider = FixedHealthProvider(available=True)
    monitor = HealthMonitor(provider, 10)

    async def fail() -> Health:
        raise RecursionError

    provider.health = fail  # type: ignore[method-assign]  # a fault of ours
    await monitor.refresh()
    assert monitor.newest == Health(available=False, detail="The question failed: RecursionError")
    del provider.health
    await monitor.refresh()
    assert monitor.newest.available


async def polled(provider: FixedHealthProvider, interval_s: float = 60) -> tuple[HealthMonitor, "asyncio.Task[None]"]:
    """A monitor that has asked once."""
    monitor = HealthMonitor(provider, interval_s)
    polling = asyncio.create_task(monitor.run())
    await until(lambda: provider.asked == 1)
    return monitor, polling


async def until(reached: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not reached():
            await asyncio.sleep(0.005)


async def test_a_request_that_cannot_connect_counts_at_once_and_so_does_one_that_is_answered() -> None:
    provider = FixedHealthProvider(available=True)
    monitor, polling = await polled(provider)
    provider.available = False
    monitor.record_attempt(LlmUnavailable("refused"))
    assert monitor.newest == Health(available=False, detail="refused")
    monitor.record_attempt(None)
    assert monitor.newest == Health(available=True)
    polling.cancel()


async def test_after_a_failed_request_the_server_is_asked_soon_whatever_the_interval(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(health_module, "UNAVAILABLE_INTERVAL_S", 0.01)
    provider = FixedHealthProvider(available=True)
    monitor, polling = await polled(provider)
    monitor.record_attempt(LlmUnavailable("refused"))
    await until(lambda: monitor.newest.available)
    assert provider.asked == 2
    provider.available = False
    monitor.record_attempt(LlmFailed("cut"))
    assert monitor.newest.available, "it may have been this one request"
    await until(lambda: not monitor.newest.available)
    polling.cancel()


async def test_a_failure_while_the_question_is_on_its_way_is_asked_about_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_module, "UNAVAILABLE_INTERVAL_S", 0.01)
    provider = FixedHealthProvider(available=True)
    monitor = HealthMonitor(provider, 60)
    answers = [Health(available=True), Health(available=False, detail="gone")]

    async def health() -> Health:
        provider.asked += 1
        if provider.asked == 1:
            monitor.record_attempt(LlmUnavailable("refused"))
        return answers[min(provider.asked, 2) - 1]

    provider.health = health  # type: ignore[method-assign]
    polling = asyncio.create_task(monitor.run())
    await until(lambda: monitor.newest.detail == "gone")
    polling.cancel()


async def test_a_server_that_is_busy_is_there() -> None:
    provider = FixedHealthProvider(available=True)
    monitor, polling = await polled(provider)
    monitor.record_attempt(LlmOverloaded())
    await asyncio.sleep(0)
    assert (monitor.newest.available, provider.asked) == (True, 1)
    polling.cancel()


async def test_a_model_that_is_being_loaded_is_no_warning_and_one_that_is_not_loaded_then_is() -> None:
    provider = FixedHealthProvider(available=False)
    monitor = HealthMonitor(provider, 60)
    answers = iter([Health(available=False, starting=True), Health(available=False, detail="broken")])

    async def health() -> Health:
        return next(answers)

    provider.health = health  # type: ignore[method-assign]
    with structlog.testing.capture_logs() as lines:
        await monitor.refresh()
        assert lines == []
        await monitor.refresh()
    assert [line["event"] for line in lines] == ["llm.unavailable"]
