"""How many streams may be open at once."""

from typing import Self

from chatbot.sessions.errors import Overloaded


class OpenStreams:
    """Counts the streams of replies and the feeds of sessions together: each holds a socket and a task."""

    def __init__(self, readers_max: int, refusal: str = "too many streams are open") -> None:
        self._readers_max = readers_max
        self._refusal = refusal
        self._open = 0

    def another(self) -> Self:
        """Room for one more, to be entered at once. Raises Overloaded when there is none."""
        if self._open >= self._readers_max:
            raise Overloaded(self._refusal)
        return self

    def __enter__(self) -> None:
        self._open += 1

    def __exit__(self, *_: object) -> None:
        self._open -= 1
