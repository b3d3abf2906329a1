"""`chatbot serve`: the service's life, from its start until a signal ends it."""

import asyncio
import os
from collections.abc import Sequence
from contextlib import AsyncExitStack

import structlog

from chatbot.api.app import build_app, listen
from chatbot.api.draining import drain, retire
from chatbot.background import background, cancelled
from chatbot.cli.exit import (
    EXIT_AT_ONCE,
    EXIT_DATABASE,
    EXIT_FAILED,
    EXIT_FAULT,
    EXIT_LISTEN,
    EXIT_MODEL,
    EXIT_SETTINGS,
    fail,
)
from chatbot.collector import settle
from chatbot.config.load import Configuration
from chatbot.config.settings import Settings
from chatbot.event_loop import loop_factory
from chatbot.llm.embedded_process import EmbeddedMissing
from chatbot.log_file import warn_of_risks
from chatbot.log_writer import LogWriter
from chatbot.logs import background_logging
from chatbot.loop_lag import watch_loop
from chatbot.service_manager import ServiceManager, take_service_manager
from chatbot.sessions.owners import OwnersWithoutKeys
from chatbot.signals import catch_signals
from chatbot.startup import start_up
from chatbot.wiring import compose
from chatbot.workers.inheritance import Inheritance, take_inheritance
from chatbot.workers.listening import CannotListen, bind
from chatbot.workers.master import oversee
from chatbot.workers.worker import Worker, settings_of
from events.errors import LogUnusable
from projections.errors import ProjectionError


def serve(configuration: Configuration, command: Sequence[str]) -> int:
    """Serve until told to stop, alone, as the master of several workers, or as one of them. Returns the exit code.

    `command` starts a worker.
    """
    inheritance = take_inheritance()
    settings = settings_of(configuration.settings, inheritance)
    with background_logging(settings.logging.level, settings.logging.format) as stderr:
        manager = take_service_manager(structlog.get_logger("run"))
        try:
            if inheritance is None:
                structlog.get_logger("run").info("settings.read", files=[str(file) for file in configuration.files])
                warn_of_risks(settings, structlog.get_logger("run"))
            if inheritance is None and settings.server.workers > 1:
                return oversee(command, settings, manager)
            with asyncio.Runner(loop_factory=loop_factory()) as runner:
                runner.run(run(settings, inheritance, stderr, manager))
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


async def run(settings: Settings, inheritance: Inheritance | None, stderr: LogWriter, manager: ServiceManager) -> None:
    """The service's life: start, say so, wait for a signal, drain in named stages.

    `manager` is not notified by a worker: its master does that.
    """
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
            manager.ready()
        watching = watch_loop(services.metrics.loop_lag, structlog.get_logger("loop"))
        await stack.enter_async_context(background(watching, "loop-lag"))  # not before: nobody waits for a start
        await leaving
        await cancelled(starting)
        manager.stopping()
        if stop.is_set():
            await drain(services)
        else:
            await retire(services, listener, stop)
        logger.info("drain.listener", grace_s=settings.server.feeds_grace_s)
    logger.info("drain.done")
