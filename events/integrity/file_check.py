"""Verification of the files that messages refer to: their bytes are the right ones, and the log keeps each of them for
exactly the events that refer to it: one that is kept for nothing would survive every erasure.

What the events say is noted while the chain is verified. Files and references are no part of the chain; the SHA-256
that proves a file is, as it is in the event.
"""

import hashlib
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from functools import cached_property

from msgspec import Struct
from msgspec.structs import astuple

from events.log import EventLog
from events.media import MediaMissing, MediaStat
from events.record import StoredRow
from events.storage.media_references import may_refer, references_in

PAGE = 500  # files listed at once
FAULTS_MAX = 100  # described; all are counted
NEWER_MAX = 1000  # references to one file that may be added while the log is verified
POSITION_MAX = 2**63 - 1


class NotedReferences:
    """Which events refer to which files: in a temporary database, not in memory."""

    def note(self, row: StoredRow) -> None:
        """Of an event whose content is intact. In any thread, but in one at a time."""
        if may_refer(row.type, row.salt):
            self._database.executemany("INSERT OR IGNORE INTO noted VALUES (?, ?, ?)", references_in([astuple(row)]))

    def holders(self, sha256: str) -> dict[int, str]:
        """The events that refer to the file: position and stream."""
        query = "SELECT position, holder FROM noted WHERE sha256 = ?"
        return dict(self._database.execute(query, (bytes.fromhex(sha256),)).fetchall())

    def mark_found(self, sha256: str) -> None:
        """The log has the file."""
        self._database.execute("INSERT OR IGNORE INTO found VALUES (?)", (bytes.fromhex(sha256),))

    def missing(self) -> Iterator[tuple[str, int]]:
        """Files that are not marked as found, each with the position of the first event that refers to it."""
        query = "SELECT sha256, min(position) FROM noted WHERE sha256 NOT IN (SELECT sha256 FROM found) GROUP BY sha256"
        return ((sha256.hex(), position) for sha256, position in self._database.execute(query))

    @cached_property
    def _database(self) -> sqlite3.Connection:
        """Created when there is something to note: most logs have no files."""
        database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        database.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; BEGIN;"
            "CREATE TABLE noted (sha256 BLOB, position INTEGER, holder TEXT, PRIMARY KEY (sha256, position))"
            " WITHOUT ROWID;"
            "CREATE TABLE found (sha256 BLOB PRIMARY KEY) WITHOUT ROWID"
        )
        return database


class FileReport(Struct):
    """`faults` are sentences that name files. `uploads` are files that uploads keep and no event refers to;
    `left_bytes` are of files that nothing keeps any more, which are being deleted.
    """

    files: int = 0
    uploads: int = 0
    bytes: int = 0
    faults: list[str] = []
    faults_in_all: int = 0
    left_bytes: int = 0

    def add_fault(self, sha256: str, reason: str) -> None:
        self.faults_in_all += 1
        if len(self.faults) < FAULTS_MAX:
            self.faults.append(f"file {sha256}: {reason}")


async def check_files(
    log: EventLog,
    noted: NotedReferences,
    progress: Callable[[int, int], None] | None = None,
    *,
    after: int = 0,
    until: int = POSITION_MAX,
) -> FileReport:
    """Check all files of a log whose events from position `after` + 1 to `until` were `noted`; only the references of
    these are checked. The log may be in use. `progress` is called with the bytes checked and those in all. Raises
    LogUnavailable.
    """
    report, check = FileReport(), _FileCheck(log, noted, after, until)
    total = 0
    async for stat in _files(log):
        total += stat.bytes
    async for stat in _files(log):
        reason = await check.bytes_fault(stat) or await check.references_fault(stat)
        noted.mark_found(stat.sha256)
        if reason is not None:
            report.add_fault(stat.sha256, reason)
        report.files += 1
        report.uploads += check.is_upload
        report.bytes += stat.bytes
        if progress is not None:
            progress(report.bytes, max(total, report.bytes))
    for sha256, position in noted.missing():
        if await check.has_content(position) and not await log.media.stat([sha256]):
            report.add_fault(sha256, f"the event at position {position} refers to it, and the log does not have it")
    report.left_bytes = await log.media.left_bytes()
    return report


async def _files(log: EventLog) -> AsyncIterator[MediaStat]:
    last = ""
    while page := await log.media.files(after=last, limit=PAGE):
        for stat in page:
            yield stat
        last = page[-1].sha256


class _FileCheck:
    """The checks of one file. Each gives a reason, or None where all is well."""

    def __init__(self, log: EventLog, noted: NotedReferences, after: int, until: int) -> None:
        self._log = log
        self._noted = noted
        self._after = after
        self._until = until
        self.is_upload = False  # of the file that was checked last: no event refers to it

    async def bytes_fault(self, stat: MediaStat) -> str | None:
        self.is_upload = False
        digest, size = hashlib.sha256(), 0
        try:
            async for piece in self._log.media.read(stat.sha256):
                digest.update(piece)
                size += len(piece)
        except MediaMissing:
            is_kept = stat.sha256 in await self._log.media.stat([stat.sha256])
            return "bytes of it are missing" if is_kept else None  # erased meanwhile
        if size != stat.bytes or digest.hexdigest() != stat.sha256:
            return "its bytes were changed"
        return None

    async def references_fault(self, stat: MediaStat) -> str | None:
        wanted = self._noted.holders(stat.sha256)
        kept = await self._log.media.references(stat.sha256, limit=len(wanted) + NEWER_MAX)
        self.is_upload = bool(kept) and kept[0].position == 0  # uploads are last
        for one in kept:
            if self._after < one.position <= self._until and wanted.get(one.position) != one.holder:
                return f"it is kept for the event at position {one.position}, which does not refer to it"
        positions = {one.position for one in kept}
        for position, holder in wanted.items():
            if position not in positions and not await self._is_kept_for(stat.sha256, position, holder):
                return f"it is not kept for the event at position {position}, which refers to it"
        return None

    async def _is_kept_for(self, sha256: str, position: int, holder: str) -> bool:
        """Also where the event was erased meanwhile, which then does not keep it."""
        kept = await self._log.media.references(sha256, limit=NEWER_MAX, holder=holder)
        return any(one.position == position for one in kept) or not await self.has_content(position)

    async def has_content(self, position: int) -> bool:
        rows = await self._log.rows(after=position - 1, limit=1)
        return bool(rows) and rows[0].data is not None
