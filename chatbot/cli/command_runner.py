"""Runs a command on the log: its context, Ctrl-C, and the exit code of each error.

Only few commands need a model server or the sessions, so what composes them is imported when it is called.
"""

import argparse
import asyncio
import traceback
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from msgspec.structs import replace

from chatbot.cli.cli_context import CommandContext, run_interruptible
from chatbot.cli.exit_codes import CommandFailed, ExitCode, fail
from chatbot.cli.remedies import with_remedy
from chatbot.config.settings import Settings
from chatbot.llm.provider import Provider
from chatbot.llm.providers.embedded_process import EmbeddedMissing
from chatbot.observability.logging_setup import setup_logging
from events.errors import LogError
from events.factory import open_log

if TYPE_CHECKING:
    from chatbot.cli.command_line import Command
    from chatbot.observability.metrics import Metrics
    from chatbot.sessions.ports import LiveSessions, Ports
    from chatbot.sessions.session_queries import SessionQueries
    from projections.observer import ProjectionObserver


def run_command(command: "Command", options: argparse.Namespace, settings: Settings) -> int:
    """Run a command on the log, while a server runs or on a copied file. Returns the exit code."""
    setup_logging(settings.logging.level, settings.logging.format)

    context = CommandContext(settings, lambda url: _create_provider(settings, url), open_log, _compose_offline)
    try:
        return asyncio.run(run_interruptible(command.run(context, options)))
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


def _create_provider(settings: Settings, url: str | None) -> Provider:
    from chatbot.llm.configured_provider import configured_provider, embedded_options, llm_options  # noqa: PLC0415
    from chatbot.llm.provider_factory import create_provider  # noqa: PLC0415

    if url is None:
        return configured_provider(settings)
    configured = llm_options(settings)
    if url == "embedded":
        return create_provider("embedded", replace(configured, server_url="", model=""), embedded_options(settings))
    # The API key in the settings belongs to the server in the settings: it is sent to no other.
    options = replace(configured, server_url=url, model="", api_key="")
    return create_provider("auto" if url else settings.llm.provider, options, embedded_options(settings))


async def _compose_offline(
    settings: Settings,
    stack: AsyncExitStack,
    provider: Provider,
    metrics: "Metrics",
    projection_observer: "ProjectionObserver",
) -> "tuple[Ports, LiveSessions, SessionQueries]":
    from chatbot.wiring import compose_offline  # noqa: PLC0415

    return await compose_offline(settings, stack, provider, metrics, projection_observer)
