"""The composition root (dependency injection): creates the parts of the service from the settings and connects them.

First what each part takes from the settings (pure, but for the node's name), then `compose` for the service and
`compose_offline` for commands. Nothing but `chatbot/cli/main.py` and `chatbot/cli/serve.py` imports this.
"""

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial

import structlog
from msgspec import Struct
from msgspec.structs import replace

from chatbot import __version__
from chatbot.anchors.anchor_factory import start_anchoring
from chatbot.anchors.anchoring import Anchoring
from chatbot.api.app import listen_on_socket
from chatbot.api.routes.node_routes import build_node_app
from chatbot.api.services import Readiness, Services
from chatbot.config.settings import Settings
from chatbot.holds.hold_registry import HoldRegistry
from chatbot.keys.key_registry import KeyRegistry
from chatbot.llm.concurrency_limiter import ConcurrencyLimiter, OwnerLimits
from chatbot.llm.configured_provider import concurrent_replies, configured_provider
from chatbot.llm.health_monitor import HealthMonitor
from chatbot.llm.provider import Provider
from chatbot.llm.servers.server_pool import ServerPool
from chatbot.nodes.node import Node
from chatbot.observability.anchor_metrics import AnchorMetrics
from chatbot.observability.clock_metrics import ClockMetrics
from chatbot.observability.log_writer import LogWriter
from chatbot.observability.metrics import LogMetrics, Metrics, ProjectionMetrics, SessionMetrics
from chatbot.observability.metrics_aggregation import MetricsAggregator
from chatbot.runtime.background_tasks import run_in_background
from chatbot.runtime.clock import NextDeadline
from chatbot.runtime.ids import Ids
from chatbot.sessions.actor.supervisor import Supervisor
from chatbot.sessions.cluster_port import ReadOnlyMember, SingleNode
from chatbot.sessions.conversations import ConversationOptions, Conversations
from chatbot.sessions.disk_reserve import DiskReserve
from chatbot.sessions.domain.state import Rules
from chatbot.sessions.erasure_job import ErasureJob
from chatbot.sessions.expiry_timer import ExpiryTimer, open_deadline_clock
from chatbot.sessions.feeds.channels import ChannelRegistry
from chatbot.sessions.feeds.owner_channels import ListReaders, OwnerChannels
from chatbot.sessions.feeds.text_cache import TextCache
from chatbot.sessions.media_memory import MediaMemory
from chatbot.sessions.owner_check import check_owners
from chatbot.sessions.ports import Limits, Ports
from chatbot.sessions.session_queries import SessionQueries
from chatbot.sessions.stateless_limit import StatelessLimit
from chatbot.workers.worker import Worker
from chatbot.writer.checked_log import open_process_log
from chatbot.writer.process_projections import fetch_writer_metrics, follow_writer
from chatbot.writer.storage_options import log_options, runner_options
from chatbot.writer.unused_projections import delete_unused_files
from events.catalogue import Parameters
from events.factory import now_us, open_log
from events.log import EventLog
from events.remote.remote_log import RemoteLog
from projections.factory import create_projections
from projections.observer import ProjectionObserver
from projections.port import ProjectionQueries, ProjectionStatus
from projections.runner import RunnerOptions
from projections.sqlite.projection_paths import delete_unused

OTHER_EVENTS_MAX = 4  # of an append that adds messages: the session, closed calls, the request and start of a reply


def rules(settings: Settings, node: str | None = None) -> Rules:
    """`node` is this node's id in a cluster; None: it serves alone."""
    return Rules(
        node=node or os.uname().nodename,
        provider=settings.llm.provider,
        model=settings.llm.model,
        max_context_messages=settings.chat.max_context_messages,
        pending_max=settings.sessions.queued_messages_max,
        access_resolution_us=round(settings.sessions.access_resolution_s * 1e6),
        retry_interrupted=settings.sessions.interrupted_retries_max,
        is_shared=node is not None,
        unanswered=settings.chat.unanswered_messages,
        defaults=Parameters(
            max_new_tokens=settings.chat.default_max_tokens,
            temperature=settings.chat.default_temperature,
            do_sample=settings.chat.default_do_sample,
            send_reasoning=settings.chat.send_reasoning or None,
        ),
        tokens_max=settings.chat.max_tokens_ceiling,
        context_tokens=settings.chat.context_tokens,
        image_tokens=settings.chat.image_tokens,
        tool_rounds_max=settings.chat.tool_rounds_max,
        request_media_max_bytes=settings.llm.request_media_max_bytes,
        added_max=max(1, settings.database.append_batch_max - OTHER_EVENTS_MAX),
    )


