"""The master process: supervises the workers, restarts those that end, and does rolling restarts and shutdown.

It serves no requests and opens no database. For a log in a file it supervises one process more, the writer, which
alone writes the log and the projections; it starts before the workers and ends after them. Each process reads the
settings again when it starts, except the address and the number of workers, which the master keeps.
"""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress

import structlog
from msgspec.structs import replace

from chatbot.config.settings import Settings
from chatbot.runtime.backoff import Backoff
from chatbot.runtime.service_manager import SystemdNotifier
from chatbot.runtime.stop_signals import handle_stop_signals
from chatbot.workers.control_channel import ControlMessage
from chatbot.workers.restart_policy import RestartPolicy
from chatbot.workers.shared_resources import SharedResources
from chatbot.workers.worker_process import WorkerProcess
from chatbot.workers.writer_supervisor import CONFIGURATION_EXIT_CODES, DATABASE_EXIT_CODE, WriterSupervisor

EXIT_INTERRUPTED = 130  # 128 + SIGINT
RESTART_BACKOFF = Backoff(first_s=0.1, max_s=30.0)  # of a worker that keeps failing
ROLL_READY_S = 600.0  # how long a new worker may take until it serves
END_SLACK_S = 10.0  # after its own timeouts, before a worker that does not end is killed


