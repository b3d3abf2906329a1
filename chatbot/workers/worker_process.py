"""One worker as its master sees it: a process, and the channel to it."""

import asyncio
import os
import socket
import time
from collections.abc import Sequence

import msgspec
import structlog

from chatbot.workers.control_channel import ControlMessage, WorkerStatus, open_channel, send
from chatbot.workers.inherited_fds import InheritedFds


class WorkerProcess:
    """Made by `start`. `is_leaving` once it is meant to end; `node` and `version` are what it has reported."""

    def __init__(self, slot: int, process: asyncio.subprocess.Process, logger: structlog.stdlib.BoundLogger) -> None:
        self.slot = slot
        self.pid = process.pid
        self.started_s = time.monotonic()
        self.is_leaving = False
        self.node = ""
        self.version = ""
        self.ready = asyncio.Event()
        self._process = process
        self._logger = logger
        self._writer: asyncio.StreamWriter
        self._reading: asyncio.Task[None]

    @classmethod
    async def start(
        cls, command: Sequence[str], inheritance: InheritedFds, logger: structlog.stdlib.BoundLogger
    ) -> "WorkerProcess":
        """Start the process; `inheritance` without its `control`, which is made here. Raises OSError."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            told = msgspec.structs.replace(inheritance, control=theirs.fileno())
            process = await asyncio.create_subprocess_exec(
                *command,
                env={**os.environ, **told.to_environment()},
                pass_fds=told.descriptors,
                process_group=0,  # a terminal's Ctrl-C is for the master, who then says what to do
            )
        worker = cls(told.slot, process, logger)
        reader, worker._writer = await open_channel(ours)
        worker._reading = asyncio.create_task(worker._read_status(reader), name=f"worker-{told.slot}")
        return worker

    def send_message(self, order: ControlMessage) -> None:
        """Have it do something, or know something; it may be gone."""
        send(self._writer, order)

    def kill(self) -> None:
        """End it at once, also one that is stopped."""
        if self._process.returncode is None:
            self._process.kill()

    async def wait_until_ended(self) -> int:
        """Its exit code, once it has ended; below zero: by this signal."""
        code = await self._process.wait()
        self._writer.close()
        await asyncio.wait([self._reading])
        return code

    async def _read_status(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                report = msgspec.json.decode(line, type=WorkerStatus)
                self.node, self.version = report.ready, report.version
                self.ready.set()
        except (ConnectionError, ValueError, msgspec.DecodeError) as error:
            self._logger.warning("worker.unheard", worker=self.slot, reason=str(error))
