"""Failed authentications: counted for each client, logged, and refused with 429 beyond a rate.

A valid key always passes. Its secret has 256 bits, which nobody guesses at any rate; what the limit saves is the work,
and logs that nobody can read. And behind a proxy that is not configured, or one address that many people share, an
attacker would otherwise shut everybody out by sending wrong keys.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Literal, Protocol

import structlog
from aiohttp import web
from msgspec import Struct

from chatbot.api.access.client_address import client_address, client_network
from chatbot.api.problems import Problem
from chatbot.config.settings import Settings

Credential = Literal["key", "ticket"]

CLIENTS_MAX = 10_000  # that are remembered: about 3 MB. The one whose last failure is oldest is forgotten
LOG_INTERVAL_S = 60.0  # between two log lines about one client
LOG_LINES_MAX = 30  # in LOG_INTERVAL_S about all clients: an attacker may have thousands of addresses


class AuthenticationMetrics(Protocol):
    """Counts failed authentications."""

    def authentication_failed(self, credential: Credential, *, throttled: bool) -> None: ...


class _Client(Struct):
    """A token bucket; `failures` have not been logged. Seconds of the timer."""

    tokens: float
    at_s: float
    logged_at_s: float = -math.inf
    failures: int = 0


class FailedAttempts:
    """A token bucket for each client, that is an address or an IPv6 network of 64 bits."""

    def __init__(
        self,
        settings: Settings,
        metrics: AuthenticationMetrics,
        logger: structlog.stdlib.BoundLogger,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._per_minute = settings.auth.failures_per_minute
        self._trusted_proxies = settings.server.trusted_proxies
        self._metrics = metrics
        self._logger = logger
        self._timer = timer
        self._clients: OrderedDict[str, _Client] = OrderedDict()  # the one with the newest failure is the last
        self._logged_from_s = -math.inf
        self._logged = 0

    def refuse(self, request: web.Request, credential: Credential, refusal: Problem) -> Problem:
        """Count a failed authentication. Returns `refusal`, or the problem 429 beyond the rate of its client."""
        wait_s = self.note(client_address(request, self._trusted_proxies), credential)
        if wait_s is None:
            return refusal
        why = "this address has sent too many wrong keys or tickets; a valid one is accepted at any time"
        return Problem(429, "too-many-failures", "Too many failures", why, retry_s=math.ceil(wait_s))

    def note(self, address: str, credential: Credential) -> float | None:
        """Count a failure. Returns the seconds until the client may fail again, None if it may now."""
        now_s, network = self._timer(), client_network(address)
        client = self._clients.pop(network, None) or _Client(self._per_minute, now_s)
        self._clients[network] = client
        if len(self._clients) > CLIENTS_MAX:
            self._clients.popitem(last=False)
        client.tokens = min(self._per_minute, client.tokens + (now_s - client.at_s) * self._per_minute / 60)
        client.at_s = now_s
        is_throttled = client.tokens < 1
        if not is_throttled:
            client.tokens -= 1
        self._metrics.authentication_failed(credential, throttled=is_throttled)
        self._log(client, address, credential, throttled=is_throttled)
        return (1 - client.tokens) * 60 / self._per_minute if is_throttled else None

    def _log(self, client: _Client, address: str, credential: Credential, *, throttled: bool) -> None:
        """One line about a client in each interval, with the number of failures since its last line."""
        client.failures += 1
        now_s = client.at_s
        if now_s - self._logged_from_s >= LOG_INTERVAL_S:
            self._logged_from_s, self._logged = now_s, 0
        if now_s - client.logged_at_s < LOG_INTERVAL_S or self._logged >= LOG_LINES_MAX:
            return
        self._logged += 1
        client.logged_at_s = now_s
        self._logger.warning(
            "auth.failed", client=address, credential=credential, failures=client.failures, throttled=throttled
        )
        client.failures = 0


FAILED_ATTEMPTS: web.AppKey[FailedAttempts] = web.AppKey("failed_attempts", FailedAttempts)