def disk_reserve(settings: Settings) -> DiskReserve:
    """Empty for a log in PostgreSQL, which is on a disk of its own."""
    database = settings.database
    return DiskReserve(None if database.is_postgres else database.path, database.erase_reserve_bytes)


def limits(settings: Settings) -> Limits:
    return Limits(
        live_max=settings.sessions.active_max,
        mailbox_max=settings.sessions.mailbox_max,
        idle_timeout_s=settings.sessions.idle_timeout_s,
        ask_timeout_s=settings.sessions.command_timeout_s,
        checkpoint_interval_s=settings.stream.checkpoint_interval_s,
        read_page_max=settings.database.read_page_max,
        history_max_bytes=settings.server.history_page_max_bytes,
    )


def conversation_options(settings: Settings) -> ConversationOptions:
    return ConversationOptions(
        timeout_s=round(settings.sessions.timeout_hours * 3600),
        retention_s=max(1, round(settings.v1.stateless_retention_hours * 3600)),
        stateless_max_bytes=settings.v1.stateless_max_bytes,
    )


async def compose(
    settings: Settings, stack: AsyncExitStack, worker: Worker | None = None, log_writer: LogWriter | None = None
) -> Services:
    """Make the service, connected and with its background tasks running; `stack` closes the parts, last first.

    Raises LogUnusable, ProjectionError, KeysMissing, EmbeddedMissing, AnchorsUnusable.
    """
    if worker is not None:
        await stack.enter_async_context(run_in_background(worker.control.run(), "control"))
    metrics = Metrics(__version__)
    storage = await _open_storage(settings, stack, metrics, worker)
    model = await _open_provider(settings, stack)
    feeds = ChannelRegistry()
    storage.runner.on_changed(OwnerChannels(feeds).on_changed)
    feeds.lists = ListReaders(storage.runner.set_list_readers)
    node = Node(settings.nodes, storage.log, feeds, metrics) if storage.log.is_shared else None
    if node is not None:
        stack.push_async_callback(node.close)
    is_first_worker = worker is None or worker.slot == 1
    observer = AnchorMetrics(metrics)
    anchoring = await start_anchoring(settings, stack, storage.log, observer, is_first_worker=is_first_worker)
    infrastructure = _Infrastructure(metrics, storage, model, feeds, node, anchoring)
    is_leader = _alone if worker is None else worker.is_leader
    sessions = await _start_sessions(settings, stack, infrastructure, is_leader)
    aggregator = _aggregator(settings, worker, node, storage.log)
    services = _make_services(settings, infrastructure, sessions, log_writer, aggregator)
    if worker is not None:
        services = replace(services, has_writer=partial(worker.control.has_writer, settings.database.busy_timeout_s))
    if node is not None:
        listener = await listen_on_socket(node.listener, build_node_app(services, node.secret))
        stack.push_async_callback(listener.cleanup)
    return services


class _Storage(Struct, frozen=True):
    log: EventLog
    keys: KeyRegistry
    log_metrics: LogMetrics
    runner: ProjectionStatus
    queries: ProjectionQueries


class _Model(Struct, frozen=True):
    provider: Provider
    health: HealthMonitor
    limiter: ConcurrencyLimiter
    servers: ServerPool | None  # None: there is one


class _Infrastructure(Struct, frozen=True):
    """What sessions are built on. `node` is None where this process is the only one that writes the log."""

    metrics: Metrics
    storage: _Storage
    model: _Model
    feeds: ChannelRegistry
    node: Node | None
    anchoring: Anchoring


class _Sessions(Struct, frozen=True):
    ports: Ports
    supervisor: Supervisor
    queries: SessionQueries
    expiry: ExpiryTimer
    erasures: ErasureJob
    ids: Ids
    holds: HoldRegistry


