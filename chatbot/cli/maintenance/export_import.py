"""The commands export and import: events of a log as lines of JSON (NDJSON), and back into another log."""

import argparse
import asyncio
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec
from msgspec import Struct

from chatbot.audit.search.event_filter import EventFilter, SessionFilter
from chatbot.audit.search.session_selection import find_sessions
from chatbot.cli.cli_context import CommandContext
from chatbot.cli.exit_codes import CommandFailed, UsageError
from chatbot.cli.output_file import open_output
from chatbot.cli.progress_bar import ProgressBar
from chatbot.cli.record.find import add_filter_arguments, read_filters
from chatbot.cli.remedies import with_remedy
from chatbot.keys.key_registry import KeyRegistry
from chatbot.sessions.replies.recorded_text import recorded_reply
from events.catalogue import ReplyInterrupted
from events.factory import now_us
from events.integrity.log_identity import log_identity
from events.integrity.startup_check import check_integrity
from events.log import EventLog, Snapshot
from events.paging import read_pages
from events.record import Head, Metadata
from events.storage.incomplete_log import LogIncomplete, WritingCommand
from events.storage.sqlite.sqlite_log import SqliteLog
from events.transfer.export_filter import ExportFilter
from events.transfer.export_format import (
    FORMAT_NAME,
    FORMAT_VERSION,
    VERSION_WITHOUT_MEDIA,
    ExportFileError,
    ExportHeader,
    ExportReader,
    ExportWriter,
)
from events.transfer.import_target import ImportRefused, ImportTarget, is_incomplete, mark_complete
from events.transfer.importer import Importer, ImportRules
from projections.folds.session import Session, evolve

PAGE = 500  # rows read at once
NAMED_MAX = 10  # keys in a note
RESUME_HINT = "What was written stays: import the file again with --resume before you serve the log"


