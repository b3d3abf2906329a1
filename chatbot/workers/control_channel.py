"""The control channel between the master and one of its processes: lines of JSON over a socket pair. When it closes,
the other process has ended.
"""

import asyncio
import socket
import time
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from chatbot import __version__
from events.compatibility import NodeVersion, decode_version, encode_version, name_of_process, own_version

LINE_MAX = 2**20  # bytes: the addresses of 256 workers are a few dozen KiB
UNREAD_BYTES_MAX = (
    2**16
)  # bytes that the other side may leave unread; further messages are dropped until it has read them

Siblings = dict[int, str]  # by slot: the name of the node, as it reported


class ControlMessage(Struct, frozen=True, omit_defaults=True):
    """From the master: `drain` as on SIGTERM; `retire`: a successor serves; `open`: this writer may open the log; or
    the list of all workers.
    """

    drain: bool = False
    retire: bool = False
    open: bool = False
    siblings: Siblings | None = None
    versions: tuple[
        str, ...
    ] = ()  # the event types that each process reads, as reported: see events.compatibility.NodeVersion
    processes: int = 0  # how many there should be in `versions`; 0: as many as siblings
    restarts: int = 0  # of workers that ended unexpectedly
    writer_restarts: int = 0  # of the writer
    writer_fault: str = ""  # why no writer runs; empty while one does


class WorkerStatus(Struct, frozen=True):
    """From a worker: it serves. `ready` is its node's name for the other workers, empty if it has none. `version` is
    what it reads; a master of another version passes it on unchanged.
    """

    ready: str
    version: str = ""


class WriterStatus(Struct, frozen=True, omit_defaults=True):
    """From the writer: its event loop runs. `loaded`: it waits for the order to open the log; `ready`: it serves the
    log, and `version` is what it reads; `fault`: why it will end.
    """

    loaded: bool = False
    ready: bool = False
    version: str = ""
    fault: str = ""


async def open_channel(end: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """The reader and writer of this end."""
    return await asyncio.open_unix_connection(sock=end, limit=LINE_MAX)


def send(writer: asyncio.StreamWriter, line: ControlMessage | WorkerStatus | WriterStatus) -> None:
    """Write without waiting; dropped if the other side does not read."""
    if writer.transport.get_write_buffer_size() < UNREAD_BYTES_MAX:
        writer.write(msgspec.json.encode(line) + b"\n")


def encoded_version() -> str:
    """What this process reads, for the others."""
    return encode_version(own_version(name_of_process(), __version__))


class ControlChannel:
    """This process's end. `stop` is set by `drain` and when the master has ended (`is_orphan`), `retire` and `open` by
    those messages.
    """

    def __init__(self, descriptor: int, stop: asyncio.Event) -> None:
        self.stop = stop
        self.retire = asyncio.Event()
        self.open = asyncio.Event()
        self.is_connected = asyncio.Event()  # `report` works from then on
        self.is_orphan = False
        self.siblings: Siblings = {}  # this worker included
        self.restarts = 0
        self.writer_restarts = 0
        self.writer_fault = ""
        self._processes = 0
        self._writer_lost_s = 0.0  # when `writer_fault` was set
        self._versions: tuple[str, ...] = ()
        self._end = socket.socket(fileno=descriptor)
        self._writer: asyncio.StreamWriter | None = None

    async def run(self) -> None:
        """Receive messages. Never returns: after the last one it waits for its cancellation."""
        reader, self._writer = await open_channel(self._end)
        self.is_connected.set()
        try:
            while line := await _line(reader):
                self._apply_message(msgspec.json.decode(line, type=ControlMessage))
            self.is_orphan = True
            self.stop.set()
            await asyncio.Event().wait()
        finally:
            self._writer.close()

    def _apply_message(self, message: ControlMessage) -> None:
        if message.siblings is not None:
            self.siblings, self.restarts = message.siblings, message.restarts
            self.writer_restarts = message.writer_restarts
            if not self.writer_fault:
                self._writer_lost_s = time.monotonic()
            self.writer_fault = message.writer_fault
            self._versions, self._processes = message.versions, message.processes
        if message.open:
            self.open.set()
        if message.retire:
            self.retire.set()
        if message.drain:
            self.stop.set()

    def has_writer(self, timeout_s: float) -> bool:
        """Whether a writer runs, or has run within the last `timeout_s`, for which appends wait for the next one."""
        return not self.writer_fault or time.monotonic() - self._writer_lost_s < timeout_s

    def ready(self, node: str) -> None:
        """Tell the master that this worker serves. Only once `run` has begun."""
        self.report(WorkerStatus(node, encoded_version()))

    def report(self, status: WorkerStatus | WriterStatus) -> None:
        """Tell the master. Only once `run` has begun."""
        if self._writer is not None:
            send(self._writer, status)

    async def versions(self) -> Sequence[NodeVersion] | None:
        """As events.compatibility.OtherNodes. None before the master has sent them, or with a worker of 0.4."""
        processes = self._processes or len(self.siblings)
        if not self.siblings or len(self._versions) < processes or not all(self._versions):
            return None
        return [decode_version(version) for version in self._versions]


async def _line(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readline()
    except ConnectionError:  # the other side was killed with unread data
        return b""
