"""One exposition for several workers."""

import asyncio
import math
import time
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.parser import text_string_to_metric_families

from chatbot.observability.metric_families import MetricFamily, Sample, decode, encode, families_of
from chatbot.observability.metrics_aggregation import MetricsAggregator
from events.errors import LogUnavailable

OPEN_METRICS = "application/openmetrics-text; version=1.0.0"


class FakeControlChannel:
    """As a worker's control knows it."""

    def __init__(self) -> None:
        self.siblings = {1: "one", 2: "two", 3: "three", 4: ""}
        self.restarts = 5
        self.writer_restarts = 6


def counted(times: int) -> tuple[MetricFamily, ...]:
    """The metrics of a worker, on their way over a wire."""
    registry = CollectorRegistry()
    Counter("turns", "Turns.", ["kind"], registry=registry).labels("good").inc(times)
    Gauge("worst", "Worst.", registry=registry).set(math.inf)
    Histogram("pause_seconds", "Pauses.", buckets=(1.0, 2.0), registry=registry).observe(1.5)
    return decode(encode(families_of(registry)))


async def scraped(ask: Any, accept: str = "", timeout_s: float = 0.2) -> str:
    scrape = MetricsAggregator(1, FakeControlChannel(), ask, timeout_s)
    body, content_type = await scrape.merged(counted(1), accept)
    assert content_type.startswith("application/openmetrics-text" if accept else "text/plain")
    return body.decode()


async def test_samples_of_all_workers_stand_together_each_with_its_worker() -> None:
    async def ask(node: str) -> tuple[MetricFamily, ...]:
        return counted({"two": 20, "three": 30}[node])

    for accept in ("", OPEN_METRICS):
        text = await scraped(ask, accept)
        assert text.count("# TYPE pause_seconds histogram") == 1
        for worker, times in (("1", 1.0), ("2", 20.0), ("3", 30.0)):
            assert f'turns_total{{kind="good",worker="{worker}"}} {times}' in text
            assert f'pause_seconds_bucket{{le="2.0",worker="{worker}"}} 1.0' in text
            assert f'worst{{worker="{worker}"}} +Inf' in text
        assert "chatbot_workers_answering 3.0" in text
        assert "chatbot_workers 4.0" in text
        assert "chatbot_worker_restarts_total 5.0" in text
    assert list(text_string_to_metric_families(await scraped(ask)))


async def test_who_does_not_answer_is_left_out_and_waited_for_no_longer_than_the_bound() -> None:
    async def ask(node: str) -> tuple[MetricFamily, ...]:
        if node == "two":
            await asyncio.sleep(60)
        raise ConnectionRefusedError

    begun_s = time.monotonic()
    text = await scraped(ask)
    assert time.monotonic() - begun_s < 5
    assert 'turns_total{kind="good",worker="1"} 1.0' in text
    assert 'worker="2"' not in text
    assert "chatbot_workers_answering 1.0" in text


async def test_a_metric_of_another_version_with_another_type_is_left_out() -> None:
    async def ask(node: str) -> tuple[MetricFamily, ...]:
        return (MetricFamily("turns", "Turns.", "gauge", "", (Sample("turns", {}, 7.0),)),)

    assert "7.0" not in await scraped(ask)


async def test_the_writers_metrics_stand_among_those_of_the_workers() -> None:
    async def ask(node: str) -> tuple[MetricFamily, ...]:
        return counted({"two": 20, "three": 30}[node])

    async def ask_writer() -> tuple[MetricFamily, ...]:
        return counted(40)

    body, _ = await MetricsAggregator(1, FakeControlChannel(), ask, 0.2, ask_writer).merged(counted(1), "")
    text = body.decode()
    assert 'turns_total{kind="good",worker="writer"} 40.0' in text
    assert "chatbot_workers_answering 3.0" in text
    assert "chatbot_writer_up 1.0" in text
    assert "chatbot_writer_restarts_total 6.0" in text


async def test_a_writer_that_does_not_answer_is_counted_as_down() -> None:
    async def ask(_: str) -> tuple[MetricFamily, ...]:
        return counted(1)

    async def ask_writer() -> tuple[MetricFamily, ...]:
        raise LogUnavailable("nobody writes the log")

    body, _ = await MetricsAggregator(1, FakeControlChannel(), ask, 0.2, ask_writer).merged(counted(1), "")
    assert "chatbot_writer_up 0.0" in body.decode()
