"""What each part is told of the settings. Pure, but for the node's name.

The one composition root: makes the parts of the service and connects them.
"""

import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import structlog
from msgspec.structs import asdict

from chatbot import __version__
from chatbot.api.app import listen_on_socket
from chatbot.api.request_limits import StreamLimit
from chatbot.api.routes.node_routes import build_node_app
from chatbot.api.services import Readiness, Services
from chatbot.api.streaming.flush_scheduler import FlushScheduler
from chatbot.config.settings import Settings
from chatbot.llm.concurrency_limiter import ConcurrencyLimiter
from chatbot.llm.health_monitor import HealthMonitor
from chatbot.llm.llm_options import EmbeddedOptions, LlmOptions
from chatbot.llm.provider_factory import create_provider
from chatbot.nodes.node import Node
from chatbot.observability.log_writer import LogWriter
from chatbot.observability.metrics import Metrics
from chatbot.observability.metrics_aggregation import MetricsAggregator
from chatbot.observability.observers import ClockMetrics, LogMetrics, ProjectionMetrics, SessionMetrics
from chatbot.runtime.background_tasks import run_in_background
from chatbot.runtime.ids import Ids
from chatbot.sessions.actor.supervisor import Supervisor
from chatbot.sessions.cluster_port import SingleNode
from chatbot.sessions.deadline_clock import open_deadline_clock
from chatbot.sessions.disk_reserve import DiskReserve
from chatbot.sessions.domain.decide import Rules
from chatbot.sessions.erasure_job import ErasureJob
from chatbot.sessions.expiry_timer import ExpiryTimer
from chatbot.sessions.feeds.channels import ChannelRegistry
from chatbot.sessions.feeds.text_cache import TextCache
from chatbot.sessions.owner_check import check_owners
from chatbot.sessions.ports import Limits, Ports
from chatbot.sessions.session_queries import SessionQueries
from chatbot.workers.worker import Worker
from chatbot.workers.worker_projections import prepare_projections_path
from events.catalogue import Parameters
from events.factory import now_us, open_log
from events.integrity.startup_check import check_integrity
from events.log import EventLog
from events.options import LogOptions
from projections.runner import ProjectionRunner, RunnerOptions


def log_options(settings: Settings) -> LogOptions:
    wanted = asdict(settings.database)
    return LogOptions(**{name: wanted[name] for name in LogOptions.__struct_fields__})


def runner_options(settings: Settings) -> RunnerOptions:
    database = settings.database
    return RunnerOptions(
        batch_max=database.projection_batch_max, delay_s=database.projection_delay_s, place=database.place
    )


def rules(settings: Settings, node: str | None = None) -> Rules:
    """`node` is this node's name among others; None: it serves alone."""
    return Rules(
        node=node or os.uname().nodename,
        provider=settings.llm.provider,
        model=settings.llm.model,
        max_context_messages=settings.chat.max_context_messages,
        pending_max=settings.sessions.pending_max,
        access_resolution_us=round(settings.sessions.access_resolution_s * 1e6),
        auth=bool(settings.auth.keys),
        retry_interrupted=settings.sessions.retry_interrupted,
        is_shared=node is not None,
        unanswered=settings.chat.unanswered,
        defaults=Parameters(
            max_new_tokens=settings.chat.default_max_tokens,
            temperature=settings.chat.default_temperature,
            do_sample=settings.chat.default_do_sample,
        ),
        tokens_max=settings.chat.max_tokens_ceiling,
    )


def disk_reserve(settings: Settings) -> DiskReserve:
    """PostgreSQL has a disk of its own."""
    database = settings.database
    return DiskReserve(None if database.is_postgres else database.path, database.erase_reserve_bytes)


async def reserve(settings: Settings) -> DiskReserve:
    """With its room taken, as far as the disk can spare it."""
    made = disk_reserve(settings)
    await made.allocate()
    return made


def limits(settings: Settings) -> Limits:
    return Limits(
        live_max=settings.sessions.live_max,
        mailbox_max=settings.sessions.mailbox_max,
        idle_timeout_s=settings.sessions.idle_timeout_s,
        ask_timeout_s=settings.sessions.ask_timeout_s,
        checkpoint_interval_s=settings.stream.checkpoint_interval_s,
        read_page_max=settings.database.read_page_max,
        history_max_bytes=settings.server.history_max_bytes,
    )


def llm_options(settings: Settings) -> LlmOptions:
    wanted = asdict(settings.llm)
    return LlmOptions(**{name: wanted[name] for name in LlmOptions.__struct_fields__})


