"""How many streams may be open at once.

How much memory request bodies may take together while they arrive.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from aiohttp import web

from chatbot.sessions.domain.rejections import Overloaded


class StreamLimit:
    """Counts the streams of replies and the feeds of sessions together: each holds a socket and a task."""

    def __init__(self, readers_max: int, refusal: str = "too many streams are open") -> None:
        self._readers_max = readers_max
        self._refusal = refusal
        self._open = 0

    def acquire(self) -> Self:
        """Room for one more, to be entered at once. Raises Overloaded when there is none."""
        if self._open >= self._readers_max:
            raise Overloaded(self._refusal)
        return self

    def __enter__(self) -> None:
        self._open += 1

    def __exit__(self, *_: object) -> None:
        self._open -= 1


SMALL_BYTES = 65_536  # a body of this size is in the connection's own buffer before anybody reads it


class BodyBudget:
    """Counts the bytes of all bodies that are being read, as their headers announce them."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self.reserved_bytes = 0

    @contextmanager
    def reserve(self, size: int) -> Iterator[None]:
        """Room for a body of `size` bytes until the end of the block. A small one needs none, and the only one has it.

        Raises Overloaded when others have taken too much.
        """
        if size <= SMALL_BYTES:
            size = 0
        if size and self.reserved_bytes and self.reserved_bytes + size > self._bytes_max:
            raise Overloaded("too many large request bodies are arriving")
        self.reserved_bytes += size
        try:
            yield
        finally:
            self.reserved_bytes -= size


BODIES: web.AppKey[BodyBudget] = web.AppKey("bodies", BodyBudget)
