"""Aggregates the metrics of all workers: the one that is scraped requests those of its siblings."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import structlog

from chatbot.observability.metric_families import MetricFamily, Sample, render

# The metrics of the sibling whose node has this name. May raise any Exception where it does not answer.
AskSibling = Callable[[str], Awaitable[tuple[MetricFamily, ...]]]
AskWriter = Callable[[], Awaitable[tuple[MetricFamily, ...]]]  # the metrics of the writer process; may raise as well
WRITER = "writer"  # in place of a worker's slot
FamiliesByWorker = dict[str, tuple[MetricFamily, ...]]  # by worker


class Siblings(Protocol):
    """The processes of this service, as its master reports them: the names of the workers' nodes by slot, and how often
    a worker and the writer have ended.
    """

    @property
    def siblings(self) -> Mapping[int, str]: ...

    @property
    def restarts(self) -> int: ...

    @property
    def writer_restarts(self) -> int: ...


class MetricsAggregator:
    """Requests the metrics of all siblings concurrently, each for at most `timeout_s`. `ask_writer` is None if there is
    no writer process.
    """

    def __init__(
        self, slot: int, control: Siblings, ask: AskSibling, timeout_s: float, ask_writer: AskWriter | None = None
    ) -> None:
        self._slot = slot
        self._control = control
        self._ask = ask
        self._timeout_s = timeout_s
        self._ask_writer = ask_writer
        self._logger = structlog.get_logger("metrics")

    async def gather(self) -> FamiliesByWorker:
        """The metrics of the siblings that answer, and of the writer."""
        nodes = {slot: node for slot, node in self._control.siblings.items() if slot != self._slot and node}
        questions = {str(slot): self._ask(node) for slot, node in nodes.items()}
        if self._ask_writer is not None:
            questions[WRITER] = self._ask_writer()
        answers = await asyncio.gather(*(self._await_answer(name, asked) for name, asked in questions.items()))
        return {name: answer for name, answer in zip(questions, answers, strict=True) if answer is not None}

    async def merged(self, own: tuple[MetricFamily, ...], accept: str) -> tuple[bytes, str]:
        """The exposition of `own` and the siblings' metrics, with its content type."""
        workers: FamiliesByWorker = {str(self._slot): own, **await self.gather()}
        serving, answering = max(len(self._control.siblings), 1), len(workers.keys() - {WRITER})
        common: tuple[MetricFamily, ...] = (
            _common("chatbot_workers", "Workers that serve.", "gauge", serving),
            _common("chatbot_workers_answering", "Of them, those in this answer.", "gauge", answering),
            _common("chatbot_worker_restarts", "Workers that ended by themselves.", "counter", self._control.restarts),
        )
        if self._ask_writer is not None:
            restarts = self._control.writer_restarts
            common += (
                _common("chatbot_writer_up", "1 when the writer process has answered.", "gauge", WRITER in workers),
                _common("chatbot_writer_restarts", "Writer processes that ended by themselves.", "counter", restarts),
            )
        return await asyncio.to_thread(render, workers, common, accept)

    async def _await_answer(
        self, name: str, asked: Awaitable[tuple[MetricFamily, ...]]
    ) -> tuple[MetricFamily, ...] | None:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asked
        except Exception as error:  # noqa: BLE001  one that does not answer must not hide the others
            self._logger.warning("metrics.sibling_silent", sibling=name, reason=f"{type(error).__name__}: {error}")
            return None


def _common(name: str, documentation: str, type: str, value: float) -> MetricFamily:
    sample = Sample(f"{name}_total" if type == "counter" else name, {}, value)
    return MetricFamily(name, documentation, type, "", (sample,))
