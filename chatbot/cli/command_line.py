"""The command-line parser: the table of commands, their groups, and --help.

The code of a command is imported when it is called: all libraries of the program take half a second to import, and a
command such as `health` runs every few seconds.
"""

import argparse
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any

from msgspec import Struct

from chatbot.cli.cli_context import CommandContext
from chatbot.runtime.utf8 import is_unicode


class Command(Struct, frozen=True):
    """`run` returns the exit code."""

    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[CommandContext, argparse.Namespace], Coroutine[Any, Any, int]]


class CommandEntry(Struct, frozen=True):
    """`summary` is the command's line in --help; `load` imports its code."""

    summary: str
    load: Callable[[], Command]


def _export() -> Command:
    from chatbot.cli.maintenance.export_import import add_export_arguments, export

    return Command(add_export_arguments, export)


def _import() -> Command:
    from chatbot.cli.maintenance.export_import import add_import_arguments, import_command

    return Command(add_import_arguments, import_command)


def _backup() -> Command:
    from chatbot.cli.maintenance.backup import add_backup_arguments, backup

    return Command(add_backup_arguments, backup)


def _salvage() -> Command:
    from chatbot.cli.maintenance.salvage import add_salvage_arguments, salvage

    return Command(add_salvage_arguments, salvage)


def _migrate() -> Command:
    from chatbot.cli.maintenance.migrate import add_migrate_arguments, migrate_command

    return Command(add_migrate_arguments, migrate_command)


def _prompt() -> Command:
    from chatbot.cli.record.prompt import add_prompt_arguments, prompt

    return Command(add_prompt_arguments, prompt)


def _replay() -> Command:
    from chatbot.cli.record.replay import add_replay_arguments, replay

    return Command(add_replay_arguments, replay)


def _diff() -> Command:
    from chatbot.cli.record.replay import add_diff_arguments, diff_command

    return Command(add_diff_arguments, diff_command)


def _find() -> Command:
    from chatbot.cli.record.find import add_find_arguments, find

    return Command(add_find_arguments, find)


def _report() -> Command:
    from chatbot.cli.record.report import add_report_arguments, report

    return Command(add_report_arguments, report)


def _rebuild() -> Command:
    from chatbot.cli.maintenance.rebuild import add_rebuild_arguments, rebuild_command

    return Command(add_rebuild_arguments, rebuild_command)


def _project() -> Command:
    from chatbot.cli.record.custom_projection import add_project_arguments, project

    return Command(add_project_arguments, project)


def _verify() -> Command:
    from chatbot.cli.proof.verify import add_verify_arguments, verify_command

    return Command(add_verify_arguments, verify_command)


def _keygen() -> Command:
    from chatbot.cli.proof.keys import add_keygen_arguments, keygen

    return Command(add_keygen_arguments, keygen)


def _checkpoint() -> Command:
    from chatbot.cli.proof.verify import add_checkpoint_arguments, checkpoint

    return Command(add_checkpoint_arguments, checkpoint)


def _anchor() -> Command:
    from chatbot.cli.proof.anchor import add_anchor_arguments, anchor

    return Command(add_anchor_arguments, anchor)


def _prove() -> Command:
    from chatbot.cli.proof.prove import add_prove_arguments, prove

    return Command(add_prove_arguments, prove)


def _erase() -> Command:
    from chatbot.cli.erasure.erase import add_erase_arguments, erase

    return Command(add_erase_arguments, erase)


def _redact() -> Command:
    from chatbot.cli.erasure.redact import add_redact_arguments, redact

    return Command(add_redact_arguments, redact)


def _receipt() -> Command:
    from chatbot.cli.erasure.receipt_command import add_receipt_arguments, receipt

    return Command(add_receipt_arguments, receipt)


def _hold() -> Command:
    from chatbot.cli.erasure.hold import add_hold_arguments, hold

    return Command(add_hold_arguments, hold)


def _erased() -> Command:
    from chatbot.cli.erasure.erasure_check import add_erased_arguments, erased

    return Command(add_erased_arguments, erased)


def _key() -> Command:
    from chatbot.cli.access.key import add_key_arguments, key

    return Command(add_key_arguments, key)


COMMANDS = {
    "export": CommandEntry("write events as lines of JSON", _export),
    "import": CommandEntry("copy an export into the log", _import),
    "backup": CommandEntry("copy the log while it is served, and verify the copy", _backup),
    "salvage": CommandEntry("copy what is intact of a damaged log", _salvage),
    "migrate": CommandEntry("copy the log into another store", _migrate),
    "prompt": CommandEntry("print the request behind a reply", _prompt),
    "replay": CommandEntry("print a conversation as of a point in time", _replay),
    "diff": CommandEntry("print what changed in a conversation", _diff),
    "find": CommandEntry("find events, or the sessions that have them", _find),
    "report": CommandEntry("write a report on sessions, for people", _report),
    "rebuild": CommandEntry("rebuild the projections from the log", _rebuild),
    "project": CommandEntry("run a projection of your own", _project),
    "verify": CommandEntry("check that nobody has changed the log", _verify),
    "keygen": CommandEntry("make the keys that sign checkpoints", _keygen),
    "checkpoint": CommandEntry("print a signed statement of the head", _checkpoint),
    "anchor": CommandEntry("write a signed checkpoint to places that nobody can rewrite", _anchor),
    "prove": CommandEntry("prove a session's events to someone without the log", _prove),
    "key": CommandEntry("add, list, rotate and revoke API keys", _key),
    "erase": CommandEntry("erase sessions permanently", _erase),
    "redact": CommandEntry("remove the content of one message", _redact),
    "receipt": CommandEntry("print or check the receipts of erasures", _receipt),
    "hold": CommandEntry("keep sessions from being erased, as a legal hold", _hold),
    "erased": CommandEntry("search the files for an erased text", _erased),
}

SERVICE_COMMANDS = {
    "serve": "serve the HTTP API (also without a command)",
    "health": "ask the running service whether it is ready: exit code 0 or 1 (for HEALTHCHECK)",
    "config": "print the settings in force",
}
GROUPS = {
    "serve": ("serve", "health", "config"),
    "read conversations": ("find", "report", "replay", "diff", "prompt", "project"),
    "prove": ("verify", "keygen", "checkpoint", "anchor", "prove"),
    "keys": ("key",),
    "erase": ("erase", "redact", "erased", "receipt", "hold"),
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
  chatbot key add app --scope chat          make an API key, and print its secret
  chatbot health                            ask the running service whether it is ready
  chatbot verify                            check that nobody has changed the log
  DATABASE_URL=copy.db chatbot verify       the same of a copy

exit codes: 0 served and drained, or done; 1 the log is not intact, or the command failed;
2 wrong settings or usage; 3 the database or a file cannot be used; 4 the address cannot be listened on;
5 the embedded model is missing or cannot be loaded; 6 a target of anchors cannot be read or written;
70 a fault of this program; 130 interrupted by Ctrl-C."""


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
    for name, entry in COMMANDS.items():
        if name not in arguments:  # so it is not called: its code is not imported
            commands.add_parser(name)
            continue
        command = entry.load()
        one = commands.add_parser(name, description=command.run.__doc__ or entry.summary)
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
