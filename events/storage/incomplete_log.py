"""The mark of a log that a command has begun to write and not finished: until the end it is no log to be used.

It stands where the format's number stands, so that older programs refuse such a log, too, as a newer program's.
"""

from enum import Enum

from events.errors import LogUnusable

FORMAT_MIN = 1001  # in SQLite's user_version; formats of whole logs stay below


class WritingCommand(Enum):
    """The command that writes the log."""

    MIGRATE = "migrate"
    IMPORT = "import"
    SALVAGE = "salvage"

    @property
    def format(self) -> int:
        """What stands in place of the format's number."""
        return FORMAT_MIN + list(WritingCommand).index(self)


_ADVICE = {
    WritingCommand.MIGRATE: "run the same `chatbot migrate` again, which goes on where it stopped,"
    " or delete what it made",
    WritingCommand.IMPORT: "import the same file again with --resume,"
    " or accept what is there: `chatbot import --accept-partial`",
    WritingCommand.SALVAGE: "run the same `chatbot salvage` again, which starts from the beginning",
}


class LogIncomplete(LogUnusable):
    """A command was interrupted while it wrote this log."""

    def __init__(self, place: object, work: WritingCommand) -> None:
        super().__init__(f"database {place} is not whole: `chatbot {work.value}` has not finished it; {_ADVICE[work]}")
        self.work = work


def writing_command_of(format_number: int) -> WritingCommand | None:
    """The command that has not finished a log with this number; None for a number that means something else."""
    return next((work for work in WritingCommand if work.format == format_number), None)
