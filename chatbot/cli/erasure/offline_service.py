"""Log, projections and sessions without a listener or a model, for commands that write while no service runs."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import structlog
from msgspec import Struct
from msgspec.structs import asdict

from chatbot import __version__
from chatbot.cli.cli_context import ProgressBar
from chatbot.config.settings import Settings
from chatbot.llm.concurrency_limiter import ConcurrencyLimiter
from chatbot.llm.provider import ChatMessage, Finish, Health, LlmUnavailable, OnText
from chatbot.observability.metrics import Metrics
from chatbot.observability.observers import LogMetrics, ProjectionMetrics, SessionMetrics
from chatbot.sessions.actor.supervisor import Supervisor
from chatbot.sessions.cluster_port import ReadOnlyMember, SingleNode
from chatbot.sessions.domain.decide import Rules
from chatbot.sessions.feeds.channels import ChannelRegistry
from chatbot.sessions.feeds.text_cache import TextCache
from chatbot.sessions.ports import Limits, Ports
from chatbot.sessions.session_queries import SessionQueries
from chatbot.wiring import disk_reserve
from events.errors import LogUnusable
from events.factory import now_us, open_log
from events.log import EventLog
from events.options import LogOptions
from projections.errors import ProjectionLag, ProjectionsStopped
from projections.runner import ProjectionRunner, RunnerOptions
from projections.sqlite.projection_paths import delete_unused

LIVE_MAX = 64  # actors in memory: a command asks one session after the other
ASK_TIMEOUT_S = 600.0  # nobody waits at the other end of a connection, and a long history takes time to hand over
STALLED_S = 30.0  # without a single event folded: then it is not slow, but kept from it
POLL_S = 0.2  # between looks at projections that are catching up


class OfflineService(Struct, frozen=True):
    """The service's inside."""

    ports: Ports
    supervisor: Supervisor
    reader: SessionQueries


class NoModel:
    """A provider that has none: nothing may be asked of a model here."""

    name = "none"
    model = ""
    models: frozenset[str] = frozenset()
    lists_models = False

    async def stream(
        self, messages: tuple[ChatMessage, ...], parameters: object, on_text: OnText, *, stream: bool = True
    ) -> Finish:
        raise LlmUnavailable

    async def health(self) -> Health:
        return Health(available=False, detail="no model is used here")

    async def close(self) -> None: ...


class QuietProjectionMetrics(ProjectionMetrics):
    """Leaves it to the command to show progress. `trouble` is why the last attempt to fold failed."""

    last_error: BaseException | None = None

    def failed(self, error: BaseException) -> None:
        self.last_error = error
        super().failed(error)

    def progress(self, position: int, head: int) -> None: ...


@asynccontextmanager
async def open_offline_service(settings: Settings) -> AsyncIterator[OfflineService]:
    """Sessions that can be asked, with projections that are up to the log.

    Raises LogUnusable (LogInUse where a service runs), ProjectionError.
    """
    database = settings.database
    if not database.is_postgres and not await asyncio.to_thread(database.path.exists):
        raise LogUnusable(f"database {database.path} does not exist")
    metrics, logger = Metrics("offline"), structlog.get_logger("offline")
    wanted = asdict(database)
    options = LogOptions(**{name: wanted[name] for name in LogOptions.__struct_fields__})
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(
            disk_reserve(settings).released_if_full()
        )  # all of this writes, and not the erasure alone
        log = await open_log(database.place, options, observe=LogMetrics(metrics, logger), program=__version__)
        stack.push_async_callback(log.close)
        # Beside the nodes of a shared log: projections of its own, for the file in the settings may be a node's.
        own = Path(stack.enter_context(TemporaryDirectory(prefix="chatbot-"))) if log.is_shared else None
        projections = own / "projections.db" if own is not None else database.projections
        batches = RunnerOptions(batch_max=database.projection_batch_max)
        watch = QuietProjectionMetrics(metrics, logger)
        # Files of other workers, and of a node that does not serve now, would keep what is erased until they are used.
        await asyncio.to_thread(delete_unused, database.projections, [projections])
        runner = ProjectionRunner(projections, log, watch, batches)
        await runner.start()
        stack.push_async_callback(runner.stop)
        ports = _ports(settings, log, runner, SessionMetrics(metrics, logger))
        supervisor = Supervisor(ports)
        stack.push_async_callback(supervisor.close)
        await _wait_until_caught_up(log, runner, watch)
        yield OfflineService(ports, supervisor, SessionQueries(ports, supervisor))


async def _wait_until_caught_up(log: EventLog, runner: ProjectionRunner, watch: QuietProjectionMetrics) -> None:
    """Wait, however long it takes while they get on, and show how far it is. Raises LogUnusable."""
    progress = ProgressBar("projecting", log.head().position)
    reached, moved_s = runner.position, time.monotonic()
    while runner.position < log.head().position and runner.failure is None:
        if runner.position > reached:
            reached, moved_s = runner.position, time.monotonic()
        elif time.monotonic() - moved_s > STALLED_S:
            raise LogUnusable(f"the projections cannot be written: {watch.last_error or 'nobody knows why'}")
        progress.reach(runner.position)
        with suppress(ProjectionLag, ProjectionsStopped):
            await runner.wait_for(log.head().position, timeout_s=POLL_S)
    progress.close()
    if runner.failure is not None:
        raise LogUnusable(f"the log cannot be understood: {runner.failure}") from runner.failure


def _ports(settings: Settings, log: EventLog, runner: ProjectionRunner, watch: SessionMetrics) -> Ports:
    rules = Rules(
        node=os.uname().nodename,
        provider=NoModel.name,
        model=NoModel.model,
        max_context_messages=settings.chat.max_context_messages,
        pending_max=settings.sessions.pending_max,
        access_resolution_us=round(settings.sessions.access_resolution_s * 1e6),
        retry_interrupted=0,  # what a crash left open is closed: no reply can be begun anew here
    )
    limits = Limits(
        live_max=LIVE_MAX,
        mailbox_max=settings.sessions.mailbox_max,
        idle_timeout_s=settings.sessions.idle_timeout_s,
        ask_timeout_s=ASK_TIMEOUT_S,
        checkpoint_interval_s=settings.stream.checkpoint_interval_s,
        read_page_max=settings.database.read_page_max,
    )
    return Ports(
        log=log,
        runner=runner,
        queries=runner.queries,
        provider=NoModel(),
        limiter=ConcurrencyLimiter(1, 1),
        rules=rules,
        limits=limits,
        feeds=ChannelRegistry(),
        texts=TextCache(log, 0),
        nodes=ReadOnlyMember() if log.is_shared else SingleNode(),
        observe=watch,
        clock=now_us,
        timer=time.monotonic,
        logger=structlog.get_logger("sessions"),
    )
