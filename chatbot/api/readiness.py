"""Readiness: whether requests should be sent to this process, for /readyz and /api/health."""

import asyncio
import time
from collections.abc import Callable
from typing import Literal

from aiohttp import web

from chatbot.api.response_bodies import ReadinessState
from chatbot.api.services import Services
from chatbot.observability.metrics import LogMetrics
from events.errors import LogError, LogUnavailable
from events.log import EventLog

DATABASE_TIMEOUT_S = 2.0  # a database that answers later counts as unavailable
PROBE_S = 1.0  # between two probes of a log that has refused an append

READY: Literal["ready"] = "ready"
NOT_READY_REASONS: dict[ReadinessState, str] = {
    "starting": "the service is starting",
    "draining": "the service is shutting down",
    "rebuilding": "the projections are being made from the log",
    "failed": "the projections have stopped; the logs say why (projections.failed)",
    "outdated": "the log holds an event of a newer version of this program: update it; /api/health names the type",
    "damaged": "a file of the log is damaged or was removed; nothing is recorded until the service is restarted",
    "unreadable": "what was recorded last cannot be read just now; the logs say why",
    "unwritable": "nothing can be recorded just now; the logs say why (log.refused, log.stalled)",
}


class WriteProbe:
    """Whether the log accepts appends: by the last append and, after a refusal, by a probe of the store.

    `has_writer` says whether the process runs that writes the log for this one.
    """

    def __init__(
        self,
        log: EventLog,
        log_metrics: LogMetrics,
        timer: Callable[[], float] = time.monotonic,
        has_writer: Callable[[], bool] = lambda: True,
    ) -> None:
        self.has_writer = has_writer
        self._log = log
        self._log_metrics = log_metrics
        self._timer = timer
        self._probed_s = float("-inf")

    async def is_writable(self) -> bool:
        """Probes the store after a refusal: a service that is not ready may get no requests that show its recovery."""
        if not self.has_writer():
            return False
        if not self._log_metrics.writable and self._timer() - self._probed_s >= PROBE_S:
            self._probed_s = self._timer()
            try:
                async with asyncio.timeout(DATABASE_TIMEOUT_S):
                    await self._log.check_writable()
            except (LogUnavailable, TimeoutError):
                return False
            self._log_metrics.recovered()
        return self._log_metrics.writable


NO_WRITER = "the process that writes the log does not run and is started again; the logs say why (writer.ended)"

WRITE_PROBE: web.AppKey[WriteProbe] = web.AppKey("recording", WriteProbe)


def not_ready_reason(state: ReadinessState, write_probe: WriteProbe) -> str | None:
    """Why `state` is not READY."""
    if state == "unwritable" and not write_probe.has_writer():
        return NO_WRITER
    return NOT_READY_REASONS.get(state)


async def readiness_state(services: Services, write_probe: WriteProbe) -> ReadinessState:
    """READY, or a key of NOT_READY_REASONS: the one that lasts longest."""
    state = services.readiness.state
    if services.log.damage is not None:
        return "damaged"
    if state == READY and services.runner.failure is not None:
        return "failed" if services.runner.unknown_event is None else "outdated"
    if state == READY and services.runner.rebuilding:
        return "rebuilding"
    if state != READY:
        return state
    if not await can_read(services):
        return "unreadable"
    return READY if await write_probe.is_writable() else "unwritable"


async def can_read(services: Services) -> bool:
    """Whether the log can be read, and the projections can follow it."""
    if services.runner.trouble is not None and services.runner.lag:
        return False
    return await log_answers(services)


async def log_answers(services: Services) -> bool:
    """Whether the log can be read."""
    if services.log.damage is not None:
        return False
    try:
        async with asyncio.timeout(DATABASE_TIMEOUT_S):
            await services.log.read_all(after=services.log.head().position, limit=1)
    except (TimeoutError, LogError):
        return False
    return True
