"""Records jumps of the wall clock in the metrics and the log."""

import structlog

from chatbot.observability.metrics import Metrics


class ClockMetrics:
    """Reports jumps of the wall clock."""

    def __init__(self, metrics: Metrics, logger: structlog.stdlib.BoundLogger) -> None:
        self._metrics = metrics
        self._logger = logger

    def jumped(self, seconds: float) -> None:
        self._metrics.clock_jumped()
        self._logger.warning(
            "clock.jumped", by_s=round(seconds, 1), effect="sessions expire late, and retention erases nothing for now"
        )
