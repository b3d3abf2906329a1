"""The command migrate: copies a log from a file to PostgreSQL, or back."""

import argparse
import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

from chatbot.cli.cli_context import CommandContext
from chatbot.cli.exit_codes import CommandFailed, UsageError
from chatbot.cli.progress_bar import ProgressBar
from chatbot.cli.remedies import with_remedy
from chatbot.config.database_url import parse_database_url
from chatbot.config.sections.database_settings import DatabaseSettings
from events.errors import LogUnusable, MigrationRefused
from events.storage.database_lock import DatabaseLock
from events.transfer.migration import Migrated, migrate, open_target

NAMED_MAX = 20  # lost files that the command names; it counts all of them
RESUME_HINT = "What was copied stays: run the same command again, and it goes on from there"


def add_migrate_arguments(parser: argparse.ArgumentParser) -> None:
    source = "the log to copy: a file or a PostgreSQL URL (default: DATABASE_URL)"
    parser.add_argument("--from", dest="source", metavar="URL", help=source)
    parser.add_argument("--to", dest="target", metavar="URL", required=True, help="where to, made if missing")


async def migrate_command(context: CommandContext, options: argparse.Namespace) -> int:
    """Copy a log into another store: every event at its position, with its digest, verified on the way. The source is
    not changed. A file must not be served meanwhile; a log in PostgreSQL is followed until the copy has caught up.
    Run again after an interruption, it continues where the target ends. Then set DATABASE_URL to the target.
    """
    source = _parse_database(options.source or context.settings.database.url)
    target = _parse_database(options.target)
    if source.shown == target.shown and source.url.partition("?")[2] == target.url.partition("?")[2]:
        raise UsageError("source and target are the same")
    try:
        done, outcome = await _migrate(context, source, target)
    except asyncio.CancelledError:
        context.print_note(RESUME_HINT)
        raise
    except MigrationRefused as error:
        raise CommandFailed(with_remedy(error)) from error
    context.print_json({"from": source.shown, "to": target.shown, **outcome})
    for lost in done.lost[:NAMED_MAX]:
        context.print_note(f"file {lost.sha256} is missing or damaged; the event at {lost.position} refers to it")
    if done.lost_in_all:
        raise CommandFailed(f"the log was migrated, but {done.lost_in_all:,} files that messages refer to were not")
    return 0


async def _migrate(
    context: CommandContext, source: DatabaseSettings, target: DatabaseSettings
) -> tuple[Migrated, dict[str, object]]:
    async with AsyncExitStack() as stack:
        if isinstance(source.place, Path):
            await _lock_source(source.place, stack)
        log = await context.open_log(source.place, read_only=True)
        stack.push_async_callback(log.close)
        destination = await open_target(target.place)
        stack.push_async_callback(destination.close)
        progress = ProgressBar("migrating", log.head().position)
        done = await migrate(log, destination, progress.reach)
        progress.close()
        return done, {
            "copied": done.events,
            "position": destination.head.position,
            "digest": destination.head.digest.hex(),
        }


async def _lock_source(path: Path, stack: AsyncExitStack) -> None:
    """Lock the file against writers until `stack` closes. Raises LogUnusable (LogInUse where a service runs)."""
    if not await asyncio.to_thread(path.is_file):
        raise LogUnusable(f"database {path} does not exist")
    lock = DatabaseLock(await asyncio.to_thread(path.resolve))
    await asyncio.to_thread(lock.acquire)
    stack.callback(lock.release)


def _parse_database(url: str) -> DatabaseSettings:
    url = url.strip()
    try:
        parse_database_url(url)
    except ValueError as error:
        raise UsageError(f"{error}: give a file's path, or postgresql://user:password@host:5432/database") from None
    return DatabaseSettings(url=url)
