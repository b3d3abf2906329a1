"""Runs what the command line asks for: serving, or a command of the record."""

import argparse
import asyncio
import sys
import traceback
from pathlib import Path

from msgspec.structs import replace

import chatbot
from chatbot import __version__
from chatbot.cli.cli_context import CommandContext, CommandFailed, print_result, run_interruptible
from chatbot.cli.command_line import COMMANDS, parse
from chatbot.cli.exit_codes import EXIT_DATABASE, EXIT_FAULT, EXIT_INTERRUPTED, EXIT_MODEL, EXIT_SETTINGS, fail
from chatbot.cli.health_check import check_health
from chatbot.cli.serve import serve
from chatbot.config.loader import ConfigError, load
from chatbot.config.settings import Settings
from chatbot.config.settings_listing import show
from chatbot.llm.provider import Provider
from chatbot.llm.provider_factory import create_provider
from chatbot.llm.providers.embedded_process import EmbeddedMissing
from chatbot.observability.logging_setup import setup_logging
from chatbot.runtime.dev_reload import run_with_reload
from chatbot.runtime.standard_streams import STDOUT, flush_streams, open_closed_streams
from chatbot.wiring import embedded_options, llm_options
from events.errors import LogError

ROOT = Path(chatbot.__file__).resolve().parents[1]  # holds run.py and config.toml, in a checkout and where installed


def main(arguments: list[str]) -> int:
    try:
        return _main(arguments)
    except CommandFailed as error:
        return fail(error.code, str(error))
    finally:
        flush_streams()


def _main(arguments: list[str]) -> int:
    closed = open_closed_streams()
    options = parse(arguments, __version__, Path(sys.argv[0]).name)
    if STDOUT in closed and options.command != "serve":
        return fail(EXIT_SETTINGS, "standard output is closed: the result has nowhere to go")
    if options.reload and options.command == "serve":
        if options.workers is not None:
            return fail(EXIT_SETTINGS, "--reload is for development and serves with one process: leave out --workers")
        return run_with_reload(ROOT, [*(one for one in arguments if one != "--reload"), "--workers", "1"])
    try:
        given = {"host": options.host, "port": options.port, "workers": options.workers, "config": options.config}
        configuration = load(given, program=ROOT)
    except ConfigError as error:
        return fail(EXIT_SETTINGS, str(error))
    if options.command == "config":
        print_result(show(configuration))
        return 0
    if options.command == "health":
        return check_health(configuration.settings.server.host, configuration.settings.server.port)
    if options.command in COMMANDS:
        return run_command(options, configuration.settings)
    return serve(configuration, [sys.executable, str(ROOT / "run.py"), *arguments])


def run_command(options: argparse.Namespace, settings: Settings) -> int:
    """A command of the record, beside a running server or on a copied file. Returns the exit code."""
    setup_logging(settings.logging.level, settings.logging.format)

    def provider(url: str | None) -> Provider:
        wanted = llm_options(settings)
        if url == "embedded":
            return create_provider("embedded", replace(wanted, server_url="", model=""), embedded_options(settings))
        # The settings' key is for the settings' server: no other gets to see it.
        named = wanted if url is None else replace(wanted, server_url=url, model="", api_key="")
        return create_provider("auto" if url else settings.llm.provider, named, embedded_options(settings))

    try:
        return asyncio.run(
            run_interruptible(COMMANDS[options.command].run(CommandContext(settings, provider), options))
        )
    except CommandFailed as error:
        return fail(error.code, str(error))
    except (LogError, OSError) as error:
        return fail(EXIT_DATABASE, str(error))
    except EmbeddedMissing as error:
        return fail(EXIT_MODEL, str(error))
    except KeyboardInterrupt:
        return fail(EXIT_INTERRUPTED, "stopped")
    except Exception as error:  # noqa: BLE001  Python would exit with 1, which has a meaning in most commands
        traceback.print_exc()
        return fail(EXIT_FAULT, f"a fault of this program: {type(error).__name__}")
