"""The command salvage: recovery of a damaged log: copies verifiable events into a new log and reports the rest."""

import argparse
import asyncio
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import msgspec
from msgspec import Struct
from msgspec.structs import astuple

from chatbot.cli.cli_context import CommandContext
from chatbot.cli.exit_codes import CommandFailed, UsageError
from chatbot.cli.progress_bar import ProgressBar
from events.catalogue import ERASURE_TYPES, HOLDS, HoldsForgotten, SessionDeleted
from events.integrity.erased_versions import redacted_versions
from events.record import Metadata, StoredRow
from events.storage.erasure_rules import without_erased
from events.storage.incomplete_log import WritingCommand
from events.storage.private_file import open_private
from events.storage.sqlite.sqlite_log import SqliteLog
from events.transfer.export_format import to_export_line
from events.transfer.file_copies import FileCopier
from events.transfer.import_target import ROWS_MAX, ImportTarget, discard, is_incomplete, mark_complete
from events.transfer.log_recovery import CorruptLog, RowStatus, ScannedRow
from projections.sqlite.sqlite_file import checkpoint_of

NAMED_MAX = 100  # faults and sessions that the report lists; it counts all of them
UNEXPLAINED_PAGE = 500  # sessions with an unexplained erasure read at once
PAGE_BYTES_MAX = 4 * 2**20  # content kept in memory before it is written


class LostRange(Struct, frozen=True, omit_defaults=True):
    """Positions `first` to `last` are not in the new log, for one reason."""

    first: int
    last: int
    reason: str


class SalvageReport(Struct):
    """The result of a salvage. `after_gap` of the copied events have an envelope that nothing proves."""

    copied: int = 0
    after_gap: int = 0
    unreadable: int = 0
    altered: int = 0
    left_out: int = 0  # intact, but an earlier event of their session is lost
    closed: int = 0  # sessions whose erasure lost its explanation: a session_deleted was appended
    without_text: int = 0  # adopted messages whose text is lost
    files_lost: int = 0  # files that copied messages refer to
    end: int = 0  # the last position that the log is known to have had
    end_is_known: bool = True  # False: it may have had more
    sessions_incomplete: int = 0
    faults: list[LostRange] = []
    faults_in_all: int = 0
    sessions: list[str] = []
    files: list[str] = []  # the SHA-256 of those that are lost


def add_salvage_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("destination", type=Path, metavar="DEST", help="the new log, which must not exist")
    parser.add_argument(
        "--from", dest="source", type=Path, metavar="FILE", help="the damaged log (default: DATABASE_URL)"
    )
    parser.add_argument("--rest", type=Path, metavar="FILE", help="write readable events that were not copied here")


async def salvage(context: CommandContext, options: argparse.Namespace) -> int:
    """Copy every verifiable event of a damaged log into a new log, and report the rest. The damaged file is not
    changed. Of each session events are copied up to the first lost one, as versions have no gaps.
    """
    source = options.source or context.log_file("restore a backup, or name a file with --from")
    destination = options.destination
    is_restart = destination.exists()
    if is_restart and not await is_incomplete(destination, WritingCommand.SALVAGE):
        raise UsageError(f"{destination} exists: salvage writes a new log")
    if not source.is_file():
        raise UsageError(f"{source} does not exist")
    with ExitStack() as stack:
        corrupt_log = CorruptLog(source)
        stack.callback(corrupt_log.close)
        await _expect_projected_end(corrupt_log, source.parent / context.settings.database.projections_path)
        if not corrupt_log.end:
            raise CommandFailed(f"no event can be found in {source}: restore a backup")
        rest = None
        if options.rest is not None:
            try:
                mode = os.O_TRUNC if is_restart else os.O_EXCL
                rest = stack.enter_context(os.fdopen(open_private(options.rest, os.O_WRONLY | mode), "wb"))
            except OSError as error:
                raise UsageError(f"cannot write {options.rest}: {error.strerror}") from error
        if is_restart:
            await asyncio.to_thread(discard, destination)
        target = await ImportTarget.open(destination, WritingCommand.SALVAGE)
        files = FileCopier(corrupt_log.files, target)
        run = _SalvageRun(target, files, rest)
        run.report.end, run.report.end_is_known = corrupt_log.end, corrupt_log.end_is_known
        progress = ProgressBar("salvaging", corrupt_log.end)
        try:
            await run.copy(corrupt_log.scan(progress.reach))
            unexplained = _find_unexplained_erasures(target)
            run.report.closed, run.report.without_text = len(unexplained), target.without_text
            run.report.files_lost = len(files.lost) + files.lost_unnamed
            run.report.files = list(files.lost)[:NAMED_MAX]
        finally:
            progress.close()
            await target.close()
    await _close_erased(destination, unexplained)
    await mark_complete(destination, WritingCommand.SALVAGE)
    return _print_report(context, run.report, destination)


async def _expect_projected_end(corrupt_log: CorruptLog, projections: Path) -> None:
    """Projections of this log know how many events it had at least; those of another log are ignored."""
    projected = await asyncio.to_thread(checkpoint_of, projections)
    if projected is not None and projected.position and corrupt_log.digest_at(1) in (projected.identity, None):
        corrupt_log.expect(projected.position)


