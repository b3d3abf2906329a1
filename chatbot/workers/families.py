"""A process's metrics as data: to be sent to a sibling, and to be told beside its siblings' in one exposition."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec
from msgspec import Struct
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

LABEL = "worker"


class Sample(Struct, frozen=True, array_like=True):
    """One number. `name` has the suffix, such as _bucket."""

    name: str
    labels: dict[str, str]
    value: float


class Family(Struct, frozen=True, array_like=True):
    """One metric with all its samples; `type` is Prometheus's."""

    name: str
    documentation: str
    type: str
    unit: str
    samples: tuple[Sample, ...]


_encoder = msgspec.msgpack.Encoder()  # not JSON, which has no infinity
_decoder = msgspec.msgpack.Decoder(tuple[Family, ...])
encode: Callable[[tuple[Family, ...]], bytes] = _encoder.encode
decode: Callable[[bytes], tuple[Family, ...]] = _decoder.decode  # raises msgspec.DecodeError


def families_of(registry: CollectorRegistry) -> tuple[Family, ...]:
    """What `registry` would tell now. Some of it is read from files: for a thread."""
    return tuple(
        Family(one.name, one.documentation, one.type, one.unit, tuple(Sample(*sample[:3]) for sample in one.samples))
        for one in registry.collect()
    )


def render(workers: Mapping[str, Iterable[Family]], common: Iterable[Family], accept: str) -> tuple[bytes, str]:
    """One exposition, in the format that `accept` prefers, with its content type. Every sample of `workers` is told
    with the label `worker`; `common` is about them all.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Told([*_merged(workers), *(_metric(one) for one in common)]))
    encode_text, content_type = choose_encoder(accept)
    return encode_text(registry), content_type


class _Told(Collector):
    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        yield from self._metrics


def _merged(workers: Mapping[str, Iterable[Family]]) -> Iterable[Metric]:
    metrics: dict[str, Metric] = {}
    for worker, families in workers.items():
        for family in families:
            metric = metrics.setdefault(family.name, _metric(family, samples=False))
            if metric.type == family.type:  # of another version it might be another
                _add(metric, family, {LABEL: worker})
    return metrics.values()


def _metric(family: Family, *, samples: bool = True) -> Metric:
    metric = Metric(family.name, family.documentation, family.type, family.unit)
    if samples:
        _add(metric, family, {})
    return metric


def _add(metric: Metric, family: Family, labels: dict[str, Any]) -> None:
    for sample in family.samples:
        metric.add_sample(sample.name, {**sample.labels, **labels}, sample.value)
