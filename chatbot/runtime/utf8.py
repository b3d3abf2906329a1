"""UTF-8 for everything that is read and written, whatever the locale says."""

import io
import os
import sys

_ERRORS = {"<stderr>": "backslashreplace"}  # as Python has it: what people are told never fails


def use_utf8() -> None:
    """Start this process anew in Python's UTF-8 mode, where the locale has another encoding.

    Arguments, settings in the environment and names of files are decoded before the first line of a program runs. A
    person's name that was decoded as Latin-1 is found nowhere, which would look like an erasure. Standard streams may
    have an encoding of their own (PYTHONIOENCODING): they get UTF-8, too.
    """
    if sys.getfilesystemencoding() != "utf-8" and "utf8" not in sys._xoptions:
        os.environ["PYTHONUTF8"] = "1"  # for processes that this one starts
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])  # noqa: S606  this very program
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors=_ERRORS.get(stream.name, "surrogateescape"))


def is_unicode(text: str) -> bool:
    """Whether it was UTF-8 where it came from: bytes that are none are decoded to lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
