"""Metrics for Prometheus, and the observers of the log, the projections and the sessions that record them and write log
lines.

No label is unbounded: routes are templates, models beyond the first few are `other`.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Protocol

import structlog
from msgspec import Struct
from prometheus_client.exposition import choose_encoder

from chatbot.llm.provider import without_server_words
from chatbot.llm.servers.circuit_breaker import BREAKER_STATES
from chatbot.llm.servers.pooled_server import ServerStatus
from chatbot.observability.loop_metrics import Distribution
from chatbot.observability.metric_definitions import MetricDefinitions
from chatbot.sessions.replies.reply import ReplyTiming, status_of
from events.catalogue import ReplyCompleted, ReplyEnded, ReplyFailed, ReplyStarted, Usage
from events.integrity.incomplete_erasures import IncompleteErasure
from projections.folds.message import OTHER_MODEL

MODELS_MAX = 16  # distinct values of the label `model`, besides `other`
CHOSEN_MODELS_MAX = 12  # from this number on, models that clients choose get no label of their own


class _ModelSeries(Struct, frozen=True):
    """The distributions with the labels provider and model of one model, made together."""

    duration: Distribution
    first_token: Distribution
    per_token: Distribution


class Metrics(MetricDefinitions):
    """Records what happens in the metrics."""

    def __init__(self, version: str) -> None:
        super().__init__(version)
        self._models: set[str] = set()
        self._model_series: dict[tuple[str, str], _ModelSeries] = {}
        self._log_lines_dropped_before = 0
        self._server_requests_before: dict[tuple[str, str], int] = {}

    def render(self, accept: str) -> tuple[bytes, str]:
        """The exposition in the format that `accept` prefers, with its content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    # requests

    def observe_request(self, route: str, method: str, status: int, seconds: float) -> None:
        observe(self._requests.series[route, method, str(status)], seconds)

    def connection_opened(self) -> None:
        self._connections.inc()

    def connection_ended(self) -> None:
        self._connections.dec()

    def connection_closed(self, reason: str) -> None:
        self._closed.labels(reason).inc()

    def authentication_failed(self, credential: str, *, throttled: bool) -> None:
        self._authentication_failures.labels(credential, str(throttled).lower()).inc()

    def accept_failed(self) -> None:
        self._accept_failures.inc()

    def stream_opened(self) -> None:
        self._streams.value += 1

    def stream_ended(self) -> None:
        self._streams.value -= 1

    # event loop

    def loop_lag(self, seconds: float) -> None:
        observe(self._loop_lag, seconds)

    # sessions and replies

    def actors(self, live: int) -> None:
        self._actors.set(live)

    def erased_early(self) -> None:
        self._erased_early.inc()

    def erasure_held(self) -> None:
        self._erasures_held.inc()

    def holds(self, count: int) -> None:
        self._holds.set(count)

    def refused(self, reason: str) -> None:
        self._refused.labels(reason).inc()

    def actor_failed(self) -> None:
        self._actor_failures.inc()

    def label_of(self, model: str, *, chosen: bool) -> str:
        """The label for a model; `other` if there are too many. `chosen`: a client chose it among those offered;
        however many they choose, the service's own model keeps a label."""
        if model in self._models or model == OTHER_MODEL:
            return model
        if len(self._models) >= (CHOSEN_MODELS_MAX if chosen else MODELS_MAX):
            return OTHER_MODEL
        self._models.add(model)
        return model

    def reply_closed(self, provider: str, model: str, outcome: str) -> None:
        """`model`, here and below: a result of label_of(), or none."""
        self._ended.series[provider, model, outcome] += 1

    def reply_ended(
        self, provider: str, model: str, outcome: str, duration_s: float, first_s: float | None, usage: Usage | None
    ) -> None:
        """A reply that took `duration_s`, with its first text after `first_s`."""
        self._ended.series[provider, model, outcome] += 1
        series = self._series_of_model(provider, model)
        observe(series.duration, duration_s)
        if first_s is not None:
            observe(series.first_token, first_s)
        if usage is None:
            return
        self._tokens.series[provider, model, "in"] += usage.prompt_tokens
        self._tokens.series[provider, model, "out"] += usage.completion_tokens
        if first_s is not None and usage.completion_tokens > 1:
            observe(series.per_token, (duration_s - first_s) / (usage.completion_tokens - 1))

    def _series_of_model(self, provider: str, model: str) -> _ModelSeries:
        labels = (provider, model)
        series = self._model_series.get(labels)
        if series is None:
            made = (metric.series[labels] for metric in (self._duration, self._first_token, self._per_token))
            series = self._model_series[labels] = _ModelSeries(*made)
            for direction in ("in", "out"):
                self._tokens.series[provider, model, direction] += 0
        return series

    # log and projections

    def appended(self, batch_events: int, append_s: float, commit_s: float) -> None:
        observe(self._batch, batch_events)
        observe(self._append, append_s)
        observe(self._commit, commit_s)

    def append_refused(self, reason: str) -> None:
        self._log_refused.labels(reason).inc()

    def clock_jumped(self) -> None:
        self._clock_jumps.inc()

    def files_lost(self) -> None:
        self._files_lost.inc()

    def folded(self, events: int) -> None:
        self._folded.series[()] += events

    def fold_failed(self) -> None:
        self._fold_failures.inc()

    def rebuilt(self) -> None:
        self._rebuilds.inc()

    # other nodes

    def mirrors(self, count: int) -> None:
        self._mirrors.set(count)

    def notifications_lost(self, *, are_lost: bool) -> None:
        self._notifications_lost.set(are_lost)

    def peer_failed(self, question: str) -> None:
        self._peer_failures.labels(question).inc()

    # gauges that are set at each scrape

    def projection_lag(self, events: int, seconds: float) -> None:
        self._lag_events.set(events)
        self._lag_s.set(seconds)

    def oldest_append(self, seconds: float) -> None:
        self._oldest_append.set(seconds)

    def log_lines_dropped(self, total: int) -> None:
        self._log_lines_dropped.inc(total - self._log_lines_dropped_before)
        self._log_lines_dropped_before = total

    def keys_outdated(self, *, is_outdated: bool) -> None:
        self._keys_outdated.set(is_outdated)

    def outdated(self, *, is_outdated: bool) -> None:
        self._outdated.set(is_outdated)

    def erasure_pending(self, *, pending: bool) -> None:
        self._erasure_pending.set(pending)

    def sessions(self, counts: Mapping[str, int]) -> None:
        for status, count in counts.items():
            self._sessions.labels(status).set(count)

    def model(self, *, available: bool, running: int, waiting: int, owners_waiting: int) -> None:
        self._model_up.set(available)
        self._model_running.set(running)
        self._model_waiting.set(waiting)
        self._model_owners_waiting.set(owners_waiting)

    def llm_server(self, status: ServerStatus) -> None:
        """One of several model servers."""
        name = status.name
        self._server_up.labels(name).set(status.state == "available")
        self._server_outstanding.labels(name).set(status.outstanding)
        for state in BREAKER_STATES:
            self._server_breaker.labels(name, state).set(status.breaker == state)
        for outcome, total in status.requests.items():
            before = self._server_requests_before.get((name, outcome), 0)
            self._server_requests.labels(name, outcome).inc(total - before)
            self._server_requests_before[name, outcome] = total


