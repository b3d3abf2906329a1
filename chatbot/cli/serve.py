"""`chatbot serve`: start, run until a signal, and graceful shutdown."""

import asyncio
import os
from collections.abc import Sequence
from contextlib import AsyncExitStack

import structlog

from chatbot.anchors.anchor_factory import AnchorsUnusable
from chatbot.api.app import build_app, listen
from chatbot.api.server.shutdown import drain, hand_over
from chatbot.cli.exit_codes import ExitCode, fail
from chatbot.cli.remedies import with_remedy
from chatbot.cli.startup import start_up, warn_of_risks
from chatbot.config.loader import Configuration
from chatbot.config.settings import Settings
from chatbot.llm.providers.embedded_process import EmbeddedMissing
from chatbot.observability.log_writer import LogWriter
from chatbot.observability.logging_setup import background_logging, name_process
from chatbot.observability.loop_lag import measure_loop_lag
from chatbot.runtime.background_tasks import cancel_and_wait, run_in_background
from chatbot.runtime.event_loop import loop_factory
from chatbot.runtime.gc_tuning import freeze_heap
from chatbot.runtime.service_manager import SystemdNotifier, take_systemd_notifier
from chatbot.runtime.stop_signals import handle_stop_signals
from chatbot.sessions.owner_check import KeysMissing
from chatbot.wiring import compose
from chatbot.workers.inherited_fds import InheritedFds
from chatbot.workers.master import supervise
from chatbot.workers.server_sockets import CannotListen, bind_sockets
from chatbot.workers.worker import Worker, worker_settings
from events.errors import LogUnusable
from projections.errors import ProjectionError


def serve(configuration: Configuration, inheritance: InheritedFds | None, command: Sequence[str]) -> int:
    """Serve until a signal, as a single process, as the master of several workers, or as a worker. Returns the exit
    code. `inheritance` is what a worker has from its master, `command` the command line that starts one.
    """
    settings = worker_settings(configuration.settings, inheritance)
    with background_logging(settings.logging.level, settings.logging.format) as stderr:
        manager = take_systemd_notifier(structlog.get_logger("run"))
        try:
            if inheritance is None:
                structlog.get_logger("run").info("settings.read", files=[str(file) for file in configuration.files])
                for sentence in configuration.renamed:
                    structlog.get_logger("run").warning("settings.renamed", advice=sentence)
                warn_of_risks(settings, structlog.get_logger("run"))
            if inheritance is None and settings.server.workers > 1:
                return supervise(command, settings, manager)
            with asyncio.Runner(loop_factory=loop_factory()) as runner:
                runner.run(serve_until_signal(settings, inheritance, stderr, manager))
        except (LogUnusable, ProjectionError) as error:
            return fail(ExitCode.DATABASE, with_remedy(error), stderr)
        except (KeysMissing, AnchorsUnusable) as error:
            return fail(ExitCode.USAGE, str(error), stderr)
        except EmbeddedMissing as error:
            return fail(ExitCode.MODEL, str(error), stderr)
        except CannotListen as error:
            return fail(ExitCode.LISTEN, str(error), stderr)
        except OSError as error:
            return fail(ExitCode.FAILED, f"the service cannot go on: {error}", stderr)
        except Exception as error:  # noqa: BLE001  logged by the writer thread: a reader that stalls must not block the exit
            structlog.get_logger("run").critical("service.failed", error=type(error).__name__, exc_info=True)
            return ExitCode.FAULT
    return 0


async def serve_until_signal(
    settings: Settings, inheritance: InheritedFds | None, stderr: LogWriter, manager: SystemdNotifier
) -> None:
    """Start, notify `manager` (systemd), wait for a signal, then drain in named stages.

    A worker has a manager that does nothing: its master notifies systemd.
    """
    logger = structlog.get_logger("run")
    stop = asyncio.Event()
    handle_stop_signals(stop, lambda: os._exit(ExitCode.INTERRUPTED), logger, hangup=inheritance is None)
    worker = None if inheritance is None else Worker(inheritance, stop)
    if worker is not None:
        name_process(worker=worker.slot)
    async with AsyncExitStack() as stack:
        # First, so that a port in use leaves no trace of a start.
        bound = worker.listeners if worker else bind_sockets(settings.server.host, settings.server.port)
        for one in bound:
            stack.enter_context(one)
        services = await compose(settings, stack, worker, stderr)
        listener, url = await listen(build_app(services), bound, worker.share if worker else None)
        stack.push_async_callback(listener.cleanup)
        starting = asyncio.create_task(start_up(services, url, worker))
        stopping = asyncio.create_task(worker.wait_until_told_to_leave() if worker else stop.wait())
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()  # raises what stopped the start
            freeze_heap()
            manager.ready()
        lag_task = measure_loop_lag(services.metrics.loop_lag, structlog.get_logger("loop"))
        # Not earlier: blocking during the start delays no request.
        await stack.enter_async_context(run_in_background(lag_task, "loop-lag"))
        await stopping
        await cancel_and_wait(starting)
        manager.stopping()
        if stop.is_set():
            await drain(services)
        else:
            await hand_over(services, listener, stop)
        logger.info("drain.listener", grace_s=settings.server.stream_close_timeout_s)
    logger.info("drain.done")
