"""The open descriptors that a process inherits from its master, listed in an environment variable."""

import os
import socket
from typing import Literal

import msgspec
from msgspec import Struct

VARIABLE = "WORKER_INHERITANCE"  # not CHATBOT_...: it is not a setting
NO_DESCRIPTOR = -1


class WriterFds(Struct, frozen=True):
    """How the processes of a log in a file reach its writer. `address` is the path of its socket, `listener` that
    socket, listening (only the writer has it); `positions` and `progress` are the shared memory of
    events.remote.shared_positions and projections.shared.shared_progress. `database` and `projections` are the absolute
    paths of the two files. A silent writer is killed after `silent_s`. `is_successor`: another writer still serves.
    """

    address: str
    positions: int
    progress: int
    database: str
    projections: str
    silent_s: float
    listener: int = NO_DESCRIPTOR
    is_successor: bool = False


class InheritedFds(Struct, frozen=True, rename={"connection_counts": "tally"}):
    """`slot` counts from 1 (0: the writer). `listeners` are the shared sockets; `connection_counts` is the shared
    memory of the counts; `control` is the channel to the master; `secret` authenticates the workers to each other.
    `writer` is None if the log is in PostgreSQL; `database` is the place of that one, with which the master started.
    One field is encoded by its old name, because a master may start workers of a newer version.
    """

    slot: int
    listeners: tuple[int, ...]
    connection_counts: int
    control: int
    secret: str
    role: Literal["worker", "writer"] = "worker"
    writer: WriterFds | None = None
    database: str = ""

    def to_environment(self) -> dict[str, str]:
        """The environment variable for the process."""
        return {VARIABLE: msgspec.json.encode(self).decode()}

    @property
    def descriptors(self) -> tuple[int, ...]:
        """All that must stay open in the process."""
        of_writer = () if self.writer is None else (self.writer.positions, self.writer.progress, self.writer.listener)
        every = (*self.listeners, self.connection_counts, self.control, *of_writer)
        return tuple(number for number in every if number != NO_DESCRIPTOR)

    def open_listeners(self) -> list[socket.socket]:
        """The shared sockets. To be called once: each owns its descriptor."""
        return [socket.socket(fileno=number) for number in self.listeners]


def take_inherited_fds() -> InheritedFds | None:
    """The descriptors of this process; None if it has no master. Removes the variable, so child processes have none."""
    encoded = os.environ.pop(VARIABLE, None)
    return None if encoded is None else msgspec.json.decode(encoded, type=InheritedFds)


def keep_private(inheritance: InheritedFds) -> None:
    """Keep the descriptors from the processes that this one starts: they would keep the port in use."""
    for number in inheritance.descriptors:
        os.set_inheritable(number, False)