def observe(distribution: Distribution, value: float) -> None:
    distribution.counts[bisect_left(distribution.bounds, value)] += 1
    distribution.sum += value


def counted_name(requested: str, answered: str, known: AbstractSet[str]) -> str:
    """The model's name in metrics, never one that a client made up.

    `requested` is the name that the client sent, `answered` the one that the model server gave,
    `known` the names that are configured or offered. Many servers repeat any name that was requested, so the server's
    answer to an unknown name proves nothing.
    """
    if requested in known or answered in known:
        return answered
    return OTHER_MODEL


class KnownModels(Protocol):
    """The models that are configured, and those that the model server has listed so far."""

    @property
    def models(self) -> frozenset[str]: ...


class SessionMetrics:
    """Implements sessions.ports.SessionObserver."""

    def __init__(
        self,
        metrics: Metrics,
        logger: structlog.stdlib.BoundLogger,
        known_models: KnownModels | None = None,
    ) -> None:
        """Names that clients send and `known_models` does not have share one label."""
        self._metrics = metrics
        self._logger = logger.bind()  # once: structlog's lazy loggers do it again at each line, also at filtered ones
        self._known_models = known_models

    def actors(self, live: int) -> None:
        self._metrics.actors(live)

    def refused(self, reason: str) -> None:
        self._metrics.refused(reason)

    def actor_failed(self) -> None:
        self._metrics.actor_failed()

    def erased_early(self) -> None:
        self._metrics.erased_early()

    def erasure_held(self) -> None:
        self._metrics.erasure_held()

    def reply_closed(self, provider: str, ended: ReplyEnded) -> None:
        """Count a reply that never ran here: it waited, or a crash had left it open."""
        self._metrics.reply_closed(provider, "none", status_of(ended))

    def reply_ended(
        self, started: ReplyStarted, ended: ReplyEnded, timing: ReplyTiming, request_id: str | None
    ) -> None:
        """Count one reply. Its text stays out of logs and labels, and so do the model server's own words for a
        failure: they may quote the prompt.
        """
        metrics, outcome, duration_s = self._metrics, status_of(ended), ended.duration_us / 1_000_000
        requested, model = started.parameters.model, ended.model or started.model
        if requested is not None:
            known = self._known_models.models if self._known_models is not None else frozenset()
            model = counted_name(requested, model, known)
        model = metrics.label_of(model, chosen=requested is not None)
        first_s = None if timing.first_s is None else timing.first_s - timing.asked_s
        metrics.reply_ended(ended.provider or started.provider, model, outcome, duration_s, first_s, ended.usage)
        cause = None if isinstance(ended, ReplyCompleted) else ended.cause
        # At debug: a line for each successful reply would cost a tenth of the request; metrics count them.
        write = self._logger.debug if cause is None else self._logger.info
        write(
            "reply.ended",
            outcome=outcome,
            cause=cause,
            reason=without_server_words(ended.detail) if isinstance(ended, ReplyFailed) else None,
            model=model,
            duration_s=round(duration_s, 3),
            request_id=request_id,
        )


