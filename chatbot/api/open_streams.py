"""How many streams may be open at once."""

from collections.abc import Iterator
from contextlib import contextmanager

from chatbot.sessions.errors import Overloaded


class OpenStreams:
    """Counts the streams of replies and the feeds of sessions together: each holds a socket and a task."""

    def __init__(self, readers_max: int, refusal: str = "too many streams are open") -> None:
        self._readers_max = readers_max
        self._refusal = refusal
        self._open = 0

    @contextmanager
    def another(self) -> Iterator[None]:
        """Room for one more. Raises Overloaded when there is none."""
        if self._open >= self._readers_max:
            raise Overloaded(self._refusal)
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1
