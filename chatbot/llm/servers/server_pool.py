"""Several model servers as one provider: routes by model and session, falls back before the first text."""

import asyncio
import operator
import random
from collections.abc import Callable, Hashable, Sequence
from functools import partial

import structlog
from msgspec import Struct
from msgspec.structs import replace

from chatbot.llm.llm_options import LlmOptions
from chatbot.llm.provider import (
    TAKES_ALL,
    Finish,
    Health,
    LlmError,
    LlmOverloaded,
    LlmTimeout,
    ModelMessage,
    OnText,
    PartsMessage,
    ReplySink,
    Route,
    log_safe_reason,
    used_features,
)
from chatbot.llm.resilient_provider import BACKOFF_MAX_S, JITTER, OnAttempt, RetryPolicy
from chatbot.llm.servers.failure_kinds import may_fall_back
from chatbot.llm.servers.pooled_server import PooledServer, ServerStatus, no_server
from chatbot.llm.servers.server_choice import choose, home_of, may_serve
from chatbot.llm.servers.waiting_replies import WaitingReplies
from chatbot.runtime.backoff import Backoff
from events.schema.parameters import Parameters

MOVED_SESSIONS_MAX = 10_000  # remembered, the newest: those whose home was too busy when they began

_log = structlog.get_logger(__name__)


class Requirements(Struct, frozen=True):
    """What a reply needs of a server: `features`. It is better with the `preferred` ones, of which others get the text.
    `is_new`: its conversation has no reply yet. `excluded` have failed it.
    """

    model: str
    features: frozenset[str]
    preferred: frozenset[str]
    session: str
    is_new: bool
    excluded: set[str]

    @property
    def kind(self) -> Hashable:
        """Equal for replies that the same servers may serve."""
        return self.model, self.features, self.preferred, frozenset(self.excluded)


class Lease(Struct, frozen=True):
    """A counted request to a server. `is_probe`: its circuit breaker is half-open and lets only this one through."""

    server: PooledServer
    is_probe: bool


class ProbeSink:
    """Passes on a reply's parts, and tells once that there is one: the probe of a circuit breaker has succeeded.

    Only probes have one: for all others it would be a call more for each token.
    """

    def __init__(self, sink: ReplySink, on_success: Callable[[], None]) -> None:
        self._sink = sink
        self._on_success: Callable[[], None] | None = on_success
        self._pass_on = sink.text
        self.text: OnText = self._text
        self.usage = sink.usage

    def _text(self, piece: str) -> None:
        if piece:
            self._succeed()
        self._pass_on(piece)

    def reasoning(self, piece: str) -> None:
        self._succeed()
        self._sink.reasoning(piece)

    def refusal(self, piece: str) -> None:
        self._succeed()
        self._sink.refusal(piece)

    def tool_call(self, call_id: str, name: str, arguments: str) -> None:
        self._succeed()
        self._sink.tool_call(call_id, name, arguments)

    def _succeed(self) -> None:
        if self._on_success is not None:
            on_success, self._on_success = self._on_success, None
            on_success()


