"""One connection of a client to the process that writes the log: its frames, and whether it lasts."""

import asyncio
from contextlib import suppress
from typing import Protocol, cast

import msgspec

from events.remote.wire_format import FrameReader, Welcome

_welcome = msgspec.msgpack.Decoder(Welcome)


class Receiver(Protocol):
    """What receives the frames: implemented by WriterConnection."""

    def welcomed(self, welcome: Welcome, transport: asyncio.Transport) -> bool:
        """The writer has answered the hello. Returns whether the connection is to be used."""
        ...

    def received(self, kind: int, content: memoryview) -> None:
        """Raises DecodeError."""
        ...

    def lost(self) -> None:
        """The connection is closed."""
        ...


class WriterProtocol(asyncio.Protocol):
    """One connection."""

    def __init__(self, connection: Receiver) -> None:
        loop = asyncio.get_running_loop()
        self.welcomed: asyncio.Future[bool] = loop.create_future()
        self.lost: asyncio.Future[None] = loop.create_future()
        self._connection = connection
        self._frames = FrameReader()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.lost()
        for future, result in ((self.welcomed, False), (self.lost, None)):
            if not future.done():
                future.set_result(result)  # type: ignore[arg-type]  # of its type

    def data_received(self, data: bytes) -> None:
        with suppress(msgspec.DecodeError, ValueError):
            for kind, content in self._frames.feed(data):
                if self.welcomed.done():
                    self._connection.received(kind, content)
                elif self._transport is not None:
                    welcome = _welcome.decode(content)
                    is_used = self._connection.welcomed(welcome, self._transport)
                    self.welcomed.set_result(is_used)
                    if not is_used:
                        break
            else:
                return
        self.close()  # what it sends cannot be understood, or is not wanted

    def send(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
