"""What a worker has from its master: numbers of open descriptors, in one environment variable."""

import os
import socket

import msgspec
from msgspec import Struct

from events.storage.sqlite.notifier import DatagramNotifier

VARIABLE = "WORKER_INHERITANCE"  # not CHATBOT_...: it is no setting


class InheritedFds(Struct, frozen=True):
    """`slot` counts from 1. `listeners` are the shared sockets; `tally` is their tally of connections; `control` leads
    to the master; `secret` is what the workers know each other by. `locks` and `wakeups` (the end to receive from,
    then the ways to the others) belong to a log in a file, and are absent where the log is in PostgreSQL.
    """

    slot: int
    listeners: tuple[int, ...]
    tally: int
    control: int
    secret: str
    locks: tuple[int, ...] = ()
    wakeups: tuple[int, ...] = ()

    def to_environment(self) -> dict[str, str]:
        """What to add to a worker's environment."""
        return {VARIABLE: msgspec.json.encode(self).decode()}

    @property
    def descriptors(self) -> tuple[int, ...]:
        """All that must stay open in the worker."""
        return (*self.listeners, self.tally, self.control, *self.locks, *self.wakeups)

    def open_listeners(self) -> list[socket.socket]:
        """The shared sockets. To be called once: each of them owns its descriptor."""
        return [socket.socket(fileno=number) for number in self.listeners]

    def open_wakeups(self) -> DatagramNotifier | None:
        """How the log's processes wake each other; None where the log is not in a file. To be called once."""
        if not self.locks:
            return None
        receiver, *others = (socket.socket(fileno=number) for number in self.wakeups)
        return DatagramNotifier(self.locks, receiver, others)


def take_inherited_fds() -> InheritedFds | None:
    """This process's own; None where it is no worker. Programs that it starts are none, either."""
    told = os.environ.pop(VARIABLE, None)
    return None if told is None else msgspec.json.decode(told, type=InheritedFds)
