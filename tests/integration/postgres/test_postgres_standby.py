"""A hot standby: every command that only reads works on it, and a service on it is refused with the reason."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from chatbot.cli.command_line import COMMANDS, parse
from chatbot.config.sections.database_settings import DatabaseSettings
from chatbot.config.settings import Settings
from events.errors import LogUnusable
from events.factory import open_log
from events.options import LogOptions
from events.storage.postgres.postgres_log import PostgresLog
from events.transfer.migration import migrate, open_target
from tests.support.fake_console import FakeConsole
from tests.support.log.sample_events import ASKED, posted
from tests.support.log.sample_log import rows_of, write_sample_log
from tests.support.log.stores import SteppingClock
from tests.support.programs.postgres_server import PostgresServer, postgres_server

pytestmark = pytest.mark.real_part
PROJECTION = """
class Count:
    events = 0
    def apply(self, recorded):
        self.events += 1
    def result(self):
        return self.events
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the sample log."""
    path = tmp_path_factory.mktemp("told") / "chatbot.db"
    asyncio.run(write_sample_log(path))
    return path


@pytest.fixture(scope="module")
def url(postgres: PostgresServer, told: Path) -> Iterator[str]:
    """The sample log as a standby has it."""

    async def fill() -> str:
        url = await postgres.schema()
        log = await open_log(told, read_only=True)
        target = await open_target(url)
        await migrate(log, target, lambda _: None)
        await target.close()
        await log.close()
        return url

    url = asyncio.run(fill())
    with postgres_server(primary=postgres) as standby:
        yield url.replace(str(postgres.port), str(standby.port))


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("verify", "holds"),
        ("replay --session open", "words of m1"),
        ("diff --session open --from 0", "words of m1"),
        ("rebuild --projections {folder}/made.db", "events folded"),
        ("project {folder}/count.py", "{events}"),
        ("checkpoint --key {folder}/key", "digest"),
        ("prove --session open --checkpoint {folder}/checkpoint", "words of m1"),
        ("migrate --to {folder}/copy.db", "copied"),
    ],
)
async def test_commands_that_read_work_on_a_standby(
    url: str, told: Path, tmp_path: Path, command: str, says: str
) -> None:
    settings = replace(Settings(), database=DatabaseSettings(url=url))
    (tmp_path / "count.py").write_text(PROJECTION)
    events = len(await rows_of(told))

    async def run(line: str) -> FakeConsole:
        console = FakeConsole(settings)
        options = parse(line.format(folder=tmp_path).split(), "test")
        assert await COMMANDS[options.command].load().run(console, options) == 0
        return console

    if "key" in command or "checkpoint" in command:
        await run("keygen {folder}/key")
        (tmp_path / "checkpoint").write_text("\n".join((await run("checkpoint --key {folder}/key")).stdout_lines))
    said = "\n".join((await run(command)).stdout_lines)
    assert says.format(events=events) in said


async def test_an_export_of_a_standby_is_the_same_as_of_the_file(
    url: str, told: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    exports = []
    for place in (url, str(told)):
        console = FakeConsole(replace(Settings(), database=DatabaseSettings(url=place)))
        options = parse(["export"], "test")
        assert await COMMANDS["export"].load().run(console, options) == 0
        exports.append(capfdbinary.readouterr().out)
    assert exports[0] == exports[1]


async def test_a_service_on_a_standby_is_refused_with_the_reason(url: str) -> None:
    hasty = LogOptions(busy_timeout_s=0.2)
    for query in ("", "&target_session_attrs=any"):
        with pytest.raises(LogUnusable, match="it takes no writes"):
            await open_log(f"{url}{query}", hasty)


async def test_a_reader_on_a_standby_sees_what_comes_when_it_opens_the_log_again(
    url: str, postgres: PostgresServer
) -> None:
    before = await open_log(url, read_only=True)
    seen = before.head().position
    primary = url.rpartition("@")[0] + f"@127.0.0.1:{postgres.port}/" + url.rpartition("/")[2]
    log = await PostgresLog.open(primary, clock=SteppingClock())
    await log.append("later", 3, [posted("new")], ASKED)
    async with asyncio.timeout(20):
        while (head := await _head(url)) == seen:
            await asyncio.sleep(0.02)
    assert (head, before.head().position) == (seen + 1, seen)
    await before.close()
    await log.close()


async def _head(url: str) -> int:
    log = await open_log(url, read_only=True)
    try:
        return log.head().position
    finally:
        await log.close()
