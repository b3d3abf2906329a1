"""Log lines written by a thread: a standard error that nobody reads stops the thread, not the service.

What waits is bounded; lines beyond that are dropped and counted, and how many is told as soon as writing goes on.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable

WAITING_MAX_BYTES = 4_194_304  # some ten thousand lines: a hiccup of whoever reads them loses none
WRITE_BYTES = 65_536  # at once: what a pipe holds
RETRY_S = 0.05  # where the descriptor is not to block, as another program that shares it has set it
CLOSE_S = 1.0  # that the last lines may take at the end of the process


class LogWriter:
    """A text stream for one `logging` handler; whoever makes it closes it. `report` is told how many lines were dropped
    once others are written again; it may log. `dropped` counts since the start. Writing never blocks and never fails.
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
        """Queue a line, or drop it where too much waits."""
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
        """Whether people watch."""
        return os.isatty(self._descriptor)

    def flush(self) -> None:
        """Nothing: a handler asks for it after each line."""

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """Write what waits, for `timeout_s` at most; lines that come later are dropped."""
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

    def _next_batch(self) -> list[bytes]:
        """The lines to write next, once there are any; none at the end. They count as waiting until they are taken."""
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
        """Whether all of it could be written: the reader may have gone, a disk be full, a descriptor closed."""
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
