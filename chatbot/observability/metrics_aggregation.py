"""Aggregates the metrics of all workers: the one that is scraped requests those of its siblings."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import structlog

from chatbot.observability.metric_families import MetricFamily, Sample, render

# The metrics of the sibling whose node has this name. May raise any Exception where it does not answer.
AskSibling = Callable[[str], Awaitable[tuple[MetricFamily, ...]]]
FamiliesByWorker = dict[str, tuple[MetricFamily, ...]]  # by worker


class Siblings(Protocol):
    """The workers of this service, as its master reports them: their nodes' names by slot, and how often one ended."""

    @property
    def siblings(self) -> Mapping[int, str]: ...

    @property
    def restarts(self) -> int: ...


class MetricsAggregator:
    """Requests the metrics of all siblings concurrently, each for at most `timeout_s`."""

    def __init__(self, slot: int, control: Siblings, ask: AskSibling, timeout_s: float) -> None:
        self._slot = slot
        self._control = control
        self._ask = ask
        self._timeout_s = timeout_s
        self._logger = structlog.get_logger("metrics")

    async def gather(self) -> FamiliesByWorker:
        """The metrics of the siblings that answer."""
        nodes = {slot: node for slot, node in self._control.siblings.items() if slot != self._slot and node}
        answers = await asyncio.gather(*(self._ask_sibling(slot, node) for slot, node in nodes.items()))
        return {str(slot): answer for slot, answer in zip(nodes, answers, strict=True) if answer is not None}

    async def merged(self, own: tuple[MetricFamily, ...], accept: str) -> tuple[bytes, str]:
        """The exposition of `own` and the siblings' metrics, with its content type."""
        workers: FamiliesByWorker = {str(self._slot): own, **await self.gather()}
        serving = max(len(self._control.siblings), 1)
        common = (
            _common("chatbot_workers", "Workers that serve.", "gauge", serving),
            _common("chatbot_workers_answering", "Of them, those in this answer.", "gauge", len(workers)),
            _common("chatbot_worker_restarts", "Workers that ended by themselves.", "counter", self._control.restarts),
        )
        return await asyncio.to_thread(render, workers, common, accept)

    async def _ask_sibling(self, slot: int, node: str) -> tuple[MetricFamily, ...] | None:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._ask(node)
        except Exception as error:  # noqa: BLE001  one that does not answer must not hide the others
            self._logger.warning("metrics.sibling_silent", sibling=slot, reason=f"{type(error).__name__}: {error}")
            return None


def _common(name: str, documentation: str, type: str, value: float) -> MetricFamily:
    sample = Sample(f"{name}_total" if type == "counter" else name, {}, value)
    return MetricFamily(name, documentation, type, "", (sample,))