def embedded_options(settings: Settings) -> EmbeddedOptions:
    return EmbeddedOptions(**asdict(settings.embedded))


async def compose(
    settings: Settings, stack: AsyncExitStack, worker: Worker | None = None, stderr: LogWriter | None = None
) -> Services:
    """Put the parts together; `stack` takes them apart again, last first."""
    if worker is not None:
        await stack.enter_async_context(run_in_background(worker.control.run(), "control"))
    metrics = Metrics(__version__)
    log_metrics = LogMetrics(metrics, structlog.get_logger("log"))
    log = await stack.enter_async_context(open_checked_log(settings, log_metrics, worker))
    projections_path = await prepare_projections_path(
        settings.database.projections, log, worker.slot if worker else None
    )
    projections = ProjectionRunner(
        projections_path,
        log,
        ProjectionMetrics(metrics, structlog.get_logger("projections")),
        runner_options(settings),
    )
    await projections.start()
    stack.push_async_callback(projections.stop)
    await check_owners(log, projections.queries, settings.auth)
    provider = create_provider(settings.llm.provider, llm_options(settings), embedded_options(settings))
    stack.push_async_callback(provider.close)
    feeds = ChannelRegistry()
    member = Node(settings.nodes, log, feeds, metrics) if log.is_shared else None
    if member is not None:
        stack.push_async_callback(member.close)
    health = HealthMonitor(provider, settings.llm.health_interval_s, settings.llm.server_url)
    provider.observe(health.record_attempt)
    await stack.enter_async_context(run_in_background(health.run(), "health"))
    clock = await open_deadline_clock(log, ClockMetrics(metrics, structlog.get_logger("clock")).jumped)
    ports = Ports(
        log=log,
        runner=projections,
        queries=projections.queries,
        provider=provider,
        limiter=ConcurrencyLimiter(settings.llm.concurrent_max, settings.llm.queue_max),
        rules=rules(settings, member.name if member else None),
        limits=limits(settings),
        feeds=feeds,
        texts=TextCache(log, settings.database.text_cache_bytes),
        observe=SessionMetrics(metrics, structlog.get_logger("sessions"), lambda: provider.models),
        clock=clock,
        timer=time.monotonic,
        logger=structlog.get_logger("sessions"),
        nodes=member.cluster if member else SingleNode(),
        reserve=await reserve(settings),
    )
    ids = Ids()
    supervisor = Supervisor(ports)
    stack.push_async_callback(supervisor.close)
    node_tasks = member.background_tasks(ports, supervisor) if member else {}
    may_erase = partial(clock.is_consistent, settings.sessions.erase_after_consistent_hours)
    expiry = ExpiryTimer(ports, supervisor, settings.sessions.erase_expired_after_hours, may_erase)
    erasures = ErasureJob(ports, supervisor)
    for name, task in {**node_tasks, "expiry": expiry.run(), "erasures": erasures.run()}.items():
        await stack.enter_async_context(run_in_background(task, name))
    services = Services(
        settings=settings,
        log=log,
        runner=projections,
        queries=projections.queries,
        supervisor=supervisor,
        expiry=expiry,
        erasures=erasures,
        reader=SessionQueries(ports, supervisor),
        feeds=ports.feeds,
        nodes=ports.nodes,
        streams=StreamLimit(settings.stream.readers_max),
        flush_scheduler=FlushScheduler(),
        metrics=metrics,
        readiness=Readiness(),
        health=health,
        provider=provider,
        limiter=ports.limiter,
        log_metrics=log_metrics,
        new_id=ids.uuid,
        new_token=ids.token,
        clock=now_us,
        logger=structlog.get_logger("api"),
        version=__version__,
        log_writer=stderr,
        metrics_aggregator=MetricsAggregator(
            worker.slot, worker.control, member.fetch_metrics, settings.nodes.probe_timeout_s
        )
        if worker and member
        else None,
    )
    if member is not None:
        listener = await listen_on_socket(member.listener, build_node_app(services, member.secret))
        stack.push_async_callback(listener.cleanup)
    return services


@asynccontextmanager
async def open_checked_log(
    settings: Settings, log_metrics: LogMetrics, worker: Worker | None
) -> AsyncIterator[EventLog]:
    database, options = settings.database, log_options(settings)
    log = await open_log(
        database.place,
        options,
        clock=now_us,
        observe=log_metrics,
        notifier=worker.notifier if worker else None,
        other_nodes=worker.control if worker else None,
        program=__version__,
    )
    try:
        log_metrics.found_incomplete_erasures(
            await check_integrity(log, database.shown if database.is_postgres else database.path)
        )
        yield log
    finally:
        await log.close()
