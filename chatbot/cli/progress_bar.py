"""A progress bar on standard error: how much is done, at what rate, and the time that is left."""

import sys
import time

from chatbot.runtime.standard_streams import print_to_stderr

TERMINAL_INTERVAL_S = 0.2  # on a terminal, where each line replaces the one before
FILE_INTERVAL_S = 5.0  # in a file, where lines stay


class ProgressBar:
    """A line on standard error: how much of `total`, how fast, how long it will still take."""

    def __init__(self, what: str, total: int, unit: str = "events") -> None:
        self._what = what
        self.total = total
        self._unit = unit
        self._began_s = self._shown_s = time.monotonic()
        self._is_terminal = sys.stderr.isatty()
        self._done = 0

    @property
    def rate(self) -> float:
        """Done per second, so far."""
        return self._done / max(time.monotonic() - self._began_s, 1e-9)

    def reach(self, done: int) -> None:
        """`done` of them, counted from the start; printed at most once per interval."""
        self._done = done
        now_s = time.monotonic()
        if now_s - self._shown_s >= (TERMINAL_INTERVAL_S if self._is_terminal else FILE_INTERVAL_S):
            self._shown_s = now_s
            line, end = (f"\r{self}", "") if self._is_terminal else (str(self), "\n")
            print_to_stderr(line, end)

    def close(self) -> None:
        """Replace the bar by a summary; in a file only where a bar could have been printed."""
        seconds = time.monotonic() - self._began_s
        summary = f"{self._what}: {self._done:,} {self._unit} in {seconds:.1f} s, {self.rate:,.0f} {self._unit}/s"
        if self._is_terminal:
            print_to_stderr(f"\r{' ' * len(str(self))}\r{summary}")
        elif seconds >= FILE_INTERVAL_S:
            print_to_stderr(summary)

    def __str__(self) -> str:
        share = self._done / self.total if self.total else 1.0
        left_s = max(0, self.total - self._done) / self.rate if self.rate else 0.0
        bar = "#" * round(20 * min(share, 1.0))
        pace = f"{self.rate:,.0f} {self._unit}/s, {left_s:,.0f} s left"
        return f"{self._what} [{bar:<20}] {share:4.0%} {self._done:,} of {self.total:,}, {pace}"
