"""The open descriptors that a worker inherits from its master, listed in an environment variable."""

import os
import socket

import msgspec
from msgspec import Struct

from events.storage.sqlite.notifier import DatagramNotifier

VARIABLE = "WORKER_INHERITANCE"  # not CHATBOT_...: it is not a setting


class InheritedFds(Struct, frozen=True, rename={"connection_counts": "tally", "notifier_sockets": "wakeups"}):
    """`slot` counts from 1. `listeners` are the shared sockets; `connection_counts` is the shared memory of the counts;
    `control` is the channel to the master; `secret` authenticates the workers to each other. `locks` and
    `notifier_sockets` (the receiving socket, then those of the others) belong to a log in a file, and are empty if it
    is in PostgreSQL. Two fields are encoded by their old names, because a master may start workers of a newer version.
    """

    slot: int
    listeners: tuple[int, ...]
    connection_counts: int
    control: int
    secret: str
    locks: tuple[int, ...] = ()
    notifier_sockets: tuple[int, ...] = ()

    def to_environment(self) -> dict[str, str]:
        """The environment variable for a worker."""
        return {VARIABLE: msgspec.json.encode(self).decode()}

    @property
    def descriptors(self) -> tuple[int, ...]:
        """All that must stay open in the worker."""
        return (*self.listeners, self.connection_counts, self.control, *self.locks, *self.notifier_sockets)

    def open_listeners(self) -> list[socket.socket]:
        """The shared sockets. To be called once: each owns its descriptor."""
        return [socket.socket(fileno=number) for number in self.listeners]

    def open_notifier(self) -> DatagramNotifier | None:
        """The notifier between the log's processes; None if the log is not in a file. To be called once."""
        if not self.locks:
            return None
        receiver, *others = (socket.socket(fileno=number) for number in self.notifier_sockets)
        return DatagramNotifier(self.locks, receiver, others)


def take_inherited_fds() -> InheritedFds | None:
    """The descriptors of this process; None if it is not a worker. Removes the variable, so child processes are not."""
    encoded = os.environ.pop(VARIABLE, None)
    return None if encoded is None else msgspec.json.decode(encoded, type=InheritedFds)
