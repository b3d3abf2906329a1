"""The command rebuild: rebuilds the projections from the log, also while the service runs."""

import argparse
import sqlite3
from pathlib import Path

from chatbot.cli.cli_context import CommandContext
from chatbot.cli.exit_codes import CommandFailed
from chatbot.cli.progress_bar import ProgressBar
from chatbot.cli.remedies import with_remedy
from events.log import EventLog
from projections.errors import ProjectionError, ProjectionsInUse
from projections.factory import rebuild_in_database
from projections.sqlite.rebuild import rebuild


def add_rebuild_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--projections", type=Path, metavar="PATH", help="the file to make (default: the settings')")


async def rebuild_command(context: CommandContext, options: argparse.Namespace) -> int:
    """Rebuild the projections from the log; the present ones are used until then. Safe to interrupt."""
    database = context.settings.database
    path = options.projections or (database.shown if database.is_postgres else database.projections)
    async with context.open_read_only() as log:
        progress = ProgressBar("rebuilding", log.head().position)
        try:
            events, in_place = await _rebuild(context, log, path, progress)
        except ProjectionsInUse as error:
            raise CommandFailed(f"{path} is being rebuilt already") from error
        except (ProjectionError, OSError, sqlite3.Error) as error:
            raise CommandFailed(f"cannot make {path}: {with_remedy(error)}") from error
        finally:
            progress.close()
    context.print_result(f"{path}: {events} events folded, {progress.rate:,.0f} events/s")
    if not in_place:
        context.print_result("the running service goes on with it from its next event")
    return 0


async def _rebuild(context: CommandContext, log: EventLog, path: Path | str, progress: ProgressBar) -> tuple[int, bool]:
    """The position reached, and whether the result is in place."""
    database = context.settings.database
    if isinstance(path, str):
        return await rebuild_in_database(str(database.place), log, database.projection_batch_max, progress.reach)
    log_file = None if database.is_postgres else database.path
    return await rebuild(log, path, database.projection_batch_max, progress.reach, log_file)
