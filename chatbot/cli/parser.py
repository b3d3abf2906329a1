"""Reads the command line, and says in --help what can be written there."""

import argparse
from collections.abc import Iterable, Iterator

from chatbot.cli.commands import COMMANDS, OTHERS, overview
from chatbot.utf8 import is_unicode

DESCRIPTION = """\
A chat backend whose every word is on the record.

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
  chatbot --reload                          serve, and start again when code or settings change
  chatbot config                            print the settings in force
  chatbot health                            ask the running service whether it is ready
  chatbot verify                            check that nobody has changed the log
  DATABASE_URL=copy.db chatbot verify       the same of a copy

exit codes: 0 served and drained, or done; 1 the log does not hold, or what was asked for cannot be done;
2 wrong settings or usage; 3 the database or a file cannot be used; 4 the address cannot be listened on;
5 the embedded model is missing or cannot be loaded; 70 a fault of this program; 130 a second Ctrl-C."""


def parse(arguments: list[str], version: str, program: str = "chatbot") -> argparse.Namespace:
    """What was asked for. Ends the program with a usage message when it makes no sense.

    `program` is the name under which it was called.
    """
    parser = argparse.ArgumentParser(
        prog=program,
        usage=f"{program} [options] [COMMAND ...]",
        description=f"{DESCRIPTION}\n\n{overview()}",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command="serve", config=None, host=None, port=None, workers=None, reload=False)
    _general(parser)
    _serving(parser)
    parser.add_argument("--version", action="version", version=f"chatbot backend {version}")
    # Their lines are in the overview, which has groups: argparse's own list has none.
    named = parser.add_subparsers(dest="command", metavar="COMMAND", prog=program, help=argparse.SUPPRESS)
    for name, arguments_of in {"serve": _serving, "health": _address, "config": _address}.items():
        one = named.add_parser(name, description=OTHERS[name], argument_default=argparse.SUPPRESS)
        _general(one)
        arguments_of(one)
    for name, command in COMMANDS.items():
        one = named.add_parser(name, description=command.run.__doc__ or command.says)
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
        "--config",
        metavar="FILE",
        default=hidden,
        help="settings file (default: config.toml here, or the program's)",
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
