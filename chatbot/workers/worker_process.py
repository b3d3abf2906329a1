"""The master's side of one worker: its process and control channel."""

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
    """Created by `start`. `is_leaving` once it is to end; `node` and `version` are what it reported."""

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
        """Start the process. `inheritance` has no `control` yet: the channel is created here. Raises OSError."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            inherited = msgspec.structs.replace(inheritance, control=theirs.fileno())
            process = await asyncio.create_subprocess_exec(
                *command,
                env={**os.environ, **inherited.to_environment()},
                pass_fds=inherited.descriptors,
                process_group=0,  # the master handles a terminal's Ctrl-C
            )
        worker = cls(inherited.slot, process, logger)
        reader, worker._writer = await open_channel(ours)
        worker._reading = asyncio.create_task(worker._read_status(reader), name=f"worker-{inherited.slot}")
        return worker

    def send_message(self, message: ControlMessage) -> None:
        """Send a control message; does nothing if the worker has ended."""
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

    async def _read_status(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                status = msgspec.json.decode(line, type=WorkerStatus)
                self.node, self.version = status.ready, status.version
                self.ready.set()
        except (ConnectionError, ValueError, msgspec.DecodeError) as error:
            self._logger.warning("worker.unheard", worker=self.slot, reason=str(error))
