"""One of several model servers: its provider, the result of its newest health check, and its circuit breaker."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Literal
from urllib.parse import urlsplit

import structlog
from msgspec import Struct

from chatbot.llm.llm_options import LlmOptions
from chatbot.llm.model_names import is_offered
from chatbot.llm.provider import NO_SERVER, Health, LlmError, LlmUnavailable, Provider
from chatbot.llm.servers.circuit_breaker import (
    BreakerState,
    CircuitBreaker,
    pause_requested,
    request_abandoned,
    request_failed,
    request_started,
    request_succeeded,
)
from chatbot.llm.servers.failure_kinds import is_server_fault, requested_pause_s

# A server that is away is polled more often: one that starts should not look broken for a whole interval.
UNAVAILABLE_INTERVAL_S = 1.0

ServerProtocol = Literal["auto", "midm", "openai"]
Outcome = Literal["completed", "failed", "overloaded", "refused", "abandoned"]

_log = structlog.get_logger(__name__)


class ServerOptions(Struct, frozen=True, kw_only=True):
    """One of several servers; the fields are those of [[llm.servers]]. `llm`: how to reach it."""

    name: str
    llm: LlmOptions
    protocol: ServerProtocol = "auto"
    models: tuple[str, ...] = ()
    weight: float = 1.0
    concurrency: int = 0


class ServerStatus(Struct, frozen=True):
    """A server, for monitoring. `state`: available, loading, unavailable; `detail` says why, and names its host."""

    name: str
    state: Literal["available", "loading", "unavailable"]
    detail: str
    models: int
    outstanding: int
    breaker: BreakerState
    requests: dict[Outcome, int]  # by outcome, so far


class PooledServer:
    """A server and what is known of it. The pool chooses by `is_in_service` and `outstanding`."""

    def __init__(
        self,
        options: ServerOptions,
        provider: Provider,
        interval_s: float,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.options = options
        self.provider = provider
        self.name = options.name
        self.weight = options.weight
        self.concurrency = options.concurrency
        self.outstanding = 0
        self.requests: Counter[Outcome] = Counter()
        self.health: Health | None = None  # by the newest poll; None: not polled yet
        self._listed, self._is_complete = provider.models, provider.lists_models
        self._offered = self._select_models()
        self._patterns = frozenset(name for name in self._offered if name.endswith("*"))
        self._breaker = CircuitBreaker()
        self._interval_s = interval_s
        self._now = now
        self._poll_wanted = asyncio.Event()
        self._address = urlsplit(options.llm.server_url).netloc.rpartition("@")[2]  # without a password in it

    # what it serves

    @property
    def offered(self) -> frozenset[str]:
        """The names of its models: the configured ones, with those of its list that have a configured pattern; else
        its list. The same object while its list is the same: routers list thousands.
        """
        listed, is_complete = self.provider.models, self.provider.lists_models
        if listed is not self._listed or is_complete != self._is_complete:
            self._listed, self._is_complete = listed, is_complete
            self._offered = self._select_models()
            self._patterns = frozenset(name for name in self._offered if name.endswith("*"))
        return self._offered

    @property
    def lists_models(self) -> bool:
        return bool(self.options.models) or self.provider.lists_models

    def offers(self, model: str) -> bool:
        offered = self.offered
        return model in offered or is_offered(model, self._patterns) or f"{model}:latest" in offered

    def _select_models(self) -> frozenset[str]:
        configured = frozenset(self.options.models)
        if not configured:
            return self._listed
        patterns = frozenset(name for name in configured if name.endswith("*"))
        listed = frozenset(name for name in self._listed if is_offered(name, patterns))
        # As long as its list is not known, any name may be on it.
        return (configured - patterns) | (listed if self._is_complete else patterns)

    # whether it is asked

    @property
    def breaker(self) -> BreakerState:
        return self._breaker.state(self._now())

    @property
    def is_in_service(self) -> bool:
        """Not known to be away, and let through by the circuit breaker."""
        return (self.health is None or self.health.available) and self.breaker != "open"

    @property
    def wait_s(self) -> float | None:
        """Seconds until its breaker lets a request through; None if it is away, so that nobody knows."""
        if self.health is not None and not self.health.available:
            return None
        return self._breaker.wait_s(self._now())

    @property
    def status(self) -> ServerStatus:
        health = self.health or Health(available=False, detail="Not asked yet")
        breaker = self.breaker
        state: Literal["available", "loading", "unavailable"] = "available"
        detail = health.detail
        if not health.available:
            state = "loading" if health.loading else "unavailable"
        elif breaker == "open":
            state, detail = "unavailable", detail or "Its circuit breaker is open"
        return ServerStatus(self.name, state, detail, len(self.offered), self.outstanding, breaker, dict(self.requests))

    # requests

    def begin_request(self) -> bool:
        """Count a request; returns whether it is the probe of the half-open circuit breaker."""
        self.outstanding += 1
        before, self._breaker = self._breaker, request_started(self._breaker, self._now())
        return self._breaker is not before

    def note_success(self, *, is_probe: bool) -> None:
        """The server gives text, or has ended a reply."""
        self._breaker = request_succeeded(self._breaker, is_probe=is_probe)

    def end_request(self, error: LlmError | None, *, is_probe: bool, is_abandoned: bool = False) -> None:
        """`error` None: the reply is complete, or if `is_abandoned`, nobody waits for it any more."""
        self.outstanding -= 1
        if is_abandoned:
            self.requests["abandoned"] += 1
            self._breaker = request_abandoned(self._breaker, is_probe=is_probe)
            return
        if error is None:
            self.requests["completed"] += 1
            self.note_success(is_probe=is_probe)
            return
        if pause_s := requested_pause_s(error):
            self._breaker = pause_requested(self._breaker, self._now(), pause_s)
        if is_server_fault(error):
            self.requests["failed"] += 1
            self._breaker = request_failed(self._breaker, self._now(), is_probe=is_probe)
            self._poll_wanted.set()
        else:
            self.requests["overloaded" if pause_s else "refused"] += 1
            self._breaker = request_abandoned(self._breaker, is_probe=is_probe)

    # health

    async def run(self, on_polled: Callable[[], None]) -> None:
        """Poll until cancelled; at once after a request that the server failed."""
        shortest_s = min(self._interval_s, UNAVAILABLE_INTERVAL_S)  # between two polls, however many requests fail
        while True:
            self._poll_wanted.clear()
            began_s = self._now()
            await self.poll()
            on_polled()
            is_available = self.health is not None and self.health.available
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval_s if is_available else shortest_s):
                    await self._poll_wanted.wait()
            await asyncio.sleep(max(0.0, began_s + shortest_s - self._now()))

    async def poll(self) -> None:
        """Ask the server now. Never raises."""
        try:
            health = await self.provider.health()
        except Exception as error:  # noqa: BLE001  logged, and kept as a result: polling must go on
            _log.exception("llm.health_failed", server=self.name, error=type(error).__name__)
            health = Health(available=False, detail=f"The question failed: {type(error).__name__}")
        before, self.health = self.health, health
        if not health.available and (before is None or before.available):
            _log.warning("llm.server_unavailable", server=self.name, address=self._address, reason=health.detail)
        elif health.available and before is not None and not before.available:
            _log.info("llm.server_available", server=self.name, address=self._address)


def no_server(servers: Iterable[PooledServer]) -> LlmUnavailable:
    """The error for a model whose `servers` are all out of service."""
    error = LlmUnavailable(NO_SERVER)
    waits = [wait_s for server in servers if (wait_s := server.wait_s) is not None]
    error.retry_after_s = min(waits, default=None)
    return error
