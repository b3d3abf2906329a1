"""Counters, gauges and histograms that the event loop alone updates, with each request. Without the locks and checks
that the client library needs for updates by any thread, an update costs a fifth. Any thread may collect them.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

from msgspec import Struct
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

LabelValues = tuple[str, ...]  # those of one series; they must be bounded


class LoopCounter(Collector):
    """As prometheus_client.Counter. `series` has the values, which are added to directly: without labels, one."""

    def __init__(self, name: str, documentation: str, labels: Sequence[str], *, registry: CollectorRegistry) -> None:
        self.series: defaultdict[LabelValues, float] = defaultdict(float, {} if labels else {(): 0.0})
        self._name = name
        self._documentation = documentation
        self._labels = tuple(labels)
        registry.register(self)

    def describe(self) -> Iterable[Metric]:
        return (self._family({}),)

    def collect(self) -> Iterable[Metric]:
        return (self._family(self.series.copy()),)  # the event loop may add series meanwhile

    def _family(self, series: Mapping[LabelValues, float]) -> Metric:
        family = CounterMetricFamily(self._name, self._documentation, labels=self._labels)
        for labels, value in series.items():
            family.add_metric(labels, value)
        return family


class LoopGauge(Collector):
    """As prometheus_client.Gauge without labels. `value` is set directly."""

    def __init__(self, name: str, documentation: str, *, registry: CollectorRegistry) -> None:
        self.value = 0
        self._name = name
        self._documentation = documentation
        registry.register(self)

    def describe(self) -> Iterable[Metric]:
        return self.collect()

    def collect(self) -> Iterable[Metric]:
        return (GaugeMetricFamily(self._name, self._documentation, value=self.value),)


class Distribution(Struct):
    """One series of a histogram: how many values each bucket has alone, the last of them those above all `bounds`."""

    bounds: tuple[float, ...]
    counts: list[float]
    sum: float = 0.0


class LoopHistogram(Collector):
    """As prometheus_client.Histogram. `series` has the distributions, which `Metrics` updates."""

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str] = (),
        *,
        buckets: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        self.series: defaultdict[LabelValues, Distribution] = defaultdict(self._new_series)
        self._name = name
        self._documentation = documentation
        self._labels = tuple(labels)
        self._bounds = tuple(buckets)
        self._names = [floatToGoString(bound) for bound in (*buckets, math.inf)]  # type: ignore[no-untyped-call]
        registry.register(self)

    def describe(self) -> Iterable[Metric]:
        return (self._family({}),)

    def collect(self) -> Iterable[Metric]:
        return (self._family(self.series.copy()),)  # the event loop may add series meanwhile

    def _new_series(self) -> Distribution:
        return Distribution(self._bounds, [0.0] * (len(self._bounds) + 1))

    def _family(self, series: Mapping[LabelValues, Distribution]) -> Metric:
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labels)
        for labels, one in series.items():
            cumulative = list(zip(self._names, accumulate(one.counts), strict=True))
            family.add_metric(labels, cumulative, one.sum)
        return family
