"""The log service with its clients in the process of a test: each client as it were in a process of its own."""

import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

from events.factory import now_us
from events.log_observer import LogObserver, NoObserver
from events.options import LogOptions
from events.remote.append_server import AppendServer
from events.remote.remote_client import Handler
from events.remote.remote_log import RemoteLog
from events.remote.shared_positions import SharedPositions, create_positions_file
from events.storage.sqlite.sqlite_log import SqliteLog


class LogService:
    """A socket and the shared positions, as the master of the workers has them, and at most one writer."""

    def __init__(self, path: Path, clock: Callable[[], int] = now_us) -> None:
        self.path = path
        self.clock = clock
        self._directory = tempfile.TemporaryDirectory()  # paths of sockets are short
        self.address = str(Path(self._directory.name) / "writer.sock")
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.address)
        self.listener.listen()
        self.descriptor = create_positions_file()
        self.positions = SharedPositions(self.descriptor)
        self.log: SqliteLog | None = None
        self.server: AppendServer | None = None
        self._clients: list[RemoteLog] = []

    async def start(
        self,
        options: LogOptions | None = None,
        observe: LogObserver | None = None,
        handlers: dict[str, Handler] | None = None,
    ) -> SqliteLog:
        """Start the writer."""
        self.log = await SqliteLog.open(self.path, options, clock=self.clock, observe=observe)
        self.server = AppendServer(self.log, self.listener.dup(), self.positions, handlers=handlers, observe=observe)
        await self.server.start()
        return self.log

    async def stop(self) -> None:
        """End the writer in order: what its clients wait for is written first."""
        if self.server is not None and self.log is not None:
            await self.server.close()
            await self.log.close()
        self.server = self.log = None

    async def connect(self, options: LogOptions | None = None, observe: LogObserver | None = None) -> RemoteLog:
        """One more client."""
        client = await RemoteLog.open(
            self.path, self.address, self.positions, options, clock=self.clock, observe=observe or NoObserver()
        )
        self._clients.append(client)
        return client

    async def close(self) -> None:
        for client in self._clients:
            await client.close()
        await self.stop()
        self.listener.close()
        os.close(self.descriptor)
        self._directory.cleanup()
