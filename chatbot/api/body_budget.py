"""How much memory request bodies may take together while they arrive."""

from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

from chatbot.sessions.errors import Overloaded

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
