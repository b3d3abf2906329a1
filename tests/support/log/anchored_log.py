"""A log with keys to anchor it, for commands that are run in the process of the test."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from chatbot.cli.exit_codes import CommandFailed
from chatbot.config.sections.database_settings import DatabaseSettings
from chatbot.config.settings import Settings
from events.integrity.signed_checkpoint import make_key
from events.storage.sqlite.sqlite_log import SqliteLog
from tests.support.fake_console import FakeConsole, run_in_process
from tests.support.log.sample_events import ASKED, posted


class AnchoredLog:
    """`key` and `key.pub` are in `folder`; `path` is the log that commands work on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "chatbot.db"
        self.key = folder / "key"
        self.public = folder / "key.pub"
        if not self.key.exists():
            signer, verifier = make_key("log")
            self.key.write_text(signer)
            self.public.write_text(verifier)

    def write(self, events: int, path: Path | None = None, text: str = "hello") -> None:
        """Append so many events to the log (or another file)."""

        async def append() -> None:
            log = await SqliteLog.open(path or self.path)
            version = len(await log.read("a", limit=10_000))
            await log.append("a", version, [posted(f"{text} {number}") for number in range(events)], ASKED)
            await log.close()

        asyncio.run(append())

    def run(self, *arguments: str) -> tuple[str, str]:
        """Standard output and error of a command that ends with 0."""
        console = self._console()
        assert asyncio.run(run_in_process(console, *arguments)) == 0
        return "\n".join(console.stdout_lines), "\n".join(console.stderr_lines)

    def refused(self, *arguments: str, code: int = 1) -> str:
        """Why."""
        with pytest.raises(CommandFailed) as refusal:
            asyncio.run(run_in_process(self._console(), *arguments))
        assert refusal.value.code == code, str(refusal.value)
        return str(refusal.value)

    def anchor(self, *targets: Path | str) -> list[dict[str, object]]:
        said, _ = self.run("anchor", "--key", str(self.key), *(part for one in targets for part in ("--to", str(one))))
        return [msgspec.json.decode(line) for line in said.splitlines()]

    def verify_arguments(self, *targets: Path | str) -> list[str]:
        return ["verify", *(part for one in targets for part in ("--anchors", str(one))), "--key", str(self.public)]

    def _console(self) -> FakeConsole:
        return FakeConsole(Settings(database=DatabaseSettings(url=str(self.path))))