class Master:
    """Supervises workers in numbered slots; one slot is always free, for the successor of a worker in a rolling
    restart. `writer` is None if the log is in PostgreSQL.
    """

    def __init__(
        self, command: Sequence[str], settings: Settings, shared: SharedResources, manager: SystemdNotifier
    ) -> None:
        self._command = command
        self._settings = settings
        self._shared = shared
        self._manager = manager
        self._logger = structlog.get_logger("master")
        self._workers: dict[int, WorkerProcess] = {}  # by slot
        self._slot_tasks: dict[int, asyncio.Task[None]] = {}  # by slot
        self._retired_slots: set[int] = set()  # slots whose present worker has a successor
        self._stop = asyncio.Event()
        self._roll_wanted = asyncio.Event()
        self._workers_changed = asyncio.Event()  # a worker has become ready, or ended
        self._code = 0
        self._failure: BaseException | None = None  # of a task that keeps a process running
        self._restarts = 0
        self._writer: WriterSupervisor | None = None
        self._writer_task: asyncio.Task[None] | None = None
        if shared.has_writer:
            silent_max_s = settings.server.writer_silent_s
            self._writer = WriterSupervisor(command, shared, silent_max_s, self._writer_changed)

    async def run(self) -> int:
        """Serve until told to stop. Returns the exit code. Raises what a process could not even be started for."""
        self._catch_signals()
        serving_task = asyncio.create_task(self._serve(), name="master")
        stopping = asyncio.create_task(self._stop.wait())
        await asyncio.wait((serving_task, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        serving_task.cancel()
        with suppress(asyncio.CancelledError):
            await serving_task
        await self._end_all()
        if self._failure is not None:
            raise self._failure
        return self._code

    async def _serve(self) -> None:
        wanted = self._settings.server.workers
        if self._writer is not None and not await self._start_writer(self._writer):
            return
        url = self._shared.start_listening()
        self._start_slot(1)
        await self._wait_until(lambda: self._serving() >= 1)  # the first one finds configuration errors
        for slot in range(2, wanted + 1):
            self._start_slot(slot)
        await self._wait_until(lambda: self._serving() >= wanted)
        self._logger.info("server.ready", url=url, docs=f"{url}/docs", workers=wanted)
        self._manager.ready()
        while True:
            await self._roll_wanted.wait()
            self._roll_wanted.clear()
            self._manager.reloading()
            await self._roll()
            self._manager.ready()

    async def _start_writer(self, writer: WriterSupervisor) -> bool:
        """Start the writer, which finds errors of the database. Returns whether it serves."""
        self._writer_task = asyncio.create_task(writer.run(), name="writer")
        self._writer_task.add_done_callback(self._note_failure)
        await self._wait_until(lambda: writer.is_serving or writer.exit_code is not None)
        if writer.exit_code is not None:
            self._give_up(writer.exit_code)
        return writer.exit_code is None

    def _writer_changed(self) -> None:
        self._tell_siblings()
        self._workers_changed.set()

    def _catch_signals(self) -> None:
        handle_stop_signals(self._stop, self._quit_at_once, self._logger)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._roll_wanted.set)

    def _quit_at_once(self) -> None:
        for worker in self._workers.values():
            worker.kill()
        if self._writer is not None:
            self._writer.kill()
        self._shared.delete_socket()
        os._exit(EXIT_INTERRUPTED)

    def _serving(self) -> int:
        return sum(worker.ready.is_set() and not worker.is_leaving for worker in self._workers.values())

    async def _wait_until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._workers_changed.clear()
            await self._workers_changed.wait()

    # slots

    def _start_slot(self, slot: int, *, no_retry: bool = False) -> None:
        slot_task = asyncio.create_task(self._run_slot(slot, no_retry=no_retry), name=f"slot-{slot}")
        slot_task.add_done_callback(self._note_failure)
        self._slot_tasks[slot] = slot_task

    async def _run_slot(self, slot: int, *, no_retry: bool) -> None:
        """Keep a worker running in `slot` until it is told to leave. With `no_retry` its first start must succeed."""
        policy = RestartPolicy(RESTART_BACKOFF)
        while not self._stop.is_set() and slot not in self._retired_slots:
            started_s = time.monotonic()
            worker, code = await self._run_worker(slot)
            was_ready = worker is not None and worker.ready.is_set()
            if self._stop.is_set() or (no_retry and not was_ready) or (worker is not None and worker.is_leaving):
                return
            no_retry = False  # it became ready
            policy.note_end(time.monotonic() - started_s, was_ready=was_ready)
            is_final = self._is_final(code) or policy.is_exhausted
            if not self._serving() and not was_ready and is_final:
                self._give_up(code)
                return
            self._restarts += 1
            pause_s = policy.pause_s
            self._logger.error("worker.ended", worker=slot, code=code, again_in_s=pause_s)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._stop.wait()

    def _is_final(self, code: int) -> bool:
        """Whether a worker that ends with this code would do so again. Where there is a writer, that has opened the
        database: a worker that could not do so met a writer that hung.
        """
        return code in CONFIGURATION_EXIT_CODES and (self._writer is None or code != DATABASE_EXIT_CODE)

    async def _run_worker(self, slot: int) -> tuple[WorkerProcess | None, int]:
        """Start one worker and wait for its end. Returns it and its exit code; None if it could not be started."""
        try:
            worker = await WorkerProcess.start(self._command, self._shared.for_worker(slot), self._logger)
        except OSError as error:
            self._logger.exception("worker.not_started", worker=slot, reason=str(error))
            return None, 1
        self._workers[slot] = worker
        if self._stop.is_set() or slot in self._retired_slots:
            worker.send_message(ControlMessage(drain=True))
        announcing = asyncio.create_task(self._announce(worker))
        code = await worker.wait_until_ended()
        announcing.cancel()
        self._workers.pop(slot)
        self._shared.connection_counts.set_count(slot)  # a killed worker cannot do this itself
        self._tell_siblings()
        self._workers_changed.set()
        return worker, code

    async def _announce(self, worker: WorkerProcess) -> None:
        await worker.ready.wait()
        self._tell_siblings()
        self._workers_changed.set()

    def _tell_siblings(self) -> None:
        ready = {slot: worker for slot, worker in self._workers.items() if worker.ready.is_set()}
        serving = {slot: worker.node for slot, worker in ready.items()}
        versions = tuple(worker.version for worker in ready.values())
        message = ControlMessage(siblings=serving, versions=versions, restarts=self._restarts)
        if self._writer is not None:
            message = replace(
                message,
                versions=(*versions, self._writer.version),
                processes=len(versions) + 1,
                writer_restarts=self._writer.restarts,
                writer_fault=self._writer.fault,
            )
        for worker in self._workers.values():
            worker.send_message(message)

    def _note_failure(self, task: "asyncio.Task[None]") -> None:
        """End the service if this task failed: nothing else would start its process again, or say why it is missing."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failure = error
            self._logger.critical("workers.failed", task=task.get_name(), reason=f"{type(error).__name__}: {error}")
            self._stop.set()

    def _give_up(self, code: int) -> None:
        self._code = code if code > 0 else 1
        self._logger.critical("workers.failed", code=code)
        self._stop.set()

    # rolling restart

    async def _roll(self) -> None:
        """Replace the writer, then all workers one by one; stops at the first whose successor does not become ready.

        The writer first: one of a newer version serves older workers, but not the other way round.
        """
        self._logger.info("roll.started", workers=self._serving())
        if self._writer is not None and not await self._writer.replace():
            self._logger.error("roll.stopped", kept="writer")
            return
        for old in sorted(self._workers.values(), key=_slot):
            if self._workers.get(old.slot) is not old or not old.ready.is_set():
                continue  # it has ended, or has just been started: the one that follows is new
            if not await self._replace_worker(old):
                self._logger.error("roll.stopped", kept=old.slot)
                return
        self._logger.info("roll.done", workers=self._serving())

    async def _replace_worker(self, old: WorkerProcess) -> bool:
        """Start a successor of `old`, then retire `old`. Returns whether the successor serves."""
        taken = {number for number, slot_task in self._slot_tasks.items() if not slot_task.done()}
        slot = next(number for number in range(1, self._shared.slots + 1) if number not in taken)
        self._start_slot(slot, no_retry=True)
        slot_task = self._slot_tasks[slot]
        with suppress(TimeoutError):
            async with asyncio.timeout(ROLL_READY_S):
                await self._wait_until(lambda: slot_task.done() or self._is_ready(slot))
        if not self._is_ready(slot):
            if slot in self._workers:
                self._workers[slot].is_leaving = True
                self._workers[slot].kill()
                await asyncio.wait([slot_task])
            return False
        await self._retire_slot(old.slot)
        return True

    async def _retire_slot(self, slot: int) -> None:
        """Have the present worker of the slot leave: the one to be replaced may have ended and been restarted."""
        self._retired_slots.add(slot)
        leaving = self._workers.get(slot)
        if leaving is not None:
            leaving.is_leaving = True
            leaving.send_message(ControlMessage(retire=True))
        await self._wait_until_empty(
            self._settings.server.reload_grace_s + self._settings.server.stream_close_timeout_s, slot
        )
        self._retired_slots.discard(slot)

    def _is_ready(self, slot: int) -> bool:
        worker = self._workers.get(slot)
        return worker is not None and worker.ready.is_set()

    # shutdown

    async def _end_all(self) -> None:
        self._manager.stopping()
        self._logger.info("drain.workers", workers=len(self._workers))
        for worker in self._workers.values():
            worker.is_leaving = True
            worker.send_message(ControlMessage(drain=True))
        server = self._settings.server
        await self._wait_until_empty(
            server.drain_pause_s + server.drain_grace_s + server.stream_close_timeout_s, *self._slot_tasks
        )
        if self._writer is not None and self._writer_task is not None:
            await self._writer.end()  # last: the workers have recorded how their replies ended
            await asyncio.wait([self._writer_task])
        self._logger.info("drain.done")

    async def _wait_until_empty(self, bound_s: float, *slots: int) -> None:
        """Wait until these slots are empty; kill workers that take END_SLACK_S longer than `bound_s`."""
        slot_tasks = {self._slot_tasks[slot]: slot for slot in slots}
        if not slot_tasks:
            return
        _, late = await asyncio.wait(slot_tasks, timeout=bound_s + END_SLACK_S)
        for slot in (slot_tasks[slot_task] for slot_task in late):
            self._logger.error("worker.killed", worker=slot, after_s=bound_s + END_SLACK_S)
            if slot in self._workers:
                self._workers[slot].kill()
        if late:
            await asyncio.wait(late)


def _slot(worker: WorkerProcess) -> int:
    return worker.slot


def supervise(command: Sequence[str], settings: Settings, manager: SystemdNotifier) -> int:
    """Serve with several workers, each started by `command`. Returns the exit code.

    `manager` is notified when all of them serve, when they are replaced, and when they are stopped.

    Raises CannotListen for the address, OSError.
    """
    with ExitStack() as stack:
        shared = SharedResources(settings, stack)
        return asyncio.run(Master(command, settings, shared, manager).run())
