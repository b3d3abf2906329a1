"""The metrics that the event loop updates without locks are exposed as those of the client library are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from chatbot.observability.loop_metrics import LoopCounter, LoopGauge, LoopHistogram
from chatbot.observability.metrics import observe

BUCKETS = (0.0001, 0.5, 1, 2.5)
VALUES = st.one_of(st.sampled_from(BUCKETS), st.floats(-1, 4))


@given(observed=st.lists(st.tuples(st.sampled_from("ab"), VALUES)))
def test_the_exposition_is_that_of_the_client_library(observed: list[tuple[str, float]]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    histogram = LoopHistogram("took_seconds", "How long.", ["who"], buckets=BUCKETS, registry=ours)
    plain = LoopHistogram("size", "How much.", buckets=BUCKETS, registry=ours).series[()]
    counter = LoopCounter("done_total", "How many.", ["who", "how"], registry=ours)
    their_histogram = Histogram("took_seconds", "How long.", ["who"], buckets=BUCKETS, registry=theirs)
    their_plain = Histogram("size", "How much.", buckets=BUCKETS, registry=theirs)
    their_counter = Counter("done_total", "How many.", ["who", "how"], registry=theirs)
    total = LoopCounter("all_total", "All.", [], registry=ours)
    inside = LoopGauge("inside", "How many are.", registry=ours)
    their_total = Counter("all_total", "All.", registry=theirs)
    their_inside = Gauge("inside", "How many are.", registry=theirs)
    for who, value in observed:
        total.series[()] += 2
        their_total.inc(2)
        inside.value += 1
        their_inside.inc()
        observe(histogram.series[(who,)], value)
        their_histogram.labels(who).observe(value)
        observe(plain, value)
        their_plain.observe(value)
        counter.series[who, "well"] += 3
        their_counter.labels(who, "well").inc(3)
    assert generate_latest(ours) == generate_latest(theirs)


def test_two_metrics_of_one_name_are_refused() -> None:
    registry = CollectorRegistry()
    LoopCounter("done_total", "How many.", [], registry=registry)
    with pytest.raises(ValueError, match="Duplicated"):
        Counter("done_total", "How many.", registry=registry)
