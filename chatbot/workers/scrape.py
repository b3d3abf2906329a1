"""One answer for all workers: whichever of them is asked for its metrics asks its siblings, too."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from chatbot.workers.control import Control
from chatbot.workers.families import Family, Sample, render

# The metrics of the sibling whose node has this name. May raise any Exception where it does not answer.
Ask = Callable[[str], Awaitable[tuple[Family, ...]]]
Gathered = dict[str, tuple[Family, ...]]  # by worker


class Scrape:
    """Asks all siblings at once; none of them is waited for longer than `timeout_s`."""

    def __init__(self, slot: int, control: Control, ask: Ask, timeout_s: float) -> None:
        self._slot = slot
        self._control = control
        self._ask = ask
        self._timeout_s = timeout_s
        self._logger = structlog.get_logger("metrics")

    async def gather(self) -> Gathered:
        """The siblings' metrics, of those that answer."""
        nodes = {slot: node for slot, node in self._control.siblings.items() if slot != self._slot and node}
        answers = await asyncio.gather(*(self._asked(slot, node) for slot, node in nodes.items()))
        return {str(slot): answer for slot, answer in zip(nodes, answers, strict=True) if answer is not None}

    async def merged(self, own: tuple[Family, ...], accept: str) -> tuple[bytes, str]:
        """The exposition of `own` and the siblings' metrics, with its content type."""
        workers: Gathered = {str(self._slot): own, **await self.gather()}
        serving = max(len(self._control.siblings), 1)
        common = (
            _common("chatbot_workers", "Workers that serve.", "gauge", serving),
            _common("chatbot_workers_answering", "Of them, those in this answer.", "gauge", len(workers)),
            _common("chatbot_worker_restarts", "Workers that ended by themselves.", "counter", self._control.restarts),
        )
        return await asyncio.to_thread(render, workers, common, accept)

    async def _asked(self, slot: int, node: str) -> tuple[Family, ...] | None:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._ask(node)
        except Exception as error:  # noqa: BLE001  one that does not answer must not hide the others
            self._logger.warning("metrics.sibling_silent", sibling=slot, reason=f"{type(error).__name__}: {error}")
            return None


def _common(name: str, documentation: str, type: str, value: float) -> Family:
    sample = Sample(f"{name}_total" if type == "counter" else name, {}, value)
    return Family(name, documentation, type, "", (sample,))
