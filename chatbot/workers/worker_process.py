"""The master's side of one process that it has started: the process and its control channel."""

import asyncio
import os
import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Self

import msgspec
import structlog

from chatbot.workers.control_channel import ControlMessage, WorkerStatus, WriterStatus, open_channel, send
from chatbot.workers.inherited_fds import InheritedFds


class ChildProcess:
    """Created by `start`. `is_leaving` once it is to end; `version` is what it reported; `ready` once it serves."""

    def __init__(self, slot: int, process: asyncio.subprocess.Process, logger: structlog.stdlib.BoundLogger) -> None:
        self.slot = slot
        self.pid = process.pid
        self.started_s = time.monotonic()
        self.is_leaving = False
        self.version = ""
        self.ready = asyncio.Event()
        self._process = process
        self._logger = logger
        self._writer: asyncio.StreamWriter
        self._reading: asyncio.Task[None]

    @classmethod
    async def start(
        cls, command: Sequence[str], inheritance: InheritedFds, logger: structlog.stdlib.BoundLogger
    ) -> Self:
        """Start the process. `inheritance` has no `control` yet: the channel is created here. Raises OSError."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs, ExitStack() as until_started:
            until_started.callback(ours.close)
            inherited = msgspec.structs.replace(inheritance, control=theirs.fileno())
            process = await asyncio.create_subprocess_exec(
                *command,
                env={**os.environ, **inherited.to_environment()},
                pass_fds=inherited.descriptors,
                process_group=0,  # the master handles a terminal's Ctrl-C
            )
            until_started.pop_all()
        child = cls(inherited.slot, process, logger)
        reader, child._writer = await open_channel(ours)
        child._reading = asyncio.create_task(child._read_lines(reader), name=f"{inherited.role}-{inherited.slot}")
        return child

    def send_message(self, message: ControlMessage) -> None:
        """Send a control message; does nothing if the process has ended."""
        send(self._writer, message)

    def kill(self) -> None:
        """SIGKILL, which also ends a stopped process."""
        if self._process.returncode is None:
            self._process.kill()

    async def wait_until_ended(self) -> int:
        """Wait for its end. Returns the exit code; negative: the signal that ended it."""
        code = await self._process.wait()
        self._writer.close()
        await asyncio.wait([self._reading])
        return code

    async def _read_lines(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                self._note(line)
        except (ConnectionError, ValueError, msgspec.DecodeError) as error:
            self._logger.warning("worker.unheard", worker=self.slot, reason=str(error))

    def _note(self, line: bytes) -> None:
        """One line that the process has sent. Raises msgspec.DecodeError."""
        raise NotImplementedError


class WorkerProcess(ChildProcess):
    """A process that serves clients. `node` is what it reported."""

    node = ""

    def _note(self, line: bytes) -> None:
        status = msgspec.json.decode(line, type=WorkerStatus)
        self.node, self.version = status.ready, status.version
        self.ready.set()


class WriterProcess(ChildProcess):
    """The process that writes the log. `loaded` once it can open the log; `fault` is why it has ended."""

    def __init__(self, slot: int, process: asyncio.subprocess.Process, logger: structlog.stdlib.BoundLogger) -> None:
        super().__init__(slot, process, logger)
        self.loaded = asyncio.Event()
        self.fault = ""
        self.has_reported = False  # since this was last set to False

    def _note(self, line: bytes) -> None:
        status = msgspec.json.decode(line, type=WriterStatus)
        self.has_reported = True
        self.fault = status.fault or self.fault
        if status.loaded:
            self.loaded.set()
        if status.ready:
            self.version = status.version
            self.ready.set()
