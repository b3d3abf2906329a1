"""Notifications between processes that share one log: a datagram says that the log has grown, not how far."""

import asyncio
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

_DATAGRAM = b"."
DRAINED_MAX = 256  # datagrams received in one callback: more than a socket holds, so that one callback takes them all


class Notifier(Protocol):
    """What the processes of one log share besides its file."""

    @property
    def locks(self) -> tuple[int, ...]:
        """Descriptors of the database's locks, which the processes share: see DatabaseLock.adopt."""
        ...

    def notify(self) -> None:
        """The log has grown: notify the other processes. Never waits, never raises."""
        ...

    def subscribe(self, on_grown: Callable[[], object]) -> None:
        """From now on call `on_grown`, in the event loop, after notifications; several may cause one call."""
        ...

    def close(self) -> None:
        """Unsubscribe."""
        ...


class DatagramNotifier:
    """Notifications over socket pairs. `receiver` is this process's own end, `others` lead to all the other processes.

    The sockets are the caller's, who closes them.
    """

    def __init__(self, locks: tuple[int, ...], receiver: socket.socket, others: Sequence[socket.socket]) -> None:
        self.locks = locks
        self._receiver = receiver
        self._others = others
        self._loop: asyncio.AbstractEventLoop | None = None
        for one in (receiver, *others):
            one.setblocking(False)

    def notify(self) -> None:
        """As Notifier.notify. If the buffer is full, a notification waits there already."""
        for other in self._others:
            with suppress(OSError):
                other.send(_DATAGRAM)

    def subscribe(self, on_grown: Callable[[], object]) -> None:
        """As Notifier.subscribe."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._receiver, self._receive, on_grown)

    def close(self) -> None:
        """As Notifier.close."""
        if self._loop is not None:
            self._loop.remove_reader(self._receiver)
            self._loop = None

    def _receive(self, on_grown: Callable[[], object]) -> None:
        with suppress(BlockingIOError):
            for _ in range(DRAINED_MAX):
                self._receiver.recv(len(_DATAGRAM))
        on_grown()


def notifier_sockets(slots: int) -> list[tuple[socket.socket, socket.socket]]:
    """For each of `slots` processes the end from which it receives, and the end to which all the others send."""
    return [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(slots)]
