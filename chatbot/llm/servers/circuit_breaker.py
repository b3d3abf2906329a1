"""A circuit breaker: a server that keeps failing is not asked for a while, then by one request only. Pure.

closed -> open after FAILURES_MAX failures in a row -> half-open after a pause -> closed if the probe succeeds, else
open for twice as long.
"""

from typing import Literal, get_args

from msgspec import Struct
from msgspec.structs import replace

from chatbot.runtime.backoff import Backoff

FAILURES_MAX = 3  # in a row: one failed request may be an accident of the network
PAUSES = Backoff(1.0, 30.0)  # seconds; at most, as a server that works again should not wait long for its share
REQUESTED_PAUSE_MAX_S = 600.0  # of a Retry-After: an odd date must not take a server out for good

BreakerState = Literal["closed", "half_open", "open"]
BREAKER_STATES: tuple[BreakerState, ...] = get_args(BreakerState)


class CircuitBreaker(Struct, frozen=True):
    """What the requests to one server have shown. Times are of a monotonic clock, in seconds.

    `failures`: in a row. `openings`: since the last success. `opens_until_s`: None while it is closed.
    `is_probing`: the one request of the half-open state is under way. `not_before_s`: the server's own Retry-After.
    """

    failures: int = 0
    openings: int = 0
    opens_until_s: float | None = None
    is_probing: bool = False
    not_before_s: float = 0.0

    def state(self, now_s: float) -> BreakerState:
        if now_s < self.not_before_s or self.is_probing:
            return "open"
        if self.opens_until_s is None:
            return "closed"
        return "open" if now_s < self.opens_until_s else "half_open"

    def wait_s(self, now_s: float) -> float:
        """Seconds until a request is let through; 0 if one is now. While a probe is under way that is not known: 0."""
        return max(0.0, self.not_before_s - now_s, (self.opens_until_s or 0.0) - now_s)


def request_started(breaker: CircuitBreaker, now_s: float) -> CircuitBreaker:
    """Of a request that `state` let through: the first one in the half-open state is the probe."""
    return replace(breaker, is_probing=True) if breaker.state(now_s) == "half_open" else breaker


def request_succeeded(breaker: CircuitBreaker, *, is_probe: bool) -> CircuitBreaker:
    """A request that began before the failures proves nothing about the server as it is now."""
    if breaker.opens_until_s is not None and not is_probe:
        return breaker
    return CircuitBreaker(not_before_s=breaker.not_before_s)


def request_failed(breaker: CircuitBreaker, now_s: float, *, is_probe: bool) -> CircuitBreaker:
    """Requests that began before the breaker opened do not prolong the pause."""
    if breaker.opens_until_s is not None and not is_probe:
        return breaker
    failures = breaker.failures + 1
    if failures < FAILURES_MAX and not is_probe:
        return replace(breaker, failures=failures)
    openings = breaker.openings + 1
    return replace(
        breaker,
        failures=failures,
        openings=openings,
        opens_until_s=now_s + PAUSES.delay_s(openings),
        is_probing=False,
    )


def request_abandoned(breaker: CircuitBreaker, *, is_probe: bool) -> CircuitBreaker:
    """The client left, or the request itself was at fault: nothing is known, and the next request is the probe."""
    return replace(breaker, is_probing=False) if is_probe else breaker


def pause_requested(breaker: CircuitBreaker, now_s: float, seconds: float) -> CircuitBreaker:
    """The server has no capacity for so long."""
    return replace(breaker, not_before_s=now_s + min(seconds, REQUESTED_PAUSE_MAX_S))
