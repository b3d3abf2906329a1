"""Requests of clients to the log itself, besides appends. A request may be sent twice, if a connection breaks before
its answer has come: the second time it has no other effect.
"""

from msgspec import Struct


class Probe(Struct, frozen=True, array_like=True):
    """EventLog.check_writable."""


class AwaitCleanWal(Struct, frozen=True, array_like=True):
    """Wait for `timeout_s` at most until no file holds erased content."""

    timeout_s: float


class AwaitHead(Struct, frozen=True, array_like=True):
    """Wait until the head is past `position`."""

    position: int


class BeginUpload(Struct, frozen=True, array_like=True):
    """Answered with the id of the file."""

    media_type: str
    now_us: int


class AddChunks(Struct, frozen=True, array_like=True):
    """Answered with whether the file still arrives."""

    media_id: int
    number: int
    chunks: list[bytes]
    now_us: int


class FinishUpload(Struct, frozen=True, array_like=True):
    """Answered with a MediaStat, or None if the file does not arrive any more."""

    media_id: int
    sha256: bytes
    holder: str
    due_at_us: int


class AbandonUpload(Struct, frozen=True, array_like=True):
    media_id: int


class DeleteDue(Struct, frozen=True, array_like=True):
    """Answered with the bytes that were freed."""

    now_us: int


# The name of each request on the wire.
NAMES: dict[type[Struct], str] = {
    Probe: "log.probe",
    AwaitCleanWal: "log.await_clean_wal",
    AwaitHead: "log.await_head",
    BeginUpload: "media.begin",
    AddChunks: "media.add",
    FinishUpload: "media.finish",
    AbandonUpload: "media.abandon",
    DeleteDue: "media.delete_due",
}
