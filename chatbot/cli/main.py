"""The entry point: parses the command line, reads the settings, then serves or runs a command."""

import sys
from pathlib import Path

import chatbot
from chatbot import __version__
from chatbot.cli.cli_context import print_result
from chatbot.cli.command_line import COMMANDS, parse
from chatbot.cli.exit_codes import CommandFailed, ExitCode, fail
from chatbot.config.loader import ConfigError, load
from chatbot.config.settings_listing import show
from chatbot.runtime.dev_reload import run_with_reload
from chatbot.runtime.gc_tuning import collection_paused
from chatbot.runtime.standard_streams import STDOUT, flush_streams, open_closed_streams, print_to_stderr
from chatbot.workers.inherited_fds import take_inherited_fds

ROOT = Path(chatbot.__file__).resolve().parents[1]  # holds run.py and config.toml, in a checkout and where installed


def main(arguments: list[str]) -> int:
    """Run the program with the arguments of the command line. Returns the exit code."""
    try:
        return _main(arguments)
    except CommandFailed as error:
        return fail(ExitCode(error.code), str(error))
    finally:
        flush_streams()


def _main(arguments: list[str]) -> int:
    closed = open_closed_streams()
    options = parse(arguments, __version__, Path(sys.argv[0]).name)
    if STDOUT in closed and options.command != "serve":
        return fail(ExitCode.USAGE, "standard output is closed: the result has nowhere to go")
    if options.reload and options.command == "serve":
        if options.workers is not None:
            return fail(ExitCode.USAGE, "--reload is for development and serves with one process: leave out --workers")
        return run_with_reload(ROOT, [*(one for one in arguments if one != "--reload"), "--workers", "1"])
    try:
        given = {"host": options.host, "port": options.port, "workers": options.workers, "config": options.config}
        configuration = load(given, program=ROOT)
    except ConfigError as error:
        return fail(ExitCode.USAGE, str(error))
    if options.command != "serve":
        for sentence in configuration.renamed:
            print_to_stderr(f"warning: {sentence}")
    if options.command == "config":
        print_result(show(configuration))
        return 0
    # From here on each command imports what it needs: all libraries of the program take half a second.
    if options.command == "health":
        from chatbot.cli.health_check import check_health  # noqa: PLC0415

        return check_health(configuration.settings.server.host, configuration.settings.server.port)
    if options.command in COMMANDS:
        from chatbot.cli.command_runner import run_command  # noqa: PLC0415

        return run_command(COMMANDS[options.command].load(), options, configuration.settings)
    inheritance = take_inherited_fds()
    if inheritance is not None and inheritance.role == "writer":
        with collection_paused():
            from chatbot.cli.serve_writer import serve_writer  # noqa: PLC0415

        return serve_writer(configuration, inheritance)
    with collection_paused():
        from chatbot.cli.serve import serve  # noqa: PLC0415

    return serve(configuration, inheritance, [sys.executable, str(ROOT / "run.py"), *arguments])
