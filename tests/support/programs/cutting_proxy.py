"""A proxy between the clients of a log's writer and its socket that cuts connections after so many bytes."""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

Cut = tuple[int, int]  # bytes that pass to the writer and from it; the connection is cut at the first to be used up
NEVER: Cut = (1 << 60, 1 << 60)
PIECE_BYTES = 4096


class CuttingProxy:
    """Each connection gets the next of `cuts`; those after the last are never cut. `connections` counts them."""

    def __init__(self, address: str, cuts: Iterable[Cut] = ()) -> None:
        self.address = str(Path(address).with_name("proxy.sock"))
        self.connections = 0
        self._target = address
        self._cuts: Iterator[Cut] = iter(cuts)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        Path(self.address).unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, self.address)

    async def stop(self) -> None:
        """Refuse connections, and cut those that there are."""
        if self._server is not None:
            self._server.close()
            self._server = None
        Path(self.address).unlink(missing_ok=True)
        for writer in self._writers:
            writer.transport.abort()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        to_writer, from_writer = next(self._cuts, NEVER)
        far_reader, far_writer = await asyncio.open_unix_connection(self._target)
        both = {writer, far_writer}
        self._writers |= both
        pumps = {
            asyncio.create_task(_pump(reader, far_writer, to_writer)),
            asyncio.create_task(_pump(far_reader, writer, from_writer)),
        }
        self._tasks |= pumps
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for one in both:
            one.transport.abort()
        await asyncio.wait(pumps)
        self._tasks -= pumps
        self._writers -= both


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, budget: int) -> None:
    with suppress(OSError):
        while budget and (data := await reader.read(min(budget, PIECE_BYTES))):
            writer.write(data)
            await writer.drain()
            budget -= len(data)