async def _open_storage(settings: Settings, stack: AsyncExitStack, metrics: Metrics, worker: Worker | None) -> _Storage:
    """The log, the keys recorded in it, and its projections."""
    log_metrics = LogMetrics(metrics, structlog.get_logger("log"))
    log = await stack.enter_async_context(open_process_log(settings, log_metrics, worker))
    keys = KeyRegistry(settings.auth, log, now_us)
    await keys.refresh()
    await stack.enter_async_context(run_in_background(keys.follow(), "keys"))
    await stack.enter_async_context(run_in_background(keys.end_uses(), "key-uses"))
    observer = ProjectionMetrics(metrics, structlog.get_logger("projections"))
    own_path = None if settings.database.is_postgres else settings.database.projections
    follower = follow_writer(settings, log, worker)
    if own_path is not None and follower is None:
        await delete_unused_files(own_path)
    runner = follower or create_projections(own_path, log, observer, runner_options(settings))
    await runner.start()
    stack.push_async_callback(runner.stop)
    await check_owners(log, runner.queries, settings.auth, has_keys=not keys.is_open)
    return _Storage(log, keys, log_metrics, runner, runner.queries)


async def _open_provider(settings: Settings, stack: AsyncExitStack) -> _Model:
    """The model servers' client, its health monitor and the limit on concurrent requests to them."""
    provider = configured_provider(settings)
    pool = provider if isinstance(provider, ServerPool) else None
    stack.push_async_callback(provider.close)
    names = ", ".join(server.name for server in settings.llm.servers)
    health = HealthMonitor(provider, settings.llm.health_interval_s, settings.llm.server_url, server=names)
    provider.observe(health.record_attempt)
    if pool is not None:
        await stack.enter_async_context(run_in_background(pool.run(), "servers"))
    await stack.enter_async_context(run_in_background(health.run(), "health"))
    owner_limits = OwnerLimits(settings.llm.owner_concurrent_max, settings.llm.owner_queue_max)
    limiter = ConcurrencyLimiter(concurrent_replies(settings), settings.llm.queue_max, time.monotonic, owner_limits)
    return _Model(provider, health, limiter, pool)


async def _start_sessions(
    settings: Settings, stack: AsyncExitStack, infrastructure: _Infrastructure, is_leader: Callable[[], bool]
) -> _Sessions:
    """The actors of the sessions, and the background tasks that act on sessions."""
    metrics, node = infrastructure.metrics, infrastructure.node
    storage, model = infrastructure.storage, infrastructure.model
    clock = await open_deadline_clock(storage.log, ClockMetrics(metrics, structlog.get_logger("clock")).jumped)
    reserve = disk_reserve(settings)
    await reserve.allocate()
    holds, next_deadline = HoldRegistry(storage.log), NextDeadline()
    ports = Ports(
        log=storage.log,
        runner=storage.runner,
        queries=storage.queries,
        provider=model.provider,
        limiter=model.limiter,
        rules=rules(settings, node.name if node else None),
        limits=limits(settings),
        feeds=infrastructure.feeds,
        texts=TextCache(storage.log, settings.database.text_cache_bytes),
        observer=SessionMetrics(metrics, structlog.get_logger("sessions"), model.provider),
        clock=clock,
        timer=time.monotonic,
        logger=structlog.get_logger("sessions"),
        cluster=node.cluster if node else SingleNode(),
        reserve=reserve,
        media_memory=MediaMemory(settings.llm.media_memory_max_bytes),
        holds=holds,
        notify_deadline=next_deadline.notify,
    )
    supervisor = Supervisor(ports)
    stack.push_async_callback(supervisor.close)
    node_tasks = node.background_tasks(ports, supervisor) if node else {}
    may_erase = partial(clock.is_consistent, settings.sessions.erase_after_clock_stable_hours)
    erase_after_hours = settings.sessions.erase_expired_after_hours
    expiry = ExpiryTimer(ports, supervisor.ask, erase_after_hours, may_erase, is_leader, next_deadline)
    erasures = ErasureJob(ports, supervisor.ask)
    stateless = StatelessLimit(ports, supervisor.ask, settings.v1.stateless_max_bytes, is_leader)
    tasks = {**node_tasks, "expiry": expiry.run(), "erasures": erasures.run(), "stateless": stateless.run()}
    for name, task in tasks.items():
        await stack.enter_async_context(run_in_background(task, name))
    return _Sessions(ports, supervisor, SessionQueries(ports, supervisor.ask), expiry, erasures, Ids(), holds)


