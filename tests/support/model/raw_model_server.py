"""A model server that answers with given bytes, whatever it is asked."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class RawServer:
    """Answers each request with the next of `answers`, or what `flood` gives for as long as it is taken.

    `step_bytes`: an answer is written so many bytes at a time, each in a packet of its own; 0 writes it at once.
    """

    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self.heads: list[bytes] = []  # of the requests
        self.flood = b""
        self.step_bytes = 0
        self.accepted = 0
        self.left = asyncio.Event()
        self.url = ""
        self.port = 0

    @asynccontextmanager
    async def listening(self, tls: ssl.SSLContext | None = None) -> AsyncIterator["RawServer"]:
        """On a free port, whose `url` it gets."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
        self.port = server.sockets[0].getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        try:
            yield self
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.heads.append(head)
                length = next((int(one[16:]) for one in head.split(b"\r\n") if one[:15] == b"Content-Length:"), 0)
                await reader.readexactly(length)
                await self._write(writer, self.answers.pop(0))
                while self.flood:
                    writer.write(self.flood)
                    await writer.drain()
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            self.left.set()
        finally:
            writer.close()

    async def _write(self, writer: asyncio.StreamWriter, answer: bytes) -> None:
        step = self.step_bytes or len(answer)
        for at in range(0, len(answer), step):
            writer.write(answer[at : at + step])
            await asyncio.sleep(0)
