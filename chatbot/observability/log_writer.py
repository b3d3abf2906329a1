"""Writes log lines in a background thread: if standard error blocks, the thread waits, not the service.

The queue is bounded; lines beyond it are dropped and counted, and the count is logged once writing succeeds again.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable

WAITING_MAX_BYTES = 4_194_304  # about ten thousand lines: a short pause of their reader loses none
WRITE_BYTES = 65_536  # in one write: the capacity of a pipe
RETRY_S = 0.05  # if the descriptor is non-blocking, as set by another program that shares it
WRITE_INTERVAL_S = 0.01  # between writes: waking the thread for each line of a busy service costs more than the line
CLOSE_S = 1.0  # for the last lines at the end of the process


class LogWriter:
    """A text stream for one `logging` handler; its creator must close it. Writing never blocks and never fails.

    After lines were dropped, `report` gets their number once others could be written; it may log. `dropped` counts
    since the start.
    """

    def __init__(
        self, descriptor: int, report: Callable[[int], None], *, waiting_max_bytes: int = WAITING_MAX_BYTES
    ) -> None:
        self.dropped = 0
        self._descriptor = descriptor
        self._report = report
        self._max_bytes = waiting_max_bytes
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._unreported = 0
        self._closing = False
        self._changed = threading.Condition()
        # A daemon: a write that blocks for good must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def write(self, line: str) -> int:
        """Queue a line; drop it if the queue is full."""
        encoded = line.encode(errors="backslashreplace")
        with self._changed:
            if self._closing or self._waiting_bytes + len(encoded) > self._max_bytes:
                self._drop(1)
            else:
                self._waiting.append(encoded)
                self._waiting_bytes += len(encoded)
                self._changed.notify_all()
        return len(line)

    def isatty(self) -> bool:
        """Whether the output is a terminal."""
        return os.isatty(self._descriptor)

    def flush(self) -> None:
        """Does nothing: a handler calls it after each line."""

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """Write the queue, for `timeout_s` at most; later lines are dropped."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout_s)

    def _drop(self, lines: int) -> None:
        self.dropped += lines
        self._unreported += lines

    def _run(self) -> None:
        while batch := self._next_batch():
            if self._write_all(b"".join(batch)):
                self._report_dropped()
            else:
                with self._changed:
                    self._drop(len(batch))
            if not self._waiting and not self._closing:
                time.sleep(WRITE_INTERVAL_S)

    def _next_batch(self) -> list[bytes]:
        """Waits for lines to write next; empty at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            batch: list[bytes] = []
            size = 0
            while self._waiting and (not batch or size + len(self._waiting[0]) <= WRITE_BYTES):
                batch.append(self._waiting.popleft())
                size += len(batch[-1])
            self._waiting_bytes -= size
            return batch

    def _write_all(self, data: bytes) -> bool:
        """Whether all of it could be written: the reader may be gone, a disk full, a descriptor closed."""
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:
                time.sleep(RETRY_S)
            except OSError:
                return False
        return True

    def _report_dropped(self) -> None:
        with self._changed:
            dropped, self._unreported = self._unreported, 0
        if dropped:
            self._report(dropped)
