"""A body that is sent in pieces: its connection never holds more than one of them outside of the body itself."""

from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload

from chatbot.api.connections import BoundedProtocol

PIECE_BYTES = 65_536  # as much as aiohttp writes before it waits


class BodyInPieces(Payload):
    """`body`, written piece by piece as its client takes it. One that is `shared` among answers costs each nothing."""

    def __init__(self, body: bytes, *, shared: bool = False) -> None:
        super().__init__(body)
        self._size = len(body)
        self._body = body
        self._shared = shared

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """The body as text."""
        return self._body.decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Raises ConnectionError when the client has left or was cut off."""
        protocol = getattr(writer, "protocol", None)
        with memoryview(self._body) as view:
            for start in range(0, len(view), PIECE_BYTES):
                if isinstance(protocol, BoundedProtocol) and not self._shared:
                    protocol.hold(len(view))
                await writer.write(bytes(view[start : start + PIECE_BYTES]))
                await writer.drain()


def in_pieces(body: bytes, *, shared: bool = False) -> bytes | BodyInPieces:
    """What to give an answer for its body: the body itself where it is small."""
    return body if len(body) <= PIECE_BYTES else BodyInPieces(body, shared=shared)
