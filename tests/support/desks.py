"""A desk whose words are kept, for commands that are called without a process of their own."""

from chatbot.audit.desk import Desk
from chatbot.cli.commands import COMMANDS
from chatbot.cli.parser import parse
from chatbot.config.settings import Settings
from chatbot.llm.protocol import Provider


class Tray(Desk):
    """`said` is what would be on standard output, `noted` on standard error."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, self._no_model)
        self.said: list[str] = []
        self.noted: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def note(self, text: str) -> None:
        self.noted.append(text)

    @staticmethod
    def _no_model(url: str | None) -> Provider:
        raise AssertionError("no model is asked here")


async def commanded(tray: Tray, *arguments: str) -> int:
    """The exit code of a command of run.py, called in this process. Raises CommandFailed."""
    options = parse(list(arguments), "test")
    return await COMMANDS[options.command].run(tray, options)
