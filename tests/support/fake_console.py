"""A command's context that records what is printed, for commands that are run in the process of the test."""

from chatbot.cli.cli_context import CommandContext
from chatbot.cli.command_line import COMMANDS, parse
from chatbot.config.settings import Settings
from chatbot.llm.provider import Provider
from chatbot.wiring import compose_offline
from events.factory import open_log


class FakeConsole(CommandContext):
    """Keeps what a command writes to standard output and standard error."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, self._refuse_model, open_log, compose_offline)
        self.stdout_lines: list[str] = []
        self.stderr_lines: list[str] = []

    def print_result(self, text: str) -> None:
        self.stdout_lines.append(text)

    def print_note(self, text: str) -> None:
        self.stderr_lines.append(text)

    @staticmethod
    def _refuse_model(url: str | None) -> Provider:
        raise AssertionError("no model is asked here")


async def run_in_process(console: FakeConsole, *arguments: str) -> int:
    """The exit code of a command of run.py, called in this process. Raises CommandFailed."""
    options = parse(list(arguments), "test")
    return await COMMANDS[options.command].load().run(console, options)
