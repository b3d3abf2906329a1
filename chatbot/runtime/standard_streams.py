"""Standard streams that are closed, full, or that nobody reads any more: a sentence or silence, never a traceback."""

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TextIO

STDOUT = 1


def open_closed_streams() -> frozenset[int]:
    """Open standard streams that are closed on /dev/null, and return their numbers.

    Else the next file that is opened, such as a database, has the number of a stream, and gets what is written there.
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


def note(text: str, end: str = "\n") -> None:
    """Print to standard error, for people who watch; nothing where that cannot be written."""
    try:
        print(text, file=sys.stderr, flush=True, end=end)
    except OSError:
        silence(sys.stderr)


def silence(stream: TextIO) -> None:
    """From now on `stream` takes everything and keeps nothing: what its buffer still holds would fail again at exit."""
    with suppress(OSError, ValueError):  # in a test it is no file
        number = stream.fileno()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)


def flush_streams() -> None:
    """At the end of the program, before Python does it and prints what fails."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            silence(stream)
