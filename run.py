"""The one composition root and command line: `python run.py` serves."""

import argparse
import asyncio
import os
import sys
import time
import traceback
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import structlog
from msgspec.structs import replace

from chatbot import __version__
from chatbot.api.app import accept_from, build_app, listen
from chatbot.api.draining import drain, retire
from chatbot.api.open_streams import OpenStreams
from chatbot.api.peers import build_peers_app
from chatbot.api.pouring import Pourer
from chatbot.api.services import Readiness, Services
from chatbot.audit.desk import CommandFailed, Desk, attended, say
from chatbot.background import background, cancelled
from chatbot.collector import settle
from chatbot.command_line import COMMANDS, parse
from chatbot.config.load import ConfigError, Configuration, load
from chatbot.config.settings import Settings
from chatbot.config.show import show
from chatbot.event_loop import loop_factory
from chatbot.from_settings import embedded_options, limits, llm_options, log_options, reserve, rules, runner_options
from chatbot.ids import Ids
from chatbot.llm.create import create_provider
from chatbot.llm.embedded_process import EmbeddedMissing
from chatbot.llm.gate import Gate
from chatbot.llm.health import HealthMonitor
from chatbot.llm.protocol import Provider
from chatbot.log_file import warn_of_risks
from chatbot.log_writer import LogWriter
from chatbot.logs import background_logging, setup_logging
from chatbot.loop_lag import watch_loop
from chatbot.metrics import Metrics
from chatbot.nodes.membership import Membership
from chatbot.observers import ClockWatch, LogWatch, ProjectionWatch, SessionWatch
from chatbot.reload import run_reloading
from chatbot.sessions.deadline_clock import open_deadline_clock
from chatbot.sessions.erasures import Erasures
from chatbot.sessions.expiry import ExpiryTimer
from chatbot.sessions.feeds import Feeds
from chatbot.sessions.nodes import Alone
from chatbot.sessions.owners import OwnersWithoutKeys, check_owners
from chatbot.sessions.ports import Ports
from chatbot.sessions.reading import Reader
from chatbot.sessions.recent_texts import RecentTexts
from chatbot.sessions.supervisor import Supervisor
from chatbot.signals import catch_signals
from chatbot.standard_streams import STDOUT, flush_streams, note, open_closed_streams
from chatbot.startup import start_up
from chatbot.utf8 import use_utf8
from chatbot.workers.inheritance import Inheritance, take_inheritance
from chatbot.workers.listening import CannotListen, bind
from chatbot.workers.master import oversee
from chatbot.workers.projection_files import prepare
from chatbot.workers.scrape import Scrape
from chatbot.workers.worker import Worker, settings_of
from events.errors import LogError, LogUnusable
from events.log import EventLog
from events.opening import now_us, open_log
from events.trust import check_tail
from projections.errors import ProjectionError
from projections.runner import ProjectionRunner

EXIT_FAILED, EXIT_SETTINGS, EXIT_DATABASE, EXIT_LISTEN, EXIT_MODEL, EXIT_FAULT, EXIT_AT_ONCE = 1, 2, 3, 4, 5, 70, 130
ROOT = Path(__file__).resolve().parent


def main(arguments: list[str]) -> int:
    try:
        return _main(arguments)
    except CommandFailed as error:
        return fail(error.code, str(error))
    finally:
        flush_streams()


def _main(arguments: list[str]) -> int:
    closed = open_closed_streams()
    options = parse(arguments, __version__)
    if STDOUT in closed and options.command != "serve":
        return fail(EXIT_SETTINGS, "standard output is closed: the result has nowhere to go")
    if options.reload and options.command == "serve":
        if options.workers is not None:
            return fail(EXIT_SETTINGS, "--reload is for development and serves with one process: leave out --workers")
        return run_reloading(ROOT, [*(one for one in arguments if one != "--reload"), "--workers", "1"])
    try:
        given = {"host": options.host, "port": options.port, "workers": options.workers, "config": options.config}
        configuration = load(given, program=ROOT)
    except ConfigError as error:
        return fail(EXIT_SETTINGS, str(error))
    if options.command == "config":
        say(show(configuration))
        return 0
    if options.command in COMMANDS:
        return work(options, configuration.settings)
    return serve(configuration, arguments)


