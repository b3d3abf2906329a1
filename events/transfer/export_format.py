"""The export file format (NDJSON): written by `export` for a log, or part of it, and read by `import`.

The first line is the header, then follows one line per event with all its columns as stored, and last a trailer with
the number of events and a SHA-256 over all lines before it, line feeds included: a truncated or changed file is
detected before any of it is used. Content is the exact text that was hashed; hashes and salts are lower-case hex.

A file that messages refer to comes before the first event that refers to it: a line with its SHA-256, type and size,
then its bytes in base64, up to EXPORT_CHUNK_BYTES of them in a line, until that size is reached. An export with files
has version 2, any other one version 1, which older programs read.
"""

import hashlib
import re
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any, BinaryIO

import msgspec
from msgspec import Struct
from msgspec.structs import astuple

from events.catalogue import MessageRedacted
from events.codec import decode, is_known, is_readable
from events.errors import LogError, UnknownEvent
from events.integrity.hash_chain import GENESIS, SALT_BYTES
from events.integrity.row_checks import check_commitment, check_link
from events.media import FILE_BYTES_MAX, MediaMissing, MediaStat
from events.message_content import decode_kept
from events.record import StoredRow
from events.schema.parts import MEDIA_TYPE_MAX_CHARS, SHA256, Parts, find_faults
from events.storage.media_references import may_refer, references_in

FORMAT_NAME = "chatbot-log"
FORMAT_VERSION = 2
VERSION_WITHOUT_MEDIA = 1
EXPORT_CHUNK_BYTES = 65_536  # of a file, in one line: what a reader holds of it
LINE_BYTES_MAX = 256 * 2**20  # memory for one event: far above any that the service records
_INTEGER_MAX = 2**63 - 1  # SQLite's


class ExportFileError(LogError):
    """The file is invalid or cannot be read: says at which line and why."""


class ExportHeader(Struct, frozen=True, omit_defaults=True):
    """The source of the events: the log `origin`, whose head was at `position` with `digest` (hex).

    With `owner`, `session` or `sessions` (how they were selected) only those streams were exported. Positions then have
    gaps, and the digest of an event after a gap cannot be checked. With `events` only those that match: such an export
    is for reading and cannot be imported.
    """

    format: str
    version: int
    origin: str
    position: int
    digest: str
    owner: str | None = None
    session: str | None = None
    sessions: dict[str, Any] | None = None
    events: dict[str, Any] | None = None

    @property
    def is_whole(self) -> bool:
        return self.owner is None and self.session is None and self.sessions is None and self.events is None


class ExportColumns(Struct, frozen=True):
    """One row of the log as text: hashes and salt as lower-case hexadecimal; `data` and `salt` are null once erased."""

    position: int
    stream_id: str
    version: int
    type: str
    schema_version: int
    recorded_at: int
    metadata: str
    data: str | None
    salt: str | None
    commitment: str


class ExportLine(ExportColumns, frozen=True):
    """One event of an export."""

    digest: str


class ExportTrailer(Struct, frozen=True):
    """The last line: the number of events, and the SHA-256 (hex) of all lines before it."""

    events: int
    sha256: str


class _MediaLine(Struct, frozen=True):
    """The bytes of this file are in the lines that follow."""

    media: MediaStat


class _ChunkLine(Struct, frozen=True):
    """The next bytes of a file; base64 in JSON."""

    chunk: bytes


