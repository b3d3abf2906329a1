"""A desk whose words are kept, for commands that are called without a process of their own."""

from chatbot.cli.cli_context import CommandContext
from chatbot.cli.command_line import COMMANDS, parse
from chatbot.config.settings import Settings
from chatbot.llm.provider import Provider


class FakeConsole(CommandContext):
    """`said` is what would be on standard output, `noted` on standard error."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, self._refuse_model)
        self.said: list[str] = []
        self.noted: list[str] = []

    def print_result(self, text: str) -> None:
        self.said.append(text)

    def note(self, text: str) -> None:
        self.noted.append(text)

    @staticmethod
    def _refuse_model(url: str | None) -> Provider:
        raise AssertionError("no model is asked here")


async def run_in_process(console: FakeConsole, *arguments: str) -> int:
    """The exit code of a command of run.py, called in this process. Raises CommandFailed."""
    options = parse(list(arguments), "test")
    return await COMMANDS[options.command].run(console, options)
