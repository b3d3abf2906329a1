"""The master's supervision of the writer process: starts it, restarts it when it ends or hangs, and replaces it."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import structlog
from msgspec import Struct

from chatbot.runtime.backoff import Backoff
from chatbot.workers.control_channel import ControlMessage
from chatbot.workers.restart_policy import RestartPolicy
from chatbot.workers.shared_resources import SharedResources
from chatbot.workers.worker_process import WriterProcess

CONFIGURATION_EXIT_CODES = range(2, 6)  # wrong settings, database, address or model: see --help
DATABASE_EXIT_CODE = 3
RESTART_BACKOFF = Backoff(first_s=0.1, max_s=5.0)  # of one that keeps failing: workers wait for it as long as that
LOAD_MAX_S = 60.0  # from the start of a process to its first report: it imports the program
CLOSE_MAX_S = 10.0  # for the batch at hand and the closing of the files, before a writer that does not end is killed
CHECKS = 4  # of the writer's reports within the time for which it may be silent


class _Running(Struct, frozen=True):
    process: WriterProcess
    ended: asyncio.Task[int]  # the exit code


class WriterSupervisor:
    """Keeps one writer over the log. `fault`: why none serves now; `version` is what the last one reads; `exit_code` is
    set when the first one could not start, for a reason that a retry does not cure.

    The processes of workers wait for a writer that is being replaced; the socket is the master's.
    """

    def __init__(
        self, command: Sequence[str], shared: SharedResources, silent_max_s: float, on_changed: Callable[[], None]
    ) -> None:
        self.fault = ""
        self.version = ""
        self.restarts = 0
        self.exit_code: int | None = None
        self._command = command
        self._shared = shared
        self._silent_max_s = silent_max_s
        self._on_changed = on_changed
        self._logger = structlog.get_logger("master")
        self._current: _Running | None = None
        self._successor: _Running | None = None
        self._has_served = False
        self._is_ending = False
        self._wake = asyncio.Event()  # ends the pause before a restart

    @property
    def is_serving(self) -> bool:
        """Whether a writer has opened the log and not ended."""
        running = self._current
        return running is not None and running.process.ready.is_set() and not running.ended.done()

    async def run(self) -> None:
        """Keep a writer running. Returns after `end`, and when `exit_code` is set."""
        policy = RestartPolicy(RESTART_BACKOFF)
        while not self._is_ending:
            started_s = time.monotonic()
            process, code, fault = await self._run_one()
            was_ready = process is not None and process.ready.is_set()
            if self._is_ending or (process is not None and process.is_leaving):
                continue
            policy.note_end(time.monotonic() - started_s, was_ready=was_ready)
            if not self._has_served and (code in CONFIGURATION_EXIT_CODES or policy.is_exhausted):
                self.exit_code = code if code > 0 else 1
                self._on_changed()
                return
            self.restarts += 1
            self.fault = fault or f"the writer process ended with code {code}"
            pause_s = policy.pause_s
            self._logger.error("writer.ended", code=code, reason=fault, again_in_s=pause_s)
            self._on_changed()
            await self._pause(pause_s)

    async def _pause(self, seconds: float) -> None:
        self._wake.clear()
        if self._successor is None and not self._is_ending:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._wake.wait()

    async def _run_one(self) -> tuple[WriterProcess | None, int, str]:
        """Run one writer until it ends. Returns it, its exit code and the reason that it gave."""
        running, self._successor = self._successor, None
        if running is None:
            try:
                running = await self._start()
            except OSError as error:
                self._logger.exception("writer.not_started", reason=str(error))
                return None, 1, str(error)
        self._current = running
        if self._is_ending:
            running.process.send_message(ControlMessage(drain=True))
        elif self._successor is not None:  # it was loaded while this one was started, which has opened nothing yet
            running.process.is_leaving = True
            running.process.kill()
        watching = asyncio.create_task(self._watch(running.process), name="writer-watch")
        code = await asyncio.shield(running.ended)
        watching.cancel()
        await asyncio.wait([watching])
        self._current = None
        return running.process, code, running.process.fault

    async def _start(self, *, is_successor: bool = False) -> _Running:
        inheritance = self._shared.for_writer(is_successor=is_successor)
        process = await WriterProcess.start(self._command, inheritance, self._logger)
        return _Running(process, asyncio.create_task(process.wait_until_ended(), name="writer-ended"))

    async def _watch(self, process: WriterProcess) -> None:
        """Have the writer open the log, announce it, and kill it if its event loop does not run any more."""
        try:
            async with asyncio.timeout(LOAD_MAX_S):
                await process.loaded.wait()
        except TimeoutError:
            self._kill_silent(process, LOAD_MAX_S)
            return
        process.send_message(ControlMessage(open=True))
        announcing = asyncio.create_task(self._announce(process), name="writer-announce")
        try:
            await self._wait_until_silent(process)
        finally:
            announcing.cancel()
        self._kill_silent(process, self._silent_max_s)

    async def _announce(self, process: WriterProcess) -> None:
        await process.ready.wait()
        self._has_served = True
        self.fault, self.version = "", process.version
        self._on_changed()

    async def _wait_until_silent(self, process: WriterProcess) -> None:
        """Return when several checks in a row have seen no report. Counts checks and not time: a master that was
        stopped itself, or got no processor, must not hold that against the writer.
        """
        silent = 0
        while silent < CHECKS:
            process.has_reported = False
            await asyncio.sleep(self._silent_max_s / CHECKS)
            silent = 0 if process.has_reported else silent + 1

    def _kill_silent(self, process: WriterProcess, after_s: float) -> None:
        self._logger.error("writer.killed", pid=process.pid, silent_s=after_s)
        process.fault = process.fault or f"the writer process did not answer for {after_s:g} s"
        process.kill()

    async def replace(self) -> bool:
        """Replace the writer by a new process, which is loaded and has checked what it can before the old one closes
        the log: appends wait meanwhile. Returns whether the new one serves; if it ends before, the old one goes on.
        """
        try:
            successor = await self._start(is_successor=True)
        except OSError as error:
            self._logger.exception("writer.not_started", reason=str(error))
            return False
        try:
            is_loaded = await _is_set_before_end(successor.process.loaded, successor, LOAD_MAX_S)
        except asyncio.CancelledError:  # the service stops
            successor.process.kill()
            raise
        if not is_loaded:
            successor.process.kill()
            code = await successor.ended
            self._logger.error("writer.not_replaced", code=code, reason=successor.process.fault)
            return False
        self._successor = successor  # taken by `run` once no other runs
        self._wake.set()
        if self._current is not None:
            await self._close(self._current)
        if await _is_set_before_end(successor.process.ready, successor, None):
            return True
        # The old one was of a program and settings that may be gone: `run` goes on to start new ones.
        self._logger.critical(
            "writer.lost", reason=successor.process.fault, effect="nothing is recorded until a writer can start"
        )
        return False

    async def end(self) -> None:
        """End the writer, after everything that was submitted is written."""
        self._is_ending = True
        self._wake.set()
        if self._successor is not None:
            self._successor.process.kill()  # it has opened nothing
        if self._current is not None:
            await self._close(self._current)

    async def _close(self, running: _Running) -> None:
        running.process.is_leaving = True
        running.process.send_message(ControlMessage(drain=True))
        _, late = await asyncio.wait([running.ended], timeout=CLOSE_MAX_S)
        if late:
            self._logger.error("writer.killed", pid=running.process.pid, after_s=CLOSE_MAX_S)
            running.process.kill()
            await asyncio.wait([running.ended])

    def kill(self) -> None:
        """End all writers immediately."""
        for running in (self._current, self._successor):
            if running is not None:
                running.process.kill()


async def _is_set_before_end(event: asyncio.Event, running: _Running, timeout_s: float | None) -> bool:
    waiting = asyncio.create_task(event.wait())
    try:
        await asyncio.wait({waiting, running.ended}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    return event.is_set() and not running.ended.done()
