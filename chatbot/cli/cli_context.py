"""Where the commands of the record work: a log to read, a place to say things, progress for long work."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from chatbot.config.settings import Settings
from chatbot.llm.provider import Provider
from chatbot.runtime.standard_streams import note, silence
from events.factory import open_log
from events.log import EventLog

TERMINAL_INTERVAL_S = 0.2  # on a terminal, where each line replaces the one before
EXIT_STOPPED = 130  # by Ctrl-C, as shells have it
NICENESS = 10  # of a command, where the system knows nothing better
FILE_INTERVAL_S = 5.0  # in a file, where lines stay


class CommandFailed(Exception):
    """The command cannot do what was asked; the sentence says why and what to do. `code` is the exit code."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


async def run_interruptible(work: Coroutine[Any, Any, int]) -> int:
    """`work`, which Ctrl-C cancels between two steps of the loop. A second Ctrl-C ends it at once.

    asyncio's own handler cancels at any instruction, also in the middle of a callback that is just setting a result.
    """
    _lower_priority()
    loop, task = asyncio.get_running_loop(), asyncio.ensure_future(work)

    def stop() -> None:
        loop.remove_signal_handler(signal.SIGINT)
        task.cancel()

    loop.add_signal_handler(signal.SIGINT, stop)
    try:
        return await task
    except asyncio.CancelledError:
        raise CommandFailed("stopped", EXIT_STOPPED) from None


def _lower_priority() -> None:
    """Let the service beside come first. A nice process keeps its core for 3 ms when the service wakes there; one of
    the idle class (Linux) gives it up at once.
    """
    with suppress(AttributeError, OSError):  # not Linux, or a sandbox that forbids it
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        return
    os.nice(NICENESS)


def print_result(text: str) -> None:
    """To standard output, whose reader (head, less) may have left. Raises CommandFailed where it cannot be written."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        silence(sys.stdout)
    except OSError as error:
        silence(sys.stdout)
        raise CommandFailed(f"cannot write to standard output: {error.strerror}") from error


class CommandContext:
    """`provider` makes the model server's client: from a URL, for "embedded", or, for None, as the settings say.

    Raises EmbeddedMissing.
    """

    def __init__(self, settings: Settings, provider: Callable[[str | None], Provider]) -> None:
        self.settings = settings
        self.provider = provider

    @property
    def log_name(self) -> Path | str:
        """The log's file, or what people call its database."""
        return self.settings.database.shown if self.settings.database.is_postgres else self.settings.database.path

    def file(self, instead: str) -> Path:
        """The log's file. Raises CommandFailed where it has none, which says what to do `instead`."""
        if self.settings.database.is_postgres:
            raise CommandFailed(f"DATABASE_URL names a PostgreSQL database, and this works on files: {instead}", 2)
        return self.settings.database.path

    @asynccontextmanager
    async def open_read_only(self, path: Path | None = None) -> AsyncIterator[EventLog]:
        """The log (or another file), to read only: beside a running server or on a copy. Raises LogUnusable."""
        log = await open_log(path or self.settings.database.place, read_only=True)
        try:
            yield log
        finally:
            await log.close()

    def print_result(self, text: str) -> None:
        """To standard output: the result."""
        print_result(text)

    def print_json(self, value: object) -> None:
        """As one line of JSON, for programs."""
        self.print_result(msgspec.json.encode(value).decode())

    def note(self, text: str) -> None:
        """To standard error: for people who watch, not part of the result."""
        note(text)


class ProgressBar:
    """A line on standard error: how much of `total`, how fast, how long it will still take."""

    def __init__(self, what: str, total: int, unit: str = "events") -> None:
        self._what = what
        self.total = total
        self._unit = unit
        self._began_s = self._shown_s = time.monotonic()
        self._is_terminal = sys.stderr.isatty()
        self._done = 0

    @property
    def rate(self) -> float:
        """Done per second, so far."""
        return self._done / max(time.monotonic() - self._began_s, 1e-9)

    def reach(self, done: int) -> None:
        """`done` of them, from the start; shown now and then."""
        self._done = done
        now_s = time.monotonic()
        if now_s - self._shown_s >= (TERMINAL_INTERVAL_S if self._is_terminal else FILE_INTERVAL_S):
            self._shown_s = now_s
            line, end = (f"\r{self}", "") if self._is_terminal else (str(self), "\n")
            note(line, end)

    def close(self) -> None:
        """Say how much was done and how fast, in place of the bar; in a file only where there was a bar."""
        seconds = time.monotonic() - self._began_s
        said = f"{self._what}: {self._done:,} {self._unit} in {seconds:.1f} s, {self.rate:,.0f} {self._unit}/s"
        if self._is_terminal:
            note(f"\r{' ' * len(str(self))}\r{said}")
        elif seconds >= FILE_INTERVAL_S:
            note(said)

    def __str__(self) -> str:
        share = self._done / self.total if self.total else 1.0
        left_s = max(0, self.total - self._done) / self.rate if self.rate else 0.0
        bar = "#" * round(20 * min(share, 1.0))
        pace = f"{self.rate:,.0f} {self._unit}/s, {left_s:,.0f} s left"
        return f"{self._what} [{bar:<20}] {share:4.0%} {self._done:,} of {self.total:,}, {pace}"
