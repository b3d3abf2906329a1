"""The writer process: owns the write side of the log and its projections, and serves them to the workers.

It serves no clients and calls no model. Its master starts it before the workers, restarts it when it ends or when its
event loop does not report any more, and stops it after them.
"""

import asyncio
import os
import signal
import socket
from contextlib import AsyncExitStack
from functools import partial

import structlog
from msgspec.structs import replace

from chatbot import __version__
from chatbot.config.settings import Settings
from chatbot.observability.log_writer import LogWriter
from chatbot.observability.logging_setup import name_process
from chatbot.observability.loop_lag import measure_loop_lag
from chatbot.observability.metric_families import encode, families_of
from chatbot.observability.metrics import LogMetrics, Metrics, ProjectionMetrics
from chatbot.runtime.background_tasks import run_in_background
from chatbot.runtime.gc_tuning import freeze_heap
from chatbot.runtime.stop_signals import handle_stop_signals
from chatbot.workers.control_channel import ControlChannel, WriterStatus, encoded_version
from chatbot.workers.inherited_fds import InheritedFds, WriterFds, keep_private
from chatbot.writer.checked_log import check_can_take_over, open_checked_log
from chatbot.writer.database_check import check_same_database
from chatbot.writer.storage_options import METRICS_REQUEST, runner_options
from chatbot.writer.unused_projections import delete_unused_files
from events.log import EventLog
from events.remote.append_server import AppendServer
from events.remote.remote_client import RemoteClient
from events.remote.shared_positions import SharedPositions
from events.storage.sqlite.sqlite_log import SqliteLog
from projections.factory import create_runner
from projections.runner import ProjectionRunner
from projections.shared.projection_publisher import ProjectionPublisher
from projections.shared.shared_progress import SharedProgress

# Of the log, the projections and the process; the others are of what only workers do.
METRICS_PREFIXES = (
    "chatbot_append",
    "chatbot_build_info",
    "chatbot_commit",
    "chatbot_erasure_pending",
    "chatbot_log_files_lost",
    "chatbot_log_lines_dropped",
    "chatbot_loop_lag",
    "chatbot_project",
    "process_",
    "python_",
)
REPORTS_PER_SILENCE = 8  # reports to the master within the time after which it kills a silent writer
ORPHAN_POLL_S = 0.1  # between two looks whether the workers of a killed master have ended
ORPHAN_SLACK_S = 15.0  # after the bounds of their own shutdown


class WriterService:
    """To be created inside the event loop."""

    def __init__(self, settings: Settings, inheritance: InheritedFds, log_writer: LogWriter) -> None:
        """Raises ValueError if the descriptors are not a writer's."""
        if inheritance.writer is None:
            raise ValueError("the master has passed no socket for a writer")
        keep_private(inheritance)
        name_process(process="writer")
        self._settings = settings
        self._log_writer = log_writer
        self._fds: WriterFds = inheritance.writer
        self._stop = asyncio.Event()
        self._control = ControlChannel(inheritance.control, self._stop)
        self._metrics = Metrics(__version__)
        self._log_metrics = LogMetrics(self._metrics, structlog.get_logger("log"))
        self._logger = structlog.get_logger("run")

    async def run(self) -> None:
        """Serve until told to stop. Raises LogUnusable, ProjectionError."""
        # Only the master reloads, even if a terminal's hang-up reaches all processes.
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, lambda: None)
        handle_stop_signals(self._stop, lambda: os._exit(1), self._logger)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(run_in_background(self._control.run(), "control"))
            await stack.enter_async_context(run_in_background(self._report_periodically(), "reports"))
            await self._control.is_connected.wait()
            try:
                check_same_database(self._settings, self._fds)
                if self._fds.is_successor:
                    await check_can_take_over(self._settings)
                self._control.report(WriterStatus(loaded=True))
                if not await self._wait_for_order_to_open():
                    return
                server = await self._open(stack)
            except Exception as error:
                self._control.report(WriterStatus(fault=str(error) or type(error).__name__))
                raise
            freeze_heap()
            lag_task = measure_loop_lag(self._metrics.loop_lag, structlog.get_logger("loop"))
            await stack.enter_async_context(run_in_background(lag_task, "loop-lag"))
            self._control.report(WriterStatus(ready=True, version=encoded_version()))
            self._logger.info("writer.ready", pid=os.getpid())
            await self._stop.wait()
            if self._control.is_orphan:
                await self._wait_for_workers(server)
        self._logger.info("writer.closed")

    async def _wait_for_order_to_open(self) -> bool:
        """Wait until no other process has the log open. False: told to stop instead."""
        waits = [asyncio.create_task(event.wait()) for event in (self._control.open, self._stop)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waits:
                one.cancel()
        return not self._stop.is_set()

    async def _report_periodically(self) -> None:
        interval_s = self._fds.silent_s / REPORTS_PER_SILENCE  # of the master's settings, which may be older
        while True:
            self._control.report(WriterStatus())
            await asyncio.sleep(interval_s)

    async def _open(self, stack: AsyncExitStack) -> AppendServer:
        """Open the log and the projections, and serve them; closed in the reverse order."""
        checked = open_checked_log(self._settings, self._log_metrics, owner=os.getppid())  # the master is to be stopped
        log = await stack.enter_async_context(checked)
        if not isinstance(log, SqliteLog):
            raise TypeError("a log in PostgreSQL has no writer process")
        progress = SharedProgress(self._fds.progress)
        runner, publisher = await self._create_projections(log, progress)
        listener = socket.socket(fileno=self._fds.listener)
        server = AppendServer(
            log,
            listener,
            SharedPositions(self._fds.positions),
            handlers={**publisher.handlers, METRICS_REQUEST: partial(self._collect_metrics, log)},
            program=__version__,
            observe=self._log_metrics,
        )
        server.on_client_closed.append(publisher.forget)
        await runner.start()
        stack.push_async_callback(runner.stop)
        await server.start()
        stack.push_async_callback(server.close)
        return server

    async def _create_projections(
        self, log: SqliteLog, progress: SharedProgress
    ) -> tuple[ProjectionRunner, ProjectionPublisher]:
        path = self._settings.database.projections
        await delete_unused_files(path)
        observer = ProjectionMetrics(self._metrics, structlog.get_logger("projections"))
        # Workers of a previous writer are served from the start.
        options = replace(runner_options(self._settings), is_serving=progress.generation > 0)
        runner = create_runner(path, log, observer, options, progress.set_available)
        return runner, ProjectionPublisher(runner, progress)

    async def _wait_for_workers(self, server: AppendServer) -> None:
        """After the end of the master: serve until the workers have ended, which drain now."""
        server_settings = self._settings.server
        bound_s = server_settings.drain_pause_s + server_settings.drain_grace_s + server_settings.stream_close_timeout_s
        loop = asyncio.get_running_loop()
        end_s = loop.time() + bound_s + ORPHAN_SLACK_S
        while server.clients and loop.time() < end_s:  # noqa: ASYNC110  looked at once in the life of a writer
            await asyncio.sleep(ORPHAN_POLL_S)

    async def _collect_metrics(self, log: EventLog, _client: RemoteClient, _body: bytes) -> bytes:
        self._metrics.oldest_append(log.oldest_append_s)
        self._metrics.erasure_pending(pending=bool(self._log_metrics.incomplete_erasures))  # as found at the start
        self._metrics.log_lines_dropped(self._log_writer.dropped)
        families = await asyncio.to_thread(families_of, self._metrics.registry)
        return encode(tuple(one for one in families if one.name.startswith(METRICS_PREFIXES)))
