"""The commands replay and diff: a conversation as of a point in time, and the diff between two of them."""

import argparse

import msgspec

from chatbot.audit.conversation import Conversation, load_conversation
from chatbot.audit.conversation_diff import diff_conversations
from chatbot.audit.conversation_rendering import build_document, render_markdown
from chatbot.audit.plain_text import render_changes, render_text
from chatbot.audit.point_in_time import PointInTime, parse_point_in_time
from chatbot.cli.cli_context import CommandContext
from chatbot.cli.exit_codes import CommandFailed, UsageError
from chatbot.cli.record import model_regression
from events.log import EventLog

MOMENT = "a version, a time such as 2026-01-31T09:30:00Z, or a day"


def add_replay_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--session", action="append", default=[], metavar="ID", help="the session")
    parser.add_argument("--as-of", metavar="MOMENT", help=f"{MOMENT} (default: now)")
    parser.add_argument("--format", choices=("text", "json", "markdown"), default="text", help="(default: text)")
    parser.add_argument("--json", action="store_true", help="the same as --format json")
    model_regression.add_regression_arguments(parser.add_argument_group("asking a model the recorded turns again"))


async def replay(context: CommandContext, options: argparse.Namespace) -> int:
    """Print a conversation as it was at a moment, or send its turns to a model again. Appends nothing."""
    if options.against is not None:
        if options.as_of is not None or options.format == "markdown":
            raise UsageError("--as-of and --format markdown do not go with --against")
        return await model_regression.replay_against_model(context, options)
    if len(options.session) != 1:
        raise UsageError("which session? name one with --session ID")
    async with context.open_read_only() as log:
        conversation = await _load_at(log, options.session[0], "--as-of", _parse_moment("--as-of", options.as_of))
    if conversation is None:
        raise CommandFailed(f"there is no session {options.session[0]}, or there was none at that moment")
    if options.json or options.format == "json":
        document = msgspec.json.encode(build_document(conversation, all_branches=True))
        context.print_result(msgspec.json.format(document, indent=2).decode())
    elif options.format == "markdown":
        context.print_result(render_markdown(conversation).rstrip("\n"))
    else:
        context.print_result(render_text(conversation))
    return 0


def add_diff_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--session", required=True, metavar="ID", help="the session")
    parser.add_argument("--from", dest="since", required=True, metavar="MOMENT", help=f"{MOMENT}; 0: its beginning")
    parser.add_argument("--to", dest="until", metavar="MOMENT", help="the later one (default: now)")
    parser.add_argument("--json", action="store_true", help="one object a line for each change")


async def diff_command(context: CommandContext, options: argparse.Namespace) -> int:
    """Print what changed in a conversation between two moments."""
    since, until = _parse_moment("--from", options.since), _parse_moment("--to", options.until)
    async with context.open_read_only() as log:
        before = await _load_at(log, options.session, "--from", since)
        after = await _load_at(log, options.session, "--to", until)
    if after is None:
        raise CommandFailed(f"there is no session {options.session}, or there was none at the later moment")
    changes = diff_conversations(before, after)
    if options.json:
        for change in changes:
            context.print_json(change)
    else:
        context.print_result(render_changes(before, after, changes))
    return 0


async def _load_at(log: EventLog, session_id: str, option: str, moment: PointInTime) -> Conversation | None:
    """The conversation as of `moment`, which `option` gave. Raises UsageError for a version that it does not have."""
    conversation = await load_conversation(log, session_id, moment)
    if conversation is not None and moment.version is not None and conversation.version < moment.version:
        raise UsageError(f"{option} {moment.version}: the session is at version {conversation.version}")
    return conversation


def _parse_moment(option: str, text: str | None) -> PointInTime:
    if text is None:
        return PointInTime()
    try:
        return parse_point_in_time(text)
    except ValueError as error:
        raise UsageError(f"{option} {error}") from error
