"""Metric families as data: one worker sends them to another, which merges those of all workers into one exposition."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec
from msgspec import Struct
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

WORKER_LABEL = "worker"


class Sample(Struct, frozen=True, array_like=True):
    """One value. `name` includes the suffix, such as _bucket."""

    name: str
    labels: dict[str, str]
    value: float


class MetricFamily(Struct, frozen=True, array_like=True):
    """One metric with all its samples; `type` is Prometheus's."""

    name: str
    documentation: str
    type: str
    unit: str
    samples: tuple[Sample, ...]


_encoder = msgspec.msgpack.Encoder()  # not JSON, which has no infinity
_decoder = msgspec.msgpack.Decoder(tuple[MetricFamily, ...])
encode: Callable[[tuple[MetricFamily, ...]], bytes] = _encoder.encode
decode: Callable[[bytes], tuple[MetricFamily, ...]] = _decoder.decode  # raises msgspec.DecodeError


def families_of(registry: CollectorRegistry) -> tuple[MetricFamily, ...]:
    """The current metrics of `registry`. Call it in a thread: some are read from files."""
    return tuple(
        MetricFamily(
            one.name, one.documentation, one.type, one.unit, tuple(Sample(*sample[:3]) for sample in one.samples)
        )
        for one in registry.collect()
    )


def render(
    workers: Mapping[str, Iterable[MetricFamily]], common: Iterable[MetricFamily], accept: str
) -> tuple[bytes, str]:
    """One exposition in the format that `accept` prefers, with its content type.

    Every sample of `workers` gets the label `worker`; `common` are the metrics of all workers together.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_CollectedMetrics([*_merged(workers), *(_metric(one) for one in common)]))
    encode_text, content_type = choose_encoder(accept)
    return encode_text(registry), content_type


class _CollectedMetrics(Collector):
    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        yield from self._metrics


def _merged(workers: Mapping[str, Iterable[MetricFamily]]) -> Iterable[Metric]:
    metrics: dict[str, Metric] = {}
    for worker, families in workers.items():
        for family in families:
            metric = metrics.setdefault(family.name, _metric(family, samples=False))
            if metric.type == family.type:  # of another version it might be another
                _add(metric, family, {WORKER_LABEL: worker})
    return metrics.values()


def _metric(family: MetricFamily, *, samples: bool = True) -> Metric:
    metric = Metric(family.name, family.documentation, family.type, family.unit)
    if samples:
        _add(metric, family, {})
    return metric


def _add(metric: Metric, family: MetricFamily, labels: dict[str, Any]) -> None:
    for sample in family.samples:
        metric.add_sample(sample.name, {**sample.labels, **labels}, sample.value)
