"""What all workers of one master share: the port, the lock of the database, ways to wake each other, a secret."""

import os
import secrets
import socket
from contextlib import ExitStack

from chatbot.config.settings import Settings
from chatbot.workers.inheritance import Inheritance
from chatbot.workers.listening import bind, listen_at, url_of
from chatbot.workers.tally import Tally, tally_file
from events.lock import DatabaseLock, database_file
from events.wakeups import wakeup_sockets

SECRET_BYTES = 32


class Shared:
    """Held by the master for as long as it lives. `stack` lets go of it: the port and the lock are free when the last
    worker has let go, too. One slot more than workers: for whoever replaces another.
    """

    def __init__(self, settings: Settings, stack: ExitStack) -> None:
        """Raises LogUnusable for the database, CannotListen for the address."""
        self.slots = settings.server.workers + 1
        # First: a port that is taken must leave no trace of a start.
        self._listeners = bind(settings.server.host, settings.server.port)
        for one in self._listeners:
            stack.enter_context(one)
        self._lock: DatabaseLock | None = None
        self._wakeups: list[tuple[socket.socket, socket.socket]] = []
        if not settings.database.is_postgres:
            self._lock = DatabaseLock(database_file(settings.database.path))
            self._lock.acquire()
            stack.callback(self._lock.release)
            self._wakeups = wakeup_sockets(self.slots)
            for pair in self._wakeups:
                stack.enter_context(pair[0])
                stack.enter_context(pair[1])
        listen_at(self._listeners)
        self.url = url_of(self._listeners[0].getsockname())
        self._tally_file = tally_file(self.slots)
        stack.callback(os.close, self._tally_file)
        self.tally = Tally(self._tally_file)
        self._secret = settings.nodes.secret or secrets.token_urlsafe(SECRET_BYTES)

    def for_worker(self, slot: int) -> Inheritance:
        """What the worker in this slot inherits, but for its channel to the master."""
        own = [receiver for number, (receiver, _) in enumerate(self._wakeups, start=1) if number == slot]
        others = [way for number, (_, way) in enumerate(self._wakeups, start=1) if number != slot]
        return Inheritance(
            slot=slot,
            listeners=tuple(one.fileno() for one in self._listeners),
            tally=self._tally_file,
            control=-1,
            secret=self._secret,
            locks=() if self._lock is None else self._lock.descriptors,
            wakeups=tuple(end.fileno() for end in (*own, *others)),
        )
