"""The exit codes of the program, and the exceptions that lead to them."""

from enum import IntEnum

from chatbot.observability.log_writer import LogWriter
from chatbot.runtime.standard_streams import print_to_stderr


class ExitCode(IntEnum):
    """What `chatbot --help` says of exit codes. 2 is argparse's own code for a usage error, too."""

    OK = 0
    FAILED = 1
    USAGE = 2
    DATABASE = 3
    LISTEN = 4
    MODEL = 5
    TARGET = 6
    FAULT = 70  # sysexits.h: EX_SOFTWARE
    INTERRUPTED = 130  # 128 + SIGINT, as shells report it


class CommandFailed(Exception):
    """The command cannot do what was asked; the sentence says why and what to do. `code` is the exit code."""

    def __init__(self, message: str, code: int = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.code = code


class UsageError(CommandFailed):
    """The command line, or a file that it names, is invalid: exit code 2."""

    def __init__(self, message: str) -> None:
        super().__init__(message, ExitCode.USAGE)


def fail(code: ExitCode, message: str, stream: LogWriter | None = None) -> ExitCode:
    """Print `message` on standard error, through `stream` where a thread writes it. Returns `code`."""
    if stream is None:
        print_to_stderr(f"error: {message}")
    else:
        stream.write(f"error: {message}\n")
    return code
