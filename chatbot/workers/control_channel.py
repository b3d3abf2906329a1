"""The control channel between the master and a worker: lines of JSON over a socket pair. When it closes, the other
process has ended.
"""

import asyncio
import socket
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
    """From the master: `drain` as on SIGTERM; `retire`: a successor serves; or the list of all workers."""

    drain: bool = False
    retire: bool = False
    siblings: Siblings | None = None
    versions: tuple[
        str, ...
    ] = ()  # the event types that each of them reads, as reported: see events.compatibility.NodeVersion
    restarts: int = 0  # of workers that ended unexpectedly


class WorkerStatus(Struct, frozen=True):
    """From a worker: it serves. `ready` is its node's name for the other workers, empty if it has none. `version` is
    what it reads; a master of another version passes it on unchanged.
    """

    ready: str
    version: str = ""


async def open_channel(end: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """The reader and writer of this end."""
    return await asyncio.open_unix_connection(sock=end, limit=LINE_MAX)


def send(writer: asyncio.StreamWriter, line: ControlMessage | WorkerStatus) -> None:
    """Write without waiting; dropped if the other side does not read."""
    if writer.transport.get_write_buffer_size() < UNREAD_BYTES_MAX:
        writer.write(msgspec.json.encode(line) + b"\n")


class ControlChannel:
    """The worker's end. `stop` is set by `drain` and when the master has ended, `retire` by that message."""

    def __init__(self, descriptor: int, stop: asyncio.Event) -> None:
        self.stop = stop
        self.retire = asyncio.Event()
        self.siblings: Siblings = {}  # this worker included
        self.restarts = 0
        self._versions: tuple[str, ...] = ()
        self._end = socket.socket(fileno=descriptor)
        self._writer: asyncio.StreamWriter | None = None

    async def run(self) -> None:
        """Receive messages. Never returns: after the last one it waits for its cancellation."""
        reader, self._writer = await open_channel(self._end)
        try:
            while line := await _line(reader):
                self._apply_message(msgspec.json.decode(line, type=ControlMessage))
            self.stop.set()
            await asyncio.Event().wait()
        finally:
            self._writer.close()

    def _apply_message(self, message: ControlMessage) -> None:
        if message.siblings is not None:
            self.siblings, self.restarts = message.siblings, message.restarts
            self._versions = message.versions
        if message.retire:
            self.retire.set()
        if message.drain:
            self.stop.set()

    def ready(self, node: str) -> None:
        """Tell the master that this worker serves. Only once `run` has begun."""
        if self._writer is not None:
            send(self._writer, WorkerStatus(node, encode_version(own_version(name_of_process(), __version__))))

    async def versions(self) -> Sequence[NodeVersion] | None:
        """As events.compatibility.OtherNodes. None before the master has sent them, or with a worker of 0.4."""
        if not self.siblings or len(self._versions) < len(self.siblings) or not all(self._versions):
            return None
        return [decode_version(version) for version in self._versions]


async def _line(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readline()
    except ConnectionError:  # the other side was killed with unread data
        return b""
