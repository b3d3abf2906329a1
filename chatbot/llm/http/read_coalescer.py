"""Reads the sockets of many replies together, as a network card coalesces interrupts."""

import asyncio
import os
import select
import sys
from typing import Protocol

READ_MAX_BYTES = 65_536  # of one connection in each round: a fast one does not delay the others
SOCKETS_MIN = 4  # with news in an interval, on average: reading fewer together saves too little for the wait
MEASURED_INTERVALS = 8  # for that average
LASTING_S = 0.05  # since its first text, for a reply to be read with others: one that is soon over would mostly wait


class CoalescedConnection(Protocol):
    """A connection whose reply has begun to arrive."""

    def data_received(self, data: bytes) -> None:
        """More of the reply has come."""
        ...

    def resume(self) -> None:
        """Read again by the event loop alone."""
        ...

    def fail(self, reason: str) -> None:
        """The socket has failed: a failed read tells it only once, so the transport would see a plain end."""
        ...


class ReadCoalescer:
    """Reads many connections in one round every `interval_s`. Shared by all connections to a server.

    The event loop does not read a connection that was added, and the kernel buffers what arrives. So many tokens cost
    one wake-up of the loop, and their text goes to the clients in one round of writes. A token waits for `interval_s`
    at most. `active_replies` have begun to arrive and have not ended.

    What arrives decides: rounds begin when the event loop has read so often as if each of `sockets_min` connections had
    news in each interval, and as many different ones, and end when they find less than half as many. So slow, few or
    short replies wait for nothing, and no round runs in vain.

    A round reads the sockets by duplicates of their descriptors: a transport may close its own at any time. It reads
    with poll() because that needs no descriptor, and costs least where nearly all sockets have news. What TLS has
    encrypted only its transport can read: such a connection pauses after each read, until the next round resumes it.
    """

    def __init__(self, interval_s: float, sockets_min: int = SOCKETS_MIN) -> None:
        """`interval_s` 0: never."""
        self.active_replies = 0
        self.replies_min = sockets_min if interval_s > 0 else sys.maxsize
        self._interval_s = interval_s
        self._has_rounds = False
        self._measured_reads = 0  # by the event loop, or by rounds where there are any
        self._measured_rounds = 0
        self._measured_since_s = 0.0  # on the loop's clock, where the event loop reads
        self._measured_ids: set[int] = set()  # of the connections that it has read since then
        self._poll = select.poll()
        self._connections: dict[int, CoalescedConnection] = {}  # by the duplicate of the socket's descriptor
        self._paused: list[CoalescedConnection] = []
        self._timer: asyncio.TimerHandle | None = None
        self._due_s = 0.0  # when the next round begins, on the loop's clock

    def note_read(self, connection: CoalescedConnection) -> bool:
        """The event loop has read `connection`, whose reply has begun, and at least `replies_min` are active. True: add
        it, once its reply has lasted for LASTING_S.
        """
        if self._has_rounds:
            return True
        if not self._measured_reads:
            self._measured_since_s = asyncio.get_running_loop().time()
        self._measured_reads += 1
        self._measured_ids.add(id(connection))
        if self._measured_reads < MEASURED_INTERVALS * self.replies_min:
            return False
        duration_s = asyncio.get_running_loop().time() - self._measured_since_s
        is_frequent = duration_s <= MEASURED_INTERVALS * self._interval_s
        self._has_rounds = is_frequent and len(self._measured_ids) >= self.replies_min  # not one fast reply alone
        self._measured_reads = self._measured_rounds = 0
        self._measured_ids.clear()
        return self._has_rounds

    def add(self, connection: CoalescedConnection, transport: asyncio.Transport) -> int | None:
        """Read `connection`, whose `transport` has paused reading, from the next round on.

        Gives what remove() needs; None if the next round only resumes the connection.
        """
        if self._timer is None:
            self._schedule_round()
        descriptor = _duplicate(transport)
        if descriptor is None:
            self._paused.append(connection)
            return None
        self._connections[descriptor] = connection
        self._poll.register(descriptor, select.POLLIN)
        return descriptor

    def remove(self, descriptor: int) -> None:
        """Stop reading the connection for which add() gave `descriptor`."""
        del self._connections[descriptor]
        self._poll.unregister(descriptor)
        os.close(descriptor)

    def _run_round(self) -> None:
        self._timer = None
        try:
            ready = self._poll.poll(0)
            self._measured_reads += len(ready)
            for descriptor, _ in ready:
                connection = self._connections.get(descriptor)
                if connection is None:  # removed within this round
                    continue
                try:
                    data = os.read(descriptor, READ_MAX_BYTES)
                except BlockingIOError:
                    continue
                except OSError as error:
                    connection.fail(str(error))
                    continue
                if data:
                    connection.data_received(data)
                else:  # the end, which its transport knows how to handle
                    connection.resume()
        finally:
            paused, self._paused = self._paused, []
            self._measured_reads += len(paused)
            if not self._have_rounds_use():
                self._has_rounds = False
                self._measured_reads = self._measured_rounds = 0
                paused += self._connections.values()
            for connection in paused:
                connection.resume()
            if self._timer is None and self._connections:
                self._schedule_round()

    def _have_rounds_use(self) -> bool:
        """Whether they find half as much as makes them begin: with the same bound they would come and go."""
        if self.active_replies < self.replies_min // 2:
            return False
        self._measured_rounds += 1
        if self._measured_rounds < MEASURED_INTERVALS:
            return True
        found = self._measured_reads
        self._measured_reads = self._measured_rounds = 0
        return found >= MEASURED_INTERVALS * self.replies_min // 2

    def _schedule_round(self) -> None:
        """One interval after the last round was due, so that a round's own time does not delay the next one."""
        loop = asyncio.get_running_loop()
        self._due_s = max(self._due_s, loop.time() - self._interval_s / 2) + self._interval_s
        self._timer = loop.call_at(self._due_s, self._run_round)


def _duplicate(transport: asyncio.Transport) -> int | None:
    """None for TLS, and if the process has no descriptor left."""
    if transport.get_extra_info("ssl_object") is not None:
        return None
    try:
        return os.dup(transport.get_extra_info("socket").fileno())
    except OSError:
        return None