def _alone() -> bool:
    return True


def _aggregator(
    settings: Settings, worker: Worker | None, node: Node | None, log: EventLog
) -> MetricsAggregator | None:
    """Sums the metrics of all workers; None where this process serves alone."""
    if worker is None or node is None:
        return None
    return MetricsAggregator(
        worker.slot,
        worker.control,
        node.fetch_metrics,
        settings.nodes.probe_timeout_s,
        partial(fetch_writer_metrics, log) if isinstance(log, RemoteLog) else None,
    )


def _make_services(
    settings: Settings,
    infrastructure: _Infrastructure,
    sessions: _Sessions,
    log_writer: LogWriter | None,
    aggregator: MetricsAggregator | None,
) -> Services:
    """What the HTTP handlers work with."""
    storage, model, ports = infrastructure.storage, infrastructure.model, sessions.ports
    return Services(
        settings=settings,
        keys=storage.keys,
        log=storage.log,
        runner=storage.runner,
        queries=storage.queries,
        supervisor=sessions.supervisor,
        expiry=sessions.expiry,
        erasures=sessions.erasures,
        session_queries=sessions.queries,
        conversations=Conversations(
            sessions.supervisor.ask, conversation_options(settings), sessions.ids.uuid, sessions.expiry.notify
        ),
        feeds=ports.feeds,
        cluster=ports.cluster,
        metrics=infrastructure.metrics,
        readiness=Readiness(),
        health=model.health,
        provider=model.provider,
        servers=model.servers,
        limiter=model.limiter,
        log_metrics=storage.log_metrics,
        new_id=sessions.ids.uuid,
        new_token=sessions.ids.token,
        clock=now_us,
        logger=structlog.get_logger("api"),
        version=__version__,
        holds=sessions.holds,
        receipt_key=infrastructure.anchoring.signer,
        anchoring=infrastructure.anchoring,
        log_writer=log_writer,
        metrics_aggregator=aggregator,
    )


OFFLINE_LIVE_MAX = 64  # actors in memory: a command processes one session after the other
OFFLINE_ASK_TIMEOUT_S = 600.0  # no client waits, and copying a long history into forks takes time


async def compose_offline(
    settings: Settings,
    stack: AsyncExitStack,
    provider: Provider,
    metrics: Metrics,
    projection_observer: ProjectionObserver,
) -> tuple[Ports, Supervisor, SessionQueries]:
    """Log, projections and sessions for a command, while no service runs on the log's file; without background tasks.

    Replies that a crash left open are closed, as none can be started again. Raises LogUnusable (LogInUse where a
    service runs), ProjectionError.
    """
    database, logger = settings.database, structlog.get_logger("offline")
    # For all that the command writes, not only for the erasures.
    await stack.enter_async_context(disk_reserve(settings).released_if_full())
    log = await open_log(
        database.place, log_options(settings), observe=LogMetrics(metrics, logger), program=__version__
    )
    stack.push_async_callback(log.close)
    path = None if database.is_postgres else database.projections
    if path is not None:  # files of other workers would keep erased data until they are used
        await asyncio.to_thread(delete_unused, path, [path])
    options = RunnerOptions(batch_max=database.projection_batch_max)
    runner = create_projections(path, log, projection_observer, options)
    await runner.start()
    stack.push_async_callback(runner.stop)
    ports = Ports(
        log=log,
        runner=runner,
        queries=runner.queries,
        provider=provider,
        limiter=ConcurrencyLimiter(1, 1),
        rules=replace(rules(settings), provider=provider.name, model=provider.model, retry_interrupted=0),
        limits=replace(limits(settings), live_max=OFFLINE_LIVE_MAX, ask_timeout_s=OFFLINE_ASK_TIMEOUT_S),
        feeds=ChannelRegistry(),
        texts=TextCache(log, 0),
        cluster=ReadOnlyMember() if log.is_shared else SingleNode(),
        observer=SessionMetrics(metrics, logger),
        clock=now_us,
        timer=time.monotonic,
        logger=structlog.get_logger("sessions"),
        holds=HoldRegistry(log),
    )
    supervisor = Supervisor(ports)
    stack.push_async_callback(supervisor.close)
    return ports, supervisor, SessionQueries(ports, supervisor.ask)
