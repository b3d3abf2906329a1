"""The command salvage: what still holds of a damaged log, copied into a new one, and a report of the rest."""

import argparse
import asyncio
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import msgspec
from msgspec import Struct

from chatbot.cli.cli_context import CommandContext
from chatbot.cli.exit_codes import CommandFailed, UsageError
from chatbot.cli.progress_bar import ProgressBar
from events.catalogue import ERASURE_TYPES, SessionDeleted
from events.record import Metadata, StoredRow
from events.storage.incomplete_log import WritingCommand
from events.storage.private_file import open_private
from events.storage.sqlite.sqlite_log import SqliteLog
from events.transfer.export_format import to_export_line
from events.transfer.import_target import ROWS_MAX, ImportTarget, discard, finish, is_incomplete
from events.transfer.log_recovery import CorruptLog, RowStatus, ScannedRow
from projections.sqlite.sqlite_file import checkpoint_of

NAMED_MAX = 100  # faults and sessions that the report lists; all are counted
ERASED_MAX = 500  # sessions closed in one round
PAGE_BYTES_MAX = 4 * 2**20  # content held before it is written


class LostRange(Struct, frozen=True, omit_defaults=True):
    """Positions `first` to `last` are not in the new log, for one reason."""

    first: int
    last: int
    reason: str


class SalvageReport(Struct):
    """What became of a damaged log. `after_gap` of the copied events have an envelope that nothing proves."""

    copied: int = 0
    after_gap: int = 0
    unreadable: int = 0
    altered: int = 0
    left_out: int = 0  # whole, but an earlier event of their session is lost
    closed: int = 0  # sessions whose erasure lost its explanation: a session_deleted was appended
    without_text: int = 0  # adopted messages whose text is lost
    end: int = 0  # the last position that the log had, as far as anything tells
    end_is_known: bool = True  # False: it may have had more
    sessions_incomplete: int = 0
    faults: list[LostRange] = []
    faults_in_all: int = 0
    sessions: list[str] = []


def add_salvage_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("destination", type=Path, metavar="DEST", help="the new log, which must not exist")
    parser.add_argument(
        "--from", dest="source", type=Path, metavar="FILE", help="the damaged log (default: DATABASE_URL)"
    )
    parser.add_argument("--rest", type=Path, metavar="FILE", help="write readable events that were not copied here")


async def salvage(context: CommandContext, options: argparse.Namespace) -> int:
    """Copy every verifiable event of a damaged log into a new log, and report the rest. The damaged file stays as it
    is. Of each session events are copied up to the first that is lost: versions have no gaps.
    """
    source = options.source or context.log_file("restore a backup, or name a file with --from")
    destination = options.destination
    starts_again = destination.exists()
    if starts_again and not await is_incomplete(destination, WritingCommand.SALVAGE):
        raise UsageError(f"{destination} exists: salvage writes a new log")
    if not source.is_file():
        raise UsageError(f"{source} does not exist")
    with ExitStack() as stack:
        wreck = CorruptLog(source)
        stack.callback(wreck.close)
        await _expect_projected_end(wreck, source.parent / context.settings.database.projections_path)
        if not wreck.end:
            raise CommandFailed(f"no event can be found in {source}: restore a backup")
        rest = None
        if options.rest is not None:
            try:
                again = os.O_TRUNC if starts_again else os.O_EXCL
                rest = stack.enter_context(os.fdopen(open_private(options.rest, os.O_WRONLY | again), "wb"))
            except OSError as error:
                raise UsageError(f"cannot write {options.rest}: {error.strerror}") from error
        if starts_again:
            await asyncio.to_thread(discard, destination)
        transfer = await ImportTarget.open(destination, WritingCommand.SALVAGE)
        work = _SalvageRun(transfer, rest)
        work.report.end, work.report.end_is_known = wreck.end, wreck.end_is_known
        progress = ProgressBar("salvaging", wreck.end)
        try:
            await work.copy(wreck.found(progress.reach))
            lost = _find_unexplained_erasures(transfer)
            work.report.closed, work.report.without_text = len(lost), transfer.without_text
        finally:
            progress.close()
            await transfer.close()
    await _close_erased(destination, lost)
    await finish(destination, WritingCommand.SALVAGE)
    return _print_report(context, work.report, destination)


async def _expect_projected_end(wreck: CorruptLog, projections: Path) -> None:
    """Projections of this log know how many events it had; those of another one say nothing."""
    folded = await asyncio.to_thread(checkpoint_of, projections)
    if folded is not None and folded.position and wreck.digest_at(1) in (folded.identity, None):
        wreck.expect(folded.position)


class _SalvageRun:
    """One run: rows that wait to be written, and the report."""

    def __init__(self, transfer: ImportTarget, rest: IO[bytes] | None) -> None:
        self.report = SalvageReport()
        self._transfer = transfer
        self._rest = rest
        self._waiting: list[StoredRow] = []
        self._size = 0
        self._origin = ""

    async def copy(self, found: Iterator[ScannedRow]) -> None:
        for one in found:
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
        scratch, report = self._transfer.scratch, self.report
        if row.version != scratch.version(row.stream_id) + 1:
            report.left_out += 1
            if not scratch.is_skipped(row.stream_id):
                scratch.reach(row.stream_id, scratch.version(row.stream_id))
                scratch.skip(row.stream_id)
                report.sessions_incomplete += 1
                if len(report.sessions) < NAMED_MAX:
                    report.sessions.append(row.stream_id)
            self._write_rest(row, "an earlier event of its session is lost")
            return
        scratch.reach(row.stream_id, row.version)
        if row.type in ERASURE_TYPES:
            scratch.explained(row.stream_id)
        if row.data is None:
            scratch.erased(row.stream_id, row.position)
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
        await self._transfer.add(self._waiting, self._origin)
        self._waiting, self._size = [], 0


def _find_unexplained_erasures(transfer: ImportTarget) -> list[tuple[str, int]]:
    """Sessions in the new log whose content is gone with no event that says why, and their version there."""
    scratch = transfer.scratch
    lost: list[tuple[str, int]] = []
    while some := scratch.unexplained(ERASED_MAX):
        for stream_id, version, _ in some:
            lost.append((stream_id, version))
            scratch.explained(stream_id)
    return lost


async def _close_erased(destination: Path, lost: list[tuple[str, int]]) -> None:
    """The event that erased these sessions is lost: say so in a session_deleted, so that the new log holds."""
    log = await SqliteLog.open(destination, command=WritingCommand.SALVAGE)
    try:
        for stream_id, version in lost:
            deleted = SessionDeleted(reason="salvage: the event that erased this session was lost")
            await log.erase(stream_id, version, deleted, Metadata(cause="salvage"))
    finally:
        await log.close()


def _print_report(context: CommandContext, report: SalvageReport, destination: Path) -> int:
    lost = report.unreadable + report.altered + report.left_out
    more = "" if report.end_is_known else f", and perhaps others after position {report.end:,}, which nothing tells of"
    context.print_json({"path": str(destination), "lost": lost, **msgspec.to_builtins(report)})
    context.print_note(
        f"{report.copied:,} events copied to {destination}, {lost:,} not{more}. To serve it: put it in the place of the"
        " damaged log (keep that one), delete projections.db and start."
    )
    return 0 if not lost and report.end_is_known else 1
