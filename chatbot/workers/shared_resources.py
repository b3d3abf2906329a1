"""The resources that the workers of a master share: port, database lock, notifier, connection counts, secret."""

import os
import secrets
import socket
from contextlib import ExitStack

from chatbot.config.settings import Settings
from chatbot.workers.connection_counts import ConnectionCounts, create_counts_file
from chatbot.workers.inherited_fds import InheritedFds
from chatbot.workers.server_sockets import bind_sockets, service_url, start_listening
from events.storage.database_lock import DatabaseLock, database_file
from events.storage.sqlite.notifier import notifier_sockets

SECRET_BYTES = 32


class SharedResources:
    """Held by the master until `stack` closes; the port and the lock are free when the workers have closed them, too.
    There is one slot more than workers, for the successor in a rolling restart.
    """

    def __init__(self, settings: Settings, stack: ExitStack) -> None:
        """Raises LogUnusable for the database, CannotListen for the address."""
        self.slots = settings.server.workers + 1
        # First: if the port is in use, a start must change nothing.
        self._listeners = bind_sockets(settings.server.host, settings.server.port)
        for one in self._listeners:
            stack.enter_context(one)
        self._lock: DatabaseLock | None = None
        self._notifier_sockets: list[tuple[socket.socket, socket.socket]] = []
        if not settings.database.is_postgres:
            self._lock = DatabaseLock(database_file(settings.database.path))
            self._lock.acquire()
            stack.callback(self._lock.release)
            self._notifier_sockets = notifier_sockets(self.slots)
            for pair in self._notifier_sockets:
                stack.enter_context(pair[0])
                stack.enter_context(pair[1])
        start_listening(self._listeners)
        self.url = service_url(self._listeners[0].getsockname())
        self._counts_file = create_counts_file(self.slots)
        stack.callback(os.close, self._counts_file)
        self.connection_counts = ConnectionCounts(self._counts_file)
        self._secret = settings.nodes.secret or secrets.token_urlsafe(SECRET_BYTES)

    def for_worker(self, slot: int) -> InheritedFds:
        """What the worker in this slot inherits, except its control channel."""
        own = [receiver for number, (receiver, _) in enumerate(self._notifier_sockets, start=1) if number == slot]
        others = [sender for number, (_, sender) in enumerate(self._notifier_sockets, start=1) if number != slot]
        return InheritedFds(
            slot=slot,
            listeners=tuple(one.fileno() for one in self._listeners),
            connection_counts=self._counts_file,
            control=-1,
            secret=self._secret,
            locks=() if self._lock is None else self._lock.descriptors,
            notifier_sockets=tuple(end.fileno() for end in (*own, *others)),
        )
