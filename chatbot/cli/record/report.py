"""The command report: sessions of a person, an owner or an id as one HTML file, or as lines of JSON."""

import argparse
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import chatbot
from chatbot.audit.report.html_writer import HtmlWriter
from chatbot.audit.report.ndjson_writer import NdjsonWriter
from chatbot.audit.report.report_pieces import Report, ReportWriter
from chatbot.audit.report.report_query import SESSIONS_MAX, ReportRequest, retention_of
from chatbot.audit.search.event_filter import SessionFilter
from chatbot.audit.search.session_selection import find_sessions
from chatbot.audit.session_proof import ProofFailed
from chatbot.cli.cli_context import CommandContext
from chatbot.cli.exit_codes import CommandFailed, UsageError
from chatbot.cli.output_file import open_output
from chatbot.cli.progress_bar import ProgressBar
from chatbot.cli.proof.prove import read_one_checkpoint
from chatbot.cli.record.find import parse_entries
from chatbot.runtime.counted_noun import counted
from chatbot.runtime.throttle import DutyCycleThrottle
from events.log import EventLog


def add_report_arguments(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--session", dest="sessions", nargs="+", metavar="ID", help="these sessions")
    which.add_argument("--owner", metavar="NAME", help="all sessions of this API key's name, also erased ones")
    which.add_argument("--metadata", nargs="+", metavar="NAME=VALUE", help="sessions with all of these entries")
    parser.add_argument("--ever", action="store_true", help="with --metadata: also sessions that had them earlier")
    parser.add_argument("--out", type=Path, metavar="FILE", help="a new file that you alone can read")
    parser.add_argument("--format", choices=("html", "ndjson"), default="html", help="(default: html)")
    parser.add_argument("--requests", action="store_true", help="with the request that each reply answers")
    parser.add_argument("--images", action="store_true", help="with the images of messages")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="prove the events against this checkpoint")
    parser.add_argument("--controller", metavar="TEXT", help="who is responsible for the data, for the first page")
    parser.add_argument("--purpose", metavar="TEXT", help="what the data is used for, for the first page")


async def report(context: CommandContext, options: argparse.Namespace) -> int:
    """Write a report on sessions, also while a server runs, or of a copied file. Appends nothing.

    Exit code 0: written; 1: no session was found, or the log is not the one that was signed.
    """
    if options.ever and not options.metadata:
        raise UsageError("--ever goes with --metadata")
    if options.out is None and sys.stdout.isatty():
        raise UsageError(f"a report is a file: add `--out report.{options.format}`")
    checkpoint = None if options.checkpoint is None else read_one_checkpoint(options.checkpoint)
    async with context.open_read_only() as log:
        selected_by, session_ids = await _select(log, options)
        if not session_ids:
            raise CommandFailed("no session was found: there is nothing to report")
        if len(session_ids) > SESSIONS_MAX:
            raise CommandFailed(f"{len(session_ids):,} sessions are too many for one report; at most {SESSIONS_MAX:,}")
        request = ReportRequest(
            session_ids=session_ids,
            selected_by=selected_by,
            created_at=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            program=f"chatbot {chatbot.__version__}",
            retention=retention_of(context.settings.sessions),
            controller=options.controller,
            purpose=options.purpose,
            requests=options.requests,
            images=options.images,
            checkpoint=checkpoint,
        )
        writer: ReportWriter = HtmlWriter() if options.format == "html" else NdjsonWriter()
        written = Report(log, request, writer, DutyCycleThrottle(rest_ratio=0))
        try:
            with open_output(options.out, "a report") as out:
                await _write(written.pieces(), out)
        except BrokenPipeError:
            raise CommandFailed("the reader of the report has stopped: it is not complete") from None
        except OSError as error:
            raise CommandFailed(f"cannot write the report: {error.strerror}") from error
        except ProofFailed as error:
            raise CommandFailed(str(error)) from error
    context.print_note(counted(len(session_ids), "session"))
    return 0


async def _select(log: EventLog, options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """How the sessions are selected, and their ids, the oldest first."""
    if options.sessions:
        ids = list(dict.fromkeys(one.lower() for one in options.sessions))
        missing = [one for one in ids if not await log.read(one, limit=1)]
        if missing:
            raise CommandFailed(f"there is no session {', '.join(missing)}")
        return {"sessions": ids}, ids
    if options.owner is not None:
        if not options.owner:
            raise UsageError("--owner needs the name of an API key")
        wanted, selected_by = SessionFilter(owner=options.owner), {"owner": options.owner}
    else:
        entries = parse_entries(options.metadata)
        wanted = SessionFilter(metadata=entries, ever=options.ever)
        selected_by = {"metadata": entries, "ever": options.ever}
    progress = ProgressBar("selecting sessions", log.head().position)
    found = await find_sessions(log, wanted, on_progress=progress.reach)
    progress.close()
    return selected_by, found


async def _write(pieces: AsyncIterator[bytes], out: BinaryIO) -> None:
    async for piece in pieces:
        out.write(piece)
    out.flush()