def add_export_arguments(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--owner", metavar="NAME", help="only the sessions of this API key, and what their forks read")
    which.add_argument("--session", metavar="ID", help="only this session, and what it reads if it is a fork")
    add_filter_arguments(parser)
    parser.add_argument("--output", type=Path, metavar="FILE", help="a new file that you alone can read")


async def export(context: CommandContext, options: argparse.Namespace) -> int:
    """Write events as lines of JSON to standard output or a new file, also while a server runs, or of a copied file."""
    if options.output is None and sys.stdout.isatty():
        raise UsageError("export writes a file: add `--output FILE.ndjson`")
    part = read_part(options)
    async with context.open_read_only() as log:
        try:
            hint = "export all of it, or move it to a file with `chatbot migrate` first"
            path = context.log_file(hint) if part.selects_sessions else None
            with open_output(options.output, "an export") as out:
                events = await export_log(log, path, out, part)
        except BrokenPipeError:
            raise CommandFailed("the program that read the export has stopped: it is not whole") from None
        except OSError as error:
            raise CommandFailed(f"cannot write the export, it is not whole: {error.strerror}") from error
        except ExportFileError as error:
            raise CommandFailed(str(error)) from error
        context.print_note(f"{events:,} events of {await log_identity(log)}")
    return 0


class ExportedPart(Struct, frozen=True, kw_only=True):
    """What is exported: sessions of an owner, one session, or those with some metadata; of them events that match."""

    owner: str | None = None
    session: str | None = None
    metadata: SessionFilter = SessionFilter()
    events: EventFilter = EventFilter()

    @property
    def selects_sessions(self) -> bool:
        return self.owner is not None or self.session is not None or not self.metadata.is_empty


ALL = ExportedPart()


def read_part(options: argparse.Namespace) -> ExportedPart:
    """Raises UsageError."""
    events, sessions = read_filters(options)
    metadata = SessionFilter(metadata=sessions.metadata, ever=sessions.ever, owner=sessions.owner)
    if not sessions.metadata:
        metadata = SessionFilter()
    elif options.session is not None:
        raise UsageError("--session and --metadata do not go together")
    return ExportedPart(owner=options.owner, session=options.session, metadata=metadata, events=events)


async def export_log(log: EventLog, path: Path | None, out: BinaryIO, part: ExportedPart = ALL) -> int:
    """Write the log, or part of it from the file `path`, to `out`. Returns the number of events written.

    Raises CommandFailed for an empty part, ExportFileError for a damaged row.
    """
    if not part.selects_sessions:
        async with log.snapshot() as snapshot:
            header = await _header(snapshot, await log_identity(snapshot), part)
            return await _write(snapshot, ExportWriter(out, header), part.events)
    if path is None:
        raise UsageError("a part of a log is exported from its file")
    sessions = None if part.session is None else [part.session]
    if not part.metadata.is_empty:
        sessions = await find_sessions(log, part.metadata)
    async with ExportFilter.open(path, owner=part.owner, sessions=sessions) as selection:
        if not await selection.count():
            raise CommandFailed("the log has no such session")
        header = await _header(selection, await log_identity(log), part)
        return await _write(selection, ExportWriter(out, header), part.events)


async def _header(source: Snapshot | ExportFilter, origin: str, part: ExportedPart) -> ExportHeader:
    return ExportHeader(
        FORMAT_NAME,
        FORMAT_VERSION if await source.media.files(limit=1) else VERSION_WITHOUT_MEDIA,
        origin,
        source.head.position,
        source.head.digest.hex(),
        part.owner,
        part.session,
        sessions=None if part.metadata.is_empty else msgspec.to_builtins(part.metadata),
        events=None if part.events.is_empty else msgspec.to_builtins(part.events),
    )


async def _write(source: Snapshot | ExportFilter, writer: ExportWriter, events: EventFilter) -> int:
    progress = ProgressBar("exporting", source.head.position)
    reached = 0
    while page := await source.rows(after=reached, limit=PAGE):
        for row in page:
            if not events.matches(row):
                continue
            for sha256 in writer.files_to_write(row):
                for stat in (await source.media.stat([sha256])).values():  # none where the log lacks the file
                    await writer.add_media(stat, source.media.read(sha256))
            writer.add(row)
        reached = page[-1].position
        progress.reach(reached)
    writer.close()
    progress.close()
    return writer.events


def add_import_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", nargs="?", help="what export wrote")
    parser.add_argument("--skip-existing", action="store_true", help="leave out sessions that the log has already")
    parser.add_argument("--resume", action="store_true", help="go on with an import of this file that was interrupted")
    parser.add_argument(
        "--accept-partial", action="store_true", help="use the log with what an interrupted import has written; no FILE"
    )


async def import_command(context: CommandContext, options: argparse.Namespace) -> int:
    """Copy an export into the log, created if missing; no server may run on it. Versions and times stay, the chain is
    new, and each event's metadata says where it is from (`imported`). Open replies are closed, names of nodes removed.
    An export with sessions that the log has already is refused.
    """
    rules = ImportRules(skip_existing=options.skip_existing, resume=options.resume)
    path = context.log_file("import into a file, and move that up with `chatbot migrate`")
    if options.accept_partial == (options.file is not None):
        raise UsageError("import takes FILE, or --accept-partial alone")
    if options.accept_partial:
        return await _accept_partial(context, path)
    try:
        with options.file.open("rb") as file:
            outcome = await import_file(file, path, rules)
    except asyncio.CancelledError:
        context.print_note(RESUME_HINT)
        raise
    except OSError as error:
        raise UsageError(f"cannot read {options.file}: {error.strerror}") from error
    except ExportFileError as error:
        raise CommandFailed(f"{options.file}: {with_remedy(error)}") from error
    except ImportRefused as error:
        raise CommandFailed(with_remedy(error)) from error
    context.print_json(outcome)
    await _note_keys(context, path)
    return 0


async def _note_keys(context: CommandContext, path: Path) -> None:
    """Name the API keys in the log: some may have come with the import, and open it to people of another service."""
    async with context.open_read_only(path) as log:
        keys = KeyRegistry(context.settings.auth, log, now_us)
        await keys.refresh()
    if valid := [one.name for one in keys.recorded.values() if one.valid_secrets(now_us())]:
        named = ", ".join(valid[:NAMED_MAX])
        context.print_note(
            f"the log has {len(valid)} valid API keys ({named}): see `chatbot key list`, and revoke those whose holders"
            " are not to use this service"
        )


async def _accept_partial(context: CommandContext, path: Path) -> int:
    if not await is_incomplete(path, WritingCommand.IMPORT):
        raise CommandFailed(f"{path} has no import that was interrupted")
    await mark_complete(path, WritingCommand.IMPORT)
    context.print_note(f"{path} may be used; sessions of the file that was imported may be missing or lack their end")
    return 0


async def import_file(file: BinaryIO, path: Path, rules: ImportRules) -> dict[str, object]:
    """Copy the export in `file` into the log in `path`. Returns a summary for printing.

    The whole file is validated first: an invalid one writes nothing and creates no log. Raises ExportFileError,
    ImportRefused, LogUnusable.
    """
    reader = ExportReader(file)
    if reader.header.events is not None:
        raise ExportFileError("it has only the events that match a filter, and sessions with gaps cannot be imported")
    target = await ImportTarget.open(path, WritingCommand.IMPORT)
    try:
        if target.is_resumed and target.head.position and not rules.resume:
            raise LogIncomplete(path, WritingCommand.IMPORT)  # noqa: TRY301  the file must be closed
        if target.head.position:
            await _check_integrity(path)
        importer = Importer(target, reader.header.origin, rules)
        checking = ProgressBar("checking", reader.header.position)
        events = await importer.validate(reader, checking.reach)
        checking.close()
        target.begin_file(reader.sha256)
        file.seek(0)
        importing = ProgressBar("importing", events)
        try:
            await importer.write(ExportReader(file), importing.reach)
        except ImportRefused as error:
            raise ImportRefused(f"{error}. {RESUME_HINT}" if target.added else str(error)) from error
        importing.close()
    except BaseException:
        await target.close(refused=True)
        raise
    streams_owing_replies = list(_sessions_with_open_replies(target))
    await target.close()
    head, closed = (
        await interrupt_open_replies(path, streams_owing_replies) if streams_owing_replies else (target.head, 0)
    )
    await mark_complete(path, WritingCommand.IMPORT)
    return {
        "imported": target.added,
        "skipped": importer.skipped,
        "without_text": target.without_text,
        "without_file": target.without_file,
        "closed": closed,
        "origin": reader.header.origin,
        "position": head.position,
        "digest": head.digest.hex(),
    }


def _sessions_with_open_replies(target: ImportTarget) -> Iterator[str]:
    """Sessions of the imported file that have open replies."""
    last = ""
    while page := target.index.streams_owing_replies(last, PAGE):
        yield from page
        last = page[-1]


async def interrupt_open_replies(path: Path, session_ids: Sequence[str]) -> tuple[Head, int]:
    """Close the open replies of these sessions as interrupted. Returns the head after that, and their number."""
    log = await SqliteLog.open(path, command=WritingCommand.IMPORT)
    closed = 0
    try:
        for session_id in session_ids:
            session = None
            async for page in read_pages(log, session_id, page_max=PAGE):
                for recorded in page:
                    session = evolve(session, recorded)
            ends = [] if session is None else await _interruptions(log, session)
            if session is not None and ends:
                await log.append(session_id, session.version, ends, Metadata(cause="import"))
                closed += len(ends)
        return log.head(), closed
    finally:
        await log.close()


async def _interruptions(log: EventLog, session: Session) -> list[ReplyInterrupted]:
    """An event for each open reply of the session; that of the running one keeps its recorded text."""
    ends = [ReplyInterrupted(waiting.reply_id, "", "import") for waiting in session.pending]
    if session.open_reply is not None:
        recorded = await recorded_reply(log, session.session_id, session.open_reply, page=PAGE)
        reply_id, content, parts = session.open_reply.reply_id, recorded.content, recorded.parts
        ends.insert(0, ReplyInterrupted(reply_id, content, "import", parts=parts))
    return ends


async def _check_integrity(path: Path) -> None:
    """Refuse to import into a damaged log. Raises LogUnusable."""
    log = await SqliteLog.open(path, read_only=True, command=WritingCommand.IMPORT)
    try:
        await check_integrity(log, path)
    finally:
        await log.close()