class _SalvageRun:
    """One run: the rows that wait to be written, and the report so far."""

    def __init__(self, target: ImportTarget, files: FileCopier, rest: IO[bytes] | None) -> None:
        self.report = SalvageReport()
        self._target = target
        self._files = files
        self._rest = rest
        self._waiting: list[StoredRow] = []
        self._size = 0
        self._origin = ""

    async def copy(self, scanned: Iterator[ScannedRow]) -> None:
        for one in scanned:
            if one.row is not None and not self._origin:
                self._origin = (
                    f"chatbot-log/{one.row.digest.hex()[:32]}" if one.position == 1 else "chatbot-log/damaged"
                )
            if one.row is not None and one.status in (RowStatus.PROVEN, RowStatus.AFTER_GAP):
                self._copy_row(one, one.row)
            else:
                self._count_lost(one)
            if len(self._waiting) == ROWS_MAX or self._size >= PAGE_BYTES_MAX:
                await self._flush()
        await self._flush()

    def _copy_row(self, one: ScannedRow, row: StoredRow) -> None:
        index, report = self._target.index, self.report
        if row.version != index.version(row.stream_id) + 1:
            report.left_out += 1
            if not index.is_skipped(row.stream_id):
                index.set_version(row.stream_id, index.version(row.stream_id))
                index.skip(row.stream_id)
                report.sessions_incomplete += 1
                if len(report.sessions) < NAMED_MAX:
                    report.sessions.append(row.stream_id)
            self._write_rest(row, "an earlier event of its session is lost")
            return
        index.set_version(row.stream_id, row.version)
        if row.type in ERASURE_TYPES:
            index.mark_explained(row.stream_id)
        index.mark_explained(row.stream_id, redacted_versions(row))
        if row.data is None:
            index.mark_erased(row.stream_id, row.version, row.position)
        self._waiting.append(row)
        self._size += len(row.data or "")
        report.copied += 1
        report.after_gap += one.status is RowStatus.AFTER_GAP

    def _count_lost(self, one: ScannedRow) -> None:
        report = self.report
        if one.status is RowStatus.UNREADABLE:
            report.unreadable += 1
        else:
            report.altered += 1
        last = report.faults[-1] if report.faults else None
        if last and (last.last, last.reason) == (one.position - 1, one.reason):
            report.faults[-1] = LostRange(last.first, one.position, one.reason)
        else:
            report.faults_in_all += 1
            if len(report.faults) < NAMED_MAX:
                report.faults.append(LostRange(one.position, one.position, one.reason))
        if one.row is not None:
            self._write_rest(one.row, one.reason)

    def _write_rest(self, row: StoredRow, reason: str) -> None:
        if self._rest is None:
            return
        try:
            line = msgspec.json.encode({"reason": reason, **msgspec.to_builtins(to_export_line(row))})
        except Exception as error:  # noqa: BLE001  columns of any type and bytes
            line = msgspec.json.encode({"reason": reason, "unreadable": repr(error), "columns": repr(row)})
        self._rest.write(line + b"\n")

    async def _flush(self) -> None:
        await self._files.copy_for(without_erased([astuple(row) for row in self._waiting])[0])
        await self._target.add(self._waiting, self._origin)
        self._waiting, self._size = [], 0


def _find_unexplained_erasures(target: ImportTarget) -> list[tuple[str, int]]:
    """Sessions in the new log with erased content and no event that explains it, with their version there."""
    index = target.index
    found: list[tuple[str, int]] = []
    while page := index.unexplained(UNEXPLAINED_PAGE):
        for stream_id, version, _ in page:
            found.append((stream_id, version))
            index.mark_explained(stream_id)
    return found


async def _close_erased(destination: Path, sessions: list[tuple[str, int]]) -> None:
    """The event that erased these sessions is lost: append a session_deleted, so that the new log verifies."""
    log = await SqliteLog.open(destination, command=WritingCommand.SALVAGE)
    try:
        for stream_id, version in sessions:
            reason = "salvage: the event that erased this session was lost"
            explained = HoldsForgotten(()) if stream_id == HOLDS else SessionDeleted(reason=reason)
            await log.erase(stream_id, version, explained, Metadata(cause="salvage"))
    finally:
        await log.close()


def _print_report(context: CommandContext, report: SalvageReport, destination: Path) -> int:
    lost, files = report.unreadable + report.altered + report.left_out, report.files_lost
    more = "" if report.end_is_known else f", and perhaps others after position {report.end:,}, which nothing tells of"
    context.print_json({"path": str(destination), "lost": lost, **msgspec.to_builtins(report)})
    context.print_note(
        f"{report.copied:,} events copied to {destination}, {lost:,} not{more};"
        f" {files:,} files that they refer to are lost. To serve it: put it in the place of the"
        " damaged log (keep that one), delete projections.db and start."
    )
    return 0 if not (lost or files) and report.end_is_known else 1
