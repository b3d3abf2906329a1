"""Standard streams that are closed, full or disconnected: writing to them prints no traceback."""

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TextIO

STDOUT = 1


def open_closed_streams() -> frozenset[int]:
    """Open closed standard streams on /dev/null, and return their numbers.

    Otherwise the next opened file, such as a database, would get the number of a stream and what is written to it.
    """
    closed = set()
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it gets the lowest number, which is this one
            closed.add(number)
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  for the life of the process
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  likewise
    return frozenset(closed)


def print_to_stderr(text: str, end: str = "\n") -> None:
    """Print for people; do nothing if standard error cannot be written."""
    try:
        print(text, file=sys.stderr, flush=True, end=end)
    except OSError:
        discard_output(sys.stderr)


def discard_output(stream: TextIO) -> None:
    """Redirect `stream` to /dev/null: flushing its buffer at exit would fail again."""
    with suppress(OSError, ValueError):  # in a test it is no file
        number = stream.fileno()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)


def flush_streams() -> None:
    """Flush at the end of the program, before Python does it and prints a traceback."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            discard_output(stream)
