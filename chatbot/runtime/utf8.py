"""Uses UTF-8 for arguments, settings, file names and standard streams in every locale."""

import io
import os
import sys

_ERRORS = {"<stderr>": "backslashreplace"}  # as in Python: error messages must never fail


def use_utf8() -> None:
    """Restart this process in Python's UTF-8 mode if the locale has another encoding.

    A restart is needed because arguments, environment variables and file names are decoded before any code runs. A
    name that is decoded as Latin-1 would not be found in the log, as if it had been erased. Standard streams may
    have an encoding of their own (PYTHONIOENCODING): they are set to UTF-8, too.
    """
    if sys.getfilesystemencoding() != "utf-8" and "utf8" not in sys._xoptions:
        os.environ["PYTHONUTF8"] = "1"  # for processes that this one starts
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])  # noqa: S606  this very program
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors=_ERRORS.get(stream.name, "surrogateescape"))


def is_unicode(text: str) -> bool:
    """Whether `text` was decoded from valid UTF-8: invalid bytes have become lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