def work(options: argparse.Namespace, settings: Settings) -> int:
    """A command of the record, beside a running server or on a copied file. Returns the exit code."""
    setup_logging(settings.logging.level, settings.logging.format)

    def provider(url: str | None) -> Provider:
        wanted = llm_options(settings)
        if url == "embedded":
            return create_provider("embedded", replace(wanted, server_url="", model=""), embedded_options(settings))
        # The settings' key is for the settings' server: no other gets to see it.
        named = wanted if url is None else replace(wanted, server_url=url, model="", api_key="")
        return create_provider("auto" if url else settings.llm.provider, named, embedded_options(settings))

    try:
        return asyncio.run(attended(COMMANDS[options.command].run(Desk(settings, provider), options)))
    except CommandFailed as error:
        return fail(error.code, str(error))
    except (LogError, OSError) as error:
        return fail(EXIT_DATABASE, str(error))
    except EmbeddedMissing as error:
        return fail(EXIT_MODEL, str(error))
    except KeyboardInterrupt:
        return fail(EXIT_AT_ONCE, "stopped")
    except Exception as error:  # noqa: BLE001  Python would exit with 1, which has a meaning in most commands
        traceback.print_exc()
        return fail(EXIT_FAULT, f"a fault of this program: {type(error).__name__}")


def fail(code: int, message: str, stream: LogWriter | None = None) -> int:
    if stream is None:
        note(f"error: {message}")
    else:
        stream.write(f"error: {message}\n")
    return code


def serve(configuration: Configuration, arguments: list[str]) -> int:
    """Serve until told to stop, alone, as the master of several workers, or as one of them. Returns the exit code."""
    inheritance = take_inheritance()
    settings = settings_of(configuration.settings, inheritance)
    with background_logging(settings.logging.level, settings.logging.format) as stderr:
        try:
            if inheritance is None:
                structlog.get_logger("run").info("settings.read", files=[str(file) for file in configuration.files])
                warn_of_risks(settings, structlog.get_logger("run"))
            if inheritance is None and settings.server.workers > 1:
                return oversee([sys.executable, str(ROOT / "run.py"), *arguments], settings)
            with asyncio.Runner(loop_factory=loop_factory()) as runner:
                runner.run(run(settings, inheritance, stderr))
        except (LogUnusable, ProjectionError) as error:
            return fail(EXIT_DATABASE, str(error), stderr)
        except OwnersWithoutKeys as error:
            return fail(EXIT_SETTINGS, str(error), stderr)
        except EmbeddedMissing as error:
            return fail(EXIT_MODEL, str(error), stderr)
        except CannotListen as error:
            return fail(EXIT_LISTEN, str(error), stderr)
        except OSError as error:
            return fail(EXIT_FAILED, f"the service cannot go on: {error}", stderr)
        except Exception as error:  # noqa: BLE001  logged through the thread: whoever reads no logs must not hang it
            structlog.get_logger("run").critical("service.failed", error=type(error).__name__, exc_info=True)
            return EXIT_FAULT
    return 0


async def run(settings: Settings, inheritance: Inheritance | None, stderr: LogWriter) -> None:
    """The service's life: start, say so, wait for a signal, drain in named stages."""
    logger = structlog.get_logger("run")
    stop = asyncio.Event()
    catch_signals(stop, lambda: os._exit(EXIT_AT_ONCE), logger, hangup=inheritance is None)
    worker = None if inheritance is None else Worker(inheritance, stop)
    async with AsyncExitStack() as stack:
        # First: a port that is taken must leave no trace of a start.
        bound = worker.listeners if worker else bind(settings.server.host, settings.server.port)
        for one in bound:
            stack.enter_context(one)
        services = await compose(settings, stack, worker, stderr)
        listener, url = await listen(build_app(services), bound, worker.share if worker else None)
        stack.push_async_callback(listener.cleanup)
        starting = asyncio.create_task(start_up(services, url, worker))
        leaving = asyncio.create_task(worker.told_to_leave() if worker else stop.wait())
        await asyncio.wait((starting, leaving), return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()  # raises what stopped the start
            settle()
        watching = watch_loop(services.metrics.loop_lag, structlog.get_logger("loop"))
        await stack.enter_async_context(background(watching, "loop-lag"))  # not before: nobody waits for a start
        await leaving
        await cancelled(starting)
        if stop.is_set():
            await drain(services)
        else:
            await retire(services, listener, stop)
        logger.info("drain.listener", grace_s=settings.server.feeds_grace_s)
    logger.info("drain.done")


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


if __name__ == "__main__":
    use_utf8()
    sys.exit(main(sys.argv[1:]))
