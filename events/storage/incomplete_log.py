"""The mark of a log that a command has begun to write and not finished: until then it must not be used.

It takes the place of the format number, so that older programs refuse such a log, too, as a newer version's.
"""

from enum import Enum

from events.errors import LogUnusable, Remedy

FORMAT_MIN = 1001  # in SQLite's user_version; formats of whole logs stay below


class WritingCommand(Enum):
    """The command that writes the log."""

    MIGRATE = "migrate"
    IMPORT = "import"
    SALVAGE = "salvage"

    @property
    def format(self) -> int:
        """The number in place of the format number."""
        return FORMAT_MIN + list(WritingCommand).index(self)


_REMEDIES = {
    WritingCommand.MIGRATE: Remedy.FINISH_MIGRATION,
    WritingCommand.IMPORT: Remedy.FINISH_IMPORT,
    WritingCommand.SALVAGE: Remedy.FINISH_SALVAGE,
}


class LogIncomplete(LogUnusable):
    """A command was interrupted while it wrote this log."""

    def __init__(self, place: object, command: WritingCommand) -> None:
        super().__init__(f"database {place} is not whole", remedy=_REMEDIES[command])
        self.command = command


def writing_command_of(format_number: int) -> WritingCommand | None:
    """The command that has not finished a log with this number; None for any other number."""
    return next((command for command in WritingCommand if command.format == format_number), None)
