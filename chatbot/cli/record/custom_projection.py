"""The command project: runs a user-defined projection over the whole log.

A projection is the one class in a Python file that has both of these methods; it is constructed without arguments:

    def apply(self, recorded: RecordedEvent) -> None: ...    # each event of a session, in the log's order
    def result(self) -> object: ...                          # at the end: anything that can be encoded as JSON

The `event` of an erased event is None; its type, time and session remain. A message's `content` is its text;
`events.schema.parts.parts_of(event)` has all its parts.
"""

import argparse
import importlib.util
import inspect
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Protocol, cast

import msgspec

from chatbot.cli.cli_context import CommandContext
from chatbot.cli.exit_codes import CommandFailed, UsageError
from chatbot.cli.progress_bar import ProgressBar
from events.catalogue import RESERVED_STREAMS
from events.record import RecordedEvent

PAGE = 2_000  # events read at once
TRACE_LINES = 12  # the last lines of a traceback in the user's code
_MODULE = "users_projection"


class Projection(Protocol):
    """The class that the user writes."""

    def apply(self, recorded: RecordedEvent) -> None: ...

    def result(self) -> object: ...


def add_project_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE.py", help="a class in it has apply(recorded) and result()")
    parser.add_argument("--after", type=int, default=0, metavar="POSITION", help="start after this event of the log")


async def project(context: CommandContext, options: argparse.Namespace) -> int:
    """Run a projection of your own over the log and print its result as JSON."""
    projection = load_projection(options.file)
    at = max(0, options.after)
    async with context.open_read_only() as log:
        progress = ProgressBar("projecting", max(0, log.head().position - at))
        try:
            while page := await log.read_all(after=at, limit=PAGE):
                for recorded in page:
                    if recorded.stream_id not in RESERVED_STREAMS:  # keys and holds
                        _apply_event(projection, recorded)
                at = page[-1].position
                progress.reach(at - max(0, options.after))
        finally:
            progress.close()
    context.print_result(_encode_result(projection))
    return 0


def load_projection(file: Path) -> Projection:
    """Import the file and construct its projection. Raises CommandFailed."""
    module = _import_module(file)
    defined = [one for _, one in inspect.getmembers(module, inspect.isclass) if one.__module__ == _MODULE]
    found = [one for one in defined if all(callable(getattr(one, name, None)) for name in ("apply", "result"))]
    if len(found) != 1:
        names = ", ".join(one.__name__ for one in found) or "none"
        raise UsageError(f"{file} must hold one class with the methods apply and result; it holds {names}")
    try:
        made = cast(Projection, found[0]())
    except Exception as error:
        raise _projection_failure(f"{found[0].__name__} cannot be made", error) from error
    return made


def _import_module(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(_MODULE, file)
    if not file.is_file() or spec is None or spec.loader is None:
        raise UsageError(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[_MODULE] = module  # dataclasses look up their own module there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise _projection_failure(f"{file} cannot be imported", error) from error
    return module


def _apply_event(projection: Projection, recorded: RecordedEvent) -> None:
    try:
        projection.apply(recorded)
    except Exception as error:
        where = f"position {recorded.position} ({recorded.type}, session {recorded.stream_id})"
        raise _projection_failure(f"the projection failed at {where}", error) from error


def _encode_result(projection: Projection) -> str:
    try:
        return msgspec.json.encode(projection.result()).decode()
    except Exception as error:
        raise _projection_failure("the projection's result is not there, or JSON cannot say it", error) from error


def _projection_failure(what: str, error: Exception) -> CommandFailed:
    """An error with the traceback of the user's code, without frames of this module and of Python's import."""
    frames = traceback.extract_tb(error.__traceback__)
    user_frames = [one for one in frames if one.filename != __file__ and not one.filename.startswith("<frozen")]
    printed = [*traceback.format_list(user_frames), *traceback.format_exception_only(error)]
    lines = "".join(printed).rstrip().splitlines()
    return CommandFailed("\n".join((what, *lines[-TRACE_LINES:])))
