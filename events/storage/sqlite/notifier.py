"""How processes that share one log wake each other: one datagram says that the log has moved, not how far."""

import asyncio
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

_DATAGRAM = b"."
DRAINED_MAX = 256  # datagrams taken in one go; more than a socket holds, so that one wake-up answers them all


class Notifier(Protocol):
    """What the processes of one log share beside its file."""

    @property
    def locks(self) -> tuple[int, ...]:
        """Descriptors of the database's locks, which they hold together: see DatabaseLock.adopt."""
        ...

    def notify(self) -> None:
        """The log has moved: wake the others. Never waits, never raises."""
        ...

    def subscribe(self, moved: Callable[[], object]) -> None:
        """From now on call `moved`, in the event loop, after others have told; several at once may be one call."""
        ...

    def close(self) -> None:
        """Listen no more."""
        ...


class DatagramNotifier:
    """Wake-ups over socket pairs. `receiver` is this process's own end, `others` lead to all the other processes.

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
        """As Wakeups.tell. Where the buffer is full, a wake-up waits there already."""
        for other in self._others:
            with suppress(OSError):
                other.send(_DATAGRAM)

    def subscribe(self, moved: Callable[[], object]) -> None:
        """As Wakeups.listen."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._receiver, self._received, moved)

    def close(self) -> None:
        """As Wakeups.close."""
        if self._loop is not None:
            self._loop.remove_reader(self._receiver)
            self._loop = None

    def _received(self, moved: Callable[[], object]) -> None:
        with suppress(BlockingIOError):
            for _ in range(DRAINED_MAX):
                self._receiver.recv(len(_DATAGRAM))
        moved()


def notifier_sockets(slots: int) -> list[tuple[socket.socket, socket.socket]]:
    """For each of `slots` processes the end that it receives from, and the end that all the others send to."""
    return [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(slots)]
