"""The resources that the processes of a master share: port, the writer's socket, shared memory, secret."""

import os
import secrets
from contextlib import ExitStack

from msgspec.structs import replace

from chatbot.config.settings import Settings
from chatbot.workers.connection_counts import ConnectionCounts, create_counts_file
from chatbot.workers.inherited_fds import NO_DESCRIPTOR, InheritedFds, WriterFds
from chatbot.workers.private_socket import PrivateSocket
from chatbot.workers.server_sockets import bind_sockets, service_url, start_listening
from events.remote.shared_positions import create_positions_file
from projections.shared.shared_progress import create_progress_file

SECRET_BYTES = 32


class SharedResources:
    """Held by the master until `stack` closes; the port is free when the workers have closed it, too. There is one slot
    more than workers, for the successor in a rolling restart.
    """

    def __init__(self, settings: Settings, stack: ExitStack) -> None:
        """Raises CannotListen for the address, OSError."""
        self.slots = settings.server.workers + 1
        # First: if the port is in use, a start must change nothing.
        self._listeners = bind_sockets(settings.server.host, settings.server.port)
        for one in self._listeners:
            stack.enter_context(one)
        self._database = settings.database.postgres_place
        self._writer_socket: PrivateSocket | None = None
        self._writer: WriterFds | None = None
        if not settings.database.is_postgres:
            self._writer = self._make_writer_fds(settings, stack)
        self._counts_file = create_counts_file(self.slots)
        stack.callback(os.close, self._counts_file)
        self.connection_counts = ConnectionCounts(self._counts_file)
        self._secret = settings.nodes.secret or secrets.token_urlsafe(SECRET_BYTES)

    def _make_writer_fds(self, settings: Settings, stack: ExitStack) -> WriterFds:
        """The writer's socket outlives each writer: connections wait in its backlog for the next one."""
        self._writer_socket = PrivateSocket()
        stack.callback(self._writer_socket.close)
        positions, progress = create_positions_file(), create_progress_file()
        stack.callback(os.close, positions)
        stack.callback(os.close, progress)
        address = self._writer_socket.address
        return WriterFds(address, positions, progress, *settings.database.files, settings.server.writer_silent_s)

    def delete_socket(self) -> None:
        """Delete the writer's socket, for a master that exits without closing its resources."""
        if self._writer_socket is not None:
            self._writer_socket.delete()

    def start_listening(self) -> str:
        """Let clients connect; they wait until a worker serves. Returns the service's URL. Raises CannotListen."""
        start_listening(self._listeners)
        return service_url(self._listeners[0].getsockname())

    @property
    def has_writer(self) -> bool:
        """Whether the log is in a file, which a process of its own writes."""
        return self._writer is not None

    def for_worker(self, slot: int) -> InheritedFds:
        """What the worker in this slot inherits, except its control channel."""
        return InheritedFds(
            slot=slot,
            listeners=tuple(one.fileno() for one in self._listeners),
            connection_counts=self._counts_file,
            control=NO_DESCRIPTOR,
            secret=self._secret,
            writer=self._writer,
            database=self._database,
        )

    def for_writer(self, *, is_successor: bool = False) -> InheritedFds:
        """What a writer inherits, except its control channel. Raises ValueError if there is none, OSError."""
        if self._writer is None or self._writer_socket is None:
            raise ValueError("a log in PostgreSQL has no writer process")
        return InheritedFds(
            slot=0,
            listeners=(),
            connection_counts=self._counts_file,
            control=NO_DESCRIPTOR,
            secret="",
            role="writer",
            writer=replace(self._writer, listener=self._writer_socket.listener().fileno(), is_successor=is_successor),
        )
