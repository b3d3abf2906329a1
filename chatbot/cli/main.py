"""The entry point: parses the command line, reads the settings, then serves or runs a command."""

import argparse
import asyncio
import sys
import traceback
from pathlib import Path

from msgspec.structs import replace

import chatbot
from chatbot import __version__
from chatbot.cli.cli_context import CommandContext, print_result, run_interruptible
from chatbot.cli.command_line import COMMANDS, parse
from chatbot.cli.exit_codes import CommandFailed, ExitCode, fail
from chatbot.cli.health_check import check_health
from chatbot.cli.remedies import with_remedy
from chatbot.cli.serve import serve
from chatbot.config.loader import ConfigError, load
from chatbot.config.settings import Settings
from chatbot.config.settings_listing import show
from chatbot.llm.provider import Provider
from chatbot.llm.provider_factory import create_provider
from chatbot.llm.providers.embedded_process import EmbeddedMissing
from chatbot.observability.logging_setup import setup_logging
from chatbot.runtime.dev_reload import run_with_reload
from chatbot.runtime.standard_streams import STDOUT, flush_streams, open_closed_streams, print_to_stderr
from chatbot.wiring import compose_offline, embedded_options, llm_options
from events.errors import LogError
from events.factory import open_log

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
    if options.command == "health":
        return check_health(configuration.settings.server.host, configuration.settings.server.port)
    if options.command in COMMANDS:
        return run_command(options, configuration.settings)
    return serve(configuration, [sys.executable, str(ROOT / "run.py"), *arguments])


def run_command(options: argparse.Namespace, settings: Settings) -> int:
    """Run a command on the log, while a server runs or on a copied file. Returns the exit code."""
    setup_logging(settings.logging.level, settings.logging.format)

    def provider(url: str | None) -> Provider:
        configured = llm_options(settings)
        if url == "embedded":
            return create_provider("embedded", replace(configured, server_url="", model=""), embedded_options(settings))
        # The API key in the settings belongs to the server in the settings: it is sent to no other.
        options = configured if url is None else replace(configured, server_url=url, model="", api_key="")
        return create_provider("auto" if url else settings.llm.provider, options, embedded_options(settings))

    context = CommandContext(settings, provider, open_log, compose_offline)
    try:
        return asyncio.run(run_interruptible(COMMANDS[options.command].run(context, options)))
    except CommandFailed as error:
        return fail(ExitCode(error.code), str(error))
    except (LogError, OSError) as error:
        return fail(ExitCode.DATABASE, with_remedy(error))
    except EmbeddedMissing as error:
        return fail(ExitCode.MODEL, str(error))
    except KeyboardInterrupt:
        return fail(ExitCode.INTERRUPTED, "stopped")
    except Exception as error:  # noqa: BLE001  Python would exit with 1, which has a meaning in most commands
        traceback.print_exc()
        return fail(ExitCode.FAULT, f"a fault of this program: {type(error).__name__}")