class LogMetrics:
    """Implements events.log_observer.LogObserver."""

    def __init__(self, metrics: Metrics, logger: structlog.stdlib.BoundLogger) -> None:
        self.writable = True  # as of the last append, or probe
        self.incomplete_erasures = 0
        self._metrics = metrics
        self._logger = logger

    def appended(self, batch_events: int, append_s: float, commit_s: float) -> None:
        self.writable = True
        self._metrics.appended(batch_events, append_s, commit_s)

    def refused(self, reason: str) -> None:
        self.writable = self.writable and reason != "unavailable"
        self._metrics.append_refused(reason)
        # A writer that loses a race reads the tail and decides again: no fault. `warned` says which node is outdated.
        write = self._logger.debug if reason in ("conflict", "outdated", "missing") else self._logger.warning
        write("log.refused", reason=reason)

    def refused_by_writer(self) -> None:
        self.writable = False

    def stalled(self, seconds: float) -> None:
        self.writable = False
        advice = "the disk or the database does not answer; what waits goes on once it does"
        self._logger.warning("log.stalled", waiting_s=round(seconds, 1), advice=advice)

    def notified(self, *, is_notified: bool) -> None:
        self._metrics.notifications_lost(are_lost=not is_notified)

    def recovered(self) -> None:
        """A probe of the store has succeeded."""
        self.writable = True
        self._logger.info("log.writable")

    def failed(self, error: Exception) -> None:
        self.writable = False
        self._logger.error("log.failed", error=type(error).__name__, exc_info=error)

    def warned(self, subject: str, reason: str) -> None:
        self._logger.warning(f"log.{subject}", reason=reason)

    def found_incomplete_erasures(self, incomplete_erasures: Sequence[IncompleteErasure]) -> None:
        """Deleted sessions whose content is still stored, as found at start."""
        self.incomplete_erasures = len(incomplete_erasures)
        if incomplete_erasures:
            self._logger.warning(
                "log.unfinished_erasures",
                sessions=len(incomplete_erasures),
                first_position=incomplete_erasures[0].position,
                advice="chatbot verify names all of them, chatbot erase --session ID finishes each",
            )

    def files_lost(self, reason: str) -> None:
        self._metrics.files_lost()
        self._logger.error("log.files_lost", reason=reason)


class ProjectionMetrics:
    """Implements projections.port.ProjectionObserver."""

    def __init__(self, metrics: Metrics, logger: structlog.stdlib.BoundLogger) -> None:
        self._metrics = metrics
        self._logger = logger

    def applied(self, events: int, seconds: float) -> None:
        self._metrics.folded(events)

    def progress(self, position: int, head: int) -> None:
        self._logger.info("projections.progress", position=position, head=head, percent=round(100 * position / head))

    def adopted(self, position: int) -> None:
        self._logger.info("projections.adopted", position=position)

    def failed(self, error: BaseException) -> None:
        self._metrics.fold_failed()
        self._logger.error("projections.failed", error=type(error).__name__, reason=str(error))

    def rebuilt(self, reason: str) -> None:
        self._metrics.rebuilt()
        self._logger.warning("projections.rebuild", reason=reason)
