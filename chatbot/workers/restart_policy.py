"""When a process that has ended is started again: immediately after a long life, later the more often it fails."""

from chatbot.runtime.backoff import Backoff

STABLE_AFTER_S = 10.0  # a process that ran this long may end once without a pause before its restart
ATTEMPTS_MAX = 6  # in a row, while nothing serves; then the master gives up


class RestartPolicy:
    """Counts the failures of one process in a row."""

    def __init__(self, backoff: Backoff) -> None:
        self._backoff = backoff
        self._failures = 0

    def note_end(self, ran_s: float, *, was_ready: bool) -> None:
        """The process has ended, `ran_s` seconds after its start."""
        self._failures = 1 if was_ready and ran_s >= STABLE_AFTER_S else self._failures + 1

    @property
    def is_exhausted(self) -> bool:
        """Whether it has failed too often to be started again, if nothing else serves."""
        return self._failures >= ATTEMPTS_MAX

    @property
    def pause_s(self) -> float:
        """Seconds before the next start; none after the first failure."""
        return self._backoff.delay_s(self._failures - 1)
