"""The commands replay and diff: a conversation as it stood, and what changed in it between two moments."""

import argparse

import msgspec

from chatbot.audit import regression
from chatbot.audit.conversation import Conversation, load
from chatbot.audit.desk import CommandFailed, Desk
from chatbot.audit.difference import diff
from chatbot.audit.moment import Moment, parse_moment
from chatbot.audit.plain_text import as_text, changes_as_text
from chatbot.audit.rendering import as_json, as_markdown
from events.log import EventLog

MOMENT = "a version, a time such as 2026-01-31T09:30:00Z, or a day"


def replay_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--session", action="append", default=[], metavar="ID", help="the session")
    parser.add_argument("--as-of", metavar="MOMENT", help=f"{MOMENT} (default: now)")
    parser.add_argument("--format", choices=("text", "json", "markdown"), default="text", help="(default: text)")
    parser.add_argument("--json", action="store_true", help="the same as --format json")
    regression.arguments(parser.add_argument_group("asking a model the recorded turns again"))


async def replay(desk: Desk, options: argparse.Namespace) -> int:
    """Print a conversation as it stood at a moment, or ask a model its turns again. Nothing is appended."""
    if options.against is not None:
        if options.as_of is not None or options.format == "markdown":
            raise CommandFailed("--as-of and --format markdown do not go with --against", 2)
        return await regression.regress(desk, options)
    if len(options.session) != 1:
        raise CommandFailed("which session? name one with --session ID", 2)
    async with desk.reading() as log:
        conversation = await _stood(log, options.session[0], "--as-of", _moment("--as-of", options.as_of))
    if conversation is None:
        raise CommandFailed(f"there is no session {options.session[0]}, or there was none at that moment")
    if options.json or options.format == "json":
        document = msgspec.json.encode(as_json(conversation, all_branches=True))
        desk.say(msgspec.json.format(document, indent=2).decode())
    elif options.format == "markdown":
        desk.say(as_markdown(conversation).rstrip("\n"))
    else:
        desk.say(as_text(conversation))
    return 0


def diff_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--session", required=True, metavar="ID", help="the session")
    parser.add_argument("--from", dest="since", required=True, metavar="MOMENT", help=f"{MOMENT}; 0: its beginning")
    parser.add_argument("--to", dest="until", metavar="MOMENT", help="the later one (default: now)")
    parser.add_argument("--json", action="store_true", help="one object a line for each change")


async def diff_command(desk: Desk, options: argparse.Namespace) -> int:
    """Print what changed in a conversation between two moments."""
    since, until = _moment("--from", options.since), _moment("--to", options.until)
    async with desk.reading() as log:
        before = await _stood(log, options.session, "--from", since)
        after = await _stood(log, options.session, "--to", until)
    if after is None:
        raise CommandFailed(f"there is no session {options.session}, or there was none at the later moment")
    changes = diff(before, after)
    if options.json:
        for change in changes:
            desk.say_json(change)
    else:
        desk.say(changes_as_text(before, after, changes))
    return 0


async def _stood(log: EventLog, session_id: str, option: str, moment: Moment) -> Conversation | None:
    """The conversation at the moment that `option` names. Raises CommandFailed for a version that it has not."""
    conversation = await load(log, session_id, moment)
    if conversation is not None and moment.version is not None and conversation.version < moment.version:
        raise CommandFailed(f"{option} {moment.version}: the session is at version {conversation.version}", 2)
    return conversation


def _moment(option: str, text: str | None) -> Moment:
    if text is None:
        return Moment()
    try:
        return parse_moment(text)
    except ValueError as error:
        raise CommandFailed(f"{option} {error}", 2) from error
