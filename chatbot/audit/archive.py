"""The commands export and import: events out of a log as lines of JSON, and into another log."""

import argparse
import asyncio
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from chatbot.audit.desk import CommandFailed, Desk, Progress
from chatbot.audit.proving import origin_of
from chatbot.sessions.recorded_text import recorded_text
from events.archive import FORMAT_NAME, FORMAT_VERSION, ArchiveFault, ArchiveReader, ArchiveWriter, Header
from events.catalogue import ReplyInterrupted
from events.intake import Intake, Rules
from events.log import EventLog
from events.private_file import open_private
from events.record import Head, Metadata
from events.selection import Selection
from events.snapshot import Snapshot
from events.sqlite import SqliteLog
from events.transfer import Transfer, TransferRefused, finish, is_unfinished
from events.trust import check_tail
from events.unfinished import LogUnfinished, Work
from projections.session import Session, evolve

PAGE = 500  # rows read at once
INTERRUPTED = "What was written stays: import the file again with --resume before you serve the log"


def export_arguments(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--owner", metavar="NAME", help="only the sessions of this API key, and what their forks read")
    which.add_argument("--session", metavar="ID", help="only this session, and what it reads if it is a fork")
    parser.add_argument("--output", type=Path, metavar="FILE", help="a new file that you alone can read")


async def export(desk: Desk, options: argparse.Namespace) -> int:
    """Events as lines of JSON, on standard output or in a new file, beside a running server or of a copied file."""
    if options.output is None and sys.stdout.isatty():
        raise CommandFailed("export writes a file: add `--output FILE.ndjson`", 2)
    async with desk.reading() as log:
        try:
            is_part = options.owner is not None or options.session is not None
            path = desk.file("export all of it, or move it to a file with `chatbot migrate` first") if is_part else None
            with _writing(options.output) as out:
                events = await export_log(log, path, out, owner=options.owner, session=options.session)
        except BrokenPipeError:
            raise CommandFailed("whoever read the export has stopped: it is not whole") from None
        except OSError as error:
            raise CommandFailed(f"cannot write the export, it is not whole: {error.strerror}") from error
        except ArchiveFault as error:
            raise CommandFailed(str(error)) from error
        desk.note(f"{events:,} events of {await origin_of(log)}")
    return 0


@contextmanager
def _writing(path: Path | None) -> Iterator[BinaryIO]:
    """Standard output, or a new file at `path`, which is deleted again if the export fails. Raises CommandFailed."""
    if path is None:
        yield sys.stdout.buffer
        return
    try:
        descriptor = open_private(path, os.O_WRONLY | os.O_EXCL)
    except FileExistsError as error:
        raise CommandFailed(f"{path} exists: an export never writes over another file", 2) from error
    except OSError as error:
        raise CommandFailed(f"cannot write {path}: {error.strerror}", 2) from error
    try:
        with os.fdopen(descriptor, "wb") as out:
            yield out
    except BaseException:
        path.unlink(missing_ok=True)
        raise


async def export_log(
    log: EventLog, path: Path | None, out: BinaryIO, *, owner: str | None = None, session: str | None = None
) -> int:
    """Write the log, or part of it from the file `path`, to `out`; the number of its events. Raises CommandFailed for
    a part that is empty, ArchiveFault for a damaged row.
    """
    if owner is None and session is None:
        async with log.snapshot() as whole:
            header = _header(whole.head, await origin_of(whole), None, None)
            return await _write(whole, ArchiveWriter(out, header))
    if path is None:
        raise CommandFailed("a part of a log is exported from its file", 2)
    async with Selection.open(path, owner=owner, session=session) as selection:
        if not await selection.count():
            raise CommandFailed("the log has no such session")
        header = _header(selection.head, await origin_of(log), owner, session)
        return await _write(selection, ArchiveWriter(out, header))


def _header(head: Head, origin: str, owner: str | None, session: str | None) -> Header:
    return Header(FORMAT_NAME, FORMAT_VERSION, origin, head.position, head.digest.hex(), owner, session)


async def _write(source: Snapshot | Selection, archive: ArchiveWriter) -> int:
    progress = Progress("exporting", source.head.position)
    reached = 0
    while page := await source.rows(after=reached, limit=PAGE):
        for row in page:
            archive.add(row)
        reached = page[-1].position
        progress.reach(reached)
    archive.close()
    progress.close()
    return archive.events


def import_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", nargs="?", help="what export wrote")
    parser.add_argument("--skip-existing", action="store_true", help="leave out sessions that the log has already")
    parser.add_argument("--resume", action="store_true", help="go on with an import of this file that was interrupted")
    parser.add_argument(
        "--accept-partial", action="store_true", help="use the log with what an interrupted import has written; no FILE"
    )


async def import_command(desk: Desk, options: argparse.Namespace) -> int:
    """Copy an export into the log, made if missing; no server may run on it. Versions and times stay, the chain is
    new, and each event's metadata says where it is from (`imported`). Replies that had not ended are closed, names of
    nodes left out. Sessions that the log has already refuse it.
    """
    rules = Rules(skip_existing=options.skip_existing, resume=options.resume)
    path = desk.file("import into a file, and move that up with `chatbot migrate`")
    if options.accept_partial == (options.file is not None):
        raise CommandFailed("import takes FILE, or --accept-partial alone", 2)
    if options.accept_partial:
        return await _accept_partial(desk, path)
    try:
        with options.file.open("rb") as file:
            told = await import_file(file, path, rules)
    except asyncio.CancelledError:
        desk.note(INTERRUPTED)
        raise
    except OSError as error:
        raise CommandFailed(f"cannot read {options.file}: {error.strerror}", 2) from error
    except ArchiveFault as error:
        raise CommandFailed(f"{options.file}: {error}") from error
    except TransferRefused as error:
        raise CommandFailed(str(error)) from error
    desk.say_json(told)
    return 0


async def _accept_partial(desk: Desk, path: Path) -> int:
    if not await is_unfinished(path, Work.IMPORT):
        raise CommandFailed(f"{path} has no import that was interrupted")
    await finish(path, Work.IMPORT)
    desk.note(f"{path} may be used; sessions of the file that was imported may be missing or lack their end")
    return 0


async def import_file(file: BinaryIO, path: Path, rules: Rules) -> dict[str, object]:
    """Copy the export in `file` into the log in `path`; what became of it. Raises ArchiveFault, TransferRefused,
    LogUnusable. A file that is wrong writes nothing, and makes no log: all of it is checked first.
    """
    archive = ArchiveReader(file)
    transfer = await Transfer.open(path, Work.IMPORT)
    try:
        if transfer.goes_on and transfer.head.position and not rules.resume:
            raise LogUnfinished(path, Work.IMPORT)  # noqa: TRY301  the file is to be closed
        if transfer.head.position:
            await _check(path)
        intake = Intake(transfer, archive.header.origin, rules)
        checking = Progress("checking", archive.header.position)
        events = await intake.survey(archive, checking.reach)
        checking.close()
        transfer.begin(archive.sha256)
        file.seek(0)
        importing = Progress("importing", events)
        try:
            await intake.write(ArchiveReader(file), importing.reach)
        except TransferRefused as error:
            raise TransferRefused(f"{error}. {INTERRUPTED}" if transfer.added else str(error)) from error
        importing.close()
    except BaseException:
        await transfer.close(refused=True)
        raise
    owing = list(_owing(transfer))
    await transfer.close()
    head, closed = await close_replies(path, owing) if owing else (transfer.head, 0)
    await finish(path, Work.IMPORT)
    return {
        "imported": transfer.added,
        "skipped": intake.skipped,
        "without_text": transfer.without_text,
        "closed": closed,
        "origin": archive.header.origin,
        "position": head.position,
        "digest": head.digest.hex(),
    }


def _owing(transfer: Transfer) -> Iterator[str]:
    """Sessions of the file that have replies without an end."""
    last = ""
    while page := transfer.scratch.owing(last, PAGE):
        yield from page
        last = page[-1]


async def close_replies(path: Path, session_ids: Sequence[str]) -> tuple[Head, int]:
    """End the replies that these sessions owe: nobody writes them here. Where the log ends then, and their number."""
    log = await SqliteLog.open(path, work=Work.IMPORT)
    closed = 0
    try:
        for session_id in session_ids:
            session = None
            while page := await log.read(session_id, after=session.version if session else 0, limit=PAGE):
                for recorded in page:
                    session = evolve(session, recorded)
            ends = [] if session is None else await _ends(log, session)
            if session is not None and ends:
                await log.append(session_id, session.version, ends, Metadata(cause="import"))
                closed += len(ends)
        return log.head(), closed
    finally:
        await log.close()


async def _ends(log: EventLog, session: Session) -> list[ReplyInterrupted]:
    """The event that ends each reply of the session, the running one with its recorded text."""
    ends = [ReplyInterrupted(waiting.reply_id, "", "import") for waiting in session.pending]
    if session.open_reply is not None:
        text = await recorded_text(log, session.session_id, session.open_reply, page=PAGE)
        ends.insert(0, ReplyInterrupted(session.open_reply.reply_id, text, "import"))
    return ends


async def _check(path: Path) -> None:
    """Nothing is built on a log that does not hold. Raises LogUnusable."""
    log = await SqliteLog.open(path, read_only=True, work=Work.IMPORT)
    try:
        await check_tail(log, path)
    finally:
        await log.close()