class ServerPool:
    """A provider over `servers`, which has at least one.

    `options`: those of [llm], of which the pool uses the model, the retries and the reply's timeout; each server has
    its own. `name`, `model`, `models`, `lists_models` and `takes` change as the servers' lists become known.
    """

    def __init__(self, servers: Sequence[PooledServer], options: LlmOptions) -> None:
        self.servers = tuple(servers)
        self._options = options
        self._retry_policy = RetryPolicy(
            Backoff(options.retry_backoff_s, BACKOFF_MAX_S), options.retries_max, options.first_token_timeout_s
        )
        self._on_attempt: OnAttempt = lambda _: None
        self._waiting: WaitingReplies[Requirements, Lease] = WaitingReplies()
        self._is_up = True
        self._moved: dict[str, str] = {}  # session -> server, the newest last
        self.name = "auto"
        self.model = options.model
        self.models: frozenset[str] = frozenset()
        self._offered: list[frozenset[str]] = [self.models for _ in servers]  # by server, as in `models`
        self.lists_models = False
        self.takes: frozenset[str] | None = None
        self._update_names()

    def observe(self, on_attempt: OnAttempt) -> None:
        """As ResilientProvider.observe(): a failure only if no server can be asked, or all are overloaded."""
        self._on_attempt = on_attempt

    @property
    def statuses(self) -> tuple[ServerStatus, ...]:
        return tuple(server.status for server in self.servers)

    @property
    def waiting(self) -> int:
        """Replies that wait for a server with room."""
        return len(self._waiting)

    def context_tokens(self, model: str) -> int | None:
        """The smallest of the servers that may serve the model: a session may move to any of them."""
        sizes = (server.provider.context_tokens(model) for server in may_serve(self.servers, model or self.model))
        return min((size for size in sizes if size is not None), default=None)

    async def run(self) -> None:
        """Poll the servers until cancelled."""
        async with asyncio.TaskGroup() as group:
            for server in self.servers:
                group.create_task(server.run(self._on_change), name=f"health of {server.name}")

    async def health(self) -> Health:
        """Available if a server is. Asks those that were not asked yet."""
        await asyncio.gather(*(server.poll() for server in self.servers if server.health is None))
        self._update_names()
        if any(server.is_in_service for server in self.servers):
            return Health(available=True)
        statuses = self.statuses
        detail = "; ".join(f"{status.name}: {status.detail}" for status in statuses)
        return Health(available=False, detail=detail, loading=any(status.state == "loading" for status in statuses))

    async def close(self) -> None:
        for server in self.servers:
            await server.provider.close()

    async def stream(
        self,
        messages: tuple[ModelMessage, ...],
        parameters: Parameters,
        sink: ReplySink,
        *,
        stream: bool = True,
        route: Route | None = None,
    ) -> Finish:
        """A server that fails before the first text is followed by another one at once; after all have failed, they
        are asked again as the retry policy says.
        """
        route = route or Route()
        limit = asyncio.timeout(self._options.reply_timeout_s)
        try:
            async with limit:
                finish = await self._stream(messages, parameters, sink, stream=stream, route=route)
        except TimeoutError:
            if not limit.expired():
                raise
            too_slow = LlmTimeout(f"The reply took longer than {self._options.reply_timeout_s:g} s")
            self._log_failure("llm.failed", too_slow, route)
            raise too_slow from None
        self._on_attempt(None)
        return finish

    async def _stream(
        self, messages: tuple[ModelMessage, ...], parameters: Parameters, sink: ReplySink, *, stream: bool, route: Route
    ) -> Finish:
        model = parameters.model or self.model
        if model and not parameters.model:
            parameters = replace(parameters, model=model)  # a server's own default may be another one
        is_new = all(message.role != "assistant" for message in messages)
        features = frozenset(used_features(messages[-1], parameters) if messages else ())
        required = Requirements(model, features, _preferred(messages), route.session, is_new, set())
        retries = 0
        while True:
            try:
                lease = await self._acquire(required, route)
                return await self._ask(lease, messages, parameters, sink, stream=stream, route=route)
            except LlmError as error:
                if not may_fall_back(error):
                    self._fail(error, route)
                    raise
                required.excluded.add(route.server)
                if self._candidates(required):
                    self._log_failure("llm.fell_back", error, route)
                    continue
                wait_s = self._retry_policy.wait_s(error, retries, random.uniform(*JITTER))  # noqa: S311  no secret
                if wait_s is None:
                    self._fail(error, route)
                    raise
                retries += 1
                required.excluded.clear()
                self._log_failure("llm.retried", error, route, attempt=retries)
            await asyncio.sleep(wait_s)

    async def _ask(
        self,
        lease: Lease,
        messages: tuple[ModelMessage, ...],
        parameters: Parameters,
        sink: ReplySink,
        *,
        stream: bool,
        route: Route,
    ) -> Finish:
        """One request to a server. Raises LlmError, and what `sink` raises."""
        server, is_probe = lease.server, lease.is_probe
        sink = ProbeSink(sink, partial(self._note_probe, server)) if is_probe else sink
        error: LlmError | None = None
        is_abandoned = True
        try:
            finish = await server.provider.stream(messages, parameters, sink, stream=stream)
            is_abandoned = False
        except LlmError as failed:
            error, is_abandoned = failed, False
            raise
        finally:
            route.provider = server.provider.name  # detected by the first request, if it is not configured
            self._release(lease, error, is_abandoned=is_abandoned)
        return finish

    async def _acquire(self, required: Requirements, route: Route) -> Lease:
        """A server in service that has room, once there is one. Raises LlmUnavailable if none is in service."""
        lease = self._grant(required)
        if lease is None:
            waiting = self._waiting.add(required, route.owner)
            try:
                lease = await waiting.granted
            except asyncio.CancelledError:
                if not waiting.granted.done() or waiting.granted.cancelled():
                    self._waiting.remove(waiting)
                elif waiting.granted.exception() is None:
                    self._release(waiting.granted.result(), None, is_abandoned=True)
                raise
        route.server = lease.server.name
        return lease

    def _grant(self, required: Requirements) -> Lease | None:
        """None: all that are in service are at their caps. Raises LlmUnavailable."""
        candidates = self._candidates(required)
        if not candidates:
            raise no_server(may_serve(self.servers, required.model))
        session = required.session
        server = choose(candidates, session, is_new=required.is_new, stays_on=self._moved.get(session, ""))
        if server is None:
            return None
        if required.is_new and session and server is not home_of(candidates, session):
            self._moved.pop(session, None)
            self._moved[session] = server.name
            if len(self._moved) > MOVED_SESSIONS_MAX:
                del self._moved[next(iter(self._moved))]
        return Lease(server, server.begin_request())

    def _candidates(self, required: Requirements) -> list[PooledServer]:
        """Those in service that may serve the request and have not failed in this reply."""
        known = may_serve(self.servers, required.model)
        # If none takes what the request needs, the one that is asked says so. While one that does is away, no other is
        # asked: the client is to try again, not to leave out what it needs.
        able = [server for server in known if _takes(server, required.features)] or known
        servers = [server for server in able if server.is_in_service and server.name not in required.excluded]
        return [server for server in servers if _takes(server, required.preferred)] or servers

    def _release(self, lease: Lease, error: LlmError | None, *, is_abandoned: bool) -> None:
        lease.server.end_request(error, is_probe=lease.is_probe, is_abandoned=is_abandoned)
        self._on_change()

    def _note_probe(self, server: PooledServer) -> None:
        """The probe of the server's circuit breaker has succeeded: it has room for others, before this reply ends."""
        server.note_success(is_probe=True)
        self._on_change()

    def _on_change(self) -> None:
        """A server has room, or has come or gone; its list of models may have changed."""
        self._update_names()
        self._waiting.serve(self._grant)
        is_up = any(server.is_in_service for server in self.servers)
        if is_up != self._is_up:
            self._is_up = is_up
            self._on_attempt(None if is_up else no_server(self.servers))

    def _update_names(self) -> None:
        """Sessions compare the names at each step: they are attributes, and the same objects while they are equal."""
        providers = [server.provider for server in self.servers]
        names = {provider.name for provider in providers} - {"auto"}
        self.name = next(iter(names)) if len(names) == 1 else "mixed" if names else "auto"
        self.model = self._options.model or next(filter(None, map(_default_model, self.servers)), "")
        self.lists_models = all(server.lists_models for server in self.servers)
        takes = [provider.takes for provider in providers]
        self.takes = None if None in takes else frozenset().union(*(one for one in takes if one is not None))
        offered = [server.offered for server in self.servers]
        if not all(map(operator.is_, offered, self._offered)):
            self._offered = offered
            models: frozenset[str] = frozenset().union(*offered)
            self.models = self.models if models == self.models else models

    def _fail(self, error: LlmError, route: Route) -> None:
        if isinstance(error, LlmOverloaded) or not self._is_up:
            self._on_attempt(error)
        self._log_failure("llm.failed", error, route)

    def _log_failure(self, event: str, error: LlmError, route: Route, **fields: int) -> None:
        write = _log.warning if event == "llm.failed" else _log.info
        write(
            event,
            provider=self.name,
            server=route.server,
            reason=log_safe_reason(error),
            status=error.status,
            **fields,
        )


def _preferred(messages: tuple[ModelMessage, ...]) -> frozenset[str]:
    """What of TAKES_ALL a server should take, for the images of earlier messages."""
    has_media = any(isinstance(message, PartsMessage) and message.media for message in messages)
    return frozenset({"media"}) if has_media else frozenset()


def _takes(server: PooledServer, features: frozenset[str]) -> bool:
    """A server of which that is not known is taken to take all."""
    takes = server.provider.takes
    return features <= (TAKES_ALL if takes is None else takes)


def _default_model(server: PooledServer) -> str:
    """'' if a server that is asked for any model has none of its own yet."""
    names = [name for name in server.options.models if not name.endswith("*")]
    return names[0] if names else server.provider.model
