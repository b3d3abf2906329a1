"""A proxy between the clients of a log's writer and its socket that cuts connections after so many bytes."""

import asyncio
import socket
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
        self._listener: socket.socket | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        Path(self.address).unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.setblocking(False)
        self._listener.bind(self.address)
        self._listener.listen()
        asyncio.get_running_loop().add_reader(self._listener, self._accept, self._listener)

    async def stop(self) -> None:
        """Refuse connections, and cut those that there are."""
        Path(self.address).unlink(missing_ok=True)
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        while self._tasks:
            for writer in self._writers:
                writer.transport.abort()
            await asyncio.wait(self._tasks, timeout=0.01)

    def _accept(self, listener: socket.socket) -> None:
        with suppress(BlockingIOError):
            connection, _ = listener.accept()
            task = asyncio.create_task(self._serve(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: socket.socket) -> None:
        self.connections += 1
        to_writer, from_writer = next(self._cuts, NEVER)
        reader, writer = await asyncio.open_unix_connection(sock=connection)
        far_reader, far_writer = await asyncio.open_unix_connection(self._target)
        both = {writer, far_writer}
        self._writers |= both
        pumps = {
            asyncio.create_task(_pump(reader, far_writer, to_writer)),
            asyncio.create_task(_pump(far_reader, writer, from_writer)),
        }
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for one in both:
            one.transport.abort()
        await asyncio.wait(pumps)
        self._writers -= both


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, budget: int) -> None:
    with suppress(OSError):
        while budget and (data := await reader.read(min(budget, PIECE_BYTES))):
            writer.write(data)
            await writer.drain()
            budget -= len(data)
