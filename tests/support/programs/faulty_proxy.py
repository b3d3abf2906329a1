"""A line between a client and a server that can be cut at the worst moment."""

import asyncio
from contextlib import suppress
from types import TracebackType

CHUNK_BYTES = 65536
SYNC = b"S\x00\x00\x00\x04"


class FaultyProxy:
    """Forwards `port` to `target_port` on 127.0.0.1. Nothing happens until one of the flags is set.

    `loses_answer`: the next answer of the server is swallowed, and its connection cut on the client's side and, unless
    `keeps_server`, on the server's. `loses_request`: the next request is, before the server has seen it. Each is about
    requests of `request_bytes` and more, and clears itself. `holds_end`: of each such request the last message (Sync,
    which ends a transaction) is kept back until the event is set, as of a client that froze while it sent.
    `down`: new connections are refused by hanging up.
    """

    def __init__(self, target_port: int) -> None:
        self.drops_answer = self.drops_request = self.keeps_server_side = self.down = False
        self.delays_sync: asyncio.Event | None = None
        self.request_bytes = 0
        self.cuts = 0
        self.port = 0
        self._target_port = target_port
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> "FaultyProxy":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.drop_connections()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def drop_connections(self) -> None:
        """Every connection, at once."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self.down:
            writer.transport.abort()
            return
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        self._writers |= {writer, server_writer}
        line = _ProxiedConnection(self, writer, server_writer)
        with suppress(OSError, asyncio.CancelledError):
            await asyncio.gather(line.requests(reader), line.answers(server_reader))


class _ProxiedConnection:
    """One connection."""

    def __init__(self, proxy: FaultyProxy, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._drops_answer = False

    async def requests(self, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(CHUNK_BYTES):
            if len(data) >= self._proxy.request_bytes:
                if self._proxy.drops_request:
                    self._proxy.drops_request = False
                    self._cut(keeps_server_side=False)
                    return
                if self._proxy.drops_answer:
                    self._proxy.drops_answer = False
                    self._drops_answer = True
                    if self._proxy.keeps_server_side:
                        self._server.write(data)
                        self._cut(keeps_server_side=True)
                        return
                if self._proxy.delays_sync is not None and data.endswith(SYNC):
                    self._server.write(data[: -len(SYNC)])
                    await self._proxy.delays_sync.wait()
                    data = SYNC
            self._server.write(data)
        if not self._drops_answer:
            self._server.transport.abort()

    async def answers(self, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(CHUNK_BYTES):
            if self._drops_answer:
                self._cut(keeps_server_side=False)
                return
            self._client.write(data)
        self._client.transport.abort()

    def _cut(self, *, keeps_server_side: bool) -> None:
        self._proxy.cuts += not self._client.transport.is_closing()
        self._client.transport.abort()
        if not keeps_server_side:
            self._server.transport.abort()