# RFC 6838, 4.2. The type of an imported file is what a browser is told.
_MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]*/[a-z0-9][a-z0-9!#$&^_.+-]*\Z")
_TRAILER = b'{"events":'
_MEDIA = b'{"media":'
_encoder = msgspec.json.Encoder()
_line_decoder = msgspec.json.Decoder(ExportLine)
_media_decoder = msgspec.json.Decoder(_MediaLine)
_chunk_decoder = msgspec.json.Decoder(_ChunkLine)
_NOT_JSON = (msgspec.MsgspecError, ValueError, TypeError, LookupError, RecursionError)


def to_export_columns(row: StoredRow) -> dict[str, Any]:
    """The fields of ExportColumns."""
    return {
        "position": row.position,
        "stream_id": row.stream_id,
        "version": row.version,
        "type": row.type,
        "schema_version": row.schema_version,
        "recorded_at": row.recorded_at_us,
        "metadata": row.metadata,
        "data": row.data,
        "salt": None if row.salt is None else row.salt.hex(),
        "commitment": row.commitment.hex(),
    }


def to_export_line(row: StoredRow) -> ExportLine:
    return ExportLine(**to_export_columns(row), digest=row.digest.hex())


def to_stored_row(columns: ExportColumns, digest: bytes) -> StoredRow:
    """The row of these columns. Raises ValueError for hashes that are not hexadecimal."""
    return StoredRow(
        columns.position,
        columns.stream_id,
        columns.version,
        columns.type,
        columns.schema_version,
        columns.recorded_at,
        columns.metadata,
        columns.data,
        None if columns.salt is None else bytes.fromhex(columns.salt),
        bytes.fromhex(columns.commitment),
        digest,
    )


class ExportWriter:
    """Writes header, files, events and trailer into a binary file that the caller opens and closes."""

    def __init__(self, file: BinaryIO, header: ExportHeader) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.events = 0
        self._files = sqlite3.connect("", isolation_level=None)  # that were written: on disk, not in memory
        self._files.executescript("PRAGMA journal_mode = OFF; BEGIN; CREATE TABLE files (sha256 BLOB PRIMARY KEY)")
        self._write(_encoder.encode(header))

    def files_to_write(self, row: StoredRow) -> list[str]:
        """The files that the event refers to and that no event before it did, by SHA-256."""
        if not may_refer(row.type, row.salt):
            return []
        digests = [digest for digest, _, _ in references_in([astuple(row)])]
        insert = "INSERT OR IGNORE INTO files VALUES (?)"
        return [digest.hex() for digest in digests if self._files.execute(insert, (digest,)).rowcount]

    def add(self, row: StoredRow) -> None:
        """Write one event. Raises ExportFileError for a damaged row that cannot be encoded as text."""
        try:
            line = _encoder.encode(to_export_line(row))
        except (AttributeError, *_NOT_JSON) as error:
            raise ExportFileError(
                f"the event at position {row.position} is damaged ({error}): verify the log"
            ) from error
        self._write(line)
        self.events += 1

    async def add_media(self, stat: MediaStat, pieces: AsyncIterator[bytes]) -> None:
        """Write a file, of which `pieces` have at most EXPORT_CHUNK_BYTES. Raises ExportFileError for a damaged one,
        and what `pieces` raises: then the export cannot be used.
        """
        self._write(_encoder.encode(_MediaLine(stat)))
        digest, size = hashlib.sha256(), 0
        with suppress(MediaMissing):  # some of its bytes
            async for piece in pieces:
                self._write(_encoder.encode(_ChunkLine(piece)))
                digest.update(piece)
                size += len(piece)
        if (digest.hexdigest(), size) != (stat.sha256, stat.bytes):
            raise ExportFileError(f"the file with the SHA-256 {stat.sha256} is damaged: verify the log")

    def close(self) -> None:
        """Write the trailer."""
        self._files.close()
        self._write(_encoder.encode(ExportTrailer(self.events, self._hash.hexdigest())))
        self._file.flush()

    def _write(self, line: bytes) -> None:
        self._hash.update(line)
        self._hash.update(b"\n")
        self._file.write(line)
        self._file.write(b"\n")


Item = StoredRow | MediaStat | bytes  # an event, a file, or the next bytes of the last file


class ExportReader:
    """Reads and validates an export. Memory: one line. The constructor reads the header. Raises ExportFileError."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self._number = 0
        self._previous: StoredRow | None = None
        self.events = 0
        self.sha256 = ""  # of all lines before the trailer, once `rows` has ended: identifies the file
        line = self._next()
        try:
            self.header = msgspec.json.decode(line, type=ExportHeader)
        except _NOT_JSON as error:
            raise self._fault(f"this is no export of a log: {error}") from error
        if self.header.format != FORMAT_NAME or self.header.version > FORMAT_VERSION:
            raise self._fault(
                f"format {self.header.format!r} version {self.header.version}, but this program reads"
                f" {FORMAT_NAME!r} up to version {FORMAT_VERSION}: update the program"
            )

    def rows(self) -> Iterator[tuple[int, StoredRow]]:
        """Each event with its line number, checked. The whole file has been checked once this ends."""
        return ((number, item) for number, item in self.items() if isinstance(item, StoredRow))

    def items(self) -> Iterator[tuple[int, Item]]:
        """As `rows`, with the files before the events: each one's name, then all its bytes, which are checked once the
        next item is read.
        """
        while True:
            seen = self._hash.hexdigest()
            line = self._next()
            if line.startswith(_TRAILER):
                self._end(line, seen)
                return
            if line.startswith(_MEDIA) and self.header.version > VERSION_WITHOUT_MEDIA:
                yield from self._media(line)
                continue
            try:
                read = _line_decoder.decode(line)
                row = to_stored_row(read, bytes.fromhex(read.digest))
            except _NOT_JSON as error:
                raise self._fault(f"this is no event: {error}") from error
            reason = self._order_fault(row) or check_commitment(row) or self._decode_fault(row)
            if reason:
                raise self._fault(f"position {row.position}: {reason}")
            self._previous = row
            self.events += 1
            yield self._number, row

    def _media(self, line: bytes) -> Iterator[tuple[int, Item]]:
        try:
            stat = _media_decoder.decode(line).media
        except _NOT_JSON as error:
            raise self._fault(f"this names no file: {error}") from error
        is_possible = 0 < stat.bytes <= FILE_BYTES_MAX and len(stat.media_type) <= MEDIA_TYPE_MAX_CHARS
        if not (is_possible and SHA256.match(stat.sha256) and _MEDIA_TYPE.match(stat.media_type)):
            raise self._fault("no log keeps such a file")
        yield self._number, stat
        digest, left = hashlib.sha256(), stat.bytes
        while left:
            line = self._next()
            try:
                chunk = _chunk_decoder.decode(line).chunk
            except _NOT_JSON as error:
                raise self._fault(f"these are no bytes of a file: {error}") from error
            if not 0 < len(chunk) <= min(left, EXPORT_CHUNK_BYTES):
                raise self._fault("a line has at least one byte of a file, and not more than there are")
            digest.update(chunk)
            left -= len(chunk)
            yield self._number, chunk
        if digest.hexdigest() != stat.sha256:
            raise self._fault(f"the bytes of the file are not those with the SHA-256 {stat.sha256}")

    def _next(self) -> bytes:
        line = self._file.readline(LINE_BYTES_MAX + 1)
        self._number += 1
        if not line.endswith(b"\n"):
            raise self._fault("a line is too long" if len(line) > LINE_BYTES_MAX else "the file was cut off here")
        self._hash.update(line)
        return line

    def _order_fault(self, row: StoredRow) -> str | None:
        last = self._previous.position if self._previous else 0
        if row.position <= last or (self.header.is_whole and row.position != last + 1):
            return f"it stands after position {last}: lines are missing or were moved"
        if not 0 < row.version <= _INTEGER_MAX or not 0 <= row.recorded_at_us <= _INTEGER_MAX:
            return "a number is beyond what a log holds"
        before = (self._previous.digest if self._previous else GENESIS) if row.position == last + 1 else None
        if before is not None and (fault := check_link(before, row)):
            return fault
        if row.position == self.header.position and row.digest.hex() != self.header.digest:
            return "the digest is not the one that the header names"
        return None

    def _decode_fault(self, row: StoredRow) -> str | None:
        """Why this program could not read the event back. Of an erased event only the type can be checked."""
        if not is_known(row.type, row.schema_version) and is_readable(row.type, row.schema_version, row.metadata):
            return None
        try:
            event = decode(row.type, row.schema_version, row.data if row.data is not None else b"")
            reason = _parts_fault(getattr(event, "parts", ()), row)
            if reason is None and isinstance(event, MessageRedacted):
                reason = _kept_fault(event)
            if reason is not None:
                return reason
        except UnknownEvent as error:
            return str(error)
        except _NOT_JSON as error:
            if row.data is not None:
                return f"its content cannot be read: {error}"
        try:
            msgspec.json.decode(row.metadata, type=dict)
        except _NOT_JSON as error:
            return f"its metadata cannot be read: {error}"
        return None

    def _end(self, line: bytes, seen: str) -> None:
        try:
            trailer = msgspec.json.decode(line, type=ExportTrailer)
        except _NOT_JSON as error:
            raise self._fault(f"this is no trailer: {error}") from error
        if trailer.events != self.events or trailer.sha256 != seen:
            raise self._fault("the trailer does not fit the lines before it: some were changed, or are missing")
        last = self._previous.position if self._previous else 0
        if self.header.is_whole and last < self.header.position:
            raise self._fault(f"the file ends at position {last}, but its header names {self.header.position}")
        if self._file.read(1):
            raise self._fault("something follows the trailer")
        self.sha256 = seen

    def _fault(self, reason: str) -> ExportFileError:
        return ExportFileError(f"line {self._number}: {reason}")


def _parts_fault(parts: Parts, row: StoredRow) -> str | None:
    """Why no log writes these parts in this event."""
    if parts and row.salt is not None and len(row.salt) == SALT_BYTES:
        return "its parts have no salts of their own"
    return next((f"{fault.path} {fault.detail}" for fault in find_faults(parts)), None)


def _kept_fault(redaction: MessageRedacted) -> str | None:
    """Why no log writes what this redaction leaves of events. Raises ValueError, UnknownEvent for what is no event."""
    for kept in redaction.kept:
        for fault in find_faults(getattr(decode_kept(kept), "parts", ())):
            return f"what is left of version {kept.version}: {fault.path} {fault.detail}"
    return None
