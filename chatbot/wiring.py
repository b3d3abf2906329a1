"""The one composition root: makes the parts of the service and connects them."""

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import structlog

from chatbot import __version__
from chatbot.api.app import accept_from
from chatbot.api.open_streams import OpenStreams
from chatbot.api.peers import build_peers_app
from chatbot.api.pouring import Pourer
from chatbot.api.services import Readiness, Services
from chatbot.background import background
from chatbot.config.settings import Settings
from chatbot.from_settings import embedded_options, limits, llm_options, log_options, reserve, rules, runner_options
from chatbot.ids import Ids
from chatbot.llm.create import create_provider
from chatbot.llm.gate import Gate
from chatbot.llm.health import HealthMonitor
from chatbot.log_writer import LogWriter
from chatbot.metrics import Metrics
from chatbot.nodes.membership import Membership
from chatbot.observers import ClockWatch, LogWatch, ProjectionWatch, SessionWatch
from chatbot.sessions.deadline_clock import open_deadline_clock
from chatbot.sessions.erasures import Erasures
from chatbot.sessions.expiry import ExpiryTimer
from chatbot.sessions.feeds import Feeds
from chatbot.sessions.nodes import Alone
from chatbot.sessions.owners import check_owners
from chatbot.sessions.ports import Ports
from chatbot.sessions.reading import Reader
from chatbot.sessions.recent_texts import RecentTexts
from chatbot.sessions.supervisor import Supervisor
from chatbot.workers.projection_files import prepare
from chatbot.workers.scrape import Scrape
from chatbot.workers.worker import Worker
from events.log import EventLog
from events.opening import now_us, open_log
from events.trust import check_tail
from projections.runner import ProjectionRunner


async def compose(
    settings: Settings, stack: AsyncExitStack, worker: Worker | None = None, stderr: LogWriter | None = None
) -> Services:
    """Put the parts together; `stack` takes them apart again, last first."""
    if worker is not None:
        await stack.enter_async_context(background(worker.control.run(), "control"))
    metrics = Metrics(__version__)
    log_watch = LogWatch(metrics, structlog.get_logger("log"))
    log = await stack.enter_async_context(opened_log(settings, log_watch, worker))
    projections_path = await prepare(settings.database.projections, log, worker.slot if worker else None)
    projections = ProjectionRunner(
        projections_path,
        log,
        ProjectionWatch(metrics, structlog.get_logger("projections")),
        runner_options(settings),
    )
    await projections.start()
    stack.push_async_callback(projections.stop)
    await check_owners(log, projections.queries, settings.auth)
    provider = create_provider(settings.llm.provider, llm_options(settings), embedded_options(settings))
    stack.push_async_callback(provider.close)
    feeds = Feeds()
    member = Membership(settings.nodes, log, feeds, metrics) if log.is_shared else None
    if member is not None:
        stack.push_async_callback(member.close)
    health = HealthMonitor(provider, settings.llm.health_interval_s, settings.llm.server_url)
    provider.observe(health.note)
    await stack.enter_async_context(background(health.run(), "health"))
    clock = await open_deadline_clock(log, ClockWatch(metrics, structlog.get_logger("clock")).jumped)
    ports = Ports(
        log=log,
        runner=projections,
        queries=projections.queries,
        provider=provider,
        gate=Gate(settings.llm.concurrent_max, settings.llm.queue_max),
        rules=rules(settings, member.name if member else None),
        limits=limits(settings),
        feeds=feeds,
        texts=RecentTexts(log, settings.database.text_cache_bytes),
        observe=SessionWatch(metrics, structlog.get_logger("sessions"), lambda: provider.models),
        clock=clock,
        timer=time.monotonic,
        logger=structlog.get_logger("sessions"),
        nodes=member.cluster if member else Alone(),
        reserve=await reserve(settings),
    )
    ids = Ids()
    supervisor = Supervisor(ports)
    stack.push_async_callback(supervisor.close)
    beside = member.work(ports, supervisor) if member else {}
    may_erase = partial(clock.is_consistent, settings.sessions.erase_after_consistent_hours)
    expiry = ExpiryTimer(ports, supervisor, settings.sessions.erase_expired_after_hours, may_erase)
    erasures = Erasures(ports, supervisor)
    for name, work_beside in {**beside, "expiry": expiry.run(), "erasures": erasures.run()}.items():
        await stack.enter_async_context(background(work_beside, name))
    services = Services(
        settings=settings,
        log=log,
        runner=projections,
        queries=projections.queries,
        supervisor=supervisor,
        expiry=expiry,
        erasures=erasures,
        reader=Reader(ports, supervisor),
        feeds=ports.feeds,
        nodes=ports.nodes,
        streams=OpenStreams(settings.stream.readers_max),
        pourer=Pourer(),
        metrics=metrics,
        readiness=Readiness(),
        health=health,
        provider=provider,
        gate=ports.gate,
        log_watch=log_watch,
        new_id=ids.uuid,
        new_token=ids.token,
        clock=now_us,
        logger=structlog.get_logger("api"),
        version=__version__,
        log_writer=stderr,
        scrape=Scrape(worker.slot, worker.control, member.samples, settings.nodes.probe_timeout_s)
        if worker and member
        else None,
    )
    if member is not None:
        listener = await accept_from(member.listener, build_peers_app(services, member.secret))
        stack.push_async_callback(listener.cleanup)
    return services


@asynccontextmanager
async def opened_log(settings: Settings, log_watch: LogWatch, worker: Worker | None) -> AsyncIterator[EventLog]:
    database, options = settings.database, log_options(settings)
    log = await open_log(
        database.place,
        options,
        clock=now_us,
        observe=log_watch,
        wakeups=worker.wakeups if worker else None,
        other_nodes=worker.control if worker else None,
        program=__version__,
    )
    try:
        log_watch.found_leftovers(await check_tail(log, database.shown if database.is_postgres else database.path))
        yield log
    finally:
        await log.close()
