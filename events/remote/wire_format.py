"""The protocol between the process that writes a log and those that append through it, over a Unix socket.

A frame is 4 bytes of length, a byte that says what it is (`Kind`), and MessagePack. Answers come in any order. Later
protocol numbers may add kinds, requests and fields at the end of what is here; anything else needs PROTOCOL_MIN, too.
"""

import struct
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Any

import msgspec
from msgspec import Struct

from events.errors import (
    LogBusy,
    LogError,
    LogStopped,
    LogUnavailable,
    NodesOutdated,
    OutcomeUnknown,
    Remedy,
    VersionConflict,
)
from events.media import MediaMissing
from events.storage.append_batch import PendingAppend

PROTOCOL = 1  # what this program speaks
PROTOCOL_MIN = 1  # the oldest that it understands
FRAME_BYTES_MAX = 256 * 1024 * 1024  # an append alone in its frame may be longer than the queue may hold
APPEND_BYTES_MAX = FRAME_BYTES_MAX // 2  # of its content: there is room for its metadata
APPENDS_BYTES = 1024 * 1024  # content of the appends in one frame, about: the writer begins with the first meanwhile

_HEADER = struct.Struct(">IB")  # the length of what follows the header, and the kind
HEADER_BYTES = _HEADER.size


class Kind(IntEnum):
    """What a frame holds. From a client: HELLO, APPENDS, REQUEST, HOLDS. From the writer: the others."""

    HELLO = 1
    APPENDS = 2
    REQUEST = 3
    HOLDS = 4
    WELCOME = 16
    OUTCOMES = 17
    ANSWER = 18
    APPENDED = 19
    HELD = 20
    PUSH = 21
    STATUS = 22


class Hello(Struct, frozen=True, array_like=True):
    """A client's first frame. `name` and `program` (its version) are for operators."""

    protocol: int
    protocol_min: int
    name: str
    program: str


class Welcome(Struct, frozen=True, array_like=True):
    """The answer: the protocol number that both use from now on, or a refusal, after which the writer hangs up. `file`
    is the identity (device, inode) of the database's file, and `position` the head of the log.
    """

    protocol: int
    program: str
    refusal: str | None = None
    file: tuple[int, int] | None = None
    position: int = 0


class Appends(Struct, frozen=True, array_like=True, gc=False):
    """Appends with consecutive numbers. `in_doubt`: sent before, over a connection that has broken since."""

    first: int
    in_doubt: bool
    appends: list[PendingAppend]


class Failure(Struct, frozen=True, array_like=True):
    """A LogError. `kind` is in _KINDS; `values` are the arguments of its class where they are not a message."""

    kind: str
    message: str
    values: list[str | int] = []
    remedy: str | None = None


class Outcomes(Struct, frozen=True, array_like=True):
    """`recorded` are numbers of appends and the position of the first event of each, in turn (0: it has none)."""

    recorded: list[int]
    refused: list[tuple[int, Failure]] = []


class Request(Struct, frozen=True, array_like=True):
    number: int
    name: str
    body: bytes


class Answer(Struct, frozen=True, array_like=True):
    number: int
    body: bytes = b""
    failure: Failure | None = None


class Holds(Struct, frozen=True, array_like=True):
    """Streams whose appends by other clients this client wants to be told, and those that it does not any more."""

    held: list[str] = []
    released: list[str] = []


class Push(Struct, frozen=True, array_like=True):
    name: str
    body: bytes


class Status(Struct, frozen=True, array_like=True):
    """The state of the writer's log, as the properties of SqliteLog have it. `stopped`: the damage is final."""

    damage: str | None = None
    stopped: bool = False
    erasure_pending: bool = False
    failure: str | None = None


encoder = msgspec.msgpack.Encoder()

_KINDS: dict[str, type[LogError]] = {
    "busy": LogBusy,
    "outdated": NodesOutdated,
    "stopped": LogStopped,
    "unavailable": LogUnavailable,
    "unknown": OutcomeUnknown,
}
_NAMES = {cls: name for name, cls in _KINDS.items()}


def frame(kind: Kind, content: object) -> bytes:
    """Raises ValueError for one that is too long."""
    encoded = encoder.encode(content)
    if len(encoded) > FRAME_BYTES_MAX:
        raise ValueError(f"a message of {len(encoded):,} bytes is too long for the process that writes the log")
    return _HEADER.pack(len(encoded), kind) + encoded


def appends_frame(first: int, appends: Iterable[PendingAppend], *, in_doubt: bool) -> bytes:
    """As `frame`, of Appends without what the writer has no use for: the decoded events and metadata."""
    return frame(Kind.APPENDS, (first, in_doubt, [_stripped(one) for one in appends]))


def _stripped(one: PendingAppend) -> Sequence[object]:
    contents = [(each.type, each.schema_version, each.data, each.salt, each.commitment) for each in one.contents]
    envelope = one.stream_id, one.expected_version, contents, one.metadata_text, one.recorded_at_us, one.size
    return *envelope, one.erases, one.media, one.unchanged


def to_failure(error: Exception) -> Failure:
    """What a client is told of `error`, which is a LogError or a bug."""
    if isinstance(error, VersionConflict):
        return Failure("conflict", "", [error.stream_id, error.expected_version])
    if isinstance(error, MediaMissing):
        return Failure("missing", "", [error.sha256])
    if not isinstance(error, LogError):
        return Failure("unavailable", f"the log failed in an unexpected way ({error!r})")
    remedy = None if error.remedy is None else error.remedy.name
    return Failure(_NAMES.get(type(error), "unavailable"), str(error), [], remedy)


def to_error(failure: Failure) -> LogError:
    """The inverse of `to_failure`. Kinds of a later program are LogUnavailable."""
    values: list[Any] = failure.values
    if failure.kind == "conflict":
        return VersionConflict(*values)
    if failure.kind == "missing":
        return MediaMissing(*values)
    remedy = Remedy.__members__.get(failure.remedy or "")
    return _KINDS.get(failure.kind, LogUnavailable)(failure.message, remedy=remedy)


class FrameReader:
    """Splits what arrives on a connection into frames."""

    def __init__(self) -> None:
        self._held = bytearray()  # the beginning of a frame
        self._wanted = HEADER_BYTES  # so many bytes make a header or a frame of it

    def feed(self, data: bytes) -> list[tuple[int, memoryview]]:
        """The complete frames: kind and content. Raises ValueError for a frame that is too long."""
        held = self._held
        if held:
            held += data
            if len(held) < self._wanted:
                return []
            data = bytes(held)
            held.clear()
        frames = []
        view, start, end = memoryview(data), 0, len(data)
        self._wanted = HEADER_BYTES
        while end - start >= HEADER_BYTES:
            length, kind = _HEADER.unpack_from(view, start)
            if length > FRAME_BYTES_MAX:
                raise ValueError(f"a frame of {length:,} bytes")
            stop = start + HEADER_BYTES + length
            if stop > end:
                self._wanted = stop - start
                break
            frames.append((kind, view[start + HEADER_BYTES : stop]))
            start = stop
        if start < end:
            held += view[start:]
        return frames
