"""The writer process of `chatbot serve --workers`: its start and its exit codes. Imports no web server and no model."""

import asyncio

import structlog

from chatbot.cli.exit_codes import ExitCode, fail
from chatbot.cli.remedies import with_remedy
from chatbot.config.loader import Configuration
from chatbot.config.settings import Settings
from chatbot.observability.log_writer import LogWriter
from chatbot.observability.logging_setup import background_logging
from chatbot.runtime.event_loop import loop_factory
from chatbot.workers.inherited_fds import InheritedFds
from chatbot.writer.writer_service import WriterService
from events.errors import LogUnusable
from projections.errors import ProjectionError


def serve_writer(configuration: Configuration, inheritance: InheritedFds) -> int:
    """Write the log for the workers until the master says stop. Returns the exit code."""
    settings = configuration.settings
    with background_logging(settings.logging.level, settings.logging.format) as stderr:
        try:
            with asyncio.Runner(loop_factory=loop_factory()) as runner:
                runner.run(_serve(settings, inheritance, stderr))
        except (LogUnusable, ProjectionError) as error:
            return fail(ExitCode.DATABASE, with_remedy(error), stderr)
        except OSError as error:
            return fail(ExitCode.FAILED, f"the log cannot be written: {error}", stderr)
        except Exception as error:  # noqa: BLE001  logged by the writer thread: a reader that stalls must not block the exit
            structlog.get_logger("run").critical("service.failed", error=type(error).__name__, exc_info=True)
            return ExitCode.FAULT
    return 0


async def _serve(settings: Settings, inheritance: InheritedFds, stderr: LogWriter) -> None:
    await WriterService(settings, inheritance, stderr).run()
