"""The context of a command: settings, the log opened read-only, standard output and standard error, and Ctrl-C.

`chatbot/cli/command_runner.py` passes in the functions that open a log and compose the sessions, so commands import
neither a store nor the composition root.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from chatbot.cli.exit_codes import CommandFailed, ExitCode, UsageError
from chatbot.config.settings import Settings
from chatbot.llm.provider import Provider
from chatbot.runtime.standard_streams import discard_output, print_to_stderr

if TYPE_CHECKING:  # few commands need more than the log
    from chatbot.observability.metrics import Metrics
    from chatbot.sessions.ports import LiveSessions, Ports
    from chatbot.sessions.session_queries import SessionQueries
    from events.log import EventLog
    from projections.observer import ProjectionObserver

NICENESS = 10  # of a command, on systems without SCHED_IDLE


class OpenLog(Protocol):
    """`events.factory.open_log`."""

    async def __call__(self, place: Path | str, *, read_only: bool) -> "EventLog": ...


class ComposeOffline(Protocol):
    """`chatbot.wiring.compose_offline`."""

    async def __call__(
        self,
        settings: Settings,
        stack: AsyncExitStack,
        provider: Provider,
        metrics: "Metrics",
        projection_observer: "ProjectionObserver",
    ) -> "tuple[Ports, LiveSessions, SessionQueries]": ...


async def run_interruptible(command: Coroutine[Any, Any, int]) -> int:
    """Run `command`, which Ctrl-C cancels between two steps of the loop. A second Ctrl-C ends the process immediately.

    asyncio's own handler cancels at any instruction, also in the middle of a callback that is just setting a result.
    Raises CommandFailed (exit code 130) when interrupted.
    """
    _lower_priority()
    loop, task = asyncio.get_running_loop(), asyncio.ensure_future(command)

    def stop() -> None:
        loop.remove_signal_handler(signal.SIGINT)
        task.cancel()

    loop.add_signal_handler(signal.SIGINT, stop)
    try:
        return await task
    except asyncio.CancelledError:
        raise CommandFailed("stopped", ExitCode.INTERRUPTED) from None


def _lower_priority() -> None:
    """Give the service on this machine precedence. A nice process keeps its core for 3 ms when the service wakes up
    there; one of the scheduling class SCHED_IDLE (Linux) gives it up immediately.
    """
    with suppress(AttributeError, OSError):  # not Linux, or a sandbox that forbids it
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        return
    os.nice(NICENESS)


def print_result(text: str) -> None:
    """Print to standard output. A reader that has closed it (head, less) is no fault.

    Raises CommandFailed where it cannot be written.
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:
        discard_output(sys.stdout)
    except OSError as error:
        discard_output(sys.stdout)
        raise CommandFailed(f"cannot write to standard output: {error.strerror}") from error


class CommandContext:
    """`provider` creates the client of a model server: the one at a URL, "embedded", or None: the configured one.

    It raises EmbeddedMissing.
    """

    def __init__(
        self,
        settings: Settings,
        provider: Callable[[str | None], Provider],
        open_log: OpenLog,
        compose_offline: ComposeOffline,
    ) -> None:
        self.settings = settings
        self.provider = provider
        self.open_log = open_log
        self.compose_offline = compose_offline

    @property
    def log_name(self) -> Path | str:
        """The log's file, or the database's URL without credentials."""
        return self.settings.database.shown if self.settings.database.is_postgres else self.settings.database.path

    def log_file(self, alternative: str) -> Path:
        """The log's file. Raises UsageError where it has none, which says what to do: `alternative`."""
        if self.settings.database.is_postgres:
            raise UsageError(f"DATABASE_URL names a PostgreSQL database, and this works on files: {alternative}")
        return self.settings.database.path

    @asynccontextmanager
    async def open_read_only(self, path: Path | None = None) -> "AsyncIterator[EventLog]":
        """The log (or another file), opened read-only: while a server runs, or a copy. Raises LogUnusable."""
        log = await self.open_log(path or self.settings.database.place, read_only=True)
        try:
            yield log
        finally:
            await log.close()

    @asynccontextmanager
    async def open_to_append(self) -> "AsyncIterator[EventLog]":
        """The log, to append to: a file while no service runs, PostgreSQL at any time.

        Raises LogUnusable, of which LogInUse says that a service runs.
        """
        from events.errors import LogUnusable  # noqa: PLC0415

        database = self.settings.database
        if not database.is_postgres and not await asyncio.to_thread(database.path.exists):
            raise LogUnusable(f"database {database.path} does not exist")
        log = await self.open_log(database.place, read_only=False)
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

    def print_note(self, text: str) -> None:
        """To standard error: information for people, not part of the result."""
        print_to_stderr(text)
