"""The command backup: a verified online backup of the log."""

import argparse
import asyncio
import contextlib
import os
import sqlite3
import threading
from pathlib import Path

from chatbot.cli.cli_context import CommandContext
from chatbot.cli.exit_codes import CommandFailed, UsageError
from chatbot.cli.progress_bar import ProgressBar
from chatbot.cli.proof.verify import describe_file_faults, describe_unfinished_erasures, verify_files
from chatbot.cli.remedies import with_remedy
from events.errors import LogError
from events.integrity.chain_verifier import ChainVerifier, verify
from events.integrity.file_check import NotedReferences
from events.record import Head
from events.storage.private_file import open_private
from events.transfer.online_backup import BackupStopped, copy_log
from projections.checkpoint import digest_at, find_mismatch
from projections.port import Checkpoint
from projections.sqlite.sqlite_file import checkpoint_of


def add_backup_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("destination", type=Path, metavar="DEST", help="the copy, which must not exist")


async def backup(context: CommandContext, options: argparse.Namespace) -> int:
    """Copy the log as it is now to DEST, also while a server runs, verify the copy's whole chain and print its head.
    DEST appears only once it is complete; until then it is DEST.partial.
    """
    source = context.log_file("pg_dump makes a copy while the log is served, pg_restore brings it back")
    destination = options.destination
    if not destination.name or destination.is_dir():
        raise UsageError(f"{destination} is a directory: name the file that the copy is to be")
    partial = destination.with_name(destination.name + ".partial")
    async with context.open_read_only():  # raises where it is missing or no log
        pass
    if destination.exists():
        raise UsageError(f"{destination} exists: a backup never writes over another")
    projections = context.settings.database.projections
    projected = await asyncio.to_thread(checkpoint_of, projections)  # before the copy, which has at least as much
    _create_partial(partial)  # nothing may be cancelled between this and the try that deletes it
    try:
        await _copy(source, partial)
        head = await _verify_copy(context, partial)
        if projected is not None:
            await _check_nothing_lost(context, partial, projected, projections)
        os.link(partial, destination)  # unlike a rename it fails for a file that was created since
    except FileExistsError as error:
        raise UsageError(f"{destination} exists: a backup never writes over another") from error
    except (sqlite3.Error, OSError, LogError) as error:
        raise CommandFailed(f"no backup was made: {with_remedy(error)}") from error
    finally:
        for suffix in ("", "-journal", "-wal", "-shm"):
            with contextlib.suppress(OSError):
                partial.with_name(partial.name + suffix).unlink()
    size = destination.stat().st_size
    context.print_json(
        {"path": str(destination), "position": head.position, "digest": head.digest.hex(), "bytes": size}
    )
    return 0


def _create_partial(partial: Path) -> None:
    """Create the file with permissions for its owner only. Raises UsageError."""
    try:
        os.close(open_private(partial, os.O_WRONLY | os.O_EXCL))
    except FileExistsError as error:
        raise UsageError(f"{partial} exists: another backup is running, or one was killed; then delete it") from error
    except OSError as error:
        raise UsageError(f"cannot write {partial}: {error.strerror}") from error


async def _copy(source: Path, partial: Path) -> None:
    """Copy in a thread; when cancelled (Ctrl-C), wait for the current step."""
    stop, progress = threading.Event(), None

    def step(done: int, pages: int) -> None:
        nonlocal progress
        progress = progress or ProgressBar("copying", pages, "pages")
        progress.reach(done)

    copying = asyncio.ensure_future(asyncio.to_thread(copy_log, source, partial, stop, step))
    try:
        await asyncio.shield(copying)
    except asyncio.CancelledError:
        stop.set()
        with contextlib.suppress(BackupStopped, sqlite3.Error, OSError):
            await copying
        raise
    finally:
        if progress is not None:
            progress.close()


async def _check_nothing_lost(context: CommandContext, copy: Path, projected: Checkpoint, projections: Path) -> None:
    """Raises CommandFailed where the projections have applied more events than the copy has: then the log's file has
    lost events, for example because its write-ahead file was deleted while the service ran.
    """
    async with context.open_read_only(copy) as log:
        is_other_log = log.head().position > 0 and await digest_at(log, 1) != projected.identity
        reason = None if is_other_log else await find_mismatch(projected, log)
    if reason is not None:
        raise CommandFailed(
            f"no backup was made: the log's file lacks events that were recorded ({projections} has folded up to"
            f" position {projected.position}). Was its -wal file deleted or moved? Stop the service, which saves what"
            f" it still has, and look again. If you replaced the log on purpose, delete {projections}"
        )


async def _verify_copy(context: CommandContext, copy: Path) -> Head:
    async with context.open_read_only(copy) as log:
        progress = ProgressBar("verifying", log.head().position)
        noted = NotedReferences()
        verifier, fault = await verify(log, ChainVerifier(references=noted), progress.reach)
        progress.close()
        if fault is not None:
            raise CommandFailed(
                f"no backup was made: the log does not hold at position {fault.position}: {fault.reason};"
                " see `chatbot salvage`"
            )
        if verifier.incomplete_erasures:
            left = describe_unfinished_erasures(verifier.incomplete_erasures)
            context.print_note(f"the copy is as the log is: {left}")
        files = await verify_files(log, noted)
        if files.faults:
            context.print_note(f"the copy is as the log is: {describe_file_faults(files)}")
        return log.head()
