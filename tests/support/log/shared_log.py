"""A SQLite log that several instances append to: of one process, or of many."""

import socket
from collections.abc import Callable
from pathlib import Path

from events.factory import now_us
from events.log_observer import LogObserver
from events.options import LogOptions
from events.storage.database_lock import DatabaseLock
from events.storage.sqlite.notifier import DatagramNotifier, notifier_sockets
from events.storage.sqlite.sqlite_log import SqliteLog


class SharedLogs:
    """Holds the lock and the sockets, as the master of the workers does; every log that it opens has a slot."""

    def __init__(self, path: Path, slots: int) -> None:
        self.path = path
        self._lock = DatabaseLock(path)
        self._lock.acquire()
        self._sockets = notifier_sockets(slots)
        self._logs: list[SqliteLog] = []

    @property
    def descriptors(self) -> list[int]:
        """The two locks, then each slot's two ends: for another process."""
        return [*self._lock.descriptors, *(end.fileno() for pair in self._sockets for end in pair)]

    async def open(
        self,
        slot: int,
        options: LogOptions | None = None,
        observe: LogObserver | None = None,
        clock: Callable[[], int] = now_us,
    ) -> SqliteLog:
        notifier = wakeups_of(slot, self._lock.descriptors, self._sockets)
        log = await SqliteLog.open(self.path, options, clock=clock, observe=observe, notifier=notifier)
        self._logs.append(log)
        return log

    async def close(self) -> None:
        for log in self._logs:
            await log.close()
        for pair in self._sockets:
            for end in pair:
                end.close()
        self._lock.release()


def wakeups_of(
    slot: int, locks: tuple[int, ...], sockets: list[tuple[socket.socket, socket.socket]]
) -> DatagramNotifier:
    return DatagramNotifier(locks, sockets[slot][0], [end for number, (_, end) in enumerate(sockets) if number != slot])


def inherited(descriptors: list[int], slot: int) -> DatagramNotifier:
    """In another process: what `SharedLogs.descriptors` of this one were."""
    lock, file, *ends = descriptors
    sockets = [socket.socket(fileno=number) for number in ends]
    return wakeups_of(slot, (lock, file), list(zip(sockets[::2], sockets[1::2], strict=True)))
