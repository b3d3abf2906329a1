"""Failed authentications: counted for each client, logged, and refused with 429 beyond a rate.

A valid key always passes. Its secret has 256 bits, which nobody guesses at any rate; what the limit saves is the work,
and logs that nobody can read. And behind a proxy that is not configured, or one address that many people share, an
attacker would otherwise shut everybody out by sending wrong keys.
"""

import asyncio
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
FLUSH_S = 15.0  # between two looks for failures whose minute is over, while there are any that no line has counted

Scheduler = Callable[[float, Callable[[], None]], object]  # call it after so many seconds


class AuthenticationMetrics(Protocol):
    """Counts failed authentications."""

    def authentication_failed(self, credential: Credential, *, throttled: bool) -> None: ...


class _Client(Struct):
    """A token bucket; `failures` have not been logged, and `throttled` is whether one of them was. `address` and
    `credential` are those of the newest. Seconds of the timer.
    """

    tokens: float
    at_s: float
    address: str
    credential: Credential
    logged_at_s: float = -math.inf
    throttled_at_s: float = -math.inf
    failures: int = 0
    throttled: bool = False


def _call_later(delay_s: float, call: Callable[[], None]) -> object:
    return asyncio.get_running_loop().call_later(delay_s, call)


class FailedAttempts:
    """A token bucket for each client, that is an address or an IPv6 network of 64 bits."""

    def __init__(
        self,
        settings: Settings,
        metrics: AuthenticationMetrics,
        logger: structlog.stdlib.BoundLogger,
        timer: Callable[[], float] = time.monotonic,
        call_later: Scheduler = _call_later,
    ) -> None:
        self._per_minute = settings.auth.failures_per_minute
        self._trusted_proxies = settings.server.trusted_proxies
        self._metrics = metrics
        self._logger = logger
        self._timer = timer
        self._call_later = call_later
        self._is_flush_scheduled = False
        self._others, self._others_failures = 0, 0  # clients without a line of their own, and their failures
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
        client = self._clients.pop(network, None) or _Client(self._per_minute, now_s, address, credential)
        client.address, client.credential = address, credential
        self._clients[network] = client
        if len(self._clients) > CLIENTS_MAX:
            self._count_as_other(self._clients.popitem(last=False)[1])
        client.tokens = min(self._per_minute, client.tokens + (now_s - client.at_s) * self._per_minute / 60)
        client.at_s = now_s
        is_throttled = client.tokens < 1
        if not is_throttled:
            client.tokens -= 1
        self._metrics.authentication_failed(credential, throttled=is_throttled)
        self._log(client, throttled=is_throttled)
        return (1 - client.tokens) * 60 / self._per_minute if is_throttled else None

    def _log(self, client: _Client, *, throttled: bool) -> None:
        """A client's first failure has its line at once, and so has the first that is refused with 429; the others are
        counted in one line when LOG_INTERVAL_S is over.
        """
        client.failures += 1
        client.throttled = client.throttled or throttled
        now_s = client.at_s
        begins = throttled and now_s - client.throttled_at_s >= LOG_INTERVAL_S
        if throttled:
            client.throttled_at_s = now_s
        if begins and self._may_log(now_s):
            self._logger.warning("auth.throttled", client=client.address, credential=client.credential)
        if now_s - client.logged_at_s >= LOG_INTERVAL_S and self._may_log(now_s):
            self._report(client)
        else:
            self._schedule_flush()

    def _may_log(self, now_s: float) -> bool:
        """Whether there is room for another line about a client."""
        if now_s - self._logged_from_s >= LOG_INTERVAL_S:
            self._logged_from_s, self._logged = now_s, 0
        if self._logged >= LOG_LINES_MAX:
            return False
        self._logged += 1
        return True

    def _report(self, client: _Client) -> None:
        self._logger.warning(
            "auth.failed",
            client=client.address,
            credential=client.credential,
            failures=client.failures,
            throttled=client.throttled,
        )
        client.failures, client.throttled, client.logged_at_s = 0, False, self._timer()

    def _schedule_flush(self) -> None:
        if not self._is_flush_scheduled:
            self._is_flush_scheduled = True
            self._call_later(FLUSH_S, self._flush)

    def _flush(self) -> None:
        """Log the failures whose interval is over: the clients with the most of them, then one line for the others."""
        self._is_flush_scheduled = False
        now_s = self._timer()
        waiting = [one for one in self._clients.values() if one.failures]
        due = [one for one in waiting if now_s - one.logged_at_s >= LOG_INTERVAL_S]
        for client in sorted(due, key=lambda one: one.failures, reverse=True):
            if self._may_log(now_s):
                self._report(client)
            else:
                self._count_as_other(client)
        if self._others:
            self._logger.warning("auth.failed_others", clients=self._others, failures=self._others_failures)
            self._others, self._others_failures = 0, 0
        if len(due) < len(waiting):
            self._schedule_flush()

    def _count_as_other(self, client: _Client) -> None:
        if client.failures:
            self._others += 1
            self._others_failures += client.failures
            client.failures, client.throttled, client.logged_at_s = 0, False, self._timer()


FAILED_ATTEMPTS: web.AppKey[FailedAttempts] = web.AppKey("failed_attempts", FailedAttempts)
