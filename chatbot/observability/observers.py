"""Observers of the log, the projections and the sessions: turn what they report into metrics and log lines."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Protocol

import structlog

from chatbot.llm.provider import without_server_words
from chatbot.observability.metrics import Metrics
from chatbot.sessions.replies.reply import ReplyTiming, status_of
from events.catalogue import ReplyCompleted, ReplyEnded, ReplyFailed, ReplyStarted
from events.integrity.incomplete_erasures import IncompleteErasure
from projections.folds.message import OTHER_MODEL


def counted_name(requested: str | None, answered: str, known: AbstractSet[str]) -> str:
    """The model's name in metrics, never one that a client made up.

    `requested` is the name that the client sent (None: it sent none), `answered` the one that the model server gave,
    `known` the names that are configured or offered. Many servers repeat any name that was requested, so the server's
    answer to an unknown name proves nothing.
    """
    if requested is None or requested in known or answered in known:
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
        self._logger = logger
        self._known_models = known_models

    def actors(self, live: int) -> None:
        self._metrics.actors(live)

    def refused(self, reason: str) -> None:
        self._metrics.refused(reason)

    def actor_failed(self) -> None:
        self._metrics.actor_failed()

    def reply_closed(self, provider: str, ended: ReplyEnded) -> None:
        """Count a reply that never ran here: it waited, or a crash had left it open."""
        self._metrics.reply(provider, "none", status_of(ended), None)

    def reply_ended(
        self, started: ReplyStarted, ended: ReplyEnded, timing: ReplyTiming, request_id: str | None
    ) -> None:
        """Count one reply. Its text stays out of logs and labels, and so do the model server's own words for a
        failure: they may quote the prompt.
        """
        metrics, provider = self._metrics, started.provider
        answered_by_model = ended if isinstance(ended, ReplyCompleted | ReplyFailed) else None
        answered = (answered_by_model.model if answered_by_model is not None else None) or started.model
        requested = started.parameters.model
        model = metrics.label_of(
            counted_name(requested, answered, self._known_models.models if self._known_models else frozenset()),
            chosen=requested is not None,
        )
        duration_s = ended.duration_us / 1_000_000
        metrics.reply(provider, model, status_of(ended), duration_s)
        first_s = None if timing.first_s is None else timing.first_s - timing.asked_s
        if first_s is not None:
            metrics.first_token(provider, model, first_s)
        usage = answered_by_model.usage if answered_by_model is not None else None
        if usage is not None:
            metrics.tokens(provider, model, usage.prompt_tokens, usage.completion_tokens)
            if first_s is not None and usage.completion_tokens > 1:
                metrics.per_token(provider, model, (duration_s - first_s) / (usage.completion_tokens - 1))
        cause = None if isinstance(ended, ReplyCompleted) else ended.cause
        # At debug: a line for each successful reply would cost a tenth of the request; metrics count them.
        write = self._logger.debug if cause is None else self._logger.info
        write(
            "reply.ended",
            outcome=status_of(ended),
            cause=cause,
            reason=without_server_words(ended.detail) if isinstance(ended, ReplyFailed) else None,
            model=model,
            duration_s=round(duration_s, 3),
            request_id=request_id,
        )


class LogMetrics:
    """Implements the log's observer."""

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
        write = self._logger.debug if reason in ("conflict", "outdated") else self._logger.warning
        write("log.refused", reason=reason)

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


class ClockMetrics:
    """Reports jumps of the wall clock."""

    def __init__(self, metrics: Metrics, logger: structlog.stdlib.BoundLogger) -> None:
        self._metrics = metrics
        self._logger = logger

    def jumped(self, seconds: float) -> None:
        self._metrics.clock_jumped()
        self._logger.warning(
            "clock.jumped", by_s=round(seconds, 1), effect="sessions expire late, and retention erases nothing for now"
        )


class ProjectionMetrics:
    """Implements the projection runner's observer."""

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
