"""The output of a command that writes a whole document: standard output, or a new file."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from chatbot.cli.exit_codes import UsageError
from events.storage.private_file import open_private


@contextmanager
def open_output(path: Path | None, document: str) -> Iterator[BinaryIO]:
    """Standard output, or a new file at `path`, which is deleted if writing fails. `document`: what is written, as in
    "a report". Raises UsageError.
    """
    if path is None:
        yield sys.stdout.buffer
        return
    try:
        descriptor = open_private(path, os.O_WRONLY | os.O_EXCL)
    except FileExistsError as error:
        raise UsageError(f"{path} exists: {document} never writes over another file") from error
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "wb") as out:
            yield out
    except BaseException:
        path.unlink(missing_ok=True)
        raise
