"""Log, projections and sessions without a listener and a model, for commands that write while no service runs."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import structlog
from msgspec import Struct

from chatbot.cli.cli_context import CommandContext
from chatbot.cli.progress_bar import ProgressBar
from chatbot.cli.remedies import with_remedy
from chatbot.llm.provider import (
    Finish,
    Health,
    LlmUnavailable,
    ModelMessage,
    ReplySink,
    Route,
)
from chatbot.observability.metrics import Metrics, ProjectionMetrics
from chatbot.sessions.ports import LiveSessions, Ports
from chatbot.sessions.session_queries import SessionQueries
from events.errors import LogUnusable
from projections.errors import ProjectionLag, ProjectionsStopped

STALL_TIMEOUT_S = 30.0  # without a single event applied: then the projections are not slow but blocked
POLL_S = 0.2  # between two reads of how far the projections are


class OfflineService(Struct, frozen=True):
    """The parts of the service that an erasure works with."""

    ports: Ports
    supervisor: LiveSessions
    reader: SessionQueries


class NoModel:
    """A null provider: no command that writes may call a model."""

    name = "none"
    model = ""
    models: frozenset[str] = frozenset()
    lists_models = False
    takes: frozenset[str] | None = frozenset()

    def context_tokens(self, model: str) -> int | None:
        return None

    async def stream(
        self,
        messages: tuple[ModelMessage, ...],
        parameters: object,
        sink: ReplySink,
        *,
        stream: bool = True,
        route: Route | None = None,
    ) -> Finish:
        raise LlmUnavailable

    async def health(self) -> Health:
        return Health(available=False, detail="no model is used here")

    async def close(self) -> None: ...


class QuietProjectionMetrics(ProjectionMetrics):
    """Does not log progress, as the command shows a bar. `last_error` is why the last batch failed."""

    last_error: BaseException | None = None

    def failed(self, error: BaseException) -> None:
        self.last_error = error
        super().failed(error)

    def progress(self, position: int, head: int) -> None: ...


@asynccontextmanager
async def open_offline_service(context: CommandContext) -> AsyncIterator[OfflineService]:
    """Sessions that take commands, with projections that have caught up with the log.

    Raises LogUnusable (LogInUse where a service runs), ProjectionError.
    """
    database = context.settings.database
    if not database.is_postgres and not await asyncio.to_thread(database.path.exists):
        raise LogUnusable(f"database {database.path} does not exist")
    metrics = Metrics("offline")
    projection_metrics = QuietProjectionMetrics(metrics, structlog.get_logger("offline"))
    async with AsyncExitStack() as stack:
        service = OfflineService(
            *await context.compose_offline(context.settings, stack, NoModel(), metrics, projection_metrics)
        )
        await _wait_until_caught_up(service.ports, projection_metrics)
        yield service


async def _wait_until_caught_up(ports: Ports, metrics: QuietProjectionMetrics) -> None:
    """Wait without a limit while the projections advance, and show how far they are. Raises LogUnusable."""
    log, runner = ports.log, ports.runner
    progress = ProgressBar("projecting", log.head().position)
    reached, moved_s = runner.position, time.monotonic()
    while runner.position < log.head().position and runner.failure is None:
        if runner.position > reached:
            reached, moved_s = runner.position, time.monotonic()
        elif time.monotonic() - moved_s > STALL_TIMEOUT_S:
            raise LogUnusable(f"the projections cannot be written: {metrics.last_error or 'for an unknown reason'}")
        progress.reach(runner.position)
        with suppress(ProjectionLag, ProjectionsStopped):
            await runner.wait_for(log.head().position, timeout_s=POLL_S)
    progress.close()
    if runner.failure is not None:
        raise LogUnusable(f"the log cannot be understood: {with_remedy(runner.failure)}") from runner.failure
