"""Knows whether the model server is there, so that a health request costs it nothing."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import urlsplit

import structlog

from chatbot.llm.provider import Health, LlmError, LlmOverloaded, LlmUnavailable, Provider, log_safe_reason

# While the server is away it is asked more often: a service that starts should not look broken for a whole interval.
UNAVAILABLE_INTERVAL_S = 1.0

_log = structlog.get_logger(__name__)


class HealthMonitor:
    """Asks the provider every `interval_s` (seconds) and keeps the newest answer in `newest`; what requests meet
    (`note`) counts at once.

    The log says once when the server goes and when it comes, by the host in `url` ("" for the embedded model).
    """

    def __init__(
        self, provider: Provider, interval_s: float, url: str = "", now: Callable[[], float] = time.monotonic
    ) -> None:
        self._server = urlsplit(url).netloc.rpartition("@")[2] or "embedded"  # a password in it is nobody's business
        self._logged_available: bool | None = None
        self.newest = Health(available=False, detail="Not asked yet")
        self._provider = provider
        self._now = now
        self._interval_s = interval_s
        self._retry_not_before_s = 0.0  # of `now`'s clock: the model server asked to be left alone until then
        self._failure_seen = asyncio.Event()  # since the last question began

    @property
    def server_wait_s(self) -> float:
        """Seconds for which the model server has asked to be left alone, by its newest Retry-After."""
        return max(0.0, self._retry_not_before_s - self._now())

    async def run(self) -> None:
        """Polls for ever. The task is its owner's, who also sees it should it ever end."""
        while True:
            self._failure_seen.clear()
            await self.refresh()
            pause_s = self._interval_s if self.newest.available else min(self._interval_s, UNAVAILABLE_INTERVAL_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._failure_seen.wait()
                    await asyncio.sleep(UNAVAILABLE_INTERVAL_S)  # however many requests fail at once

    async def refresh(self) -> None:
        """Asks now."""
        self._set_health(await self._check_provider())

    def record_attempt(self, error: LlmError | None) -> None:
        """A request to the model server has failed, or (None) was answered."""
        self._retry_not_before_s = self._now() + (error.retry_after_s or 0.0) if error is not None else 0.0
        if error is None:
            if not self.newest.available:
                self._set_health(Health(available=True))
        elif isinstance(error, LlmUnavailable):
            if self.newest.available:
                self._set_health(Health(available=False, detail=log_safe_reason(error)))
            self._failure_seen.set()
        elif not isinstance(error, LlmOverloaded):
            self._failure_seen.set()  # it was cut off, or came to nothing: ask

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
        """No fault of ours may end the polling: the service would believe the last answer for ever."""
        try:
            return await self._provider.health()
        except Exception as error:  # noqa: BLE001  logged, and told as an answer
            _log.exception("llm.health_failed", error=type(error).__name__)
            return Health(available=False, detail=f"The question failed: {type(error).__name__}")
