"""Metrics of anchors. The label is a target's number in the settings: names may be long, and have bucket names."""

from collections.abc import Iterable

from chatbot.anchors.anchoring import AnchorStatus
from chatbot.observability.metric_definitions import MetricDefinitions


class AnchorMetrics:
    """Implements anchors.anchor_schedule.AnchorObserver."""

    def __init__(self, metrics: MetricDefinitions) -> None:
        self._metrics = metrics

    def anchor_failed(self, target: int) -> None:
        self._metrics.anchor_failures.labels(str(target)).inc()

    def refresh(self, statuses: Iterable[AnchorStatus]) -> None:
        """Set the gauges. Without an anchor yet there is no age."""
        for status in statuses:
            label = str(status.target)
            if status.age_s is not None:
                self._metrics.anchor_age.labels(label).set(status.age_s)
            self._metrics.anchor_missing.labels(label).set(status.missing)
            self._metrics.anchor_contradicted.labels(label).set(int(status.is_contradicted))
