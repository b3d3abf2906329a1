"""A loop that was held up shows in the metric, and says so without filling the log."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import structlog

from chatbot.observability import loop_lag
from chatbot.observability.metrics import Metrics

LATE = "chatbot_loop_lag_seconds"


async def watched(metrics: Metrics, hold_ups_s: list[float]) -> list[Any]:
    """The log lines of a watch over a loop that is held up so often and so long."""
    with structlog.testing.capture_logs() as lines:
        watch = asyncio.create_task(loop_lag.measure_loop_lag(metrics.loop_lag, structlog.get_logger("test")))
        for seconds in hold_ups_s:
            await asyncio.sleep(0.01)  # the watch has begun its sleep
            time.sleep(seconds)  # just what nobody may do
        await asyncio.sleep(0.01)
        watch.cancel()
        with suppress(asyncio.CancelledError):
            await watch
    return [line for line in lines if line["event"] == "loop.late"]


async def test_what_holds_up_the_loop_shows_in_the_metric_and_in_one_line() -> None:
    metrics = Metrics("1")
    blocked_s = loop_lag.INTERVAL_S + 4 * loop_lag.LATE_S
    lines = await watched(metrics, [blocked_s, blocked_s])
    value = metrics.registry.get_sample_value
    looks, seen_s = value(f"{LATE}_count") or 0.0, value(f"{LATE}_sum") or 0.0
    in_time = value(f"{LATE}_bucket", {"le": "0.05"}) or 0.0
    assert seen_s >= 2 * 3 * loop_lag.LATE_S
    assert looks - in_time >= 2
    assert [line["log_level"] for line in lines] == ["warning"]
    assert lines[0]["late_s"] >= 3 * loop_lag.LATE_S


class Clock:
    """Tells the times of looks that were due when they were, and that late; then it stops the watch."""

    def __init__(self, looks: list[tuple[float, float]]) -> None:
        self.times: Iterator[float] = iter([at for due, late in looks for at in (due, due + late)])

    def process_time(self) -> float:
        return 0.0

    def monotonic(self) -> float:
        try:
            return next(self.times)
        except StopIteration:
            raise asyncio.CancelledError from None


async def test_a_loop_that_is_always_late_says_so_now_and_then_and_how_often_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop_lag, "INTERVAL_S", 0.0)
    monkeypatch.setattr(loop_lag, "IDLE_INTERVAL_S", 0.0)
    monkeypatch.setattr(loop_lag, "time", Clock([(1, 0.06), (2, 0.2), (3, 0.04), (4, 0.3), (20, 0.07), (40, 0.01)]))
    observed: list[float] = []
    with structlog.testing.capture_logs() as lines, pytest.raises(asyncio.CancelledError):
        await loop_lag.measure_loop_lag(observed.append, structlog.get_logger("test"))
    assert observed == pytest.approx([0.06, 0.2, 0.04, 0.3, 0.07, 0.01])
    assert [(line["late_s"], line["unsaid"]) for line in lines] == [(0.06, 0), (0.07, 2)]


class VirtualTime:
    """Each sleep is late by the next of `late_s`, and the process uses the next of `used_s` meanwhile."""

    def __init__(self, late_s: list[float], used_s: list[float]) -> None:
        self.slept_s: list[float] = []
        self._each = iter(zip(late_s, used_s, strict=True))
        self._now_s = self._used_s = 0.0

    def monotonic(self) -> float:
        return self._now_s

    def process_time(self) -> float:
        return self._used_s

    async def sleep(self, seconds: float) -> None:
        try:
            late_s, used_s = next(self._each)
        except StopIteration:
            raise asyncio.CancelledError from None
        self.slept_s.append(seconds)
        self._now_s += seconds + late_s
        self._used_s += used_s


async def test_an_idle_process_looks_rarely_and_one_that_works_or_was_late_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    often, rarely = loop_lag.INTERVAL_S, loop_lag.IDLE_INTERVAL_S
    virtual = VirtualTime(late_s=[0.0, 0.0, 0.0, 0.2, 0.0], used_s=[0.0, 0.05, 0.0, 0.0, 0.0])
    monkeypatch.setattr(loop_lag, "time", virtual)
    monkeypatch.setattr("chatbot.observability.loop_lag.asyncio", virtual)
    with structlog.testing.capture_logs(), pytest.raises(asyncio.CancelledError):
        await loop_lag.measure_loop_lag(lambda _: None, structlog.get_logger("test"))
    assert virtual.slept_s == [often, rarely, often, rarely, often]
