"""Monitors the health of the model server in the background, so that a health request need not wait for it."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import urlsplit

import structlog

from chatbot.llm.provider import (
    Health,
    LlmError,
    LlmOverloaded,
    LlmUnavailable,
    Provider,
    health_after,
    log_safe_reason,
)

# An unavailable server is polled more often: a service that starts should not look broken for a whole interval.
UNAVAILABLE_INTERVAL_S = 1.0

_log = structlog.get_logger(__name__)


class HealthMonitor:
    """Polls the provider every `interval_s` seconds and keeps the newest result in `newest`; the results of requests
    (record_attempt) count immediately.

    Each change of availability is logged once, with the host in `url` ("" for the embedded model) or `server`.
    """

    def __init__(
        self,
        provider: Provider,
        interval_s: float,
        url: str = "",
        now: Callable[[], float] = time.monotonic,
        *,
        server: str = "",
    ) -> None:
        self._server = server or urlsplit(url).netloc.rpartition("@")[2] or "embedded"  # without a password in it
        self._logged_available: bool | None = None
        self.newest = Health(available=False, detail="Not asked yet")
        self._provider = provider
        self._now = now
        self._interval_s = interval_s
        self._retry_not_before_s = 0.0  # on the clock `now`: the server's newest Retry-After
        self._failure_seen = asyncio.Event()  # since the last poll began

    @property
    def server_wait_s(self) -> float:
        """Seconds until the model server may be asked again, by its newest Retry-After."""
        return max(0.0, self._retry_not_before_s - self._now())

    async def run(self) -> None:
        """Poll until cancelled."""
        while True:
            self._failure_seen.clear()
            await self.refresh()
            pause_s = self._interval_s if self.newest.available else min(self._interval_s, UNAVAILABLE_INTERVAL_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._failure_seen.wait()
                    await asyncio.sleep(UNAVAILABLE_INTERVAL_S)  # however many requests fail at once

    async def refresh(self) -> None:
        """Poll now."""
        self._set_health(await self._check_provider())

    def record_attempt(self, error: LlmError | None) -> None:
        """A request to the model server has failed, or succeeded (None)."""
        self._retry_not_before_s = self._now() + (error.retry_after_s or 0.0) if error is not None else 0.0
        if error is None:
            if not self.newest.available:
                self._set_health(Health(available=True))
        elif isinstance(error, LlmUnavailable):
            if self.newest.available:
                self._set_health(health_after(error, log_safe_reason(error)))
            self._failure_seen.set()
        elif not isinstance(error, LlmOverloaded):
            self._failure_seen.set()  # it was cut off, or had no result: poll

    def _set_health(self, health: Health) -> None:
        self.newest = health
        if health.available == self._logged_available or health.starting:
            return
        if not health.available:
            _log.warning("llm.unavailable", server=self._server, reason=health.detail)
        elif self._logged_available is not None:
            _log.info("llm.available", server=self._server)
        self._logged_available = health.available

    async def _check_provider(self) -> Health:
        """Never raises: if polling ended, the service would keep the last result permanently."""
        try:
            return await self._provider.health()
        except Exception as error:  # noqa: BLE001  logged, and returned as a result
            _log.exception("llm.health_failed", error=type(error).__name__)
            return Health(available=False, detail=f"The question failed: {type(error).__name__}")
