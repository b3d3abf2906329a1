"""Sets up logging to standard error: aligned text for a terminal, otherwise one JSON object per line.

Use `structlog.get_logger(__name__)`. The name of a log event is dotted, in the past tense if something happened
(`actor.passivated`); variable parts are keyword arguments. `structlog.contextvars` (request_id) are added. Never log
the text of a message: logs are kept and shared in other ways than the event log.
"""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, Processor

from chatbot.observability.log_writer import LogWriter

_FIRST = ("timestamp", "level", "event", "logger")
# its debug records carry every statement's parameters, and so the texts of messages
_NOISY_LOGGERS = ("aiosqlite",)


def setup_logging(level: str = "info", format: str = "auto", *, stream: TextIO | LogWriter | None = None) -> None:
    """Send the logs of this program, asyncio, aiohttp and `warnings` through one renderer to standard error.

    `level` is debug, info, warning, error or critical; `format` is console, json, or auto: console on a terminal.
    Raises ValueError for other values. Call it before the first log line: loggers cache their configuration.
    `stream` replaces standard error.
    """
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None or format not in {"auto", "console", "json"}:
        raise ValueError(f"level {level!r} or format {format!r} is unknown")
    stream = stream or sys.stderr
    render = _json() if writes_json(format, stream) else _console(on_terminal=stream.isatty())
    _configure_stdlib(number, stream, render)
    structlog.configure(
        processors=[*_shared(), structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(number),  # a filtered line costs an empty call
        cache_logger_on_first_use=True,
    )


def writes_json(format: str, stream: TextIO | LogWriter) -> bool:
    """Whether lines are JSON: `format` is json, or auto and nobody watches."""
    return format == "json" or (format == "auto" and not stream.isatty())


@contextmanager
def background_logging(level: str, format: str) -> Iterator[LogWriter]:
    """As setup_logging, but a thread writes to standard error: a service must not block if nobody reads it.

    At the end the queued lines are written, within a bounded time.
    """
    writer = LogWriter(sys.stderr.fileno(), _report)
    try:
        setup_logging(level, format, stream=writer)
        yield writer
    finally:
        writer.close()


def _report(dropped: int) -> None:
    structlog.get_logger(__name__).warning("logs.dropped", lines=dropped, reason="standard error was not read in time")


_process_fields: dict[str, int | str] = {}


def name_process(**fields: int | str) -> None:
    """Add `fields` to every line of this process from now on. Not as context variables: the tasks of sessions begin
    with none.
    """
    _process_fields.update(fields)


def process_fields() -> dict[str, int | str]:
    """The fields that every line of this process has."""
    return dict(_process_fields)


def _add_process_fields(_logger: object, _method: str, event: EventDict) -> EventDict:
    return {**_process_fields, **event}


def _shared() -> list[Processor]:
    """Processors of every record, ours or a library's."""
    return [
        _add_process_fields,
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]


def _configure_stdlib(level: int, stream: TextIO | LogWriter, render: list[Processor]) -> None:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_shared(),
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in _NOISY_LOGGERS:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    logging.captureWarnings(True)


def _console(*, on_terminal: bool) -> list[Processor]:
    colors = on_terminal and "NO_COLOR" not in os.environ
    # plain: if rich is installed, the default prints local variables, and with them the texts of messages
    return [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)]


def _json() -> list[Processor]:
    # as text, for the same reason: the structured form has local variables
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_to_json)]


def _to_json(event: EventDict, **_: Any) -> str:
    ordered = {key: event.pop(key) for key in _FIRST if key in event} | dict(event)
    try:
        return msgspec.json.encode(ordered, enc_hook=repr).decode()
    except (UnicodeEncodeError, TypeError, ValueError, OverflowError, RecursionError):
        # such as half a surrogate pair in a request's path; logging itself must never fail
        return msgspec.json.encode({str(key): _plain(value) for key, value in ordered.items()}).decode()


def _plain(value: Any) -> str:
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else ascii(value)
