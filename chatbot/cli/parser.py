"""The words of the command line: what `python run.py --help` says, and how arguments are read."""

import argparse
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any

from msgspec import Struct

from chatbot.audit import (
    archive,
    backup,
    erased,
    erasing,
    migrating,
    projecting,
    prompt,
    proofs,
    proving,
    rebuilding,
    replaying,
    salvaging,
)
from chatbot.audit.desk import Desk
from chatbot.utf8 import is_unicode

DESCRIPTION = """\
A chat backend whose every word is on the record.

Without a command it serves the HTTP API, with Swagger UI at /docs, on the address in config.toml
(127.0.0.1:8080). Settings come from config.toml, a .env file, the environment and the options below;
later ones win. `run.py config` shows all of them and where each came from."""
EPILOG = """\
examples:
  python run.py                                    serve, with the embedded model
  LLM_SERVER_URL=http://localhost:8000 python run.py
                                                   serve, with a model server (midm or OpenAI-compatible)
  python run.py --host 0.0.0.0 --port 9000         listen on all networks (configure API keys first)
  python run.py --workers 4                        serve with four processes
  python run.py --reload                           serve, and start again when code or settings change
  python run.py config                             print the settings in force
  python run.py health                             ask the running service whether it is ready
  python run.py verify                             check that nobody has changed the log
  DATABASE_URL=copy.db python run.py verify        the same of a copy

exit codes: 0 served and drained, or done; 1 the log does not hold, or what was asked for cannot be done;
2 wrong settings or usage; 3 the database or a file cannot be used; 4 the address cannot be listened on;
5 the embedded model is missing or cannot be loaded; 70 a fault of this program; 130 a second Ctrl-C."""


class Command(Struct, frozen=True):
    """A command of the record. `says` is its line in --help; `run` returns the exit code."""

    says: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[Desk, argparse.Namespace], Coroutine[Any, Any, int]]


COMMANDS = {
    "export": Command("write events as lines of JSON", archive.export_arguments, archive.export),
    "import": Command("copy an export into the log", archive.import_arguments, archive.import_command),
    "backup": Command("copy the log while it is served, and verify the copy", backup.backup_arguments, backup.backup),
    "salvage": Command("copy what holds of a damaged log", salvaging.salvage_arguments, salvaging.salvage),
    "migrate": Command("copy the log into another store", migrating.migrate_arguments, migrating.migrate_command),
    "prompt": Command("print the request behind a reply", prompt.prompt_arguments, prompt.prompt),
    "replay": Command("print a conversation as it stood", replaying.replay_arguments, replaying.replay),
    "diff": Command("print what changed in a conversation", replaying.diff_arguments, replaying.diff_command),
    "rebuild": Command("make the projections anew", rebuilding.rebuild_arguments, rebuilding.rebuild_command),
    "project": Command("run a projection of your own", projecting.project_arguments, projecting.project),
    "verify": Command("check that nobody has changed the log", proving.verify_arguments, proving.verify_command),
    "keygen": Command("make the keys that sign checkpoints", proving.keygen_arguments, proving.keygen),
    "checkpoint": Command("print a signed statement of the head", proving.checkpoint_arguments, proving.checkpoint),
    "prove": Command("prove a session's events to someone without the log", proofs.prove_arguments, proofs.prove),
    "erase": Command("erase sessions for good", erasing.erase_arguments, erasing.erase),
    "erased": Command("look for a text in the files' bytes", erased.erased_arguments, erased.erased),
}


def parse(arguments: list[str], version: str) -> argparse.Namespace:
    """What was asked for. Ends the program with a usage message when it makes no sense."""
    parser = argparse.ArgumentParser(
        prog="run.py", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.set_defaults(command="serve", config=None, host=None, port=None, workers=None, reload=False)
    _general(parser)
    _serving(parser)
    parser.add_argument("--version", action="version", version=f"chatbot backend {version}")
    named = parser.add_subparsers(dest="command", metavar="command", title="commands (default: serve)")
    serve = named.add_parser("serve", help="serve the HTTP API", argument_default=argparse.SUPPRESS)
    _general(serve)
    _serving(serve)
    config = named.add_parser("config", help="print the settings in force", argument_default=argparse.SUPPRESS)
    _general(config)
    _address(config)
    health = named.add_parser(
        "health",
        help="ask the running service whether it is ready",
        description="Ask the service at the configured address whether it is ready (GET /readyz). Exits with 0 if it"
        " is, with 1 if it is not or does not answer: for HEALTHCHECK of a container and for monitoring.",
        argument_default=argparse.SUPPRESS,
    )
    _general(health)
    _address(health)
    for name, command in COMMANDS.items():
        says = command.run.__doc__ or command.says
        one = named.add_parser(name, help=command.says, description=says)
        _general(one)
        command.arguments(one)
    options, unknown = parser.parse_known_args(arguments)
    if unknown:  # the usage to show is the command's own
        named.choices.get(options.command, parser).error(f"unrecognized arguments: {' '.join(unknown)}")
    options.command = options.command or "serve"
    for text in _texts(vars(options).values()):
        if not is_unicode(text):
            named.choices.get(options.command, parser).error(f"arguments are read as UTF-8, and this is none: {text!a}")
    return options


def _texts(values: Iterable[object]) -> Iterator[str]:
    """All arguments but names of files, which may be any bytes."""
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, list | tuple):
            yield from _texts(value)


def _general(parser: argparse.ArgumentParser) -> None:
    hidden = argparse.SUPPRESS
    parser.add_argument(
        "--config", metavar="FILE", default=hidden, help="settings file (default: config.toml here or beside run.py)"
    )


def _address(parser: argparse.ArgumentParser) -> None:
    hidden = argparse.SUPPRESS
    parser.add_argument("--host", default=hidden, help="address to listen on, over server.host")
    parser.add_argument("--port", default=hidden, help="port to listen on, over server.port; 0 takes a free one")


def _serving(parser: argparse.ArgumentParser) -> None:
    _address(parser)
    parser.add_argument(
        "--workers",
        metavar="N",
        default=argparse.SUPPRESS,
        help="processes that serve the port together, over server.workers; SIGHUP replaces them one by one",
    )
    parser.add_argument(
        "--reload", action="store_true", default=argparse.SUPPRESS, help="start again when code or settings change"
    )
