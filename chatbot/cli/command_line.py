"""The command-line parser: the table of commands, their groups, and --help."""

import argparse
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any

from msgspec import Struct

from chatbot.cli.cli_context import CommandContext
from chatbot.cli.erasure import erase, erasure_check
from chatbot.cli.maintenance import backup, export_import, migrate, rebuild, salvage
from chatbot.cli.proof import keys, prove, verify
from chatbot.cli.record import custom_projection, prompt, replay
from chatbot.runtime.utf8 import is_unicode


class Command(Struct, frozen=True):
    """A command on the log. `summary` is its line in --help; `run` returns the exit code."""

    summary: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[CommandContext, argparse.Namespace], Coroutine[Any, Any, int]]


COMMANDS = {
    "export": Command("write events as lines of JSON", export_import.add_export_arguments, export_import.export),
    "import": Command("copy an export into the log", export_import.add_import_arguments, export_import.import_command),
    "backup": Command(
        "copy the log while it is served, and verify the copy", backup.add_backup_arguments, backup.backup
    ),
    "salvage": Command("copy what is intact of a damaged log", salvage.add_salvage_arguments, salvage.salvage),
    "migrate": Command("copy the log into another store", migrate.add_migrate_arguments, migrate.migrate_command),
    "prompt": Command("print the request behind a reply", prompt.add_prompt_arguments, prompt.prompt),
    "replay": Command("print a conversation as of a point in time", replay.add_replay_arguments, replay.replay),
    "diff": Command("print what changed in a conversation", replay.add_diff_arguments, replay.diff_command),
    "rebuild": Command("rebuild the projections from the log", rebuild.add_rebuild_arguments, rebuild.rebuild_command),
    "project": Command(
        "run a projection of your own", custom_projection.add_project_arguments, custom_projection.project
    ),
    "verify": Command("check that nobody has changed the log", verify.add_verify_arguments, verify.verify_command),
    "keygen": Command("make the keys that sign checkpoints", keys.add_keygen_arguments, keys.keygen),
    "checkpoint": Command("print a signed statement of the head", verify.add_checkpoint_arguments, verify.checkpoint),
    "prove": Command("prove a session's events to someone without the log", prove.add_prove_arguments, prove.prove),
    "erase": Command("erase sessions permanently", erase.add_erase_arguments, erase.erase),
    "erased": Command("search the files for an erased text", erasure_check.add_erased_arguments, erasure_check.erased),
}

SERVICE_COMMANDS = {
    "serve": "serve the HTTP API (also without a command)",
    "health": "ask the running service whether it is ready: exit code 0 or 1 (for HEALTHCHECK)",
    "config": "print the settings in force",
}
GROUPS = {
    "serve": ("serve", "health", "config"),
    "read conversations": ("replay", "diff", "prompt", "project"),
    "prove": ("verify", "keygen", "checkpoint", "prove"),
    "erase": ("erase", "erased"),
    "copy and move": ("backup", "export", "import", "migrate"),
    "repair": ("salvage", "rebuild"),
}


def overview() -> str:
    """All commands by purpose, a line for each."""
    summary = {**SERVICE_COMMANDS, **{name: command.summary for name, command in COMMANDS.items()}}
    width = max(map(len, summary))
    groups = (
        "\n".join([f"{title}:", *(f"  {name:<{width}}  {summary[name]}" for name in names)])
        for title, names in GROUPS.items()
    )
    return "\n\n".join(groups)


DESCRIPTION = """\
A chat backend that records every conversation as immutable events.

Without a command it serves the HTTP API, with Swagger UI at /docs, on the address in config.toml
(127.0.0.1:8080). Settings come from config.toml, a .env file, the environment and the options below;
later ones win. `chatbot config` shows all of them and where each came from. `chatbot COMMAND --help`
explains a command. In a checkout `python run.py` does the same as `chatbot`."""
EPILOG = """\
examples:
  chatbot                                   serve, with the embedded model
  LLM_SERVER_URL=http://localhost:8000 chatbot
                                            serve, with a model server (midm or OpenAI-compatible)
  chatbot --host 0.0.0.0 --port 9000        listen on all networks (configure API keys first)
  chatbot --workers 4                       serve with four processes
  chatbot --reload                          serve, and restart when code or settings change
  chatbot config                            print the settings in force
  chatbot health                            ask the running service whether it is ready
  chatbot verify                            check that nobody has changed the log
  DATABASE_URL=copy.db chatbot verify       the same of a copy

exit codes: 0 served and drained, or done; 1 the log is not intact, or the command failed;
2 wrong settings or usage; 3 the database or a file cannot be used; 4 the address cannot be listened on;
5 the embedded model is missing or cannot be loaded; 70 a fault of this program; 130 interrupted by Ctrl-C."""


def parse(arguments: list[str], version: str, program: str = "chatbot") -> argparse.Namespace:
    """Parse `arguments`. Exits with code 2 and a usage message if they are invalid.

    `program` is the name under which the program was called.
    """
    parser = argparse.ArgumentParser(
        prog=program,
        usage=f"{program} [options] [COMMAND ...]",
        description=f"{DESCRIPTION}\n\n{overview()}",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command="serve", config=None, host=None, port=None, workers=None, reload=False)
    _add_common_options(parser)
    _add_serve_options(parser)
    parser.add_argument("--version", action="version", version=f"chatbot backend {version}")
    # The overview lists them in groups, which argparse's own list cannot.
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", prog=program, help=argparse.SUPPRESS)
    for name, arguments_of in {
        "serve": _add_serve_options,
        "health": _add_address_options,
        "config": _add_address_options,
    }.items():
        one = commands.add_parser(name, description=SERVICE_COMMANDS[name], argument_default=argparse.SUPPRESS)
        _add_common_options(one)
        arguments_of(one)
    for name, command in COMMANDS.items():
        one = commands.add_parser(name, description=command.run.__doc__ or command.summary)
        _add_common_options(one)
        command.arguments(one)
    options, unknown = parser.parse_known_args(arguments)
    if unknown:  # show the usage of the command
        commands.choices.get(options.command, parser).error(f"unrecognized arguments: {' '.join(unknown)}")
    options.command = options.command or "serve"
    for text in _argument_texts(vars(options).values()):
        if not is_unicode(text):
            named = commands.choices.get(options.command, parser)
            named.error(f"arguments are read as UTF-8, and this is none: {text!a}")
    return options


def _argument_texts(values: Iterable[object]) -> Iterator[str]:
    """All arguments except file names (Path), which may be any bytes."""
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, list | tuple):
            yield from _argument_texts(value)


def _add_common_options(parser: argparse.ArgumentParser) -> None:
    hidden = argparse.SUPPRESS
    parser.add_argument(
        "--config",
        metavar="FILE",
        default=hidden,
        help="settings file (default: config.toml in the current directory, or the program's)",
    )


def _add_address_options(parser: argparse.ArgumentParser) -> None:
    hidden = argparse.SUPPRESS
    parser.add_argument("--host", default=hidden, help="address to listen on, over server.host")
    parser.add_argument("--port", default=hidden, help="port to listen on, over server.port; 0 takes a free one")


def _add_serve_options(parser: argparse.ArgumentParser) -> None:
    _add_address_options(parser)
    parser.add_argument(
        "--workers",
        metavar="N",
        default=argparse.SUPPRESS,
        help="processes that serve the port together, over server.workers; SIGHUP replaces them one by one",
    )
    parser.add_argument(
        "--reload", action="store_true", default=argparse.SUPPRESS, help="restart when code or settings change"
    )
